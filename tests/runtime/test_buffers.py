"""Owners of memory, tensors in it, and room behind them."""

from __future__ import annotations

import threading

import ml_dtypes
import numpy as np
import pytest

from onnxc.ir.types import F32, dtype_of
from onnxc.runtime.buffers import Buffer, Dense, Room, nbytes_of


def test_one_of_many_gets_the_rows():
    buffer = Buffer.new(64, "rows")
    buffer.filled = 3
    got = []
    threads = [threading.Thread(target=lambda k=k: buffer.claim(3, 4) and got.append(k)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1
    assert buffer.filled == 4
    assert not buffer.claim(3, 5)
    assert buffer.claim(4, 6)


@pytest.mark.parametrize(("shape", "axis", "room"), [((2, 3, 4), 1, 7), ((5,), 0, 9), ((2, 3), 1, 3),
                                                     ((2, 0, 2), 1, 4)])
def test_a_tensor_with_room_is_a_view_of_the_larger_one(shape, axis, room):
    tensor = Dense.new(F32, shape, "a tensor", room, axis)
    assert tensor.room == (Room(axis, room) if room > shape[axis] else None)
    whole = (*shape[:axis], room, *shape[axis + 1:])
    everything = Dense(tensor.buffer, F32, whole).array()
    everything[...] = np.arange(np.prod(whole)).reshape(whole)
    expected = everything.take(range(shape[axis]), axis)
    np.testing.assert_array_equal(tensor.array(), expected)
    assert np.shares_memory(tensor.array(), everything) or not expected.size
    compact = tensor.compact()
    np.testing.assert_array_equal(compact.array(), expected)
    assert compact.room is None
    np.testing.assert_array_equal(tensor.raw(), np.ascontiguousarray(expected).reshape(-1).view(np.uint8))
    assert tensor.nbytes == expected.nbytes


@pytest.mark.parametrize("name", ["int4", "uint2", "float4_e2m1fn"])
def test_packed_elements_come_back(name):
    array = np.array([[1, 0, 1], [0, 1, 1]]).astype(getattr(ml_dtypes, name))
    tensor = Dense.of(array, dtype_of(array.dtype))
    assert tensor.nbytes == nbytes_of(tensor.dtype, (2, 3)) == tensor.raw().nbytes
    np.testing.assert_array_equal(tensor.array(), array)


def test_foreign_memory_is_not_owned():
    memory = np.arange(6, dtype=np.float32)
    tensor = Dense(Buffer(memory.ctypes.data, memory.nbytes), F32, (2, 3))
    memory[0] = 9
    assert tensor.array()[0, 0] == 9
    assert tensor.buffer.overlaps(Buffer(memory.ctypes.data + 20, 4))
    assert not tensor.buffer.overlaps(Buffer(memory.ctypes.data + 24, 4))
