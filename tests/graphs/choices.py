"""Where random graphs get their randomness: one stream of small numbers, whose smallest values give the simplest
graph."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

__all__ = ["Choices", "drawn", "replayed", "seeded", "shrink"]

T = TypeVar("T")


class Choices:
    """A stream of numbers, recorded in `taken` as they are taken; `draw(n)` gives one in [0, n)."""

    def __init__(self, draw: Callable[[int], int]) -> None:
        self._draw = draw
        self.taken: list[int] = []

    def below(self, n: int) -> int:
        """A number in [0, n)."""
        if n == 1:
            return 0
        self.taken.append(self._draw(n))
        return self.taken[-1]

    def pick(self, items: Sequence[T]) -> T:
        """One of the items; the first is the simplest."""
        return items[self.below(len(items))]

    def chance(self, percent: int) -> bool:
        """Whether something unusual happens."""
        return self.below(100) >= 100 - percent

    def some(self, items: Sequence[T], percent: int = 50) -> list[T]:
        """Some of the items, in order."""
        return [i for i in items if self.chance(percent)]

    def order(self, n: int) -> tuple[int, ...]:
        """A permutation of n positions; zeros leave them in order."""
        rest = list(range(n))
        return tuple(rest.pop(self.below(len(rest))) for _ in range(n))


def seeded(seed: int) -> Choices:
    """The stream of a seed."""
    return Choices(random.Random(seed).randrange)


def drawn(draw: Callable[[Any], Any]) -> Choices:
    """A stream that hypothesis makes, and shrinks."""
    from hypothesis import strategies as st

    return Choices(lambda n: draw(st.integers(0, n - 1)))


def replayed(taken: Sequence[int]) -> Choices:
    """A recorded stream; numbers too large for their place are reduced, and after its end there are zeros."""
    rest = iter(taken)
    return Choices(lambda n: min(next(rest, 0), n - 1))


def shrink(taken: list[int], fails: Callable[[list[int]], bool], tries: int = 1500) -> list[int]:
    """A shorter or smaller recorded stream that still fails."""
    best, length = list(taken), max(1, len(taken) // 2)
    while length and tries > 0:
        at, smaller = 0, False
        while at < len(best) and tries > 0:
            for candidate in _reductions(best, at, length):
                tries -= 1
                if candidate != best and fails(candidate):
                    best, smaller = candidate, True
                    break
            else:
                at += length
        length = length if smaller and length == 1 else length // 2
    return best


def _reductions(taken: list[int], at: int, length: int) -> list[list[int]]:
    """The stream without a stretch, with zeros in its place, and with a single number made smaller."""
    out = [taken[:at] + taken[at + length:], taken[:at] + [0] * len(taken[at:at + length]) + taken[at + length:]]
    if length == 1 and taken[at]:
        out += [[*taken[:at], v, *taken[at + 1:]] for v in {taken[at] // 2, taken[at] - 1}]
    return out
