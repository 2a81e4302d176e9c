"""Tensors made of nothing but attributes and positions, and masks of positions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxc.ir.core import Value
from onnxc.ir.dims import DimLike, ceildiv, dim_max
from onnxc.ir.types import BOOL, F32, F64, I64, U64
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.data_sizes import read_dim, sizes_of
from onnxc.lowerings.elementwise import element_type
from onnxc.lowerings.random import kept_share
from onnxc.lowerings.table import lowering

__all__: list[str] = []


@lowering
def Constant(b: Lowering, *, value: Any = None, sparse_value: Any = None, value_int: int | None = None,
             value_ints: Sequence[int] | None = None, value_float: float | None = None,
             value_floats: Sequence[float] | None = None, value_string: Any = None, value_strings: Any = None) -> Value:
    given = value if value is not None else sparse_value
    if given is not None:
        return b.const(b.array(given), name=b.node.results[0].name or "c")
    for ints in (value_int, value_ints):
        if ints is not None:
            return b.const(np.asarray(ints, np.int64))
    for floats in (value_float, value_floats):
        if floats is not None:
            return b.const(np.asarray(floats, np.float32))
    strings = value_string is not None or value_strings is not None
    return b.refuse("a constant of strings" if strings else "no value is given")


@lowering
def ConstantOfShape(b: Lowering, input: Value, *, value: Any = None) -> Value:
    shape = sizes_of(b, input, "a dim of the shape")
    for d in shape:
        b.extent(d, f"a dim of the shape [{', '.join(map(str, shape))}]")
    element = np.zeros((), np.float32) if value is None else b.array(value)
    if element.size != 1:
        b.refuse(f"the value has {element.size} elements, not one")
    return b.broadcast_to(b.const(element.reshape(())), shape)


@lowering
def Range(b: Lowering, start: Value, limit: Value, delta: Value, *, stash_type: int = 1) -> Value:
    dtype = b.dtype(start)
    compute = F32 if dtype.is_float and dtype.bits < 32 and stash_type == 1 else dtype
    n = _range_size(b, start, limit, delta)
    position = b.iota(n, dtype=compute)
    if not _is_known(b, delta, 1):
        position = b.map("mul", position, b.cast(b.reshape(delta, ()), compute))
    if not _is_known(b, start, 0):
        position = b.map("add", position, b.cast(b.reshape(start, ()), compute))
    return b.cast(position, dtype)


def _is_known(b: Lowering, v: Value, number: int) -> bool:
    array = b.constant(v)
    return array is not None and array.size == 1 and array.reshape(()).item() == number


def _range_size(b: Lowering, start: Value, limit: Value, delta: Value) -> DimLike:
    """max(ceil((limit - start) / delta), 0)"""
    if any(b.constant(v) is None and b.known(v) is None for v in (start, limit, delta)):
        return read_dim(b, _count(b, start, limit, delta), "the length of a range")
    if b.dtype(start).is_integer:
        (first,), (last,), by = b.dims_of(start, "start"), b.dims_of(limit, "limit"), b.ints_of(delta, "delta")
        step = by[0] if by else 0
        if step == 0:
            b.refuse("a delta of 0")
        return dim_max(ceildiv(last - first, step) if step > 0 else ceildiv(first - last, -step), 0)
    return _float_range_size(b, [b.constant(v) for v in (start, limit, delta)])


def _count(b: Lowering, start: Value, limit: Value, delta: Value) -> Value:
    """The same from data, as an i64 scalar."""
    first, last, step = (b.reshape(v, ()) for v in (start, limit, delta))
    if b.dtype(start).is_float:
        steps = b.map("div", *(b.cast(v, F64) for v in (b.map("sub", *map(b.widen, (last, first))), step)))
        return b.cast(b.map("max", b.map("ceil", steps), b.scalar(0, F64)), I64)
    first, last, step = (b.cast(v, I64) for v in (first, last, step))
    upwards = b.map("gt", step, b.scalar(0, I64))
    low, high = b.map("select", upwards, first, last), b.map("select", upwards, last, first)
    # The span of two i64 always fits an u64.
    beyond = b.cast(b.map("sub", b.map("sub", high, low), b.scalar(1, I64)), U64)
    count = b.map("add", b.map("div", beyond, b.cast(b.map("abs", step), U64)), b.scalar(1, U64))
    return b.map("select", b.map("gt", high, low), b.cast(count, I64), b.scalar(0, I64))


def _float_range_size(b: Lowering, ends: Sequence[np.ndarray | None]) -> int:
    known = [float(e.reshape(()).item()) for e in ends if e is not None]
    if len(known) != 3:
        b.refuse("start, limit or delta of a range of floats is computed from data; they have to be constant")
    low, high, step = known
    if step == 0 or not all(map(math.isfinite, known)):
        b.refuse(f"a range from {low} to {high} by {step}")
    return max(math.ceil((high - low) / step), 0)


@lowering
def EyeLike(b: Lowering, input: Value, *, dtype: int | None = None, k: int = 0) -> Value:
    if b.rank(input) != 2:
        b.refuse(f"an input of rank {b.rank(input)}; it must be a matrix")
    to = b.dtype(input) if dtype is None else element_type(b, dtype)
    return b.cast(b.map("eq", _diagonals(b, input), b.scalar(k, I64)), to)


def _diagonals(b: Lowering, v: Value) -> Value:
    """column - row for the last two axes."""
    rows, columns = b.shape(v)[-2:]
    return b.map("sub", b.iota(columns, 2, 1), b.iota(rows, 2, 0))


@lowering
def Trilu(b: Lowering, input: Value, k: Value | None = None, *, upper: int = 1) -> Value:
    if b.rank(input) < 2:
        b.refuse(f"an input of rank {b.rank(input)}; it must be at least a matrix")
    at = b.scalar(0, I64) if k is None else b.cast(b.reshape(k, ()), I64)
    kept = b.map("ge" if upper else "le", _diagonals(b, input), at)
    return b.map("select", kept, input, b.scalar(0, input))


@lowering
def Dropout(b: Lowering, data: Value, ratio: Value | None = None, training_mode: Value | None = None, *,
            seed: int | None = None) -> tuple[Value, Value | None]:
    training = b.constant(training_mode)
    if training_mode is not None and (training is None or bool(training.reshape(-1)[0])):
        return kept_share(b, data, b.scalar(0.5, F32) if ratio is None else ratio, training_mode)
    return data, b.broadcast_to(b.scalar(True, BOOL), b.shape(data)) if b.wants(1) else None
