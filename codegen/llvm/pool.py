"""The thread pool that compiled programs carry, as LLVM IR, and its declarations for code that calls it.

Owns what differs between platforms: constants of the C library, the processor's hint for spinning, and how a thread is
put to sleep. The algorithm and its invariants stand in `pool.ll`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llvmlite import ir

from onnxc.codegen.llvm.target import Target, TargetError

Parking = Literal["futex", "pthread"]


@dataclass(frozen=True)
class _Platform:
    """Numbers that the C headers of one operating system define."""

    parking: Parking
    clock_monotonic: int
    signal_bus: int
    signal_block: int
    signal_setmask: int


_LINUX = _Platform("futex", clock_monotonic=1, signal_bus=7, signal_block=0, signal_setmask=2)
_DARWIN = _Platform("pthread", clock_monotonic=6, signal_bus=10, signal_block=1, signal_setmask=3)

_FUTEX_CALL = {"x86_64": 202, "aarch64": 98}

# The x86 hint frees the core for its sibling thread; on Arm an instruction barrier waits about as long.
_RELAX = {"x86_64": ("llvm.x86.sse2.pause", "", ""), "aarch64": ("llvm.aarch64.isb", "i32", "i32 15")}


def pool_ir(target: Target, parking: Parking | None = None) -> str:
    """The pool as the text of one LLVM module for `target`; `parking` overrides the platform's way of sleeping.

    Defines `onnxc_pool_new`, `onnxc_pool_free`, `onnxc_pool_threads`, `onnxc_pool_abandon` and `onnxc_parallel_for`.
    Raises TargetError for an operating system without POSIX threads.
    """
    system = _platform(target)
    parking = parking or system.parking
    if parking == "futex" and system is not _LINUX:
        raise TargetError(f"target {target.name}: futexes exist on Linux only")
    folder = Path(__file__).parent
    texts = [(folder / name).read_text("utf-8") for name in ("pool.ll", f"pool_{parking}.ll")]
    return "\n".join([*texts, _constants(target, system), _relax(target)])


@dataclass(frozen=True)
class PoolFunctions:
    """The pool's functions as declared in one module, and the type of what `parallel_for` calls."""

    body: ir.FunctionType
    new: ir.Function
    free: ir.Function
    threads: ir.Function
    abandon: ir.Function
    parallel_for: ir.Function


def declare_pool(module: ir.Module) -> PoolFunctions:
    """Declares the pool's functions in `module`, once; `Target.compile(module, linked=[pool_ir(target)])` joins them.

    `body` is the type of what `parallel_for` calls: void (ptr arg, i64 begin, i64 end, i64 thread).
    """
    pointer, index, nothing = ir.PointerType(), ir.IntType(64), ir.VoidType()
    signatures = {
        "onnxc_pool_new": ir.FunctionType(pointer, [index, index]),
        "onnxc_pool_free": ir.FunctionType(nothing, [pointer]),
        "onnxc_pool_threads": ir.FunctionType(index, [pointer]),
        "onnxc_pool_abandon": ir.FunctionType(nothing, [pointer]),
        "onnxc_parallel_for": ir.FunctionType(nothing, [pointer, pointer, pointer, index, index, pointer]),
    }
    declared = [module.globals.get(name) or ir.Function(module, signature, name)
                for name, signature in signatures.items()]
    return PoolFunctions(ir.FunctionType(nothing, [pointer, index, index, index]), *declared)


def _platform(target: Target) -> _Platform:
    if "-linux" in target.triple:
        return _LINUX
    if "-darwin" in target.triple or "-macosx" in target.triple:
        return _DARWIN
    raise TargetError(f"target {target.name}: the thread pool needs POSIX threads (Linux or macOS)")


def _constants(target: Target, system: _Platform) -> str:
    lines = [
        f"@clock.monotonic = internal constant i32 {system.clock_monotonic}",
        f"@signal.bus = internal constant i32 {system.signal_bus}",
        f"@signal.block = internal constant i32 {system.signal_block}",
        f"@signal.setmask = internal constant i32 {system.signal_setmask}",
        f"@futex.syscall = internal constant i64 {_FUTEX_CALL[target.arch]}",
    ]
    return "\n".join(lines) + "\n"


def _relax(target: Target) -> str:
    name, parameters, arguments = _RELAX[target.arch]
    return (f"declare void @{name}({parameters}) nounwind\n"
            f"define internal void @relax() nounwind {{\n  call void @{name}({arguments})\n  ret void\n}}\n")
