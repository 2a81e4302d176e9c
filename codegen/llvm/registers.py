"""Elements in registers: which LLVM type holds an element type, how wide it is in memory, and constants of it."""

from __future__ import annotations

import dataclasses

import numpy as np
from llvmlite import ir

from onnxc.codegen.llvm.abi import I1, I8, KernelError
from onnxc.ir.types import BOOL, DType

__all__ = ["Element", "const", "is_packed", "memory_type", "register_type", "with_lanes"]

_NATIVE = {"f32": ir.FloatType(), "f64": ir.DoubleType(), "bool": I1}


@dataclasses.dataclass(frozen=True)
class Element:
    """A value, or one value a lane, of an element type."""

    value: ir.Value
    dtype: DType

    @property
    def lanes(self) -> int:
        """How many lanes it has; 1 for a scalar."""
        return self.value.type.count if isinstance(self.value.type, ir.VectorType) else 1


def is_packed(dtype: DType) -> bool:
    """Whether several elements share a byte."""
    return dtype.bits < 8


def register_type(dtype: DType) -> ir.Type:
    """The type of one element in a register: itself, i1 for bool, the bits of types without arithmetic."""
    if dtype.kind in ("complex", "str"):
        raise KernelError(f"elements of type {dtype} have no native code")
    return _NATIVE.get(dtype.name) or ir.IntType(max(dtype.bits, 8))


def memory_type(dtype: DType) -> ir.Type:
    """The type of one element in memory (of the byte that holds it, for packed types)."""
    return I8 if dtype == BOOL else register_type(dtype)


def with_lanes(type: ir.Type, lanes: int) -> ir.Type:
    """The vector of that many lanes; the type itself for one."""
    return type if lanes == 1 else ir.VectorType(type, lanes)


def const(value: float | int | bool, dtype: DType) -> Element:
    """A constant element. Types held as bits get the bits of the nearest value."""
    type = register_type(dtype)
    if dtype.name == "f32":
        number: object = float(np.float32(value))
    elif dtype.name == "f64":
        number = float(value)
    elif dtype.is_float:
        number = int(np.asarray(float(value)).astype(dtype.numpy).view(np.uint8 if dtype.bits <= 8 else np.uint16))
    else:
        number = int(value) & ((1 << type.width) - 1) if dtype != BOOL else int(bool(value))
    return Element(ir.Constant(type, number), dtype)
