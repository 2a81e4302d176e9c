"""What this machine can do at best, measured: multiply-adds in registers, and bytes from memory of a given size.

The loops are generated, as kernels are, for the target that kernels are compiled for. Rates are those of all threads
together; each figure is the best of a few repetitions.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from onnxc.codegen.llvm.target import Target
from onnxc.errors import InvalidArgument
from onnxc.runtime.loader import NativeModule
from onnxc.runtime.memory import aligned

__all__ = ["Limits", "fma_peak", "has_byte_products", "measure_limits", "memory_rate"]

_STEPS = 200_000            # turns of the peak's loop: a few milliseconds
_SECONDS = 0.06             # that a bandwidth is measured for
_SMALLEST, _LARGEST = 1 << 15, 1 << 28
_LINES = 8                  # vectors that the reading loop takes at once
_BLOCK = 64 * _LINES * 2    # bytes; two, so that half of a block can be copied to the other

_LOOP = """
define void @onnxc_loop(i64 %count, ptr %from, ptr %to) {{
entry:
  %scale = load {vector}, ptr %from, align 4
  %next = getelementptr {vector}, ptr %from, i64 1
  %shift = load {vector}, ptr %next, align 4
  br label %turn
turn:
  %i = phi i64 [ 0, %entry ], [ %more, %turn ]
{phis}
{body}
  %more = add i64 %i, {step}
  %goes = icmp slt i64 %more, %count
  br i1 %goes, label %turn, label %done
done:
{stores}
  ret void
}}
"""


@dataclasses.dataclass(frozen=True)
class Limits:
    """Operations a second by element type ("f32", "f64", "i8": products of bytes summed in i32), bytes a second, the
    `footprint` in bytes over which those were read, and how many threads did it."""

    operations: dict[str, float]
    bandwidth: float
    footprint: int
    threads: int

    def seconds(self, operations: float, nbytes: float, dtype: str) -> tuple[float, str]:
        """The least time that this work takes here, and what sets it: "compute" or "memory"."""
        compute = operations / self.operations.get(dtype, self.operations["f32"])
        memory = nbytes / self.bandwidth
        return (compute, "compute") if compute > memory else (memory, "memory")


def measure_limits(dtypes: Sequence[str], footprint: int, threads: int) -> Limits:
    """The peaks for these element types, and the bandwidth over memory as large as what one run touches, because a run
    finds in the caches only what fits there beside everything else that it touches."""
    target = Target.host()
    wanted = dict.fromkeys(["f32", *dtypes])
    rates = {d: max(_repeated(fma_peak(target, d, threads), 20)) for d in wanted if d != "i8"
             or has_byte_products(target)}
    size = min(max(footprint, _SMALLEST), _LARGEST)
    return Limits(rates, memory_rate(target, size, threads), size, threads)


def _repeated(measure: Callable[[], float], times: int) -> list[float]:
    return [measure() for _ in range(times)]


# ---- operations ------------------------------------------------------------------------------------------------------

def has_byte_products(target: Target) -> bool:
    """Whether the target sums products of bytes with one instruction, which then sets the limit for them."""
    return _dot_bits(target) > 0


def _dot_bits(target: Target) -> int:
    if target.features >= {"avx512vnni", "avx512vl"}:
        return target.vector_bytes * 8
    return 256 if "avxvnni" in target.features else 0


def fma_peak(target: Target, dtype: str, threads: int = 1) -> Callable[[], float]:
    """A function that runs a loop of multiply-adds once in each of `threads` threads, and returns the operations a
    second that they reached; a multiply-add is two. `dtype` is f32, f64 or i8.

    The chains are as many as registers allow, three kept free: more than latency times issue width on every core
    that the targets name, so that the units and not the dependences bound the loop.
    """
    chains = target.vector_registers - 3
    if dtype == "i8":
        lanes, element, operations = _dot_bits(target) // 32, "i32", 8
        if not lanes:
            raise InvalidArgument(f"{target.name} has no instruction that sums products of bytes")
    elif dtype in ("f32", "f64"):
        lanes, operations = target.lanes(int(dtype[1:])), 2
        element = "float" if dtype == "f32" else "double"
    else:
        raise InvalidArgument(f"there is no peak for {dtype}; there is one for f32, f64 and i8")
    vector = f"<{lanes} x {element}>"
    text = _peak_text(vector, lanes, element, chains)
    run = NativeModule(target.compile(text)).function("onnxc_loop", None, ctypes.c_int64, *[ctypes.c_void_p] * 2)
    factors = np.zeros(2 * lanes * 8, np.uint8)
    sums = [np.zeros(chains * lanes * 8, np.uint8) for _ in range(threads)]

    def work(results: np.ndarray) -> None:
        run(_STEPS, factors.ctypes.data, results.ctypes.data)

    jobs = [functools.partial(work, results) for results in sums]
    total = float(operations * lanes * chains * _STEPS * threads)

    def measure() -> float:
        return total / _together(jobs)

    return measure


def _peak_text(vector: str, lanes: int, element: str, chains: int) -> str:
    numbers = range(chains)
    if element == "i32":
        name = f"llvm.x86.avx512.vpdpbusd.{lanes * 32}"
        # The operands are the groups of bytes themselves.
        grouped = f"<{lanes * 4} x i8>"
        body = [f"  %l{i} = bitcast {vector} %scale to {grouped}\n  %r{i} = bitcast {vector} %shift to {grouped}\n"
                f"  %n{i} = call {vector} @{name}({vector} %v{i}, {grouped} %l{i}, {grouped} %r{i})" for i in numbers]
        declared = f"declare {vector} @{name}({vector}, {grouped}, {grouped})"
    else:
        name = f"llvm.fma.v{lanes}f{32 if element == 'float' else 64}"
        body = [f"  %n{i} = call {vector} @{name}({vector} %v{i}, {vector} %scale, {vector} %shift)" for i in numbers]
        declared = f"declare {vector} @{name}({vector}, {vector}, {vector})"
    return _loop(vector, chains, 1, body) + declared


def _loop(vector: str, chains: int, step: int, body: Sequence[str]) -> str:
    """The loop with `chains` vectors %v carried on as %n, which end in memory."""
    phis = [f"  %v{i} = phi {vector} [ zeroinitializer, %entry ], [ %n{i}, %turn ]" for i in range(chains)]
    stores = [f"  %p{i} = getelementptr {vector}, ptr %to, i64 {i}\n  store {vector} %n{i}, ptr %p{i}, align 4"
              for i in range(chains)]
    return _LOOP.format(vector=vector, step=step, phis="\n".join(phis), body="\n".join(body), stores="\n".join(stores))


# ---- memory ----------------------------------------------------------------------------------------------------------

def memory_rate(target: Target, nbytes: int, threads: int) -> float:
    """Bytes a second that `threads` threads read from `nbytes` of memory, each from its own part, over and over; or
    read and write in copying one half of it to the other, if that is more."""
    parts = [aligned(max(nbytes // threads // _BLOCK * _BLOCK, _BLOCK), 64, "measuring bandwidth")
             for _ in range(threads)]
    for part in parts:
        part[:] = 0
    read = _reading(target)
    sums = [np.zeros(_LINES * 64, np.uint8) for _ in parts]

    def take_in(part: np.ndarray, results: np.ndarray) -> None:
        read(part.nbytes // 64, part.ctypes.data, results.ctypes.data)

    reads = [functools.partial(take_in, part, results) for part, results in zip(parts, sums, strict=True)]
    copies = [functools.partial(np.copyto, p[:p.nbytes // 2], p[p.nbytes // 2:]) for p in parts]
    total = sum(p.nbytes for p in parts)
    return max(_best_rate(reads, total), _best_rate(copies, total))


def _best_rate(work: Sequence[Callable[[], object]], nbytes: int) -> float:
    """Repeats inside of a thread until a repetition takes long enough for its start not to count."""
    once = _together(work)
    repeats = max(1, int(_SECONDS / 6 / max(once, 1e-7)))

    def many(one: Callable[[], object]) -> None:
        for _ in range(repeats):
            one()

    jobs = [functools.partial(many, one) for one in work]
    return max(nbytes * repeats / _together(jobs) for _ in range(6))


@functools.cache
def _reading(target: Target) -> Callable[..., None]:
    """void (i64 lines of 64 bytes, ptr from, ptr sums): reads whole blocks of lines."""
    vector = "<16 x i32>"
    body = [f"  %j{k} = add i64 %i, {k}\n  %a{k} = getelementptr {vector}, ptr %from, i64 %j{k}\n"
            f"  %x{k} = load {vector}, ptr %a{k}, align 64\n  %n{k} = add {vector} %v{k}, %x{k}" for k in range(_LINES)]
    module = NativeModule(target.compile(_loop(vector, _LINES, _LINES, body)))
    return module.function("onnxc_loop", None, ctypes.c_int64, *[ctypes.c_void_p] * 2)


def _together(work: Sequence[Callable[[], object]]) -> float:
    """Seconds in which all of `work` gets done, each in a thread of its own; native code runs without the GIL."""
    if len(work) == 1:
        start = time.perf_counter()
        work[0]()
        return time.perf_counter() - start
    with ThreadPoolExecutor(len(work)) as threads:
        list(threads.map(lambda _: None, work))     # the threads exist
        start = time.perf_counter()
        for done in [threads.submit(one) for one in work]:
            done.result()
        return time.perf_counter() - start
