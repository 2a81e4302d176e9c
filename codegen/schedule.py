"""How a kernel is run: the record that a target's heuristics fill in and its emitter follows.

The kernel says what is computed and names its axes; the schedule only refers to them. It prints as one line, stands in
the kernel function's attribute `schedule`, and parses back.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterable

__all__ = ["Choose", "Schedule", "first"]


@dataclasses.dataclass(frozen=True, slots=True)
class Schedule:
    """All fields are optional: an absent one leaves the emitter its plainest way."""

    vector: str = ""            # axis laid across vector lanes (CPU); "" is scalar code
    lanes: int = 1              # lanes along it
    unroll: int = 1             # vectors in flight along it
    jam: int = 0                # outer points along the axis of `blocks` whose inner loops run as one (CPU)
    grain: int = 1              # least outer points a thread takes at once
    rows: int = 0               # contraction: rows of the register tile
    vectors: int = 0            # contraction: vectors of the register tile
    chunk: int = 0              # contraction: rows of the left operand a thread takes at once
    depth: int = 0              # contraction: k elements a block (0: all)
    dot: str = ""               # contraction of bytes: how four products are summed at once (CPU)
    winograd: int = 0           # contraction: results of three taps that Winograd's sums make at once (0: plain sums)
    blocks: tuple[tuple[str, int], ...] = ()    # tile extent an axis (GPU)
    warps: int = 4              # warps a program (GPU)
    stages: int = 2             # pipeline stages (GPU)

    def __str__(self) -> str:
        parts = []
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if value != f.default:
                text = ",".join(f"{a}:{n}" for a, n in value) if f.name == "blocks" else str(value)
                parts.append(f"{f.name}={text}")
        return " ".join(parts)

    @staticmethod
    def parse(text: str) -> Schedule:
        """The schedule that prints as `text`; ValueError names what is not understood."""
        kinds = typing.get_type_hints(Schedule)
        values: dict[str, typing.Any] = {}
        for part in text.split():
            name, sep, value = part.partition("=")
            if not sep or name not in kinds:
                raise ValueError(f"'{part}' is not a field of a schedule; fields are {', '.join(kinds)}")
            if name == "blocks":
                pairs = [p.split(":") for p in value.split(",")]
                values[name] = tuple((a, int(n)) for a, n in pairs)
            else:
                values[name] = value if kinds[name] is str else int(value)
        return Schedule(**values)


Choose = Callable[[Iterable[Schedule]], Schedule]
"""Takes one of a kernel's candidates, of which the first is what the heuristics hold for the best."""


def first(candidates: Iterable[Schedule]) -> Schedule:
    """The heuristics' own choice."""
    return next(iter(candidates))
