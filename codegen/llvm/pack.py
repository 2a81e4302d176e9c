"""Packs right-hand operands into the panels that contractions read, with numpy, at compile time.

A packed operand is the concatenation of its panels of `columns` columns. A panel is [taps][depth][width], where width
is `columns`, and for the last one the remaining columns rounded up to whole vectors of `lanes`; what is past the last
column is zero. Panel n0 / columns therefore starts at element taps * depth * n0. Lanes are elements, not bytes.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_ALIGNMENT = 64


def packed_size(taps: int, depth: int, n: int, lanes: int) -> int:
    """Elements of a packed [taps, depth, n] operand."""
    return taps * depth * -(-n // lanes) * lanes


def pack_panels(operand: NDArray, columns: int, lanes: int) -> NDArray:
    """[taps, depth, n] -> the packed operand, one-dimensional, contiguous and 64-byte aligned, of the same dtype."""
    if operand.ndim != 3:
        raise ValueError(f"a contraction's right-hand operand is [taps, depth, n], not of rank {operand.ndim}")
    if columns < 1 or lanes < 1 or columns % lanes:
        raise ValueError(f"a panel of {columns} columns is no whole number of vectors of {lanes}")
    taps, depth, n = operand.shape
    packed = _aligned(packed_size(taps, depth, n, lanes), operand.dtype)
    for n0 in range(0, n, columns):
        width = min(columns, -(-(n - n0) // lanes) * lanes)
        used = min(columns, n - n0)
        start = taps * depth * n0
        panel = packed[start : start + taps * depth * width].reshape(taps, depth, width)
        panel[:, :, :used] = operand[:, :, n0 : n0 + used]
        panel[:, :, used:] = 0
    return packed


def unpack_panels(packed: NDArray, taps: int, depth: int, n: int, columns: int, lanes: int) -> NDArray:
    """The inverse of `pack_panels`."""
    if packed.shape != (packed_size(taps, depth, n, lanes),):
        raise ValueError(f"{packed.shape} is not the packed form of [{taps}, {depth}, {n}] in vectors of {lanes}")
    operand = np.empty((taps, depth, n), packed.dtype)
    for n0 in range(0, n, columns):
        width = min(columns, -(-(n - n0) // lanes) * lanes)
        start = taps * depth * n0
        panel = packed[start : start + taps * depth * width].reshape(taps, depth, width)
        operand[:, :, n0 : n0 + columns] = panel[:, :, : min(columns, n - n0)]
    return operand


def matrix_operand(matrix: NDArray) -> NDArray:
    """A matrix [k, n] as an operand of one tap."""
    return matrix[np.newaxis]


def filter_operand(weights: NDArray) -> NDArray:
    """Convolution weights [n, depth, *window] as an operand [taps, depth, n]: a tap is a position of the window,
    in row-major order."""
    n, depth, *window = weights.shape
    return np.moveaxis(weights, (0, 1), (-1, -2)).reshape(math.prod(window), depth, n)


def _aligned(size: int, dtype: np.dtype) -> NDArray:
    room = np.empty(size * dtype.itemsize + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    return room[start : start + size * dtype.itemsize].view(dtype)
