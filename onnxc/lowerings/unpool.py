"""The opposite of windows and pools: Col2Im adds columns up to an image, MaxUnpool puts maxima back."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnxc.ir.core import Value
from onnxc.ir.dims import DimLike, product
from onnxc.ir.types import I64
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.conv import windows
from onnxc.lowerings.data_sizes import sizes_of
from onnxc.lowerings.table import lowering

__all__: list[str] = []


@lowering
def Col2Im(b: Lowering, input: Value, image_shape: Value, block_shape: Value, *, dilations: Sequence[int] | None = None,
           pads: Sequence[int] | None = None, strides: Sequence[int] | None = None) -> Value:
    """Each pixel gathers from the windows that it lies in."""
    image, block = sizes_of(b, image_shape, "a size of the image"), b.ints_of(block_shape, "a size of the block") or []
    if b.rank(input) != 3 or len(image) != len(block) or not block:
        b.refuse(f"columns of type {b.type(input)} with blocks of {block} for an image of {len(image)} axes")
    frame, taps, n = windows(b, image, block, strides, dilations, pads, "NOTSET"), math.prod(block), len(block)
    batch, planes, places = b.shape(input)
    b.guard("eq", places, product(frame.out), "there is not one column for each place of the block")
    if isinstance(planes, int) and planes % taps:
        b.refuse(f"{planes} rows for blocks of {taps} elements")
    place, there = b.scalar(0, I64), None
    inside = np.indices(block).reshape(n, taps)
    for axis in range(n):
        moved = b.const((frame.low[axis] - inside[axis] * frame.dilation[axis]).astype(np.int64))
        position = b.map("add", b.iota(image[axis], n + 1, axis), moved)
        step = b.scalar(frame.stride[axis], I64)
        number = b.map("div", position, step)
        whole = b.map("eq", b.map("mul", number, step), position)
        fits = b.map("and", b.map("ge", position, b.scalar(0, I64)), b.map("lt", number, b.dim(frame.out[axis])))
        fits = b.map("and", whole, fits)
        there = fits if there is None else b.map("and", there, fits)
        place = b.map("add", b.map("mul", place, b.dim(frame.out[axis])), number)
    assert there is not None
    place = b.map("add", b.map("mul", b.iota(taps, n + 1, n), b.dim(places)), place)
    columns = b.reshape(b.widen(input), (batch, planes // taps, taps * places))
    where = b.map("select", there, place, b.scalar(0, I64))
    taken = b.value("t.gather", columns, where, axis=2)
    kept = b.map("select", there, taken, b.scalar(0, taken))
    return b.cast(b.reduce(kept, "add", [n + 2], keepdims=False), b.dtype(input))


@lowering
def MaxUnpool(b: Lowering, X: Value, I: Value, output_shape: Value | None = None, *,  # noqa: E741
              kernel_shape: Sequence[int], pads: Sequence[int] | None = None,
              strides: Sequence[int] | None = None) -> Value:
    """Indices count in the shape that kernel and strides give; an output of another shape holds it at its start."""
    n = b.rank(X) - 2
    low = list(pads or [0] * 2 * n)
    step = list(strides or [1] * n)
    if n < 1 or len(kernel_shape) != n or len(low) != 2 * n or len(step) != n:
        b.refuse(f"kernel {list(kernel_shape)}, strides {step} and pads {low} for an input of type {b.type(X)}")
    shape: list[DimLike] = [*b.shape(X)[:2], *(
        (d - 1) * step[i] - low[i] - low[n + i] + kernel_shape[i] for i, d in enumerate(b.shape(X)[2:]))]
    count = b.type(X).size
    b.guard("eq", b.type(I).size, count, "there is not one index for each element")
    zeros = b.broadcast_to(b.scalar(0, X), (product(shape),))
    flat = b.value("t.scatter_elements", zeros, b.reshape(b.cast(I, I64), (count,)), b.reshape(X, (count,)), axis=0,
                   reduction="none")
    out = b.reshape(flat, shape)
    if output_shape is None:
        return out
    wanted = sizes_of(b, output_shape, "a size of the output")
    if len(wanted) != n + 2:
        b.refuse(f"an output of {len(wanted)} axes for an input of type {b.type(X)}")
    high = [b.extent(want - have, "what is added to an axis") for want, have in zip(wanted, shape, strict=True)]
    if all(d == 0 for d in high):
        return out
    return b.value("t.pad", out, b.scalar(0, X), low=(0,) * (n + 2), high=tuple(high), mode="constant")
