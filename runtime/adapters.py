"""Adapters (LoRA): files of parameters that stand in for a model's overridable initializers during a run.

`AdapterFormat` reads and writes them, `LoraAdapter` maps one for `RunOptions.add_active_adapter`.
"""

from __future__ import annotations

import mmap
import operator
import os
from collections.abc import Mapping

import numpy as np

from onnxc.ir.types import STR
from onnxc.runtime.buffers import Buffer, Dense, nbytes_of
from onnxc.runtime.ortvalue import OrtValue, element_type_of, shape_of

__all__ = ["AdapterFormat", "LoraAdapter"]


class LoraAdapter:
    """Parameters out of a file, for runs whose options have this adapter."""

    def __init__(self) -> None:
        self._parameters: dict[str, OrtValue] = {}

    def Load(self, path: str | os.PathLike[str]) -> None:
        """Takes the parameters of a file, where they lie in it. RuntimeError for what is no adapter."""
        self._parameters = AdapterFormat.read_adapter(path).get_parameters()

    def parameters(self) -> Mapping[str, OrtValue]:
        """What was loaded."""
        return self._parameters


class AdapterFormat:
    """The content of an adapter's file."""

    def __init__(self) -> None:
        self._adapter_version = self._model_version = 0
        self._parameters: dict[str, OrtValue] = {}

    @staticmethod
    def read_adapter(file_path: str | os.PathLike[str]) -> AdapterFormat:
        """What a file holds; parameters are used where they lie. RuntimeError for what is no adapter."""
        from onnxc.frontend.adapter_format import parse_adapter
        try:
            with open(file_path, "rb") as file:
                data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as error:
            raise RuntimeError(f"The adapter {os.fspath(file_path)} cannot be read: {error}") from None
        made = AdapterFormat()
        try:
            adapter = parse_adapter(data)
            made._parameters = {name: _value(*parameter) for name, parameter in adapter.parameters.items()}
        except (ValueError, RuntimeError) as error:
            raise RuntimeError(f"{os.fspath(file_path)} does not appear to be a valid lora parameter format: "
                               f"{error}") from None
        made._adapter_version, made._model_version = adapter.adapter_version, adapter.model_version
        return made

    def export_adapter(self, file_path: str | os.PathLike[str]) -> None:
        """Writes the file. RuntimeError where it cannot be written, and for values that are no tensors of numbers."""
        from onnxc.frontend.adapter_format import Adapter, Parameter, adapter_bytes
        parameters = {name: Parameter(tuple(value.shape()), value.element_type(), value._tensor.raw())
                      for name, value in self._parameters.items()}
        data = adapter_bytes(Adapter(self._adapter_version, self._model_version, parameters))
        try:
            with open(file_path, "wb") as file:
                file.write(data)
        except OSError as error:
            raise RuntimeError(f"The adapter {os.fspath(file_path)} cannot be written: {error}") from None

    def get_format_version(self) -> int:
        """The version of the files that are read and written."""
        from onnxc.frontend.adapter_format import FORMAT_VERSION
        return FORMAT_VERSION

    def set_adapter_version(self, adapter_version: int) -> None:
        self._adapter_version = operator.index(adapter_version)

    def get_adapter_version(self) -> int:
        return self._adapter_version

    def set_model_version(self, model_version: int) -> None:
        self._model_version = operator.index(model_version)

    def get_model_version(self) -> int:
        return self._model_version

    def set_parameters(self, params: Mapping[str, OrtValue]) -> None:
        """The parameters that the file is to hold: OrtValues, AttributeError for others."""
        self._parameters = {name: value._get_c_value() for name, value in params.items()}

    def get_parameters(self) -> dict[str, OrtValue]:
        """The parameters by name; those of a file lie in it, and must not be written."""
        return dict(self._parameters)


def _value(shape: tuple[int, ...], element_type: int, data: np.ndarray) -> OrtValue:
    dtype, sizes = element_type_of(element_type), shape_of(shape)
    if dtype == STR or data.nbytes != nbytes_of(dtype, sizes):
        raise RuntimeError(f"a tensor of {dtype} and shape {list(sizes)} is said to have {data.nbytes} bytes")
    return OrtValue.of_tensor(Dense(Buffer.of(data), dtype, sizes))
