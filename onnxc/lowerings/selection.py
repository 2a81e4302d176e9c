"""Ops whose results are as long as data says: NonZero, Compress, NonMaxSuppression."""

from __future__ import annotations

import numpy as np

from onnxc.ir.core import Value
from onnxc.ir.dims import DimLike, dim_min, product
from onnxc.ir.types import BOOL, F32, I64
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.table import lowering

__all__ = ["kept_places"]


def kept_places(b: Lowering, mask: Value) -> Value:
    """The positions at which a mask of one axis holds, in order: as many as data says."""
    n = b.shape(mask)[0]
    ones = b.cast(mask, I64)
    size = b.symbols.fresh("u", n)
    b.op("t.read_dim", [b.reduce(ones, "add", [0], keepdims=False)], {"defines": (str(size),), "bounds": (n,)})
    places = b.value("t.scan", ones, kind="add", axis=0, exclusive=True, reverse=False)
    return b.value("t.compact", mask, places, b.iota(n), size=size)


def _digits(b: Lowering, flat: Value, shape: tuple[DimLike, ...]) -> list[Value]:
    """Positions in row-major order as positions along each axis."""
    out = []
    for i, d in enumerate(shape):
        inner = product(shape[i + 1:])
        at = flat if inner == 1 else b.map("div", flat, b.dim(inner))
        out.append(at if i == 0 else b.map("mod", at, b.dim(d)))
    return out


@lowering
def NonZero(b: Lowering, X: Value) -> Value:
    data = b.constant(X)
    if data is not None:
        return b.const(np.array(np.nonzero(np.atleast_1d(data)), np.int64))
    shape = b.shape(X) or (1,)
    flat = b.reshape(X, (product(shape),))
    mask = flat if b.dtype(flat) == BOOL else b.map("ne", flat, b.scalar(0, flat))
    kept = kept_places(b, mask)
    rows = [b.reshape(v, (1, *b.shape(v))) for v in _digits(b, kept, shape)]
    return rows[0] if len(rows) == 1 else b.value("t.concat", *rows, axis=0)


@lowering
def Compress(b: Lowering, input: Value, condition: Value, *, axis: int | None = None) -> Value:
    if b.dtype(condition) != BOOL or b.rank(condition) != 1:
        b.refuse(f"a condition of type {condition.type}; it has to be a vector of bools")
    flat = b.reshape(input, (b.type(input).size,)) if axis is None else input
    at = 0 if axis is None else b.axis(axis, input)
    mask = b.constant(condition)
    if mask is not None:
        return b.value("t.gather", flat, b.const(mask.nonzero()[0]), axis=at)
    b.at_most(b.shape(condition)[0], b.shape(flat)[at], "the condition is longer than the axis")
    return b.value("t.gather", flat, kept_places(b, condition), axis=at)


@lowering
def NonMaxSuppression(b: Lowering, boxes: Value, scores: Value, max_output_boxes_per_class: Value | None = None,
                      iou_threshold: Value | None = None, score_threshold: Value | None = None, *,
                      center_point_box: int = 0) -> Value:
    if b.rank(boxes) != 3 or b.rank(scores) != 3 or b.dtype(boxes) != F32 or b.dtype(scores) != F32:
        b.refuse(f"boxes of type {boxes.type} and scores of type {scores.type}; both have to be f32 of three axes")
    b.guard("eq", b.shape(boxes)[2], 4, "a box has not four numbers")
    b.guard("eq", b.shape(boxes)[0], b.shape(scores)[0], "boxes and scores are of different batches")
    b.guard("eq", b.shape(boxes)[1], b.shape(scores)[2], "there is not one score a class for each box")
    if max_output_boxes_per_class is None:
        return b.const(np.zeros((0, 3), np.int64))
    batch, classes, n = b.shape(scores)
    given = b.known(max_output_boxes_per_class)
    most = n if given is None or given.size != 1 else dim_min(n, max(0, given.reshape(-1)[0])) \
        if isinstance(given.reshape(-1)[0], int) else dim_min(n, given.reshape(-1)[0])
    limits = [b.reshape(b.cast(max_output_boxes_per_class, I64), ()), *(
        b.const(np.float32(default)) if v is None else b.reshape(v, ())
        for v, default in ((iou_threshold, 0.0), (score_threshold, -np.inf)))]
    chosen = b.value("t.nms", _corners(b, boxes, bool(center_point_box)), scores, *limits, most=most)
    flat = b.reshape(chosen, (batch * classes * most,))
    kept = kept_places(b, b.map("ge", flat, b.scalar(0, I64)))
    first, second, _ = _digits(b, kept, (batch, classes, most))
    columns = [first, second, b.value("t.gather", flat, kept, axis=0)]
    return b.value("t.concat", *(b.reshape(v, (*b.shape(v), 1)) for v in columns), axis=1)


def _corners(b: Lowering, boxes: Value, centred: bool) -> Value:
    """Boxes as [B, 4, N]: the lower y and x, then the upper ones."""
    shape = b.shape(boxes)
    y1, x1, y2, x2 = (b.value("t.slice", boxes, starts=(0, 0, i), sizes=(*shape[:2], 1), steps=(1, 1, 1))
                      for i in range(4))
    if centred:                       # x and y of the centre, then width and height
        x, y, width, height = y1, x1, y2, x2
        half = [b.map("mul", v, b.scalar(0.5, v)) for v in (height, width)]
        parts = [b.map("sub", y, half[0]), b.map("sub", x, half[1]), b.map("add", y, half[0]), b.map("add", x, half[1])]
    else:
        parts = [b.map("min", y1, y2), b.map("min", x1, x2), b.map("max", y1, y2), b.map("max", x1, x2)]
    return b.value("t.concat", *(b.reshape(v, (shape[0], 1, shape[1])) for v in parts), axis=1)
