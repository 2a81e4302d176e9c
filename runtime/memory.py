"""Memory that compiled programs run in: aligned buffers."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from onnxc.runtime.addresses import address_of

Bytes: TypeAlias = "npt.NDArray[np.uint8]"


def aligned(nbytes: int, align: int = 64, purpose: str = "a buffer") -> Bytes:
    """`nbytes` uninitialised bytes whose address is a multiple of `align`, a power of two.

    Raises MemoryError that names the size and the purpose, and ValueError for a size or alignment that cannot be.
    """
    if nbytes < 0 or align < 1 or align & (align - 1):
        raise ValueError(f"memory for {purpose}: {nbytes} bytes aligned to {align}; expected a size of at least 0 and "
                         f"a power of two")
    # At least one byte: an empty slice loses its offset.
    room = max(nbytes, 1)
    try:
        raw = np.empty(room + align - 1, np.uint8)
    except (MemoryError, ValueError, OverflowError) as error:
        # NumPy refuses a size beyond its index type with ValueError or OverflowError.
        raise MemoryError(f"no {nbytes} bytes ({nbytes / 2**30:.2f} GiB) of memory for {purpose}") from error
    start = -address_of(raw) % align
    return raw[start:start + nbytes] if nbytes else raw[start:start + room][:0]
