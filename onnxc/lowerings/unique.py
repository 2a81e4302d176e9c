"""Unique: elements, or slices, sorted; where neighbours differ a group begins."""

from __future__ import annotations

from onnxc.ir.core import Value
from onnxc.ir.dims import Dim, DimLike
from onnxc.ir.types import BOOL, I64
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.order import order_key
from onnxc.lowerings.selection import kept_places
from onnxc.lowerings.table import lowering

__all__: list[str] = []


@lowering
def Unique(b: Lowering, X: Value, *, axis: int | None = None, sorted: int = 1) -> tuple[Value | None, ...]:
    """NaNs are equal to each other, and above all numbers."""
    if axis is None:
        rows, at = b.reshape(X, (b.type(X).size, 1)), 0
    else:
        at = b.axis(axis, X)
        ahead = b.transpose(X, (at, *(i for i in range(b.rank(X)) if i != at)))
        count = b.shape(ahead)[0]
        width: DimLike = 1
        for d in b.shape(ahead)[1:]:
            width = width * d
        rows = b.reshape(ahead, (count, width))
    keys = order_key(b, rows)
    order = _order(b, keys)
    n = b.shape(order)[0]
    number, first = _groups(b, keys, order)                 # of each in sorted order; where each group begins
    start = b.value("t.gather", order, first, axis=0)       # a stable order: the first of each group
    size = b.shape(first)[0]
    counts = b.map("sub", _shifted(b, first, n), first)
    inverse = b.value("t.scatter_elements", b.broadcast_to(b.scalar(0, I64), (n,)), order, number, axis=0,
                      reduction="none")
    if not sorted:
        rank, turn = _by_appearance(b, start, n, size)
        start, counts = (b.value("t.gather", v, turn, axis=0) for v in (start, counts))
        inverse = b.value("t.gather", rank, inverse, axis=0)
    values = b.value("t.gather", b.reshape(X, (n,)) if axis is None else X, start, axis=at)
    return values, start, inverse, counts


def _order(b: Lowering, keys: Value) -> Value:
    """Positions in the order of rows, by their first column that differs; equal rows as they come."""
    n, width = b.shape(keys)
    if width == 1:
        return b.value("t.topk", b.map("bit_not", b.reshape(keys, (n,))), axis=0, k=n)

    def by_column(inner: Lowering, i: Dim, carried: list[Value], captured: list[Value]) -> tuple[list[Value],
                                                                                               list[Value]]:
        (order,), (keys,) = carried, captured
        column = inner.value("t.slice", keys, starts=(0, width - 1 - i), sizes=(n, 1), steps=(1, 1))
        placed = inner.value("t.gather", inner.reshape(column, (n,)), order, axis=0)
        stable = inner.value("t.topk", inner.map("bit_not", placed), axis=0, k=n)
        return [inner.value("t.gather", order, stable, axis=0)], []

    return b.loop(width, [b.iota(n)], [keys], by_column)[0]


def _groups(b: Lowering, keys: Value, order: Value) -> tuple[Value, Value]:
    """The number of the group of each place in the order, and the places where groups begin."""
    n = b.shape(order)[0]
    place = b.iota(n)
    before = b.value("t.gather", order, b.map("max", b.map("sub", place, b.scalar(1, I64)), b.scalar(0, I64)), axis=0)
    here, there = (b.value("t.gather", keys, v, axis=0) for v in (order, before))
    differs = b.reduce(b.map("ne", here, there), "or", [1], keepdims=False)
    begins = b.map("or", b.cast(differs, BOOL), b.map("eq", place, b.scalar(0, I64)))
    number = b.value("t.scan", b.cast(begins, I64), kind="add", axis=0, exclusive=False, reverse=False)
    return b.map("sub", number, b.scalar(1, I64)), kept_places(b, begins)


def _shifted(b: Lowering, first: Value, end: DimLike) -> Value:
    """Where each group ends: where the next begins, and the last at `end`."""
    size = b.shape(first)[0]
    following = b.map("add", b.iota(size), b.scalar(1, I64))
    last = b.map("eq", following, b.dim(size))
    next_one = b.value("t.gather", first, b.map("select", last, b.scalar(0, I64), following), axis=0)
    return b.map("select", last, b.dim(end), next_one)


def _by_appearance(b: Lowering, start: Value, n: DimLike, size: DimLike) -> tuple[Value, Value]:
    """Of groups by value: the place of each in the order of appearance; and the groups in that order."""
    turn = b.value("t.topk", b.map("bit_not", start), axis=0, k=size)
    rank = b.value("t.scatter_elements", b.broadcast_to(b.scalar(0, I64), (size,)), turn, b.iota(size), axis=0,
                   reduction="none")
    return rank, turn
