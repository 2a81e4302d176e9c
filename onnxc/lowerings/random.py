"""Random numbers: each element is a hash of its position and of a seed that a host step draws for every run."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnxc.ir.core import Value
from onnxc.ir.dims import DimLike, product
from onnxc.ir.types import BOOL, F32, F64, I32, I64, U64, DType, dtype_of_onnx
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.table import lowering

__all__ = ["kept_share"]

# SplitMix64: a Weyl sequence of odd step and a mixing of its terms, of which every bit depends on all.
_STEP, _MIX = 0x9E3779B97F4A7C15, ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_LAST_SHIFT = 31


def _seed(b: Lowering) -> Value:
    if not b.captured or b.captured[0] is None:
        b.refuse("its random numbers need a step of the host, which stands in front of nodes of the model only")
    return b.captured[0]


def _bits(b: Lowering, shape: Sequence[DimLike], draw: int) -> Value:
    """64 random bits for each element; `draw` tells draws for the same element apart."""
    position = b.value("t.bitcast", b.iota(product(shape)), to=U64)
    place = b.map("add", b.map("mul", position, b.scalar(2, U64)), b.scalar(draw + 1, U64))
    z = b.map("add", b.reshape(_seed(b), ()), b.map("mul", place, b.scalar(_STEP, U64)))
    for shift, factor in _MIX:
        z = b.map("mul", b.map("bit_xor", z, b.map("shr", z, b.scalar(shift, U64))), b.scalar(factor, U64))
    z = b.map("bit_xor", z, b.map("shr", z, b.scalar(_LAST_SHIFT, U64)))
    return b.reshape(z, tuple(shape))


def _uniform(b: Lowering, shape: Sequence[DimLike], to: DType, draw: int = 0) -> Value:
    """Numbers in [0, 1), all multiples of the distance between the largest of them."""
    digits = {"f64": 53, "f32": 24, "f16": 11, "bf16": 8}.get(to.name, 24)
    wide = F64 if to == F64 else F32
    whole = b.value("t.bitcast", b.map("shr", _bits(b, shape, draw), b.scalar(64 - digits, U64)), to=I64)
    return b.map("mul", b.cast(whole, wide), b.scalar(2.0**-digits, wide))


def _normal(b: Lowering, shape: Sequence[DimLike], to: DType) -> Value:
    """Normal numbers of mean 0 and deviation 1, by Box and Muller."""
    wide = F64 if to == F64 else F32
    whole = b.cast(b.value("t.bitcast", b.map("shr", _bits(b, shape, 0), b.scalar(11, U64)), to=I64), wide)
    first = b.map("mul", b.map("add", whole, b.scalar(0.5, wide)), b.scalar(2.0**-53, wide))        # never 0
    radius = b.map("sqrt", b.map("mul", b.map("log", first), b.scalar(-2, wide)))
    angle = b.map("mul", _uniform(b, shape, wide, 1), b.scalar(2 * math.pi, wide))
    return b.map("mul", radius, b.map("cos", angle))


def _scaled(b: Lowering, v: Value, factor: float, offset: float, to: DType) -> Value:
    return b.cast(b.map("add", b.map("mul", v, b.scalar(factor, v)), b.scalar(offset, v)), to)


def _float_type(b: Lowering, number: int | None, like: Value | None = None) -> DType:
    dtype = b.dtype(like) if number is None and like is not None else dtype_of_onnx(number or F32.onnx)
    if not dtype.is_float or dtype.bits < 16:
        b.refuse(f"random numbers of type {dtype}")
    return dtype


@lowering
def RandomNormal(b: Lowering, *, shape: Sequence[int], dtype: int = 1, mean: float = 0.0, scale: float = 1.0,
                 seed: float | None = None) -> Value:
    to = _float_type(b, dtype)
    return _scaled(b, _normal(b, shape, to), scale, mean, to)


@lowering
def RandomNormalLike(b: Lowering, input: Value, *, dtype: int | None = None, mean: float = 0.0, scale: float = 1.0,
                     seed: float | None = None) -> Value:
    to = _float_type(b, dtype, input)
    return _scaled(b, _normal(b, b.shape(input), to), scale, mean, to)


@lowering
def RandomUniform(b: Lowering, *, shape: Sequence[int], dtype: int = 1, high: float = 1.0, low: float = 0.0,
                  seed: float | None = None) -> Value:
    to = _float_type(b, dtype)
    return _scaled(b, _uniform(b, shape, to), high - low, low, to)


@lowering
def RandomUniformLike(b: Lowering, input: Value, *, dtype: int | None = None, high: float = 1.0, low: float = 0.0,
                      seed: float | None = None) -> Value:
    to = _float_type(b, dtype, input)
    return _scaled(b, _uniform(b, b.shape(input), to), high - low, low, to)


@lowering
def Bernoulli(b: Lowering, input: Value, *, dtype: int | None = None, seed: float | None = None) -> Value:
    chance = b.widen(input)
    drawn = b.map("lt", _uniform(b, b.shape(input), b.dtype(chance)), chance)
    return b.cast(drawn, b.dtype(input) if dtype is None else dtype_of_onnx(dtype))


@lowering
def Multinomial(b: Lowering, input: Value, *, dtype: int = 6, sample_size: int = 1, seed: float | None = None) -> Value:
    """The first class up to which the chances add up to more than a uniform number."""
    to = dtype_of_onnx(dtype)
    if b.rank(input) != 2 or to not in (I32, I64):
        b.refuse(f"chances of type {input.type} and samples of type {to}; expected a matrix, and i32 or i64")
    rows, classes = b.shape(input)
    x = b.widen(input)
    chance = b.map("exp", b.map("sub", x, b.reduce(x, "max", [1])))
    sums = b.value("t.scan", chance, kind="add", axis=1, exclusive=False, reverse=False)
    last = b.value("t.slice", sums, starts=(0, classes - 1), sizes=(rows, 1), steps=(1, 1))
    drawn = b.map("mul", _uniform(b, (rows, sample_size), b.dtype(x)), last)
    below = b.map("le", b.reshape(sums, (rows, 1, classes)), b.reshape(drawn, (rows, sample_size, 1)))
    found = b.reduce(b.cast(below, to), "add", [2], keepdims=False)
    return b.map("min", found, b.cast(b.dim(classes - 1), to))


def kept_share(b: Lowering, data: Value, ratio: Value, training: Value) -> tuple[Value, Value]:
    """What a dropout in training gives, and which elements it keeps: data itself, and all, where it does not train."""
    x = b.widen(data)
    share = b.cast(b.reshape(ratio, ()), b.dtype(x))
    kept = b.map("ge", _uniform(b, b.shape(data), b.dtype(x)), share)
    kept = b.map("or", kept, b.map("not", b.cast(b.reshape(training, ()), BOOL)))
    scale = b.map("select", b.cast(b.reshape(training, ()), BOOL), b.map("sub", b.scalar(1, x), share), b.scalar(1, x))
    return b.cast(b.map("select", kept, b.map("div", x, scale), b.scalar(0, x)), b.dtype(data)), kept


