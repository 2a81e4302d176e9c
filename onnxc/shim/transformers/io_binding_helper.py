"""`TypeHelper`: what inputs and outputs of a session are called by NumPy, torch and ONNX."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from onnxc.ir.types import ALL_DTYPES
from onnxc.runtime.metadata import NodeArg

__all__ = ["TypeHelper"]

_TYPES = {f"tensor({d.onnx_text})": d for d in ALL_DTYPES}


class TypeHelper:
    """Maps of types, as ONNX Runtime's class of this name has them. ValueError for what has no counterpart."""

    @staticmethod
    def get_input_type(ort_session: Any, name: str) -> str:
        """The type text of an input."""
        return _type_of(ort_session.get_inputs(), name, "input")

    @staticmethod
    def get_output_type(ort_session: Any, name: str) -> str:
        """The type text of an output."""
        return _type_of(ort_session.get_outputs(), name, "output")

    @staticmethod
    def ort_type_to_numpy_type(ort_type: str) -> Any:
        """NumPy's type of "tensor(float)" and so on."""
        dtype = _dtype(ort_type)
        return bool if dtype.kind == "bool" else dtype.numpy.type

    @staticmethod
    def ort_type_to_torch_type(ort_type: str) -> Any:
        """torch's type of "tensor(float)" and so on."""
        return TypeHelper.numpy_type_to_torch_type(_dtype(ort_type).numpy)

    @staticmethod
    def ort_type_to_onnx_type(ort_type: str) -> int:
        """The number of "tensor(float)" and so on in TensorProto.DataType."""
        return _dtype(ort_type).onnx

    @staticmethod
    def numpy_type_to_torch_type(numpy_type: Any) -> Any:
        """torch's type of the same name."""
        name = np.dtype(numpy_type).name
        found = getattr(importlib.import_module("torch"), name, None)
        if found is None:
            raise ValueError(f"torch has no counterpart of {name}")
        return found

    @staticmethod
    def torch_type_to_numpy_type(torch_type: Any) -> Any:
        """NumPy's type of the same name."""
        name = str(torch_type).removeprefix("torch.")
        for dtype in ALL_DTYPES:
            if dtype.numpy.name == name and dtype.bits >= 8:
                return bool if dtype.kind == "bool" else dtype.numpy.type
        raise ValueError(f"NumPy has no counterpart of {torch_type}")

    @staticmethod
    def get_io_onnx_type_map(ort_session: Any) -> dict[str, int]:
        """The ONNX numbers by name of all inputs and outputs."""
        return {arg.name: TypeHelper.ort_type_to_onnx_type(arg.type) for arg in _all(ort_session)}

    @staticmethod
    def get_io_numpy_type_map(ort_session: Any) -> dict[str, Any]:
        """NumPy's types by name of all inputs and outputs."""
        return {arg.name: TypeHelper.ort_type_to_numpy_type(arg.type) for arg in _all(ort_session)}

    @staticmethod
    def get_io_torch_type_map(ort_session: Any) -> dict[str, Any]:
        """torch's types by name of all inputs and outputs."""
        return {arg.name: TypeHelper.ort_type_to_torch_type(arg.type) for arg in _all(ort_session)}


def _all(session: Any) -> list[NodeArg]:
    return [*session.get_inputs(), *session.get_outputs()]


def _type_of(args: list[NodeArg], name: str, what: str) -> str:
    for arg in args:
        if arg.name == name:
            return arg.type
    raise ValueError(f"{what} name {name} not found")


def _dtype(ort_type: str) -> Any:
    if ort_type not in _TYPES:
        raise ValueError(f"{ort_type} not found in map")
    return _TYPES[ort_type]
