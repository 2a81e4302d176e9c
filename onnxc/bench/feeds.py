"""Random values for a model's inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from onnxc.errors import InvalidArgument
from onnxc.ir.dims import evaluate, parse_dim, symbols_of
from onnxc.ir.types import ALL_DTYPES, STR, DType
from onnxc.runtime.metadata import NodeArg

__all__ = ["random_feed"]

_BY_TEXT = {f"tensor({d.onnx_text})": d for d in ALL_DTYPES if d != STR}
_MOST_ELEMENTS = 1 << 32


def random_feed(arguments: Sequence[NodeArg], dims: Mapping[str, int], seed: int = 0) -> dict[str, np.ndarray]:
    """Values for the inputs of a model: floats from the normal distribution, integers of 0 and 1, bools.

    Integers are as small as that because most are indices. `dims` gives the sizes of named dimensions; those that it
    does not name are 1. Raises InvalidArgument for a name that no input has, and for inputs that are not tensors.
    """
    known = {name for a in arguments for d in a.shape if isinstance(d, str) for name in _names_in(d)}
    unknown = sorted(set(dims) - known)
    if arguments and unknown:
        raise InvalidArgument(f"No input has a dimension called {', '.join(unknown)}; there are "
                              f"{', '.join(sorted(known)) or 'none with a name'}.")
    generator = np.random.default_rng(seed)
    return {a.name: _random(generator, a, [_size(d, dims) for d in a.shape]) for a in arguments}


def _names_in(dim: str) -> set[str]:
    """The text itself, and the symbols of an expression."""
    try:
        return {dim, *symbols_of(parse_dim(dim))}
    except ValueError:
        return {dim}


def _size(dim: int | str | None, dims: Mapping[str, int]) -> int:
    if isinstance(dim, int):
        return dim
    if dim is None or dim in dims:
        return dims.get(dim or "", 1)
    try:
        expression = parse_dim(dim)
        return evaluate(expression, {name: dims.get(name, 1) for name in symbols_of(expression)})
    except ValueError:
        return 1


def _random(generator: np.random.Generator, argument: NodeArg, shape: list[int]) -> np.ndarray:
    dtype = _BY_TEXT.get(argument.type)
    if dtype is None:
        raise InvalidArgument(f"Input '{argument.name}' is of type {argument.type}; random values are for tensors of "
                              "numbers. Give it a file.")
    if math.prod(shape) > _MOST_ELEMENTS or min(shape, default=0) < 0:
        raise InvalidArgument(f"Input '{argument.name}' of shape {shape} is not a size for random values.")
    return _values(generator, dtype, shape)


def _values(generator: np.random.Generator, dtype: DType, shape: list[int]) -> np.ndarray:
    if dtype.is_float or dtype.kind == "complex":
        return generator.standard_normal(shape).astype(dtype.numpy)
    return generator.integers(0, 2, shape).astype(dtype.numpy)
