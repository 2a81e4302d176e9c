"""The scalar table: what each row means, that every backend has it, and the tensor ops and casts made of it."""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Callable
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from onnxc.ir.dims import sym
from onnxc.ir.registry import TypeInferenceError, all_ops, lookup
from onnxc.ir.types import (
    ALL_DTYPES,
    BOOL,
    F16,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    DType,
    Scalar,
    Tensor,
    dtype_named,
)
from onnxc.ops.conversion import convert
from onnxc.ops.elementwise import broadcast_shapes
from onnxc.ops.expander import Term, select
from onnxc.ops.numpy_expander import NumpyExpander, expanded
from onnxc.ops.scalar import SCALARS, ScalarOp, column

COMPUTED = [d for d in ALL_DTYPES if d.compute == d.name and d.kind in ("float", "int", "uint", "bool")]
INTEGERS = [I8, I16, I32, I64, U8, U16, U32, U64]
CASES = [pytest.param(r, d, id=f"{r.name}-{d}") for r in SCALARS.values() for d in COMPUTED if d.kind in r.kinds]


def edges(dtype: DType) -> np.ndarray:
    """Elements where ops tend to differ."""
    if dtype == BOOL:
        return np.array([False, True])
    if dtype.is_float:
        f = np.finfo(dtype.numpy)
        values = [0.0, 1.0, 0.5, 1.5, 2.5, 3.0, math.pi, f.max, f.tiny, f.smallest_subnormal, 2.0**f.nmant, math.inf]
        return np.array([*values, *(-v for v in values), math.nan], dtype.numpy)
    info = np.iinfo(dtype.numpy)
    near = [0, 1, 2, 3, 5, 7, 8, 31, 32, 63, 64, 100, -1, -2, -3, -7, -8, -100]
    values = [*near, info.min, info.min + 1, info.max, info.max - 1, info.max // 2, info.max // 3]
    return np.array([v for v in values if info.min <= v <= info.max], dtype.numpy)


def grid(row: ScalarOp, dtype: DType) -> list[np.ndarray]:
    """All combinations of edge elements as operands of the row."""
    types = [BOOL, dtype, dtype] if row.rule == "select" else [dtype] * row.arity
    return [np.ascontiguousarray(a.ravel()) for a in np.meshgrid(*map(edges, types))]


# ---- the table is complete -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("row", "dtype"), CASES)
def test_every_backend_has_every_row(row: ScalarOp, dtype: DType) -> None:
    for backend in ("llvm", "triton"):
        assert row.expand is not None or column(getattr(row, backend), dtype) is not None, f"no {backend} form"


@pytest.mark.parametrize("row", SCALARS.values(), ids=SCALARS)
def test_columns_have_the_agreed_form(row: ScalarOp) -> None:
    for text in row.llvm.values():
        word, _, rest = text.partition(" ")
        assert word.startswith("@llvm.") or word in ("fcmp", "icmp") or (word.isalpha() and not rest), text
        assert bool(rest) == (row.rule == "compare")
    for text in row.triton.values():
        wanted = [f"{{{i}}}" for i in range(row.arity)]
        assert all(w in text for w in wanted) and text.count("{") == sum(text.count(w) for w in wanted), text


@pytest.mark.parametrize(("row", "dtype"), CASES)
def test_numpy_column_is_quiet_and_keeps_type_and_shape(row: ScalarOp, dtype: DType) -> None:
    wanted = BOOL if row.rule in ("compare", "logical") else dtype
    for shape in [(), (0,), (2, 3)]:
        xs = [np.resize(x, shape).astype(x.dtype) for x in grid(row, dtype)]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            out = np.asarray(row.numpy(*xs))
        assert (out.dtype, out.shape) == (wanted.numpy, shape)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        row.numpy(*grid(row, dtype))


EXACT = [n for n, row in SCALARS.items() if row.expand is not None and not any(row.ulps) and not row.unchecked]
EXPANDED = [c for c in CASES if c.values[0].name in EXACT]


@pytest.mark.parametrize("backend", ["llvm", "triton"])
@pytest.mark.parametrize(("row", "dtype"), EXPANDED)
def test_exact_expansions_equal_the_numpy_column(row: ScalarOp, dtype: DType, backend: str) -> None:
    """To the sign of zero, except where max and min choose between zeros of both signs."""
    if column(getattr(row, backend), dtype) is not None:
        return
    xs = grid(row, dtype)
    got, want = expanded(row.name, *xs, backend=backend), np.asarray(row.numpy(*xs))
    np.testing.assert_array_equal(got, want)
    if dtype.is_float and row.name not in ("max", "min") and row.rule == "same":
        np.testing.assert_array_equal(np.signbit(got)[want == 0], np.signbit(want)[want == 0])


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("name", ["fmod", "mod"])
def test_remainders_of_random_floats(name: str, dtype: DType) -> None:
    """Quotients of every size; the remainder is exact."""
    rng = np.random.default_rng(3)
    bits = rng.integers(0, 2**dtype.bits, (2, 4000), dtype=np.uint64).astype(f"u{dtype.bits // 8}").view(dtype.numpy)
    x, y = bits
    with np.errstate(all="ignore"):
        y[:2000] = (x[:2000] / rng.integers(1, 1000, 2000)).astype(dtype.numpy)
    np.testing.assert_array_equal(expanded(name, x, y), SCALARS[name].numpy(x, y))


# ---- what the rows mean ----------------------------------------------------------------------------------------------
def truncated(x: int, y: int) -> int:
    """x / y towards zero; 0 for y = 0."""
    return 0 if y == 0 else (abs(x) // abs(y)) * (1 if (x < 0) == (y < 0) else -1)


def whole_power(x: int, n: int) -> int:
    if n >= 0:
        return int(pow(x, n, 1 << 64))
    return 0 if x == 0 else math.trunc(Fraction(1, x) ** min(-n, 64 + n % 2))


BY_PYTHON: dict[str, Callable[[int, int, int], int]] = {
    "add": lambda x, y, w: x + y, "sub": lambda x, y, w: x - y, "mul": lambda x, y, w: x * y,
    "div": lambda x, y, w: truncated(x, y), "fmod": lambda x, y, w: x - truncated(x, y) * y if y else 0,
    "mod": lambda x, y, w: x % y if y else 0, "min": lambda x, y, w: min(x, y), "max": lambda x, y, w: max(x, y),
    "bit_and": lambda x, y, w: x & y, "bit_or": lambda x, y, w: x | y, "bit_xor": lambda x, y, w: x ^ y,
    "shl": lambda x, y, w: x << y if 0 <= y < w else 0, "shr": lambda x, y, w: x >> (y if 0 <= y < w else w),
    "pow": lambda x, y, w: whole_power(x, y),
}


def wrapped(value: int, dtype: DType) -> int:
    low = value & ((1 << dtype.bits) - 1)
    return low - (1 << dtype.bits) if dtype.is_signed and low >> (dtype.bits - 1) else low


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("name", BY_PYTHON)
def test_integers_against_python(name: str, dtype: DType) -> None:
    """Every pair of edge values: zero divisors, the least value over -1, shifts beyond the width, signs."""
    row = SCALARS[name]
    x, y = grid(row, dtype)
    want = [wrapped(BY_PYTHON[name](int(a), int(b), dtype.bits), dtype) for a, b in zip(x, y, strict=True)]
    np.testing.assert_array_equal(row.numpy(x, y), np.array(want, dtype.numpy))


@pytest.mark.parametrize(
    ("name", "operands", "result"),
    [
        ("div", [1.0, 0.0], math.inf), ("div", [0.0, 0.0], math.nan), ("max", [math.nan, 1.0], math.nan),
        ("max", [1.0, math.nan], math.nan), ("min", [1.0, math.nan], math.nan), ("fmod", [-5.0, 3.0], -2.0),
        ("fmod", [5.0, -3.0], 2.0), ("fmod", [5.0, math.inf], 5.0), ("fmod", [5.0, 0.0], math.nan),
        ("mod", [-5.0, 3.0], 1.0), ("mod", [5.0, -3.0], -1.0), ("mod", [-1.0, math.inf], math.inf),
        ("round", [0.5], 0.0), ("round", [1.5], 2.0), ("round", [-2.5], -2.0), ("trunc", [-1.7], -1.0),
        ("sign", [-math.inf], -1.0), ("sign", [math.nan], math.nan), ("recip", [math.inf], 0.0),
        ("sqrt", [-1.0], math.nan), ("rsqrt", [0.0], math.inf), ("log", [0.0], -math.inf), ("log", [-1.0], math.nan),
        ("log1p", [-1.0], -math.inf), ("acosh", [0.5], math.nan), ("atanh", [1.0], math.inf),
        ("asin", [1.5], math.nan), ("pow", [0.0, 0.0], 1.0), ("pow", [1.0, math.nan], 1.0),
        ("pow", [math.nan, 0.0], 1.0), ("pow", [-8.0, 1 / 3], math.nan), ("pow", [-2.0, 3.0], -8.0),
        ("pow", [-1.0, math.inf], 1.0), ("pow", [-0.0, -3.0], -math.inf), ("pow", [-math.inf, 0.5], math.inf),
        ("sigmoid", [-math.inf], 0.0), ("sigmoid", [math.inf], 1.0), ("softplus", [math.inf], math.inf),
        ("tanh", [-math.inf], -1.0), ("erf", [math.inf], 1.0), ("sin", [math.inf], math.nan),
        ("exp", [-math.inf], 0.0), ("exp", [math.nan], math.nan), ("fma", [1.0, math.inf, -math.inf], math.nan),
    ],
)
@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_floats_at_the_edges(name: str, operands: list[float], result: float, dtype: DType) -> None:
    """The numpy column and, where there is one, the expansion."""
    row, xs = SCALARS[name], [np.array([v], dtype.numpy) for v in operands]
    np.testing.assert_array_equal(row.numpy(*xs), [result])
    if row.expand is not None and column(row.llvm, dtype) is None:
        np.testing.assert_array_equal(expanded(name, *xs), [result])


def test_fused_is_rounded_once() -> None:
    """Against rational arithmetic, where two roundings would give another result."""
    rng = np.random.default_rng(4)
    for dtype, bits in ((F32, 24), (F64, 53)):
        x, y = rng.standard_normal((2, 2000)).astype(dtype.numpy)
        steps = rng.integers(-3, 4, 2000) * 2.0 ** rng.integers(0, bits, 2000)
        z = (-(x * y) + np.spacing(x * y) * steps).astype(dtype.numpy)
        got = SCALARS["fma"].numpy(x, y, z)
        for a, b, c, g in zip(x, y, z, got, strict=True):
            exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
            assert abs(Fraction(float(g)) - exact) <= Fraction(float(np.spacing(abs(g)))) / 2


def test_comparisons_and_logic() -> None:
    for name, python in [("eq", operator.eq), ("ne", operator.ne), ("lt", operator.lt), ("le", operator.le),
                         ("gt", operator.gt), ("ge", operator.ge)]:
        x, y = grid(SCALARS[name], F64)
        assert SCALARS[name].numpy(x, y).tolist() == [python(float(a), float(b)) for a, b in zip(x, y, strict=True)]
    x, y = grid(SCALARS["and"], BOOL)
    assert [SCALARS[n].numpy(x, y).tolist() for n in ("and", "or", "xor")] == \
        [[bool(a) & bool(b) for a, b in zip(x, y, strict=True)], [bool(a) | bool(b) for a, b in zip(x, y, strict=True)],
         [bool(a) ^ bool(b) for a, b in zip(x, y, strict=True)]]


# ---- types -----------------------------------------------------------------------------------------------------------
def infer(op: str, *types: object, **attrs: object) -> object:
    row = lookup(op)
    assert row is not None and row.infer is not None
    [result] = row.infer(types, attrs)
    return result


def test_scalar_ops_check_their_operands() -> None:
    assert infer("s.add", Scalar(F32), Scalar(F32)) == Scalar(F32)
    assert infer("s.lt", Scalar(I8), Scalar(I8)) == Scalar(BOOL)
    assert infer("s.select", Scalar(BOOL), Scalar(F16), Scalar(F16)) == Scalar(F16)
    for op, types, text in [("s.add", [F32, F64], "does not take"), ("s.add", [BOOL, BOOL], "not defined for bool"),
                            ("s.exp", [I32], "not defined for i32"), ("s.exp", [F16], "cast to f32"),
                            ("s.select", [F32, F32, F32], "does not take"), ("s.neg", [F32, F32], "does not take")]:
        with pytest.raises(TypeInferenceError, match=text):
            infer(op, *map(Scalar, types))
    with pytest.raises(TypeInferenceError, match="widths"):
        infer("s.bitcast", Scalar(F32), to=I64)
    assert infer("s.bitcast", Scalar(F32), to=U32) == Scalar(U32)


def test_every_checked_row_is_a_tensor_op() -> None:
    for name, row in SCALARS.items():
        op = all_ops().get(f"t.{name}")
        assert (op is None) == row.unchecked, name
        assert op is None or (op.has("elementwise") and op.has("pure") and op.has("commutative") == row.commutative)


def test_broadcasting_is_what_the_dims_show() -> None:
    n, m = sym("n"), sym("m")
    assert broadcast_shapes((n, 1, 4), (m, 1), ()) == (n, m, 4)
    assert broadcast_shapes((0,), (1,)) == (0,)
    assert broadcast_shapes() == ()
    assert infer("t.add", Tensor(F32, (n, 3)), Tensor(F32, (3,))) == Tensor(F32, (n, 3))
    for shapes in [((n,), (m,)), ((n,), (3,)), ((2,), (3,)), ((2,), (0,))]:
        with pytest.raises(TypeInferenceError, match=r"t\.broadcast"):
            broadcast_shapes(*shapes)
    with pytest.raises(TypeInferenceError, match="known rank"):
        infer("t.add", Tensor(F32, None), Tensor(F32, ()))


def ref(op: str, *arrays: np.ndarray, **attrs: object) -> np.ndarray:
    row = lookup(op)
    assert row is not None and row.ref is not None
    return row.ref(attrs, *arrays)


def test_narrow_types_compute_wide_and_round_back() -> None:
    bf16 = ml_dtypes.bfloat16
    x, y = np.array([1.0, 3.0e38, 256.0, 258.0], bf16), np.array([2.0**-9, 3.0e38, 1.0, 1.0], bf16)
    got = ref("t.add", x, y)
    assert got.dtype == bf16
    assert got.astype(np.float64).tolist() == [1.0, math.inf, 256.0, 260.0]          # ties to even
    assert ref("t.lt", x, y).tolist() == [False] * 4
    assert infer("t.exp", Tensor(F16, (2,))) == Tensor(F16, (2,))
    four = np.array([7, -8], ml_dtypes.int4)
    assert ref("t.add", four, four).astype(int).tolist() == [-2, 0]
    half = np.float16([1.0, np.nan])
    assert ref("t.select", np.array([True, False]), half, half).dtype == np.float16


# ---- casts -----------------------------------------------------------------------------------------------------------
def test_float_to_integer() -> None:
    x = np.array([1.9, -1.9, 200.0, -1.0, 3e9, -3e9, 1e30, math.nan, math.inf, -math.inf])
    low32, low64 = -2**31, -2**63
    want = {
        "i32": [1, -1, 200, -1, low32, low32, low32, low32, low32, low32],
        "i64": [1, -1, 200, -1, 3 * 10**9, -3 * 10**9, low64, low64, low64, low64],
        "u32": [1, 0, 200, 0, 3 * 10**9, 0, 0, 0, 0, 0],
        "i8": [1, -1, -56, -1, 0, 0, 0, 0, 0, 0],
        "u8": [1, 255, 200, 255, 0, 0, 0, 0, 0, 0],
        "i4": [1, -1, -8, -1, 0, 0, 0, 0, 0, 0],
        "u2": [1, 3, 0, 3, 0, 0, 0, 0, 0, 0],
        "bool": [1] * 10,
    }
    for name, values in want.items():
        for source in (F32, F64):
            got = convert(x.astype(source.numpy), dtype_named(name))
            assert got.astype(int).tolist() == values, (name, source)


def test_bounds_of_i64_and_u64() -> None:
    x = np.array([2.0**63, np.nextafter(2.0**63, 0), -2.0**63, np.nextafter(2.0**64, 0), 2.0**64])
    assert convert(x, I64).tolist() == [-2**63, 2**63 - 1024, -2**63, -2**63, -2**63]
    assert convert(x, U64).tolist() == [2**63, 2**63 - 1024, 0, 2**64 - 2048, 0]


def test_integers_wrap_and_bool_is_nonzero() -> None:
    assert convert(np.array([200, -1, 300], np.int64), I8).tolist() == [-56, -1, 44]
    assert convert(np.array([-1], np.int8), U64).tolist() == [2**64 - 1]
    assert convert(np.array([9, -9], np.int32), dtype_named("i4")).astype(int).tolist() == [-7, 7]
    assert convert(np.array([0.0, -0.0, math.nan, 1e-45], np.float32), BOOL).tolist() == [False, False, True, True]
    assert convert(np.array([True, False]), F16).tolist() == [1.0, 0.0]


#: The table of ONNX's Cast: [overflow, infinity, NaN, -0.0] of each f8 type, as float values (NaN printed "nan").
FLOAT8 = [
    ("f8e4m3fn", True, ["448.0", "448.0", "nan", "-0.0"]), ("f8e4m3fn", False, ["nan", "nan", "nan", "-0.0"]),
    ("f8e4m3fnuz", True, ["240.0", "240.0", "nan", "0.0"]), ("f8e4m3fnuz", False, ["nan", "nan", "nan", "0.0"]),
    ("f8e5m2", True, ["57344.0", "57344.0", "nan", "-0.0"]), ("f8e5m2", False, ["inf", "inf", "nan", "-0.0"]),
    ("f8e5m2fnuz", True, ["57344.0", "57344.0", "nan", "0.0"]), ("f8e5m2fnuz", False, ["nan", "nan", "nan", "0.0"]),
]


@pytest.mark.parametrize(("name", "saturate", "want"), FLOAT8)
@pytest.mark.parametrize("source", [F16, F32, F64], ids=str)
def test_float8_as_onnx_says(name: str, saturate: bool, want: list[str], source: DType) -> None:
    x = np.array([65504.0, math.inf, math.nan, -0.0], source.numpy)
    got = convert(x, dtype_named(name), saturate).astype(np.float64)
    assert [str(abs(v)) if math.isnan(v) else str(v) for v in got.tolist()] == want


def test_bf16_rounds_half_to_even() -> None:
    """Against the bits: add half a unit, and one more where the kept part is odd."""
    bits = np.random.default_rng(5).integers(0, 0x7F7F0000, 20000).astype(np.uint32)
    bits[::3] = (bits[::3] & 0xFFFF0000) | 0x8000               # ties
    want = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    np.testing.assert_array_equal(convert(bits.view(np.float32), dtype_named("bf16")).view(np.uint16), want)


# ---- expansions as a language ----------------------------------------------------------------------------------------
def test_terms_know_their_types() -> None:
    e = NumpyExpander(F32)
    x = Term(e, np.float32([1.0, -2.0]), F32)
    assert (x < 0.0).dtype == BOOL
    assert (~(x < 0.0)).value.tolist() == [True, False]
    bits = x.bitcast(I32)
    assert ((bits >> 31) & 1).value.tolist() == [0, 1] and (~bits).value.dtype == np.int32
    assert select(x < 0.0, 0.0, x).value.tolist() == [1.0, 0.0]
    assert (1.0 - x).value.tolist() == [0.0, 3.0] and (1.0 / x).value.tolist() == [1.0, -0.5]
    with pytest.raises(TypeError, match="term"):
        select(x < 0.0, 0.0, 1.0)
