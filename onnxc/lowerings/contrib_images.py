"""Convolutions, pools, norms and crops of images of the domain com.microsoft."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxc.ir.core import Value
from onnxc.ir.types import I32
from onnxc.lowerings.activation import Swish
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.contrib_fused import FusedConv
from onnxc.lowerings.conv import channels_first, channels_last_window, windows
from onnxc.lowerings.conv_transpose import ConvTranspose
from onnxc.lowerings.norm import GroupNormalization
from onnxc.lowerings.pool import MaxPool
from onnxc.lowerings.table import lowering
from onnxc.ops.fold import least

__all__: list[str] = []


# ---- channels last -------------------------------------------------------------------------------------------------
def _first(b: Lowering, x: Value) -> Value:
    """[N, *space, C] -> [N, C, *space]."""
    if b.rank(x) < 3:
        b.refuse(f"an input of type {b.type(x)}; expected [batch, *space, channels]")
    return channels_first(b, x)


def _last(b: Lowering, y: Value) -> Value:
    return b.transpose(y, (0, *range(2, b.rank(y)), 1))


@lowering("com.microsoft.NhwcMaxPool")
def NhwcMaxPool(b: Lowering, x: Value, *, kernel_shape: Sequence[int], auto_pad: str = "NOTSET", ceil_mode: int = 0,
                dilations: Sequence[int] | None = None, pads: Sequence[int] | None = None,
                strides: Sequence[int] | None = None) -> Value:
    best, _ = MaxPool(b, _first(b, x), kernel_shape=kernel_shape, auto_pad=auto_pad, ceil_mode=ceil_mode,
                      dilations=dilations, pads=pads, strides=strides)
    return _last(b, best)


@lowering("com.microsoft.NhwcFusedConv")
def NhwcFusedConv(b: Lowering, X: Value, W: Value, B: Value | None = None, Z: Value | None = None, *,
                  activation: str = "", activation_params: Sequence[float] = (), auto_pad: str = "NOTSET",
                  dilations: Sequence[int] | None = None, group: int = 1, kernel_shape: Sequence[int] | None = None,
                  pads: Sequence[int] | None = None, strides: Sequence[int] | None = None) -> Value:
    """The weights are [outputs, channels, *size], as in ONNX."""
    out = FusedConv(b, _first(b, X), W, B, None if Z is None else _first(b, Z), activation=activation,
                    activation_params=activation_params, auto_pad=auto_pad, dilations=dilations, group=group,
                    kernel_shape=kernel_shape, pads=pads, strides=strides)
    return _last(b, out)


@lowering("com.microsoft.NhwcConv")
def NhwcConv(b: Lowering, X: Value, W: Value, B: Value | None = None, *, auto_pad: str = "NOTSET",
             dilations: Sequence[int] | None = None, group: int = 1, kernel_shape: Sequence[int] | None = None,
             pads: Sequence[int] | None = None, strides: Sequence[int] | None = None) -> Value:
    """The weights are [outputs, *size, channels]."""
    return NhwcFusedConv(b, X, _first(b, W), B, auto_pad=auto_pad, dilations=dilations, group=group,
                         kernel_shape=kernel_shape, pads=pads, strides=strides)


# ---- norms of groups of channels -----------------------------------------------------------------------------------
@lowering("com.microsoft.GroupNorm")
def GroupNorm(b: Lowering, X: Value, gamma: Value, beta: Value, *, activation: int, groups: int,
              channels_last: int = 1, epsilon: float = 1e-5) -> Value:
    if activation not in (0, 1):
        b.refuse(f"the activation {activation} is neither 0 (none) nor 1 (SiLU)")
    x = b.widen(_first(b, X) if channels_last else X)
    out = GroupNormalization(b, x, gamma, beta, num_groups=groups, epsilon=epsilon)
    out = b.cast(Swish(b, out) if activation else out, b.dtype(X))
    return _last(b, out) if channels_last else out


@lowering("com.microsoft.SkipGroupNorm")
def SkipGroupNorm(b: Lowering, X: Value, gamma: Value, beta: Value, skip: Value, bias: Value | None = None, *,
                  activation: int, groups: int, channels_last: int = 1, epsilon: float = 1e-5) -> tuple[Value, Value]:
    shape, rank = b.shape(X), b.rank(X)
    at = rank - 1 if channels_last else 1

    def beside(v: Value) -> Value:
        """One element a channel, [N, C] or [C], laid along the channels of X."""
        batch = b.shape(v)[0] if b.rank(v) == 2 else 1
        return b.reshape(v, tuple(batch if i == 0 else shape[at] if i == at else 1 for i in range(rank)))

    total = b.map("add", X, b.spread(skip if b.rank(skip) == rank else beside(skip), shape))
    if bias is not None:
        total = b.map("add", total, beside(bias))
    return GroupNorm(b, total, gamma, beta, activation=activation, groups=groups, channels_last=channels_last,
                     epsilon=epsilon), total


# ---- pools and crops -----------------------------------------------------------------------------------------------
@lowering("com.microsoft.ConvTransposeWithDynamicPads")
def ConvTransposeWithDynamicPads(b: Lowering, X: Value, W: Value, Pads: Value | None = None, B: Value | None = None, *,
                                 auto_pad: str = "NOTSET", dilations: Sequence[int] | None = None, group: int = 1,
                                 kernel_shape: Sequence[int] | None = None,
                                 output_padding: Sequence[int] | None = None,
                                 strides: Sequence[int] | None = None) -> Value:
    pads = None if Pads is None else b.dims_of(Pads, "the pads")
    return ConvTranspose(b, X, W, B, auto_pad=auto_pad, dilations=dilations, group=group, kernel_shape=kernel_shape,
                         output_padding=output_padding, pads=pads, strides=strides)  # type: ignore[arg-type]


@lowering("com.microsoft.MaxpoolWithMask")
def MaxpoolWithMask(b: Lowering, X: Value, M: Value, *, auto_pad: str = "NOTSET",
                    kernel_shape: Sequence[int] | None = None, pads: Sequence[int] | None = None,
                    storage_order: int = 0, strides: Sequence[int] | None = None) -> Value:
    """In each line of a window along the last axis the elements in front of the first whose mask is 0 count."""
    n = b.rank(X) - 2
    if n < 1 or kernel_shape is None or len(kernel_shape) != n or b.rank(M) != n + 2:
        b.refuse(f"a kernel of {kernel_shape} with a mask of type {b.type(M)} for an input of type {b.type(X)}")
    mask = b.spread(M, b.shape(X))
    w = windows(b, b.shape(X)[2:], kernel_shape, strides, None, pads, auto_pad)
    masked = channels_last_window(b, b.map("eq", mask, b.scalar(0, mask)), w, False)
    ended = b.value("t.scan", b.cast(masked, I32), kind="add", axis=2 * n, exclusive=False, reverse=False)
    view = channels_last_window(b, X, w, least(b.dtype(X)))
    lowest = b.scalar(float(np.finfo(np.float32).min), X)
    taken = b.map("select", b.map("eq", ended, b.scalar(0, I32)), view, lowest)
    best = b.reduce(taken, "max", list(range(1 + n, 1 + 2 * n)), keepdims=False)
    return channels_first(b, b.map("max", best, lowest))
