"""Measures the floating-point peak of one core: a generated loop of FMAs that touches registers only.

    python -m benchmarks.peak [--target host] [--dtype f32] [--repeats 15]

Prints GFLOP/s (an FMA is two operations), best and median: the ceiling that `contraction.py` reports shares of.
"""

from __future__ import annotations

import argparse
import statistics

from onnxc.bench.machine import fma_peak as peak_kernel
from onnxc.codegen.llvm.target import Target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="host", help="host, x86-64-v3, x86-64-v4 ...")
    parser.add_argument("--dtype", default="f32", choices=["f32", "f64"])
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    target = Target.parse(options.target)
    measure = peak_kernel(target, options.dtype)
    measure()
    rates = [measure() / 1e9 for _ in range(options.repeats)]
    print(f"{options.dtype} FMA peak of one core, {target.vector_bytes * 8}-bit vectors, {target.name}: "
          f"best {max(rates):.1f}, median {statistics.median(rates):.1f} GFLOP/s")


if __name__ == "__main__":
    main()
