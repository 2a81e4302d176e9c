"""Memory that outlives runs: who owns it, how large it is, and how much of what lies behind a tensor is spoken for.

A tensor in a `Buffer` may leave room behind itself along one axis (`Room`): its elements then lie as if that axis had
the size of the room, so that a longer tensor with the same beginning needs no other memory and no copy.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxc.ir.types import DType
from onnxc.runtime.addresses import address_of, in_plain_order
from onnxc.runtime.forked import ChildSafeLock
from onnxc.runtime.memory import Bytes, aligned
from onnxc.runtime.packing import pack, unpack

__all__ = ["Buffer", "Dense", "Room", "nbytes_of"]

Array = npt.NDArray[Any]
Shape = tuple[int, ...]

_FEW = 1024         # bytes for which lines of the cache do not matter: they lie where NumPy puts them
_CLAIMS = ChildSafeLock()      # held for a comparison and an assignment: one is enough for all buffers


class Buffer:
    """`nbytes` bytes at `address`, which live as long as `owner`; of foreign memory (`owner` None) the caller sees to
    that. `filled` counts the rows along the axis of a `Room` that have been given to somebody to write."""

    __slots__ = ("address", "filled", "memory", "nbytes", "owner", "writable")

    def __init__(self, address: int, nbytes: int, owner: object = None, writable: bool = True) -> None:
        self.address, self.nbytes, self.owner, self.writable = address, nbytes, owner, writable
        self.filled = 0
        self.memory: Bytes | None = None        # where it is an array of these bytes

    @classmethod
    def new(cls, nbytes: int, purpose: str) -> Buffer:
        """Uninitialised memory; MemoryError that says what it was for."""
        memory = np.empty(nbytes, np.uint8) if nbytes <= _FEW else aligned(nbytes, purpose=purpose)
        made = cls(address_of(memory), nbytes, memory)
        made.memory = memory
        return made

    @classmethod
    def of(cls, array: Array) -> Buffer:
        """The memory of a contiguous array, which is kept alive."""
        return cls(address_of(array), array.nbytes, array, array.flags.writeable)

    def claim(self, begin: int, end: int) -> bool:
        """Whether the rows [begin, end) are now the caller's to write. Of several that go on from one beginning, one
        gets the rows; the others have to go on in a copy."""
        with _CLAIMS:
            if self.filled != begin or end < begin:
                return False
            self.filled = end
            return True

    def overlaps(self, other: Buffer) -> bool:
        """Whether some byte belongs to both."""
        return self.address < other.address + other.nbytes and other.address < self.address + self.nbytes


@dataclasses.dataclass(frozen=True, slots=True)
class Room:
    """Along `axis` there is memory for `size` elements."""

    axis: int
    size: int


class Dense:
    """A tensor in a buffer, from the buffer's first byte on; row-major, elements below a byte packed."""

    __slots__ = ("address", "buffer", "dtype", "nbytes", "room", "shape")

    def __init__(self, buffer: Buffer, dtype: DType, shape: Shape, room: Room | None = None) -> None:
        self.buffer, self.dtype, self.shape, self.address = buffer, dtype, shape, buffer.address
        self.nbytes = nbytes_of(dtype, shape)       # of the elements, without what room there is
        self.room = room if room is not None and room.size != shape[room.axis] else None

    @classmethod
    def new(cls, dtype: DType, shape: Shape, purpose: str, room: int = 0, axis: int = 0) -> Dense:
        """A tensor of unknown content, with room for at least `room` elements along `axis`."""
        if not room or not shape:
            return cls(Buffer.new(nbytes_of(dtype, shape), purpose), dtype, shape)
        whole = (*shape[:axis], max(room, shape[axis]), *shape[axis + 1:])
        return cls(Buffer.new(nbytes_of(dtype, whole), purpose), dtype, shape, Room(axis, whole[axis]))

    @classmethod
    def of(cls, array: Array, dtype: DType) -> Dense:
        """The elements of an array: in its own memory where it is contiguous and holds whole bytes."""
        if array.dtype is not dtype.numpy or not in_plain_order(array):
            array = np.require(array, dtype.numpy, ("C_CONTIGUOUS", "ALIGNED"))
        native = pack(array, dtype)
        return cls(Buffer.of(native), dtype, array.shape)

    def elsewhere(self, buffer: Buffer) -> Dense:
        """A tensor of this one's type and shape in a buffer of as many bytes, without room."""
        made = object.__new__(Dense)
        made.buffer, made.address, made.room = buffer, buffer.address, None
        made.dtype, made.shape, made.nbytes = self.dtype, self.shape, self.nbytes
        return made

    def array(self) -> Array:
        """The elements as an array: a view of the memory, except where elements are packed."""
        memory = self.buffer.memory
        if memory is not None and self.room is None and self.dtype.bits >= 8:
            return np.ndarray(self.shape, self.dtype.numpy, memory)
        if self.dtype.bits < 8:
            return unpack(np.asarray(_Bytes(self.buffer, self.nbytes)), self.dtype, self.shape)
        if self.room is None:
            return np.asarray(_Bytes(self.buffer, self.nbytes)).view(self.dtype.numpy).reshape(self.shape)
        axis, size = self.room.axis, self.room.size
        whole = (*self.shape[:axis], size, *self.shape[axis + 1:])
        everything = np.asarray(_Bytes(self.buffer, nbytes_of(self.dtype, whole))).view(self.dtype.numpy).reshape(whole)
        return everything[(slice(None),) * axis + (slice(self.shape[axis]),)]

    def raw(self) -> Array:
        """The bytes of the elements, which leave no room between them."""
        if self.room is not None:
            return self.compact().raw()
        return np.asarray(_Bytes(self.buffer, self.nbytes))

    def compact(self) -> Dense:
        """The tensor itself, or a copy without room where it has some."""
        return self if self.room is None else Dense.of(self.array(), self.dtype)

    @property
    def is_alone(self) -> bool:
        """Whether no other tensor, longer or shorter, can lie in the same buffer as a part of this one or as more."""
        return self.room is None and not self.buffer.filled

    @property
    def is_astray(self) -> bool:
        """Whether elements stand where their type may not."""
        return self.address % max(1, self.dtype.bits // 8) != 0

    def alone(self) -> Dense:
        """The tensor itself, or a copy where it has room or shares rows with others."""
        if self.is_alone:
            return self
        copy = Dense.new(self.dtype, self.shape, "a tensor that others were to share")
        copy.array()[...] = self.array()
        return copy


class _Bytes:
    """What NumPy asks for to make an array of foreign memory, which the array then keeps alive."""

    def __init__(self, buffer: Buffer, nbytes: int) -> None:
        self.buffer = buffer
        self.__array_interface__ = {"shape": (nbytes,), "typestr": "|u1", "version": 3,
                                    "data": (buffer.address if nbytes else _NOTHING.ctypes.data, not buffer.writable)}


_NOTHING = np.zeros(8, np.uint8)        # where arrays of no bytes lie: NumPy takes no null pointer


def nbytes_of(dtype: DType, shape: Shape) -> int:
    """Bytes of a tensor, elements below a byte packed."""
    return -(-math.prod(shape) * dtype.bits // 8)
