"""Arithmetic, comparisons, logic and bits, element by element with broadcasting, and conversions of element types."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from inspect import Parameter, Signature

import numpy as np

from onnxc.ir.core import Value
from onnxc.ir.types import BOOL, F32, F64, I32, I64, U8, U64, DType, dtype_of_onnx
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.table import lowering

__all__ = ["element_type", "plain"]


def plain(op: str, row: str, inputs: str) -> None:
    """Register ONNX op `op` as the elementwise op `t.<row>` of its `inputs` (their names in a text)."""
    def lower(b: Lowering, *values: Value) -> Value:
        return b.map(row, *values)

    names = ["b", *inputs.split()]
    lower.__signature__ = Signature(  # type: ignore[attr-defined]
        [Parameter(n, Parameter.POSITIONAL_OR_KEYWORD) for n in names])
    lowering(op)(lower)


for _op, _row, _inputs in (
    ("Add", "add", "A B"), ("Sub", "sub", "A B"), ("Mul", "mul", "A B"), ("Div", "div", "A B"),
    ("Exp", "exp", "input"), ("Log", "log", "input"), ("Sqrt", "sqrt", "X"), ("Erf", "erf", "input"),
    ("Floor", "floor", "X"), ("Ceil", "ceil", "X"), ("Round", "round", "X"),
    ("Sin", "sin", "input"), ("Cos", "cos", "input"), ("Tan", "tan", "input"),
    ("Asin", "asin", "input"), ("Acos", "acos", "input"), ("Atan", "atan", "input"),
    ("Sinh", "sinh", "input"), ("Cosh", "cosh", "input"),
    ("Asinh", "asinh", "input"), ("Acosh", "acosh", "input"), ("Atanh", "atanh", "input"),
    ("Equal", "eq", "A B"), ("Less", "lt", "A B"), ("LessOrEqual", "le", "A B"),
    ("Greater", "gt", "A B"), ("GreaterOrEqual", "ge", "A B"),
    ("And", "and", "A B"), ("Or", "or", "A B"), ("Xor", "xor", "A B"), ("Not", "not", "X"),
    ("BitwiseAnd", "bit_and", "A B"), ("BitwiseOr", "bit_or", "A B"), ("BitwiseXor", "bit_xor", "A B"),
    ("BitwiseNot", "bit_not", "X"), ("IsNaN", "isnan", "X"), ("Where", "select", "condition X Y"),
):
    plain(_op, _row, _inputs)


@lowering
def Abs(b: Lowering, X: Value) -> Value:
    return X if b.dtype(X).kind == "uint" else b.map("abs", X)


@lowering
def Neg(b: Lowering, X: Value) -> Value:
    return b.map("neg", X)


@lowering
def Sign(b: Lowering, input: Value) -> Value:
    if b.dtype(input).kind == "uint":
        return b.map("min", input, b.scalar(1, input))
    return b.map("sign", input)


@lowering
def Reciprocal(b: Lowering, X: Value) -> Value:
    return b.map("div", b.scalar(1, X), X)


@lowering
def IsInf(b: Lowering, X: Value, *, detect_negative: int = 1, detect_positive: int = 1) -> Value:
    found = b.map("isinf", X)
    if detect_negative and detect_positive:
        return found
    if not detect_negative and not detect_positive:
        return b.broadcast_to(b.scalar(False, BOOL), b.shape(X))
    zero = b.scalar(0, X)
    return b.map("and", found, b.map("gt", X, zero) if detect_positive else b.map("lt", X, zero))


@lowering
def Mod(b: Lowering, A: Value, B: Value, *, fmod: int = 0) -> Value:
    return b.map("fmod" if fmod else "mod", A, B)


@lowering
def BitShift(b: Lowering, X: Value, Y: Value, *, direction: str) -> Value:
    if direction not in ("LEFT", "RIGHT"):
        b.refuse(f"direction '{direction}' is neither LEFT nor RIGHT")
    return b.map("shl" if direction == "LEFT" else "shr", X, Y)


@lowering
def BitCast(b: Lowering, input: Value, *, to: int) -> Value:
    target = element_type(b, to)
    if target.bits != b.dtype(input).bits:
        b.refuse(f"{b.dtype(input)} and {target} differ in width")
    if b.dtype(input) == BOOL:
        return b.cast(input, target)
    return input if target == b.dtype(input) else b.value("t.bitcast", input, to=target)


@lowering
def Clip(b: Lowering, input: Value, min: Value | None = None, max: Value | None = None) -> Value:
    out = input
    if min is not None:
        out = b.map("max", out, _scalar_of(b, min))
    if max is not None:
        out = b.map("min", out, _scalar_of(b, max))
    return out


def _scalar_of(b: Lowering, v: Value) -> Value:
    """A value of one element as rank 0, so that it adds no axes."""
    return v if b.rank(v) == 0 else b.reshape(v, ())


# ---- powers --------------------------------------------------------------------------------------------------------
@lowering
def Pow(b: Lowering, X: Value, Y: Value) -> Value:
    base, exponent = b.dtype(X), b.dtype(Y)
    compute = base if base == exponent else _power_type(b, base, exponent, Y)
    return b.cast(b.map("pow", b.cast(X, compute), b.cast(Y, compute)), base)


def _power_type(b: Lowering, base: DType, exponent: DType, Y: Value) -> DType:
    """An element type that holds every base and exponent, so that the parity of large exponents is kept."""
    if base.is_integer and exponent.is_integer:
        return U64 if exponent == U64 else I64
    if base.is_float and exponent.is_integer:
        if base.bits < 64 and (exponent.bits <= 16 or _fits_f32(b.constant(Y))):
            return F32
        return F64
    if base.is_integer:
        return F64
    return F64 if 64 in (base.bits, exponent.bits) else F32


def _fits_f32(exponents: np.ndarray | None) -> bool:
    return exponents is not None and bool(np.all(np.abs(exponents.astype(np.float64)) <= 2 ** 24))


# ---- variadic ------------------------------------------------------------------------------------------------------
def _chain(b: Lowering, row: str, values: Sequence[Value]) -> Value:
    if not values:
        b.refuse("at least one input is needed")
    return functools.reduce(functools.partial(b.map, row), values)


@lowering
def Max(b: Lowering, *data_0: Value) -> Value:
    return _chain(b, "max", data_0)


@lowering
def Min(b: Lowering, *data_0: Value) -> Value:
    return _chain(b, "min", data_0)


def _sum(b: Lowering, values: Sequence[Value]) -> Value:
    return _chain(b, "add", [b.widen(v) for v in values])


@lowering
def Sum(b: Lowering, *data_0: Value) -> Value:
    return b.cast(_sum(b, data_0), b.dtype(data_0[0])) if data_0 else _sum(b, data_0)


@lowering
def Mean(b: Lowering, *data_0: Value) -> Value:
    total = _sum(b, data_0)
    return b.cast(b.map("div", total, b.scalar(len(data_0), total)), b.dtype(data_0[0]))


# ---- conversions ---------------------------------------------------------------------------------------------------
def element_type(b: Lowering, number: int | None) -> DType:
    """The element type of a TensorProto.DataType number given in an attribute."""
    try:
        return dtype_of_onnx(number)  # type: ignore[arg-type]
    except KeyError:
        b.refuse(f"there is no element type {number}")


def convert(b: Lowering, v: Value, to: DType, saturate: int, round_mode: str) -> Value:
    """ONNX Cast: `saturate` holds for 8-bit floats, `round_mode` for f8e8m0."""
    if "str" in (b.dtype(v).kind, to.kind):
        b.refuse(f"a conversion from {b.dtype(v)} to {to} is not supported")
    if to.name == "f8e8m0" and b.dtype(v) != to:
        return _power_of_two(b, b.cast(v, F32), to, bool(saturate), round_mode)
    return b.cast(v, to, saturate=bool(saturate))


def _power_of_two(b: Lowering, v: Value, to: DType, saturate: bool, round_mode: str) -> Value:
    """f8e8m0 is the exponent of an f32: its sign is lost, and rounding is of the fraction."""
    bits = b.value("t.bitcast", v, to=I32)
    exponent = b.map("bit_and", b.map("shr", bits, b.scalar(23, I32)), b.scalar(0xFF, I32))
    fraction, half = b.map("bit_and", bits, b.scalar(0x7FFFFF, I32)), b.scalar(0x400000, I32)
    if round_mode == "up":
        more = b.map("gt", fraction, b.scalar(0, I32))
    elif round_mode == "nearest":       # ties go up, but from the least exponent
        tie = b.map("and", b.map("eq", fraction, half), b.map("gt", exponent, b.scalar(0, I32)))
        more = b.map("or", b.map("gt", fraction, half), tie)
    elif round_mode == "down":
        more = b.scalar(False, BOOL)
    else:
        b.refuse(f"the round_mode '{round_mode}' is none of up, down, nearest")
    highest = b.scalar(0xFE if saturate else 0xFF, I32)
    code = b.map("min", b.map("add", exponent, b.cast(more, I32)), highest)
    special = b.map("eq", exponent, b.scalar(0xFF, I32))        # infinity and NaN
    return b.value("t.bitcast", b.cast(b.map("select", special, exponent, code), U8), to=to)


@lowering
def Cast(b: Lowering, input: Value, *, to: int, saturate: int = 1, round_mode: str = "up") -> Value:
    return convert(b, input, element_type(b, to), saturate, round_mode)


@lowering
def CastLike(b: Lowering, input: Value, target_type: Value, *, saturate: int = 1, round_mode: str = "up") -> Value:
    return convert(b, input, b.dtype(target_type), saturate, round_mode)
