"""Memory that compiled programs run in: aligned buffers, and arenas that runs borrow and give back.

How many bytes a run needs is the program's own computation; nothing is planned here.
"""

from __future__ import annotations

import threading
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Bytes: TypeAlias = "npt.NDArray[np.uint8]"

_PAGE = 4096


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
    start = -raw.ctypes.data % align
    return raw[start:start + room][:nbytes]


class ArenaPool:
    """Arenas that concurrent runs borrow: one a run, reused by later runs. Safe to use from many threads.

    At most `keep` idle arenas stay, the largest: a program whose shapes vary settles on what its largest run needs.
    """

    def __init__(self, keep: int = 2, align: int = 64, purpose: str = "an arena") -> None:
        """`align` is the alignment of every arena; `purpose` is what a MemoryError says that the memory is for."""
        if keep < 0:
            raise ValueError(f"cannot keep {keep} arenas; expected at least 0")
        self._keep = keep
        self._align = align
        self._purpose = purpose
        self._idle: list[Bytes] = []
        self._lock = threading.Lock()

    def acquire(self, nbytes: int) -> Bytes:
        """An arena of at least `nbytes` bytes of unknown content: the smallest idle one that fits, or a new one.

        Raises MemoryError when there is no memory even after the idle arenas are given up.
        """
        with self._lock:
            fits = [index for index, arena in enumerate(self._idle) if arena.nbytes >= nbytes]
            if nbytes >= 0 and fits:
                return self._idle.pop(fits[0])
        size = -(-nbytes // _PAGE) * _PAGE
        try:
            return aligned(size, self._align, self._purpose)
        except MemoryError:
            if not self.clear():
                raise
            return aligned(size, self._align, self._purpose)

    def release(self, arena: Bytes) -> None:
        """Gives an arena back; the caller must not use it any more."""
        with self._lock:
            self._idle.append(arena)
            self._idle.sort(key=lambda idle: idle.nbytes)
            del self._idle[:max(0, len(self._idle) - self._keep)]

    def clear(self) -> int:
        """Gives up the idle arenas; returns how many bytes they held."""
        with self._lock:
            freed = self.idle_bytes
            self._idle.clear()
        return freed

    @property
    def idle_bytes(self) -> int:
        """Bytes in arenas that no run holds."""
        return sum(arena.nbytes for arena in self._idle)
