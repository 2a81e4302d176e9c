"""The pass `merge-products`: contractions of one left operand become one, whose right operand is all of theirs.

Queries, keys and values of an attention, heads over one trunk, the projections of a time embedding: products that read
the same left operand, have constant right operands of one form, and are followed by the same one-to-one ops. The right
operands, and the constants of those ops, are joined along the columns. Who reads one of the results reads a slice of
the joint one, which is an index map and no copy.

When that wins. Few rows: a launch where there were several, and panels enough for all threads where a single product
has too few (keys and values of grouped queries are two panels each). Many rows: each chunk of rows is tabulated, copied
or transformed (for matrix units, for Winograd's sums) once, and is near when the later columns read it.

When it does not, and is left out:
- A result that leaves the block, as an output or into a loop, would have to be copied from the joint one.
- Products that are followed by different ops: one kernel computes one epilogue, and all others would be passes through
  memory of their own. This also leaves the two products of a gated layer, silu(x A) * (x B), as they are: the second
  takes all behind the first into its epilogue, whereas nobody's epilogue sees two columns of one product.
- Products far from each other, unless they have few rows: results would be long in memory before they are used.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Iterator, Sequence

import numpy as np

from onnxc.ir.builder import Builder, constant_of
from onnxc.ir.core import Block, Module, Op, Value
from onnxc.ir.dims import DimLike, product
from onnxc.ir.printer import op_line
from onnxc.ir.rewrite import Application, Fuel, RewriteLog, merge_locs
from onnxc.ops.control import is_step
from onnxc.ops.fold import parse_spec
from onnxc.passes.clean import attr_key
from onnxc.passes.epilogues import PRODUCTS, epilogue_ends, is_elementwise, keeps_shape
from onnxc.passes.scale_contract import is_constant

__all__ = ["merge_products"]

_RULE = "merge-products"
_FEW_ROWS = 16          # results of so many rows are small beside the weights: they may wait in memory
_MOST_WAITED = 3        # products on a result that are computed before the next one would have been: a branch of a net
_FAR = 512              # ops between two products beyond which they are not looked at together


def merge_products(module: Module, fuel: Fuel, log: RewriteLog) -> None:
    """Merge in every block of every graph function."""
    for func in module.funcs.values():
        if func.kind == "graph":
            for block in _blocks(func.body):
                _merge(module, block, func.name, fuel, log)


def _blocks(block: Block) -> Iterator[Block]:
    yield block
    for op in block.ops:
        for region in op.regions if is_step(op) else ():
            yield from _blocks(region)


def _merge(module: Module, block: Block, func: str, fuel: Fuel, log: RewriteLog) -> None:
    ops = list(block.ops)
    position = {op: i for i, op in enumerate(ops)}
    for alike in _alike(module, ops, log).values():
        for group in _near(alike, ops, position):
            if len(group) > 1 and _precedes(group, position) and not fuel.is_spent:
                before = "\n    ".join(op_line(s.op) for s in group)
                joint = _joined(module, group)
                if joint is None:
                    log.refused[_RULE, "right operands of several forms"] += 1
                else:
                    log.applied.append(Application(fuel.spend(), _RULE, "passes/siblings.py", func, before,
                                                   tuple(map(op_line, joint))))


# ---- what may be merged --------------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class _Product:
    """A contraction, the one-to-one ops behind it in order, and what their operands from elsewhere are called in
    `key`, which is equal for products that differ in columns and constants only."""

    op: Op
    chain: tuple[Op, ...]
    key: Hashable

    @property
    def end(self) -> Value:
        return self.chain[-1].result if self.chain else self.op.result

    @property
    def axis(self) -> int:
        """The axis of the result along which columns are joined."""
        spec = parse_spec(self.op.attr("spec"))
        return spec.out.index(spec.n[0])

    @property
    def rows(self) -> int | None:
        """Rows of the result, where known."""
        spec, dims = parse_spec(self.op.attr("spec")), self.op.result.dims
        own = [d for c, d in zip(spec.out, dims, strict=True) if c not in spec.n]
        known = [d for d in own if isinstance(d, int)]
        return math.prod(known) if len(known) == len(own) else None


def _alike(module: Module, ops: Sequence[Op], log: RewriteLog) -> dict[Hashable, list[_Product]]:
    """Products by key, in order."""
    shared = [op for op in ops if op.name == "t.contract" and _has_sibling(op)]
    if not shared:
        return {}
    ends = epilogue_ends(ops, _leaves)
    out: dict[Hashable, list[_Product]] = {}
    for op in shared:
        found = _product(module, op, ends[op.result])
        if isinstance(found, str):
            log.refused[_RULE, found] += 1
        else:
            out.setdefault(found.key, []).append(found)
    return out


def _has_sibling(op: Op) -> bool:
    """Whether another contraction reads the same left operand."""
    return any(user is not op and user.name == "t.contract" and user.operand(0) is op.operand(0)
               for user in op.operand(0).users)


def _leaves(v: Value) -> bool:
    """Whether a value leaves the block or goes into a step of the program."""
    return any(not user.results or is_step(user) for user in v.users)


def _product(module: Module, op: Op, end: Value) -> _Product | str:
    """The contraction with the chain up to `end`, or why it cannot be merged."""
    spec = parse_spec(op.attr("spec"))
    if not spec.n or not is_constant(module, op.operand(1)):
        return "the right operand is no constant matrix"
    chain = _chain(op, end)
    if chain is None:
        return "what follows is not one to one"
    if _leaves(end):
        return "the result leaves the block"
    axis = spec.rhs.index(spec.n[0])
    weights = op.operand(1)
    key: list[Hashable] = [op.operand(0), spec.lhs, spec.rhs, spec.out, op.attr("to"), weights.tensor.dtype,
                           _without(weights.dims, axis)]
    own = {op.result: 0}
    column = spec.out.index(spec.n[0])
    for i, link in enumerate(chain, 1):
        operands = [own[v] if v in own else _outside(module, v, op.result, column) for v in link.inputs]
        if None in operands:
            return "an operand of what follows is not constant along the columns"
        key.append((link.name, attr_key(tuple(sorted(link.attrs.items()))), link.result.tensor.dtype, *operands))
        own[link.result] = i
    return _Product(op, tuple(chain), tuple(key))


def _chain(product: Op, end: Value) -> list[Op] | None:
    """The ops from a product to `end`, which keep its shape and whose values nobody else reads."""
    depends: dict[Value, bool] = {product.result: True}
    chain: list[Op] = []

    def reaches(v: Value) -> bool:
        if v not in depends:
            depends[v] = False
            if v.op is not None and keeps_shape(v.op, product.result):
                found = [reaches(x) for x in v.op.inputs]               # of all, so that all ops get their place
                depends[v] = any(found)
                chain.extend([v.op] if depends[v] else [])
        return depends[v]

    if not reaches(end):
        return None
    inner = [v for v in (product.result, *(op.result for op in chain)) if v is not end]
    return chain if all(user in chain for v in inner for user in v.users) else None


def _outside(module: Module, v: Value, product: Value, column: int) -> Hashable:
    """What an operand of the chain is called in a key: constants by their type, other values, which must not vary
    along the columns, by themselves; None for those that do."""
    missing = len(product.dims) - len(v.dims)
    varies = column >= missing and v.dims[column - missing] != 1
    if constant_of(module, v) is not None:
        return ("constant", v.tensor.dtype, _without((1,) * missing + v.dims, column))
    return None if varies else ("value", v)


def _without(dims: Sequence[object], axis: int) -> tuple[object, ...]:
    return (*dims[:axis], *dims[axis + 1:])


def _near(products: Sequence[_Product], ops: Sequence[Op], position: dict[Op, int]) -> Iterator[list[_Product]]:
    """Products of one key in groups, in which none stands far behind the first."""
    group: list[_Product] = []
    for p in products:
        if group and not _is_near(group, p, ops, position):
            yield group
            group = []
        group.append(p)
    yield group


def _is_near(group: Sequence[_Product], p: _Product, ops: Sequence[Op], position: dict[Op, int]) -> bool:
    rows = p.rows
    if rows is not None and rows <= _FEW_ROWS:
        return True
    between = ops[position[group[0].op]:position[p.op]]
    if len(between) > _FAR:
        return False
    derived, waiting = {s.end for s in group}, 0
    for op in between:
        if any(v in derived for v in op.inputs):
            derived.update(op.results)
            waiting += op.name in PRODUCTS
    return waiting <= _MOST_WAITED


def _precedes(group: Sequence[_Product], position: dict[Op, int]) -> bool:
    """Whether all that the chains read from elsewhere is there when the first of the products is computed."""
    at = position[group[0].op]
    own = {v for s in group for v in (s.op.result, *(op.result for op in s.chain))}
    return all(v in own or v.op is None or v.op.name == "t.const" or position.get(v.op, at) < at
               for s in group for op in s.chain for v in op.inputs)


# ---- the joint product ---------------------------------------------------------------------------------------------
def _joined(module: Module, group: Sequence[_Product]) -> list[Op] | None:
    """Replace a group; gives the ops of the joint product. None, with nothing changed, where operands do not join."""
    first = group[0]
    spec = parse_spec(first.op.attr("spec"))
    b = Builder(module, first.op.block, first.op, merge_locs(*(s.op.loc for s in group)))    # type: ignore[arg-type]
    weights = _join(b, [s.op.operand(1) for s in group], spec.rhs.index(spec.n[0]))
    if weights is None:
        return None
    made = [b.op("t.contract", [first.op.operand(0), weights], dict(first.op.attrs))]
    values = {first.op.result: made[0].result}
    for links in zip(*(s.chain for s in group), strict=True):
        b.loc = merge_locs(*(op.loc for op in links))
        operands = [values[v] if v in values else _beside(b, [op.operand(i) for op in links], group)
                    for i, v in enumerate(links[0].inputs)]
        made.append(b.op(links[0].name, operands, dict(links[0].attrs)))
        values[links[0].result] = made[-1].result
    _slice(b, group, made[-1].result)
    for s in group:
        for op in reversed((s.op, *s.chain)):
            op.erase()
    return made


def _slice(b: Builder, group: Sequence[_Product], joint: Value) -> None:
    """Each end becomes its columns of the joint one."""
    start: DimLike = 0
    axis = group[0].axis
    zeros, ones = [0] * len(joint.dims), (1,) * len(joint.dims)
    for s in group:
        b.loc = s.end.op.loc if s.end.op is not None else ""
        part = b.value("t.slice", joint, starts=(*zeros[:axis], start, *zeros[axis + 1:]), sizes=s.end.dims, steps=ones)
        part.name = s.end.name
        start = start + s.end.dims[axis]
        s.end.replace_by(part)


def _beside(b: Builder, operands: Sequence[Value], group: Sequence[_Product]) -> Value:
    """What stands for the operands that the chains of a group have in one place."""
    first, constants = operands[0], _arrays(b.module, operands)
    if constants is None or (not _varies(first, group[0]) and _are_equal(constants)):
        return first
    axis, rank = group[0].axis, len(group[0].op.result.dims)
    parts = []
    for array, s in zip(constants, group, strict=True):
        wide = array.reshape((1,) * (rank - array.ndim) + array.shape)
        columns = s.op.result.dims[axis]
        parts.append(np.repeat(wide, columns, axis) if isinstance(columns, int) and wide.shape[axis] == 1 else wide)
    return b.const(np.concatenate(parts, axis))


def _arrays(module: Module, values: Sequence[Value]) -> list[np.ndarray] | None:
    """The arrays of values that are all constants."""
    found = [a for a in (constant_of(module, v) for v in values) if a is not None]
    return found if len(found) == len(values) else None


def _are_equal(arrays: Sequence[np.ndarray]) -> bool:
    return all(a.shape == arrays[0].shape and a.tobytes() == arrays[0].tobytes() for a in arrays)


def _varies(v: Value, p: _Product) -> bool:
    missing = len(p.op.result.dims) - len(v.dims)
    return p.axis >= missing and v.dims[p.axis - missing] != 1


def _join(b: Builder, values: Sequence[Value], axis: int) -> Value | None:
    """Values of constants, joined along an axis: constants themselves, and equal ops on such values, so that weights
    of few bits stay what they are."""
    arrays = _arrays(b.module, values)
    if arrays is not None:
        return b.const(np.concatenate(arrays, axis), name=f"{values[0].name or 'c'}.joint")
    makers = [_defined(v) for v in values if v.op is not None]
    first = makers[0] if len(makers) == len(values) else None
    if first is None or any(op.name != first.name or len(op.inputs) != len(first.inputs) for op in makers):
        return None
    attrs = dict(first.attrs)
    if first.name == "t.reshape":
        source = _axis_before(first, axis)
        if source is None or any(_axis_before(op, axis) != source for op in makers):
            return None
        inner = _join(b, [op.operand(0) for op in makers], source)
        if inner is None:
            return None
        shape = first.result.dims
        return b.value("t.reshape", inner, shape=(*shape[:axis], inner.dims[source], *shape[axis + 1:]))
    if any(op.attrs != first.attrs for op in makers):
        return None
    if first.name == "t.transpose":
        inner = _join(b, [op.operand(0) for op in makers], first.attr("perm")[axis])
        return None if inner is None else b.value("t.transpose", inner, **attrs)
    if not is_elementwise(first) and first.name != "t.cast":
        return None
    operands = [_join_operand(b, [op.operand(i) for op in makers], makers, axis) for i in range(len(first.inputs))]
    return None if any(v is None for v in operands) else b.op(first.name, operands, attrs).result


def _join_operand(b: Builder, operands: Sequence[Value], makers: Sequence[Op], axis: int) -> Value | None:
    """Operands of elementwise ops, joined along the axis of their results that is `axis`; those that do not vary
    along it have to be the same."""
    places = [axis - (len(op.result.dims) - len(v.dims)) for v, op in zip(operands, makers, strict=True)]
    if any(at != places[0] for at in places):
        return None
    at = places[0]
    if at >= 0 and all(v.dims[at] == op.result.dims[axis] for v, op in zip(operands, makers, strict=True)):
        return _join(b, operands, at)
    arrays = _arrays(b.module, operands)
    is_shared = at < 0 or all(v.dims[at] == 1 for v in operands)
    return operands[0] if is_shared and arrays is not None and _are_equal(arrays) else None


def _axis_before(reshape: Op, axis: int) -> int | None:
    """The axis of a reshape's operand that is the result's `axis`: as long, with as many elements before it."""
    old, new = reshape.operand(0).dims, reshape.result.dims
    return next((i for i, d in enumerate(old) if d == new[axis] and product(old[:i]) == product(new[:axis])), None)


def _defined(v: Value) -> Op:
    assert v.op is not None
    return v.op
