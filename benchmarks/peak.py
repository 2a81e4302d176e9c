"""Measures the floating-point peak of one core: a generated loop of FMAs that touches registers only.

    python benchmarks/peak.py [--target host] [--dtype f32] [--repeats 15]

Prints GFLOP/s (an FMA is two operations), best and median: the ceiling that `contraction.py` reports shares of.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable

from llvmlite import ir

from onnxc.codegen.llvm.loops import I64, counted_loop
from onnxc.codegen.llvm.microkernel import ACCUMULATORS, ITEM_BYTES, multiply_add
from onnxc.codegen.llvm.target import Target
from onnxc.runtime.loader import NativeModule

ITERATIONS = 400_000


def peak_kernel(target: Target, dtype: str) -> Callable[[], float]:
    """A function that runs the loop once and returns the operations per second that it reached.

    The chains are as many as registers allow, three kept free: more than latency times issue width on every core
    that the targets name, so that the units and not the dependences bound the loop.
    """
    chains = target.vector_registers - 3
    lanes = target.vector_bytes // ITEM_BYTES[dtype]
    vector = ir.VectorType(ACCUMULATORS[dtype], lanes)
    pointer = ir.PointerType()
    module = ir.Module("peak")
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64, pointer, pointer]), "peak")
    count, factors, out = function.args
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    scale = builder.load(factors, typ=vector, align=4)
    shift = builder.load(builder.gep(factors, [I64(1)], source_etype=vector), typ=vector, align=4)
    starts = [ir.Constant(vector, [float(i)] * lanes) for i in range(chains)]

    def body(b: ir.IRBuilder, _: ir.Value, values: list[ir.Value]) -> list[ir.Value]:
        return [multiply_add(b, value, scale, shift) for value in values]

    for i, value in enumerate(counted_loop(builder, "i", 0, count, 1, starts, body)):
        builder.store(value, builder.gep(out, [I64(i)], source_etype=vector), align=4)
    builder.ret_void()

    run = NativeModule(target.compile(module)).function("peak", None, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)
    item = {"f32": ctypes.c_float, "f64": ctypes.c_double}[dtype]
    values = (item * (2 * lanes))(*[1.0] * lanes, *[0.0] * lanes)
    results = (item * (chains * lanes))()
    operations = 2.0 * lanes * chains * ITERATIONS

    def measure() -> float:
        start = time.perf_counter()
        run(ITERATIONS, ctypes.addressof(values), ctypes.addressof(results))
        elapsed = time.perf_counter() - start
        return operations / elapsed

    return measure


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
