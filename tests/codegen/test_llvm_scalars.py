"""Scalar ops and conversions as native code against their numpy columns: every row, type, and vector width."""

from __future__ import annotations

from collections.abc import Sequence

import ml_dtypes
import numpy as np
import pytest

from onnxc.codegen.llvm.target import Target
from onnxc.ir.core import Func
from onnxc.ir.parser import parse_func
from onnxc.ir.types import ALL_DTYPES, BOOL, F32, DType
from onnxc.ops.conversion import convert
from onnxc.ops.scalar import SCALARS, ScalarOp
from tests.codegen.native import NativeKernel

TARGETS = ["x86-64-v2", "x86-64-v3", "host"]
NUMERIC = [d for d in ALL_DTYPES if d.kind not in ("complex", "str")]
WIDE = [d for d in NUMERIC if d.compute == d.name]
COUNT = 331                     # whole vectors of every width, and a rest


def packed(array: np.ndarray, dtype: DType) -> np.ndarray:
    """The elements as they lie in memory: sub-byte ones from the low bits of each byte up."""
    if dtype.bits >= 8:
        return np.ascontiguousarray(array)
    per = 8 // dtype.bits
    codes = array.reshape(-1).view(np.uint8) & ((1 << dtype.bits) - 1)
    codes = np.concatenate([codes, np.zeros(-len(codes) % per, np.uint8)]).reshape(-1, per)
    return np.bitwise_or.reduce(codes << (np.arange(per, dtype=np.uint8) * dtype.bits), axis=1).astype(np.uint8)


def unpacked(memory: np.ndarray, dtype: DType, count: int) -> np.ndarray:
    """The inverse of `packed`, as unsigned codes of the elements."""
    if dtype.bits >= 8:
        return memory
    per = 8 // dtype.bits
    codes = memory[:, None] >> (np.arange(per, dtype=np.uint8) * dtype.bits) & ((1 << dtype.bits) - 1)
    return codes.reshape(-1)[:count]


def codes_of(array: np.ndarray, dtype: DType) -> np.ndarray:
    """Elements as integers of their bits, NaNs all alike."""
    if dtype.bits < 8:
        return array.view(np.uint8) & ((1 << dtype.bits) - 1)
    codes = array.view(f"u{max(dtype.bits // 8, 1)}").copy()
    if dtype.is_float:
        with np.errstate(invalid="ignore"):
            codes[np.isnan(array.astype(np.float64))] = 0x7f
    return codes


def samples(dtype: DType, rng: np.random.Generator, count: int = COUNT) -> np.ndarray:
    """Elements of a type, its edges among them."""
    if dtype == BOOL:
        return rng.integers(0, 2, count).astype(np.bool_)
    if dtype.bits <= 8:
        every = np.arange(256, dtype=np.uint8) if dtype.bits == 8 else np.arange(1 << dtype.bits, dtype=np.uint8)
        if dtype.bits < 8 and dtype.kind == "int":
            every = every.astype(np.int8) - ((every >> (dtype.bits - 1)) << dtype.bits).astype(np.int8)
            return np.resize(every, count).astype(dtype.numpy)
        out = np.resize(every, count)
        return out.view(dtype.numpy) if dtype.bits == 8 else out.astype(dtype.numpy)
    if dtype.is_integer:
        info = np.iinfo(dtype.numpy)
        small = rng.integers(-300 if info.min else 0, 300, count)
        edges = np.array([0, 1, info.max, info.min, info.max - 1, info.max // 2, 255, 256, 65535 % info.max], object)
        out = small.astype(dtype.numpy)
        out[:len(edges)] = edges.astype(dtype.numpy)
        return out
    with np.errstate(all="ignore"):
        scale = np.exp(rng.uniform(-30, 30, count)) * rng.choice([-1, 1], count)
        scale[: count // 2] = rng.normal(0, 3, count // 2)
        edges = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 0.5, 1.5, 2.5, 65504.0, 65520.0, 448.0, 464.0, 57344.0,
                 1e-7, 5.9e-8, 2.0**31, -2.0**31, 2.0**32, 2.0**63, -2.0**63, 2.0**64, 1e-40, 3.4e38, 127.5, -128.9,
                 6.1e-5, 2.0**-127]
        scale[:len(edges)] = edges
        return scale.astype(dtype.numpy)


# ---- conversions -----------------------------------------------------------------------------------------------------

def cast_kernel(source: DType, saturate: bool) -> Func:
    others = [d for d in NUMERIC if d != source]
    args = "".join(f", %o{i}: mem<{d}[N]>" for i, d in enumerate(others))
    lines = "".join(f"%c{i} = s.cast(%v) {{to = !{d}, saturate = {str(saturate).lower()}}} : {d}\n"
                    f"k.store(%o{i}, %c{i}) {{index = [<i>], where = [], combine = none}}\n"
                    for i, d in enumerate(others))
    return parse_func(f"""func @casts(%x: mem<{source}[N]>{args}) kind "kernel" {{
      k.parallel() {{axes = [<i>], extents = [<N>]}} () {{
        %v = k.load(%x) {{index = [<i>], where = [], other = 0}} : {source}
        {lines} }} }}""")


def places_for(dtypes: Sequence[DType], count: int) -> list[np.ndarray]:
    """Memory for so many elements of each type."""
    return [np.zeros(-(-count * d.bits // 8), np.uint8) if d.bits < 8 else np.zeros(count, d.numpy) for d in dtypes]


@pytest.mark.parametrize("target", ["x86-64-v2", "host"])
@pytest.mark.parametrize("source", NUMERIC, ids=str)
def test_casts(source: DType, target: str) -> None:
    """Every type to every other, element by element as `convert` says."""
    rng = np.random.default_rng(source.onnx)
    x = samples(source, rng)
    others = [d for d in NUMERIC if d != source]
    for saturate in (True, False) if target == "host" else (True,):
        outputs = places_for(others, COUNT)
        kernel = NativeKernel(cast_kernel(source, saturate), Target.parse(target))
        assert kernel.run([packed(x, source), *outputs], {"N": COUNT}) is None
        for dtype, out in zip(others, outputs, strict=True):
            expected = codes_of(convert(x, dtype, saturate), dtype)
            got = unpacked(out, dtype, COUNT) if dtype.bits < 8 else codes_of(out, dtype)
            bad = np.flatnonzero(expected != got)
            assert not bad.size, \
                f"{source} -> {dtype} {saturate=}: {x[bad[:5]]} gave {got[bad[:5]]}, not {expected[bad[:5]]}"


# ---- rows ------------------------------------------------------------------------------------------------------------

def rows_of(dtype: DType, target: str) -> list[ScalarOp]:
    rows = [row for row in SCALARS.values() if dtype.kind in row.kinds and not row.unchecked]
    if target == "x86-64-v2" and dtype.bits == 64 and dtype.is_float:
        return [row for row in rows if row.name in ("fma", "exp", "sin", "floor", "div")]    # long without an fma
    return rows


def operand_types(row: ScalarOp, dtype: DType) -> list[DType]:
    return [BOOL, dtype, dtype] if row.rule == "select" else [dtype] * row.arity


def result_type(row: ScalarOp, dtype: DType) -> DType:
    return BOOL if row.rule in ("compare", "logical") else dtype


def rows_kernel(rows: Sequence[ScalarOp], dtype: DType) -> Func:
    """One kernel that stores every row's result for the same operands."""
    outputs = ", ".join(f"%o{i}: mem<{result_type(row, dtype)}[N]>" for i, row in enumerate(rows))
    lines = ""
    for i, row in enumerate(rows):
        operands = [*(["%b"] if row.rule == "select" else []), "%x", "%y", "%z"][:row.arity]
        lines += f"%r{i} = s.{row.name}({', '.join(operands)}) : {result_type(row, dtype)}\n" \
                 f"k.store(%o{i}, %r{i}) {{index = [<i>], where = [], combine = none}}\n"
    loads = "".join(f"%{v} = k.load(%in_{v}) {{index = [<i>], where = [], other = 0}} : {t}\n"
                    for v, t in (("b", BOOL), ("x", dtype), ("y", dtype), ("z", dtype)))
    return parse_func(f"""func @rows(%in_b: mem<bool[N]>, %in_x: mem<{dtype}[N]>, %in_y: mem<{dtype}[N]>,
                                     %in_z: mem<{dtype}[N]>, {outputs}) kind "kernel" {{
      k.parallel() {{axes = [<i>], extents = [<N>]}} () {{ {loads} {lines} }} }}""")


#: Results may be this many units in the last place off the numpy column: the largest bound that a row states.
ULPS = 4


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [d for d in WIDE if d.bits in (8, 32, 64)], ids=str)
def test_rows(dtype: DType, target: str) -> None:
    """Vectors and their scalar rest give what the numpy column gives: exactly, or within what an expansion states."""
    rng, rows = np.random.default_rng(dtype.onnx), rows_of(dtype, target)
    b, x, y, z = samples(BOOL, rng), *(rng.permutation(samples(dtype, rng)) for _ in range(3))
    outputs = [np.zeros(COUNT, result_type(row, dtype).numpy) for row in rows]
    kernel = NativeKernel(rows_kernel(rows, dtype), Target.parse(target))
    assert kernel.run([b, x, y, z, *outputs], {"N": COUNT}) is None
    for row, out in zip(rows, outputs, strict=True):
        with np.errstate(all="ignore"):
            expected = np.asarray(row.numpy(*[*([b] if row.rule == "select" else []), x, y, z][:row.arity]))
        check_row(f"{row.name} of {dtype}", out, expected)


def check_row(what: str, out: np.ndarray, expected: np.ndarray) -> None:
    if expected.dtype.kind != "f":
        np.testing.assert_array_equal(out, expected, what)
        return
    np.testing.assert_array_equal(np.isnan(out), np.isnan(expected), what)
    np.testing.assert_array_equal(out[np.isinf(expected)], expected[np.isinf(expected)], what)
    real = np.isfinite(expected)
    distance = np.abs(out[real].astype(np.float64) - expected[real].astype(np.float64))
    unit = np.spacing(np.abs(expected[real]).clip(np.finfo(expected.dtype).tiny))
    assert (distance <= ULPS * unit).all(), f"{what}: off by {(distance / unit).max()} units"


def test_small_floats_round_like_their_own_library() -> None:
    """Halfway cases of bf16 and f8, which decide between even neighbours."""
    steps = np.arange(0, 1 << 16, dtype=np.uint32)
    halfway = ((steps << 16) + 0x8000).astype(np.uint32).view(np.float32)
    halfway = halfway[np.isfinite(halfway)]
    kernel = NativeKernel(cast_kernel(F32, True), Target.host())
    others = [d for d in NUMERIC if d != F32]
    outputs = places_for(others, len(halfway))
    assert kernel.run([halfway, *outputs], {"N": len(halfway)}) is None
    at = [d.name for d in others].index("bf16")
    np.testing.assert_array_equal(outputs[at].view(np.uint16), halfway.astype(ml_dtypes.bfloat16).view(np.uint16))
