"""One kernel's generated code as text, for reading."""

from __future__ import annotations

from llvmlite import ir

from onnxc.codegen.llvm.emit import emit_kernel
from onnxc.codegen.llvm.target import Target
from onnxc.ir.core import Func

__all__ = ["kernel_listing"]


def kernel_listing(func: Func, target: str, assembly: bool = False) -> str:
    """The kernel compiled alone for the target named `target`: optimised LLVM IR, or assembly."""
    machine = Target.parse(target)
    module = ir.Module(func.name)
    errors: list[str] = []

    def error(message: str) -> int:
        errors.append(message)
        return len(errors) - 1

    emit_kernel(module, func, machine, error).function.linkage = ""     # nothing calls it here
    return machine.assembly(module) if assembly else machine.optimized_ir(module)
