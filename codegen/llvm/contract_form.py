"""The normal form of a contraction kernel: what its emitter, its schedule and the packing of its operands agree on.

In normal form memory is flat, axes of extent 1 are gone, axes that run over memory as one are merged, batch axes that
one operand does not depend on belong to the other's own axes, the k axes end with the one along which the left operand
is contiguous, there is at most one n axis, and the result is stored contiguously along n where any order of the
operands makes it so. The form is an equal kernel, so it prints, parses and runs like every other.

Owns no target: how wide a panel is, is the schedule's.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import cast

from onnxc.codegen.accesses import Accesses, Condition, linear_in, recombine
from onnxc.codegen.clone import clone_func, clone_op
from onnxc.codegen.collapse import merge_condition, merge_index
from onnxc.codegen.llvm.microkernel_bytes import GROUP
from onnxc.codegen.winograd import TAPS
from onnxc.ir.core import Attr, Block, Func, Op
from onnxc.ir.dims import (
    Bounds,
    Dim,
    DimLike,
    ceildiv,
    floordiv,
    mod,
    product,
    provably_less,
    provably_nonneg,
    simplify,
    substitute,
    sym,
    symbols_of,
)
from onnxc.ir.types import I8, I32, U8, DType, Mem, Scalar

__all__ = [
    "Axes",
    "NORMAL",
    "SHORTEST_DEPTH",
    "axes_of",
    "bytes_of",
    "clone_region",
    "contraction_of",
    "extent_of",
    "flat_form",
    "group_place",
    "normal_form",
    "place_of",
    "rows_of",
    "signs_of",
    "store_of",
    "winograd_of",
]

Axes = list[tuple[str, DimLike]]
GROUPS = ("batch", "m", "n", "k")
_SEEN_BY = (("batch", "m", "k"), ("batch", "n", "k"), ("batch", "m", "n"))
_SWAPPED = {"batch": "batch", "m": "n", "n": "m", "k": "k"}

# An axis of at least this many columns is cut into panels by itself, though its last panel may stay half empty: next to
# other axes its positions would have to be computed by division, and results scattered where it ends.
_FILLS_PANELS = 64

SHORTEST_DEPTH = 8
"""A tap of fewer steps than this spends more on its row pointers than on its products, and a packed row has no taps."""

NORMAL = "normal"
"""The attribute that marks a kernel in normal form."""


def contraction_of(func: Func) -> Op:
    """The k.contract of a contraction kernel."""
    return next(op for op in func.body.ops if op.name == "k.contract")


def axes_of(op: Op, group: str) -> Axes:
    """The (name, extent) pairs of one of the op's four lists."""
    pairs = cast("tuple[tuple[Dim, DimLike], ...]", op.attrs[group])
    return [(str(axis), extent) for axis, extent in pairs]


def bytes_of(op: Op) -> tuple[DType, DType] | None:
    """The types of 8-bit integers that both operands of a sum in i32 are cast from; None where they are not."""
    out = []
    for region in op.regions[:2]:
        cast_op = region.terminator.operand(0).op
        if cast_op is None or cast_op.name != "s.cast" or cast_op.block is not region:
            return None
        source = cast_op.operand(0).type
        if not isinstance(source, Scalar) or source.dtype not in (U8, I8) or op.attrs["accumulate"] != I32:
            return None
        out.append(source.dtype)
    return out[0], out[1]


def signs_of(types: tuple[DType, DType]) -> str:
    """ "u" or "s" for either operand."""
    return "".join("s" if t.is_signed else "u" for t in types)


def group_place(tap: DimLike, step: DimLike, groups: DimLike, columns: int, column: DimLike) -> DimLike:
    """Where a panel of bytes holds a step of a tap of `groups` groups: [taps][groups][columns][4]."""
    return ((tap * groups + floordiv(step, GROUP)) * columns + column) * GROUP + mod(step, GROUP)


def extent_of(axes: Axes) -> DimLike:
    """How many points the axes have together."""
    return product(e for _, e in axes)


def place_of(axes: Axes) -> DimLike:
    """The position among all points of the axes, row-major, as a dim over their symbols."""
    place: DimLike = 0
    for name, extent in axes:
        place = place * extent + sym(name)
    return place


def winograd_of(op: Op) -> list[tuple[str, str]]:
    """The (m axis, k axis) pairs along which the sum is Winograd's."""
    pairs = cast("tuple[tuple[Dim, Dim], ...]", op.attrs["winograd"])
    return [(str(row), str(tap)) for row, tap in pairs]


def rows_of(op: Op) -> Axes:
    """The axes of the rows that tiles are made of, in the order of m: m itself, or Winograd's tiles."""
    sizes = {row: cast(int, dict(axes_of(op, "k"))[tap]) - TAPS + 1 for row, tap in winograd_of(op)}
    return [(name, ceildiv(extent, sizes[name]) if name in sizes else extent) for name, extent in axes_of(op, "m")]


def store_of(op: Op) -> Op | None:
    """The epilogue's first store."""
    return next((s for s in op.regions[2].ops if s.name == "k.store"), None)


def normal_form(func: Func) -> Func:
    """A kernel equal to `func`, whose body is a k.contract, in normal form; `func` itself when it is in it already."""
    if func.attrs.get(NORMAL) or winograd_of(contraction_of(func)):  # Winograd's sums are made of the normal form
        return func
    return _Form(func).rewritten()


def flat_form(func: Func) -> Func:
    """A kernel equal to `func` whose memory is flat; its axes stay in their groups and in their order, but for those of
    extent 1, which go."""
    form = _Form(func)
    form.drop_single()
    form.simplify()
    return form.build()


@dataclasses.dataclass
class _Indexed:
    """What an op computes from axes: the flat index of an access, or the expression of a k.index, and its
    conditions."""

    index: DimLike
    where: list[Condition]


class _Form:
    """The contraction's axes and everything that is computed from them, while both change."""

    def __init__(self, func: Func) -> None:
        self.func, self.op = func, contraction_of(func)
        self.groups: dict[str, Axes] = {g: axes_of(self.op, g) for g in GROUPS}
        self.order = (0, 1)
        accesses = Accesses(func)
        self.taken = set(accesses.axes) | symbols_of(
            d for a in func.args if isinstance(a.type, Mem) for d in a.type.shape
        )
        self.inner = [op for op in self.op.walk() if op is not self.op and ("axes" in op.attrs or "axis" in op.attrs)]
        self.inner_bounds = {n: a.extent - 1 for n, a in accesses.axes.items() if a.loop is not self.op}
        self.ops: dict[Op, _Indexed] = {}
        for op in self.op.walk():
            if op.name in ("k.load", "k.store"):
                self.ops[op] = _Indexed(accesses.flat(op), list(op.attrs["where"]))  # type: ignore[arg-type]
            elif op.name == "k.index":
                self.ops[op] = _Indexed(op.attrs["expr"], [])  # type: ignore[arg-type]

    def rewritten(self) -> Func:
        self.drop_single()
        self.share_batch()
        if self.wants_swap():
            self.swap()
        self.order_k()
        for group in GROUPS:
            while any(self.merge(group, a, b) for a, b in itertools.permutations(self.groups[group], 2)):
                pass
        self.flatten_n()
        self.simplify()
        return self.build()

    # ---- steps -------------------------------------------------------------------------------------------------------

    def drop_single(self) -> None:
        for group, axes in self.groups.items():
            self.substitute({n: 0 for n, e in axes if e == 1})
            self.groups[group] = [(n, e) for n, e in axes if e != 1]

    def share_batch(self) -> None:
        """A batch axis that only one operand sees is an axis of that operand's own."""
        for name, extent in list(self.groups["batch"]):
            sees = [self.depends(i, name) for i in (0, 1)]
            if not all(sees):
                self.groups["batch"].remove((name, extent))
                own = self.groups["n" if sees[1] else "m"]
                own.insert(0, (name, extent))

    def depends(self, region: int, name: str) -> bool:
        found = [x for op, x in self.ops.items() if self.region_of(op) == region]
        return any(name in symbols_of([x.index, *(d for c in x.where for d in c)]) for x in found)

    def region_of(self, op: Op) -> int:
        block = op.block
        while block is not None and isinstance(block.parent, Op) and block.parent is not self.op:
            block = block.parent.block
        return next(i for i, region in enumerate(self.op.regions) if region is block)

    def wants_swap(self) -> bool:
        """Whether the result lies contiguous along an axis of the left operand only."""
        store = store_of(self.op)
        return store is not None and not self.unit_axes(store, "n") and bool(self.unit_axes(store, "m"))

    def unit_axes(self, access: Op, group: str) -> list[str]:
        """The axes along which an access moves from neighbour to neighbour."""
        out = []
        for name, _ in self.groups[group]:
            linear = linear_in(self.ops[access].index, name)
            if linear is not None and linear.stride == 1:
                out.append(name)
        return out

    def swap(self) -> None:
        self.groups = {_SWAPPED[g]: axes for g, axes in self.groups.items()}
        self.order = (self.order[1], self.order[0])

    def order_k(self) -> None:
        """Puts the k axes in the order in which the left operand lies in memory, as far as that is plain to see: from
        the last one back, the axis that moves as far as the axes behind it are long together."""
        loads = [op for op in self.ops if op.name == "k.load" and self.region_of(op) == self.order[0]]
        if len(loads) != 1:
            return
        rest, step = list(self.groups["k"]), cast("DimLike", 1)
        ordered: Axes = []
        while rest:
            fitting = [a for a in rest if self.stride(loads[0], a[0]) == step]
            if not fitting:
                break
            rest.remove(fitting[-1])
            ordered.insert(0, fitting[-1])
            step = step * fitting[-1][1]
        self.groups["k"] = rest + ordered

    def stride(self, access: Op, name: str) -> DimLike | None:
        linear = linear_in(self.ops[access].index, name)
        return None if linear is None else linear.stride

    def merge(self, group: str, outer: tuple[str, DimLike], inner: tuple[str, DimLike]) -> bool:
        """Merge two axes of a group if every access allows it."""
        (a, _), (b, extent) = outer, inner
        if {a, b} & symbols_of(self.inner_extents()) or (group == "k" and self.is_tap(a, extent)):
            return False
        name = self.fresh(f"{a}{b}")
        after = {op: self.merged(x, a, b, extent, name) for op, x in self.ops.items()}
        if any(x is None for x in after.values()):
            return False
        self.ops = {op: x for op, x in after.items() if x is not None}
        axes = [x for x in self.groups[group] if x[0] != a]
        self.groups[group] = [(name, outer[1] * extent) if n == b else (n, e) for n, e in axes]
        return True

    def is_tap(self, name: str, depth: DimLike) -> bool:
        """Whether a k axis is a window's tap in front of `depth` elements that are worth a row pointer: one that
        padding depends on, or along which windows overlap."""
        if isinstance(depth, int) and depth < SHORTEST_DEPTH:
            return False
        for op, x in self.ops.items():
            if op.name != "k.load" or self.region_of(op) != self.order[0]:
                continue
            step = self.stride(op, name)
            overlaps = isinstance(step, int) and any(self.stride(op, row) == step != 0 for row, _ in self.groups["m"])
            if overlaps or name in symbols_of([d for condition in x.where for d in condition]):
                return True
        return False

    def merged(self, x: _Indexed, a: str, b: str, extent: DimLike, name: str) -> _Indexed | None:
        index = merge_index(x.index, a, b, extent, name)
        where = [merge_condition(c, a, b, extent, name) for c in x.where]
        if index is None or any(c is None for c in where):
            return None
        return _Indexed(index, [c for c in where if c is not None])

    def inner_extents(self) -> list[DimLike]:
        out: list[DimLike] = []
        for loop in self.inner:
            given = loop.attrs.get("extents", (loop.attrs.get("extent"),))
            out.extend(given)  # type: ignore[arg-type]
        return out

    def fresh(self, stem: str) -> str:
        while stem in self.taken:
            stem += "_"
        self.taken.add(stem)
        return stem

    def flatten_n(self) -> None:
        """Several n axes become one: a panel has to have one direction. The others join the batch where the innermost
        fills panels alone; else all become digits of one."""
        axes = self.groups["n"]
        if len(axes) < 2:
            return
        store = store_of(self.op)
        last = self.unit_axes(store, "n") if store is not None else []
        axes = [a for a in axes if a[0] not in last[-1:]] + [a for a in axes if a[0] in last[-1:]]
        if not isinstance(axes[-1][1], int) or axes[-1][1] >= _FILLS_PANELS:
            self.groups["batch"] += axes[:-1]
            self.groups["n"] = axes[-1:]
            return
        name, extent = self.fresh("n"), extent_of(axes)
        digits: dict[str, DimLike] = {}
        rest: DimLike = sym(name)
        for axis, size in reversed(axes[1:]):
            digits[axis], rest = mod(rest, size), floordiv(rest, size)
        digits[axes[0][0]] = rest
        self.substitute(digits)
        self.groups["n"] = [(name, extent)]

    def substitute(self, mapping: dict[str, DimLike]) -> None:
        if mapping:
            for x in self.ops.values():
                x.index = substitute(x.index, mapping)
                x.where = [tuple(substitute(d, mapping) for d in c) for c in x.where]  # type: ignore[misc]

    def simplify(self) -> None:
        upper = {n: e - 1 for axes in self.groups.values() for n, e in axes} | self.inner_bounds
        positive = {s for axes in self.groups.values() for _, e in axes for s in _factors(e)}
        bounds = Bounds(upper, positive)
        for x in self.ops.values():
            x.index = recombine(simplify(x.index, bounds))
            kept = []
            for expr, low, high in x.where:
                expr = simplify(expr, bounds)
                if not (provably_nonneg(expr - low, bounds) and provably_less(expr, high, bounds)):
                    kept.append((expr, low, high))
            x.where = kept

    # ---- the kernel --------------------------------------------------------------------------------------------------

    def build(self) -> Func:
        copy = clone_func(self.func, self.attrs)
        for argument in copy.args:
            if isinstance(argument.type, Mem):
                argument.type = Mem(argument.type.dtype, (argument.type.size,))
        op = contraction_of(copy)
        if self.order != (0, 1):
            first, second, last = op.regions
            op.regions[:] = [second, first, last]
        copy.attrs[NORMAL] = True
        return copy

    def attrs(self, op: Op) -> dict[str, Attr]:
        new = dict(op.attrs)
        if op is self.op:
            for group, axes in self.groups.items():
                new[group] = tuple((sym(n), e) for n, e in axes)
        elif op in self.ops and op.name == "k.index":
            new["expr"] = self.ops[op].index
        elif op in self.ops:
            new["index"] = (self.ops[op].index,)
            new["where"] = tuple(tuple(c) for c in self.ops[op].where)
        return new


def _factors(extent: DimLike) -> set[str]:
    """The symbols that are at least 1 wherever an axis of this extent has a point."""
    if isinstance(extent, int) or len(extent.terms) != 1:
        return set()
    return {atom for atom in extent.terms[0][0] if isinstance(atom, str)}


def clone_region(
    region: Block, target: Block, substitution: dict[str, DimLike] | None = None, values: dict | None = None
) -> Sequence:
    """Copies a region's ops, but its yield, to the end of `target`; gives what it yields. Axes may be substituted."""
    values = {} if values is None else values
    mapping = substitution or {}

    def attrs(op: Op) -> dict[str, Attr]:
        return {k: _substituted(v, mapping) for k, v in op.attrs.items()} if mapping else dict(op.attrs)

    for op in region.ops:
        if op.name == "yield":
            return [values.get(v, v) for v in op.inputs]
        target.append(clone_op(op, values, attrs))
    return []


def _substituted(value: Attr, mapping: dict[str, DimLike]) -> Attr:
    if isinstance(value, tuple):
        return tuple(_substituted(v, mapping) for v in value)
    if isinstance(value, Dim):
        return substitute(value, mapping)
    return value
