"""Ops of the domain com.microsoft that ONNX has had since, in the forms of their first days."""

from __future__ import annotations

from onnxc.ir.core import Value
from onnxc.ir.dims import floordiv
from onnxc.lowerings import generate, grid_sample, index, slicing, unique
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.table import lowering

__all__: list[str] = []


@lowering("com.microsoft.SampleOp")
def SampleOp(b: Lowering, X: Value) -> Value:
    return X


@lowering("com.microsoft.ExpandDims")
def ExpandDims(b: Lowering, X: Value, axis: Value) -> Value:
    given, rank = b.ints_of(axis, "the axis") or [], b.rank(X)
    if len(given) != 1 or not -rank - 1 <= given[0] <= rank:
        b.refuse(f"the axis {given} is out of range for rank {rank}")
    at = given[0] if given[0] >= 0 else given[0] + rank + 1
    return b.reshape(X, (*b.shape(X)[:at], 1, *b.shape(X)[at:]))


@lowering("com.microsoft.GatherND")
def GatherND(b: Lowering, data: Value, indices: Value) -> Value:
    return index.GatherND(b, data, indices)


@lowering("com.microsoft.GridSample")
def GridSample(b: Lowering, X: Value, Grid: Value, *, align_corners: int = 0, mode: str = "bilinear",
               padding_mode: str = "zeros") -> Value:
    if b.rank(X) != 4:
        b.refuse(f"an input of type {b.type(X)}; it has to have four axes")
    now = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    return grid_sample.GridSample(b, X, Grid, align_corners=align_corners, mode=now, padding_mode=padding_mode)


@lowering("com.microsoft.Pad")
def Pad(b: Lowering, data: Value, pads: Value, value: Value | None = None, *, mode: str = "constant") -> Value:
    """The pads may be a row of a matrix."""
    flat = b.reshape(pads, (b.type(pads).size,))
    return slicing.Pad(b, data, flat, value, mode=mode)


@lowering("com.microsoft.Range")
def Range(b: Lowering, start: Value, limit: Value, delta: Value | None = None) -> Value:
    step = b.scalar(1, start) if delta is None else b.reshape(delta, ())
    return generate.Range(b, b.reshape(start, ()), b.reshape(limit, ()), step)


@lowering("com.microsoft.Trilu")
def Trilu(b: Lowering, X: Value, k: Value | None = None, *, upper: int = 1) -> Value:
    return generate.Trilu(b, X, k, upper=upper)


@lowering("com.microsoft.Unique")
def Unique(b: Lowering, x: Value) -> tuple[Value | None, ...]:
    """In the order in which elements appear; without the places of their first appearances."""
    if b.rank(x) != 1:
        b.refuse(f"an input of type {b.type(x)}; it has to be a vector")
    values, _, inverse, counts = unique.Unique(b, x, sorted=0)
    return values, inverse, counts


@lowering("com.microsoft.UnfoldTensor")
def UnfoldTensor(b: Lowering, input: Value, *, size: int, dim: int = -1, step: int = 1) -> Value:
    """All windows along an axis, which become the last axis."""
    rank, at = b.rank(input), b.axis(dim, input)
    if size < 1 or step < 1:
        b.refuse(f"windows of {size} at every {step}; both have to be positive")
    b.at_most(size, b.shape(input)[at], f"a window is longer than axis {at}")
    count = floordiv(b.shape(input)[at] - size, step) + 1
    view = b.value("t.window", input, axes=(at,), size=(size,), stride=(step,), dilation=(1,), low=(0,), out=(count,),
                   fill=0)
    return b.transpose(view, (*range(at + 1), *range(at + 2, rank + 1), at + 1))
