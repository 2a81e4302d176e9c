"""The pass `sink-transposes`: moves transposes towards the results, where they meet their inverses or the store of a
kernel.

A convolution brings one transpose in front (channels last) and one behind. Moved through everything that works
element by element, along axes, or on the same axes of several operands, those behind one convolution cancel with
those in front of the next, and the whole net runs channels last.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxc.ir.core import Module, Value
from onnxc.ir.rewrite import Fuel, Match, RewriteLog, RuleSet, rewrite_graphs, rule
from onnxc.passes.canonicalize import VIEW_RULES, dims, on_others
from onnxc.passes.epilogues import is_elementwise
from onnxc.passes.regroup import REGROUP_RULES

__all__ = ["sink_transposes"]


def sink_transposes(module: Module, fuel: Fuel, log: RewriteLog) -> None:
    """Apply the rules of this file, and those that merge views, to every graph function until none applies."""
    rewrite_graphs(module, VIEW_RULES + REGROUP_RULES + _RULES, fuel, log)


def _inverse(perm: Sequence[int]) -> tuple[int, ...]:
    out = [0] * len(perm)
    for i, p in enumerate(perm):
        out[p] = i
    return tuple(out)


def _transposed(m: Match, v: Value) -> tuple[Value, tuple[int, ...]] | None:
    op = m.made_by(v, "t.transpose")
    return (op.operand(0), tuple(op.attr("perm"))) if op is not None else None


@rule("sink-through-elementwise", root="*")
def _sink_through_elementwise(m: Match) -> Value | None:
    if not is_elementwise(m.op):
        return None
    perm = next((t[1] for t in (_transposed(m, v) for v in m.op.inputs)
                 if t is not None and len(t[1]) == len(dims(m.op.result))), None)
    if perm is None:
        return None
    inner = on_others(m, lambda v: _untransposed(m, v, perm), "another operand would have to be transposed")
    return None if inner is None else m.builder.value("t.transpose", inner, perm=perm)


def _untransposed(m: Match, v: Value, perm: tuple[int, ...]) -> Value | None:
    """`v`, which broadcasts to the transposed result, as it broadcasts to the untransposed one; None when that moves
    data."""
    t = _transposed(m, v)
    if t is not None and t[1] == perm:
        return t[0]
    shape = (1,) * (len(perm) - len(dims(v))) + dims(v)
    if len([d for d in shape if d != 1]) == 0:
        return v
    back = _inverse(perm)
    wide = v if shape == dims(v) else m.builder.value("t.reshape", v, shape=shape)
    kept = [p for p in back if shape[p] != 1]
    if kept == sorted(kept):
        return m.builder.value("t.reshape", wide, shape=tuple(shape[p] for p in back))
    return m.builder.value("t.transpose", wide, perm=back) if m.const(v) is not None else None


@rule("sink-through-reduce", root="t.reduce")
def _sink_through_reduce(m: Match) -> Value | None:
    t = _transposed(m, m.op.operand(0))
    if t is None:
        return None
    x, perm = t
    gone = [perm[a] for a in m.op.attr("axes")]
    inner = m.builder.value("t.reduce", x, kind=m.op.attr("kind"), axes=tuple(sorted(gone)))
    kept = [p for p in perm if p not in gone]
    return m.builder.value("t.transpose", inner, perm=tuple(sorted(kept).index(p) for p in kept))


@rule("sink-through-concat", root="t.concat")
def _sink_through_concat(m: Match) -> Value | None:
    parts = [_transposed(m, v) for v in m.op.inputs]
    perm = next((t[1] for t in parts if t is not None), None)
    if perm is None:
        return None
    if any(t is None or t[1] != perm for t in parts):
        return m.no("the parts are not transposed alike")
    inner = m.builder.value("t.concat", *(t[0] for t in parts if t is not None), axis=perm[m.op.attr("axis")])
    return m.builder.value("t.transpose", inner, perm=perm)


@rule("sink-through-pad", root="t.pad")
def _sink_through_pad(m: Match) -> Value | None:
    t = _transposed(m, m.op.operand(0))
    if t is None:
        return None
    back = _inverse(t[1])
    inner = m.builder.value("t.pad", t[0], *m.op.operands[1:], mode=m.op.attr("mode"),
                            **{key: tuple(m.op.attr(key)[p] for p in back) for key in ("low", "high")})
    return m.builder.value("t.transpose", inner, perm=t[1])


@rule("sink-through-slice", root="t.slice")
def _sink_through_slice(m: Match) -> Value | None:
    t = _transposed(m, m.op.operand(0))
    if t is None:
        return None
    back = _inverse(t[1])
    inner = m.builder.value("t.slice", t[0], **{key: tuple(m.op.attr(key)[p] for p in back)
                                                for key in ("starts", "sizes", "steps")})
    return m.builder.value("t.transpose", inner, perm=t[1])


@rule("sink-through-gather", root="t.gather")
def _sink_through_gather(m: Match) -> Value | None:
    """The axes of the indices stand in the place of the one that is gathered."""
    t = _transposed(m, m.op.operand(0))
    if t is None:
        return None
    x, perm = t
    axis, rank = m.op.attr("axis") % len(perm), len(dims(m.op.operand(1)))
    at = perm[axis]
    inner = m.builder.value("t.gather", x, m.op.operand(1), axis=at, in_range=m.op.attr("in_range"))

    def moved(p: int) -> tuple[int, ...]:
        return tuple(range(at, at + rank)) if p == at else (p if p < at else p + rank - 1,)

    return m.builder.value("t.transpose", inner, perm=tuple(q for p in perm for q in moved(p)))


_RULES = RuleSet.of({k: v for k, v in globals().items() if k != "VIEW_RULES"})
