"""From the shapes of a run's inputs to the values of the program's dimension symbols, and from those to output shapes.

Plain arithmetic on ints, prepared once a program. What a caller may feed by declaration is checked in
`runtime/feeds.py`; here the inputs have to agree with each other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from onnxc.errors import InvalidArgument, RuntimeException
from onnxc.ir.dims import Dim, DimLike, evaluate, symbols_of
from onnxc.ir.solve import solve
from onnxc.ir.types import Tensor

__all__ = ["Contradiction", "DimBinder", "shape_function"]

Shape = tuple[int, ...]


class Contradiction(InvalidArgument):
    """Dimensions that the model calls the same, or makes of the same, have sizes that do not go together."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    """One dimension of one input."""

    position: int
    axis: int
    dim: DimLike

    def text(self, names: Sequence[str], size: int) -> str:
        return f"dimension {self.axis} of input '{names[self.position]}' is {size}"


@dataclasses.dataclass(frozen=True, slots=True)
class _Step:
    """Gives a symbol its value from the size at `place`."""

    place: _Place
    symbol: str
    factor: int
    rest: DimLike


class DimBinder:
    """Binds `symbols` from the shapes of inputs whose inferred types are `types` and whose names are `names`."""

    def __init__(self, symbols: Sequence[str], types: Sequence[Tensor], names: Sequence[str]) -> None:
        """Raises RuntimeException when some symbol does not follow from the inputs' shapes."""
        self._symbols = tuple(symbols)
        self._names = tuple(names)
        self._ranks = tuple(t.rank for t in types)
        places = [_Place(i, axis, d) for i, t in enumerate(types) for axis, d in enumerate(t.dims)]
        self._steps, self._checks = _order(places)
        self._last: tuple[tuple[Shape, ...] | None, dict[str, int]] = None, {}     # what was bound, and to what
        missing = [s for s in symbols if s not in {step.symbol for step in self._steps}]
        if missing:
            raise RuntimeException(f"the program needs the dimensions {', '.join(missing)}, which the shapes of its "
                                   f"inputs ({', '.join(names)}) do not give")

    def bind(self, shapes: tuple[Shape, ...]) -> dict[str, int]:
        """The value of every symbol. Raises InvalidArgument for shapes that contradict each other or the program."""
        last, found = self._last
        if last != shapes:
            found = self._found(shapes)
            self._last = shapes, found
        return dict(found)

    def _found(self, shapes: Sequence[Shape]) -> dict[str, int]:
        self._check_ranks(shapes)
        values: dict[str, int] = {}
        for step in self._steps:
            size = shapes[step.place.position][step.place.axis]
            value, left = divmod(size - evaluate(step.rest, values), step.factor)
            if left or value < 0:
                raise Contradiction(f"{step.place.text(self._names, size)}, which is not of the form "
                                      f"{step.place.dim}{_given(step.rest, values)} with {step.symbol} at least 0.")
            values[step.symbol] = value
        for place in self._checks:
            size = shapes[place.position][place.axis]
            expected = evaluate(place.dim, values)
            if size != expected:
                raise self._contradiction(place, size, expected, shapes)
        return values

    def _check_ranks(self, shapes: Sequence[Shape]) -> None:
        for name, shape, rank in zip(self._names, shapes, self._ranks, strict=True):
            if len(shape) != rank:
                raise InvalidArgument(f"Invalid rank for input: {name} Got: {len(shape)} Expected: {rank} "
                                      "Please fix either the inputs/outputs or the model.")

    def _contradiction(self, place: _Place, size: int, expected: int, shapes: Sequence[Shape]) -> InvalidArgument:
        found = place.text(self._names, size)
        if isinstance(place.dim, int):
            return InvalidArgument(f"{found}; the model takes {expected} only.")
        sources = [step.place for step in self._steps if step.symbol in symbols_of(place.dim)]
        because = " and ".join(s.text(self._names, shapes[s.position][s.axis]) for s in sources)
        if [s.dim for s in sources] == [place.dim]:
            return Contradiction(f"{found}, but {because}: the model calls both {place.dim}, so they have to be equal.")
        return Contradiction(f"{found}, but {because}, which makes the first, {place.dim}, {expected}.")


def _given(rest: DimLike, values: dict[str, int]) -> str:
    known = [f"{name} = {values[name]}" for name in sorted(symbols_of(rest))]
    return f" ({', '.join(known)})" if known else ""


def _order(places: Sequence[_Place]) -> tuple[list[_Step], list[_Place]]:
    """Which dimension gives which symbol, in an order in which each needs only earlier ones; and what is left over."""
    steps: list[_Step] = []
    known: set[str] = set()
    # Lone symbols first: the value is the size itself, whatever other dimensions make of the symbol.
    waiting = sorted(places, key=lambda p: not (isinstance(p.dim, Dim) and str(p.dim) in symbols_of(p.dim)))
    found = True
    while found:
        found = False
        for place in waiting:
            solution = solve(place.dim, known)
            if solution is not None:
                steps.append(_Step(place, solution.symbol, solution.factor, solution.rest))
                known.add(solution.symbol)
                waiting.remove(place)
                found = True
                break
    return steps, waiting


def shape_function(types: Sequence[Tensor]) -> Callable[[Mapping[str, int]], tuple[Shape, ...]]:
    """A function from the symbols' values to the shapes of values of these types."""
    distinct: dict[DimLike, int] = {}
    places = [[distinct.setdefault(d, len(distinct)) for d in t.dims] for t in types]
    dims = tuple(distinct)

    def shapes(values: Mapping[str, int]) -> tuple[Shape, ...]:
        sizes = [evaluate(d, values) for d in dims]
        return tuple([tuple([sizes[i] for i in shape]) for shape in places])

    return shapes
