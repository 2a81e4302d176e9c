"""Sparse tensors: values and the places where they stand, in one of ONNX Runtime's three formats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from onnxc.ir.types import dtype_of
from onnxc.runtime.devices import OrtDevice
from onnxc.runtime.enums import OrtSparseFormat

__all__ = ["SparseTensor"]

Array = npt.NDArray[Any]


class SparseTensor:
    """A tensor of which most elements are zero. Made by the functions whose names begin with `sparse_`; it shares the
    memory of contiguous arrays of numbers."""

    __slots__ = ("_format", "_places", "_shape", "_values")

    def __init__(self, *_: object, **__: object) -> None:
        raise TypeError("SparseTensor: No constructor defined! Use sparse_coo_from_numpy, sparse_csr_from_numpy or "
                        "sparse_block_from_numpy.")

    @classmethod
    def sparse_coo_from_numpy(cls, dense_shape: Sequence[int] | Array, values: Array, coo_indices: Array,
                              ort_device: OrtDevice) -> SparseTensor:
        """One index a value: into the flattened tensor, or along each axis, as int64[count, 2].

        Raises RuntimeError for indices that are not as many as the values, or lie outside.
        """
        shape, count = _shape(dense_shape), _values(values, ort_device)
        indices = _indices(coo_indices, "indices")
        if indices.shape == (2 * count,) and len(shape) == 2 and count:
            indices = indices.reshape(count, 2)     # pairs, one behind the other
        if indices.shape not in ((count,), (count, len(shape))):
            raise RuntimeError(f"Index size: {indices.size} must be equal to or twice the values size: {count}; the "
                               f"indices have the shape {list(indices.shape)}")
        _within(indices, math.prod(shape) if indices.ndim == 1 else shape, "indices")
        return cls._made(OrtSparseFormat.ORT_SPARSE_COO, shape, values, (indices,))

    @classmethod
    def sparse_csr_from_numpy(cls, dense_shape: Sequence[int] | Array, values: Array, inner_indices: Array,
                              outer_indices: Array, ort_device: OrtDevice) -> SparseTensor:
        """A column a value, and for each row the position of its first value, with the count of all at the end."""
        shape, count = _shape(dense_shape), _values(values, ort_device)
        inner, outer = _indices(inner_indices, "inner indices"), _indices(outer_indices, "outer indices")
        if len(shape) != 2 or inner.shape != (count,) or outer.shape != (shape[0] + 1,):
            raise RuntimeError(f"a matrix in rows of shape {list(shape)} with {count} values takes {count} inner and "
                               f"{shape[0] + 1 if shape else 1} outer indices, not {inner.size} and {outer.size}")
        _within(inner, shape[1], "inner indices")
        if outer[0] != 0 or outer[-1] != count or (np.diff(outer) < 0).any():
            raise RuntimeError(f"outer indices go up from 0 to the number of values, {count}; these do not")
        return cls._made(OrtSparseFormat.ORT_SPARSE_CSRC, shape, values, (inner, outer))

    @classmethod
    def sparse_block_from_numpy(cls, dense_shape: Sequence[int] | Array, values: Array, indices: Array,
                                ort_device: OrtDevice) -> SparseTensor:
        """Blocks of values, values[count, ...], and for each the indices of its block: int32[axes, count]."""
        shape = _shape(dense_shape)
        _values(np.ravel(values), ort_device)
        found = np.ascontiguousarray(indices, np.int32)
        if values.ndim < 1 or found.ndim != 2 or found.shape[1] != values.shape[0]:
            raise RuntimeError(f"blocks of shape {list(values.shape)} take indices of shape [axes, number of blocks], "
                               f"not {list(found.shape)}")
        return cls._made(OrtSparseFormat.ORT_SPARSE_BLOCK_SPARSE, shape, values, (found,))

    @classmethod
    def _made(cls, form: OrtSparseFormat, shape: tuple[int, ...], values: Array,
              places: tuple[Array, ...]) -> SparseTensor:
        made = object.__new__(cls)
        made._format, made._shape, made._values, made._places = form, shape, np.ascontiguousarray(values), places
        return made

    _format: OrtSparseFormat
    _shape: tuple[int, ...]
    _values: Array
    _places: tuple[Array, ...]

    def values(self) -> Array:
        """The values, which must not be written."""
        view = self._values.view()
        view.flags.writeable = False
        return view

    def as_coo_view(self) -> _Coo:
        """Where the values stand; RuntimeError in another format."""
        self._require(OrtSparseFormat.ORT_SPARSE_COO)
        return _Coo(self._places)

    def as_csrc_view(self) -> _Csr:
        """Where the values stand; RuntimeError in another format."""
        self._require(OrtSparseFormat.ORT_SPARSE_CSRC)
        return _Csr(self._places)

    def as_blocksparse_view(self) -> _Coo:
        """Where the blocks stand; RuntimeError in another format."""
        self._require(OrtSparseFormat.ORT_SPARSE_BLOCK_SPARSE)
        return _Coo(self._places)

    def to_cuda(self, ort_device: OrtDevice) -> NoReturn:
        """RuntimeError: there is no such device."""
        raise RuntimeError(f"Cuda is not available in this build: cannot move a sparse tensor to {ort_device!r}")

    def format(self) -> OrtSparseFormat:
        return self._format

    def dense_shape(self) -> list[int]:
        return list(self._shape)

    def data_type(self) -> str:
        """As `sparse_tensor(float)`."""
        return f"sparse_tensor({dtype_of(self._values.dtype).onnx_text})"

    def device_name(self) -> str:
        return "cpu"

    def _require(self, form: OrtSparseFormat) -> None:
        if self._format is not form:
            raise RuntimeError(f"This sparse tensor does not contain {form.name.removeprefix('ORT_SPARSE_')} format, "
                               f"but {self._format.name.removeprefix('ORT_SPARSE_')}")


class _Coo:
    def __init__(self, places: tuple[Array, ...]) -> None:
        self._indices, = places

    def indices(self) -> Array:
        return self._indices


class _Csr:
    def __init__(self, places: tuple[Array, ...]) -> None:
        self._inner, self._outer = places

    def inner(self) -> Array:
        return self._inner

    def outer(self) -> Array:
        return self._outer


def _shape(dense_shape: Sequence[int] | Array) -> tuple[int, ...]:
    shape = tuple(int(d) for d in dense_shape)
    if min(shape, default=0) < 0:
        raise RuntimeError(f"a sparse tensor of shape {list(shape)}: sizes are at least 0")
    return shape


def _values(values: Array, device: OrtDevice) -> int:
    """The number of values; they must be a list of one element type on the CPU."""
    if not isinstance(device, OrtDevice) or device.device_type():
        raise RuntimeError(f"sparse tensors lie on the CPU here, not on {device!r}")
    if not isinstance(values, np.ndarray) or values.ndim != 1:
        found = f"the shape {list(values.shape)}" if isinstance(values, np.ndarray) else f"the type {type(values)}"
        raise RuntimeError(f"the values of a sparse tensor are an array of one axis, not of {found}")
    try:
        dtype_of(values.dtype)
    except KeyError:
        raise RuntimeError(f"an array of {values.dtype} makes no sparse tensor: ONNX has no such element "
                           "type") from None
    return len(values)


def _indices(given: Array, what: str) -> Array:
    array = np.ascontiguousarray(given)
    if array.dtype != np.int64:
        raise RuntimeError(f"the {what} of a sparse tensor are int64, not {array.dtype}")
    return array


def _within(indices: Array, sizes: Any, what: str) -> None:
    if ((indices < 0) | (indices >= np.asarray(sizes))).any():
        raise RuntimeError(f"the {what} of a sparse tensor lie outside of its shape")
