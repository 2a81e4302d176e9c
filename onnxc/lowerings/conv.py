"""Convolutions: a window view of channels-last activations, contracted with the weights.

`Conv` moves channels last around its contraction; the layout pass sinks and cancels those transposes.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxc.ir.core import Value
from onnxc.ir.dims import DimLike, ceildiv, dim_max, dim_min, floordiv
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.matmul import contract
from onnxc.lowerings.table import lowering

__all__ = ["Windows", "channels_first", "channels_last_window", "convolve", "windows"]

_SPACE, _KERNEL = "stuvw", "hijkl"


class Windows:
    """Geometry of sliding windows over the spatial axes: one entry an axis."""

    def __init__(self, size: Sequence[int], stride: Sequence[int], dilation: Sequence[int], low: Sequence[DimLike],
                 high: Sequence[DimLike], out: Sequence[DimLike]) -> None:
        self.size, self.stride, self.dilation = tuple(size), tuple(stride), tuple(dilation)
        self.low, self.high, self.out = tuple(low), tuple(high), tuple(out)


def windows(b: Lowering, space: Sequence[DimLike], size: Sequence[int], strides: Sequence[int] | None,
            dilations: Sequence[int] | None, pads: Sequence[int] | None, auto_pad: str, ceil: bool = False) -> Windows:
    """Resolve ONNX's strides, dilations, pads, auto_pad and ceil_mode for spatial dims `space`."""
    n = len(space)
    stride, dilation = list(strides or [1] * n), list(dilations or [1] * n)
    if not len(size) == len(stride) == len(dilation) == n:
        b.refuse(f"kernel {list(size)}, strides {stride} and dilations {dilation} for {n} spatial axes")
    if any(v < 1 for v in (*size, *stride, *dilation)):
        b.refuse(f"kernel {list(size)}, strides {stride} and dilations {dilation} must be positive")
    if pads is not None and len(pads) != 2 * n:
        b.refuse(f"{len(pads)} pads for {n} spatial axes")
    if auto_pad not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        b.refuse(f"auto_pad '{auto_pad}' is not known")
    low: list[DimLike] = list(pads[:n]) if pads is not None and auto_pad == "NOTSET" else [0] * n
    high: list[DimLike] = list(pads[n:]) if pads is not None and auto_pad == "NOTSET" else [0] * n
    out: list[DimLike] = []
    for i in range(n):
        reach = (size[i] - 1) * dilation[i] + 1
        if auto_pad.startswith("SAME"):
            places = (space[i] + stride[i] - 1) // stride[i]
            total = dim_max((places - 1) * stride[i] + reach - space[i], 0)
            small = total // 2
            low[i], high[i] = (small, total - small) if auto_pad == "SAME_UPPER" else (total - small, small)
        else:
            places = _positions(space[i], low[i], high[i], reach, stride[i], ceil and auto_pad == "NOTSET")
        out.append(places)
    return Windows(size, stride, dilation, low, high, out)


def _positions(extent: DimLike, low: DimLike, high: DimLike, reach: int, stride: int, ceil: bool) -> DimLike:
    """How many windows fit; none when the first does not."""
    room = extent + low + high - reach
    places = (ceildiv if ceil else floordiv)(room, stride) + 1
    if ceil and stride > 1:
        # The last window must start inside the input or the low pad.
        places = dim_min(places, ceildiv(extent + low, stride))
    return dim_max(places, 0)


def channels_last_window(b: Lowering, x: Value, w: Windows, fill: float | int | bool = 0) -> Value:
    """[N, C, *space] -> [N, *out, *size, C]."""
    n = len(w.size)
    last = b.transpose(x, (0, *range(2, n + 2), 1))
    return b.value("t.window", last, axes=tuple(range(1, n + 1)), size=w.size, stride=w.stride, dilation=w.dilation,
                   low=w.low, out=w.out, fill=fill)


def channels_first(b: Lowering, y: Value) -> Value:
    """[N, *space, C] -> [N, C, *space]."""
    rank = b.rank(y)
    return b.transpose(y, (0, rank - 1, *range(1, rank - 1)))


@lowering
def Conv(b: Lowering, X: Value, W: Value, B: Value | None = None, *, auto_pad: str = "NOTSET",
         dilations: Sequence[int] | None = None, group: int = 1, kernel_shape: Sequence[int] | None = None,
         pads: Sequence[int] | None = None, strides: Sequence[int] | None = None) -> Value:
    return convolve(b, X, W, B, auto_pad, dilations, group, kernel_shape, pads, strides)


def convolve(b: Lowering, X: Value, W: Value, B: Value | None, auto_pad: str, dilations: Sequence[int] | None,
             group: int, kernel_shape: Sequence[int] | None, pads: Sequence[int] | None,
             strides: Sequence[int] | None) -> Value:
    """A convolution [N, C, *space] * [O, C/group, *size] -> [N, O, *out], with the attributes of ONNX's Conv."""
    x, weights = b.shape(X), b.shape(W)
    n = len(x) - 2
    if n < 1 or len(weights) != n + 2 or n > len(_SPACE):
        b.refuse(f"input of rank {len(x)} with weights of rank {len(weights)}")
    size = [d for d in weights[2:] if isinstance(d, int)]
    if len(size) != n or (kernel_shape and list(kernel_shape) != size):
        b.refuse(f"weights of type {b.type(W)} for a kernel of {kernel_shape or 'that size'}")
    b.guard("eq", x[1], weights[1] * group, "the input's channels differ from those of the weights times the groups")
    outs = weights[0]
    if group < 1 or (isinstance(outs, int) and outs % group):
        b.refuse(f"{outs} output channels in {group} groups")
    out = _products(b, X, W, windows(b, x[2:], size, strides, dilations, pads, auto_pad), group)
    if B is not None:
        out = b.map("add", out, b.cast(B, b.dtype(out)))
    return channels_first(b, b.cast(out, b.dtype(X)))


def _products(b: Lowering, X: Value, W: Value, w: Windows, group: int) -> Value:
    """Channels-last sums, without bias."""
    n, outs = len(w.size), b.shape(W)[0]
    space, kernel = _SPACE[:n], _KERNEL[:n]
    view = channels_last_window(b, X, w)
    order = (*range(2, n + 2), 1, 0)
    if group == 1:
        return contract(b, view, b.transpose(W, order), f"n{space}{kernel}c,{kernel}co->n{space}o")
    # Weights lie with their groups innermost: a depthwise kernel reads them, as its input, along the channels.
    per_in, per_out = b.shape(W)[1], outs // group
    taps = tuple(range(3, n + 3))
    if per_in == 1 and per_out == 1:
        weights = b.transpose(b.reshape(W, (outs, *w.size)), (*range(1, n + 1), 0))
        return contract(b, view, weights, f"n{space}{kernel}g,{kernel}g->n{space}g")
    view = b.reshape(view, (*b.shape(view)[:-1], group, per_in))
    weights = b.transpose(b.reshape(W, (group, per_out, per_in, *w.size)), (*taps, 2, 0, 1))
    out = contract(b, view, weights, f"n{space}{kernel}gc,{kernel}cgo->n{space}go")
    return b.reshape(out, (*b.shape(out)[:-2], outs))
