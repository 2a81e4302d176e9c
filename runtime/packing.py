"""How arrays lie in the memory of programs: elements narrower than a byte are packed, the first one lowest.

NumPy holds such elements one a byte; only at the border of a program do they change form.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from onnxc.ir.types import DType

__all__ = ["pack", "unpack"]

Array = npt.NDArray[Any]


def pack(array: Array, dtype: DType) -> Array:
    """`array` as the program reads it: itself, or its bytes where `dtype` is narrower than a byte."""
    if dtype.bits >= 8:
        return array
    each = 8 // dtype.bits
    codes = array.reshape(-1).view(np.uint8) & np.uint8((1 << dtype.bits) - 1)
    padded = np.zeros(-(-codes.size // each) * each, np.uint8)
    padded[:codes.size] = codes
    shifts = np.arange(each, dtype=np.uint8) * np.uint8(dtype.bits)
    return np.bitwise_or.reduce(padded.reshape(-1, each) << shifts, axis=1)


def unpack(packed: Array, dtype: DType, shape: tuple[int, ...]) -> Array:
    """The array of `shape` whose packed bytes a program wrote; the inverse of `pack`."""
    if dtype.bits >= 8:
        return packed
    each = 8 // dtype.bits
    count = int(np.prod(shape, dtype=np.int64))
    shifts = np.arange(each, dtype=np.uint8) * np.uint8(dtype.bits)
    codes = (packed[:, None] >> shifts).reshape(-1)[:count] & np.uint8((1 << dtype.bits) - 1)
    return codes.view(dtype.numpy).reshape(shape)
