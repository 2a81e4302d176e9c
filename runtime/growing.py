"""Where outputs that continue an input go: behind it, in the same memory, as long as there is room.

A decoder gives back its past with a row appended. The first run writes the present to memory with room behind it; a
run that takes this as its past claims the rows that follow, and writes nothing else. Of two runs that continue the same
past one gets the rows, the other one copies the past to memory of its own, as does one that finds no room.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from onnxc.runtime.buffers import Dense, Room
from onnxc.runtime.compiled import Cache
from onnxc.runtime.program import NativeProgram

__all__ = ["Growth", "grow"]

_LEAST = 128            # rows of room behind a new present


@dataclasses.dataclass(frozen=True, slots=True)
class Growth:
    """The inputs as the program reads them, where the outputs that continue one of them go, and the rooms."""

    inputs: list[Dense]
    places: dict[int, Dense]
    rooms: tuple[tuple[str, int], ...]


def grow(program: NativeProgram, inputs: Sequence[Dense], given: Sequence[Dense | None]) -> Growth:
    """Places for the outputs of `program` that continue an input, but for those that are `given` memory."""
    found = Growth([*inputs], {}, ())
    groups: dict[str, list[Cache]] = {}
    for cache in program.compiled.caches:
        groups.setdefault(cache.past_room, []).append(cache)
    if not groups:
        return found
    rooms: dict[str, int] = {}
    needed = program.rooms(tuple([tensor.shape for tensor in inputs]))
    for group in groups.values():
        if all(given[cache.output] is None for cache in group):
            rooms |= _grow_group(program, group, needed, found)
    return dataclasses.replace(found, rooms=tuple(rooms.items()))


def _grow_group(program: NativeProgram, group: list[Cache], needed: dict[str, int], found: Growth) -> dict[str, int]:
    """Fills in inputs and places of caches that share their rooms; the rooms."""
    past_name, present_name = group[0].past_room, group[0].present_room
    begin, end = needed[past_name], needed[present_name]
    room = _common_room(group, found.inputs)
    if room is None:
        for cache in group:
            found.inputs[cache.input] = found.inputs[cache.input].compact()
        room = begin
    pasts = [found.inputs[cache.input] for cache in group]
    in_place = room >= end and all(past.buffer.writable and past.buffer.claim(begin, end) for past in pasts)
    width = room if in_place else end + max(end // 2, _LEAST)
    for cache, past in zip(group, pasts, strict=True):
        shape = (*past.shape[:cache.axis], end, *past.shape[cache.axis + 1:])
        if in_place:
            found.places[cache.output] = Dense(past.buffer, past.dtype, shape, Room(cache.axis, width))
        else:
            name, _ = program.outputs[cache.output]
            made = Dense.new(past.dtype, shape, f"output '{name}'", width, cache.axis)
            made.buffer.filled = end
            found.places[cache.output] = made
    return {past_name: room, present_name: width}


def _common_room(group: list[Cache], inputs: Sequence[Dense]) -> int | None:
    """The room that all pasts have; None where they differ, or have it along another axis."""
    rooms = set()
    for cache in group:
        past = inputs[cache.input]
        if past.room is not None and past.room.axis != cache.axis:
            return None
        rooms.add(past.shape[cache.axis] if past.room is None else past.room.size)
    return rooms.pop() if len(rooms) == 1 else None
