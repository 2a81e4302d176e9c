"""Picking elements by index, and marking positions by index."""

from __future__ import annotations

from onnxc.ir.core import Value
from onnxc.ir.dims import DimLike
from onnxc.ir.types import I64
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.data_sizes import sizes_of
from onnxc.lowerings.table import lowering

__all__: list[str] = []


@lowering
def Gather(b: Lowering, data: Value, indices: Value, *, axis: int = 0) -> Value:
    return b.value("t.gather", data, indices, axis=b.axis(axis, data))


@lowering
def GatherElements(b: Lowering, data: Value, indices: Value, *, axis: int = 0) -> Value:
    at = b.axis(axis, data)
    for i, (have, want) in enumerate(zip(b.shape(data), b.shape(indices), strict=False)):
        if i != at:
            b.at_most(want, have, f"axis {i} of the indices is longer than that of the data")
    return b.value("t.gather_elements", data, indices, axis=at)


@lowering
def GatherND(b: Lowering, data: Value, indices: Value, *, batch_dims: int = 0) -> Value:
    for i, (d, e) in enumerate(zip(b.shape(data)[:batch_dims], b.shape(indices), strict=False)):
        b.guard("eq", d, e, f"batch axis {i} of data and indices differs")
    return b.value("t.gather_nd", data, indices, batch=batch_dims)


@lowering
def OneHot(b: Lowering, indices: Value, depth: Value, values: Value, *, axis: int = -1) -> Value:
    rank, n = b.rank(indices) + 1, _depth(b, depth)
    if not -rank <= axis < rank:
        b.refuse(f"axis {axis} is out of range for rank {rank}")
    at = axis % rank
    shape = b.shape(indices)
    spread = b.reshape(b.cast(indices, I64), (*shape[:at], 1, *shape[at:]))
    spread = b.map("select", b.map("lt", spread, b.scalar(0, I64)), b.map("add", spread, b.dim(n)), spread)
    hot = b.map("eq", b.iota(n, rank, at), spread)
    b.guard("eq", b.type(values).size, 2, "there are not two values, one for off and one for on")
    off, on = (b.reshape(b.value("t.slice", values, starts=(i,), sizes=(1,), steps=(1,)), ()) for i in (0, 1))
    return b.map("select", hot, on, off)


def _depth(b: Lowering, depth: Value) -> DimLike:
    """The number of classes, which may be given in any numeric type."""
    sizes = sizes_of(b, depth if b.dtype(depth).is_integer else b.cast(depth, I64), "the depth")
    if len(sizes) != 1:
        b.refuse(f"a depth of {sizes}")
    return b.extent(sizes[0], "the depth")


@lowering
def ReverseSequence(b: Lowering, input: Value, sequence_lens: Value, *, batch_axis: int = 1,
                    time_axis: int = 0) -> Value:
    batch, time, rank = b.axis(batch_axis, input), b.axis(time_axis, input), b.rank(input)
    if {batch, time} != {0, 1}:
        b.refuse(f"batch axis {batch} and time axis {time}; they must be 0 and 1")
    shape = b.shape(input)
    b.guard("eq", b.shape(sequence_lens)[0], shape[batch], "there is not one length for each sequence")
    lengths = b.reshape(b.cast(sequence_lens, I64), (shape[batch], 1) if batch == 0 else (1, shape[batch]))
    step = b.iota(shape[time], 2, time)
    back = b.map("sub", b.map("sub", lengths, b.scalar(1, I64)), step)
    source = b.map("select", b.map("lt", step, lengths), back, step)
    whole = b.reshape(b.broadcast_to(source, shape[:2]), (*shape[:2], *[1] * (rank - 2)))
    return b.value("t.gather_elements", input, b.broadcast_to(whole, shape), axis=time)
