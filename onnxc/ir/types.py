"""Types of values at every level: element types, tensors, kernel memory, scalars and containers.

All are frozen and compared by value; `str(t)` is what the parser reads back.
"""

from __future__ import annotations

import dataclasses

import ml_dtypes
import numpy as np

from onnxc.ir.dims import DimLike, Shape, product

__all__ = ["ALL_DTYPES", "BF16", "BOOL", "F16", "F32", "F64", "I8", "I16", "I32", "I64", "STR", "U8", "U16", "U32",
"U64",
           "DType", "Map", "Mem", "Opt", "Scalar", "Seq", "Sparse", "Tensor", "Type", "dtype_of", "dtype_named",
           "dtype_of_onnx", "tensor_of"]


@dataclasses.dataclass(frozen=True, slots=True)
class DType:
    """An element type.

    `kind` is one of "float", "int", "uint", "bool", "complex", "str"; `bits` is the width of one element (sub-byte
    types
    are packed in memory); `onnx` is its number in TensorProto.DataType; `compute` names the type arithmetic is done in.
    """

    name: str
    kind: str
    bits: int
    onnx: int
    numpy: np.dtype
    compute: str

    def __str__(self) -> str:
        return self.name

    @property
    def is_float(self) -> bool:
        return self.kind == "float"

    @property
    def is_integer(self) -> bool:
        return self.kind in ("int", "uint")

    @property
    def is_signed(self) -> bool:
        return self.kind in ("int", "float", "complex")

    @property
    def onnx_text(self) -> str:
        """The name in ONNX type strings: `tensor(<this>)`."""
        return _ONNX_TEXT.get(self.name, self.numpy.name)

    def nbytes(self, count: DimLike) -> DimLike:
        """Bytes that `count` elements take, packed."""
        return count * (self.bits // 8) if self.bits >= 8 else (count * self.bits + 7) // 8


def _row(name: str, kind: str, bits: int, onnx: int, carrier: object, compute: str | None = None) -> DType:
    return DType(name, kind, bits, onnx, np.dtype(carrier), compute or name)  # type: ignore[call-overload]


_ONNX_TEXT = {"f32": "float", "f64": "double", "str": "string", "f8e4m3fn": "float8e4m3fn", "f8e4m3fnuz":
"float8e4m3fnuz",
              "f8e5m2": "float8e5m2", "f8e5m2fnuz": "float8e5m2fnuz", "f8e8m0": "float8e8m0", "f4e2m1": "float4e2m1"}

#                name         kind   bits onnx  numpy carrier             computes in
ALL_DTYPES: tuple[DType, ...] = (
    _row("f32", "float", 32, 1, np.float32),
    _row("u8", "uint", 8, 2, np.uint8),
    _row("i8", "int", 8, 3, np.int8),
    _row("u16", "uint", 16, 4, np.uint16),
    _row("i16", "int", 16, 5, np.int16),
    _row("i32", "int", 32, 6, np.int32),
    _row("i64", "int", 64, 7, np.int64),
    _row("str", "str", 0, 8, object),
    _row("bool", "bool", 8, 9, np.bool_),
    _row("f16", "float", 16, 10, np.float16, "f32"),
    _row("f64", "float", 64, 11, np.float64),
    _row("u32", "uint", 32, 12, np.uint32),
    _row("u64", "uint", 64, 13, np.uint64),
    _row("c64", "complex", 64, 14, np.complex64),
    _row("c128", "complex", 128, 15, np.complex128),
    _row("bf16", "float", 16, 16, ml_dtypes.bfloat16, "f32"),
    _row("f8e4m3fn", "float", 8, 17, ml_dtypes.float8_e4m3fn, "f32"),
    _row("f8e4m3fnuz", "float", 8, 18, ml_dtypes.float8_e4m3fnuz, "f32"),
    _row("f8e5m2", "float", 8, 19, ml_dtypes.float8_e5m2, "f32"),
    _row("f8e5m2fnuz", "float", 8, 20, ml_dtypes.float8_e5m2fnuz, "f32"),
    _row("u4", "uint", 4, 21, ml_dtypes.uint4, "i32"),
    _row("i4", "int", 4, 22, ml_dtypes.int4, "i32"),
    _row("f4e2m1", "float", 4, 23, ml_dtypes.float4_e2m1fn, "f32"),
    _row("f8e8m0", "float", 8, 24, ml_dtypes.float8_e8m0fnu, "f32"),
    _row("u2", "uint", 2, 25, ml_dtypes.uint2, "i32"),
    _row("i2", "int", 2, 26, ml_dtypes.int2, "i32"),
)
_BY_NAME = {d.name: d for d in ALL_DTYPES}
_BY_ONNX = {d.onnx: d for d in ALL_DTYPES}
_BY_NUMPY = {d.numpy: d for d in ALL_DTYPES}

F16, F32, F64, BF16 = (_BY_NAME[n] for n in ("f16", "f32", "f64", "bf16"))
I8, I16, I32, I64 = (_BY_NAME[n] for n in ("i8", "i16", "i32", "i64"))
U8, U16, U32, U64 = (_BY_NAME[n] for n in ("u8", "u16", "u32", "u64"))
BOOL, STR = _BY_NAME["bool"], _BY_NAME["str"]


def dtype_named(name: str) -> DType:
    """The element type called `name` in the IR ("f32"); KeyError when there is none."""
    return _BY_NAME[name]


def dtype_of_onnx(number: int) -> DType:
    """The element type of a TensorProto.DataType number; KeyError when there is none."""
    return _BY_ONNX[number]


def dtype_of(numpy_dtype: object) -> DType:
    """The element type whose carrier is this numpy dtype (strings: object or U); KeyError when there is none."""
    d = np.dtype(numpy_dtype)  # type: ignore[call-overload]
    return STR if d.kind in "UT" else _BY_NUMPY[d.newbyteorder("=")]


@dataclasses.dataclass(frozen=True, slots=True)
class Type:
    """Base of all types."""


def _bracket(shape: Shape | None) -> str:
    return "[*]" if shape is None else f"[{', '.join(map(str, shape))}]"


@dataclasses.dataclass(frozen=True, slots=True)
class Tensor(Type):
    """A tensor value; `shape` None is a tensor of unknown rank (only before lowering)."""

    dtype: DType
    shape: Shape | None

    def __str__(self) -> str:
        return f"{self.dtype}{_bracket(self.shape)}"

    @property
    def dims(self) -> Shape:
        """The shape, which must be known."""
        if self.shape is None:
            raise TypeError(f"the rank of a value of type {self} is not known")
        return self.shape

    @property
    def rank(self) -> int:
        return len(self.dims)

    @property
    def size(self) -> DimLike:
        """The number of elements."""
        return product(self.dims)

    @property
    def is_static(self) -> bool:
        return self.shape is not None and all(isinstance(d, int) for d in self.shape)


@dataclasses.dataclass(frozen=True, slots=True)
class Mem(Type):
    """A row-major buffer of a kernel or program: where a tensor lives."""

    dtype: DType
    shape: Shape

    def __str__(self) -> str:
        return f"mem<{self.dtype}{_bracket(self.shape)}>"

    @property
    def size(self) -> DimLike:
        return product(self.shape)

    @property
    def nbytes(self) -> DimLike:
        return self.dtype.nbytes(self.size)


@dataclasses.dataclass(frozen=True, slots=True)
class Scalar(Type):
    """One element, the type of values inside kernels."""

    dtype: DType

    def __str__(self) -> str:
        return str(self.dtype)


@dataclasses.dataclass(frozen=True, slots=True)
class Seq(Type):
    """A sequence of values of one type."""

    element: Type

    def __str__(self) -> str:
        return f"seq<{self.element}>"


@dataclasses.dataclass(frozen=True, slots=True)
class Opt(Type):
    """A value or nothing."""

    element: Type

    def __str__(self) -> str:
        return f"opt<{self.element}>"


@dataclasses.dataclass(frozen=True, slots=True)
class Map(Type):
    """A map from keys of an element type to values."""

    key: DType
    value: Type

    def __str__(self) -> str:
        return f"map<{self.key}, {self.value}>"


@dataclasses.dataclass(frozen=True, slots=True)
class Sparse(Type):
    """A tensor that is held as values and the places where they stand."""

    element: Tensor

    def __str__(self) -> str:
        return f"sparse<{self.element}>"


def tensor_of(array: np.ndarray) -> Tensor:
    """The type of a numpy array."""
    return Tensor(dtype_of(array.dtype), tuple(int(d) for d in array.shape))
