"""Digests of large content: SHA-256 over a sum of every block, so that several threads can share the work.

Content that has to be told apart from any other (`tree_digest`) has blocks summed by SHA-256. Where only damage is to
be found (`tree_checksum`) pages of 4 KiB are summed as 64-bit words by odd weights, modulo 2**64, at the speed of
memory: that misses no change within one word, and one in 2**64 of others. Neither keeps a forger out, who can write the
sum as well as the content.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from onnxc.runtime.threads import default_threads

__all__ = ["BLOCK", "TreeChecksum", "file_blocks", "tree_checksum", "tree_digest"]

BLOCK = 1 << 20
_PAGE = 4096
_MOST_THREADS = 8
# Multiples of the golden ratio's fraction: spread over all 64 bits.
_WEIGHTS = (np.arange(1, _PAGE // 8 + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) | np.uint64(1)

Read = Callable[[int], "bytes | memoryview"]


class TreeChecksum:
    """The checksum of content that comes piece by piece."""

    def __init__(self) -> None:
        self._blocks: list[bytes] = []
        self._open, self._size = bytearray(), 0

    def update(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        self._size += len(view)
        while len(self._open) + len(view) >= BLOCK:
            taken = BLOCK - len(self._open)
            block = bytes(self._open) + bytes(view[:taken]) if self._open else view[:taken]
            self._blocks.append(_sums(block))
            self._open, view = bytearray(), view[taken:]
        self._open += view

    def digest(self, head: bytes = b"") -> bytes:
        """The checksum of `head` and all that came so far."""
        blocks = [*self._blocks, _sums(bytes(self._open))] if self._open else self._blocks
        return _root(head, self._size, blocks)


def tree_checksum(size: int, read: Read, head: bytes = b"") -> bytes:
    """The same for content at hand: `read(at)` gives the block that starts at `at`, in several threads at a time."""
    return _root(head, size, _blocks(size, read, _sums))


def tree_digest(size: int, read: Read) -> bytes:
    """A digest that no other content has, read as by `tree_checksum`."""
    return _root(b"", size, _blocks(size, read, lambda block: hashlib.sha256(block).digest()))


def file_blocks(descriptor: int, start: int = 0) -> Read:
    """What reads the blocks of an open file from `start` on. A block is valid until its thread reads the next: each
    thread reads into memory of its own, so that the whole file never is in memory."""
    own = threading.local()

    def read(at: int) -> memoryview:
        if not hasattr(own, "buffer"):
            own.buffer = memoryview(bytearray(BLOCK))
        filled = 0
        while filled < BLOCK and (count := os.preadv(descriptor, [own.buffer[filled:]], start + at + filled)):
            filled += count
        return own.buffer[:filled]

    return read


def _blocks(size: int, read: Read, digest: Callable[[bytes | memoryview], bytes]) -> list[bytes]:
    starts = range(0, size, BLOCK)
    threads = min(len(starts), default_threads(), _MOST_THREADS)
    if threads < 2:
        return [digest(read(at)) for at in starts]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda at: digest(read(at)), starts))


def _sums(block: bytes | memoryview) -> bytes:
    """The sums of a block's pages; the last page goes on with zeros."""
    whole = len(block) // _PAGE
    pages = np.frombuffer(block, "<u8", whole * _PAGE // 8).reshape(whole, _PAGE // 8)
    sums = np.einsum("ij,j->i", pages, _WEIGHTS).astype("<u8").tobytes()
    rest = bytes(block[whole * _PAGE:])
    return sums + _sums(rest.ljust(_PAGE, b"\0")) if rest else sums


def _root(head: bytes, size: int, blocks: list[bytes]) -> bytes:
    return hashlib.sha256(b"".join([head, size.to_bytes(8, "little"), *blocks])).digest()
