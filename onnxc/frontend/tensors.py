"""TensorProto and SparseTensorProto -> numpy, for every element type and every field the data may sit in.

All sizes are checked against the dims before anything is allocated. Every TensorProto of a model goes through
`TensorReader`, wherever it sits, so external data has no way around the checks of `external`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from onnx import SparseTensorProto, TensorProto

from onnxc import errors
from onnxc.errors import Fail, InvalidGraph, InvalidProtobuf
from onnxc.frontend.external import ExternalFiles
from onnxc.frontend.limits import Limits
from onnxc.frontend.problems import printable
from onnxc.ir.types import DType, dtype_of_onnx

__all__ = ["TensorReader", "unpack"]


class _Storage(NamedTuple):
    """Where the elements of a type stand when they are not in raw_data: the field, and the type it is read as."""

    field: str
    carrier: type[np.generic]


def _storage(d: DType) -> _Storage:
    if d.kind == "complex":
        return _Storage("float_data", np.float32) if d.bits == 64 else _Storage("double_data", np.float64)
    if d.name in ("f32", "f64"):
        return _Storage("float_data", np.float32) if d.bits == 32 else _Storage("double_data", np.float64)
    if d.name == "i64":
        return _Storage("int64_data", np.int64)
    if d.name in ("u32", "u64"):
        return _Storage("uint64_data", np.uint64)
    return _Storage("int32_data", np.int32)


_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


class TensorReader:
    """Reads the tensors of one model."""

    def __init__(self, files: ExternalFiles, limits: Limits) -> None:
        self.files, self.limits = files, limits

    def read(self, tensor: TensorProto, name: str = "", blob: np.ndarray | None = None) -> np.ndarray:
        """The elements of a tensor; read-only where they alias the message. `blob`: its raw data, when kept apart."""
        name = name or tensor.name
        d = self.element_type(tensor.data_type, name)
        shape = self.shape(tensor.dims, name)
        count = math.prod(shape)
        if tensor.HasField("segment"):
            raise errors.NotImplemented(f"{_what(name)} is stored in segments, which onnxc does not read: save it in "
                                        "one piece.")
        if tensor.data_location == TensorProto.EXTERNAL:
            return self._external(tensor, name, d, shape, count)
        used = [f for f in _FIELDS if len(getattr(tensor, f))]
        if blob is not None or tensor.HasField("raw_data"):
            used.append("raw_data")
        if len(used) > 1:
            raise InvalidGraph(f"{_what(name)} should contain one and only one value field; it has {', '.join(used)}.")
        if d.kind == "str":
            return self._strings(tensor, name, shape, count, used)
        if used == ["raw_data"]:
            raw = blob if blob is not None else np.frombuffer(tensor.raw_data, np.uint8)
            return from_raw(raw, d, shape, count, name)
        return _from_field(tensor, d, shape, count, used, name)

    def sparse(self, tensor: SparseTensorProto) -> np.ndarray:
        """The dense form of a sparse tensor."""
        name = tensor.values.name
        values = self.read(tensor.values, name)
        shape = self.shape(tensor.dims, name)
        indices = self.read(tensor.indices, f"{name} (indices)")
        size = math.prod(shape)
        self.limits.require("dense_bytes", size * values.dtype.itemsize, f"The dense size of {_what(name)}")
        if values.ndim != 1 or indices.dtype != np.int64:
            raise InvalidGraph(f"{_what(name)} is sparse: its values have to be a vector and its indices int64.")
        flat = _linear_indices(indices, shape, len(values), name)
        if len(flat) and (flat[0] < 0 or flat[-1] >= size or np.any(np.diff(flat) <= 0)):
            raise InvalidGraph(f"{_what(name)}: sparse indices have to lie in the dims {list(shape)}, sorted and each "
                               "once.")
        dense = np.full(size, "", object) if values.dtype == object else np.zeros(size, values.dtype)
        dense[flat] = values
        return dense.reshape(shape)

    def element_type(self, number: int, name: str) -> DType:
        """The element type of a TensorProto.DataType number."""
        try:
            return dtype_of_onnx(number)
        except KeyError:
            pass
        if number in TensorProto.DataType.values() and number != TensorProto.UNDEFINED:
            raise errors.NotImplemented(f"{_what(name)} has element type {TensorProto.DataType.Name(number)}, "
                                 "which onnxc does not implement.")
        raise InvalidGraph(f"{_what(name)} has element type {number}, which is not an ONNX type.")

    def shape(self, dims: object, name: str) -> tuple[int, ...]:
        """Checked dims of a tensor."""
        shape = tuple(int(n) for n in dims)  # type: ignore[attr-defined]
        self.limits.require("rank", len(shape), f"The rank of {_what(name)}")
        if any(n < 0 for n in shape):
            raise InvalidGraph(f"{_what(name)} has dims {list(shape)}: a constant has no negative dim.")
        # Zero dims must not hide the size of the others: strides are products of these.
        self.limits.require("elements", math.prod(n for n in shape if n), f"The element count of {_what(name)}")
        return shape

    def _external(self, tensor: TensorProto, name: str, d: DType, shape: tuple[int, ...], count: int) -> np.ndarray:
        if d.kind == "str":
            raise Fail(f"External data path validation failed for initializer: {printable(name)}. "
                       "Strings cannot be stored as external data.")
        entries = [(_text(e.key), _text(e.value)) for e in tensor.external_data]
        return from_raw(self.files.read(entries, _nbytes(d, count), name), d, shape, count, name)

    def _strings(self, tensor: TensorProto, name: str, shape: tuple[int, ...], count: int,
                 used: list[str]) -> np.ndarray:
        if used not in ([], ["string_data"]) or len(tensor.string_data) != count:
            raise InvalidGraph(f"{_what(name)} has dims {list(shape)} = {count} strings, but {len(tensor.string_data)} "
                               f"elements of string_data (and {used or 'no data'}).")
        out = np.empty(count, object)
        for i, s in enumerate(tensor.string_data):
            self.limits.require("string_bytes", len(s), f"The length of string {i} of {_what(name)}")
            try:
                out[i] = s.decode()
            except UnicodeDecodeError:
                raise InvalidGraph(f"{_what(name)}: string {i} is not UTF-8.") from None
        return out.reshape(shape)


def _what(name: str) -> str:
    return f"tensor '{printable(name)}'"


def _text(s: str | bytes) -> str:
    if isinstance(s, bytes):
        raise InvalidProtobuf(f"Protobuf parsing failed: the text {s[:40]!r} is not UTF-8.")
    return s


def _nbytes(d: DType, count: int) -> int:
    return count * d.bits // 8 if d.bits >= 8 else (count * d.bits + 7) // 8


def _linear_indices(indices: np.ndarray, shape: tuple[int, ...], count: int, name: str) -> np.ndarray:
    """Row-major positions from indices [count] or [count, rank]."""
    if indices.shape == (count,):
        return indices
    if indices.shape != (count, len(shape)):
        raise InvalidGraph(f"{_what(name)}: sparse indices have shape {list(indices.shape)}; for {count} values of a "
                           f"rank {len(shape)} tensor it has to be [{count}] or [{count}, {len(shape)}].")
    if np.any(indices < 0) or np.any(indices >= np.array(shape, np.int64)):
        raise InvalidGraph(f"{_what(name)}: a sparse index lies outside of the dims {list(shape)}.")
    strides = [math.prod(shape[i + 1:]) for i in range(len(shape))]
    return indices @ np.array(strides, np.int64)


def from_raw(raw: np.ndarray, d: DType, shape: tuple[int, ...], count: int, name: str) -> np.ndarray:
    """Elements from little-endian packed bytes, without a copy where the element type has whole bytes."""
    if raw.size != _nbytes(d, count):
        raise InvalidGraph(f"{_what(name)} has dims {list(shape)} of {d.onnx_text}, which take {_nbytes(d, count)} "
                           f"bytes, but its raw data has {raw.size}.")
    if d.bits < 8:
        return unpack(raw, d, count).reshape(shape)
    if d.name == "bool":
        _check_bools(raw, name)
    elements = raw.view(d.numpy.newbyteorder("<"))
    return elements.astype(d.numpy, copy=False).reshape(shape)


def unpack(packed: np.ndarray, d: DType, count: int) -> np.ndarray:
    """Elements of a 4 or 2 bit type from bytes; the first element stands in the lowest bits."""
    per_byte = 8 // d.bits
    lanes = np.empty((packed.size, per_byte), np.uint8)
    for i in range(per_byte):
        lanes[:, i] = packed >> (i * d.bits)
    lanes &= (1 << d.bits) - 1
    codes = lanes.reshape(-1)[:count]
    if d.kind == "float":
        return codes.view(d.numpy)
    if d.kind == "int":
        sign = 1 << (d.bits - 1)
        codes = (codes ^ sign).view(np.int8) - np.int8(sign)
    return codes.astype(d.numpy)


def _check_bools(raw: np.ndarray, name: str) -> None:
    if raw.size and raw.max() > 1:
        raise InvalidGraph(f"{_what(name)} is bool, but has bytes other than 0 and 1.")


def _from_field(tensor: TensorProto, d: DType, shape: tuple[int, ...], count: int, used: list[str],
                name: str) -> np.ndarray:
    field, carrier = _storage(d)
    if used not in ([], [field]):
        raise InvalidGraph(f"{_what(name)} is {d.onnx_text}, whose elements stand in raw_data or {field}, not in "
                           f"{used[0]}.")
    values = np.asarray(getattr(tensor, field), carrier)
    per_element = 2 if d.kind == "complex" else 1
    needed = _nbytes(d, count) if d.bits < 8 else count * per_element
    if values.size != needed:
        raise InvalidGraph(f"{_what(name)} has dims {list(shape)} = {count} elements of {d.onnx_text}, which take "
                           f"{needed} entries of {field}, but there are {values.size}.")
    return _narrow(values, d, count, name).reshape(shape)


def _narrow(values: np.ndarray, d: DType, count: int, name: str) -> np.ndarray:
    """Elements from the wider integers (or the float pairs) that the message holds."""
    if d.kind == "complex":
        return values.view(d.numpy)
    if values.dtype == d.numpy:
        return values
    if d.kind == "bool":
        low, high = 0, 1
    elif d.is_integer and d.bits >= 8:
        info = np.iinfo(d.numpy)
        low, high = int(info.min), int(info.max)
    else:
        low, high = 0, (1 << max(d.bits, 8)) - 1     # bit patterns: half and byte floats, packed sub-byte types
    if values.size and (int(values.min()) < low or int(values.max()) > high):
        raise InvalidGraph(f"{_what(name)} is {d.onnx_text}, but an entry of its data lies outside of {low}..{high}.")
    if d.bits < 8:
        return unpack(values.astype(np.uint8), d, count)
    if d.is_float:
        return values.astype(np.uint16 if d.bits == 16 else np.uint8).view(d.numpy)
    return values.astype(d.numpy)
