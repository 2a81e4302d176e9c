"""From what a caller feeds to arrays in the form that a compiled program reads: names, element types, ranks, sizes.

The rules and texts are those of ONNX Runtime's `run`; where its text leaves out the input's name, ours has it. Arrays
in the other byte order are read as what they say. Whether inputs agree with each other is the program's to check.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from onnxc import errors
from onnxc.errors import InvalidArgument
from onnxc.ir.signature import ValueInfo
from onnxc.ir.types import ALL_DTYPES, STR, DType
from onnxc.runtime.addresses import in_plain_order
from onnxc.runtime.arrays import array_of, in_plain_form, type_text_of
from onnxc.runtime.containers import is_optional, is_readable, value_of
from onnxc.runtime.ortvalue import OrtValue
from onnxc.runtime.sparse import SparseTensor

__all__ = ["Feeds", "listed", "wanted_outputs"]

Array = npt.NDArray[Any]
#: Arrays for the required inputs and then for the overridden initializers; the names of those; the arrays' shapes.
Prepared = tuple[list[Array], tuple[str, ...], tuple[tuple[int, ...], ...]]
T = TypeVar("T")

_ADVICE = "Please fix either the inputs/outputs or the model."
_MOST_SHAPES = 64          # combinations of shapes that are remembered as checked
_BY_TEXT = {f"tensor({d.onnx_text})": d for d in ALL_DTYPES if d != STR}


@dataclasses.dataclass(frozen=True, slots=True)
class _Input:
    """One input as the checks need it; `fixed` are the (axis, size) pairs that are declared, `rank` None is any."""

    name: str
    type_text: str
    dtype: DType
    rank: int | None
    fixed: tuple[tuple[int, int], ...]
    is_number: bool = True

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape has the declared rank and sizes."""
        return self.rank is None or (len(shape) == self.rank and all(shape[axis] == size for axis, size in self.fixed))


class Feeds:
    """The inputs of one model, and its initializers that may be fed as well. Dims named in `overrides` are fixed."""

    def __init__(self, inputs: Sequence[ValueInfo], overridable: Sequence[ValueInfo],
                 overrides: Mapping[str, int] | None = None) -> None:
        self._inputs = {i.name: _input(i, overrides or {}) for i in (*inputs, *overridable)}
        self._required = tuple(self._inputs[i.name] for i in inputs)
        self.required = tuple(i.name for i in inputs)
        self._plain = tuple((i.name, i.dtype.numpy) for i in self._required)
        self._only_numbers = all(i.is_number for i in self._required)
        self._taken: set[tuple[tuple[int, ...], ...]] = set()

    def prepare(self, feed: Mapping[str, Any]) -> Prepared:
        """What is fed, in the form that a program reads.

        Raises ValueError for missing inputs, TypeError, RuntimeError for a value that makes no tensor, and
        InvalidArgument for an unknown name, a wrong element type, rank or size; all name the input.
        """
        return self._as_they_are(feed) or self._converted(feed)

    def _as_they_are(self, feed: Mapping[str, Any]) -> Prepared | None:
        """The arrays themselves when there is one for each required input and nothing else, all in the right form."""
        if type(feed) is not dict or len(feed) != len(self._plain) or not self._only_numbers:
            return None
        arrays: list[Array] = []
        shapes = []
        for name, dtype in self._plain:
            value = feed.get(name)
            if type(value) is not np.ndarray or not in_plain_order(value) or \
                    (value.dtype is not dtype and value.dtype != dtype):
                return None
            arrays.append(value)
            shapes.append(value.shape)
        key = tuple(shapes)
        if key not in self._taken:
            if not all(spec.takes(shape) for spec, shape in zip(self._required, key, strict=True)):
                return None
            if len(self._taken) >= _MOST_SHAPES:
                self._taken.clear()
            self._taken.add(key)
        return arrays, (), key

    def check_names(self, feed: Mapping[str, Any]) -> None:
        """Raises ValueError when a required input is missing; an optional one may be."""
        names = list(feed.keys())
        missing = [i.name for i in self._required if (i.name not in names or feed[i.name] is None)
                   and not is_optional(i.type_text)]
        if missing:
            raise ValueError(f"Required inputs ({missing}) are missing from input feed ({names}).")

    def _converted(self, feed: Mapping[str, Any]) -> Prepared:
        self.check_names(feed)
        names = list(feed.keys())
        if not all(isinstance(name, str) for name in names):
            raise TypeError(f"names of inputs are str; the feed has {[n for n in names if not isinstance(n, str)]}")
        arrays: dict[str, Array] = {}
        for name in sorted(names):
            value = feed[name]
            if value is not None:
                arrays[name] = self._check(self._known(name, value), value)
        ordered, overridden = self.arrange(arrays)
        return ordered, overridden, tuple([getattr(a, "shape", ()) for a in ordered])

    def knows(self, name: str) -> bool:
        """Whether there is such an input, or an initializer that may be overridden."""
        return name in self._inputs

    def arrange(self, values: Mapping[str, T]) -> tuple[list[T], tuple[str, ...]]:
        """The values of the required inputs, None for an optional one that is missing, and then of the overridden
        initializers, whose names come second; in order. InvalidArgument for a missing or an unknown one."""
        for name in values:
            if name not in self._inputs:
                raise InvalidArgument(f"Invalid input name: {name}")
        required = self.required
        for name in required:
            if name not in values and not is_optional(self._inputs[name].type_text):
                raise InvalidArgument(f"Missing Input: {name}")
        overridden = tuple(name for name in self._inputs if name in values and name not in required)
        return [values.get(name) for name in (*required, *overridden)], overridden  # type: ignore[misc]

    def check(self, name: str, type_text: str, shape: Sequence[int]) -> None:
        """InvalidArgument for an element type, rank or size that an input does not have."""
        _check_form(self._inputs[name], type_text, shape)

    def _known(self, name: str, value: Any) -> _Input:
        if name not in self._inputs:
            if isinstance(value, list):
                raise RuntimeError(f"Invalid input name: {name}; a list takes its element type from the input.")
            raise InvalidArgument(f"Invalid input name: {name}")
        return self._inputs[name]

    def _check(self, spec: _Input, value: Any) -> Any:
        if not spec.is_number:
            found = value_of(spec.name, spec.type_text, value.content() if isinstance(value, OrtValue) else value)
            if isinstance(found, (np.ndarray, SparseTensor)):
                shape = found.shape if isinstance(found, np.ndarray) else found.dense_shape()
                _check_form(spec, spec.type_text, shape)
            return found
        array = array_of(spec.name, spec.dtype, value)
        _check_form(spec, type_text_of(spec.name, spec.dtype, array), array.shape)
        return in_plain_form(array, spec.dtype)


def _check_form(spec: _Input, type_text: str, shape: Sequence[int]) -> None:
    if type_text != spec.type_text:
        raise InvalidArgument(f"Unexpected input data type. Actual: ({type_text}) , expected: ({spec.type_text}) for "
                              f"input: {spec.name}")
    if spec.rank is not None and len(shape) != spec.rank:
        raise InvalidArgument(f"Invalid rank for input: {spec.name} Got: {len(shape)} Expected: {spec.rank} {_ADVICE}")
    wrong = [(axis, shape[axis], size) for axis, size in spec.fixed if shape[axis] != size]
    if wrong:
        lines = "".join(f"\n index: {axis} Got: {got} Expected: {size}" for axis, got, size in wrong)
        raise InvalidArgument(f"Got invalid dimensions for input: {spec.name} for the following indices{lines}\n"
                              f" {_ADVICE}")


def wanted_outputs(names: Any, outputs: Mapping[str, int]) -> list[int] | None:
    """Positions of the outputs called `names`; None, an empty collection and '' mean all of them, which gives None.

    Raises TypeError for a bare string and InvalidArgument for a name that is no output's.
    """
    wanted = listed(names)
    for name in wanted:
        if name not in outputs:
            raise InvalidArgument(f"Invalid output name:{name}")
    return [outputs[name] for name in wanted] or None


def listed(names: Any) -> list[str]:
    """Names of outputs, as callers give them, as a list; TypeError for a bare string and for what holds no names."""
    if names is None:
        return []
    if isinstance(names, (str, bytes)) and len(names):
        raise TypeError(f"output_names is the text {names!r}; expected a list of names: [{names!r}]")
    if not isinstance(names, Iterable):
        raise TypeError(f"output_names is of type {type(names)}; expected a list of names")
    given = list(names)
    for name in given:
        if not isinstance(name, str):
            raise TypeError(f"output_names holds {name!r} of type {type(name)}; expected names")
    return [str(name) if isinstance(name, np.str_) else name for name in given]


def _input(info: ValueInfo, overrides: Mapping[str, int]) -> _Input:
    dtype = _BY_TEXT.get(info.type_text)
    if dtype is None and not is_readable(info.type_text):
        raise errors.NotImplemented(f"Input '{info.name}' is of type {info.type_text or 'none that the model says'}, "
                                    "which cannot be fed.")
    if info.shape is None:
        return _Input(info.name, info.type_text, dtype or STR, None, (), dtype is not None)
    sizes = [overrides.get(d, d) if isinstance(d, str) else d for d in info.shape]
    fixed = tuple((axis, d) for axis, d in enumerate(sizes) if isinstance(d, int))
    return _Input(info.name, info.type_text, dtype or STR, len(sizes), fixed, dtype is not None)
