"""How inferred dims are shown to the model's users: in the names that the model itself has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from onnxc.ir.dims import DimLike, calls_of, symbols_of
from onnxc.ir.signature import ValueInfo
from onnxc.ir.types import Tensor, Type

__all__ = ["DimTexts"]

Shown = tuple[int | str | None, ...]        # a shape as a NodeArg has it


class DimTexts:
    """The texts of dims, by the declared shapes of a model's inputs and the types that these have in the IR."""

    def __init__(self, infos: Iterable[ValueInfo], types: Iterable[Type]) -> None:
        self._texts: dict[DimLike, str] = {}
        self._named: set[str] = set()
        for info, t in zip(infos, types, strict=False):
            if not isinstance(t, Tensor) or t.shape is None or info.shape is None:
                continue
            for text, dim in zip(info.shape, t.shape, strict=True):
                if isinstance(text, str) and not isinstance(dim, int):
                    self._texts.setdefault(dim, text)
                    self._named.update(symbol for symbol in symbols_of(dim) if symbol in text)

    def filled(self, declared: Shown | None, dims: Sequence[DimLike] | None) -> Shown | None:
        """A declared shape with what it leaves open taken from inference: the whole of it where there is none, else
        dims that are fixed or have a name in the model."""
        if dims is None:
            return declared
        if declared is None:
            return self.shape(dims)
        if len(declared) != len(dims):
            return declared
        return tuple(d if d is not None else e if isinstance(e, int) else self._texts.get(e)
                     for d, e in zip(declared, dims, strict=True))

    def shape(self, dims: Sequence[DimLike]) -> Shown:
        """An int where fixed, the model's own text, an expression of its names, None for all other dims, as for what
        two of its names broadcast to."""
        return tuple(d if isinstance(d, int) else self._texts.get(d) or self._expression(d) for d in dims)

    def _expression(self, d: DimLike) -> str | None:
        plain = symbols_of(d) <= self._named and not any(call.fn in ("min", "max") for call in calls_of([d]))
        return str(d) if plain else None
