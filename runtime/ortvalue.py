"""`OrtValue`: a value of any ONNX type outside of a session, and `OrtValueVector`, a list of them.

A tensor shares its memory with whoever it came from and whoever takes it: NumPy, DLPack, a run.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from onnxc.ir.types import ALL_DTYPES, STR, DType, dtype_of, dtype_of_onnx
from onnxc.runtime import dlpack
from onnxc.runtime.buffers import Buffer, Dense, nbytes_of
from onnxc.runtime.devices import OrtDevice, OrtMemoryInfo, require_cpu
from onnxc.runtime.sparse import SparseTensor

__all__ = ["OrtValue", "OrtValueVector", "copy_tensors", "element_type_of", "shape_of"]

Array = npt.NDArray[Any]

_TEXTS = {d.name: f"tensor({d.onnx_text})" for d in ALL_DTYPES}
_NUMBERS = {d.onnx_text: d.onnx for d in ALL_DTYPES}


class OrtValue:
    """A tensor, sparse tensor, sequence, map or optional. Made by the functions whose names begin with `ortvalue_`."""

    __slots__ = ("__weakref__", "_content", "_type")

    def __init__(self, ortvalue: OrtValue, numpy_obj: Array | None = None) -> None:
        """The same value under another object."""
        if not isinstance(ortvalue, OrtValue):
            raise ValueError(f"`Provided ortvalue` needs to be an OrtValue, not {type(ortvalue)}; make one from an "
                             "array with OrtValue.ortvalue_from_numpy")
        self._content, self._type = ortvalue._content, ortvalue._type

    #: A Dense, or else the value as `run` takes and gives it; None for an optional without a value.
    _content: Any
    _type: str

    @classmethod
    def of(cls, content: Any, type_text: str) -> OrtValue:
        """A value of the ONNX type `type_text` that is a `Dense`, or what `run` takes and gives for other types."""
        made = object.__new__(cls)
        made._content, made._type = content, type_text
        return made

    @classmethod
    def of_tensor(cls, tensor: Dense) -> OrtValue:
        made = object.__new__(cls)
        made._content, made._type = tensor, _TEXTS[tensor.dtype.name]
        return made

    # ---- making values -----------------------------------------------------------------------------------------------

    @classmethod
    def ortvalue_from_numpy(cls, numpy_obj: Array, /, device_type: str | OrtDevice = "cpu", device_id: int = 0,
                            vendor_id: int = -1) -> OrtValue:
        """The elements of an array: in the array's own memory where it is contiguous, and in a copy otherwise, as for
        texts and for elements below a byte.

        Raises RuntimeError for what is no array, for element types that ONNX has not, and for devices that are not
        here.
        """
        require_cpu(device_type, device_id, vendor_id)
        if not isinstance(numpy_obj, np.ndarray):
            raise RuntimeError(f"OrtValues are made from numpy arrays, not from {type(numpy_obj)}")
        array = np.asarray(numpy_obj)
        if array.dtype.kind in "OUT":
            return cls.of(_all_texts(array), "tensor(string)")
        try:
            return cls.of_tensor(Dense.of(array, dtype_of(array.dtype)))
        except KeyError:
            raise RuntimeError(f"Numpy_type {array.dtype.num} can't be converted to MLDataType. An array of "
                               f"{array.dtype} makes no OrtValue: ONNX has no such element type") from None

    @classmethod
    def ortvalue_from_numpy_with_onnx_type(cls, data: Array, /, onnx_element_type: int) -> OrtValue:
        """The bytes of an array as elements of an ONNX type of the same size; of packed types, as its packed bytes."""
        if not isinstance(data, np.ndarray):
            raise TypeError(f"OrtValues are made from numpy arrays, not from {type(data)}")
        dtype = element_type_of(onnx_element_type)
        if data.dtype.hasobject or data.dtype.kind in "USTMm" or dtype == STR:
            raise RuntimeError("the elements of an OrtValue of another type are those of a numpy array of numbers")
        if data.dtype.itemsize != max(1, dtype.bits // 8):
            raise RuntimeError(f"Items size in the incoming array: {data.dtype.itemsize} specified by onnxtype: "
                               f"{max(1, dtype.bits // 8)}")
        plain = np.require(data, data.dtype.newbyteorder("="), ("C_CONTIGUOUS", "ALIGNED"))
        return cls.of_tensor(Dense(Buffer.of(plain), dtype, data.shape))

    @classmethod
    def ortvalue_from_shape_and_type(cls, shape: Sequence[int], element_type: Any, device_type: str | OrtDevice = "cpu",
                                     device_id: int = 0, vendor_id: int = -1,
                                     memory_info: OrtMemoryInfo | None = None) -> OrtValue:
        """A tensor of unknown content; the element type as a numpy type, its name, or ONNX's number."""
        if memory_info is None:
            require_cpu(device_type, device_id, vendor_id)
        elif memory_info.name != "Cpu" or memory_info.device_id:
            raise RuntimeError(f"No shared allocator found for: {memory_info.name}:{memory_info.device_id}; there is "
                               "one for Cpu:0")
        dtype, sizes = element_type_of(element_type), shape_of(shape)
        if dtype == STR:
            raise RuntimeError("texts have no memory of a known size; make their OrtValue from an array")
        return cls.of_tensor(Dense.new(dtype, sizes, "an OrtValue"))

    @classmethod
    def ort_value_from_sparse_tensor(cls, sparse_tensor: SparseTensor) -> OrtValue:
        return cls.of(sparse_tensor, sparse_tensor.data_type())

    @classmethod
    def from_dlpack(cls, data: Any, /) -> OrtValue:
        """A tensor in the memory of an object with `__dlpack__`, or of a DLPack capsule.

        Raises TypeError for what is neither, and RuntimeError for tensors on other devices, of unknown element types
        or with gaps.
        """
        return cls.of_tensor(data._alone() if isinstance(data, OrtValue) else dlpack.tensor_of(data))

    # ---- asking ------------------------------------------------------------------------------------------------------

    def is_tensor(self) -> bool:
        return isinstance(self._content, Dense) or self._type == "tensor(string)"

    def is_sparse_tensor(self) -> bool:
        return isinstance(self._content, SparseTensor)

    def is_tensor_sequence(self) -> bool:
        return self._type.startswith("seq(tensor(")

    def has_value(self) -> bool:
        """False for an optional without a value, and only for that."""
        return self._content is not None

    def data_type(self) -> str:
        """The ONNX type, as `tensor(float)`."""
        return self._type

    def element_type(self) -> int:
        """ONNX's number of the element type of a tensor, or of the tensors of a sequence."""
        return _NUMBERS[self._type[self._type.rfind("(") + 1:].rstrip(")")]

    def shape(self) -> list[int]:
        """The shape of a tensor; the dense shape of a sparse one."""
        content = self._content
        if isinstance(content, SparseTensor):
            return content.dense_shape()
        return list(content.shape if isinstance(content, (Dense, np.ndarray)) else self._tensor.shape)

    def device_name(self) -> str:
        if not isinstance(self._content, SparseTensor) and not self.is_tensor():
            self._refuse("lies on no device")
        return "cpu"

    def data_ptr(self) -> int:
        """The address of the first element; the elements lie one behind the other, in memory that is no other value's
        unless it was made to share it."""
        return self._alone().address

    def tensor_size_in_bytes(self) -> int:
        return self._tensor.nbytes

    # ---- the content -------------------------------------------------------------------------------------------------

    def numpy(self) -> Array:
        """The elements: a view of the memory, or a copy where they are packed. RuntimeError where it is no tensor."""
        content = self._content
        if type(content) is Dense:
            return content.array()
        return content if isinstance(content, np.ndarray) else self._tensor.array()

    def content(self) -> Any:
        """The value as `run` takes and gives it."""
        return self._content.array() if isinstance(self._content, Dense) else self._content

    @classmethod
    def of_content(cls, content: Any, type_text: str) -> OrtValue:
        """An OrtValue of what `run` gives for an output of the ONNX type `type_text`."""
        if isinstance(content, np.ndarray) and content.dtype != object:
            return cls.of_tensor(Dense.of(content, dtype_of(content.dtype)))
        return cls.of(content, type_text)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self.numpy(), dtype, copy=copy)

    def __dlpack__(self, *, stream: Any = None, copy: bool | None = None, **_: Any) -> object:
        """A DLPack capsule with the memory of the tensor, or with a copy of it; bool goes out as uint8, as ONNX Runtime
        has it."""
        tensor = self._alone()
        return dlpack.capsule_of(Dense.of(tensor.array().copy(), tensor.dtype) if copy else tensor)

    def __dlpack_device__(self) -> tuple[int, int]:
        """RuntimeError for what is no tensor of numbers."""
        if not isinstance(self._content, Dense):
            self._refuse("has no such memory")
        return dlpack.CPU

    def to_dlpack(self) -> object:
        return self.__dlpack__()

    def as_sparse_tensor(self) -> SparseTensor:
        if not isinstance(self._content, SparseTensor):
            raise RuntimeError(f"This OrtValue does not contain SparseTensor. Check data_type() value: {self._type}")
        return self._content

    def update_inplace(self, data: Array | OrtValue) -> None:
        """Writes other elements to the memory of the tensor, which stays where it is.

        They must be as many, and of the same type; types that NumPy has not are also taken as unsigned integers of
        their width. Raises RuntimeError otherwise, and TypeError for what is neither array nor OrtValue.
        """
        tensor = self._tensor
        if isinstance(data, OrtValue):
            data = data.numpy()
        if not isinstance(data, np.ndarray):
            raise TypeError(f"data must be a numpy.ndarray or an OrtValue, not {type(data)}.")
        bits = np.dtype(f"u{max(1, tensor.dtype.bits // 8)}")
        raw = data.dtype == bits and tensor.dtype.numpy.isbuiltin != 1
        if data.dtype.newbyteorder("=") != tensor.dtype.numpy and not raw:
            raise RuntimeError(f"elements of {data.dtype} cannot be written to an OrtValue of type {self._type}")
        source = np.ascontiguousarray(data) if raw else Dense.of(data, tensor.dtype).raw()
        if source.nbytes != tensor.nbytes:
            raise RuntimeError("The input size of numpy arrays does not match the size of the OrtValue: shape "
                               f"{list(data.shape)} for one of shape {list(tensor.shape)}.")
        if not tensor.buffer.writable:
            raise RuntimeError("the OrtValue shares the memory of an array that must not be written")
        if tensor.room is not None:
            tensor.array()[...] = source.view(tensor.dtype.numpy).reshape(tensor.shape)
        else:
            tensor.raw()[...] = source.reshape(-1).view(np.uint8)

    # ---- parts that callers of ONNX Runtime reach for ----------------------------------------------------------------

    @property
    def _ortvalue(self) -> OrtValue:
        return self

    def _get_c_value(self) -> OrtValue:
        return self

    def __repr__(self) -> str:
        shape = f" of shape {self.shape()}" if self.is_tensor() or self.is_sparse_tensor() else ""
        return f"<OrtValue {self._type}{shape}>"

    @property
    def _tensor(self) -> Dense:
        if not isinstance(self._content, Dense):
            self._refuse("has no such memory")
        return cast(Dense, self._content)

    def _alone(self) -> Dense:
        """The tensor, in memory that later runs neither continue nor share, which may be other memory than before."""
        self._content = tensor = self._tensor.alone()
        return tensor

    def _refuse(self, why: str) -> None:
        raise RuntimeError(f"an OrtValue of type {self._type or 'optional'} {why}: only OrtValues that are tensors of "
                           "numbers have what was asked for")


class OrtValueVector:
    """A list of OrtValues."""

    def __init__(self, values: Iterable[OrtValue] = ()) -> None:
        self._values = list(values)

    def push_back(self, value: Any, is_bool: bool = False) -> None:
        """Appends an OrtValue, or the tensor of a DLPack capsule, whose bytes are bools when `is_bool`."""
        if not isinstance(value, OrtValue):
            tensor = dlpack.tensor_of(value)
            value = OrtValue.of_tensor(Dense(tensor.buffer, dtype_of(np.bool_), tensor.shape) if is_bool else tensor)
        self._values.append(value)

    def push_back_batch(self, tensors: Sequence[Any], pointers: Sequence[int], types: Sequence[Any],
                        shapes: Sequence[Sequence[int]], devices: Sequence[OrtDevice]) -> None:
        """Appends tensors by the addresses of their memory, which `tensors` own."""
        for owner, pointer, element_type, shape, device in zip(tensors, pointers, types, shapes, devices, strict=True):
            require_cpu(device)
            dtype, sizes = element_type_of(element_type), shape_of(shape)
            if dtype == STR:
                raise RuntimeError("texts lie at no address; append an OrtValue that was made from an array of them")
            memory = Buffer(pointer, nbytes_of(dtype, sizes), owner)
            self._values.append(OrtValue.of_tensor(Dense(memory, dtype, sizes)))

    def element_type_at(self, index: int) -> int:
        return self._values[index].element_type()

    def dlpack_at(self, index: int) -> object:
        return self._values[index].to_dlpack()

    def to_dlpacks(self, to_tensor: Any = None) -> list[Any]:
        """A capsule for each value, or what `to_tensor` makes of it."""
        capsules = [value.to_dlpack() for value in self._values]
        return capsules if to_tensor is None else [to_tensor(capsule) for capsule in capsules]

    def bool_tensor_indices(self) -> list[int]:
        return [i for i, value in enumerate(self._values) if value.data_type() == "tensor(bool)"]

    def reserve(self, count: int) -> None:
        """Accepted: a list grows as it needs."""

    def shrink_to_fit(self) -> None:
        """Accepted: a list grows as it needs."""

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: int) -> OrtValue:
        return self._values[index]

    def __iter__(self) -> Iterator[OrtValue]:
        return iter(self._values)


def copy_tensors(src: Sequence[OrtValue], dst: Sequence[OrtValue], stream: Any = None) -> None:
    """Writes the elements of each OrtValue of `src` to the memory of the one of `dst` at the same place."""
    if len(src) != len(dst):
        raise RuntimeError(f"{len(src)} tensors cannot be copied to {len(dst)}")
    for source, target in zip(src, dst, strict=True):
        target.update_inplace(source)


def element_type_of(given: Any) -> DType:
    """The element type that a numpy type, the name of one, or ONNX's number means; RuntimeError for others."""
    try:
        return dtype_of_onnx(given) if isinstance(given, int) else dtype_of(given)
    except (KeyError, TypeError):
        what = f"tensor type {given}" if isinstance(given, int) else f"the element type {given!r}"
        raise RuntimeError(f"{what} is not supported: ONNX has no such element type") from None


def shape_of(given: Iterable[Any]) -> tuple[int, ...]:
    """Sizes as ints; RuntimeError for negative ones."""
    shape = tuple(operator.index(size) for size in given)
    if min(shape, default=0) < 0:
        raise RuntimeError(f"Tensor shape.Size() must be >= 0; the shape is {list(shape)}")
    return shape


def _all_texts(array: Array) -> Array:
    texts = array.astype(object)
    if not all(isinstance(text, str) for text in texts.reshape(-1)):
        raise RuntimeError("an array of objects makes an OrtValue when all of them are str; these are not")
    return texts
