"""Sequences and optionals whose parts are known when a model is compiled: they leave no trace in the program."""

from __future__ import annotations

import numpy as np

from onnxc.ir.core import Value
from onnxc.ir.dims import DimLike, ceildiv, dim_max, dim_min
from onnxc.ir.types import F32, DType, Opt, Seq, Tensor, Type, dtype_of_onnx
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.slicing import Concat, sizes_of, take
from onnxc.lowerings.table import lowering

__all__: list[str] = []


# ---- sequences -----------------------------------------------------------------------------------------------------
def _sequence(b: Lowering, parts: list[Value], dtype: DType | None = None) -> Value:
    """A sequence of tensors of one element type, which an empty one has to be told."""
    found = [b.dtype(v) for v in parts]
    dtype = found[0] if found else dtype
    if any(d != dtype for d in found) or dtype is None:
        b.refuse(f"tensors of the types {', '.join(map(str, found))} make no sequence: they have to be of one")
    types = {v.type for v in parts}
    element = types.pop() if len(types) == 1 else Tensor(dtype, None)
    return b.op("t.bundle", parts, types=[Seq(element)]).result


def _parts(b: Lowering, v: Value) -> list[Value]:
    """The tensors of a sequence."""
    if v.op is None or v.op.name != "t.bundle" or not isinstance(v.type, Seq):
        b.refuse(f"what the sequence %{v.name} holds is only known in a run")
    return list(v.op.inputs)


def _element(b: Lowering, v: Value) -> DType:
    """The element type of a sequence's tensors."""
    return v.type.element.dtype if isinstance(v.type, Seq) and isinstance(v.type.element, Tensor) else F32


def _position(b: Lowering, v: Value | None, count: int, end: int) -> int:
    """A place in a sequence of `count`, `end` where none is given."""
    if v is None:
        return end
    given = (b.ints_of(v, "the position in a sequence") or [end])[0]
    place = given + count if given < 0 else given
    if not 0 <= place <= end:
        b.refuse(f"position {given} is outside of a sequence of {count}")
    return place


@lowering
def SequenceConstruct(b: Lowering, *inputs: Value) -> Value:
    return _sequence(b, list(inputs))


@lowering
def SequenceEmpty(b: Lowering, *, dtype: int | None = None) -> Value:
    return _sequence(b, [], F32 if dtype is None else dtype_of_onnx(dtype))


@lowering
def SequenceInsert(b: Lowering, input_sequence: Value, tensor: Value, position: Value | None = None) -> Value:
    parts = _parts(b, input_sequence)
    parts.insert(_position(b, position, len(parts), len(parts)), tensor)
    return _sequence(b, parts)


@lowering
def SequenceErase(b: Lowering, input_sequence: Value, position: Value | None = None) -> Value:
    parts = _parts(b, input_sequence)
    del parts[_position(b, position, len(parts), len(parts) - 1)]
    return _sequence(b, parts, _element(b, input_sequence))


@lowering
def SequenceAt(b: Lowering, input_sequence: Value, position: Value) -> Value:
    parts = _parts(b, input_sequence)
    return parts[_position(b, position, len(parts), len(parts) - 1)]


@lowering
def SequenceLength(b: Lowering, input_sequence: Value) -> Value:
    return b.const(np.array(len(_parts(b, input_sequence)), np.int64))


@lowering
def ConcatFromSequence(b: Lowering, input_sequence: Value, *, axis: int, new_axis: int = 0) -> Value:
    parts = _parts(b, input_sequence)
    if not parts:
        b.refuse("an empty sequence cannot be joined")
    if new_axis:
        rank = b.rank(parts[0]) + 1
        at = axis + rank if axis < 0 else axis
        if not 0 <= at < rank:
            b.refuse(f"axis {axis} is out of range for rank {rank}")
        parts = [b.reshape(v, (*b.shape(v)[:at], 1, *b.shape(v)[at:])) for v in parts]
    return Concat(b, *parts, axis=axis)


@lowering
def SplitToSequence(b: Lowering, input: Value, split: Value | None = None, *, axis: int = 0,
                    keepdims: int = 1) -> Value:
    shape, at = b.shape(input), b.axis(axis, input)
    sizes = [1] * _number(b, shape[at]) if split is None else _split(b, split, shape[at])
    parts: list[Value] = []
    position: DimLike = 0
    for size in sizes:
        starts = [position if i == at else 0 for i in range(len(shape))]
        part = take(b, input, starts, [size if i == at else d for i, d in enumerate(shape)])
        parts.append(part if keepdims or split is not None else b.reshape(part, (*shape[:at], *shape[at + 1:])))
        position = position + size
    return _sequence(b, parts, b.dtype(input))


def _number(b: Lowering, d: DimLike) -> int:
    if not isinstance(d, int):
        b.refuse(f"how many parts a dim of {d} gives is only known in a run")
    return d


def _split(b: Lowering, split: Value, extent: DimLike) -> list[DimLike]:
    """The sizes that the input `split` means: its elements, or as many of one size as there are."""
    if b.rank(split) == 1:
        sizes = sizes_of(b, split, "the size of a part", extent)
        total: DimLike = 0
        for size in sizes:
            total = total + b.extent(size, "the size of a part")
        b.guard("eq", total, extent, "the parts do not add up to the dim that is split")
        return list(sizes)
    size = (b.ints_of(split, "the size of a part") or [0])[0]
    if size <= 0:
        b.refuse(f"parts of size {size}")
    return [dim_max(0, dim_min(size, extent - i * size)) for i in range(_number(b, ceildiv(extent, size)))]


# ---- optionals -----------------------------------------------------------------------------------------------------
@lowering
def Optional(b: Lowering, input: Value | None = None, *, type: Type | None = None) -> Value:
    kind = type if input is None else input.type
    if kind is None:
        b.refuse("an optional without a value needs the attribute 'type'")
    return b.op("t.bundle", [] if input is None else [input], types=[Opt(kind)]).result


def _optional(b: Lowering, v: Value) -> Value | None:
    """The value of an optional; what is no optional is its own value."""
    if not isinstance(v.type, Opt):
        return v
    if v.op is None or v.op.name != "t.bundle":
        b.refuse(f"whether the optional %{v.name} has a value is only known in a run")
    return v.op.inputs[0] if v.op.inputs else None


@lowering
def OptionalHasElement(b: Lowering, input: Value | None = None) -> Value:
    return b.const(np.array(input is not None and _optional(b, input) is not None))


@lowering
def OptionalGetElement(b: Lowering, input: Value) -> Value:
    found = _optional(b, input)
    if found is None:
        b.refuse("the optional has no value")
    return found
