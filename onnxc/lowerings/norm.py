"""Normalisations: by stored, by batch and by own statistics. Statistics are kept in f32 or wider and rounded once."""

from __future__ import annotations

from collections.abc import Sequence

from onnxc.ir.core import Value
from onnxc.ir.dims import floordiv, product
from onnxc.ir.types import DType, dtype_named
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.elementwise import element_type
from onnxc.lowerings.pool import p_norm
from onnxc.lowerings.table import lowering

__all__ = ["inverse_root"]


def _moments(b: Lowering, x: Value, axes: Sequence[int]) -> tuple[Value, Value, Value]:
    """Mean, x - mean, and the mean of its square, over `axes`, which stay as 1."""
    mean = b.mean(x, axes)
    centred = b.map("sub", x, mean)
    return mean, centred, b.mean(b.map("mul", centred, centred), axes)


def _deviation(b: Lowering, variance: Value, epsilon: float) -> Value:
    return b.map("sqrt", b.map("add", variance, b.scalar(epsilon, variance)))


def _affine(b: Lowering, x: Value, scale: Value, bias: Value | None) -> Value:
    """x * scale + bias in the type of `x`."""
    out = b.map("mul", x, b.cast(scale, b.dtype(x)))
    return out if bias is None else b.map("add", out, b.cast(bias, b.dtype(x)))


# ---- by stored or batch statistics ---------------------------------------------------------------------------------
@lowering
def BatchNormalization(b: Lowering, X: Value, scale: Value, B: Value, input_mean: Value, input_var: Value, *,
                       epsilon: float = 1e-5, momentum: float = 0.9,
                       training_mode: int = 0) -> Value | tuple[Value, Value, Value]:
    rank = b.rank(X)
    if rank < 2:
        b.refuse(f"an input of type {b.type(X)} has no channels")
    x = b.widen(X)
    for v in (scale, B, input_mean, input_var):
        b.guard("eq", b.type(v).size, b.shape(X)[1], "there is not one statistic for each channel")
    per_channel = [b.cast(b.per_channel(v, rank), b.dtype(x)) for v in (scale, B, input_mean, input_var)]
    factor, offset, mean, variance = per_channel
    if not training_mode:
        return b.cast(_scaled(b, x, factor, offset, mean, variance, epsilon), b.dtype(X))
    axes = [i for i in range(rank) if i != 1]
    now_mean, _, now_variance = _moments(b, x, axes)
    out = b.cast(_scaled(b, x, factor, offset, now_mean, now_variance, epsilon), b.dtype(X))
    running = []
    for old, new, like in ((mean, now_mean, input_mean), (variance, now_variance, input_var)):
        kept = b.map("add", b.map("mul", old, b.scalar(momentum, old)), b.map("mul", new, b.scalar(1 - momentum, new)))
        running.append(b.cast(b.reshape(kept, b.shape(like)), b.dtype(like)))
    return out, running[0], running[1]


def _scaled(b: Lowering, x: Value, scale: Value, bias: Value, mean: Value, variance: Value, epsilon: float) -> Value:
    """One multiplication and one addition an element: both factors are per channel, and constant when those are."""
    factor = b.map("div", scale, _deviation(b, variance, epsilon))
    return b.map("add", b.map("mul", x, factor), b.map("sub", bias, b.map("mul", mean, factor)))


# ---- by own statistics ---------------------------------------------------------------------------------------------
def _stash(b: Lowering, X: Value, stash_type: int) -> DType:
    """The type statistics are kept in: what the node asks for, and at least what X computes in."""
    own, asked = dtype_named(b.dtype(X).compute), dtype_named(element_type(b, stash_type).compute)
    if not asked.is_float:
        b.refuse(f"stash_type {asked} is no floating-point type")
    return own if own.bits >= asked.bits else asked


@lowering
def LayerNormalization(b: Lowering, X: Value, Scale: Value, B: Value | None = None, *, axis: int = -1,
                       epsilon: float = 1e-5, stash_type: int = 1) -> tuple[Value, Value, Value]:
    axes, asked = list(range(b.axis(axis, X), b.rank(X))), element_type(b, stash_type)
    mean, centred, variance = _moments(b, b.cast(X, _stash(b, X, stash_type)), axes)
    deviation = _deviation(b, variance, epsilon)
    out = b.cast(_affine(b, b.map("div", centred, deviation), Scale, B), b.dtype(X))
    inverse = b.map("div", b.scalar(1, deviation), deviation)
    return _kept_shape(b, out, X), b.cast(mean, asked), b.cast(inverse, asked)


def _kept_shape(b: Lowering, out: Value, X: Value) -> Value:
    if b.rank(out) != b.rank(X):
        b.refuse(f"scale or bias have more axes than the input of rank {b.rank(X)}")
    return b.broadcast_to(out, b.shape(X))


@lowering
def RMSNormalization(b: Lowering, X: Value, scale: Value, *, axis: int = -1, epsilon: float = 1e-5,
                     stash_type: int = 1) -> Value:
    x, root = _root(b, X, axis, epsilon, stash_type)
    return _kept_shape(b, b.cast(_affine(b, b.map("div", x, root), scale, None), b.dtype(X)), X)


def _root(b: Lowering, X: Value, axis: int, epsilon: float, stash_type: int) -> tuple[Value, Value]:
    """X in the type of its statistics, and the root of the mean of its squares."""
    axes = list(range(b.axis(axis, X), b.rank(X)))
    x = b.cast(X, _stash(b, X, stash_type))
    return x, _deviation(b, b.mean(b.map("mul", x, x), axes), epsilon)


def inverse_root(b: Lowering, X: Value, axis: int, epsilon: float, stash_type: int) -> Value:
    """What RMSNormalization multiplies with, in the type that is asked for."""
    _, root = _root(b, X, axis, epsilon, stash_type)
    return b.cast(b.map("div", b.scalar(1, root), root), element_type(b, stash_type))


@lowering
def InstanceNormalization(b: Lowering, input: Value, scale: Value, B: Value, *, epsilon: float = 1e-5) -> Value:
    rank = b.rank(input)
    if rank < 3:
        b.refuse(f"an input of type {b.type(input)} has no spatial axes")

    def body(x: Value) -> Value:
        _, centred, variance = _moments(b, x, list(range(2, rank)))
        normal = b.map("div", centred, _deviation(b, variance, epsilon))
        return _affine(b, normal, b.per_channel(scale, rank), b.per_channel(B, rank))
    return b.wide(body, input)


@lowering
def GroupNormalization(b: Lowering, X: Value, scale: Value, bias: Value, *, num_groups: int, epsilon: float = 1e-5,
                       stash_type: int = 1) -> Value:
    shape = b.shape(X)
    if len(shape) < 2 or num_groups < 1:
        b.refuse(f"{num_groups} groups of an input of type {b.type(X)}")
    share = floordiv(shape[1], num_groups)
    b.guard("eq", share * num_groups, shape[1], "the channels are not a multiple of the groups")
    x = b.reshape(b.cast(X, _stash(b, X, stash_type)), (shape[0], num_groups, share * product(shape[2:])))
    _, centred, variance = _moments(b, x, [2])
    normal = b.reshape(b.map("div", centred, _deviation(b, variance, epsilon)), shape)
    return b.cast(_affine(b, normal, b.per_channel(scale, len(shape)), b.per_channel(bias, len(shape))), b.dtype(X))


@lowering
def MeanVarianceNormalization(b: Lowering, X: Value, *, axes: Sequence[int] = (0, 2, 3)) -> Value:
    at = [b.axis(a, X) for a in axes]

    def body(x: Value) -> Value:
        _, centred, variance = _moments(b, x, at)
        return b.map("div", centred, b.map("add", b.map("sqrt", variance), b.scalar(1e-9, x)))
    return b.wide(body, X)


@lowering
def LpNormalization(b: Lowering, input: Value, *, axis: int = -1, p: int = 2) -> Value:
    at = b.axis(axis, input)
    if p not in (1, 2):
        b.refuse(f"p is {p}; it must be 1 or 2")

    def body(x: Value) -> Value:
        norm, zero = p_norm(b, x, p, [at]), b.scalar(0, x)
        return b.map("select", b.map("eq", norm, zero), zero, b.map("div", x, norm))
    return b.wide(body, input)


@lowering
def LRN(b: Lowering, X: Value, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Value:
    if b.rank(X) < 2 or size < 1:
        b.refuse(f"size {size} for an input of type {b.type(X)}")

    def body(x: Value) -> Value:
        view = b.value("t.window", b.map("mul", x, x), axes=(1,), size=(size,), stride=(1,), dilation=(1,),
                       low=((size - 1) // 2,), out=(b.shape(x)[1],), fill=0.0)
        total = b.map("mul", b.reduce(view, "add", [2], keepdims=False), b.scalar(alpha / size, x))
        return b.map("div", x, b.map("pow", b.map("add", total, b.scalar(bias, x)), b.scalar(beta, x)))
    return b.wide(body, X)
