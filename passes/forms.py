"""What an element of each tensor op is inside a kernel, in terms of elements of its operands.

A form gets the demand, the op, the index that is asked for and the conditions (`where`) under which it is; views change
the index, windows and pads add conditions, folds open a loop. Elementwise ops have no form of their own: they apply the
scalar op of their name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxc.ir.builder import constant_of
from onnxc.ir.core import Op, Value
from onnxc.ir.dims import DimLike
from onnxc.ir.types import BOOL, I64, U8
from onnxc.passes.indexing import (
    Index,
    Where,
    broadcast_index,
    inside,
    pad_index,
    reshape_index,
    slice_index,
    window_index,
)
from onnxc.passes.kernel_builder import FORMS, Demand, NotFusable, element_type, plain

__all__ = ["scattered"]


def _const(d: Demand, op: Op, index: Index, where: Where, other: Any) -> Value:
    array = constant_of(d.module, op.result)
    if array is None or array.size != 1:
        raise NotFusable(op.result, "a constant array is read from memory")
    dtype, element = op.result.tensor.dtype, array.reshape(-1)[0]
    return d.const(float(element) if dtype.is_float else element.item(), element_type(dtype))


def _dims(d: Demand, op: Op, index: Index, where: Where, other: Any) -> Value:
    values, dtype = op.attr("values"), op.attr("dtype")
    if not values:
        return d.const(0, dtype)                 # never reached: the vector is empty
    position = index[0] if index else 0
    if isinstance(position, int):
        return d.cast(d.index_value(values[position]), dtype)
    out = d.index_value(values[-1])
    at = d.index_value(position)
    for i in range(len(values) - 2, -1, -1):
        out = d.apply("select", d.apply("eq", at, d.const(i, I64)), d.index_value(values[i]), out)
    return d.cast(out, dtype)


def _iota(d: Demand, op: Op, index: Index, where: Where, other: Any) -> Value:
    return d.cast(d.index_value(index[op.attr("axis")]), element_type(op.attr("dtype")))


def _bitcast(d: Demand, op: Op, index: Index, where: Where, other: Any) -> Value:
    source, to = op.operand(0).tensor.dtype, op.attr("to")
    v = d.cast(d.at(op.operand(0), index, where), source, **({"saturate": False} if source.is_float else {}))
    return d.cast(v if source == to else d.emit("s.bitcast", (v,), {"to": to}), element_type(to))


def _cast(d: Demand, op: Op, index: Index, where: Where, other: Any) -> Value:
    to = op.attr("to")
    extra = {k: v for k, v in op.attrs.items() if k != "to"}
    v = d.at(op.operand(0), index, where)
    source = op.operand(0).tensor.dtype
    if source == to:
        return v
    return d.cast(d.cast(v, to, **extra), element_type(to))


def _broadcast(d: Demand, op: Op, index: Index, where: Where, other: Any) -> Value:
    return d.at(op.operand(0), broadcast_index(index, _shape(op), op.attr("shape")), where, other)


def _reshape(d: Demand, op: Op, index: Index, where: Where, other: Any) -> Value:
    at = reshape_index(index, _shape(op), op.attr("shape"), d.bounds(), exists=not where)
    return d.at(op.operand(0), at, where, other)


def _slice(d: Demand, op: Op, index: Index, where: Where, other: Any) -> Value:
    return d.at(op.operand(0), slice_index(index, op.attrs), where, other)


def static(d: DimLike) -> int:
    """A dim that types hold to be a number."""
    if not isinstance(d, int):
        raise TypeError(f"{d} is not known")
    return d


def _shape(op: Op) -> tuple[DimLike, ...]:
    return op.operand(0).dims


def _transpose(d: Demand, op: Op, index: Index, where: Where, other: Any) -> Value:
    at: list[DimLike] = [0] * len(index)
    for i, p in zip(index, op.attr("perm"), strict=True):
        at[p] = i
    return d.at(op.operand(0), tuple(at), where, other)


def _window(d: Demand, op: Op, index: Index, where: Where, other: Any) -> Value:
    at, new = window_index(index, _shape(op), op.attrs, d.bounds())
    return d.masked(op.operand(0), at, new, where, _fill(op.attr("fill"), op))


def _fill(value: Any, op: Op) -> Any:
    return plain(value, op.result.tensor.dtype)


def _pad(d: Demand, op: Op, index: Index, where: Where, other: Any) -> Value:
    at, new = pad_index(index, _shape(op), op.attrs, d.bounds())
    value = op.operands[1] if len(op.operands) > 1 else None
    if value is None or not new:
        return d.masked(op.operand(0), at, new, where, 0)
    array = constant_of(d.module, value)
    fill = array.reshape(-1)[0].item() if array is not None else d.at(value, ())
    return d.masked(op.operand(0), at, new, where, fill)


def _concat(d: Demand, op: Op, index: Index, where: Where, other: Any) -> Value:
    axis = op.attr("axis") % len(index)
    end: DimLike = 0
    out: Value | None = None
    for v in op.inputs:
        start, end = end, end + v.dims[axis]
        here = inside(((index[axis] - start, 0, v.dims[axis]),), d.bounds())
        element = d.at(v, (*index[:axis], index[axis] - start, *index[axis + 1:]), (*where, *here))
        ok = d.condition(here)
        out = element if out is None or ok is None else d.apply("select", ok, element, out)
    if out is None:
        raise NotFusable(op.result, "nothing is joined")
    return out


def _reduce(d: Demand, op: Op, index: Index, where: Where, other: Any) -> Value:
    dtype = element_type(op.result.tensor.dtype)
    return d.reduce(op, op.attr("axes"), index, (op.attr("kind"),), where, (dtype,))[0]


def _argreduce(d: Demand, op: Op, index: Index, where: Where, other: Any) -> Value:
    source = op.operand(0).tensor
    axis = op.attr("axis") % source.rank
    kind = f"arg{op.attr('kind')}{'_last' if op.attr('last') else ''}"
    key = U8 if source.dtype == BOOL else element_type(source.dtype)          # bools are not ordered
    return d.reduce(op, (axis,), index, (kind,), where, (key, I64))[1]


def _gather(d: Demand, op: Op, index: Index, where: Where, other: Any) -> Value:
    x, i = op.operand(0), op.operand(1)
    axis, n = op.attr("axis") % len(_shape(op)), len(i.dims)
    part = index[axis:axis + n]
    at, safe = _data_index(d, op, i, part, _shape(op)[axis], where)
    return d.at(x, (*index[:axis], at, *index[axis + n:]), safe)


def _data_index(d: Demand, op: Op, indices: Value, part: Index, extent: DimLike, where: Where) -> tuple[DimLike, Where]:
    array = constant_of(d.module, indices)
    if array is not None and array.size == 1 and isinstance(extent, int):
        at = int(array.reshape(-1)[0])
        if -extent <= at < extent:
            return at % extent, where
    element = d.at(indices, part, where)
    if op.attr("in_range"):
        return d.given_index(element, d.depends([*part, *(e for t in where for e in t)])), where
    key = (element, extent, where)
    for scope in d.scopes:
        if key in scope.data_indices:
            return scope.data_indices[key]
    axes = d.depends([*part, *(e for t in where for e in t)])
    depth = d.depth(axes)
    inner = d.scopes[depth + 1:]
    del d.scopes[depth + 1:]
    out = d.loaded_index(element, extent, where, axes,
                         f"{op.loc or op.name}: an index is out of range for an axis of {extent}")
    d.scopes[depth].data_indices[key] = out
    d.scopes.extend(inner)
    return out


def _gather_elements(d: Demand, op: Op, index: Index, where: Where, other: Any) -> Value:
    axis = op.attr("axis") % len(index)
    at, safe = _data_index(d, op, op.operand(1), index, _shape(op)[axis], where)
    return d.at(op.operand(0), (*index[:axis], at, *index[axis + 1:]), safe)


def _gather_nd(d: Demand, op: Op, index: Index, where: Where, other: Any) -> Value:
    i = op.operand(1)
    shape, batch = _shape(op), op.attr("batch")
    lead = len(i.dims) - 1
    at: list[DimLike] = list(index[:batch])
    for k in range(static(i.dims[-1])):
        one, where = _data_index(d, op, i, (*index[:lead], k), shape[batch + k], where)
        at.append(one)
    return d.at(op.operand(0), (*at, *index[lead:]), where)


def scattered(d: Demand, op: Op, index: Index, shape: Sequence[DimLike]) -> tuple[Index, Where]:
    """Where in the result, of `shape`, a scatter puts the update at `index`, and where its data indices are in
    range."""
    indices = op.operand(1)
    if op.name == "t.scatter_elements":
        axis = op.attr("axis") % len(shape)
        at, where = _data_index(d, op, indices, index, shape[axis], ())
        return (*index[:axis], at, *index[axis + 1:]), where
    lead, depth = len(indices.dims) - 1, static(indices.dims[-1])
    out: list[DimLike] = []
    where = ()
    for k in range(depth):
        one, where = _data_index(d, op, indices, (*index[:lead], k), shape[k], where)
        out.append(one)
    return (*out, *index[lead:]), where


FORMS.update({
    "t.const": _const, "t.dims": _dims, "t.iota": _iota, "t.cast": _cast,
    "t.bitcast": _bitcast,
    "t.broadcast": _broadcast, "t.reshape": _reshape, "t.transpose": _transpose, "t.slice": _slice,
    "t.window": _window, "t.pad": _pad, "t.concat": _concat, "t.reduce": _reduce, "t.argreduce": _argreduce,
    "t.gather": _gather, "t.gather_elements": _gather_elements, "t.gather_nd": _gather_nd,
})
