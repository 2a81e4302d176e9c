"""Contractions made of generated micro-kernels against numpy: sizes, types, targets, edges, and the code itself."""

from __future__ import annotations

import ctypes
import functools
import re
from dataclasses import replace

import numpy as np
import pytest
from llvmlite import ir

from onnxc.codegen.llvm.contract_epilogue import sweep
from onnxc.codegen.llvm.contract_loops import Block, Blocking, Holes, Job, contraction, rows_met
from onnxc.codegen.llvm.contract_operands import MatrixRows, WindowAxis, WindowRows, packed_panels, strided_panels
from onnxc.codegen.llvm.loops import I64
from onnxc.codegen.llvm.microkernel import ACCUMULATORS, I8, ITEM_BYTES, POINTER, Microkernel, microkernel
from onnxc.codegen.llvm.pack import filter_operand, matrix_operand, pack_panels, packed_size, unpack_panels
from onnxc.codegen.llvm.target import Target
from onnxc.codegen.llvm.tiles import blocking_for, tile_for
from onnxc.runtime.loader import NativeModule

NUMPY = {"f32": np.float32, "f64": np.float64, "i32": np.int32, "i64": np.int64}
TARGETS = ["host", "x86-64-v3", "x86-64"]
GUARD = 0x5A


def target_here(name: str) -> Target:
    """The target, or a skip where this machine cannot run its code."""
    target, host = Target.parse(name), Target.host()
    if target.arch != host.arch or not target.features <= host.features:
        pytest.skip(f"this machine does not run {name}")
    return target


# ---- kernels under test: all extents are run-time parameters -------------------------------------------------------


def store_epilogue(blocking: Blocking, out: ir.Value, row_stride: ir.Value):
    """Writes the tile to `out`; lanes past the last column are masked off."""
    tile = blocking.tile
    item, lanes, vector = ITEM_BYTES[tile.dtype], tile.lanes, tile.vector_type
    masks = ir.VectorType(ir.IntType(1), lanes)
    signature = ir.FunctionType(ir.VoidType(), [vector, POINTER, ir.IntType(32), masks])

    def store(b, m, n, value, mask):
        place = b.gep(out, [b.add(b.mul(m, row_stride), b.mul(n, I64(item)))], source_etype=I8)
        if mask is None:
            b.store(value, place, align=item)
            return
        name = f"llvm.masked.store.v{lanes}{tile.dtype}.p0"
        function = b.module.globals.get(name) or ir.Function(b.module, signature, name)
        b.call(function, [value, place, ir.IntType(32)(item), mask])

    return lambda builder, block: sweep(builder, blocking, block, store)


def product_module(blocking: Blocking, packed: bool = True) -> ir.Module:
    """`product(a, b, out, scratch, m0, m1, n0, n1, n, k, out_stride)`: rows and columns [m0, m1) x [n0, n1)."""
    module = ir.Module("product")
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER] * 4 + [I64] * 7), "product")
    a, b, out, scratch, m0, m1, n0, n1, n, k, out_stride = function.args
    builder = ir.IRBuilder(function.append_basic_block())
    item = I64(ITEM_BYTES[blocking.tile.dtype])
    rows = MatrixRows(a, builder.mul(k, item))
    panels = packed_panels(blocking, b, 1, k) if packed else strided_panels(blocking, b, builder.mul(n, item), 0)
    holes = Holes(rows.row, rows.row_pointer, panels, store_epilogue(blocking, out, out_stride))
    contraction(builder, blocking, Job(m0, m1, n0, n1, 1, k), holes, scratch)
    builder.ret_void()
    return module


class Product:
    """A compiled matrix product, run in guarded memory."""

    def __init__(self, target: Target, blocking: Blocking, packed: bool = True) -> None:
        code = NativeModule(target.compile(product_module(blocking, packed)))
        self.blocking, self.packed = blocking, packed
        self.call = code.function("product", None, *[ctypes.c_void_p] * 4, *[ctypes.c_int64] * 7)

    def __call__(self, a: np.ndarray, b: np.ndarray, jobs: list[tuple[int, int, int, int]] | None = None) -> np.ndarray:
        """a @ b, as the given (m0, m1, n0, n1) jobs; whatever lies around result and scratch memory stays."""
        (m, k), n = a.shape, b.shape[1]
        tile = self.blocking.tile
        right = pack_panels(matrix_operand(b), self.blocking.columns, tile.lanes) if self.packed else b.copy()
        out = np.full((m + 1, (n + 3) * a.itemsize), GUARD, np.uint8)
        size = self.blocking.scratch_bytes(1)
        room = np.full(size + 128, GUARD, np.uint8)
        start = -room.ctypes.data % 64
        for m0, m1, n0, n1 in jobs or [(0, m, 0, n)]:
            pointers = (a.ctypes.data, right.ctypes.data, out.ctypes.data, room.ctypes.data + start)
            self.call(*pointers, m0, m1, n0, n1, n, k, out.strides[0])
        assert (room[:start] == GUARD).all() and (room[start + size :] == GUARD).all()
        assert (out[m] == GUARD).all() and (out[:, n * a.itemsize :] == GUARD).all()
        return out[:m, : n * a.itemsize].copy().view(a.dtype)


@functools.cache
def product(target: Target, dtype: str, packed: bool = True) -> Product:
    return Product(target, blocking_for(target, dtype), packed)


def operands(m: int, n: int, k: int, dtype: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng((m, n, k, seed))
    if dtype[0] == "f":
        return tuple(generator.standard_normal(shape).astype(NUMPY[dtype]) for shape in ((m, k), (k, n)))
    limits = np.iinfo(NUMPY[dtype])
    return tuple(generator.integers(limits.min, limits.max, shape, NUMPY[dtype]) for shape in ((m, k), (k, n)))


def check(result: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """Integers wrap and are exact. Floats are within the error bound of any order of summation: with u half an ulp of
    one, |error| <= k u / (1 - k u) * |a| @ |b|, here with one more term for the oracle's own rounding in f64."""
    if a.dtype.kind == "i":
        np.testing.assert_array_equal(result, a @ b)
        return
    k, unit = a.shape[1], np.finfo(a.dtype).eps / 2
    wide = np.longdouble if a.dtype == np.float64 else np.float64
    expected = a.astype(wide) @ b.astype(wide)
    bound = (k + 1) * unit * 1.01 * (abs(a.astype(wide)) @ abs(b.astype(wide)))
    assert result.shape == expected.shape
    assert (abs(result - expected) <= bound).all()


# ---- matrix products -----------------------------------------------------------------------------------------------

SIZES = [
    (1, 1, 1), (1, 64, 7), (2, 65, 3), (3, 2, 257), (5, 15, 9), (6, 64, 64), (7, 17, 31), (12, 63, 5), (13, 129, 2),
    (96, 64, 16), (97, 33, 40), (100, 31, 1), (191, 70, 11), (200, 200, 200), (1, 300, 500), (300, 1, 70), (9, 4, 4),
]  # fmt: skip


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("dtype", ACCUMULATORS)
def test_product_of_odd_sizes(name, dtype):
    run = product(target_here(name), dtype)
    for m, n, k in SIZES:
        a, b = operands(m, n, k, dtype)
        check(run(a, b), a, b)


@pytest.mark.parametrize("dtype", ACCUMULATORS)
def test_every_size_around_the_tile(dtype):
    target = target_here("host")
    run, tile = product(target, dtype), tile_for(target, dtype)
    a, b = operands(3 * tile.rows, 2 * tile.vectors * tile.lanes + 1, 10, dtype)
    for m in range(1, 3 * tile.rows + 1):
        check(run(a[:m], b[:, :37].copy()), a[:m], b[:, :37])
    for n in range(1, b.shape[1] + 1):
        check(run(a[:4], b[:, :n].copy()), a[:4], b[:, :n])
    for k in range(1, 11):
        check(run(a[:, :k].copy(), b[:k]), a[:, :k], b[:k])


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 0, 3), (0, 0, 0), (5, 70, 0), (1, 1, 0)])
def test_empty_extents(name, shape):
    """Nothing is written where there is nothing to write, and a sum over nothing is zero."""
    m, n, k = shape
    a, b = operands(m, n, k, "f32")
    np.testing.assert_array_equal(product(target_here(name), "f32")(a, b), np.zeros((m, n), np.float32))


def test_infinities_and_nans_stay_in_their_rows_and_columns():
    a, b = operands(20, 70, 33, "f32")
    a[3, 5], a[17, 0], b[2, 66] = np.nan, np.inf, -np.inf
    result = product(target_here("host"), "f32")(a, b)
    with np.errstate(invalid="ignore"):
        expected = a.astype(np.float64) @ b
    np.testing.assert_array_equal(np.isnan(result), np.isnan(expected))
    np.testing.assert_array_equal(result[np.isinf(expected)], expected[np.isinf(expected)])
    np.testing.assert_array_equal(np.isinf(result), np.isinf(expected))


@pytest.mark.parametrize("dtype", ACCUMULATORS)
def test_panels_read_in_place(dtype):
    target = target_here("host")
    run = product(target, dtype, packed=False)
    for m, vectors, k in [(1, 1, 5), (7, 5, 12), (20, 3, 1), (3, 9, 0)]:
        a, b = operands(m, vectors * run.blocking.tile.lanes, k, dtype)
        check(run(a, b), a, b)


def test_jobs_together_make_the_whole():
    """Row and column ranges as threads take them: begins that are no multiple of a tile's rows, several panels."""
    run = product(target_here("host"), "f32")
    columns = run.blocking.columns
    a, b = operands(103, 3 * columns + 5, 40, "f32")
    rows = [(0, 1), (1, 50), (50, 50), (50, 103)]
    jobs = [(m0, m1, n0, n1) for m0, m1 in rows for n0, n1 in [(0, columns), (columns, b.shape[1])]]
    check(run(a, b, jobs), a, b)


@pytest.mark.parametrize("ways", [{"ahead": True}, {"rows_ahead": True}, {"ahead": True, "rows_ahead": True}])
def test_reading_ahead_changes_no_bit_and_nothing_but_a_line_a_step(ways):
    target = target_here("host")
    blocking = blocking_for(target, "f32")
    plain = replace(blocking, block_bytes=40 * blocking.row_bytes)
    tile = replace(blocking.tile, **ways)
    a, b = operands(103, 3 * blocking.columns + 5, 100, "f32")
    ahead, expected = (Product(target, how)(a, b) for how in (replace(plain, tile=tile), plain))
    np.testing.assert_array_equal(ahead, expected)
    (loop,) = inner_loops(assembly_of(Target.parse("x86-64-v4"), tile))
    assert loop.count("prefetch") == len(ways) and not SPILL.search(loop)


@pytest.mark.parametrize("steps", [1, 3, 8, 20, 64])
def test_blocks_of_depth_change_no_bit(steps):
    """A full tile goes on with one sum where the block before stopped, so blocking cannot change the result."""
    target = target_here("host")
    whole = product(target, "f32")
    tile = whole.blocking.tile
    blocked = Product(target, replace(whole.blocking, block_bytes=steps * whole.blocking.row_bytes))
    a, b = operands(4 * tile.rows, whole.blocking.columns, 131, "f32")
    np.testing.assert_array_equal(blocked(a, b), whole(a, b))
    for m, n, k in [(13, 70, 1), (7, 20, 64), (1, 5, 100), (100, 130, 65), (9, 9, 0)]:
        a, b = operands(m, n, k, "f32")
        check(blocked(a, b), a, b)


@pytest.mark.parametrize("n", [1, 2, 4, 5, 8, 9, 16, 17, 40, 100])
def test_known_columns_and_rows(n):
    """Only the micro-kernels that known extents can meet are there, and they suffice."""
    target = target_here("host")
    rows = (1, 5, 49, 100)
    run = Product(target, blocking_for(target, "f32", n=n, job_rows=rows))
    for m in rows:
        a, b = operands(m, n, 30, "f32")
        check(run(a, b), a, b)


def test_rows_met_are_those_that_jobs_meet():
    """Against the sizes that a job's epilogue is given."""
    target = target_here("host")
    blocking = blocking_for(target, "f32", n=16)
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER, POINTER, I64]), "record")
    sizes, scratch, m = function.args
    builder = ir.IRBuilder(function.append_basic_block())

    def record(b: ir.IRBuilder, block: Block) -> None:
        b.store(I8(1), b.gep(sizes, [block.rows], source_etype=I8))

    rows = MatrixRows(scratch, 0)
    holes = Holes(rows.row, rows.row_pointer, strided_panels(blocking, scratch, 0, 0), record)
    contraction(builder, blocking, Job(0, m, 0, 16, 1, 0), holes, scratch)
    builder.ret_void()
    call = NativeModule(target.compile(module)).function(
        "record", None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64
    )
    memory = np.zeros(blocking.scratch_bytes(1) + 64, np.uint8)
    for m_value in [*range(300), 1000, 3136]:
        met = np.zeros(64, np.uint8)
        call(met.ctypes.data, memory.ctypes.data, m_value)
        expected = rows_met(m_value, blocking.chunk_rows, blocking.tile)
        assert set(np.flatnonzero(met)) == expected, m_value
        assert max(expected, default=0) <= blocking.tile.rows


# ---- convolutions --------------------------------------------------------------------------------------------------


def convolution(target: Target, blocking: Blocking, x: np.ndarray, w: np.ndarray, steps, dilations, pads) -> np.ndarray:
    """x [images, *spatial, channels] by w [n, channels, *window] -> [images, *outputs, n], pads before and after."""
    spatial, window, item = x.shape[1:-1], w.shape[2:], x.itemsize
    outputs = [
        (s + before + after - d * (k - 1) - 1) // step + 1
        for s, k, step, d, (before, after) in zip(spatial, window, steps, dilations, pads, strict=True)
    ]
    module = ir.Module("convolution")
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER] * 5 + [I64] * 3), "run")
    image, zeros, right, out, scratch, m, n, depth = function.args
    builder = ir.IRBuilder(function.append_basic_block())
    axes = tuple(
        WindowAxis(s, o, k, step, d, before, stride)
        for s, o, k, step, d, (before, _), stride in zip(
            spatial, outputs, window, steps, dilations, pads, x.strides[1:-1], strict=True
        )
    )
    rows = WindowRows(image, zeros, x.strides[0], axes)
    taps = int(np.prod(window))
    panels = packed_panels(blocking, right, taps, depth)
    epilogue = store_epilogue(blocking, out, builder.mul(n, I64(item)))
    holes = Holes(rows.row, rows.row_pointer, panels, epilogue)
    contraction(builder, blocking, Job(0, m, 0, n, taps, depth), holes, scratch)
    builder.ret_void()
    call = NativeModule(target.compile(module)).function("run", None, *[ctypes.c_void_p] * 5, *[ctypes.c_int64] * 3)
    packed = pack_panels(filter_operand(w), blocking.columns, blocking.tile.lanes)
    result = np.empty((x.shape[0], *outputs, w.shape[0]), x.dtype)
    memory = np.empty(blocking.scratch_bytes(taps) + 64, np.uint8)
    blank = np.zeros(x.shape[-1], x.dtype)
    pointers = [array.ctypes.data for array in (x, blank, packed, result)]
    pointers.append(memory.ctypes.data + -memory.ctypes.data % 64)
    call(*pointers, x.shape[0] * int(np.prod(outputs)), w.shape[0], x.shape[-1])
    return result


def direct_convolution(x: np.ndarray, w: np.ndarray, steps, dilations, pads) -> np.ndarray:
    """The definition in float64, a window position at a time."""
    padded = np.pad(x.astype(np.float64), [(0, 0), *pads, (0, 0)])
    window = w.shape[2:]
    outputs = [
        (s - d * (k - 1) - 1) // step + 1
        for s, k, step, d in zip(padded.shape[1:-1], window, steps, dilations, strict=True)
    ]
    total = np.zeros((x.shape[0], *outputs, w.shape[0]))
    for position in np.ndindex(*window):
        view = [
            slice(p * d, p * d + (o - 1) * step + 1, step)
            for p, d, o, step in zip(position, dilations, outputs, steps, strict=True)
        ]
        total += padded[(slice(None), *view)] @ w[(slice(None), slice(None), *position)].T.astype(np.float64)
    return total


GEOMETRIES = {
    "3x3 same": ((1, 9, 7, 5), (20, 5, 3, 3), (1, 1), (1, 1), ((1, 1), (1, 1))),
    "1x1": ((2, 6, 5, 33), (70, 33, 1, 1), (1, 1), (1, 1), ((0, 0), (0, 0))),
    "7x7 stride 2, 3 channels, batch 2": ((2, 20, 17, 3), (17, 3, 7, 7), (2, 2), (1, 1), ((3, 3), (3, 3))),
    "uneven pads and dilation": ((1, 11, 12, 8), (5, 8, 2, 3), (2, 1), (3, 2), ((2, 0), (0, 3))),
    "windows wholly in padding": ((1, 2, 2, 4), (3, 4, 2, 2), (1, 1), (1, 1), ((3, 3), (3, 3))),
    "one axis": ((3, 50, 6), (9, 6, 5), (3,), (2,), ((4, 1),)),
    "three axes": ((2, 4, 5, 6, 3), (8, 3, 3, 2, 3), (1, 2, 1), (1, 1, 2), ((1, 1), (0, 1), (2, 2))),
}


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_convolution(name, geometry):
    target = target_here(name)
    x_shape, w_shape, *how = GEOMETRIES[geometry]
    generator = np.random.default_rng(len(geometry))
    x, w = (generator.standard_normal(shape).astype(np.float32) for shape in (x_shape, w_shape))
    result = convolution(target, blocking_for(target, "f32", n=w_shape[0]), x, w, *how)
    bound = direct_convolution(abs(x), abs(w), *how) * (w[0].size + 1) * np.finfo(np.float32).eps / 2
    assert (abs(result - direct_convolution(x, w, *how)) <= bound).all()


@pytest.mark.parametrize("steps", [2, 5, 12, 30])
def test_convolution_in_blocks_of_depth(steps):
    """Blocks of a part of a tap's depth, of one tap, and of several."""
    target = target_here("host")
    blocking = blocking_for(target, "f32")
    blocking = replace(blocking, block_bytes=steps * blocking.row_bytes)
    x_shape, w_shape, *how = GEOMETRIES["3x3 same"]
    generator = np.random.default_rng(steps)
    x, w = (generator.integers(-9, 9, shape).astype(np.float32) for shape in (x_shape, w_shape))
    np.testing.assert_array_equal(convolution(target, blocking, x, w, *how), direct_convolution(x, w, *how))


# ---- the code ------------------------------------------------------------------------------------------------------

# On x86 the stack pointer addresses spills: these functions have no frame pointer.
SPILL = re.compile(r"[xyz]mm\d+.*\(%rsp\)|\(%rsp\).*[xyz]mm\d+|\b[qd]\d+, \[sp|\b[qd]\d+, [qd]\d+, \[sp")


def assembly_of(target: Target, spec: Microkernel) -> str:
    module = ir.Module()
    microkernel(module, spec).linkage = "external"
    return target.assembly(module)


def inner_loops(text: str) -> list[str]:
    """The basic blocks that jump to their own beginning."""
    parts = re.split(r"^(\.L\w+):", text, flags=re.MULTILINE)
    blocks = zip(parts[1::2], parts[2::2], strict=True)
    jump = r"^\s+(?:j\w+|b\.\w+|cbn?z\s+\w+,)\s+"
    return [block for label, block in blocks if re.search(jump + re.escape(label) + r"\b", block, flags=re.MULTILINE)]


@pytest.mark.parametrize("name", ["x86-64-v4", "x86-64-v3", "x86-64-v2", "x86-64", "aarch64-neon"])
@pytest.mark.parametrize("dtype", ACCUMULATORS)
def test_full_tile_lives_in_registers(name, dtype):
    target = Target.parse(name)
    loops = inner_loops(assembly_of(target, tile_for(target, dtype)))
    assert loops
    assert [line for loop in loops for line in loop.splitlines() if SPILL.search(line)] == []


@pytest.mark.parametrize("name", ["x86-64-v4", "x86-64-v3", "aarch64-neon"])
def test_a_tile_too_large_is_seen_to_spill(name):
    """The test above can fail."""
    target = Target.parse(name)
    spec = tile_for(target, "f32")
    loops = inner_loops(assembly_of(target, replace(spec, rows=spec.rows + 1, pitch=spec.rows + 1)))
    assert any(SPILL.search(loop) for loop in loops)


@pytest.mark.parametrize(("name", "pattern"), [
    ("x86-64-v4", r"vfmadd\d+ps\s.*%zmm\d+$"),
    ("x86-64-v3", r"vfmadd\d+ps\s.*%ymm\d+$"),
    ("aarch64-neon", r"fmla\s+v\d+\.4s"),
])  # fmt: skip
def test_inner_loop_is_one_fma_a_vector(name, pattern):
    """One loop, of as many full-width FMAs as the tile has vectors, without separate multiplications."""
    target = Target.parse(name)
    spec = tile_for(target, "f32")
    (loop,) = inner_loops(assembly_of(target, spec))
    assert len(re.findall(pattern, loop, flags=re.MULTILINE)) == spec.rows * spec.vectors
    assert not re.search(r"\bv?f?mul(ps|\s+v)", loop)


def test_only_narrow_panels_under_many_rows_are_prefetched():
    narrow, wide = (tile_for(Target.parse(name), "f32") for name in ("x86-64-v3", "x86-64-v4"))
    for spec, count in [(narrow, 1), (replace(narrow, rows=1), 0), (wide, 0)]:
        assert assembly_of(Target.parse("x86-64-v4"), spec).count("prefetch") == count


@pytest.mark.parametrize("name", ["x86-64-v4", "x86-64-v3", "x86-64-v2", "aarch64-neon"])
def test_tiles_adapt_to_the_target(name):
    target = Target.parse(name)
    for dtype, item in ITEM_BYTES.items():
        tile = tile_for(target, dtype)
        assert tile.lanes * item == target.vector_bytes
        assert tile.rows * tile.vectors + tile.vectors + 1 <= target.vector_registers
    assert tile_for(target, "f32", 2).lanes == 4


# ---- packing and refusals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 5, 7), (9, 3, 64), (2, 4, 65), (3, 2, 150), (0, 3, 4), (2, 0, 4), (2, 3, 0)])
def test_packing_is_undone_by_unpacking(shape):
    operand = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    packed = pack_panels(operand, 64, 16)
    assert packed.size == packed_size(*shape, 16)
    assert not packed.size or packed.ctypes.data % 64 == 0
    np.testing.assert_array_equal(unpack_panels(packed, *shape, 64, 16), operand)
    assert np.count_nonzero(packed) == np.count_nonzero(operand)


def test_filters_become_taps():
    w = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    operand = filter_operand(w)
    assert operand.shape == (20, 3, 2)
    assert operand[1 * 5 + 2, 1, 0] == w[0, 1, 1, 2]
    assert filter_operand(np.zeros((0, 3, 2, 2))).shape == (4, 3, 0)
    assert filter_operand(np.zeros((6, 3))).shape == (1, 3, 6)


def test_impossible_requests_are_refused():
    with pytest.raises(ValueError, match="accumulates in 'f16'"):
        Microkernel("f16", 6, 4, 16, 6)
    with pytest.raises(ValueError, match="7 rows do not fit"):
        Microkernel("f32", 7, 4, 16, 6)
    with pytest.raises(ValueError, match="positive"):
        Microkernel("f32", 6, 0, 16, 6)
    tile = Microkernel("f32", 6, 4, 16, 6)
    with pytest.raises(ValueError, match="no whole number"):
        Blocking(tile, 100, 1 << 18)
    with pytest.raises(ValueError, match="holds no row"):
        Blocking(tile, 96, 100)
    with pytest.raises(ValueError, match="must fill"):
        Blocking(replace(tile, rows=5), 95, 1 << 18)
    with pytest.raises(ValueError, match="not of rank 2"):
        pack_panels(np.zeros((3, 4)), 64, 16)
    with pytest.raises(ValueError, match="no whole number of vectors"):
        pack_panels(np.zeros((1, 3, 4)), 60, 16)
    with pytest.raises(ValueError, match="not the packed form"):
        unpack_panels(np.zeros(5), 1, 3, 4, 64, 16)
