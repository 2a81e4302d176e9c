"""Measures generated contractions on one core, with bias and relu as epilogue, against that core's FMA peak.

    python benchmarks/contraction.py [--target host --target x86-64-v3] [--seconds 0.4] [--case conv]

Extents are run-time parameters of the two kernels measured, a matrix product and a 2-D convolution, as they are in a
compiled model with dynamic shapes. Peak and case alternate, so that a machine that slows down slows both.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from llvmlite import ir
from peak import peak_kernel

from onnxc.codegen.llvm.contract_epilogue import sweep
from onnxc.codegen.llvm.contract_loops import Block, Blocking, Holes, Job, contraction
from onnxc.codegen.llvm.contract_operands import MatrixRows, WindowAxis, WindowRows, packed_panels
from onnxc.codegen.llvm.loops import I64
from onnxc.codegen.llvm.microkernel import I8, POINTER
from onnxc.codegen.llvm.pack import filter_operand, matrix_operand, pack_panels
from onnxc.codegen.llvm.target import Target
from onnxc.codegen.llvm.tiles import blocking_for
from onnxc.runtime.loader import NativeModule

ITEM = 4
I32 = ir.IntType(32)


@dataclass(frozen=True)
class Gemm:
    """[m, k] times [k, n]."""

    m: int
    n: int
    k: int

    @property
    def name(self) -> str:
        return f"gemm {self.m}x{self.n}x{self.k}"

    @property
    def operations(self) -> float:
        return 2.0 * self.m * self.n * self.k


@dataclass(frozen=True)
class Conv:
    """A square convolution of one image to n channels, stride 1, same padding."""

    side: int
    channels: int
    n: int
    window: int

    @property
    def name(self) -> str:
        return f"conv {self.side}x{self.side}x{self.channels}->{self.n} {self.window}x{self.window}"

    @property
    def operations(self) -> float:
        return 2.0 * self.side**2 * self.channels * self.n * self.window**2


CASES: list[Gemm | Conv] = [
    Gemm(1024, 1024, 1024),
    Conv(56, 64, 256, 1),
    Conv(14, 1024, 256, 1),
    Conv(56, 64, 64, 3),
    Conv(28, 128, 128, 3),
    Conv(14, 256, 256, 3),
    Conv(7, 512, 512, 3),
    Gemm(128, 768, 768),
    Gemm(128, 3072, 768),
    Gemm(1, 1024, 1024),
    Gemm(1, 4096, 4096),
    Gemm(4096, 2, 256),
    Gemm(1024, 1024, 1),
    Gemm(7, 1000, 2048),
]


def bias_relu(blocking: Blocking, bias: ir.Value, out: ir.Value, n: ir.Value) -> Callable[[ir.IRBuilder, Block], None]:
    """The epilogue out[m, n] = max(tile + bias[n], 0)."""
    vector = blocking.tile.vector_type

    def consume(b: ir.IRBuilder, m: ir.Value, c: ir.Value, value: ir.Value, mask: ir.Value | None) -> None:
        source = b.gep(bias, [b.mul(c, I64(ITEM))], source_etype=I8)
        place = b.gep(out, [b.mul(b.add(b.mul(m, n), c), I64(ITEM))], source_etype=I8)
        zero = ir.Constant(vector, None)
        total = b.fadd(value, _load(b, vector, source, mask))
        _store(b, b.select(b.fcmp_unordered("<", total, zero), zero, total), place, mask)

    return lambda builder, block: sweep(builder, blocking, block, consume)


def _load(b: ir.IRBuilder, vector: ir.VectorType, pointer: ir.Value, mask: ir.Value | None) -> ir.Value:
    if mask is None:
        return b.load(pointer, typ=vector, align=ITEM)
    signature = ir.FunctionType(vector, [POINTER, I32, mask.type, vector])
    function = _intrinsic(b.module, f"llvm.masked.load.v{vector.count}f32.p0", signature)
    return b.call(function, [pointer, I32(ITEM), mask, ir.Constant(vector, None)])


def _store(b: ir.IRBuilder, value: ir.Value, pointer: ir.Value, mask: ir.Value | None) -> None:
    if mask is None:
        b.store(value, pointer, align=ITEM)
        return
    signature = ir.FunctionType(ir.VoidType(), [value.type, POINTER, I32, mask.type])
    function = _intrinsic(b.module, f"llvm.masked.store.v{value.type.count}f32.p0", signature)
    b.call(function, [value, pointer, I32(ITEM), mask])


def _intrinsic(module: ir.Module, name: str, signature: ir.FunctionType) -> ir.Function:
    return module.globals.get(name) or ir.Function(module, signature, name)


def kernels(blocking: Blocking, window: int = 3) -> ir.Module:
    """Two functions: `gemm(a, b, bias, out, scratch, m, n, k)` and
    `conv(a, b, bias, out, scratch, zeros, side, filters, channels)`."""
    module = ir.Module("contraction")
    signature = ir.FunctionType(ir.VoidType(), [POINTER] * 5 + [I64] * 3)
    function = ir.Function(module, signature, "gemm")
    a, b, bias, out, scratch, m, n, k = function.args
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    rows = MatrixRows(a, builder.mul(k, I64(ITEM)))
    holes = Holes(rows.row, rows.row_pointer, packed_panels(blocking, b, 1, k), bias_relu(blocking, bias, out, n))
    contraction(builder, blocking, Job(0, m, 0, n, 1, k), holes, scratch)
    builder.ret_void()

    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER] * 6 + [I64] * 3), "conv")
    a, b, bias, out, scratch, zeros, side, n, k = function.args
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    pixel = builder.mul(k, I64(ITEM))
    line = builder.mul(pixel, side)
    axes = tuple(WindowAxis(side, side, window, 1, 1, window // 2, stride) for stride in (line, pixel))
    windows = WindowRows(a, zeros, builder.mul(line, side), axes)
    panels = packed_panels(blocking, b, window**2, k)
    holes = Holes(windows.row, windows.row_pointer, panels, bias_relu(blocking, bias, out, n))
    job = Job(0, builder.mul(side, side), 0, n, window**2, k)
    contraction(builder, blocking, job, holes, scratch)
    builder.ret_void()
    return module


def runner(target: Target, blocking: Blocking, case: Gemm | Conv) -> Callable[[], None]:
    """Compile the case's kernel, bind operands, check the result once, and return the call."""
    generator = np.random.default_rng(0)
    if isinstance(case, Gemm):
        m, n, k, window = case.m, case.n, case.k, 1
        operand = matrix_operand(generator.standard_normal((k, n), np.float32))
    else:
        m, n, k, window = case.side**2, case.n, case.channels, case.window
        operand = filter_operand(generator.standard_normal((n, k, window, window), np.float32))
    left = generator.standard_normal((m, k), np.float32)
    bias = generator.standard_normal(n, np.float32)
    out = np.empty((m, n), np.float32)
    packed = pack_panels(operand, blocking.columns, blocking.tile.lanes)
    scratch = np.empty(blocking.scratch_bytes(window**2) + 64, np.uint8)
    zeros = np.zeros(k, np.float32)
    aligned = scratch.ctypes.data + -scratch.ctypes.data % 64
    code = NativeModule(target.compile(kernels(blocking, window)))
    pointers = [*(array.ctypes.data for array in (left, packed, bias, out)), aligned]
    if isinstance(case, Gemm):
        call = code.function("gemm", None, *[ctypes.c_void_p] * 5, *[ctypes.c_int64] * 3)
        arguments = [*pointers, m, n, k]
        expected = left.astype(np.float64) @ operand[0]
    else:
        call = code.function("conv", None, *[ctypes.c_void_p] * 6, *[ctypes.c_int64] * 3)
        arguments = [*pointers, zeros.ctypes.data, case.side, n, k]
        expected = _convolution(left.reshape(case.side, case.side, k), operand, window).reshape(m, n)
    operands = (left, packed, bias, out, scratch, zeros)

    def run(_: object = operands) -> None:  # holds the memory that the addresses point to
        call(*arguments)

    run()
    error = np.abs(out - np.maximum(expected + bias, 0)).max() / np.sqrt(k * window**2)
    if not error < 1e-4:  # roundings add up to less, and one wrong operand to about one
        raise SystemExit(f"{case.name} on {target.name}: wrong result, error {error:.2e} of the sum's scale")
    return run


def _convolution(image: np.ndarray, operand: np.ndarray, window: int) -> np.ndarray:
    side, half = image.shape[0], window // 2
    padded = np.pad(image.astype(np.float64), ((half, half), (half, half), (0, 0)))
    taps = [(y, x) for y in range(window) for x in range(window)]
    return sum(padded[y : y + side, x : x + side] @ operand[t] for t, (y, x) in enumerate(taps))


def measure(
    run: Callable[[], None], peak: Callable[[], float], operations: float, seconds: float
) -> tuple[float, float, float]:
    """(best, median) operations per second of `run`, and the best of the peak measured in between."""
    start = time.perf_counter()
    run()
    repeats = max(1, int(0.01 / max(time.perf_counter() - start, 1e-7)))
    rates: list[float] = []
    peaks: list[float] = []
    while time.perf_counter() - start < seconds or len(rates) < 3:
        peaks.append(peak())
        begin = time.perf_counter()
        for _ in range(repeats):
            run()
        rates.append(operations * repeats / (time.perf_counter() - begin))
    return max(rates), statistics.median(rates), max(peaks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", action="append", help="host, x86-64-v3 ...; may be repeated")
    parser.add_argument("--seconds", type=float, default=0.4, help="time spent on a case")
    parser.add_argument("--case", default="", help="run only the cases whose name contains this")
    options = parser.parse_args()
    for name in options.target or ["host", "x86-64-v3"]:
        target = Target.parse(name)
        peak = peak_kernel(target, "f32")
        print(f"{target.name}")
        print(f"{'case':32}{'tile':>8}{'best':>9}{'median':>9}{'peak':>9}{'share':>8}   (GFLOP/s)")
        for case in CASES:
            if options.case not in case.name:
                continue
            blocking = blocking_for(target, "f32", n=case.n)
            run = runner(target, blocking, case)
            best, median, ceiling = (rate / 1e9 for rate in measure(run, peak, case.operations, options.seconds))
            tile = f"{blocking.tile.rows}x{blocking.columns}"
            print(f"{case.name:32}{tile:>8}{best:>9.1f}{median:>9.1f}{ceiling:>9.1f}{best / ceiling:>8.0%}", flush=True)


if __name__ == "__main__":
    main()
