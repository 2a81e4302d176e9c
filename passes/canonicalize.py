"""The pass `canonicalize`: one form for equal things.

Rulebook. A rule is directional: its result is no worse in ops, bytes and precision. Float rules here are exact for
every input, NaN, infinities and signed zeros included. Constants stand on the right of commutative ops. A rule that
would repeat work checks for a single use. What a rule makes, another rule (or the same) may simplify on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from onnxc.ir.core import Module, Op, Value
from onnxc.ir.dims import DimLike, provably_nonneg
from onnxc.ir.registry import lookup
from onnxc.ir.rewrite import Fuel, Match, RewriteLog, RuleSet, rewrite_graphs, rule
from onnxc.ops.fold import parse_spec

__all__ = ["VIEW_RULES", "canonicalize"]


def canonicalize(module: Module, fuel: Fuel, log: RewriteLog) -> None:
    """Apply the rules of this file to every graph function until none applies."""
    rewrite_graphs(module, _RULES, fuel, log)


def dims(v: Value) -> tuple[DimLike, ...]:
    """The dims of a tensor value."""
    return v.dims


def scalar_constant(m: Match, v: Value) -> float | None:
    """The number in a constant of one element, of any rank: where that is the greater one, it adds axes to a result."""
    array = m.const(v)
    return None if array is None or array.size != 1 else float(array.reshape(-1)[0])


def on_others(m: Match, other: Callable[[Value], Value | None], refusal: str) -> Value | None:
    """The op on `other` of each operand; refuses where there is none."""
    operands = []
    for v in m.op.inputs:
        found = other(v)
        if found is None:
            return m.no(refusal)
        operands.append(found)
    return m.builder.value(m.op.name, *operands, **m.op.attrs)


# ---- views ---------------------------------------------------------------------------------------------------------
@rule("transpose-identity", root="t.transpose")
def _transpose_identity(m: Match) -> Value | None:
    perm = m.op.attr("perm")
    return m.op.operand(0) if list(perm) == list(range(len(perm))) else None


@rule("transpose-twice", root="t.transpose")
def _transpose_twice(m: Match) -> Value | None:
    inner = m.made_by(m.op.operand(0), "t.transpose")
    if inner is None:
        return None
    first, second = inner.attr("perm"), m.op.attr("perm")
    return m.builder.value("t.transpose", inner.operand(0), perm=tuple(first[p] for p in second))


@rule("transpose-of-ones", root="t.transpose")
def _transpose_of_ones(m: Match) -> Value | None:
    x, perm = m.op.operand(0), m.op.attr("perm")
    moved = [p for p in perm if dims(x)[p] != 1]
    if moved != sorted(moved) or list(perm) == list(range(len(perm))):
        return None
    return m.builder.value("t.reshape", x, shape=dims(m.op.result))


@rule("reshape-identity", root="t.reshape")
def _reshape_identity(m: Match) -> Value | None:
    return m.op.operand(0) if dims(m.op.operand(0)) == dims(m.op.result) else None


@rule("reshape-twice", root="t.reshape")
def _reshape_twice(m: Match) -> Value | None:
    inner = m.made_by(m.op.operand(0), "t.reshape")
    return m.builder.value("t.reshape", inner.operand(0), shape=m.op.attr("shape")) if inner else None


@rule("broadcast-identity", root="t.broadcast")
def _broadcast_identity(m: Match) -> Value | None:
    return m.op.operand(0) if dims(m.op.operand(0)) == dims(m.op.result) else None


@rule("slice-everything", root="t.slice")
def _slice_everything(m: Match) -> Value | None:
    whole = all(s == 0 for s in m.op.attr("starts")) and all(s == 1 for s in m.op.attr("steps"))
    return m.op.operand(0) if whole and dims(m.op.operand(0)) == dims(m.op.result) else None


@rule("concat-of-one", root="t.concat")
def _concat_of_one(m: Match) -> Value | None:
    full = [v for v in m.op.inputs if dims(v)[m.op.attr("axis")] != 0]
    if len(full) == len(m.op.inputs) and len(full) > 1:
        return None
    if len(full) > 1:
        return m.builder.value("t.concat", *full, axis=m.op.attr("axis"))
    return full[0] if full else m.op.inputs[0]


@rule("pad-by-nothing", root="t.pad")
def _pad_by_nothing(m: Match) -> Value | None:
    none = not any(d != 0 for key in ("low", "high") for d in m.op.attr(key))
    return m.op.operand(0) if none else None


@rule("window-of-one", root="t.window")
def _window_of_one(m: Match) -> Value | None:
    x, a = m.op.operand(0), {key: m.op.attr(key) for key in ("axes", "size", "stride", "low", "out")}
    single = all(s == 1 for s in (*a["size"], *a["stride"])) and all(d == 0 for d in a["low"])
    places = tuple(dims(x)[i] for i in a["axes"])
    return m.builder.value("t.reshape", x, shape=dims(m.op.result)) if single and places == a["out"] else None


@rule("window-of-pad", root="t.window")
def _window_of_pad(m: Match) -> Value | None:
    """What a window finds outside of its operand may as well be what the operand was padded with."""
    pad, axes = m.made_by(m.op.operand(0), "t.pad"), m.op.attr("axes")
    if pad is None or pad.attr("mode") != "constant":
        return None
    filled = scalar_constant(m, pad.operands[1]) if len(pad.operands) > 1 and pad.operands[1] is not None else 0.0
    if filled != m.op.attr("fill"):
        return m.no("the window finds something else outside")
    low, high = pad.attr("low"), pad.attr("high")
    for axis, amounts in enumerate(zip(low, high, strict=True)):
        if not all(d == 0 if axis not in axes else provably_nonneg(d) for d in amounts):
            return m.no("the pad cuts, or pads another axis")
    moved = tuple(d + low[axis] for axis, d in zip(axes, m.op.attr("low"), strict=True))
    return m.builder.value("t.window", pad.operand(0), **{**m.op.attrs, "low": moved})


# ---- arithmetic ----------------------------------------------------------------------------------------------------
@rule("constant-right", root="*")
def _constant_right(m: Match) -> Value | None:
    row = lookup(m.op.name)
    if row is None or not row.has("elementwise") or not row.has("commutative") or len(m.op.operands) != 2:
        return None
    a, b = m.op.operand(0), m.op.operand(1)
    if m.const(a) is None or m.const(b) is not None:
        return None
    return m.builder.value(m.op.name, b, a)


@rule("unit", root=("t.mul", "t.div", "t.sub", "t.pow"))
def _unit(m: Match) -> Value | None:
    """x*1, x/1, x-0, x**1 (adding 0 is not exact: -0 + 0 is 0)."""
    x, c = m.op.operand(0), scalar_constant(m, m.op.operand(1))
    unit = 0.0 if m.op.name == "t.sub" else 1.0
    if c != unit or (m.op.name == "t.sub" and math.copysign(1.0, c) < 0):
        return None
    return x if x.type == m.op.result.type else m.no("the constant broadcasts the operand")


@rule("small-power", root="t.pow")
def _small_power(m: Match) -> Value | None:
    """x**2 and x**3 as products, which round once and twice and cost a fiftieth."""
    x, c = m.op.operand(0), scalar_constant(m, m.op.operand(1))
    if c not in (2.0, 3.0) or x.type != m.op.result.type:
        return None
    square = m.builder.value("t.mul", x, x)
    return square if c == 2.0 else m.builder.value("t.mul", square, x)


@rule("divide-by-power-of-two", root="t.div")
def _divide_by_power_of_two(m: Match) -> Value | None:
    x, c = m.op.operand(0), m.const(m.op.operand(1))
    if c is None or c.dtype not in (np.float32, np.float64) or not c.size:
        return None
    mantissa, exponent = np.frexp(c)
    if not (np.all(np.abs(mantissa) == 0.5) and np.all(np.abs(exponent) < 100)):
        return m.no("the reciprocal is not exact")
    return m.builder.value("t.mul", x, m.builder.const((1 / c).astype(c.dtype)))


@rule("negated-select", root="t.select")
def _negated_select(m: Match) -> Value | None:
    inner = m.made_by(m.op.operand(0), "t.not")
    return m.builder.value("t.select", inner.operand(0), m.op.operand(2), m.op.operand(1)) if inner else None


@rule("decided-select", root="t.select")
def _decided_select(m: Match) -> Value | None:
    mask = m.const(m.op.operand(0))
    if mask is None or mask.size == 0 or mask.any() != mask.all():
        return None
    kept = m.op.operand(1 if mask.all() else 2)
    return kept if kept.type == m.op.result.type else m.builder.value("t.broadcast", kept, shape=dims(m.op.result))


@rule("not-twice", root="t.not")
def _not_twice(m: Match) -> Value | None:
    inner = m.made_by(m.op.operand(0), "t.not")
    return inner.operand(0) if inner else None


@rule("cast-identity", root="t.cast")
def _cast_identity(m: Match) -> Value | None:
    return m.op.operand(0) if m.op.operand(0).type == m.op.result.type else None


# ---- data indices --------------------------------------------------------------------------------------------------
@rule("indices-in-range", root=("t.gather", "t.gather_elements", "t.gather_nd", "t.scatter_elements", "t.scatter_nd"))
def _indices_in_range(m: Match) -> Value | None:
    """Constant indices are looked at once, here, and not in every run."""
    indices, extents = m.const(m.op.operand(1)), _indexed_extents(m.op)
    if indices is None or m.op.attr("in_range"):
        return None
    if not all(isinstance(e, int) for e in extents):
        return m.no("how far the indices may go is known at run time")
    size = np.array(extents, np.int64)
    if not ((indices >= -size) & (indices < size)).all():
        return m.no("an index is out of range")
    wrapped = np.where(indices < 0, indices + size, indices).astype(indices.dtype).reshape(indices.shape)
    operands = [m.builder.const(wrapped) if i == 1 else v for i, v in enumerate(m.op.operands)]
    return m.builder.value(m.op.name, *operands, **{**m.op.attrs, "in_range": True})


def _indexed_extents(op: Op) -> tuple[DimLike, ...]:
    """The extents that the indices count in: one, or one for each element of an index tuple."""
    shape = op.operand(0).dims
    if op.name in ("t.gather_nd", "t.scatter_nd"):
        first, depth = int(op.attrs.get("batch", 0)), op.operand(1).dims[-1]  # type: ignore[arg-type]
        return shape[first:first + depth] if isinstance(depth, int) else shape
    return (shape[op.attr("axis") % len(shape)],)


# ---- contractions --------------------------------------------------------------------------------------------------
@rule("contract-drop-ones", root="t.contract")
def _contract_drop_ones(m: Match) -> Value | None:
    """Summed axes of extent 1 on both sides (the kernel axes of a 1x1 convolution) go."""
    spec = parse_spec(m.op.attr("spec"))
    a, b = m.op.operand(0), m.op.operand(1)
    sizes = [dict(zip(spec.lhs, dims(a), strict=True)), dict(zip(spec.rhs, dims(b), strict=True))]
    gone = {c for c in spec.k if sizes[0][c] == 1 and sizes[1][c] == 1}
    if not gone:
        return None
    lhs, rhs = (_without(m, v, letters, gone) for v, letters in ((a, spec.lhs), (b, spec.rhs)))
    text = "".join(c for c in m.op.attr("spec") if c not in gone)
    return m.builder.value("t.contract", lhs, rhs, spec=text, to=m.op.attr("to"))


def _without(m: Match, v: Value, letters: str, gone: set[str]) -> Value:
    shape: Sequence[DimLike] = [d for c, d in zip(letters, dims(v), strict=True) if c not in gone]
    return m.builder.value("t.reshape", v, shape=tuple(shape))


_RULES = RuleSet.of(globals())
VIEW_RULES = RuleSet(r for r in _RULES if any(word in r.name for word in ("transpose", "reshape", "window")))
