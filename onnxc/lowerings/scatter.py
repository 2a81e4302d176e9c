"""Writing elements and slices at positions from data."""

from __future__ import annotations

from onnxc.ir.core import Value
from onnxc.ir.dims import DimLike
from onnxc.ir.types import I64
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.table import lowering

__all__: list[str] = []


@lowering
def ScatterElements(b: Lowering, data: Value, indices: Value, updates: Value, *, axis: int = 0,
                    reduction: str = "none") -> Value:
    at, rank = b.axis(axis, data), b.rank(data)
    if b.rank(indices) != rank or b.rank(updates) != rank:
        types = ", ".join(str(b.type(v)) for v in (data, indices, updates))
        b.refuse(f"data, indices and updates have to be of one rank, not {types}")
    shape = b.shape(indices)
    for i, (have, want) in enumerate(zip(b.shape(data), shape, strict=True)):
        if i != at:
            b.at_most(want, have, f"axis {i} of the indices is longer than that of the data")
    return _scatter(b, "t.scatter_elements", data, indices, _seen_as(b, updates, shape), reduction, axis=at)


@lowering
def ScatterND(b: Lowering, data: Value, indices: Value, updates: Value, *, reduction: str = "none") -> Value:
    depth = b.shape(indices)[-1] if b.rank(indices) else 0
    if not isinstance(depth, int) or not 1 <= depth <= b.rank(data):
        b.refuse(f"the last axis of the indices ({depth}) has to be a number of axes of the data ({b.type(data)})")
    shape = (*b.shape(indices)[:-1], *b.shape(data)[depth:])
    if b.rank(updates) != len(shape):
        b.refuse(f"updates of type {b.type(updates)}: expected [{', '.join(map(str, shape))}]")
    return _scatter(b, "t.scatter_nd", data, indices, _seen_as(b, updates, shape), reduction)


def _seen_as(b: Lowering, updates: Value, shape: tuple[DimLike, ...]) -> Value:
    """The updates under the shape that the indices give them, to which they have to be equal."""
    for i, (have, want) in enumerate(zip(b.shape(updates), shape, strict=True)):
        b.guard("eq", have, want, f"axis {i} of the updates does not fit the indices")
    return updates if b.shape(updates) == shape else b.value("t.reshape", updates, shape=shape)


def _scatter(b: Lowering, name: str, data: Value, indices: Value, updates: Value, reduction: str,
             **attrs: int) -> Value:
    """Small floats are folded in f32 and rounded once."""
    if reduction not in ("none", "add", "mul", "max", "min"):
        b.refuse(f"the reduction '{reduction}' is none of none, add, mul, max, min")
    if reduction == "none":
        return b.value(name, data, indices, updates, reduction=reduction, **attrs)
    return b.cast(b.value(name, b.widen(data), indices, b.widen(updates), reduction=reduction, **attrs), b.dtype(data))


@lowering
def TensorScatter(b: Lowering, past_cache: Value, update: Value, write_indices: Value | None = None, *, axis: int = -2,
                  mode: str = "linear") -> Value:
    at, shape, rank = b.axis(axis, past_cache), b.shape(update), b.rank(past_cache)
    if at == 0:
        b.refuse("the axis of positions cannot be that of the batch")
    if b.rank(update) != rank:
        b.refuse(f"an update of type {b.type(update)} for a cache of type {b.type(past_cache)}")
    for i, (have, want) in enumerate(zip(shape, b.shape(past_cache), strict=True)):
        if i != at:
            b.guard("eq", have, want, f"axis {i} of the update differs from that of the cache")
    place = b.iota(shape[at], rank, at)
    if write_indices is not None:
        b.guard("eq", b.shape(write_indices)[0], shape[0], "there is not one write index for each batch")
        start = b.reshape(b.cast(write_indices, I64), (shape[0], *[1] * (rank - 1)))
        place = b.map("add", start, place)
    if mode == "circular":
        place = b.map("mod", place, b.dim(b.shape(past_cache)[at]))
    elif mode != "linear":
        b.refuse(f"the mode '{mode}' is neither linear nor circular")
    return b.value("t.scatter_elements", past_cache, b.broadcast_to(place, shape), update, axis=at, reduction="none")
