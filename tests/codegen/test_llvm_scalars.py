"""Scalar ops and conversions as native code against their numpy columns: every row, type, and vector width."""

from __future__ import annotations

import itertools

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
        return np.resize(every, count).view(dtype.numpy) if dtype.bits == 8 else np.resize(every, count).astype(dtype.numpy)
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
        edges = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 0.5, 1.5, 2.5, 65504.0, 65520.0, 448.0, 464.0, 57344.0, 1e-7,
                 5.9e-8, 2.0**31, -2.0**31, 2.0**32, 2.0**63, -2.0**63, 2.0**64, 1e-40, 3.4e38, 127.5, -128.9, 6.1e-5, 2.0**-127]
        scale[:len(edges)] = edges
        return scale.astype(dtype.numpy)


# ---- conversions -----------------------------------------------------------------------------------------------------

def cast_kernel(source: DType, saturate: bool) -> Func:
    others = [d for d in NUMERIC if d != source]
    args = "".join(f", %o{i}: mem<{d}[N]>" for i, d in enumerate(others))
    lines = "".join(f"%c{i} = s.cast(%v) {{to = !{d}, saturate = {str(saturate).lower()}}} : {d}\n"
                    f"k.store(%o{i}, %c{i}) {{index = [<i>], where = [], combine = none}}\n" for i, d in enumerate(others))
    return parse_func(f"""func @casts(%x: mem<{source}[N]>{args}) kind "kernel" {{
      k.parallel() {{axes = [<i>], extents = [<N>]}} () {{
        %v = k.load(%x) {{index = [<i>], where = [], other = 0}} : {source}
        {lines} }} }}""")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", NUMERIC, ids=str)
def test_casts(source: DType, target: str) -> None:
    """Every type to every other, element by element as `convert` says."""
    rng = np.random.default_rng(source.onnx)
    x = samples(source, rng)
    others = [d for d in NUMERIC if d != source]
    for saturate in (True, False):
        outputs = [np.zeros(packed(np.zeros(COUNT, d.numpy), d).shape, np.uint8 if d.bits < 8 else d.numpy) for d in others]
        kernel = NativeKernel(cast_kernel(source, saturate), Target.parse(target))
        assert kernel.run([packed(x, source), *outputs], {"N": COUNT}) is None
        for dtype, out in zip(others, outputs, strict=True):
            expected = codes_of(convert(x, dtype, saturate), dtype)
            got = unpacked(out, dtype, COUNT) if dtype.bits < 8 else codes_of(out, dtype)
            bad = np.flatnonzero(expected != got)
            assert not bad.size, f"{source} -> {dtype} saturate={saturate}: {x[bad[:5]]} gave {got[bad[:5]]}, not {expected[bad[:5]]}"


# ---- rows ------------------------------------------------------------------------------------------------------------

def row_kernel(row: ScalarOp, dtype: DType) -> Func:
    types = [BOOL, dtype, dtype] if row.rule == "select" else [dtype] * row.arity
    out = BOOL if row.rule in ("compare", "logical") else dtype
    args = ", ".join(f"%x{i}: mem<{t}[N]>" for i, t in enumerate(types))
    loads = "".join(f"%v{i} = k.load(%x{i}) {{index = [<i>], where = [], other = 0}} : {t}\n" for i, t in enumerate(types))
    operands = ", ".join(f"%v{i}" for i in range(row.arity))
    return parse_func(f"""func @row({args}, %o: mem<{out}[N]>) kind "kernel" {{
      k.parallel() {{axes = [<i>], extents = [<N>]}} () {{
        {loads} %r = s.{row.name}({operands}) : {out}
        k.store(%o, %r) {{index = [<i>], where = [], combine = none}} }} }}""")


def cases() -> list[tuple[str, DType]]:
    return [(row.name, d) for row, d in itertools.product(SCALARS.values(), WIDE)
            if d.kind in row.kinds and not row.unchecked and (d.bits in (8, 32, 64))]


#: f32 results may be this many units in the last place off what float64 rounds to: the largest bound that a row states.
ULPS = 4


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("name", "dtype"), cases(), ids=str)
def test_rows(name: str, dtype: DType, target: str) -> None:
    """Vectors and their scalar rest give what the numpy column gives: exactly, or within the stated units for expansions."""
    row, rng = SCALARS[name], np.random.default_rng(dtype.onnx)
    types = [BOOL, dtype, dtype] if row.rule == "select" else [dtype] * row.arity
    xs = [rng.permutation(samples(t, rng)) for t in types]
    with np.errstate(all="ignore"):
        expected = np.asarray(row.numpy(*xs))
    kernel = NativeKernel(row_kernel(row, dtype), Target.parse(target))
    out = np.zeros(COUNT, expected.dtype)
    assert kernel.run([*xs, out], {"N": COUNT}) is None
    if expected.dtype.kind != "f":
        np.testing.assert_array_equal(out, expected)
        return
    np.testing.assert_array_equal(np.isnan(out), np.isnan(expected))
    real = ~np.isnan(expected) & ~np.isinf(expected)
    np.testing.assert_array_equal(out[np.isinf(expected)], expected[np.isinf(expected)])
    distance = np.abs(out[real].astype(np.float64) - expected[real].astype(np.float64))
    assert (distance <= ULPS * np.spacing(np.abs(expected[real]).clip(np.finfo(expected.dtype).tiny))).all(), \
        f"{name} {dtype}: {distance.max()}"


def test_small_floats_round_like_their_own_library() -> None:
    """Halfway cases of bf16 and f8, which decide between even neighbours."""
    steps = np.arange(0, 1 << 16, dtype=np.uint32)
    halfway = ((steps << 16) + 0x8000).astype(np.uint32).view(np.float32)
    halfway = halfway[np.isfinite(halfway)]
    kernel = NativeKernel(cast_kernel(F32, True), Target.host())
    others = [d for d in NUMERIC if d != F32]
    outputs = [np.zeros(packed(np.zeros(len(halfway), d.numpy), d).shape, np.uint8 if d.bits < 8 else d.numpy) for d in others]
    assert kernel.run([halfway, *outputs], {"N": len(halfway)}) is None
    at = [d.name for d in others].index("bf16")
    np.testing.assert_array_equal(outputs[at].view(np.uint16), halfway.astype(ml_dtypes.bfloat16).view(np.uint16))
