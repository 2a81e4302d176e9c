"""Regions of loops and branches under construction: what they capture, and the ops of the model that they take over."""

from __future__ import annotations

from collections.abc import Sequence

from onnxc.ir.core import Block, Op, Value
from onnxc.ir.dims import Dim
from onnxc.ir.types import I32, I64, Tensor
from onnxc.lowerings.context import Lowering

__all__ = ["adopt", "captured_by", "enter"]


def captured_by(b: Lowering) -> tuple[list[Value], list[Value]]:
    """What the node's regions use from outside: all of it, and the part that cannot stand inside as a constant or
    dims."""
    values = [v for v in b.captured if v is not None]
    for v in values:
        b.type(v)                                # refused unless it is a tensor
    return values, [v for v in values if not _is_known(b, v)]


def _is_known(b: Lowering, v: Value) -> bool:
    if v.op is not None and v.op.name == "t.const":
        return True
    t = v.type
    return isinstance(t, Tensor) and t.dtype in (I32, I64) and t.rank <= 1 and b.known(v) is not None


def enter(b: Lowering, block: Block, values: Sequence[Value]) -> list[Value]:
    """Captured values as they stand inside of `block`, at whose end `b` builds: constants and dims are repeated there,
    the others become arguments, in order."""
    return [_inside(b, v) if _is_known(b, v) else block.add_arg(v.type, v.name) for v in values]


def _inside(b: Lowering, v: Value) -> Value:
    if v.op is not None and v.op.name == "t.const":
        return b.sunk(v, v)
    known = b.known(v)
    assert known is not None                     # `_is_known` has asked
    dims = tuple(d if isinstance(d, Dim) else int(d) for d in known.ravel())
    return b.value("t.dims", values=dims, vector=b.rank(v) == 1, dtype=b.dtype(v))


def adopt(b: Lowering, region: Block, actuals: Sequence[Value]) -> list[Value]:
    """Move a region's ops to the end of the builder's block, with `actuals` for its arguments, and lower them; gives
    what the region yields, tensors of known rank."""
    assert b.lower_block is not None and b.before is None
    for formal, actual in zip(region.args, actuals, strict=True):
        formal.replace_by(actual)
    last = region.terminator
    for op in region.ops:
        region.unlink(op)
        b.block.append(op)
    assert isinstance(last, Op)
    b.lower_block(b.block)
    out = list(last.inputs)
    last.erase()
    for v in out:
        b.type(v)
    return out
