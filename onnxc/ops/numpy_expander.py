"""Running expansions on numpy arrays, each step in the operands' own precision: how their accuracy is measured."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxc.ir.types import DType, dtype_of
from onnxc.ops.conversion import convert
from onnxc.ops.scalar import SCALARS, column

__all__ = ["NumpyExpander", "expanded"]


class NumpyExpander:
    """An `Expander` over arrays. A row is run by its numpy column where `backend` ("llvm" or "triton") has a column for
    the type, and expanded where that backend would expand it."""

    def __init__(self, dtype: DType, backend: str = "llvm") -> None:
        self.dtype, self.backend = dtype, backend

    def __call__(self, name: str, *args: Any) -> np.ndarray:
        row = SCALARS[name]
        of = dtype_of(args[-1].dtype)
        if column(getattr(row, self.backend), of) is None and row.expand is not None:
            return np.asarray(row.expand(NumpyExpander(of, self.backend), *args))
        return np.asarray(row.numpy(*args))

    def const(self, value: float | int | bool, dtype: DType | None = None) -> np.ndarray:
        return np.asarray(value, (dtype or self.dtype).numpy)

    def cast(self, value: Any, to: DType) -> np.ndarray:
        return convert(value, to)

    def bitcast(self, value: Any, to: DType) -> np.ndarray:
        return np.asarray(value).view(to.numpy)


def expanded(name: str, *args: np.ndarray, backend: str = "llvm") -> np.ndarray:
    """Row `name` on arrays of one element type, by its expansion as `backend` would run it."""
    row = SCALARS[name]
    if row.expand is None:
        raise ValueError(f"row {name} has no expansion")
    with np.errstate(all="ignore"):
        return np.asarray(row.expand(NumpyExpander(dtype_of(args[-1].dtype), backend), *args))
