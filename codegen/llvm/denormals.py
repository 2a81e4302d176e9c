"""Kernels that take denormal numbers for zero and give zero for them, whatever their thread does otherwise.

The mode is the processor's, a register of each thread. A kernel sets it for as long as it runs and puts it back.
"""

from __future__ import annotations

from llvmlite import ir

from onnxc.codegen.llvm import abi
from onnxc.codegen.llvm.intrinsics import intrinsic
from onnxc.codegen.llvm.target import Target, TargetError

__all__ = ["flushing"]

_FLUSH = {"x86_64": 0x8040, "aarch64": 1 << 24}     # MXCSR: FTZ and DAZ; FPCR: FZ


def flushing(kernel: ir.Function, target: Target) -> ir.Function:
    """A function of a kernel's type that runs `kernel` in that mode. Raises TargetError for unknown processors."""
    if target.arch not in _FLUSH:
        raise TargetError(f"target {target.name}: denormals cannot be set to zero here")
    # Inlined, its arithmetic could move to where the mode is another: LLVM does not know what depends on it.
    kernel.attributes.add("noinline")
    function = ir.Function(kernel.module, abi.KERNEL_TYPE, f"{kernel.name}.flushing")
    function.linkage = "internal"
    b = ir.IRBuilder(function.append_basic_block("entry"))
    before = _mode(b, target)
    _set_mode(b, target, b.or_(before, ir.Constant(before.type, _FLUSH[target.arch])))
    b.call(kernel, function.args)
    _set_mode(b, target, before)
    b.ret_void()
    return function


def _mode(b: ir.IRBuilder, target: Target) -> ir.Value:
    if target.arch == "aarch64":
        return b.call(intrinsic(b.module, "llvm.aarch64.get.fpcr", [], abi.I64, []), [])
    word = b.alloca(abi.I32)
    word.type = abi.PTR
    b.call(intrinsic(b.module, "llvm.x86.sse.stmxcsr", [], abi.VOID, [abi.PTR]), [word])
    return b.load(word, typ=abi.I32)


def _set_mode(b: ir.IRBuilder, target: Target, mode: ir.Value) -> None:
    if target.arch == "aarch64":
        b.call(intrinsic(b.module, "llvm.aarch64.set.fpcr", [], abi.VOID, [abi.I64]), [mode])
        return
    word = b.alloca(abi.I32)
    word.type = abi.PTR
    b.store(mode, word)
    b.call(intrinsic(b.module, "llvm.x86.sse.ldmxcsr", [], abi.VOID, [abi.PTR]), [word])
