"""The regions of a contraction as kernels of their own: packing a row, packing a panel, and the epilogue.

Each is a `k.parallel` over the axes that are outside (a row's position; the batch and a panel's first column) around
one `k.sweep`, so that loads, masks, conditions and arithmetic of the regions are emitted by the same code as everywhere
else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import cast

from onnxc.codegen.accesses import Accesses, accesses_of, dependent_values, linear_in, loop_axes
from onnxc.codegen.clone import clone_op
from onnxc.codegen.llvm.contract_form import (
    Axes,
    axes_of,
    bytes_of,
    clone_region,
    contraction_of,
    extent_of,
    group_place,
    place_of,
)
from onnxc.codegen.llvm.microkernel_bytes import GROUP, groups_of
from onnxc.codegen.llvm.target import Target
from onnxc.codegen.schedule import Schedule
from onnxc.ir.core import Attr, Block, Func, Op, Value
from onnxc.ir.dims import DimLike, sym
from onnxc.ir.types import BOOL, DType, Mem, Scalar

__all__ = [
    "FIRST", "INSIDE", "WIDTH", "Part", "byte_panel_part", "epilogue_part", "panel_part", "row_part",
    "rows_part", "score_part",
]

FIRST, INSIDE, WIDTH = "first.", "inside.", "width."
"""Of a panel, or of several rows, being packed: the first column or row, the one within it, and how many it has."""


@dataclasses.dataclass(frozen=True)
class Part:
    """A piece of a contraction as a kernel. Its last argument is a buffer: the row or panel that is written, or the row
    of sums that the epilogue reads as `totals`. `body` is what stands inside the outer axes."""

    func: Func
    accesses: Accesses
    body: Block
    sweep: Op
    arguments: dict[Value, Value]  # of the contraction's kernel -> of this one
    buffer: Value
    schedule: Schedule
    across: str  # the axis across lanes
    totals: tuple[Value, ...] = ()
    element: Block | None = None  # what the sweep stores, as a region of its own, where squares are transposed

    @property
    def vectorised(self) -> dict[Op, str]:
        """For the emitter: the sweep's axis across lanes."""
        return {self.sweep: self.across} if self.across and self.schedule.lanes > 1 else {}


Fill = Callable[[Block, Block, Value, dict[Value, Value]], None]
"""(loop body, region, buffer, values): copies the region into the body."""


def row_part(func: Func, target: Target, dot: str = "") -> Part:
    """Packs the row at a position of batch and m: its elements in the order of k, as bytes where tiles multiply
    them."""
    op = contraction_of(func)
    k, types = axes_of(op, "k"), bytes_of(op) if dot else None

    def store(block: Block, region: Block, buffer: Value, values: dict[Value, Value]) -> None:
        element = _element_of(region, block, values, types is not None)
        block.append(Op("k.store", [buffer, element], [], {"index": (place_of(k),), "where": (), "combine": None}))

    outer, given = [*axes_of(op, "batch"), *axes_of(op, "m")], types[0] if types else None
    return _part(func, op, target, outer, k, 0, extent_of(k), store, given)


def rows_part(func: Func, target: Target, chunk: int) -> Part | None:
    """Packs the `WIDTH` rows from `FIRST` of the last m axis on, at most `chunk` of them: [row][k]; for an operand
    whose elements are neighbours along that axis and not along the last of k. None for others."""
    op = contraction_of(func)
    k, m = axes_of(op, "k"), axes_of(op, "m")
    if not k or not m or any(_is_short(extent, target) for _, extent in (k[-1], m[-1])):
        return None
    name, extent = m[-1]

    def store(block: Block, region: Block, buffer: Value, values: dict[Value, Value]) -> None:
        (element,) = clone_region(region, block, {name: sym(FIRST) + sym(INSIDE)}, values)
        index = (sym(INSIDE) * extent_of(k) + place_of(k),)
        block.append(Op("k.store", [buffer, element], [], {"index": index, "where": (), "combine": None}))

    outer: Axes = [*axes_of(op, "batch"), *m[:-1], (FIRST, extent)]
    part = _part(func, op, target, outer, [*k, (INSIDE, sym(WIDTH))], 0, extent_of(k) * chunk, store)
    if part.across != INSIDE or not _is_plain(part) or 1 in _strides(part, k[-1][0]):
        return None
    return dataclasses.replace(part, element=_element(part))


def _is_short(extent: DimLike, target: Target) -> bool:
    """Whether an axis has fewer elements than a square that is transposed in registers."""
    return isinstance(extent, int) and extent < target.lanes(32)


def _element_of(region: Block, block: Block, values: dict[Value, Value], uncast: bool, **mapping: DimLike) -> Value:
    """Copies an operand's region to the end of `block`; gives its element, which `uncast` takes before the last
    cast."""
    (element,) = clone_region(region, block, mapping, values)
    if not uncast:
        return cast(Value, element)
    widening = element.op
    narrow = widening.operand(0)
    widening.erase()
    return cast(Value, narrow)


def byte_panel_part(func: Func, target: Target, columns: int, taps: Axes, depth: Axes, dot: str) -> Part:
    """Packs the `WIDTH` columns from `FIRST` on, of bytes: [taps][groups][columns][4]; what is past the end of depth
    is left as it was."""
    op = contraction_of(func)
    n, types = axes_of(op, "n"), bytes_of(op)
    assert types is not None
    groups = groups_of(extent_of(depth), dot)
    place = group_place(place_of(taps), place_of(depth), groups, columns, sym(INSIDE))

    def store(block: Block, region: Block, buffer: Value, values: dict[Value, Value]) -> None:
        element = _element_of(region, block, values, True, **{name: sym(FIRST) + sym(INSIDE) for name, _ in n})
        block.append(Op("k.store", [buffer, element], [], {"index": (place,), "where": (), "combine": None}))

    outer: Axes = [*axes_of(op, "batch"), (FIRST, extent_of(n))]
    size = extent_of(taps) * groups * (columns * GROUP)
    return _part(func, op, target, outer, [*axes_of(op, "k"), (INSIDE, sym(WIDTH))], 1, size, store, types[1])


def panel_part(func: Func, target: Target, columns: int) -> Part:
    """Packs the `WIDTH` columns from `FIRST` on: [k][columns]."""
    op = contraction_of(func)
    k, n = axes_of(op, "k"), axes_of(op, "n")
    place = place_of(k) * columns + sym(INSIDE)

    def store(block: Block, region: Block, buffer: Value, values: dict[Value, Value]) -> None:
        (element,) = clone_region(region, block, {name: sym(FIRST) + sym(INSIDE) for name, _ in n}, values)
        block.append(Op("k.store", [buffer, element], [], {"index": (place,), "where": (), "combine": None}))

    outer: Axes = [*axes_of(op, "batch"), (FIRST, extent_of(n))]
    part = _part(func, op, target, outer, [*k, (INSIDE, sym(WIDTH))], 1, extent_of(k) * columns, store)
    return dataclasses.replace(part, element=_element(part)) if _crosses(part) else part


def _crosses(part: Part) -> bool:
    """Whether the loads of a panel are contiguous along a k axis only, so that squares have to be transposed."""
    if part.across in ("", INSIDE) or not _is_plain(part):
        return False
    strides = _strides(part, part.across)
    return 1 in strides and all(s in (0, 1) for s in strides)


def _is_plain(part: Part) -> bool:
    """Whether the sweep's region is straight-line code on vectors."""
    return part.schedule.lanes > 1 and not any(op.regions for op in part.sweep.regions[0].ops)


def _strides(part: Part, axis: str) -> list[DimLike | None]:
    """How far apart neighbours along an axis are for each load; None where that varies."""
    loads = [op for op in part.sweep.regions[0].ops if op.name == "k.load"]
    return [getattr(linear_in(part.accesses.flat(op), axis), "stride", None) for op in loads]


def _element(part: Part) -> Block:
    """The sweep's region up to its store, yielding what is stored."""
    region = part.sweep.regions[0]
    block, values = Block(), {}  # type: ignore[var-annotated]
    for op in region.ops:
        if op.name == "k.store":
            block.append(Op("yield", [values.get(op.operand(1), op.operand(1))]))
        else:
            block.append(clone_op(op, values))
    return block


def epilogue_part(func: Func, target: Target, lanes: int) -> Part:
    """Consumes the sums of one row, which the emitter gives as `totals`; without an n axis there is one column,
    `INSIDE`."""
    op = contraction_of(func)
    n: Axes = axes_of(op, "n") or [(INSIDE, 1)]
    totals: list[Value] = []

    def consume(block: Block, region: Block, buffer: Value, values: dict[Value, Value]) -> None:
        load = block.append(
            Op("k.load", [buffer], [region.args[0].type], {"index": (sym(n[0][0]),), "where": (), "other": 0})
        )
        values[region.args[0]] = load.result
        totals.append(load.result)
        clone_region(region, block, values=values)

    part = _part(func, op, target, [*axes_of(op, "batch"), *axes_of(op, "m")], n, 2, extent_of(n), consume)
    across = n[0][0]
    return dataclasses.replace(part, totals=tuple(totals), across=across, schedule=Schedule(vector=across, lanes=lanes))


def score_part(func: Func, target: Target, lanes: int, region: Block | None = None) -> Part:
    """As `epilogue_part`, for a region that yields what becomes of a sum in place of storing it: the kernel's, or one
    of several sums."""
    op = contraction_of(func)
    n = axes_of(op, "n")
    totals: list[Value] = []

    def consume(block: Block, own: Block, buffer: Value, values: dict[Value, Value]) -> None:
        attrs: dict[str, Attr] = {"index": (sym(n[0][0]),), "where": (), "other": 0}
        for argument in (region or own).args:
            load = block.append(Op("k.load", [buffer], [argument.type], attrs))
            values[argument] = load.result
            totals.append(load.result)
        block.append(Op("yield", clone_region(region or own, block, values=values)))

    part = _part(func, op, target, [*axes_of(op, "batch"), *axes_of(op, "m")], n, 2, extent_of(n), consume)
    across = n[0][0]
    return dataclasses.replace(part, totals=tuple(totals), across=across, schedule=Schedule(vector=across, lanes=lanes))


def _part(func: Func, op: Op, target: Target, outer: Axes, inner: Axes, region: int, size: DimLike, fill: Fill,
          dtype: DType | None = None) -> Part:
    """`dtype` is the buffer's, the accumulator's unless given."""
    copy = Func(func.name, [a.type for a in func.args], [a.name for a in func.args], kind="kernel")
    arguments = dict(zip(func.args, copy.args, strict=True))
    buffer = copy.body.add_arg(Mem(dtype or cast(DType, op.attrs["accumulate"]), (size,)), "buffer")
    block, body = Block(), Block()
    fill(block, op.regions[region], buffer, dict(arguments))
    sweep = body.append(_loop("k.sweep", inner, block))
    copy.body.append(_loop("k.parallel", outer, body))
    accesses = Accesses(copy)
    across = _axis_across(accesses, sweep)
    lanes = _lanes(accesses, sweep, across, target) if across else 1
    return Part(copy, accesses, body, sweep, arguments, buffer, Schedule(vector=across, lanes=lanes), across)


def _loop(name: str, axes: Axes, block: Block) -> Op:
    return Op(name, (), (), {"axes": tuple(sym(n) for n, _ in axes), "extents": tuple(e for _, e in axes)}, [block])


def _axis_across(accesses: Accesses, sweep: Op) -> str:
    """The innermost axis along which all loads are of neighbours or of one element; without one, the last that is
    long."""
    axes = [(n, e) for n, e in loop_axes(sweep) if not (isinstance(e, int) and e < 4)]
    loads = [op for op in accesses_of(sweep.regions[0]) if op.name == "k.load"]
    for name, _ in reversed(axes):
        strides = [getattr(linear_in(accesses.flat(op), name), "stride", None) for op in loads]
        if strides and 1 in strides and all(s in (0, 1) for s in strides):
            return name
    return axes[-1][0] if axes else ""


def _lanes(accesses: Accesses, sweep: Op, axis: str, target: Target) -> int:
    """As many lanes as one register holds of the widest elements that vary along the axis; fewer for a short axis."""
    varying = dependent_values(sweep.regions[0], axis)
    widths = [v.type.dtype.bits for v in varying if isinstance(v.type, Scalar) and v.type.dtype != BOOL]
    lanes = target.lanes(max([8, *widths]))
    extent = dict(loop_axes(sweep))[axis]
    while isinstance(extent, int) and lanes > 1 and lanes // 2 >= extent:
        lanes //= 2
    return lanes
