"""From what a caller feeds for a tensor of numbers to an array. Rules and texts are those of ONNX Runtime's `run`,
which takes arrays and lists; here, whatever NumPy or DLPack can make an array of is taken too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxc.ir.types import STR, DType, dtype_of
from onnxc.runtime.ortvalue import OrtValue

__all__ = ["array_of", "in_plain_form", "no_tensor", "type_text_of"]

Array = npt.NDArray[Any]


def array_of(name: str, dtype: DType, value: Any) -> Array:
    """The value of the input `name` as an array of its own type, or of `dtype` when it is a list; RuntimeError for what
    makes none."""
    if isinstance(value, np.ndarray):
        return np.asarray(value)
    if isinstance(value, OrtValue):
        return value.numpy()
    if isinstance(value, list):
        return _from_list(name, dtype, value)
    if hasattr(value, "__dlpack__"):
        return _from_dlpack(name, value)
    if hasattr(value, "__array__") and not isinstance(value, (np.generic, type)):
        return np.asarray(value)
    raise no_tensor(name, value)


def type_text_of(name: str, dtype: DType, array: Array) -> str:
    """The ONNX type of an array that is fed where elements of `dtype` are expected, as `tensor(float)`; RuntimeError
    for one that no ONNX type describes."""
    kind = array.dtype.kind
    if kind != "T" and array.dtype.newbyteorder("=") == dtype.numpy:        # texts have no byte order
        return f"tensor({dtype.onnx_text})"
    if kind in "OSU":
        return f"tensor({STR.onnx_text})"
    try:
        if kind == "T" or (kind == "c" and dtype.kind != "complex"):
            raise TypeError
        return f"tensor({dtype_of(array.dtype).onnx_text})"
    except (KeyError, TypeError):
        raise RuntimeError(f"Numpy_type {array.dtype.num} can't be converted to MLDataType. Input '{name}' is an "
                           f"array of {array.dtype}; expected tensor({dtype.onnx_text}).") from None


def in_plain_form(array: Array, dtype: DType) -> Array:
    """The elements in this machine's byte order, one behind the other."""
    return np.require(array, dtype.numpy, ("C_CONTIGUOUS", "ALIGNED"))


def no_tensor(name: str, value: Any, expected: str = "a numpy array") -> RuntimeError:
    """The error for a value of a kind that an input never has. Of what can be iterated, ONNX Runtime speaks as of a
    list."""
    if isinstance(value, Iterable):
        return RuntimeError(f"Input must be a list of dictionaries or a single numpy array for input '{name}'. It is "
                            f"of type {type(value)}; pass {expected}.")
    return RuntimeError(f"Unable to handle object of type {type(value)} for input '{name}'; pass {expected}.")


def _from_list(name: str, dtype: DType, value: list[Any]) -> Array:
    try:
        if np.asarray(value).dtype.kind not in ("biufcV" if dtype.kind == "complex" else "biufV"):
            raise TypeError("its items are not numbers")
        return np.array(value, dtype=dtype.numpy)
    except (ValueError, TypeError, OverflowError) as error:
        raise RuntimeError(f"Could not create tensor from given input list for input '{name}' of type "
                           f"tensor({dtype.onnx_text}): {error}") from None


def _from_dlpack(name: str, value: Any) -> Array:
    try:
        return np.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise RuntimeError(f"Could not take input '{name}' from a {type(value)} without copying it: {error}. "
                           "Convert it to a numpy array on the CPU.") from None
