"""What a parallel loop costs: fork-join of an empty body, and of two chunks against one, with workers awake and asleep.

    python -m benchmarks.pool
"""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable

from onnxc.codegen.llvm.pool import pool_ir
from onnxc.codegen.llvm.target import Target
from onnxc.runtime.loader import NativeModule
from onnxc.runtime.threads import ThreadPool, default_threads

# @busy counts to the number that its argument is, in every chunk; @repeat launches a body many times.
BODIES = """
declare void @onnxc_parallel_for(ptr, ptr, ptr, i64, i64, ptr)

define void @empty(ptr %arg, i64 %begin, i64 %end, i64 %thread) {
  ret void
}

define void @busy(ptr %arg, i64 %begin, i64 %end, i64 %thread) {
  %steps = ptrtoint ptr %arg to i64
  br label %each
each:
  %i = phi i64 [ 0, %0 ], [ %next, %each ]
  %next = add i64 %i, 1
  call void asm sideeffect "", ""()
  %more = icmp slt i64 %next, %steps
  br i1 %more, label %each, label %done
done:
  ret void
}

define void @repeat(ptr %pool, ptr %body, ptr %arg, i64 %chunks, i64 %times) {
  br label %each
each:
  %i = phi i64 [ 0, %0 ], [ %next, %each ]
  call void @onnxc_parallel_for(ptr %pool, ptr %body, ptr %arg, i64 %chunks, i64 1, ptr null)
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %times
  br i1 %more, label %each, label %done
done:
  ret void
}
"""


def seconds(work: Callable[[], object], times: int, samples: int = 15) -> tuple[float, float]:
    """(best, median) seconds of one of the `times` repetitions that `work` does."""
    taken = []
    for _ in range(samples):
        begun = time.perf_counter()
        work()
        taken.append((time.perf_counter() - begun) / times)
    return min(taken), statistics.median(taken)


def main() -> None:
    """Prints the table for the host; other load on the machine shows in the medians."""
    target = Target.host()
    pointer, word = ctypes.c_void_p, ctypes.c_int64
    module = NativeModule(target.compile(BODIES, linked=[pool_ir(target)]))
    repeat = module.function("repeat", None, pointer, pointer, pointer, word, word)
    empty, busy = module.address("empty"), module.address("busy")
    print(f"{target.name}, {default_threads()} processors; microseconds a launch, best / median")
    for threads in sorted({1, 2, default_threads()}):
        with ThreadPool(module, threads) as pool, ThreadPool(module, threads, spin_ns=0) as sleepy:
            for chunks in (2, 16):
                report(threads, f"empty, {chunks} chunks", *seconds(
                    lambda pool=pool, n=chunks: repeat(pool.pointer, empty, None, n, 20_000), 20_000))
            for steps in (1_000, 10_000, 100_000):
                report(threads, f"one chunk of {steps} steps", *seconds(
                    lambda pool=pool, n=steps: repeat(pool.pointer, busy, n, 1, 100), 100))
                report(threads, f"two chunks of {steps} steps", *seconds(
                    lambda pool=pool, n=steps: repeat(pool.pointer, busy, n, 2, 100), 100))
            report(threads, "two chunks of 100000 steps, asleep", *seconds(
                lambda pool=sleepy: repeat(pool.pointer, busy, 100_000, 2, 20), 20))


def report(threads: int, what: str, best: float, median: float) -> None:
    print(f"{threads:3} threads  {what:36} {best * 1e6:9.2f} / {median * 1e6:9.2f}")


if __name__ == "__main__":
    main()
