"""Digests of large content: SHA-256 over the SHA-256 of every block, so that several threads can share the work."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from onnxc.runtime.threads import default_threads

__all__ = ["BLOCK", "TreeDigest", "tree_digest"]

BLOCK = 1 << 22
_MOST_THREADS = 8


class TreeDigest:
    """The digest of content that comes piece by piece."""

    def __init__(self) -> None:
        self._blocks: list[bytes] = []
        self._open, self._room, self._size = hashlib.sha256(), BLOCK, 0

    def update(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        self._size += len(view)
        while len(view):
            part = view[:self._room]
            self._open.update(part)
            self._room -= len(part)
            view = view[len(part):]
            if not self._room:
                self._blocks.append(self._open.digest())
                self._open, self._room = hashlib.sha256(), BLOCK

    def digest(self, head: bytes = b"") -> bytes:
        """The digest of `head` and all that came so far."""
        blocks = self._blocks if self._room == BLOCK else [*self._blocks, self._open.digest()]
        return _root(head, self._size, blocks)


def tree_digest(size: int, read: Callable[[int], bytes | memoryview], head: bytes = b"") -> bytes:
    """The same for content at hand: `read(at)` gives the block that starts at `at`, in several threads at a time."""
    starts = range(0, size, BLOCK)
    threads = min(len(starts), default_threads(), _MOST_THREADS)

    def digest(at: int) -> bytes:
        return hashlib.sha256(read(at)).digest()

    if threads < 2:
        return _root(head, size, list(map(digest, starts)))
    with ThreadPoolExecutor(threads) as pool:
        return _root(head, size, list(pool.map(digest, starts)))


def _root(head: bytes, size: int, blocks: list[bytes]) -> bytes:
    return hashlib.sha256(b"".join([head, size.to_bytes(8, "little"), *blocks])).digest()
