"""Taking parts of tensors and putting tensors together: slices, splits, concatenations and pads."""

from __future__ import annotations

from collections.abc import Sequence

from onnxc.ir.core import Value
from onnxc.ir.dims import DimLike, ceildiv, dim_max, dim_min, provably_less, provably_nonneg
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.data_sizes import data_slice, elements_of, sizes_of
from onnxc.lowerings.table import lowering
from onnxc.ops.tensor import PAD_MODES

__all__ = ["slice_extent"]

_FAR = 2 ** 31 - 1      # ONNX: INT_MAX (INT_MIN) stands for the far end of an axis of unknown size


def _negative(d: DimLike) -> DimLike:
    """1 where d < 0, else 0."""
    if provably_nonneg(d):
        return 0
    return 1 if provably_less(d, 0) else dim_min(dim_max(d * -1, 0), 1)


def _from_front(position: DimLike, extent: DimLike) -> DimLike:
    """A position that may count from the end, from the front; it may lie outside [0, extent]."""
    return position + extent * _negative(position)


def slice_extent(start: DimLike, end: DimLike, step: int, extent: DimLike) -> tuple[DimLike, DimLike]:
    """(first position, count) of start:end:step on an axis of `extent`, by ONNX's rules.

    They are numpy's but for one: going down, a start before the first position is moved to it. The first position lies
    in range whenever the count is above 0.
    """
    if step > 0:
        return _ascending(start, end, step, extent)
    low, high = _clamp(_mirror(start), extent), _clamp(_mirror(end), extent)
    low = low if low == 0 else dim_max(dim_min(low, extent - 1), 0)
    return extent - 1 - low, dim_max(ceildiv(high - low, -step), 0)


def _mirror(position: DimLike) -> DimLike:
    """The same position on the reversed axis: -1 is the first there, and 0 the last, which is -1."""
    return -1 - position


def _ascending(start: DimLike, end: DimLike, step: int, extent: DimLike) -> tuple[DimLike, DimLike]:
    low, high = _clamp(start, extent), _clamp(end, extent)
    first = _from_front(start, extent) if isinstance(start, int) and 0 <= start < _FAR else low
    # A constant start past the end leaves nothing, however far past it is: no clamp is needed on it.
    return first, dim_max(ceildiv(high - first, step), 0)


def _clamp(position: DimLike, extent: DimLike) -> DimLike:
    """A position in [0, extent]."""
    if isinstance(position, int):
        if position >= _FAR:
            return extent
        if position <= -_FAR:
            return 0
        if position < 0:
            return extent - dim_min(-position, extent)
        return dim_min(position, extent)
    return dim_max(dim_min(_from_front(position, extent), extent), 0)


@lowering
def Slice(b: Lowering, data: Value, starts: Value, ends: Value, axes: Value | None = None,
          steps: Value | None = None) -> Value:
    shape = b.shape(data)
    first, last = elements_of(b, starts, "the starts of the slice"), elements_of(b, ends, "the ends of the slice")
    step = b.ints_of(steps, "the steps of the slice") or [1] * len(first)
    given = b.ints_of(axes, "the axes of the slice")
    at = [b.axis(a, data) for a in (range(len(first)) if given is None else given)]
    if not len(first) == len(last) == len(step) == len(at) or len(set(at)) != len(at):
        b.refuse(f"{len(first)} starts, {len(last)} ends and {len(step)} steps for axes {at}")
    if 0 in step:
        b.refuse("a step of 0")
    start: list[DimLike] = [0] * len(shape)
    size, stride = list(shape), [1] * len(shape)
    for i, s, e, by in zip(at, first, last, step, strict=True):
        start[i], size[i] = data_slice(b, s, e, by, shape[i]) if isinstance(s, Value) or isinstance(e, Value) \
            else slice_extent(s, e, by, shape[i])
        stride[i] = by
    return take(b, data, start, size, stride)


def take(b: Lowering, v: Value, starts: Sequence[DimLike], sizes: Sequence[DimLike],
         steps: Sequence[int] | None = None) -> Value:
    """`t.slice`, or `v` itself when that is all of it."""
    by = steps or [1] * len(starts)
    if tuple(sizes) == b.shape(v) and all(s == 0 for s in starts) and all(s == 1 for s in by):
        return v
    return b.value("t.slice", v, starts=tuple(starts), sizes=tuple(sizes), steps=tuple(by))


@lowering
def Split(b: Lowering, input: Value, split: Value | None = None, *, axis: int = 0,
          num_outputs: int | None = None) -> tuple[Value, ...]:
    shape, at = b.shape(input), b.axis(axis, input)
    if split is not None:
        sizes = sizes_of(b, split, "the size of a part", shape[at])
        total: DimLike = 0
        for s in sizes:
            total = total + s
        for s in sizes:
            b.extent(s, "the size of a part")
        b.guard("eq", total, shape[at], "the parts do not add up to the dim that is split")
    else:
        parts = len(b.node.results) if num_outputs is None else num_outputs
        if parts != len(b.node.results):
            b.refuse(f"num_outputs is {parts}, but the node has {len(b.node.results)} outputs")
        sizes = _even(shape[at], parts)
    if len(sizes) < len(b.node.results):
        b.refuse(f"{len(sizes)} parts for {len(b.node.results)} outputs")
    out: list[Value] = []
    position: DimLike = 0
    for size in sizes[:len(b.node.results)]:
        starts = [position if i == at else 0 for i in range(len(shape))]
        out.append(take(b, input, starts, [size if i == at else d for i, d in enumerate(shape)]))
        position = position + size
    return tuple(out)


def _even(extent: DimLike, parts: int) -> list[DimLike]:
    """Equal parts, rounded up; the last ones take what is left."""
    part = ceildiv(extent, parts)
    return [part if i < parts - 1 and not isinstance(extent, int) and extent == part * parts
            else dim_max(dim_min(part, extent - part * i), 0) for i in range(parts)]


@lowering
def Concat(b: Lowering, *inputs: Value, axis: int) -> Value:
    if not inputs:
        b.refuse("at least one input is needed")
    at, first = b.axis(axis, inputs[0]), b.shape(inputs[0])
    for v in inputs[1:]:
        if b.rank(v) != len(first):
            b.refuse(f"inputs of types {b.type(inputs[0])} and {b.type(v)} differ in rank")
        for i, (d, e) in enumerate(zip(first, b.shape(v), strict=True)):
            if i != at:
                b.guard("eq", d, e, f"axis {i} of the inputs differs")
    return inputs[0] if len(inputs) == 1 else b.value("t.concat", *inputs, axis=at)


@lowering
def Pad(b: Lowering, data: Value, pads: Value, constant_value: Value | None = None, axes: Value | None = None, *,
        mode: str = "constant") -> Value:
    rank, amounts = b.rank(data), b.dims_of(pads, "the pads")
    given = b.ints_of(axes, "the list of axes")
    at = [b.axis(a, data) for a in (range(rank) if given is None else given)]
    if mode not in PAD_MODES:
        b.refuse(f"mode '{mode}' is none of {', '.join(PAD_MODES)}")
    if len(amounts) != 2 * len(at) or len(set(at)) != len(at):
        b.refuse(f"{len(amounts)} pads for axes {at}")
    low: list[DimLike] = [0] * rank
    high: list[DimLike] = [0] * rank
    for i, before, after in zip(at, amounts[:len(at)], amounts[len(at):], strict=True):
        low[i], high[i] = before, after
    for i, d in enumerate(b.shape(data)):
        b.extent(d + low[i] + high[i], f"what pads of {low[i]} and {high[i]} leave of axis {i} of {d}")
        if mode != "constant" and (low[i] != 0 or high[i] != 0):
            b.at_most(1, d, f"axis {i} has no elements to pad with")
    if all(p == 0 for p in (*low, *high)):
        return data
    value = None
    if mode == "constant" and constant_value is not None:
        value = constant_value if b.rank(constant_value) == 0 else b.reshape(constant_value, ())
    return b.value("t.pad", data, value, low=tuple(low), high=tuple(high), mode=mode)
