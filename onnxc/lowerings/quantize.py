"""Quantisation: conversions to and from narrow types by scale and zero point, and integer products."""

from __future__ import annotations

from collections.abc import Sequence

from onnxc.ir.core import Value
from onnxc.ir.dims import ceildiv
from onnxc.ir.types import F32, I32, U8, DType, dtype_named
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.conv import convolve
from onnxc.lowerings.elementwise import element_type
from onnxc.lowerings.matmul import MatMul
from onnxc.lowerings.table import lowering

__all__ = ["dynamic_bytes", "spread_scale"]


def spread_scale(b: Lowering, v: Value, like: Value, axis: int, block_size: int) -> Value:
    """A scale or zero point laid out to combine with `like`: one for all, one a slice of `axis`, or one a block."""
    if b.rank(v) == 0 or (b.rank(v) == 1 and b.shape(v)[0] == 1):
        return b.reshape(v, ())
    at = b.axis(axis, like)
    if block_size == 0:
        b.guard("eq", b.shape(v)[0], b.shape(like)[at], f"there is not one scale for each slice of axis {at}")
        return b.per_channel(v, b.rank(like), at)
    have, want = b.shape(v), b.shape(like)
    if block_size < 0 or len(have) != len(want):
        b.refuse(f"blocks of {block_size} with a scale of type {b.type(v)} for a value of type {b.type(like)}")
    b.guard("eq", have[at], ceildiv(want[at], block_size), f"there is not one scale for each block of axis {at}")
    repeated = b.broadcast_to(b.reshape(v, (*have[:at + 1], 1, *have[at + 1:])),
                              (*have[:at + 1], block_size, *have[at + 1:]))
    whole = b.reshape(repeated, (*have[:at], have[at] * block_size, *have[at + 1:]))
    if b.shape(whole)[at] == want[at]:
        return whole
    sizes = (*have[:at], want[at], *have[at + 1:])
    return b.value("t.slice", whole, starts=(0,) * len(have), sizes=sizes, steps=(1,) * len(have))


def _narrow(b: Lowering, x: Value, zero: Value | None, to: DType, saturate: bool = True) -> Value:
    """`x`, already divided by the scale, as `to`: integers are rounded half to even, moved by `zero` and clamped.

    It is clamped before it is rounded, to integers, which gives the same and keeps what is rounded within i32."""
    if not to.is_integer:
        y = b.widen(x)
        return b.cast(y if zero is None else b.map("add", y, b.cast(zero, b.dtype(y))), to, saturate=saturate)
    y = b.widen(x)
    least, most = (b.scalar(limit, y) for limit in _limits(to))
    if zero is not None:
        offset = b.cast(zero, b.dtype(y))
        least, most = b.map("sub", least, offset), b.map("sub", most, offset)
    rounded = b.cast(b.map("round", b.map("min", b.map("max", y, least), most)), I32)
    return b.cast(rounded if zero is None else b.map("add", rounded, b.cast(zero, I32)), to)


def _limits(to: DType) -> tuple[int, int]:
    top = 1 << (to.bits - 1 if to.is_signed else to.bits)
    return (-top if to.is_signed else 0), top - 1


@lowering
def QuantizeLinear(b: Lowering, x: Value, y_scale: Value, y_zero_point: Value | None = None, *, axis: int = 1,
                   block_size: int = 0, output_dtype: int = 0, precision: int = 0, saturate: int = 1) -> Value:
    to = element_type(b, output_dtype) if output_dtype else U8 if y_zero_point is None else b.dtype(y_zero_point)
    if y_zero_point is not None and b.dtype(y_zero_point) != to:
        b.refuse(f"output_dtype {to} with a zero point of {b.dtype(y_zero_point)}")
    compute = element_type(b, precision) if precision else b.dtype(y_scale)
    if not compute.is_float or compute.bits < 16:
        compute = F32
    scale = spread_scale(b, b.cast(y_scale, compute), x, axis, block_size)
    zero = None if y_zero_point is None else spread_scale(b, y_zero_point, x, axis, block_size)
    return _narrow(b, b.map("div", b.cast(x, compute), scale), zero, to, bool(saturate))


@lowering
def DequantizeLinear(b: Lowering, x: Value, x_scale: Value, x_zero_point: Value | None = None, *, axis: int = 1,
                     block_size: int = 0, output_dtype: int = 0) -> Value:
    to = element_type(b, output_dtype) if output_dtype else b.dtype(x_scale)
    carrier = I32 if b.dtype(x).is_integer else F32
    y = b.cast(x, carrier)
    if x_zero_point is not None:
        y = b.map("sub", y, b.cast(spread_scale(b, x_zero_point, x, axis, block_size), carrier))
    compute = dtype_named(to.compute)
    scale = b.cast(spread_scale(b, x_scale, x, axis, block_size), compute)
    return b.cast(b.map("mul", b.cast(y, compute), scale), to)


@lowering
def DynamicQuantizeLinear(b: Lowering, x: Value) -> tuple[Value, Value, Value]:
    return dynamic_bytes(b, x, list(range(b.rank(x))), keepdims=False)


def dynamic_bytes(b: Lowering, x: Value, axes: Sequence[int], keepdims: bool = True) -> tuple[Value, Value, Value]:
    """`x` as bytes between the least and the most over `axes` and 0, with their scale and zero point."""
    zero = b.scalar(0, x)
    low = b.map("min", b.reduce(x, "min", axes, keepdims), zero)
    high = b.map("max", b.reduce(x, "max", axes, keepdims), zero)
    scale = b.map("div", b.map("sub", high, low), b.scalar(255, x))
    scale = b.map("select", b.map("eq", low, high), b.scalar(1, x), scale)      # of zeros
    zero_point = _narrow(b, b.map("div", b.map("sub", zero, low), scale), None, U8)
    return _narrow(b, b.map("div", x, scale), zero_point, U8), scale, zero_point


# ---- integer products ----------------------------------------------------------------------------------------------
def _centred(b: Lowering, v: Value, zero: Value | None, axis: int) -> Value:
    """`v` - `zero` in i32 (f32 for 8-bit floats); a vector of zero points runs along `axis`."""
    carrier = I32 if b.dtype(v).is_integer else F32
    wide = b.cast(v, carrier)
    return wide if zero is None else b.map("sub", wide, b.cast(_along(b, zero, v, axis), carrier))


def _along(b: Lowering, v: Value, like: Value, axis: int) -> Value:
    """A parameter of a matrix: a scalar, a vector along `axis` (counted from the end), or of the rank of the matrix."""
    if b.rank(v) == 0 or (b.rank(v) == 1 and b.shape(v)[0] == 1):
        return b.reshape(v, ())
    return b.reshape(v, (*b.shape(v), 1)) if b.rank(v) == 1 and axis == -2 and b.rank(like) > 1 else v


@lowering
def MatMulInteger(b: Lowering, A: Value, B: Value, a_zero_point: Value | None = None,
                  b_zero_point: Value | None = None) -> Value:
    return MatMul(b, _centred(b, A, a_zero_point, -2), _centred(b, B, b_zero_point, -1))


@lowering
def QLinearMatMul(make: Lowering, a: Value, a_scale: Value, a_zero_point: Value, b: Value, b_scale: Value,
                  b_zero_point: Value, y_scale: Value, y_zero_point: Value) -> Value:
    total = MatMul(make, _centred(make, a, a_zero_point, -2), _centred(make, b, b_zero_point, -1))
    factors = (make.cast(_along(make, s, v, axis), F32)
               for s, v, axis in ((a_scale, a, -2), (b_scale, b, -1), (y_scale, total, -2)))
    left, right, out = factors
    scaled = make.map("mul", make.cast(total, F32), make.map("div", make.map("mul", left, right), out))
    return _narrow(make, scaled, _along(make, y_zero_point, total, -2), make.dtype(y_zero_point))


@lowering
def ConvInteger(b: Lowering, x: Value, w: Value, x_zero_point: Value | None = None,
                w_zero_point: Value | None = None, *, auto_pad: str = "NOTSET",
                dilations: Sequence[int] | None = None, group: int = 1, kernel_shape: Sequence[int] | None = None,
                pads: Sequence[int] | None = None, strides: Sequence[int] | None = None) -> Value:
    return convolve(b, _centred(b, x, x_zero_point, -1), _centred_weights(b, w, w_zero_point), None, auto_pad,
                    dilations, group, kernel_shape, pads, strides)


def _centred_weights(b: Lowering, w: Value, zero: Value | None) -> Value:
    wide = b.cast(w, I32)
    return wide if zero is None else b.map("sub", wide, b.cast(spread_scale(b, zero, w, 0, 0), I32))


@lowering
def QLinearConv(b: Lowering, x: Value, x_scale: Value, x_zero_point: Value, w: Value, w_scale: Value,
                w_zero_point: Value, y_scale: Value, y_zero_point: Value, B: Value | None = None, *,
                auto_pad: str = "NOTSET", dilations: Sequence[int] | None = None, group: int = 1,
                kernel_shape: Sequence[int] | None = None, pads: Sequence[int] | None = None,
                strides: Sequence[int] | None = None) -> Value:
    total = convolve(b, _centred(b, x, x_zero_point, -1), _centred_weights(b, w, w_zero_point), B, auto_pad, dilations,
                     group, kernel_shape, pads, strides)
    scale = b.map("mul", b.reshape(x_scale, ()), spread_scale(b, w_scale, total, 1, 0))
    factor = b.map("div", scale, b.reshape(y_scale, ()))
    return _narrow(b, b.map("mul", b.cast(total, F32), factor), b.reshape(y_zero_point, ()), b.dtype(y_zero_point))
