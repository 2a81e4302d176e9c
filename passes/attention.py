"""The pass `attention`: a softmax between two products becomes one `t.attend`, whose scores are never in memory.

Whatever exporters write around it is seen through: scales and masks between the first product and the softmax become
the region of scores, with reshapes that group heads, as do numbers that queries and keys are multiplied with; a
replacement of NaN weights by zero becomes `missing` (weights of a row are all NaN or none is); rows whose weights are
zero because a condition says so become rows of zeros behind the attention; conversions between floats of 16 bits and
more on the way to the second product leave weights as they are.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from onnxc.ir.core import Block, Module, Op, Value
from onnxc.ir.rewrite import Fuel, Match, RewriteLog, RuleSet, rewrite_graphs, rule
from onnxc.ir.types import F32, Tensor
from onnxc.ops.fold import ContractSpec, parse_spec
from onnxc.passes.canonicalize import scalar_constant
from onnxc.passes.epilogues import is_elementwise
from onnxc.passes.fuse import symbols_in
from onnxc.passes.kernel_builder import NotFusable
from onnxc.passes.kernels import Group, build_kernels

__all__ = ["fuse_attention"]

_MOST_OPS = 64          # between the first product and the softmax


def fuse_attention(module: Module, fuel: Fuel, log: RewriteLog) -> None:
    """Make attention one op in every graph function."""
    rewrite_graphs(module, RuleSet([_attention]), fuel, log)


@rule("attention", root="t.contract")
def _attention(m: Match) -> Value | None:
    weights = _weights(m, m.op.operand(0))
    if weights is None:
        return m.no("its left operand is no softmax")
    scores = _scores(weights)
    if scores is None:
        return m.no("the softmax is not computed from one product of the same number of elements")
    if scores.result.tensor.dtype != F32:
        return m.no("the softmax is not computed in f32")
    specs = _specs(scores.product, m.op)
    if specs is None:
        return m.no("the products have other axes than those of attention")
    reason = _unfit(scores.product, m.op, *specs)
    if reason:
        return m.no(reason)
    if not _is_private(m.op, scores, weights):
        return m.no("scores or weights are needed by others")
    (q, k), factors = _unscaled(m, scores.product.inputs)
    region, extras = _region(scores, factors)
    attend = m.builder.op("t.attend", [q, k, m.op.operand(1), *extras],
                          {"scores": _text(specs[0]), "out": _text(specs[1]), "missing": weights.missing},
                          [m.op.result.type], [region])
    try:
        build_kernels(Group(m.module, attend.result, attend.inputs, symbols_in(m.module.main), "trial"))
    except NotFusable as e:
        return m.no(f"no kernel computes it: {e.reason}")
    out = attend.result
    for condition in weights.dropped:
        zero = m.builder.const(np.zeros((), out.tensor.dtype.numpy))
        out = m.builder.value("t.select", condition, zero, out)
    return out


# ---- the softmax ---------------------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class _Weights:
    """A softmax along the last axis of `scores`: the ops from there to the second product, whether NaN counts as zero,
    and the conditions of rows that are zero."""

    scores: Value
    missing: bool
    ops: frozenset[Op]
    dropped: tuple[Value, ...]


def _weights(m: Match, v: Value) -> _Weights | None:
    ops: set[Op] = set()
    missing = False
    dropped: list[Value] = []
    spec = parse_spec(m.op.attr("spec"))
    has_rows = spec.lhs[:-1] == spec.out[:-1]       # the result's rows are those of the weights

    def through(v: Value, name: str) -> Value | None:
        op = m.made_by(v, name)
        if op is None:
            return None
        ops.add(op)
        return op.operand(0)

    while True:
        if v.op is not None and v.op.name == "t.reshape" and v.dims[-1:] == v.op.operand(0).dims[-1:]:
            v = through(v, "t.reshape") or v
        elif v.op is not None and v.op.name == "t.cast" and _is_at_least_half(v) and _is_at_least_half(v.op.operand(0)):
            v = through(v, "t.cast") or v
        elif has_rows and v.dims == m.op.operand(0).dims and (select := _without_rows(m, v)) is not None:
            ops.add(select)
            dropped.append(select.operand(0))
            v = select.operand(2)
        elif (kept := _without_nan(m, v)) is not None and not missing:
            ops.update(op for op in (v.op, v.op.operand(0).op) if op is not None)   # type: ignore[union-attr]
            v, missing = kept, True
        else:
            break
    found = _softmax(m, v)
    if found is None:
        return None
    return _Weights(found[0], missing, frozenset(ops | found[1]), tuple(dropped))


def _is_at_least_half(v: Value) -> bool:
    return v.tensor.dtype.is_float and v.tensor.dtype.bits >= 16


def _without_nan(m: Match, v: Value) -> Value | None:
    """x, if `v` is x with zero for NaN."""
    select = m.made_by(v, "t.select")
    if select is None or scalar_constant(m, select.operand(1)) != 0.0:
        return None
    test = m.made_by(select.operand(0), "t.isnan")
    return select.operand(2) if test is not None and test.operand(0) is select.operand(2) else None


def _without_rows(m: Match, v: Value) -> Op | None:
    """The op that makes whole rows of `v` zero, where it is one."""
    select = m.made_by(v, "t.select")
    if select is None or scalar_constant(m, select.operand(1)) != 0.0 or select.operand(2).dims != v.dims:
        return None
    return select if select.operand(0).dims[-1:] in ((), (1,)) else None


def _softmax(m: Match, v: Value) -> tuple[Value, set[Op]] | None:
    """The operand of a softmax along the last axis, and its ops."""
    quotient = m.made_by(v, "t.mul", "t.div")
    if quotient is None:
        return None
    powers, total = quotient.inputs
    ops = {quotient}
    if quotient.name == "t.mul":
        inverse = m.made_by(total, "t.recip")
        if inverse is None:
            return None
        ops.add(inverse)
        total = inverse.operand(0)
    raised = m.made_by(powers, "t.exp")
    difference = None if raised is None else m.made_by(raised.operand(0), "t.sub")
    if raised is None or difference is None:
        return None
    scores, most = difference.inputs
    for value, kind, of in ((total, "add", powers), (most, "max", scores)):
        fold = _row_fold(m, value, kind, of)
        if fold is None:
            return None
        ops |= fold
    return scores, ops | {raised, difference}


def _row_fold(m: Match, v: Value, kind: str, of: Value) -> set[Op] | None:
    """The ops of `v`, if it is `of` folded along its last axis, which stays with one element."""
    if v.dims != (*of.dims[:-1], 1):
        return None
    shaped = m.made_by(v, "t.reshape")
    fold = None if shaped is None else m.made_by(shaped.operand(0), "t.reduce")
    if shaped is None or fold is None or fold.operand(0) is not of:
        return None
    rank = len(of.dims)
    fits = fold.attr("kind") == kind and [a % rank for a in fold.attr("axes")] == [rank - 1]
    return {shaped, fold} if fits else None


# ---- the scores ----------------------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class _Scores:
    """Scores as computed from a product of as many elements, by `ops` in order."""

    product: Op
    ops: tuple[Op, ...]
    result: Value


def _scores(weights: _Weights) -> _Scores | None:
    product = _product_behind(weights.scores)
    if product is None:
        return None
    depends: dict[Value, bool] = {product.result: True}
    order: list[Op] = []

    def reaches(v: Value) -> bool:
        if v not in depends:
            op, depends[v] = v.op, False
            if op is not None and _keeps_elements(op, product):
                found = [reaches(x) for x in op.inputs]              # of all, so that all ops get their place
                depends[v] = any(found)
                order.extend([op] if depends[v] else [])
        return depends[v]

    reaches(weights.scores)
    return _Scores(product, tuple(order), weights.scores) if len(order) <= _MOST_OPS else None


def _product_behind(v: Value) -> Op | None:
    """The first product of as many elements as `v` from which it is computed one to one."""
    size, seen, stack = v.tensor.size, {v}, [v]
    while stack:
        op = stack.pop().op
        if op is None or len(seen) > _MOST_OPS:
            continue
        if op.name == "t.contract":
            return op
        if is_elementwise(op) or op.name == "t.reshape":
            new = [x for x in op.inputs if x.tensor.size == size and x not in seen]
            seen.update(new)
            stack.extend(reversed(new))
    return None


def _keeps_elements(op: Op, product: Op) -> bool:
    """Whether each element of the result takes one of the product's, the last axis staying what it is."""
    if not op.results or op.result.tensor.size != product.result.tensor.size:
        return False
    if op.name == "t.reshape":
        return op.result.dims[-1:] == op.operand(0).dims[-1:]
    return is_elementwise(op)


def _unscaled(m: Match, operands: Sequence[Value]) -> tuple[list[Value], list[float]]:
    """Queries and keys without a number that they are multiplied with, which may as well be scores' (they are then
    read where they lie), and these numbers."""
    out, factors = [], []
    for v in operands:
        views: list[Op] = []
        x = v
        while x.op is not None and x.op.name in ("t.reshape", "t.transpose") and m.only_use(x):
            views.insert(0, x.op)
            x = x.op.operand(0)
        factor = scalar_constant(m, x.op.operand(1)) if x.op is not None and x.op.name == "t.mul" else None
        if x.op is None or factor is None or not m.only_use(x) or x.op.operand(0).type != x.type \
                or x.tensor.dtype != F32:
            out.append(v)
            continue
        x = x.op.operand(0)
        for op in views:
            x = m.builder.value(op.name, x, **op.attrs)
        out.append(x)
        factors.append(factor)
    return out, factors


def _region(scores: _Scores, factors: Sequence[float]) -> tuple[Block, list[Value]]:
    """The region of a t.attend, and what it reads beside the product, which is multiplied with `factors`. It works on
    the product's shape; ops on another one stand between reshapes."""
    inside = set(scores.ops)
    own = scores.product.result
    extras = [x for x in dict.fromkeys(x for op in scores.ops for x in op.inputs)
              if x is not own and x.op not in inside]
    outside = [x for x in extras if not _is_scalar(x)]
    block = Block([own.type, *(x.type for x in outside)], [own.name, *(x.name for x in outside)])
    values: dict[Value, Value] = dict(zip([own, *outside], block.args, strict=True))
    for x in extras:
        if _is_scalar(x) and x.op is not None:
            values[x] = block.append(Op("t.const", (), [x.type], dict(x.op.attrs), loc=x.op.loc)).result
    if factors:
        number = np.array(math.prod(factors), np.float32)
        factor = block.append(Op("t.const", (), [Tensor(F32, ())], {"value": number, "ref": None})).result
        values[own] = block.append(Op("t.mul", [values[own], factor], [own.type])).result
    for op in scores.ops:
        copy = block.append(Op(op.name, [None if x is None else values[x] for x in op.operands],
                               [op.result.type], dict(op.attrs), loc=op.loc, names=[op.result.name]))
        values[op.result] = copy.result
    last = values[scores.result]
    if last.dims != own.dims:
        last = block.append(Op("t.reshape", [last], [own.type], {"shape": own.dims})).result
    block.append(Op("yield", [last]))
    return block, outside


def _is_scalar(v: Value) -> bool:
    return v.op is not None and v.op.name == "t.const" and v.tensor.size == 1


# ---- whether it fits -----------------------------------------------------------------------------------------------
def _specs(first: Op, second: Op) -> tuple[ContractSpec, ContractSpec] | None:
    """The specs of both products by the same letters; None where they are not those of attention."""
    scores, out = parse_spec(first.attr("spec")), parse_spec(second.attr("spec"))
    if second.operand(0).dims != first.result.dims:
        return None
    names = dict(zip(out.lhs, scores.out, strict=True))
    unused = iter(c for c in "abcdefghijklmnopqrstuvwxyz" if c not in scores.lhs + scores.rhs)
    for c in out.rhs:
        names.setdefault(c, next(unused))
    out = ContractSpec(*("".join(names[c] for c in part) for part in (out.lhs, out.rhs, out.out)))
    last = scores.out[-1]
    fits = scores.n == out.k == last and set(scores.batch) == set(out.batch) and set(scores.m) == set(out.m)
    return (scores, out) if fits and len(scores.k) == len(out.n) == 1 and scores.m else None


def _unfit(first: Op, second: Op, scores: ContractSpec, out: ContractSpec) -> str | None:
    """Why sizes or types make no attention that a kernel would be faster for."""
    q, k, v = first.operand(0), first.operand(1), second.operand(1)
    if first.attr("to") != F32 or second.attr("to") != F32 or not all(x.tensor.dtype.is_float for x in (q, k, v)):
        return "it is not summed in f32"
    sizes = {**scores.sizes(q.dims, k.dims), **dict(zip(out.rhs, v.dims, strict=True))}
    alone = any(sizes[c] == 1 for c in (scores.out[-1], scores.k, out.n))
    return "one of its axes has one element" if alone else None


def _is_private(second: Op, scores: _Scores, weights: _Weights) -> bool:
    """Whether nothing but this attention reads scores or weights."""
    own = {*scores.ops, *weights.ops, second}
    return all(user in own for op in (scores.product, *scores.ops, *weights.ops)
               for r in op.results for user in r.users)


def _text(spec: ContractSpec) -> str:
    return f"{spec.lhs},{spec.rhs}->{spec.out}"
