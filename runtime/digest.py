"""Digests of large content: SHA-256 over a sum of every block, so that several threads can share the work.

Content that has to be told apart from any other (`tree_digest`) has blocks summed by SHA-256. Where only damage is to
be found (`tree_checksum`) a CRC-32 of each block does, at several times the speed: it misses no change within 32 bits
in a row and one in 2**32 of others. Neither keeps a forger out, who can write the sum as well as the content.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from onnxc.runtime.threads import default_threads

__all__ = ["BLOCK", "TreeChecksum", "tree_checksum", "tree_digest"]

BLOCK = 1 << 22
_MOST_THREADS = 8

Read = Callable[[int], "bytes | memoryview"]


class TreeChecksum:
    """The checksum of content that comes piece by piece."""

    def __init__(self) -> None:
        self._blocks: list[bytes] = []
        self._open, self._room, self._size = 0, BLOCK, 0

    def update(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        self._size += len(view)
        while len(view):
            part = view[:self._room]
            self._open = zlib.crc32(part, self._open)
            self._room -= len(part)
            view = view[len(part):]
            if not self._room:
                self._blocks.append(_crc(self._open))
                self._open, self._room = 0, BLOCK

    def digest(self, head: bytes = b"") -> bytes:
        """The checksum of `head` and all that came so far."""
        blocks = self._blocks if self._room == BLOCK else [*self._blocks, _crc(self._open)]
        return _root(head, self._size, blocks)


def tree_checksum(size: int, read: Read, head: bytes = b"") -> bytes:
    """The same for content at hand: `read(at)` gives the block that starts at `at`, in several threads at a time."""
    return _root(head, size, _blocks(size, read, lambda block: _crc(zlib.crc32(block))))


def tree_digest(size: int, read: Read) -> bytes:
    """A digest that no other content has, read as by `tree_checksum`."""
    return _root(b"", size, _blocks(size, read, lambda block: hashlib.sha256(block).digest()))


def _blocks(size: int, read: Read, digest: Callable[[bytes | memoryview], bytes]) -> list[bytes]:
    starts = range(0, size, BLOCK)
    threads = min(len(starts), default_threads(), _MOST_THREADS)
    if threads < 2:
        return [digest(read(at)) for at in starts]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda at: digest(read(at)), starts))


def _crc(value: int) -> bytes:
    return value.to_bytes(4, "little")


def _root(head: bytes, size: int, blocks: list[bytes]) -> bytes:
    return hashlib.sha256(b"".join([head, size.to_bytes(8, "little"), *blocks])).digest()
