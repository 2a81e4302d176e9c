"""Reads flatbuffers that nobody has verified: every offset, length and width is checked before it is followed.

The library's `Table` knows where things stand and trusts the buffer; what is added here is the distrust. Reading costs
no more than the buffer's size allows: tables of a well-formed file do not overlap, and what is decoded from shared
vectors and strings is counted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from flatbuffers import number_types
from flatbuffers.table import Table

__all__ = ["Damaged", "Reader", "Record"]

_WORD = number_types.UOffsetTFlags.bytewidth
_SHORT = number_types.VOffsetTFlags.bytewidth
_DEEPEST = 200              # tables inside tables; subgraphs take three each
_DECODED = 64               # bytes of text and numbers that are decoded for each byte of the buffer, at most
_LEAST_DECODED = 1 << 20

_NUMBERS = {"i8": number_types.Int8Flags, "u8": number_types.Uint8Flags, "i32": number_types.Int32Flags,
            "u32": number_types.Uint32Flags, "i64": number_types.Int64Flags, "f32": number_types.Float32Flags}


class Damaged(ValueError):
    """The buffer does not have the form that its offsets and lengths promise."""


class Reader:
    """A buffer and what may still be read of it."""

    def __init__(self, data: memoryview) -> None:
        self.data, self.size = data, len(data)
        self._tables = self.size // _WORD
        self._room = self.size * _DECODED + _LEAST_DECODED

    def root(self, identifier: bytes) -> Record:
        """The table that the buffer starts with. Raises Damaged, also where the buffer is of another kind."""
        if self.size < 2 * _WORD or self.data[_WORD:2 * _WORD] != identifier:
            raise Damaged(f"the identifier {identifier.decode()} is missing")
        return self.table(self.follow(0), 0)

    def table(self, at: int, depth: int) -> Record:
        """The table at a position."""
        self._tables -= 1
        if self._tables < 0 or depth > _DEEPEST:
            raise Damaged("tables overlap, or lie in each other too deep")
        self.need(at, _WORD, "a table")
        layout = at - int(Table(self.data, 0).Get(number_types.SOffsetTFlags, at))
        self.need(layout, 2 * _SHORT, "a table's layout")
        short = number_types.VOffsetTFlags
        fields, room = (int(Table(self.data, 0).Get(short, layout + i * _SHORT)) for i in range(2))
        if fields < 2 * _SHORT or fields % _SHORT or room < _WORD:
            raise Damaged(f"the layout of the table at {at} is none")
        self.need(layout, fields, "a table's layout")
        self.need(at, room, "a table")
        return Record(self, Table(self.data, at), room, depth)

    def follow(self, at: int) -> int:
        """Where the offset at a position leads."""
        self.need(at, _WORD, "an offset")
        return int(Table(self.data, 0).Indirect(at))

    def need(self, at: int, length: int, what: str) -> None:
        """Raises Damaged unless so many bytes are there."""
        if not 0 <= at <= self.size - length:
            raise Damaged(f"{what} lies outside of the {self.size} bytes")

    def decode(self, length: int) -> None:
        """Counts bytes that are about to be decoded."""
        self._room -= length
        if self._room < 0:
            raise Damaged("the same bytes are used again and again")

    def vector(self, at: int, width: int) -> tuple[int, int]:
        """Start and number of elements of the vector that the offset at a position leads to."""
        target = self.follow(at)
        self.need(target, _WORD, "a vector")
        count = int(Table(self.data, 0).Get(number_types.UOffsetTFlags, target))
        self.need(target + _WORD, count * width, "a vector's elements")
        return target + _WORD, count

    def text(self, at: int) -> bytes:
        """The bytes of the string that the offset at a position leads to."""
        start, length = self.vector(at, 1)
        self.need(start, length + 1, "a string")
        if self.data[start + length]:
            raise Damaged("a string does not end")
        self.decode(length)
        return Table(self.data, 0).String(at)


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """A table whose place and layout were checked; fields are asked for by their slot. Strings are bytes."""

    reader: Reader
    at: Table
    room: int
    depth: int

    def field(self, slot: int, width: int) -> int:
        """The position of a field of so many bytes; 0 when it is left out."""
        offset = int(self.at.Offset(2 * _SHORT + slot * _SHORT))
        if offset and not _WORD <= offset <= self.room - width:
            raise Damaged(f"field {slot} lies outside of its table")
        return self.at.Pos + offset if offset else 0

    def number(self, slot: int, kind: str, default: int | float = 0) -> Any:
        flags = _NUMBERS[kind]
        at = self.field(slot, flags.bytewidth)
        return self.at.Get(flags, at) if at else default

    def text(self, slot: int) -> bytes:
        at = self.field(slot, _WORD)
        return self.reader.text(at) if at else b""

    def table(self, slot: int) -> Record | None:
        at = self.field(slot, _WORD)
        return self.reader.table(self.reader.follow(at), self.depth + 1) if at else None

    def numbers(self, slot: int, kind: str) -> np.ndarray:
        """A vector of numbers, over the buffer's own memory."""
        flags = _NUMBERS[kind]
        at = self.field(slot, _WORD)
        if not at:
            return np.empty(0, number_types.to_numpy_type(flags))
        self.reader.vector(at, flags.bytewidth)
        return self.at.GetVectorAsNumpy(flags, at - self.at.Pos)

    def texts(self, slot: int) -> Sequence[bytes]:
        return self._vector(slot, self.reader.text)

    def tables(self, slot: int) -> Sequence[Record]:
        return self._vector(slot, lambda at: self.reader.table(self.reader.follow(at), self.depth + 1))

    def _vector(self, slot: int, element: Callable[[int], Any]) -> list[Any]:
        at = self.field(slot, _WORD)
        if not at:
            return []
        start, count = self.reader.vector(at, _WORD)
        self.reader.decode(count * _WORD)
        return [element(start + i * _WORD) for i in range(count)]
