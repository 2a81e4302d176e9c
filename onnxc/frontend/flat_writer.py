"""Writes flatbuffers without a schema: tables are lists of fields, each a slot, the kind of its number, and its value.

What a table refers to is written before it; `at` is the kind of a field that says where that is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
from flatbuffers.builder import BuilderSizeError

__all__ = ["FlatWriter", "TooLarge"]

Field = tuple[int, str, Any]
_WORD = 4

#: Raised where the buffer would be above what its offsets reach, 2 GiB.
TooLarge: type[Exception] = BuilderSizeError


class FlatWriter:
    """One buffer; every method gives the place of what it wrote."""

    def __init__(self) -> None:
        self._builder = flatbuffers.Builder(1 << 16)

    def table(self, *fields: Field) -> int:
        """A table; fields that are 0 are left out, which means the same."""
        b = self._builder
        add: dict[str, Callable[[int, Any, Any], None]] = {
            "at": b.PrependUOffsetTRelativeSlot, "i8": b.PrependInt8Slot, "u8": b.PrependUint8Slot,
            "i32": b.PrependInt32Slot, "u32": b.PrependUint32Slot, "i64": b.PrependInt64Slot,
            "f32": b.PrependFloat32Slot}
        b.StartObject(max(slot for slot, _, _ in fields) + 1)
        # The widest first, so that no field needs room in front of it.
        for slot, kind, value in sorted(fields, key=lambda field: field[1] != "i64"):
            add[kind](slot, value, 0)
        return int(b.EndObject())

    def text(self, text: str | bytes) -> int:
        return int(self._builder.CreateString(text))

    def texts(self, texts: Iterable[str | bytes]) -> int:
        return self.offsets([self.text(t) for t in texts])

    def offsets(self, places: Sequence[int]) -> int:
        """A vector of what was written before."""
        b = self._builder
        b.StartVector(_WORD, len(places), _WORD)
        for place in reversed(places):
            b.PrependUOffsetTRelative(place)
        return int(b.EndVector())

    def structs(self, rows: Sequence[Sequence[int]]) -> int:
        """A vector of structs of 32-bit numbers, at least one a struct."""
        b, width = self._builder, len(rows[0]) if rows else 1
        b.StartVector(_WORD * width, len(rows), _WORD)
        for row in reversed(rows):
            for number in reversed(row):
                b.PrependInt32(number)
        return int(b.EndVector())

    def numbers(self, numbers: Iterable[float], dtype: Any) -> int:
        return self.array(np.fromiter(numbers, dtype))

    def array(self, array: npt.NDArray[Any], align: int = 1) -> int:
        """A vector of the elements of an array of one axis, the first at a multiple of `align` bytes."""
        self._builder.Prep(align, array.nbytes)
        return int(self._builder.CreateNumpyVector(array))

    def finish(self, root: int, identifier: bytes) -> bytes:
        """The buffer, which begins with a table."""
        self._builder.Finish(root, file_identifier=identifier)
        return bytes(self._builder.Output())
