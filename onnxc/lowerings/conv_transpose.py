"""ConvTranspose as a convolution that makes one output position of each phase of the stride at once.

With stride s an output position is q*s + p. Its value sums x[q - j] * w[j*s + p] over j: a convolution of stride 1 with
s times the output channels, whose phases p are then laid side by side. No zero is inserted and multiplied.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxc.ir.core import Value
from onnxc.ir.dims import DimLike, ceildiv
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.conv import Windows, channels_first, channels_last_window
from onnxc.lowerings.matmul import contract
from onnxc.lowerings.table import lowering

__all__: list[str] = []

_SPACE, _KERNEL, _PHASE = "stuvw", "hijkl", "pqrxy"


@lowering
def ConvTranspose(b: Lowering, X: Value, W: Value, B: Value | None = None, *, auto_pad: str = "NOTSET",
                  dilations: Sequence[int] | None = None, group: int = 1, kernel_shape: Sequence[int] | None = None,
                  output_padding: Sequence[int] | None = None, output_shape: Sequence[int] | None = None,
                  pads: Sequence[int] | None = None, strides: Sequence[int] | None = None) -> Value:
    x, weights = b.shape(X), b.shape(W)
    n = len(x) - 2
    size = [d for d in weights[2:] if isinstance(d, int)]
    if n < 1 or n > len(_SPACE) or len(size) != n or (kernel_shape and list(kernel_shape) != size) or group < 1:
        b.refuse(f"weights of type {b.type(W)} and {group} groups for an input of type {b.type(X)}")
    stride, dilation = list(strides or [1] * n), list(dilations or [1] * n)
    extra = list(output_padding or [0] * n)
    if not len(stride) == len(dilation) == len(extra) == n or min(*stride, *dilation, *size) < 1:
        b.refuse(f"strides {stride}, dilations {dilation}, output_padding {extra} for {n} spatial axes")
    b.guard("eq", x[1], weights[0], "the channels of the input differ from those of the weights")
    natural = [(x[2 + i] - 1) * stride[i] + extra[i] + (size[i] - 1) * dilation[i] + 1 for i in range(n)]
    low, out = _placement(b, x[2:], natural, stride, auto_pad, output_shape, pads)
    y = _phases(b, X, W, group, stride, dilation)
    have = b.shape(y)[1:-1]
    y = b.value("t.pad", y, None, low=(0, *(p * -1 for p in low), 0),
                high=(0, *(o + p - h for o, p, h in zip(out, low, have, strict=True)), 0), mode="constant")
    y = y if B is None else b.map("add", y, b.cast(B, b.dtype(y)))
    return channels_first(b, b.cast(y, b.dtype(X)))


def _placement(b: Lowering, space: Sequence[DimLike], natural: Sequence[DimLike], stride: Sequence[int], auto_pad: str,
               output_shape: Sequence[int] | None, pads: Sequence[int] | None) -> tuple[list[DimLike], list[DimLike]]:
    """How much is cut in front, and how much is kept, of the natural output along each axis."""
    n = len(natural)
    if auto_pad not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        b.refuse(f"auto_pad '{auto_pad}' is not known")
    if output_shape or auto_pad.startswith("SAME"):
        out: list[DimLike] = [d * s for d, s in zip(space, stride, strict=True)]
        out[:] = output_shape[-n:] if output_shape else out
        cut = [full - o for full, o in zip(natural, out, strict=True)]
        return [c // 2 if auto_pad == "SAME_UPPER" else c - c // 2 for c in cut], out
    margin = list(pads or [0] * (2 * n)) if auto_pad == "NOTSET" else [0] * (2 * n)
    if len(margin) != 2 * n:
        b.refuse(f"{len(margin)} pads for {n} spatial axes")
    low: list[DimLike] = list(margin[:n])
    return low, [full - margin[i] - margin[n + i] for i, full in enumerate(natural)]


def _phases(b: Lowering, X: Value, W: Value, group: int, stride: Sequence[int], dilation: Sequence[int]) -> Value:
    """All the sums from output position 0 on, [N, *at least natural, O]."""
    n, x = len(stride), b.shape(X)
    weights, taps = _phase_weights(b, W, group, stride, dilation)
    places = tuple(d + t - 1 for d, t in zip(x[2:], taps, strict=True))
    view = channels_last_window(b, X, Windows(taps, (1,) * n, (1,) * n, tuple(t - 1 for t in taps),
                                              tuple(t - 1 for t in taps), places))
    view = b.reshape(view, (*b.shape(view)[:-1], group, b.shape(W)[0] // group))
    space, kernel, phase = _SPACE[:n], _KERNEL[:n], _PHASE[:n]
    out = contract(b, view, weights, f"n{space}{kernel}gc,g{kernel}c{phase}o->n{space}{phase}go")
    order = [0, *(a for i in range(n) for a in (1 + i, 1 + n + i)), 1 + 2 * n, 2 + 2 * n]
    shape = (x[0], *(p * s for p, s in zip(places, stride, strict=True)), b.shape(W)[1] * group)
    return b.reshape(b.transpose(out, order), shape)


def _phase_weights(b: Lowering, W: Value, group: int, stride: Sequence[int],
                   dilation: Sequence[int]) -> tuple[Value, tuple[int, ...]]:
    """Weights [C, O/g, *size] as [g, *taps, C/g, *phases, O/g], the taps last to first, and how many taps there are."""
    n, shape = len(stride), b.shape(W)
    if not isinstance(shape[0], int) or not isinstance(shape[1], int) or shape[0] % group:
        b.refuse(f"weights of type {b.type(W)} in {group} groups")
    w = b.reshape(W, (group, shape[0] // group, shape[1], *shape[2:]))
    for i, d in enumerate(dilation):
        w = _zeros_between(b, w, 3 + i, d)
    reach = [(int(size) - 1) * d + 1 for size, d in zip(shape[2:], dilation, strict=True)]  # type: ignore[arg-type]
    taps = tuple(ceildiv(r, s) for r, s in zip(reach, stride, strict=True))
    lead = (0, 0, 0)
    w = b.value("t.pad", w, None, low=(*lead, *(0,) * n), mode="constant",
                high=(*lead, *(t * s - r for t, s, r in zip(taps, stride, reach, strict=True))))
    w = b.reshape(w, (*b.shape(w)[:3], *(d for pair in zip(taps, stride, strict=True) for d in pair)))
    order = (0, *(3 + 2 * i for i in range(n)), 1, *(4 + 2 * i for i in range(n)), 2)
    w = b.transpose(w, order)
    dims = b.shape(w)
    flipped = range(1, n + 1)
    w = b.value("t.slice", w, starts=tuple(d - 1 if i in flipped else 0 for i, d in enumerate(dims)), sizes=dims,
                steps=tuple(-1 if i in flipped else 1 for i in range(len(dims))))
    return w, taps  # type: ignore[return-value]


def _zeros_between(b: Lowering, v: Value, axis: int, distance: int) -> Value:
    """Elements of `axis` moved apart to `distance`, zeros between them."""
    if distance == 1:
        return v
    shape = b.shape(v)
    apart = b.reshape(v, (*shape[:axis + 1], 1, *shape[axis + 1:]))
    rank = len(shape) + 1
    apart = b.value("t.pad", apart, None, low=(0,) * rank, mode="constant",
                    high=tuple(distance - 1 if i == axis + 1 else 0 for i in range(rank)))
    spread = b.reshape(apart, (*shape[:axis], shape[axis] * distance, *shape[axis + 1:]))
    kept = (*shape[:axis], (shape[axis] - 1) * distance + 1, *shape[axis + 1:])
    return b.value("t.slice", spread, starts=(0,) * len(shape), sizes=kept, steps=(1,) * len(shape))
