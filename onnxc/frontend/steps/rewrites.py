"""Steps that say an old op with other ops, because the new version means something else."""

from __future__ import annotations

import numpy as np

from onnxc.frontend.steps import Upgrade, step
from onnxc.ir.core import Block, Op, Value
from onnxc.ir.types import BOOL, F32, I64, Tensor

__all__: list[str] = []


def _ones(u: Upgrade, count: Value) -> Value:
    """A vector of `count` (int64 [1]) ones."""
    return u.make("ConstantOfShape", count, value=np.ones(1, np.int64))


def _vector(u: Upgrade, scalar: Value) -> Value:
    return u.make("Reshape", scalar, u.const([1]))


@step("Add Sub Mul Div Pow And Or Xor Equal Greater Less", 7)
def _broadcast_at_axis(u: Upgrade) -> None:
    """Limited broadcasting put B's dims at `axis` of A's: give B the trailing ones that numpy's rule wants."""
    u.take("consumed_inputs")
    axis, broadcast = u.take("axis"), u.take("broadcast", 0)
    if not broadcast or axis is None or axis < 0:
        return
    a, b = u.op.operand(0), u.op.operand(1)
    missing = u.make("Sub", u.make("Sub", u.rank(a), u.const(axis)), u.rank(b))
    # An element alone goes anywhere, whatever the axis says.
    trailing = u.make("Max", missing, u.const(0))
    shape = u.make("Concat", u.shape(b), _ones(u, _vector(u, trailing)), axis=0)
    u.set_operand(1, u.make("Reshape", b, shape, allowzero=1))


@step("PRelu", 7)
def _prelu_per_channel(u: Upgrade) -> None:
    """The slope was one element, or one for each channel (axis 1)."""
    x, slope = u.op.operand(0), u.op.operand(1)
    trailing = u.make("Max", u.make("Sub", u.rank(x), u.const(2)), u.const(0))
    shape = u.make("Concat", u.const([-1]), _ones(u, _vector(u, trailing)), axis=0)
    u.set_operand(1, u.make("Reshape", slope, shape))


@step("Tile", 6)
def _tile_repeats(u: Upgrade) -> None:
    """One axis was repeated: the others are repeated once."""
    x, tiles, axis = (u.op.operand(i) for i in range(3))
    tiles, axis = (_vector(u, u.make("Cast", v, type=Tensor(I64, None), to=I64.onnx)) for v in (tiles, axis))
    after = u.make("Sub", u.make("Sub", _vector(u, u.rank(x)), axis), u.const([1]))
    u.op.set_operands([x, u.make("Concat", _ones(u, axis), tiles, _ones(u, after), axis=0)])


@step("BatchNormalization", 9)
def _batch_norm_per_element(u: Upgrade) -> list[Value] | None:
    """`spatial` 0 keeps statistics for each element of a sample: shapes [C, D1, ...] that broadcast against X."""
    if u.take("spatial", 1):
        return None
    if any(r.name for r in u.op.results[1:]):
        u.refuse("it is trained with spatial = 0")
    x, scale, bias, mean, var = (u.op.operand(i) for i in range(5))
    epsilon = u.const(u.op.attrs.get("epsilon", 1e-5), u.dtype)
    deviation = u.make("Sqrt", u.make("Add", var, epsilon))
    centred = u.make("Div", u.make("Sub", x, mean), deviation)
    y = u.make("Add", u.make("Mul", centred, scale), bias)
    return [y] * len(u.op.results)


@step("BatchNormalization", 14)
def _batch_norm_training(u: Upgrade) -> list[Value] | None:
    """More than one output used to mean training; the fourth and fifth are the batch's own statistics."""
    op = u.op
    if not any(r.name for r in op.results[1:]):
        if len(op.results) == 1:
            return None
        y = u.make("BatchNormalization", *op.operands, type=op.results[0].type, **op.attrs)
        y.name = op.results[0].name
        return [y] * len(op.results)
    attrs = op.attrs | {"training_mode": 1}
    new = u.make_op("BatchNormalization", op.operands, [r.type for r in op.results[:3]], **attrs)
    x = op.operand(0)
    others = u.make("Concat", u.const([0]), u.make("Range", u.const(2), u.rank(x), u.const(1)), axis=0)
    saved: list[Value] = []
    if len(op.results) > 3:
        mean = u.make("ReduceMean", x, others, keepdims=1)
        centred = u.make("Sub", x, mean)
        saved = [u.make("Reshape", mean, u.const([-1])),
                 u.make("ReduceMean", u.make("Mul", centred, centred), others, keepdims=0)]
    results = [*new.results, *saved][:len(op.results)]
    for old, r in zip(op.results, results, strict=True):
        r.name = old.name
    return results


@step("GroupNormalization", 21)
def _group_norm_per_channel(u: Upgrade) -> None:
    """Scale and bias were given for each group: repeat each for the channels of its group."""
    groups = u.op.attrs["num_groups"]
    channels = u.make("Shape", u.op.operand(0), type=Tensor(I64, None), start=1, end=2)
    per_group = u.make("Div", channels, u.const([groups]))
    shape = u.make("Concat", u.const([groups]), per_group, axis=0)
    for i in (1, 2):
        column = u.make("Unsqueeze", u.op.operand(i), u.const([1]))
        u.set_operand(i, u.make("Reshape", u.make("Expand", column, shape), u.const([-1])))


def _axes_from(u: Upgrade, x: Value, axis: int) -> Value:
    """The axes of x from `axis` on. Split, unlike Slice, does not accept an axis that x does not have."""
    rank = u.rank(x)
    before = u.const([axis]) if axis >= 0 else _vector(u, u.make("Add", rank, u.const(axis)))
    every = u.make("Range", u.const(0), rank, u.const(1))
    sizes = u.make("Concat", before, u.make("Sub", _vector(u, rank), before), axis=0)
    return u.make_op("Split", [every, sizes], [Tensor(I64, None)] * 2, axis=0).results[1]


@step("Softmax LogSoftmax", 13)
def _softmax_of_trailing_axes(u: Upgrade) -> list[Value] | None:
    """X was seen as a matrix whose rows hold all axes from `axis` on: normalise over all of them."""
    axis = u.take("axis", 1)
    if axis == -1:
        u.op.attrs["axis"] = -1
        return None
    x = u.op.operand(0)
    axes = _axes_from(u, x, axis)
    wide = u.make("Cast", x, type=Tensor(F32, None), to=F32.onnx) if u.dtype.itemsize == 2 else x
    shifted = u.make("Sub", wide, u.make("ReduceMax", wide, axes, keepdims=1, noop_with_empty_axes=1))
    raised = u.make("Exp", shifted)
    total = u.make("ReduceSum", raised, axes, keepdims=1, noop_with_empty_axes=1)
    if u.op.name == "onnx.Softmax":
        y = u.make("Div", raised, total)
    else:
        y = u.make("Sub", shifted, u.make("Log", total))
    if wide is not x:
        y = u.make("CastLike", y, x, type=u.like(x))
    y.name, y.type = u.op.result.name, u.op.result.type
    return [y]


@step("Hardmax", 13)
def _hardmax_of_trailing_axes(u: Upgrade) -> list[Value] | None:
    """As for Softmax; the first maximum is one of the row of all trailing axes, so here the matrix is needed."""
    axis = u.take("axis", 1)
    if axis == -1:
        u.op.attrs["axis"] = -1
        return None
    x = u.op.operand(0)
    hot = u.make("Hardmax", u.make("Flatten", x, axis=axis), axis=1)
    y = u.make("Reshape", hot, u.shape(x), allowzero=1)
    y.name, y.type = u.op.result.name, u.op.result.type
    return [y]


@step("Scan", 9)
def _scan_without_batch(u: Upgrade) -> list[Value]:
    """Scan 8 ran over axis 1 for each sample of a batch: a scan over samples whose body is the scan over axis 1."""
    op = u.op
    if u.operand(0) is not None:
        u.refuse("it has sequence_lens")
    captured, scanned = op.attrs["captured"], op.attrs["num_scan_inputs"]
    if not isinstance(captured, int) or not isinstance(scanned, int):
        u.refuse("num_scan_inputs is not a number")
    operands = [op.operand(i) for i in range(1, len(op.operands))]
    types = [u.like(r) for r in op.results]
    outer = Block([u.like(v) if i < len(operands) - captured else v.type for i, v in enumerate(operands)],
                  [v.name for v in operands])
    inner = Op("onnx.Scan", outer.args, types,
               {"num_scan_inputs": scanned, "body": 0, "captured": captured}, op.regions, op.loc)
    directions = op.attrs.get("directions")
    if directions:
        inner.attrs["scan_input_directions"] = directions
    op.regions = []
    outer.append(inner)
    outer.append(Op("yield", inner.results))
    whole = u.make_op("Scan", operands, types, num_scan_inputs=len(operands) - captured, body=0, captured=captured)
    whole.add_region(outer)
    for old, new in zip(op.results, whole.results, strict=True):
        new.name = old.name
    return whole.results


@step("OneHot", 11)
def _one_hot_negative_is_outside(u: Upgrade) -> None:
    """A negative index gave a row of off values; now it counts from the end. Move it past the end instead."""
    indices, depth = u.op.operand(0), u.op.operand(1)
    zero, past = u.const(0, u.dtype), u.make("Reshape", depth, u.const(()))
    below = u.make("Less", indices, zero, type=Tensor(BOOL, None))
    past = u.make("CastLike", past, indices, type=u.like(indices))
    u.set_operand(0, u.make("Where", below, past, indices, type=u.like(indices)))
