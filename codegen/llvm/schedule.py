"""The pass `schedule`: says for every kernel of a program how it runs on a CPU target."""

from __future__ import annotations

from collections.abc import Callable

from onnxc.codegen.llvm.attend import prepare_attention
from onnxc.codegen.llvm.contract import prepare_contraction
from onnxc.codegen.llvm.prepare import is_attention, is_contraction, prepare_kernel
from onnxc.codegen.llvm.target import Target
from onnxc.codegen.schedule import Choose, first
from onnxc.ir.core import Func, Module, Op, Ref

__all__ = ["constant_arguments", "schedule"]

Chooser = Callable[[Func, frozenset[int]], Choose]
"""How the schedule of a kernel is chosen, whose arguments at these positions are constants."""


def schedule(module: Module, target: Target, chooser: Chooser = lambda func, constant: first) -> None:
    """Replaces every kernel of the module by its prepared form; kernels that have a schedule stay as they are."""
    found = constant_arguments(module)
    for name, func in module.funcs.items():
        if func.kind != "kernel":
            continue
        constant = found.get(name, frozenset())
        choose = chooser(func, constant)
        module.funcs[name] = (
            prepare_contraction(func, target, constant, choose)
            if is_contraction(func)
            else prepare_attention(func, target)
            if is_attention(func)
            else prepare_kernel(func, target, choose)
        )


def constant_arguments(module: Module) -> dict[str, frozenset[int]]:
    """For each kernel, the positions of the arguments that are constants at all of its launches."""
    found: dict[str, frozenset[int]] = {}
    for op in module.main.walk():
        if op.name == "p.launch":
            here = frozenset(i for i, v in enumerate(op.inputs) if _is_constant(v.op))
            kernel = op.attrs["kernel"]
            name = kernel.name if isinstance(kernel, Ref) else str(kernel)
            found[name] = found[name] & here if name in found else here
    return found


def _is_constant(op: Op | None) -> bool:
    while op is not None and op.name == "p.view":
        op = op.operand(0).op
    return op is not None and op.name == "p.const"
