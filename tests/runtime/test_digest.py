"""Checksums and digests of large content."""

from __future__ import annotations

import hashlib
import os

import numpy as np
import pytest

from onnxc.runtime.digest import BLOCK, TreeChecksum, file_blocks, tree_checksum, tree_digest

SIZES = [0, 1, 7, 8, 4095, 4096, 4097, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 12345]


def content(size: int) -> bytes:
    return np.random.default_rng(size).bytes(size)


def checksum(data: bytes) -> bytes:
    view = memoryview(data)
    return tree_checksum(len(data), lambda at: view[at:at + BLOCK])


@pytest.mark.parametrize("size", SIZES)
def test_pieces_files_and_memory_have_one_checksum(size, tmp_path):
    data = content(size)
    pieces, at, step = TreeChecksum(), 0, 1
    while at < size:
        pieces.update(data[at:at + step])
        at, step = at + step, step * 3
    (tmp_path / "file").write_bytes(b"head" + data)
    with open(tmp_path / "file", "rb") as file:
        assert tree_checksum(size, file_blocks(file.fileno(), 4)) == pieces.digest() == checksum(data)


@pytest.mark.parametrize("size", SIZES[1:])
def test_any_change_of_a_word_is_found(size):
    data, whole, chance = bytearray(content(size)), checksum(content(size)), np.random.default_rng(1)
    for at in {0, size - 1, *chance.integers(0, size, 4).tolist()}:
        bit = 1 << int(chance.integers(0, 8))
        data[at] ^= bit
        assert checksum(bytes(data)) != whole
        data[at] ^= bit


def test_other_sizes_orders_and_heads_are_found():
    data = content(3 * 4096)
    pages = [data[i:i + 4096] for i in range(0, len(data), 4096)]
    words = [data[i:i + 8] for i in range(0, len(data), 8)]
    others = [data[:-1], data + b"\0", b"\0" + data, b"".join([pages[1], pages[0], pages[2]]),
              b"".join([words[1], words[0], *words[2:]]), data[:4096] + bytes(4096) + data[8192:]]
    found = [checksum(d) for d in (data, *others)] + [tree_checksum(len(data), lambda at: data, b"head")]
    assert len(set(found)) == len(found)


def test_a_digest_is_of_the_blocks_digests(tmp_path):
    data = content(2 * BLOCK + 5)
    blocks = [hashlib.sha256(data[at:at + BLOCK]).digest() for at in range(0, len(data), BLOCK)]
    expected = hashlib.sha256(len(data).to_bytes(8, "little") + b"".join(blocks)).digest()
    (tmp_path / "file").write_bytes(data)
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    assert tree_digest(len(data), file_blocks(descriptor)) == expected
    os.close(descriptor)
