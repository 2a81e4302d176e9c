"""Symbols from sizes: which symbol a dim of known size gives a value to, and how."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Set

from onnxc.ir.dims import Dim, DimLike, substitute, sym, symbols_of

__all__ = ["Solution", "solvable", "solve"]


@dataclasses.dataclass(frozen=True, slots=True)
class Solution:
    """`symbol` is (size - rest) / factor, where size is that of the dim factor * symbol + rest."""

    symbol: str
    factor: int
    rest: DimLike


def solve(d: DimLike, known: Set[str]) -> Solution | None:
    """The one symbol of `d` that is not known, when `d` is linear in it; None otherwise."""
    unknown = symbols_of(d) - known
    if len(unknown) != 1 or not isinstance(d, Dim):
        return None
    (symbol,) = unknown
    rest = substitute(d, {symbol: 0})
    slope = d - rest
    factor = substitute(slope, {symbol: 1})
    if not isinstance(factor, int) or factor == 0 or slope != factor * sym(symbol):
        return None
    return Solution(symbol, factor, rest)


def solvable(dims: Iterable[DimLike]) -> set[str]:
    """The symbols that follow from the sizes of all `dims` together."""
    known: set[str] = set()
    waiting = list(dict.fromkeys(dims))
    while True:
        found = {d: s.symbol for d in waiting if (s := solve(d, known)) is not None}
        if not found:
            return known
        known.update(found.values())
        waiting = [d for d in waiting if d not in found]
