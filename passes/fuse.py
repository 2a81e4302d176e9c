"""The pass `fuse`: decides which values live in memory and gathers the rest into `t.fused` groups, one value each.

A value is computed where it is used unless that repeats work: it goes to memory when several groups need it, when its
user reads it many times (windows, gathers, broadcasts, operands of contractions), or when no kernel can hold it. A
contraction takes the chain of one-to-one ops behind it as its epilogue. Whether a group fits one kernel is found by
building it. What is decided stands in `grouping`; this file makes the groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from onnxc.ir.core import Block, Func, Module, Op, Value
from onnxc.ir.dims import Dim, symbols_of
from onnxc.ir.registry import lookup
from onnxc.ir.rewrite import merge_locs
from onnxc.ir.types import Tensor
from onnxc.ops import group  # noqa: F401  (registers t.fused)
from onnxc.ops.control import defined_symbols, is_step
from onnxc.passes.grouping import Grouping

__all__ = ["fuse", "symbols_in"]


def fuse(module: Module) -> None:
    """Group the tensor ops of @main in place."""
    taken = symbols_in(module.main)
    for block in _blocks(module.main.body):
        _gather(Grouping(module, block, taken))


def _blocks(block: Block) -> list[Block]:
    """A block and those in its steps, inner ones first: each is fused by itself."""
    inner = [b for op in block.ops if is_step(op) for region in op.regions for b in _blocks(region)]
    return [*inner, block]


def symbols_in(func: Func) -> frozenset[str]:
    """Every dim symbol in a function's types and attributes, and those that its ops define."""
    out: set[str] = set()
    for v in [*func.args, *(r for op in func.walk() for r in op.results)]:
        if isinstance(v.type, Tensor):
            out |= symbols_of(v.dims)
    for op in func.walk():
        out |= {name for name, _ in defined_symbols(op)}
        out |= symbols_of(d for a in op.attrs.values() for d in _dims_of(a))
    return frozenset(out)


def _dims_of(attr: Any) -> Iterator[Dim]:
    if isinstance(attr, Dim):
        yield attr
    elif isinstance(attr, tuple):
        for a in attr:
            yield from _dims_of(a)


def _gather(grouping: Grouping) -> None:
    """Replace the ops of each group by one t.fused at the place of its root."""
    groups = [(grouping.group(r), grouping.group(r).ops()) for r in grouping.stored()]
    operands = {op: op.operands for op in grouping.ops}       # as they were: groups replace values as they are made
    moved: dict[Value, Value] = {}
    for g, ops in groups:
        region = _region(g.root, g.inputs, ops, operands)
        moved[g.root] = _wrap(g.root, [moved.get(v, v) for v in g.inputs], region, merge_locs(*(op.loc for op in ops)))
    for op in grouping.block.reversed_ops():
        row = lookup(op.name)
        if op.results and not any(r.uses for r in op.results) and row is not None and row.has("pure"):
            op.erase()


def _region(root: Value, inputs: list[Value], ops: list[Op], operands: dict[Op, tuple[Value | None, ...]]) -> Block:
    """Copies of a group's ops, with arguments for what it reads from memory."""
    block = Block([v.type for v in inputs], [v.name for v in inputs])
    mapping = dict(zip(inputs, block.args, strict=True))
    for op in ops:
        copy = block.append(Op(op.name, [None if v is None else mapping[v] for v in operands[op]],
                               [r.type for r in op.results], op.attrs, [_copied(r) for r in op.regions], op.loc,
                               [r.name for r in op.results]))
        mapping.update(zip(op.results, copy.results, strict=True))
    block.append(Op("yield", [mapping[root]]))
    return block


def _copied(region: Block) -> Block:
    """A copy of an isolated region."""
    block = Block([a.type for a in region.args], [a.name for a in region.args])
    mapping: dict[Value, Value] = dict(zip(region.args, block.args, strict=True))
    for op in region.ops:
        copy = block.append(Op(op.name, [None if v is None else mapping[v] for v in op.operands],
                               [r.type for r in op.results], op.attrs, [_copied(r) for r in op.regions], op.loc,
                               [r.name for r in op.results]))
        mapping.update(zip(op.results, copy.results, strict=True))
    return block


def _wrap(root: Value, operands: list[Value], region: Block, loc: str) -> Value:
    """The group as one op; gives its result, which has taken the root's place."""
    at = root.op
    if at is None or at.block is None:
        raise ValueError(f"{root!r} is the result of no op: it is in memory and needs no group")
    fused = at.block.insert(Op("t.fused", operands, [root.type], {}, [region], loc, [root.name]), at)
    root.replace_by(fused.result)
    return fused.result
