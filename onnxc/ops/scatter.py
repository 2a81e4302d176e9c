"""Tensor ops that write updates at positions from data (`t.scatter_elements`, `t.scatter_nd`).

Both take data, indices and updates and give the data with the updates put in. Negative indices count from the end,
others out of range are errors. `reduction` says what an update does to what is there: "none" replaces it (which of
several updates of one element stays is open: here the last), "add", "mul", "max" and "min" fold every update in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxc.ir.registry import register
from onnxc.ir.types import I32, I64, Tensor, Type
from onnxc.ops.tensor import check_range, fail, normal_axis, tensor_operand

__all__ = ["REDUCTIONS"]

REDUCTIONS = ("none", "add", "mul", "max", "min")
_UFUNC = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def _operands(types: Sequence[Any], attrs: dict[str, Any], op: str) -> tuple[Tensor, Tensor, Tensor]:
    """Types of data, indices and updates, checked as far as both ops agree."""
    data, indices, updates = (tensor_operand(types, i, op) for i in range(3))
    if indices.dtype not in (I32, I64):
        raise fail(f"{op}: indices are i32 or i64, not {indices.dtype}")
    if updates.dtype != data.dtype:
        raise fail(f"{op} of {updates.dtype} updates into {data.dtype}")
    if attrs["reduction"] not in REDUCTIONS:
        raise fail(f"{op}: reduction '{attrs['reduction']}' is none of {', '.join(REDUCTIONS)}")
    return data, indices, updates


def _put(attrs: dict[str, Any], data: np.ndarray, at: tuple[Any, ...], updates: np.ndarray) -> np.ndarray:
    out = np.array(data)
    with np.errstate(all="ignore"):
        if attrs["reduction"] == "none":
            out[at] = updates
        else:
            _UFUNC[attrs["reduction"]].at(out, at, updates)
    return out


# ---- one axis ------------------------------------------------------------------------------------------------------
def _elements(types: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    data, indices, updates = _operands(types, attrs, "t.scatter_elements")
    normal_axis(attrs["axis"], data.rank, "t.scatter_elements")
    if not indices.rank == updates.rank == data.rank or indices.dims != updates.dims:
        raise fail(f"t.scatter_elements of {updates} at {indices} into {data}: there has to be one index "
                   "an update, and all are of one rank")
    return [data]


def _elements_ref(attrs: dict[str, Any], data: np.ndarray, indices: np.ndarray, updates: np.ndarray) -> np.ndarray:
    axis = attrs["axis"] % data.ndim
    at: list[Any] = list(np.indices(indices.shape, sparse=True))
    at[axis] = check_range(indices, data.shape[axis], "ScatterElements")
    return _put(attrs, data, tuple(at), updates)


register("t.scatter_elements", "data, indices, updates",
         attrs={"axis": 0, "reduction": "none", "in_range": False}, infer=_elements, ref=_elements_ref,
         doc="data with each update put at the update's own position, with `axis` replaced by its index")


# ---- tuples --------------------------------------------------------------------------------------------------------
def _nd(types: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    data, indices, updates = _operands(types, attrs, "t.scatter_nd")
    depth = indices.dims[-1] if indices.rank else None
    if not isinstance(depth, int) or not 1 <= depth <= data.rank:
        raise fail(f"t.scatter_nd into {data} at {indices}: the last axis of the indices must be a number of axes "
                   "of the data")
    if updates.dims != (*indices.dims[:-1], *data.dims[depth:]):
        raise fail(f"t.scatter_nd of {updates} at {indices} into {data}: there has to be one slice of the "
                   "data for each index")
    return [data]


def _nd_ref(attrs: dict[str, Any], data: np.ndarray, indices: np.ndarray, updates: np.ndarray) -> np.ndarray:
    at = tuple(check_range(indices[..., d], data.shape[d], "ScatterND") for d in range(indices.shape[-1]))
    return _put(attrs, data, at, updates)


register("t.scatter_nd", "data, indices, updates", attrs={"reduction": "none", "in_range": False}, infer=_nd,
         ref=_nd_ref,
         doc="data with each update (an element or a slice) put at its index tuple, the last axis of `indices`")
