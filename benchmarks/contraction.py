"""Measures generated contractions on one core, with bias and relu as epilogue, against that core's FMA peak.

    python benchmarks/contraction.py [--target host --target x86-64-v3] [--seconds 0.4] [--case conv]
        [--section compiled]

Section "compiled": each case as a k.contract kernel of a program, through the whole backend. Section "engine": the
engine's loops alone, with extents that are known at run time only, which shows what the backend adds. Peak and case
alternate, so that a machine that slows down slows both.
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
from onnxc.codegen.llvm.prepack import pack
from onnxc.codegen.llvm.program import emit_program
from onnxc.codegen.llvm.schedule import schedule
from onnxc.codegen.llvm.target import Target
from onnxc.codegen.llvm.tiles import blocking_for
from onnxc.codegen.schedule import Schedule
from onnxc.ir.core import Func, Module, Op, Ref
from onnxc.ir.parser import parse_func
from onnxc.ops import load_all
from onnxc.passes.plan_memory import plan_memory
from onnxc.runtime.loader import NativeModule

load_all()
ITEM = 4
Runner = tuple[Callable[[], None], str]
"""The call to measure, and the tile it runs on."""
I32 = ir.IntType(32)


@dataclass(frozen=True)
class Gemm:
    """[m, k] times [k, n]."""

    m: int
    n: int
    k: int
    window = 1

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


def engine_runner(target: Target, case: Gemm | Conv) -> Runner:
    """The engine alone: its loops with holes filled by hand, extents known at run time only."""
    blocking = blocking_for(target, "f32", n=case.n)
    left, operand, bias, out = operands_of(case)
    packed = pack_panels(operand, blocking.columns, blocking.tile.lanes)
    scratch = np.empty(blocking.scratch_bytes(len(operand)) + 64, np.uint8)
    zeros = np.zeros(left.shape[-1], np.float32)
    aligned = scratch.ctypes.data + -scratch.ctypes.data % 64
    code = NativeModule(target.compile(kernels(blocking, case.window)))
    pointers = [*(array.ctypes.data for array in (left, packed, bias, out)), aligned]
    if isinstance(case, Gemm):
        call = code.function("gemm", None, *[ctypes.c_void_p] * 5, *[ctypes.c_int64] * 3)
        arguments = [*pointers, case.m, case.n, case.k]
    else:
        call = code.function("conv", None, *[ctypes.c_void_p] * 6, *[ctypes.c_int64] * 3)
        arguments = [*pointers, zeros.ctypes.data, case.side, case.n, case.channels]
    held = (left, packed, bias, out, scratch, zeros)

    def run(_: object = held) -> None:  # holds the memory that the addresses point to
        call(*arguments)

    run()
    check(case, target, left, operand, bias, out)
    return run, f"{blocking.tile.rows}x{blocking.columns}"


GEMM = """
func @gemm(%a: mem<f32[{m}, {k}]>, %b: mem<f32[{k}, {n}]>, %bias: mem<f32[{n}]>, %o: mem<f32[{m}, {n}]>)
    kind "kernel" {{
  k.contract() {{batch = [], m = [[<i>, {m}]], n = [[<j>, {n}]], k = [[<l>, {k}]], accumulate = !f32}} () {{
    %0 = k.load(%a) {{index = [<i>, <l>]}} : f32
    yield(%0)
  }} () {{
    %1 = k.load(%b) {{index = [<l>, <j>]}} : f32
    yield(%1)
  }} (%sum: f32) {{
    %2 = k.load(%bias) {{index = [<j>]}} : f32
    %3 = s.add(%sum, %2) : f32
    %4 = s.const() {{value = 0.0, dtype = !f32}} : f32
    %5 = s.max(%3, %4) : f32
    k.store(%o, %5) {{index = [<i>, <j>]}}
  }}
}}
"""

CONV = """
func @conv(%x: mem<f32[{s}, {s}, {c}]>, %b: mem<f32[{w}, {w}, {c}, {n}]>, %bias: mem<f32[{n}]>,
           %o: mem<f32[{s}, {s}, {n}]>) kind "kernel" {{
  k.contract() {{batch = [], m = [[<y>, {s}], [<x>, {s}]], n = [[<j>, {n}]], k = [[<u>, {w}], [<v>, {w}], [<l>, {c}]],
                 accumulate = !f32}} () {{
    %0 = k.load(%x) {{index = [<y + u - {p}>, <x + v - {p}>, <l>],
                     where = [[<y + u - {p}>, 0, {s}], [<x + v - {p}>, 0, {s}]]}} : f32
    yield(%0)
  }} () {{
    %1 = k.load(%b) {{index = [<u>, <v>, <l>, <j>]}} : f32
    yield(%1)
  }} (%sum: f32) {{
    %2 = k.load(%bias) {{index = [<j>]}} : f32
    %3 = s.add(%sum, %2) : f32
    %4 = s.const() {{value = 0.0, dtype = !f32}} : f32
    %5 = s.max(%3, %4) : f32
    k.store(%o, %5) {{index = [<y>, <x>, <j>]}}
  }}
}}
"""


def kernel_of(case: Gemm | Conv) -> Func:
    """The case as a k.contract kernel."""
    if isinstance(case, Gemm):
        text = GEMM.format(m=case.m, n=case.n, k=case.k)
    elif case.window == 1:
        text = GEMM.format(m=case.side**2, n=case.n, k=case.channels)
    else:
        text = CONV.format(s=case.side, c=case.channels, n=case.n, w=case.window, p=case.window // 2)
    return parse_func(text)


def compiled_runner(target: Target, case: Gemm | Conv) -> Runner:
    """The whole backend: the case as a program of one kernel, with weights and bias as constants, through the passes
    schedule, pack and plan-memory, run by its native entry point on one thread."""
    left, operand, bias, out = operands_of(case)
    kernel = kernel_of(case)
    shapes = [argument.type for argument in kernel.args]
    module = Module()
    main = Func("main", [shapes[0], shapes[3]], ["x", "y"], kind="program")
    main.attrs.update(symbols=(), inputs=1, guards=(), arena=None)
    module.constants.update(weights=operand.reshape(shapes[1].shape), bias=bias)
    constants = [
        main.body.append(Op("p.const", (), [shape], {"ref": Ref(name)})).result
        for name, shape in zip(("weights", "bias"), shapes[1:3], strict=True)
    ]
    buffers = [main.args[0], *constants, main.args[1]]
    main.body.append(Op("p.launch", buffers, (), {"kernel": Ref(kernel.name), "writes": (3,)}))
    main.body.append(Op("return"))
    module.add(main)
    module.add(kernel)
    schedule(module, target)
    pack(module, target)
    plan_memory(module)
    program = emit_program(module, target)
    code = NativeModule(program.object_bytes)
    plan = code.function("onnxc_plan", ctypes.c_int64, *[ctypes.c_void_p] * 2, ctypes.c_int64)
    call = code.function("onnxc_run", ctypes.c_int64, *[ctypes.c_void_p] * 6, ctypes.c_int64)
    sizes = (ctypes.c_int64 * 2)()
    arena = np.empty(plan(None, ctypes.addressof(sizes), 1) + 64, np.uint8)
    aligned = arena.ctypes.data + -arena.ctypes.data % 64
    arrays = [module.constants[name] for name in program.constants]
    tables = [
        (ctypes.c_int64 * 4)(),
        (ctypes.c_int64 * 1)(left.ctypes.data),
        (ctypes.c_int64 * 1)(out.ctypes.data),
        (ctypes.c_int64 * len(arrays))(*[a.ctypes.data for a in arrays]),
    ]
    context, inputs, outputs, constants_table = map(ctypes.addressof, tables)

    def run(_: object = (left, out, arena, arrays, tables, code)) -> None:  # holds what the addresses point to
        call(context, None, inputs, outputs, aligned, constants_table, 1)

    run()
    check(case, target, left, operand, bias, out)
    kernel = module.funcs[kernel.name]
    how = Schedule.parse(str(kernel.attrs["schedule"]))
    return run, f"{how.rows}x{how.vectors * how.lanes}" if how.rows else "loops"


def operands_of(case: Gemm | Conv) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Left operand [m, k], right operand [taps, depth, n], bias and result of a case."""
    generator = np.random.default_rng(0)
    if isinstance(case, Gemm):
        m, n, k = case.m, case.n, case.k
        operand = matrix_operand(generator.standard_normal((k, n), np.float32))
    else:
        m, n, k = case.side**2, case.n, case.channels
        operand = filter_operand(generator.standard_normal((n, k, case.window, case.window), np.float32))
    left = generator.standard_normal((m, k), np.float32)
    return (
        left,
        np.ascontiguousarray(operand),
        generator.standard_normal(n, np.float32),
        np.full((m, n), np.nan, np.float32),
    )


def check(
    case: Gemm | Conv, target: Target, left: np.ndarray, operand: np.ndarray, bias: np.ndarray, out: np.ndarray
) -> None:
    """Ends the benchmark when a result is wrong."""
    taps, depth, _ = operand.shape
    if isinstance(case, Gemm):
        expected = left.astype(np.float64) @ operand[0]
    else:
        expected = _convolution(left.reshape(case.side, case.side, depth), operand, case.window).reshape(out.shape)
    error = np.abs(out - np.maximum(expected + bias, 0)).max() / np.sqrt(depth * taps)
    if not error < 1e-4:  # roundings add up to less, and one wrong operand to about one
        raise SystemExit(f"{case.name} on {target.name}: wrong result, error {error:.2e} of the sum's scale")


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


SECTIONS: dict[str, Callable[[Target, Gemm | Conv], Runner]] = {"compiled": compiled_runner, "engine": engine_runner}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", action="append", help="host, x86-64-v3 ...; may be repeated")
    parser.add_argument("--seconds", type=float, default=0.4, help="time spent on a case")
    parser.add_argument("--case", default="", help="run only the cases whose name contains this")
    parser.add_argument("--section", choices=SECTIONS, help="only one of: compiled kernels, the engine alone")
    options = parser.parse_args()
    for name in options.target or ["host", "x86-64-v3"]:
        target = Target.parse(name)
        peak = peak_kernel(target, "f32")
        for section, runner in SECTIONS.items():
            if options.section not in (None, section):
                continue
            print(f"{section}, {target.name}")
            print(f"{'case':32}{'tile':>8}{'best':>9}{'median':>9}{'peak':>9}{'share':>8}   (GFLOP/s)")
            for case in CASES:
                if options.case not in case.name:
                    continue
                run, tile = runner(target, case)
                best, median, ceiling = (rate / 1e9 for rate in measure(run, peak, case.operations, options.seconds))
                print(
                    f"{case.name:32}{tile:>8}{best:>9.1f}{median:>9.1f}{ceiling:>9.1f}{best / ceiling:>8.0%}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
