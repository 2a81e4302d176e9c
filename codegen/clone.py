"""Copies of kernels, so that a backend can rewrite one without changing the module it came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from onnxc.ir.core import Attr, Block, Func, Op, Value

__all__ = ["clone_func", "clone_op"]

Attrs = Callable[[Op], Mapping[str, Attr]]


def clone_func(func: Func, attrs: Attrs = lambda op: op.attrs) -> Func:
    """A copy of `func`; `attrs(op)` gives the attributes of each copied op."""
    copy = Func(func.name, [a.type for a in func.args], [a.name for a in func.args], func.result_types, func.kind,
                func.attrs)
    values: dict[Value, Value] = dict(zip(func.args, copy.args, strict=True))
    for op in func.body.ops:
        copy.body.append(clone_op(op, values, attrs))
    return copy


def clone_op(op: Op, values: dict[Value, Value], attrs: Attrs = lambda op: op.attrs) -> Op:
    """A copy of an op and its regions over `values` (old to new; what it lacks stays), to which it adds the results."""
    regions = []
    for region in op.regions:
        block = Block([a.type for a in region.args], [a.name for a in region.args])
        values.update(zip(region.args, block.args, strict=True))
        for inner in region.ops:
            block.append(clone_op(inner, values, attrs))
        regions.append(block)
    operands = [None if v is None else values.get(v, v) for v in op.operands]
    copy = Op(op.name, operands, [r.type for r in op.results], attrs(op), regions, op.loc, [r.name for r in op.results])
    values.update(zip(op.results, copy.results, strict=True))
    return copy
