"""DLPack, the exchange of tensors between libraries without a copy, for the element types of ONNX.

NumPy makes and takes the capsules, which own memory and carry the function that frees it. It knows no types such as
bfloat16, so a capsule travels under the integer type of the same width, and the type's code in it is set right.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from onnxc.ir.types import ALL_DTYPES, DType
from onnxc.runtime.buffers import Buffer, Dense

__all__ = ["CPU", "capsule_of", "tensor_of"]

#: The device that (device type, index) pairs call the CPU.
CPU = (1, 0)
_NAME = b"dltensor"
_INT, _UINT, _FLOAT, _BFLOAT, _COMPLEX, _BOOL = 0, 1, 2, 4, 5, 6
_KINDS = {"int": _INT, "uint": _UINT, "float": _FLOAT, "complex": _COMPLEX}
_CODES = {"bf16": _BFLOAT, "bool": _BOOL, "f8e4m3fn": 10, "f8e4m3fnuz": 11, "f8e5m2": 12, "f8e5m2fnuz": 13,
          "f8e8m0": 14}
_BY_CODE = {(_CODES.get(d.name, _KINDS.get(d.kind, -1)), d.bits): d for d in ALL_DTYPES if d.bits >= 8}


class _Tensor(ctypes.Structure):
    """DLTensor, with which the struct that a capsule holds begins."""

    _fields_ = (("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
                ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8),
                ("lanes", ctypes.c_uint16))


def _python(name: str, result: Any) -> Any:
    function = getattr(ctypes.pythonapi, name)
    function.restype, function.argtypes = result, [ctypes.py_object, ctypes.c_char_p]
    return function


_is_valid = _python("PyCapsule_IsValid", ctypes.c_int)
_pointer = _python("PyCapsule_GetPointer", ctypes.c_void_p)


def _struct(capsule: object) -> _Tensor:
    return _Tensor.from_address(_pointer(capsule, _NAME))


def capsule_of(tensor: Dense) -> object:
    """A capsule with the memory of a tensor, which stays as long as the capsule is in use. bool goes out as bytes, as
    ONNX Runtime has it.

    Raises BufferError for elements below a byte and for memory that must not be written.
    """
    dtype = tensor.dtype
    if dtype.bits < 8:
        raise BufferError(f"elements of type {dtype.onnx_text} are packed, which DLPack consumers do not read; take "
                          "numpy() instead")
    capsule = tensor.array().view(_carrier(dtype)).__dlpack__()
    if dtype.name in _CODES and dtype.kind != "bool":
        _struct(capsule).code = _CODES[dtype.name]
    return capsule


def tensor_of(value: Any) -> Dense:
    """A tensor in the memory of an object with `__dlpack__`, or of a capsule.

    Raises TypeError for what is neither, RuntimeError for another device, an unknown element type, or elements that do
    not lie one behind the other.
    """
    capsule = value.__dlpack__() if hasattr(value, "__dlpack__") else value
    if type(capsule).__name__ != "PyCapsule" or not _is_valid(capsule, _NAME):
        raise TypeError(f"a value of type {type(value)} is no DLPack capsule that can still be used, and has no "
                        "__dlpack__ method")
    struct = _struct(capsule)
    if struct.device_type != CPU[0]:
        raise RuntimeError(f"the tensor lies on device type {struct.device_type}, index {struct.device_id} of DLPack; "
                           "move it to the CPU")
    dtype = _BY_CODE.get((struct.code, struct.bits))
    if dtype is None or struct.lanes != 1:
        raise RuntimeError(f"Unsupported code {struct.code} with {struct.bits} bits and {struct.lanes} lanes: there is "
                           "no such element type in ONNX")
    if dtype.name in _CODES:
        struct.code = _UINT
    array = np.from_dlpack(_Once(capsule))  # type: ignore[arg-type]  # what a capsule is typed as differs
    if not array.flags.c_contiguous:
        raise RuntimeError(f"the tensor of shape {list(array.shape)} is not contiguous: its strides are "
                           f"{list(array.strides)} bytes; make it contiguous first")
    # NumPy marks all memory out of such capsules as read only. Nobody may put memory that must not be written in one.
    return Dense(Buffer(array.ctypes.data, array.nbytes, array), dtype, array.shape)


def _carrier(dtype: DType) -> np.dtype:
    return np.dtype(f"u{dtype.bits // 8}") if dtype.name in _CODES else dtype.numpy


class _Once:
    """A capsule in the form that NumPy takes."""

    def __init__(self, capsule: object) -> None:
        self.capsule = capsule

    def __dlpack__(self, **_: object) -> object:
        return self.capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return CPU
