"""Element types in Triton's text: names, pointer types, literals, and how elements lie in memory and in registers."""

from __future__ import annotations

import math
from typing import Any

from onnxc.codegen.triton.source import TritonUnsupported
from onnxc.ir.types import BOOL, I8, DType

__all__ = ["is_packed", "literal", "memory_type", "pointer_type", "register_type", "triton_name"]

_NAMES = {"f32": ("float32", "fp32"), "f64": ("float64", "fp64"), "f16": ("float16", "fp16"),
          "bf16": ("bfloat16", "bf16"), "f8e4m3fn": ("float8e4nv", "fp8e4nv"), "f8e5m2": ("float8e5", "fp8e5"),
          "bool": ("int1", "i1"),
          "i8": ("int8", "i8"), "i16": ("int16", "i16"), "i32": ("int32", "i32"), "i64": ("int64", "i64"),
          "u8": ("uint8", "u8"), "u16": ("uint16", "u16"), "u32": ("uint32", "u32"), "u64": ("uint64", "u64")}


def is_packed(dtype: DType) -> bool:
    """Whether several elements share a byte."""
    return dtype.bits < 8


def register_type(dtype: DType) -> DType:
    """The type in which an element of `dtype` is held as a value: integers of less than a byte are widened."""
    if is_packed(dtype) and dtype.is_integer:
        return I8
    return dtype


def memory_type(dtype: DType) -> DType:
    """The type that a pointer to elements of `dtype` points to: bool is a byte 0 or 1, packed integers are bytes."""
    return I8 if dtype == BOOL or (is_packed(dtype) and dtype.is_integer) else dtype


def _names(dtype: DType) -> tuple[str, str]:
    if dtype.name not in _NAMES:
        raise TritonUnsupported(f"elements of type {dtype} are not supported on the GPU; cast them on the CPU first")
    return _NAMES[dtype.name]


def triton_name(dtype: DType) -> str:
    """The type as source text: `tl.float32`."""
    return "tl." + _names(register_type(dtype))[0]


def pointer_type(dtype: DType) -> str:
    """The type of a pointer to elements in memory, as a signature has it: `*fp32`."""
    return "*" + _names(memory_type(dtype))[1]


def literal(value: Any, dtype: DType) -> str:
    """The Python text of a constant; it reads back as the same element where Triton gives it the type `dtype`."""
    if dtype == BOOL:
        return str(bool(value))
    if not dtype.is_float:
        return str(int(value))
    number = float(value)
    if math.isnan(number):
        return 'float("nan")'
    if math.isinf(number):
        return 'float("inf")' if number > 0 else '-float("inf")'
    return repr(number)
