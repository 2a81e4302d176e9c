"""Tensor ops by the order of elements (`t.topk`). Keys are integers: whoever orders floats makes keys of them first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxc.ir.registry import REQUIRED, register
from onnxc.ir.types import I32, I64, Tensor, Type
from onnxc.ops.tensor import fail, normal_axis, tensor_operand

__all__: list[str] = []


def _topk(types: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    t = tensor_operand(types, 0, "t.topk")
    axis, k = normal_axis(attrs["axis"], t.rank, "t.topk"), attrs["k"]
    if t.dtype not in (I32, I64):
        raise fail(f"t.topk: keys are i32 or i64, not {t.dtype}")
    left = t.dims[axis] - k
    if isinstance(k, int) and k < 0 or isinstance(left, int) and left < 0:
        raise fail(f"t.topk: {k} of the {t.dims[axis]} elements of axis {axis}")
    return [Tensor(I64, (*t.dims[:axis], k, *t.dims[axis + 1:]))]


def _topk_ref(attrs: dict[str, Any], keys: np.ndarray) -> np.ndarray:
    """Sorted by the complement, which turns the order of all integers around."""
    order = np.argsort(~keys, axis=attrs["axis"], kind="stable")
    return np.take(order, np.arange(attrs["k"]), attrs["axis"]).astype(np.int64)


register("t.topk", "keys", attrs={"axis": REQUIRED, "k": REQUIRED}, infer=_topk, ref=_topk_ref,
         doc="positions of the `k` largest elements along an axis, the largest first; among equals the lower position "
             "first")
