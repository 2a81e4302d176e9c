"""The largest and smallest elements along an axis."""

from __future__ import annotations

from onnxc.ir.core import Value
from onnxc.ir.types import F32, I32, I64, DType, dtype_named
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.data_sizes import sizes_of
from onnxc.lowerings.table import lowering

__all__ = ["order_key"]


def order_key(b: Lowering, v: Value) -> Value:
    """Integers that are ordered as the elements are: zeros of either sign are equal, NaN is above everything."""
    dtype = b.dtype(v)
    if dtype.is_float:
        return _float_key(b, v if dtype.bits >= 32 else b.cast(v, F32))
    if dtype.name == "u64":
        return b.map("bit_xor", b.value("t.bitcast", v, to=I64), b.scalar(-(1 << 63), I64))
    b.require_dtype(v, "int", "uint", "bool")
    return b.cast(v, I64 if dtype.name in ("i64", "u32") else I32)


def _float_key(b: Lowering, v: Value) -> Value:
    """The bits of a number as an integer, where those of negative numbers are turned around below the sign."""
    bits: DType = dtype_named(f"i{b.dtype(v).bits}")
    top = (1 << (bits.bits - 1)) - 1
    raw = b.value("t.bitcast", b.map("add", v, b.scalar(0.0, v)), to=bits)      # -0 + 0 is 0
    turned = b.map("select", b.map("lt", raw, b.scalar(0, bits)), b.map("bit_xor", raw, b.scalar(top, bits)), raw)
    return b.map("select", b.map("isnan", v), b.scalar(top, bits), turned)


@lowering
def TopK(b: Lowering, X: Value, K: Value, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Value, Value]:
    """Sorted in any case. NaN counts as larger than every number, as numpy sorts it."""
    at, sizes = b.axis(axis, X), sizes_of(b, K, "K")
    if len(sizes) != 1:
        b.refuse(f"K is {sizes}; it has to be one number")
    k = b.extent(sizes[0], "K")
    b.at_most(k, b.shape(X)[at], f"K is larger than axis {at}")
    key = order_key(b, X)
    where = b.value("t.topk", key if largest else b.map("bit_not", key), axis=at, k=k)
    return b.value("t.gather_elements", X, where, axis=at), where
