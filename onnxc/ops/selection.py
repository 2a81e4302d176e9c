"""Tensor ops that keep some elements: `t.compact`, and `t.nms`, which chooses boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxc.ir.registry import REQUIRED, register
from onnxc.ir.types import BOOL, F32, I64, Tensor, Type
from onnxc.ops.tensor import fail, tensor_operand

__all__: list[str] = []


def _compact(types: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    mask, at, values = (tensor_operand(types, i, "t.compact") for i in range(3))
    if mask.rank != 1 or mask.dtype != BOOL or at != Tensor(I64, mask.dims) or values.dims != mask.dims:
        raise fail(f"t.compact of a mask {mask}, places {at} and values {values}: expected bool[n], i64[n] and n "
                   "values")
    return [Tensor(values.dtype, (attrs["size"],))]


def _compact_ref(attrs: dict[str, Any], mask: np.ndarray, at: np.ndarray, values: np.ndarray) -> np.ndarray:
    out = np.empty(attrs["size"], values.dtype)
    out[at[mask]] = values[mask]
    return out


register("t.compact", "mask, at, values", attrs={"size": REQUIRED}, infer=_compact, ref=_compact_ref,
         doc="the values where the mask holds, `size` of them, each at its place `at`; the places are 0 ... "
             "size - 1")


def _nms(types: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    boxes, scores = tensor_operand(types, 0, "t.nms"), tensor_operand(types, 1, "t.nms")
    scalars = [tensor_operand(types, i, "t.nms") for i in range(2, 5)]
    if boxes.rank != 3 or scores.rank != 3 or boxes.dtype != F32 or scores.dtype != F32 or boxes.dims[1] != 4 \
            or scalars != [Tensor(I64, ()), Tensor(F32, ()), Tensor(F32, ())]:
        raise fail(f"t.nms of boxes {boxes}, scores {scores} and {', '.join(map(str, scalars))}")
    return [Tensor(I64, (*scores.dims[:2], attrs["most"]))]


def _nms_ref(attrs: dict[str, Any], boxes: np.ndarray, scores: np.ndarray, count: np.ndarray, overlap: np.ndarray,
             least: np.ndarray) -> np.ndarray:
    out = np.full((*scores.shape[:2], attrs["most"]), -1, np.int64)
    for b, c in np.ndindex(scores.shape[:2]):
        alive = np.where(scores[b, c] > least, scores[b, c], -np.inf).astype(np.float32)
        for s in range(min(int(count), attrs["most"])):
            best = int(alive.argmax()) if alive.size else -1
            if best < 0 or alive[best] == -np.inf:
                break
            out[b, c, s] = best
            alive[_overlaps(boxes[b], best, np.float32(overlap))] = -np.inf
            alive[best] = -np.inf
    return out


def _overlaps(corners: np.ndarray, best: int, limit: np.float32) -> np.ndarray:
    low, high = corners[:2], corners[2:]
    sides = np.maximum(np.minimum(high, high[:, best, None]) - np.maximum(low, low[:, best, None]), 0)
    shared = sides[0] * sides[1]
    areas = (high[0] - low[0]) * (high[1] - low[1])
    union = areas + areas[best] - shared
    fits = (shared > 0) & (areas > 0) & (areas[best] > 0) & (union > 0)
    return fits & (np.divide(shared, union, where=union != 0, out=np.zeros_like(shared)) > limit)


register("t.nms", "corners, scores, count, overlap, least", attrs={"most": REQUIRED}, infer=_nms, ref=_nms_ref,
         doc="greedy choice of boxes: corners f32[B, 4, N] (lower y and x, then upper), scores f32[B, C, N]. "
             "For each batch and class the boxes with a score above `least` in falling order, the first of "
             "equals first, that share no more than `overlap` (intersection over union) with a box chosen "
             "before: at most `count` and `most` of them, then -1")
