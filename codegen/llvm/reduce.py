"""k.reduce, k.scan and k.iterate: folding yielded values, across loops and across lanes.

A float sum over the vector axis is kept in one partial sum a lane and added up at the end by halves: its order is
fixed by the schedule and the extent, but is not that of the loop. Everything else folds exactly.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import cast

from llvmlite import ir

from onnxc.codegen.accesses import dependent_values, element_of, ends_as_one, linear_in, loop_axes
from onnxc.codegen.llvm.abi import I1, I32, I64, KernelError
from onnxc.codegen.llvm.dims import constant, splat
from onnxc.codegen.llvm.intrinsics import intrinsic
from onnxc.codegen.llvm.loops import counted_loop
from onnxc.codegen.llvm.nests import Form, forms_for, scalar_nest, vector_axis, vector_nest
from onnxc.codegen.llvm.registers import Element, const
from onnxc.codegen.llvm.scope import Scope
from onnxc.ir.core import Op, Value
from onnxc.ir.dims import DimLike, provably_nonneg
from onnxc.ir.types import BOOL, DType, Scalar
from onnxc.ir.types import I64 as INDEX
from onnxc.ops.kernel import ARG_KINDS

__all__ = ["combine", "emit_iterate", "emit_reduce", "emit_scan", "identity", "reduce_together"]

_LAST = (1 << 63) - 1


def combine(scope: Scope, kind: str, a: Element, b: Element) -> Element:
    """`a` folded with `b`; max and min give NaN when either is."""
    if kind in ("and", "or"):
        name = kind if a.dtype == BOOL else f"bit_{kind}"
    else:
        name = {"add": "add", "mul": "mul", "max": "max", "min": "min"}[kind]
        if a.dtype == BOOL:
            name = {"add": "or", "mul": "and", "max": "or", "min": "and"}[kind]
    return scope.scalars.apply(name, [a, b])


def identity(kind: str, dtype: DType) -> Element:
    """What changes nothing when folded in."""
    if kind in ("add", "or"):
        return const(0, dtype)
    if kind == "mul":
        return const(1, dtype)
    if kind == "and":
        return const(True, dtype) if dtype == BOOL else const(-1, dtype)
    return const(_least(dtype) if kind.startswith(("max", "argmax")) else _greatest(dtype), dtype)


def _least(dtype: DType) -> float:
    if dtype.is_float:
        return -math.inf
    return -(1 << (dtype.bits - 1)) if dtype.kind == "int" else 0


def _greatest(dtype: DType) -> float:
    if dtype.is_float:
        return math.inf
    return 1 if dtype == BOOL else (1 << (dtype.bits - (dtype.kind == "int"))) - 1


@dataclasses.dataclass(frozen=True)
class _Folder:
    """How one kind folds, in an accumulator of one or two parts a lane.

    An arg kind has a key and a position. A float max or min has the extreme of what is a number, and whether there was
    a NaN: two short independent chains, where a NaN that travels through the comparison makes one long one."""

    kind: str
    dtype: DType
    in_order: bool = False              # positions only grow, so that a strict comparison keeps the first

    @property
    def takes(self) -> list[DType]:
        """Types of the yielded values that it folds, and of its results."""
        return [self.dtype, INDEX] if self.kind in ARG_KINDS else [self.dtype]

    @property
    def parts(self) -> list[DType]:
        """Types of the accumulator's parts."""
        return [self.dtype, BOOL] if self._splits_nan else self.takes

    @property
    def _splits_nan(self) -> bool:
        return self.dtype.is_float and self.kind in ("max", "min")

    def start(self, lanes: int) -> list[ir.Value]:
        """What an accumulator of so many lanes holds before the first element."""
        values = [identity(self.kind, self.dtype).value]
        if self.kind in ARG_KINDS:
            values.append(ir.Constant(I64, self.sentinel))
        if self._splits_nan:
            values.append(const(False, BOOL).value)
        return [_repeat(v, lanes) for v in values]

    @property
    def sentinel(self) -> int:
        """The position that no element has: it loses against every other."""
        return -1 if self.kind.endswith("_last") else _LAST

    def lift(self, scope: Scope, given: Sequence[ir.Value]) -> list[ir.Value]:
        """The accumulator that stands for one element."""
        if not self._splits_nan:
            return list(given)
        element = Element(given[0], self.dtype)
        return [given[0], scope.scalars.apply("ne", [element, element]).value]

    def fold(self, scope: Scope, a: Sequence[ir.Value], b: Sequence[ir.Value],
             in_order: bool = False) -> list[ir.Value]:
        """Accumulator `a` with `b` folded in; `in_order`: b stands behind all that is in a."""
        if self.kind in ARG_KINDS:
            wins = self._wins(scope, a, b, in_order)
            return [scope.scalars.select(wins, y, x) for x, y in zip(a, b, strict=True)]
        if self._splits_nan:
            better = scope.scalars.apply("gt" if self.kind == "max" else "lt", [Element(b[0], self.dtype),
                                                                               Element(a[0], self.dtype)])
            return [scope.builder.select(better.value, b[0], a[0]), scope.builder.or_(a[1], b[1])]
        return [combine(scope, self.kind, Element(a[0], self.dtype), Element(b[0], self.dtype)).value]

    def finish(self, scope: Scope, parts: Sequence[ir.Value]) -> list[ir.Value]:
        """The results that an accumulator stands for."""
        if not self._splits_nan:
            return list(parts)
        nan = _repeat(const(math.nan, self.dtype).value, _lane_count(parts[0]))
        return [scope.builder.select(parts[1], nan, parts[0])]

    def _wins(self, scope: Scope, a: Sequence[ir.Value], b: Sequence[ir.Value], in_order: bool) -> ir.Value:
        """Whether (key, position) b replaces a."""
        s, last = scope.scalars, self.kind.endswith("_last")
        old, new = Element(a[0], self.dtype), Element(b[0], self.dtype)
        better = s.apply("gt" if "max" in self.kind else "lt", [new, old])
        equal = s.apply("eq", [new, old])
        if self.dtype.is_float:
            nan, was_nan = s.apply("ne", [new, new]), s.apply("ne", [old, old])
            better = s.apply("or", [better, s.apply("and", [nan, s.apply("not", [was_nan])])])
            equal = s.apply("or", [equal, s.apply("and", [nan, was_nan])])
        if in_order:
            return s.apply("or", [better, equal]).value if last else better.value
        sooner = s.apply("gt" if last else "lt", [Element(b[1], INDEX), Element(a[1], INDEX)])
        return s.apply("or", [better, s.apply("and", [equal, sooner])]).value

    def narrow(self, scope: Scope, values: Sequence[ir.Value], lanes: int) -> list[ir.Value]:
        """The values folded by halves until `lanes` lanes are left."""
        while _lane_count(values[0]) > lanes:
            low, high = zip(*(_halves(scope.builder, v) for v in values), strict=True)
            values = self.fold(scope, low, high)
        return list(values)


def _repeat(value: ir.Constant, lanes: int) -> ir.Constant:
    return value if lanes == 1 else ir.Constant(ir.VectorType(value.type, lanes), [value] * lanes)


def _halves(b: ir.IRBuilder, v: ir.Value) -> tuple[ir.Value, ir.Value]:
    return _half(b, v, 0), _half(b, v, v.type.count // 2)


def _half(b: ir.IRBuilder, v: ir.Value, start: int) -> ir.Value:
    """The lanes of one half of a vector, from `start` on."""
    lanes = v.type.count // 2
    if lanes == 1:
        return b.extract_element(v, constant(start, I32))
    order = ir.Constant(ir.VectorType(I32, lanes), [ir.Constant(I32, start + i) for i in range(lanes)])
    return b.shuffle_vector(v, ir.Constant(v.type, ir.Undefined), order)


# ---- k.reduce --------------------------------------------------------------------------------------------------------

def emit_reduce(scope: Scope, op: Op) -> list[Element]:
    """The results of a k.reduce: scalars, or vectors where every lane folds on its own."""
    folders = _folders(scope, op)
    axis = scope.kernel.vectorised.get(op)
    if axis is not None and scope.lanes == 1:
        values = _fold_lanes(scope, op, folders, axis)
    else:
        (values,) = _fold_each([scope], op, folders)
    return _elements(values, folders)


def reduce_together(scopes: Sequence[Scope], op: Op) -> list[list[Element]]:
    """The results of a k.reduce at several outer points, whose loops run as one: what the points share is loaded
    once."""
    folders = _folders(scopes[0], op)
    return [_elements(values, folders) for values in _fold_each(scopes, op, folders)]


def _elements(values: list[ir.Value], folders: list[_Folder]) -> list[Element]:
    return [Element(v, d) for v, d in zip(values, (d for f in folders for d in f.takes), strict=True)]


def _folders(scope: Scope, op: Op) -> list[_Folder]:
    types = [element_of(v) for v in op.regions[0].terminator.inputs]
    folders, at = [], 0
    for kind in cast("tuple[str, ...]", op.attrs["kinds"]):
        folders.append(_Folder(kind, types[at], kind in ARG_KINDS and _grows(op, at + 1)))
        at += len(folders[-1].takes)
    return folders


def _grows(op: Op, i: int) -> bool:
    """Whether the i-th yielded value is a position along the reduce's only axis."""
    made_by = op.regions[0].terminator.inputs[i].op
    axes = loop_axes(op)
    if len(axes) != 1 or made_by is None or made_by.name != "k.index" or made_by.operands:
        return False
    linear = linear_in(made_by.attrs["expr"], axes[0][0])  # type: ignore[arg-type]
    return linear is not None and linear.stride != 0 and provably_nonneg(linear.stride)


def _fold_lanes(scope: Scope, op: Op, folders: list[_Folder], axis: str) -> list[ir.Value]:
    """The reduce's own axis is across lanes: partial results a lane, folded at the end."""
    region = op.regions[0]
    extents = dict(loop_axes(op))
    outer = [(n, e) for n, e in extents.items() if n != axis]
    forms = forms_for(scope, region, axis, extents[axis])
    vector = vector_axis(scope, region, axis, ir.Constant(I64, 0), scope.dim(extents[axis]))

    def body(form: Form, inner: Scope, carried: list[ir.Value]) -> list[ir.Value]:
        given = [splat(inner.builder, e.value, form.lanes) for e in scope.kernel.block(inner, region)]
        folded = _fold_all(inner, folders, carried, given)
        if inner.mask is None:
            return folded
        return [inner.builder.select(inner.mask, new, old) for new, old in zip(folded, carried, strict=True)]

    starts = [[v for f in folders for v in f.start(form.lanes)] for form in forms]
    finals = vector_nest(scope, outer, vector, forms, starts, body)
    return _merge(scope, op, folders, finals)


def _fold_all(scope: Scope, folders: list[_Folder], carried: list[ir.Value], given: list[ir.Value]) -> list[ir.Value]:
    out: list[ir.Value] = []
    at = taken = 0
    for f in folders:
        element = f.lift(scope, given[taken:taken + len(f.takes)])
        out += f.fold(scope, carried[at:at + len(f.parts)], element, f.in_order)
        at, taken = at + len(f.parts), taken + len(f.takes)
    return out


def _merge(scope: Scope, op: Op, folders: list[_Folder], finals: list[list[ir.Value]]) -> list[ir.Value]:
    """The forms' accumulators folded into one element each: wide ones are halved until the next form's fits."""
    out: list[ir.Value] = []
    at = taken = 0
    for f in folders:
        n = len(f.parts)
        total = finals[0][at:at + n] if finals else f.start(1)
        for values in finals[1:]:
            total = f.narrow(scope, total, _lane_count(values[at]))
            total = f.fold(scope, total, values[at:at + n])
        out += _settle(scope, op, f, f.narrow(scope, total, 1), taken)
        at, taken = at + n, taken + len(f.takes)
    return out


def _lane_count(value: ir.Value) -> int:
    return value.type.count if isinstance(value.type, ir.VectorType) else 1


def _settle(scope: Scope, op: Op, f: _Folder, total: list[ir.Value], at: int) -> list[ir.Value]:
    """The results of a fold whose first yielded value is number `at`. A position that no element won is one where all
    keys were the worst there is (then the first is at the start), or where there was no element (then it is 0)."""
    if f.kind not in ARG_KINDS:
        return f.finish(scope, total)
    b = scope.builder
    first: ir.Value = ir.Constant(I64, 0)
    if f.in_order and not f.kind.endswith("_last"):
        position = op.regions[0].terminator.inputs[at + 1].op
        assert position is not None                     # or it would not be known to grow
        (axis, extent), = loop_axes(op)
        at_start = scope.within(axes={axis: ir.Constant(I64, 0)}).dim(cast("DimLike", position.attrs["expr"]))
        first = b.select(b.icmp_signed(">", scope.dim(extent), ir.Constant(I64, 0)), at_start, first)
    unset = b.icmp_signed("==", total[1], constant(f.sentinel, total[1].type))
    return [total[0], b.select(unset, splat(b, first, _lane_count(total[1])), total[1])]


def _fold_each(scopes: Sequence[Scope], op: Op, folders: list[_Folder]) -> list[list[ir.Value]]:
    """Plain loops, for each of the scopes; where lanes are another axis's, every lane folds on its own."""
    region, axes = op.regions[0], loop_axes(op)
    lanes = _lanes_of(scopes[0], op, region.terminator.inputs)
    start = [v for f in folders for v in f.start(lanes)]

    def body(inner: Scope, carried: list[ir.Value]) -> list[ir.Value]:
        position = {name: inner.axes[name] for name, _ in axes}
        out: list[ir.Value] = []
        for i, scope in enumerate(scopes):
            elements = scope.kernel.block(scope.within(axes=position), region)
            given = [splat(inner.builder, e.value, lanes) for e in elements]
            out += _fold_all(inner, folders, carried[i * len(start):(i + 1) * len(start)], given)
        return out

    totals = scalar_nest(scopes[0], axes, start * len(scopes), body)
    return [_finished(scope, op, folders, totals[i * len(start):(i + 1) * len(start)])
            for i, scope in enumerate(scopes)]


def _finished(scope: Scope, op: Op, folders: list[_Folder], totals: list[ir.Value]) -> list[ir.Value]:
    out: list[ir.Value] = []
    at = taken = 0
    for f in folders:
        out += _settle(scope, op, f, totals[at:at + len(f.parts)], taken)
        at, taken = at + len(f.parts), taken + len(f.takes)
    return out


def _lanes_of(scope: Scope, op: Op, yielded: Sequence[Value]) -> int:
    """How many lanes the yielded values have: those of the scope when any of them depends on its vector axis."""
    if scope.lanes == 1:
        return 1
    varying = _varying(scope, op)
    return scope.lanes if any(v in varying for v in yielded) else 1


def _varying(scope: Scope, op: Op) -> set[Value]:
    axis = scope.kernel.accesses.axes[scope.axis]
    found: set[Value] = set()
    for region in axis.loop.regions:
        found |= dependent_values(region, scope.axis)
    return found


# ---- k.scan ----------------------------------------------------------------------------------------------------------

def emit_scan(scope: Scope, op: Op) -> None:
    """A k.scan: its axis in order, one running value (one a lane where lanes are another axis's)."""
    given_by, used_by = op.regions
    (axis, extent), = loop_axes(op)
    (yielded,) = given_by.terminator.inputs
    assert isinstance(yielded.type, Scalar)
    dtype, kind = yielded.type.dtype, op.attrs["kind"]
    if not isinstance(kind, str) or kind in ARG_KINDS:
        raise KernelError(f"k.scan of kind {kind!r}: expected add, mul, max, min, and, or")
    lanes = _lanes_of(scope, op, [yielded])

    def iteration(_: ir.IRBuilder, index: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
        inner = scope.within(axes={axis: index})
        (value,) = scope.kernel.block(inner, given_by)
        before = Element(carried[0], dtype)
        after = Element(splat(inner.builder, combine(inner, kind, before, value).value, lanes), dtype)
        running = before if op.attrs["exclusive"] else after
        scope.kernel.block(inner.within(values={used_by.args[0]: running}), used_by)
        return [after.value]

    start = _repeat(identity(kind, dtype).value, lanes)
    counted_loop(scope.builder, axis, ir.Constant(I64, 0), scope.dim(extent), 1, [start], iteration)


# ---- k.iterate -------------------------------------------------------------------------------------------------------

def emit_iterate(scope: Scope, op: Op) -> list[Element]:
    """A k.iterate: a counted loop whose carried values are vectors where any of them differs from lane to lane. One
    that may end early goes on until it has ended in all lanes; those where it has keep their values and do nothing."""
    region = op.regions[0]
    (axis, extent), = loop_axes(op)
    types = [element_of(v) for v in region.args]
    lanes = _lanes_of(scope, op, region.args)
    conditional = bool(op.attrs["conditional"])
    apart = conditional and lanes > 1
    if apart and ends_as_one(op):
        raise KernelError(f"kernel @{scope.kernel.func.name}: a k.iterate that stores and may end early cannot run "
                          "across lanes")

    def iteration(b: ir.IRBuilder, index: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
        given = {v: Element(x, t) for v, x, t in zip(region.args, carried, types, strict=True)}
        mask = scope.mask if not apart else carried[0] if scope.mask is None else b.and_(scope.mask, carried[0])
        yielded = scope.kernel.block(scope.within(axes={axis: index}, values=given, mask=mask), region)
        new = [splat(b, e.value, lanes) for e in yielded]
        return [b.select(mask, x, old) for x, old in zip(new, carried, strict=True)] if apart else new

    def goes_on(values: Sequence[ir.Value]) -> ir.Value:
        return _in_any_lane(scope, values[0]) if apart else values[0]

    starts = [splat(scope.builder, scope.values[v].value, lanes) for v in op.inputs]
    if apart and scope.mask is not None:
        starts[0] = scope.builder.and_(scope.mask, starts[0])
    finals = counted_loop(scope.builder, axis, ir.Constant(I64, 0), scope.dim(extent), 1, starts, iteration,
                          goes_on if conditional else None)
    return [Element(v, t) for v, t, _ in zip(finals, types, op.results, strict=False)]


def _in_any_lane(scope: Scope, flags: ir.Value) -> ir.Value:
    """Whether a vector of i1 holds anywhere."""
    function = intrinsic(scope.builder.module, "llvm.vector.reduce.or", [flags.type], I1, [flags.type])
    return scope.builder.call(function, [flags])
