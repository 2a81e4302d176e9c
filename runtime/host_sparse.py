"""The host's step on sparse tensors: reading off what they hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxc.errors import InvalidArgument
from onnxc.runtime.enums import OrtSparseFormat
from onnxc.runtime.sparse import SparseTensor

__all__ = ["sparse_parts"]

Array = npt.NDArray[Any]


def sparse_parts(attrs: Mapping[str, Any], given: SparseTensor) -> tuple[Array, Array, Array]:
    """Values [count], places [count, rank] and a tensor of the shape with an axis of no elements behind it."""
    shape, values = given.dense_shape(), given.values()
    return values, np.ascontiguousarray(_places(given, shape)), np.empty((*shape, 0), values.dtype)


def _places(given: SparseTensor, shape: list[int]) -> Array:
    form = given.format()
    if form == OrtSparseFormat.ORT_SPARSE_COO:
        indices = given.as_coo_view().indices()
        return indices if indices.ndim == 2 else np.stack(np.unravel_index(indices, shape), 1)
    if form == OrtSparseFormat.ORT_SPARSE_CSRC:
        view = given.as_csrc_view()
        rows = np.repeat(np.arange(shape[0]), np.diff(view.outer()))
        return np.stack([rows, view.inner()], 1)
    raise InvalidArgument("a sparse tensor of blocks takes part in no product; give coordinates or rows "
                          "(sparse_coo_from_numpy, sparse_csr_from_numpy)")
