"""Pooling: folds over sliding windows, and over whole images."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnxc.ir.core import Value
from onnxc.ir.dims import DimLike, product
from onnxc.ir.types import I64
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.conv import Windows, channels_first, channels_last_window, windows
from onnxc.lowerings.table import lowering
from onnxc.ops.fold import least

__all__: list[str] = []


def _windows(b: Lowering, X: Value, kernel: Sequence[int], strides: Sequence[int] | None,
             dilations: Sequence[int] | None, pads: Sequence[int] | None, auto_pad: str, ceil_mode: int) -> Windows:
    space = b.shape(X)[2:]
    if not space or len(kernel) != len(space):
        b.refuse(f"a kernel of {list(kernel)} for an input of type {b.type(X)}")
    return windows(b, space, kernel, strides, dilations, pads, auto_pad, bool(ceil_mode))


def _inner(w: Windows) -> list[int]:
    """The axes of a view [N, *out, *size, C] that run inside a window."""
    return list(range(1 + len(w.size), 1 + 2 * len(w.size)))


def _space(b: Lowering, X: Value) -> list[int]:
    if b.rank(X) < 3:
        b.refuse(f"an input of type {b.type(X)} has no spatial axes")
    return list(range(2, b.rank(X)))


# ---- maximum -------------------------------------------------------------------------------------------------------
@lowering
def MaxPool(b: Lowering, X: Value, *, kernel_shape: Sequence[int], auto_pad: str = "NOTSET", ceil_mode: int = 0,
            dilations: Sequence[int] | None = None, pads: Sequence[int] | None = None, storage_order: int = 0,
            strides: Sequence[int] | None = None) -> tuple[Value, Value | None]:
    w = _windows(b, X, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    view = channels_last_window(b, X, w, least(b.dtype(X)))
    best = channels_first(b, b.reduce(view, "max", _inner(w), keepdims=False))
    return best, _origin(b, X, view, w, storage_order) if b.wants(1) else None


def _origin(b: Lowering, X: Value, view: Value, w: Windows, column_major: int) -> Value:
    """The position in the whole of X of each window's first maximum, as if X were flat. [N, C, *out]"""
    n, shape = len(w.size), b.shape(X)
    flat_view = b.reshape(view, (shape[0], *w.out, math.prod(w.size), shape[1]))
    step = channels_first(b, b.value("t.argreduce", flat_view, kind="max", axis=1 + n, last=False))
    strides = _flat_strides(shape[2:], bool(column_major))
    image = b.map("add", b.map("mul", b.iota(shape[0], 2 + n, 0), b.dim(shape[1])), b.iota(shape[1], 2 + n, 1))
    flat = b.map("mul", image, b.dim(product(shape[2:])))
    for i in range(n):
        taps = math.prod(w.size[i + 1:])
        tap = b.map("mod", b.map("div", step, b.scalar(taps, I64)), b.scalar(w.size[i], I64))
        first = b.map("mul", b.iota(w.out[i], 2 + n, 2 + i), b.scalar(w.stride[i], I64))
        at = b.map("add", b.map("sub", first, b.dim(w.low[i])), b.map("mul", tap, b.scalar(w.dilation[i], I64)))
        flat = b.map("add", flat, b.map("mul", at, b.dim(strides[i])))
    return flat


def _flat_strides(space: Sequence[DimLike], column_major: bool) -> list[DimLike]:
    n = len(space)
    return [product(space[:i] if column_major else space[i + 1:]) for i in range(n)]


@lowering
def GlobalMaxPool(b: Lowering, X: Value) -> Value:
    return b.reduce(X, "max", _space(b, X))


# ---- mean ----------------------------------------------------------------------------------------------------------
@lowering
def AveragePool(b: Lowering, X: Value, *, kernel_shape: Sequence[int], auto_pad: str = "NOTSET", ceil_mode: int = 0,
                count_include_pad: int = 0, dilations: Sequence[int] | None = None, pads: Sequence[int] | None = None,
                strides: Sequence[int] | None = None) -> Value:
    w = _windows(b, X, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)

    def body(x: Value) -> Value:
        total = b.reduce(channels_last_window(b, x, w), "add", _inner(w), keepdims=False)
        return channels_first(b, b.map("div", total, _count(b, x, w, bool(count_include_pad), bool(ceil_mode))))
    return b.wide(body, X)


def _count(b: Lowering, X: Value, w: Windows, with_pads: bool, ceil: bool) -> Value:
    """How many elements each window averages: those of X, and of its pads if they count; never what lies beyond.

    A scalar, or [1, *out, 1].
    """
    if not ceil and (with_pads or all(p == 0 for p in (*w.low, *w.high))):
        return b.scalar(math.prod(w.size), X)
    one = b.scalar(1, X)
    ones = b.broadcast_to(one, (1, 1, *b.shape(X)[2:]))
    low = w.low
    if with_pads:
        ones = b.value("t.pad", ones, one, low=(0, 0, *w.low), high=(0, 0, *w.high), mode="constant")
        low = (0,) * len(w.low)
    view = channels_last_window(b, ones, Windows(w.size, w.stride, w.dilation, low, w.high, w.out))
    return b.reduce(view, "add", _inner(w), keepdims=False)


@lowering
def GlobalAveragePool(b: Lowering, X: Value) -> Value:
    return b.wide(lambda x: b.mean(x, _space(b, X)), X)


# ---- p-norm --------------------------------------------------------------------------------------------------------
@lowering
def LpPool(b: Lowering, X: Value, *, kernel_shape: Sequence[int], auto_pad: str = "NOTSET", ceil_mode: int = 0,
           dilations: Sequence[int] | None = None, p: int = 2, pads: Sequence[int] | None = None,
           strides: Sequence[int] | None = None) -> Value:
    w = _windows(b, X, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)

    def body(x: Value) -> Value:
        return channels_first(b, p_norm(b, channels_last_window(b, x, w), p, _inner(w), keepdims=False))
    return b.wide(body, X)


@lowering
def GlobalLpPool(b: Lowering, X: Value, *, p: int = 2) -> Value:
    return b.wide(lambda x: p_norm(b, x, p, _space(b, X)), X)


def p_norm(b: Lowering, x: Value, p: int, axes: Sequence[int], keepdims: bool = True) -> Value:
    """(sum |x|^p)^(1/p) over `axes`."""
    if p < 1:
        b.refuse(f"a norm of order {p}")
    size = b.map("abs", x)
    if p == 1:
        return b.reduce(size, "add", axes, keepdims)
    if p == 2:
        return b.map("sqrt", b.reduce(b.map("mul", x, x), "add", axes, keepdims))
    total = b.reduce(b.map("pow", size, b.scalar(p, x)), "add", axes, keepdims)
    return b.map("pow", total, b.scalar(1 / p, x))
