"""Values that are no tensors of numbers, as callers feed them: texts, sequences, maps, optionals. Rules and texts are
those of ONNX Runtime's `run`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from onnxc.errors import InvalidArgument
from onnxc.ir.types import ALL_DTYPES
from onnxc.runtime.arrays import array_of, in_plain_form, no_tensor, type_text_of
from onnxc.runtime.sparse import SparseTensor

__all__ = ["is_optional", "is_readable", "value_of"]

Array = npt.NDArray[Any]

_DTYPES = {d.onnx_text: d for d in ALL_DTYPES}
_KEYS = {"string": str, "int64": (int, np.integer)}


def is_optional(type_text: str) -> bool:
    return type_text.startswith("optional(")


def is_readable(type_text: str) -> bool:
    """Whether values of this type can be fed."""
    for head in ("optional(", "seq("):
        if type_text.startswith(head):
            return is_readable(type_text[len(head):-1])
    if type_text.startswith("map("):
        key, _, value = type_text[4:-1].partition(",")
        return key in _KEYS and value == "tensor(float)"
    return type_text.removeprefix("sparse_").startswith("tensor(") and type_text.rpartition("(")[2][:-1] in _DTYPES


def value_of(name: str, type_text: str, value: Any) -> Any:
    """The value in the form that host steps take. Raises RuntimeError for what makes no such value, and InvalidArgument
    for one of another type; both name the input."""
    if is_optional(type_text):
        return None if value is None else value_of(name, type_text[9:-1], value)
    if type_text.startswith("seq("):
        return _sequence(name, type_text[4:-1], value)
    if type_text.startswith("map("):
        return _map(name, type_text, value)
    if type_text.startswith("sparse_tensor("):
        return _sparse(name, type_text, value)
    return _texts(name, value) if type_text == "tensor(string)" else _numbers(name, type_text[7:-1], value)


def _sequence(name: str, element: str, value: Any) -> list[Any]:
    if isinstance(value, np.ndarray):
        raise InvalidArgument(f"input with name: '{name}' expected to be a sequence of {element} but received a tensor")
    if not isinstance(value, list):
        raise no_tensor(name, value, f"a list of {element}")
    if element.startswith("tensor(") and not all(isinstance(item, np.ndarray) for item in value):
        raise RuntimeError(f"Input '{name}' is a sequence of {element}; expected a list of arrays")
    try:
        return [value_of(name, element, item) for item in value]
    except InvalidArgument as error:
        raise RuntimeError(error.message) from None


def _map(name: str, type_text: str, value: Any) -> dict[Any, float]:
    key = type_text[4:type_text.index(",")]
    if isinstance(value, np.ndarray):
        raise InvalidArgument(f"input with name: '{name}' expected to be of type {type_text} but received a tensor")
    if not isinstance(value, dict):
        raise no_tensor(name, value, "a dict")
    if not all(isinstance(k, _KEYS[key]) for k in value):  # type: ignore[arg-type]
        raise InvalidArgument(f"Unexpected input data type. Input '{name}' is of type {type_text}; the keys of the "
                              f"dict are not of type {key}")
    try:
        return {k if key == "string" else int(k): float(v) for k, v in value.items()}
    except (TypeError, ValueError) as error:
        raise RuntimeError(f"Input '{name}' is of type {type_text}; a value in it is no number: {error}") from None


def _sparse(name: str, type_text: str, value: Any) -> SparseTensor:
    if isinstance(value, np.ndarray):
        raise InvalidArgument(f"input with name: '{name}' expected to be of type {type_text} but received a tensor; "
                              "make an OrtValue of a SparseTensor")
    if not isinstance(value, SparseTensor):
        raise no_tensor(name, value)
    if value.data_type() != type_text:
        raise InvalidArgument(f"Unexpected input data type. Actual: ({value.data_type()}) , expected: ({type_text}) "
                              f"for input: {name}")
    return value


def _texts(name: str, value: Any) -> Array:
    if not isinstance(value, (np.ndarray, list)):
        raise no_tensor(name, value)
    array = np.asarray(value, object if isinstance(value, list) else None)
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8")
    if array.dtype.kind not in "OUT":
        raise InvalidArgument(f"Unexpected input data type. Actual: (tensor({_text_of(array)})) , expected: "
                              f"(tensor(string)) for input: {name}")
    texts = array.astype(object)
    for place, item in enumerate(texts.flat):
        if type(item) is str:
            continue
        if not isinstance(item, str):
            raise RuntimeError(f"Input '{name}' takes texts; its array holds {item!r} of type {type(item).__name__}")
        texts.flat[place] = str(item)       # of a derived class, as NumPy's own texts are
    return texts


def _text_of(array: Array) -> str:
    return next((text for text, dtype in _DTYPES.items() if dtype.numpy == array.dtype), str(array.dtype))


def _numbers(name: str, element: str, value: Any) -> Array:
    dtype = _DTYPES[element]
    array = array_of(name, dtype, value)
    actual = type_text_of(name, dtype, array)
    if actual != f"tensor({element})":
        raise InvalidArgument(f"Unexpected input data type. Actual: ({actual}) , expected: (tensor({element})) for "
                              f"input: {name}")
    return in_plain_form(array, dtype)
