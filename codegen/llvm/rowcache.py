"""Row kernels that compute a value twice: the first loop over a row keeps it in scratch, later loops read it back.

A softmax needs exp(x - max) for its sum and again for its quotient. Worth it where the value costs more than a store
and a load, and possible where outer points are not across lanes: then a thread has one row at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable

from onnxc.codegen.accesses import loop_axes
from onnxc.codegen.clone import clone_func
from onnxc.codegen.llvm.weights import weight
from onnxc.ir.core import Func, Op, Value
from onnxc.ir.dims import Dim, DimLike, product, substitute, sym
from onnxc.ir.types import Mem, Scalar

__all__ = ["SCRATCH", "cache_rows"]

SCRATCH = "scratch"
"""Attribute of a kernel function: how many of its last arguments are scratch memory, private to the thread."""
_WORTH = 8                      # instructions that a value must cost to be kept


@dataclasses.dataclass(frozen=True)
class _Pair:
    """One value in two loops of equal extents."""

    first: Value
    again: Value


def cache_rows(func: Func) -> Func:
    """An equal kernel in which sibling loops share their expensive values; `func` itself when there are none."""
    if not _pairs(func):
        return func
    copy = clone_func(func)
    kept: dict[Value, Value] = {}
    for pair in _pairs(copy):
        if pair.first not in kept:
            kept[pair.first] = _keep(copy, pair.first)
        _read_back(pair, kept[pair.first])
    copy.attrs[SCRATCH] = len(kept)
    return copy


def _pairs(func: Func) -> list[_Pair]:
    parallel = next((op for op in func.body.ops if op.name == "k.parallel"), None)
    if parallel is None:
        return []
    written = {op.operand(0) for op in func.walk() if op.name == "k.store"}
    seen: dict[Hashable, Value] = {}
    found: list[_Pair] = []
    for loop in parallel.regions[0].ops:
        if loop.name in ("k.reduce", "k.sweep"):
            keys = _keys(loop, written)
            found += [_Pair(seen[keys[v]], v) for v in _roots(loop, keys, seen)]
            for value, key in keys.items():
                seen.setdefault(key, value)
    return found


def _keys(loop: Op, written: set[Value]) -> dict[Value, Hashable]:
    """A key for each value directly in a loop that depends on nothing but the loop's axes and what stands outside:
    equal keys, equal values at equal positions."""
    axes = loop_axes(loop)
    canonical: dict[str, DimLike] = {name: sym(f"axis.{i}") for i, (name, _) in enumerate(axes)}
    extents = tuple(e for _, e in axes)
    keys: dict[Value, Hashable] = {}
    inside = {r for op in loop.regions[0].ops for r in op.results}
    for op in loop.regions[0].ops:
        if len(op.results) != 1 or op.regions or (op.name == "k.load" and op.operand(0) in written):
            continue
        if any(v in inside and v not in keys for v in op.inputs):
            continue
        operands = tuple(keys[v] if v in inside else v for v in op.inputs)
        attrs = tuple((k, _canonical(v, canonical)) for k, v in sorted(op.attrs.items()))
        keys[op.result] = (op.name, extents, operands, attrs)
    return keys


def _canonical(attr: object, names: dict[str, DimLike]) -> Hashable:
    if isinstance(attr, (tuple, list)):
        return tuple(_canonical(a, names) for a in attr)
    if isinstance(attr, float):
        return attr.hex()                   # a NaN is equal to itself here, and -0.0 is not 0.0
    substituted = substitute(attr, names) if isinstance(attr, Dim) else attr
    return (type(attr).__name__, substituted if isinstance(substituted, Hashable) else repr(substituted))


def _roots(loop: Op, keys: dict[Value, Hashable], seen: dict[Hashable, Value]) -> list[Value]:
    """The values of the loop that an earlier loop has, that something else in this loop needs, and that cost enough."""
    have = {v for v, key in keys.items() if key in seen}
    return [v for v in have if any(u.result not in have if len(u.results) == 1 else True for u in v.users)
            and _cost(v, loop) >= _WORTH]


def _cost(value: Value, loop: Op) -> int:
    """Instructions of the expression behind a value, within its loop."""
    seen: set[Op] = set()
    stack = [value]
    while stack:
        op = stack.pop().op
        if op is not None and op.block is loop.regions[0] and op not in seen:
            seen.add(op)
            stack.extend(op.inputs)
    return sum(weight(op) for op in seen)


def _loop_of(value: Value) -> Op:
    assert value.op is not None and value.op.block is not None and isinstance(value.op.block.parent, Op)
    return value.op.block.parent


def _place(loop: Op) -> DimLike:
    """The position in a row, from a loop's axes."""
    place: DimLike = 0
    for name, extent in loop_axes(loop):
        place = place * extent + sym(name)
    return place


def _keep(func: Func, value: Value) -> Value:
    """Stores `value` to new scratch of a row's size behind the op that makes it; gives the scratch."""
    loop = _loop_of(value)
    assert isinstance(value.type, Scalar) and value.op is not None and value.op.block is not None
    size = product(e for _, e in loop_axes(loop))
    scratch = func.body.add_arg(Mem(value.type.dtype, (size,)), "row")
    store = Op("k.store", [scratch, value], [], {"index": (_place(loop),), "where": (), "combine": None})
    value.op.block.insert(store, value.op.next)
    return scratch


def _read_back(pair: _Pair, scratch: Value) -> None:
    """Replaces the later value by a load, and drops what only it needed."""
    loop, made_by = _loop_of(pair.again), pair.again.op
    assert made_by is not None and made_by.block is not None
    load = Op("k.load", [scratch], [pair.again.type], {"index": (_place(loop),), "where": (), "other": 0})
    made_by.block.insert(load, made_by)
    pair.again.replace_by(load.result)
    for op in loop.regions[0].reversed_ops():
        if len(op.results) == 1 and not op.regions and not op.result.uses:
            op.erase()
