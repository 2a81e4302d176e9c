"""Where NumPy keeps the elements of an array, without the objects that `array.ctypes` builds (1 us each).

The struct behind an array is part of NumPy's binary interface, which extension modules are compiled against; it follows
the head that CPython gives every object. Both are tried on arrays of known addresses when this module is imported, and
`array.ctypes` is used where they are different.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["address_in_order", "address_of", "addresses_of", "in_plain_order"]

Array = npt.NDArray[Any]

_DATA = object.__basicsize__        # char *data
_FLAGS = _DATA + 48                 # int flags, after data, nd, dimensions, strides, base and descr
_TO_FLAGS = (_FLAGS - _DATA) >> 3     # in words
_C_CONTIGUOUS, _ALIGNED = 0x1, 0x100
_PLAIN = _C_CONTIGUOUS | _ALIGNED

#: This process's memory, as words. No more is read than what the functions below point at.
_MEMORY: Any = (ctypes.c_int64 * ((1 << 59) - 1)).from_address(0) if sys.maxsize > 1 << 32 else None


def _addresses_by_struct(arrays: Sequence[Array]) -> list[int]:
    memory = _MEMORY
    return [memory[(id(a) + _DATA) >> 3] for a in arrays]


def _address_by_struct(array: Array) -> int:
    return _MEMORY[(id(array) + _DATA) >> 3]


def _plain_by_struct(array: Array) -> bool:
    return _MEMORY[(id(array) + _FLAGS) >> 3] & _PLAIN == _PLAIN


def _address_in_order_by_struct(array: Array) -> int:
    at, memory = (id(array) + _DATA) >> 3, _MEMORY
    return memory[at] if memory[at + _TO_FLAGS] & _PLAIN == _PLAIN else 0


def _addresses_by_ctypes(arrays: Sequence[Array]) -> list[int]:
    return [a.ctypes.data for a in arrays]


def _address_by_ctypes(array: Array) -> int:
    return array.ctypes.data


def _plain_by_flags(array: Array) -> bool:
    flags = array.flags
    return flags.c_contiguous and flags.aligned


def _address_in_order_by_ctypes(array: Array) -> int:
    return array.ctypes.data if _plain_by_flags(array) else 0


def _structs_are_as_expected() -> bool:
    """Whether the struct says of some arrays what their attributes say."""
    if sys.implementation.name != "cpython" or _MEMORY is None or _DATA % 8 or sys.byteorder != "little":
        return False
    base = np.zeros((3, 4), np.float32)
    odd = np.zeros(9, np.uint8)[1:].view(np.float32)
    samples = [base, base.T, base[1:], base[:, 1:], base[::-1], odd, np.zeros(()), np.zeros((0, 2), np.int64)]
    return _addresses_by_struct(samples) == _addresses_by_ctypes(samples) and \
        [_plain_by_struct(a) for a in samples] == [_plain_by_flags(a) for a in samples] and \
        [_address_in_order_by_struct(a) for a in samples] == [_address_in_order_by_ctypes(a) for a in samples]


_BY_STRUCT = _structs_are_as_expected()
#: The addresses of the arrays' first elements, valid as long as the arrays.
addresses_of: Callable[[Sequence[Array]], list[int]] = _addresses_by_struct if _BY_STRUCT else _addresses_by_ctypes
#: The same of one array.
address_of: Callable[[Array], int] = _address_by_struct if _BY_STRUCT else _address_by_ctypes
#: Whether the elements stand one after another in C order, each where its type may stand.
in_plain_order: Callable[[Array], bool] = _plain_by_struct if _BY_STRUCT else _plain_by_flags
#: The address of an array for which `in_plain_order` holds, 0 for others.
address_in_order: Callable[[Array], int] = _address_in_order_by_struct if _BY_STRUCT else _address_in_order_by_ctypes
