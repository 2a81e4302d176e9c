"""Loop nests of a kernel: counted loops, and one axis of a nest cut into vectors.

A vector loop has up to three forms of its body: `main`, whole vectors of many lanes at positions where every condition
on the vector axis holds; `middle`, single vectors of the same kind; and `edge`, for what is left at either end, with
its conditions checked: masked vectors where the target has them, else one element at a time. Each form folds into
accumulators of its own, so the caller sees one list of final values a form.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from llvmlite import ir

from onnxc.codegen.accesses import Condition, accesses_of, linear_in
from onnxc.codegen.llvm.abi import I32, I64
from onnxc.codegen.llvm.dims import constant, splat
from onnxc.codegen.llvm.heuristics import vectors_in_flight
from onnxc.codegen.llvm.loops import counted_loop
from onnxc.codegen.llvm.scope import Scope
from onnxc.ir.core import Block, Op
from onnxc.ir.dims import DimLike, ceildiv, dim_max, dim_min, floordiv, symbols_of
from onnxc.ir.types import Mem

__all__ = ["Form", "VectorAxis", "forms_for", "scalar_nest", "vector_axis", "vector_nest", "whole_windows"]

Carried = list[ir.Value]
Body = Callable[[Scope, Carried], Carried]
FormBody = Callable[["Form", Scope, Carried], Carried]
Axes = Sequence[tuple[str, DimLike]]


@dataclasses.dataclass(frozen=True)
class Form:
    """One form of a vector loop's body: `lanes` at once (1: scalar code), masked or whole."""

    name: str
    lanes: int
    masked: bool = False


@dataclasses.dataclass(frozen=True)
class VectorAxis:
    """The axis across lanes and the range [start, stop) of it to cover; `conditions` of accesses in the body hold on
    [low, high) of it (both None: there are none)."""

    name: str
    start: ir.Value
    stop: ir.Value
    low: ir.Value | None = None
    high: ir.Value | None = None
    conditions: frozenset[Condition] = frozenset()


def scalar_nest(scope: Scope, axes: Axes, carried: Carried, body: Body) -> Carried:
    """Loops over `axes`, outermost first, carrying values through all of them."""
    if not axes:
        return body(scope, carried)
    (name, extent), rest = axes[0], axes[1:]

    def iteration(_: ir.IRBuilder, index: ir.Value, values: Carried) -> Carried:
        return scalar_nest(scope.within(axes={name: index}), rest, values, body)

    return counted_loop(scope.builder, name, ir.Constant(I64, 0), scope.dim(extent), 1, carried, iteration)


def vector_nest(scope: Scope, outer: Axes, vector: VectorAxis, forms: Sequence[Form], carried: Sequence[Carried],
                body: FormBody) -> list[Carried]:
    """Loops over `outer` around the vector loop; `carried[i]` belongs to `forms[i]`."""
    sizes = [len(c) for c in carried]

    def inside(inner: Scope, values: Carried) -> Carried:
        return _flat(_vector_loop(inner, vector, forms, _split(values, sizes), body))

    return _split(scalar_nest(scope, outer, _flat(carried), inside), sizes)


def _flat(lists: Sequence[Carried]) -> Carried:
    return [v for values in lists for v in values]


def _split(values: Carried, sizes: Sequence[int]) -> list[Carried]:
    out, at = [], 0
    for n in sizes:
        out.append(list(values[at:at + n]))
        at += n
    return out


def forms_for(scope: Scope, region: Block, axis: str, extent: DimLike) -> list[Form]:
    """The forms that a vector loop over `axis` needs: whole vectors first, an edge form last where one can be met."""
    schedule, target = scope.kernel.schedule, scope.kernel.target
    lanes = schedule.lanes
    wide = lanes * vectors_in_flight(region, schedule, target)
    while isinstance(extent, int) and wide > lanes and wide > extent:
        wide //= 2
    masked = target.vector_bytes == 64 or _masks_are_cheap(scope, region)
    forms = [] if isinstance(extent, int) and extent < lanes else [Form("main", wide)]
    rest = extent % wide if isinstance(extent, int) else None
    middle = not masked or bool(_conditions_on(scope, region, axis)) or _moves_far(scope, region, axis)
    if wide > lanes and middle and (rest is None or rest >= lanes):
        forms.append(Form("middle", lanes))
    whole = rest == 0 if masked or wide == lanes else rest is not None and rest % lanes == 0
    if not whole or _conditions_on(scope, region, axis):
        forms.append(Form("edge", lanes, masked=True) if masked else Form("edge", 1))
    return forms


def _moves_far(scope: Scope, region: Block, axis: str) -> bool:
    """Whether an access of the region goes to elements that are not neighbours: masks make those dear."""
    for access in accesses_of(region):
        linear = linear_in(scope.kernel.accesses.flat(access), axis)
        if linear is None or linear.stride not in (0, 1):
            return True
    return False


def _masks_are_cheap(scope: Scope, region: Block) -> bool:
    """Whether the target masks memory accesses of every width in the region: AVX2 does for 32 and 64 bits."""
    if scope.kernel.target.isa != "avx2":
        return False
    types = {a.operand(0).type for a in accesses_of(region)}
    return all(isinstance(t, Mem) and t.dtype.bits >= 32 for t in types)


# ---- the vector loop -------------------------------------------------------------------------------------------------

def _vector_loop(scope: Scope, vector: VectorAxis, forms: Sequence[Form], carried: list[Carried],
                 body: FormBody) -> list[Carried]:
    values = [list(c) for c in carried]
    edge = len(forms) - 1 if forms and forms[-1].name == "edge" else None
    position, whole_until = vector.start, vector.stop
    if vector.low is not None and vector.high is not None and edge is not None:
        position = _whole_steps(scope.builder, vector, forms[edge].lanes)
        whole_until = _clamp(scope.builder, vector.high, position, vector.stop)
        values[edge] = _edge_loop(scope, vector, forms[edge], vector.start, position, values[edge], body)
    known = scope.within(known=scope.known | vector.conditions)
    for i, form in enumerate(forms):
        if i != edge:
            position, values[i] = _whole_loop(known, vector, form, position, whole_until, values[i], body)
    if edge is not None:
        values[edge] = _edge_loop(scope, vector, forms[edge], position, vector.stop, values[edge], body)
    return values


def _whole_steps(b: ir.IRBuilder, vector: VectorAxis, lanes: int) -> ir.Value:
    """Where the conditions hold from, moved on to the end of the edge form's step that reaches it."""
    assert vector.low is not None
    low = _clamp(b, vector.low, vector.start, vector.stop)
    if lanes == 1:
        return low
    steps = b.and_(b.add(b.sub(low, vector.start), constant(lanes - 1)), constant(-lanes))
    end = b.add(vector.start, steps)
    return b.select(b.icmp_signed(">", end, vector.stop), vector.stop, end)


def _clamp(b: ir.IRBuilder, value: ir.Value, low: ir.Value, high: ir.Value) -> ir.Value:
    value = b.select(b.icmp_signed("<", value, low), low, value)
    return b.select(b.icmp_signed(">", value, high), high, value)


def _whole_loop(scope: Scope, vector: VectorAxis, form: Form, start: ir.Value, until: ir.Value, carried: Carried,
                body: FormBody) -> tuple[ir.Value, Carried]:
    """Whole vectors from `start` on while they fit below `until`: where they ended, and the carried values."""
    b = scope.builder
    length = b.and_(b.sub(until, start), constant(-form.lanes))
    stop = b.add(start, length)

    def iteration(_: ir.IRBuilder, index: ir.Value, values: Carried) -> Carried:
        return body(form, _in_lanes(scope, vector, form, index, None), values)

    return stop, counted_loop(b, f"{vector.name}.{form.name}", start, stop, form.lanes, carried, iteration)


def _edge_loop(scope: Scope, vector: VectorAxis, form: Form, start: ir.Value, stop: ir.Value, carried: Carried,
               body: FormBody) -> Carried:
    def iteration(b: ir.IRBuilder, index: ir.Value, values: Carried) -> Carried:
        mask = _lanes_below(b, b.sub(stop, index), form.lanes) if form.masked else None
        return body(form, _in_lanes(scope, vector, form, index, mask), values)

    return counted_loop(scope.builder, f"{vector.name}.edge", start, stop, form.lanes, carried, iteration)


def _in_lanes(scope: Scope, vector: VectorAxis, form: Form, index: ir.Value, mask: ir.Value | None) -> Scope:
    axis = vector.name if form.lanes > 1 else ""
    return scope.within(axes={vector.name: index}, lanes=form.lanes, axis=axis, mask=mask)


def _lanes_below(b: ir.IRBuilder, count: ir.Value, lanes: int) -> ir.Value:
    """The mask of the first `count` (at least 1) of `lanes` lanes."""
    fewer = b.select(b.icmp_signed("<", count, constant(lanes)), count, constant(lanes))
    steps = ir.Constant(ir.VectorType(I32, lanes), [ir.Constant(I32, i) for i in range(lanes)])
    return b.icmp_unsigned("<", steps, splat(b, b.trunc(fewer, I32), lanes))


# ---- where conditions hold -------------------------------------------------------------------------------------------

def vector_axis(scope: Scope, region: Block, name: str, start: ir.Value, stop: ir.Value) -> VectorAxis:
    """The vector axis over [start, stop), with the part of it on which the conditions of the region's accesses hold."""
    lows: list[DimLike] = []
    highs: list[DimLike] = []
    held: set[Condition] = set()
    for condition in _conditions_on(scope, region, name):
        limits = _limits(scope, region, condition, name)
        if limits is not None:
            lows.append(limits[0])
            highs.append(limits[1])
            held.add(condition)
    if not held:
        return VectorAxis(name, start, stop)
    return VectorAxis(name, start, stop, scope.dim(dim_max(*lows)), scope.dim(dim_min(*highs)), frozenset(held))


def _conditions_on(scope: Scope, region: Block, axis: str) -> list[Condition]:
    """The open conditions in the region that depend on the axis."""
    found: dict[Condition, None] = {}
    for access in accesses_of(region):
        for condition in scope.kernel.accesses.conditions(access):
            if axis in symbols_of(condition) and condition not in scope.known:
                found[condition] = None
    return list(found)


@dataclasses.dataclass(frozen=True)
class Inside:
    """Conditions of accesses, and the i1 that says whether all of them hold throughout the loops inside."""

    holds: ir.Value
    conditions: frozenset[Condition]


def whole_windows(scope: Scope, region: Block, vector: str) -> Inside | None:
    """For the open conditions in the region that vary in loops inside it but not along the vector axis: whether they
    hold at every position of those loops. None when there are none."""
    inner = inner_axes(scope, region)
    b, found = scope.builder, dict.fromkeys(
        c for access in accesses_of(region) for c in scope.kernel.accesses.conditions(access) if c not in scope.known)
    holds: ir.Value | None = None
    held: set[Condition] = set()
    for condition in found:
        expr, low, high = condition
        used = symbols_of(condition)
        if vector in used or any(s.startswith("$") for s in used):
            continue
        if not used & inner or inner & symbols_of((low, high)):
            continue
        span = scope.kernel.accesses.range_of(expr, inner)
        if span is None:
            continue
        above = b.icmp_signed(">=", scope.dim(span[0]), scope.dim(low))
        both = b.and_(above, b.icmp_signed("<", scope.dim(span[1]), scope.dim(high)))
        holds = both if holds is None else b.and_(holds, both)
        held.add(condition)
    return None if holds is None else Inside(holds, frozenset(held))


def inner_axes(scope: Scope, region: Block) -> set[str]:
    """The axes of the loops inside a region."""
    return {a.name for a in scope.kernel.accesses.axes.values() if _is_inside(a.loop, region)}


def _limits(scope: Scope, region: Block, condition: Condition, axis: str) -> tuple[DimLike, DimLike] | None:
    """The range of the axis on which the condition holds for every position of the loops inside; None if unknown."""
    expr, low, high = condition
    linear = linear_in(expr, axis)
    if linear is None or not isinstance(linear.stride, int) or axis in symbols_of((low, high)):
        return None
    inner = inner_axes(scope, region) | _axes_around(scope, axis)
    span = scope.kernel.accesses.range_of(linear.rest, inner)
    used = symbols_of((low, high, *(span or ())))
    if span is None or any(s.startswith("$") for s in used) or inner & used:
        return None
    least, most = span
    if linear.stride > 0:
        return ceildiv(low - least, linear.stride), ceildiv(high - most, linear.stride)
    step = -linear.stride
    return floordiv(most - high, step) + 1, floordiv(least - low, step) + 1


def _axes_around(scope: Scope, axis: str) -> set[str]:
    """The other axes of a vector axis's own loop, where their positions are not known yet: the nest loops over them."""
    axes = scope.kernel.accesses.axes
    return {a.name for a in axes.values() if a.loop is axes[axis].loop and a.name != axis and a.name not in scope.axes}


def _is_inside(loop: Op, region: Block) -> bool:
    block = loop.block
    while block is not None:
        if block is region:
            return True
        parent = block.parent
        block = parent.block if isinstance(parent, Op) else None
    return False


