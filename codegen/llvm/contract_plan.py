"""How the operands of a contraction in normal form are read: in place where the engine can, packed where it cannot.

The engine wants the left operand as rows that are contiguous along the depth of each tap, and the right one as panels
whose rows are contiguous. `rows_in_place` and `panels_in_place` find both in a kernel's accesses, and what they do not
find is packed into scratch as the job goes (`contract_pack`).
"""

from __future__ import annotations

import dataclasses
from typing import cast

from onnxc.codegen.accesses import Accesses, Condition, linear_in
from onnxc.codegen.llvm.contract_form import (
    SHORTEST_DEPTH,
    Axes,
    axes_of,
    bytes_of,
    contraction_of,
    extent_of,
    place_of,
    rows_of,
)
from onnxc.codegen.llvm.microkernel import BLOCK_ROWS, STEPS
from onnxc.codegen.llvm.microkernel_bytes import GROUP, groups_of
from onnxc.codegen.llvm.narrow import code_index, group_of, narrow_operand, parameter_index, stored_type
from onnxc.ir.core import Block, Func, Op, Value
from onnxc.ir.dims import Bounds, DimLike, floordiv, mod, simplify, substitute, sym, symbols_of
from onnxc.ir.types import I8, U8, DType, Mem

__all__ = ["COLUMN", "NarrowPanels", "Panels", "Plan", "Rows", "Shared", "group_index", "plan_of", "shared_axis",
           "single_load"]


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of the left operand in place: element `index` (over batch, m and tap axes) is the first of a tap's depth;
    where a condition fails the tap reads `fill`, which only rows of bytes have other than 0."""

    memory: Value
    index: DimLike
    where: tuple[Condition, ...]
    fill: int = 0


@dataclasses.dataclass(frozen=True)
class Shared:
    """A batch axis along which rows lie `stride` elements apart: all of its positions share one table of pointers."""

    axis: str
    extent: int
    stride: int


@dataclasses.dataclass(frozen=True)
class Panels:
    """Panels of the right operand in place: element `index` (over batch axes and the panel's first column, `COLUMN`) is
    step 0 of tap 0; strides count elements. Of panels of bytes a row is a group of steps."""

    memory: Value
    index: DimLike
    row_stride: DimLike
    tap_stride: DimLike


@dataclasses.dataclass(frozen=True)
class NarrowPanels:
    """Panels of narrow weights (`narrow`): codes, and where there are any scales and zero points that `block` steps
    share."""

    codes: Value
    scales: Value | None
    zeros: Value | None
    block: int


COLUMN = "column."


@dataclasses.dataclass(frozen=True)
class Plan:
    """A contraction's axes, with those of k split into taps and the depth of each, how its operands are read (None:
    packed), and how many rows tiles are made of. Where `copied` is given, rows are read in place only to be copied one
    behind the other, a piece for each position of these axes."""

    batch: Axes
    m: Axes
    n: Axes
    k: Axes
    taps: Axes
    depth: Axes
    rows: Rows | None
    panels: Panels | None
    height: DimLike
    narrow: NarrowPanels | None = None
    copied: Axes | None = None

    @property
    def columns(self) -> DimLike:
        return extent_of(self.n)


def plan_of(func: Func, columns: int, lanes: int, dot: str = "") -> Plan:
    """The plan for a kernel in normal form and panels of `columns` columns in vectors of `lanes`; `dot` says how tiles
    multiply bytes."""
    op = contraction_of(func)
    accesses = Accesses(func)
    batch, m, n, k = (axes_of(op, g) for g in ("batch", "m", "n", "k"))
    accumulate = cast(DType, op.attrs["accumulate"])
    left, right = (bytes_of(op) if dot else None) or (accumulate, accumulate)
    rows, split = _rows_in_place(op, accesses, k, left)
    taps, depth = k[:split], k[split:]
    copied: Axes | None = None
    if dot == "amx":
        if rows is not None and not _are_at_one_stride(rows, m, taps, depth):
            copied = taps
        taps, depth = [], k
    if dot:
        panels = _groups_in_place(op, n, taps, depth, columns, right, dot)
    else:
        panels = _panels_in_place(op, accesses, n, taps, depth, columns, lanes)
    narrow = _narrow_in_place(func, n, k, columns) if panels is None and not dot else None
    return Plan(batch, m, n, k, taps, depth, rows, panels, extent_of(rows_of(op)), narrow, copied)


# Up to so many products of a row and tap take no more than a few times as long as a pointer takes to make.
_FEW_PRODUCTS = 4096


def shared_axis(plan: Plan, columns: int) -> Shared | None:
    """The batch axis of a convolution of small groups, whose pointers would take as long as its products if each group
    made its own; None where panels of `columns` would reach from group to group."""
    depth, width = extent_of(plan.depth), plan.columns
    if plan.rows is None or plan.copied is not None or not plan.taps or not plan.batch:
        return None
    if not isinstance(depth, int) or not isinstance(width, int) or width % columns or depth * width > _FEW_PRODUCTS:
        return None
    axis, extent = plan.batch[-1]
    linear = linear_in(plan.rows.index, axis)
    decided = {s for condition in plan.rows.where for d in condition for s in symbols_of(d)}
    if linear is None or not isinstance(linear.stride, int) or not isinstance(extent, int) or axis in decided:
        return None
    if linear.stride < 0:
        return None
    return Shared(axis, extent, linear.stride)


def _are_at_one_stride(rows: Rows, m: Axes, taps: Axes, depth: Axes) -> bool:
    """Whether a matrix unit may read the rows in place: whole blocks of them, in whole steps, that are equally far
    apart."""
    height, steps = extent_of(m), extent_of(depth)
    if taps or rows.where or len(m) != 1 or not isinstance(height, int) or not isinstance(steps, int):
        return False
    return height % BLOCK_ROWS == 0 and steps % STEPS["amx"] == 0 and linear_in(rows.index, m[0][0]) is not None


def single_load(region: Block, dtype: DType) -> Op | None:
    """The load that an operand's region consists of, but perhaps for a cast of it, if it is one load of elements of
    type `dtype` whose place no data decides."""
    first = region.first
    if first is None or first.name != "k.load" or len(first.operands) != 1:
        return None
    mem, given = first.operand(0).type, region.terminator.operand(0)
    assert isinstance(mem, Mem)
    is_cast = given.op is not None and given.op.name == "s.cast" and dtype in (U8, I8)
    loaded = given.op.operand(0) if is_cast and given.op is not None else given
    return first if loaded is first.result and len(region) == 2 + is_cast and mem.dtype == dtype else None


def _rows_in_place(op: Op, accesses: Accesses, k: Axes, dtype: DType) -> tuple[Rows | None, int]:
    """The rows and how many of the k axes are taps; None and 0 when rows have to be packed."""
    load = single_load(op.regions[0], dtype)
    if load is None:
        return None, 0
    flat, where = accesses.flat(load), accesses.conditions(load)
    fill = int(cast(float, load.attrs["other"])) if where else 0
    if fill and dtype not in (U8, I8):
        return None, 0
    split, step = len(k), cast("DimLike", 1)
    while split:
        name, extent = k[split - 1]
        linear = linear_in(flat, name)
        if linear is None or linear.stride != step or any(name in symbols_of(c) for c in where):
            break
        step, split = step * extent, split - 1
    if split and isinstance(step, int) and step < SHORTEST_DEPTH:
        return None, 0
    first = substitute(flat, {name: 0 for name, _ in k[split:]})
    return Rows(load.operand(0), first, tuple(where), fill), split


def _groups_in_place(
    op: Op, n: Axes, taps: Axes, depth: Axes, columns: int, dtype: DType, dot: str
) -> Panels | None:
    """Panels of bytes, which nothing but the pass `pack` makes: [panels, taps, groups, columns, 4] behind the batch."""
    load = single_load(op.regions[1], dtype)
    if load is None:
        return None
    shape = cast(Mem, load.operand(0).type).shape
    index = cast("tuple[DimLike, ...]", load.attrs["index"])
    expected = group_index(place_of(n), taps, depth, columns)
    groups = groups_of(extent_of(depth), dot)
    if index[-len(expected) :] != expected or shape[-4:] != (extent_of(taps), groups, columns, GROUP):
        return None
    place: DimLike = 0
    for i, extent in zip((*index[:-5], floordiv(sym(COLUMN), columns)), shape[:-4], strict=True):
        place = place * extent + i
    stride = columns * GROUP
    return Panels(load.operand(0), place * (extent_of(taps) * groups * stride), stride, groups * stride)


def group_index(column: DimLike, taps: Axes, depth: Axes, columns: int) -> tuple[DimLike, ...]:
    """Where a panel of bytes [panels, taps, groups, columns, 4] holds a column at taps and depth."""
    step = place_of(depth)
    return (floordiv(column, columns), place_of(taps), floordiv(step, GROUP), mod(column, columns), mod(step, GROUP))


def _panels_in_place(
    op: Op, accesses: Accesses, n: Axes, taps: Axes, depth: Axes, columns: int, lanes: int
) -> Panels | None:
    load = single_load(op.regions[1], op.attrs["accumulate"])  # type: ignore[arg-type]
    if load is None or accesses.conditions(load) or not n:
        return None
    flat = _along_panel(load, accesses, n[0], columns, lanes)
    if flat is None:
        return None
    steps = [_joint_stride(flat, axes) for axes in (taps, depth)]
    if steps[0] is None or steps[1] is None:
        return None
    first = substitute(flat, {name: 0 for name, _ in (*taps, *depth)})
    return Panels(load.operand(0), first, steps[1], steps[0])


def _narrow_in_place(func: Func, n: Axes, k: Axes, columns: int) -> NarrowPanels | None:
    """Panels of narrow weights, which nothing but the pass `pack` makes."""
    found = narrow_operand(func)
    if found is None or stored_type(found.dtype) != found.dtype:
        return None
    column, step = place_of(n), place_of(k)
    group = group_of(found.dtype)
    if found.codes.attrs["index"] != code_index(column, step, columns, group):
        return None
    memories: list[Value | None] = []
    for value in (found.scale, found.zero):
        load = value.op if value is not None else None
        if value is not None and (load is None or load.name != "k.load"
                                  or load.attrs["index"] != parameter_index(column, step, columns, found.block)):
            return None
        memories.append(None if load is None else load.operand(0))
    return NarrowPanels(found.codes.operand(0), memories[0], memories[1], found.block)


def _along_panel(load: Op, accesses: Accesses, n: tuple[str, DimLike], columns: int, lanes: int) -> DimLike | None:
    """The flat index of a panel's first column, over `COLUMN`; None when a panel's columns are not contiguous or may
    not be read in whole vectors."""
    name, extent = n
    panel, inside = "panel.", "inside."
    bounds = Bounds({inside: columns - 1})
    flat = simplify(substitute(accesses.flat(load), {name: sym(panel) * columns + sym(inside)}), bounds)
    linear = linear_in(flat, inside)
    if linear is None or linear.stride != 1:
        return None
    whole = isinstance(extent, int) and extent % lanes == 0
    if not whole and not _is_packed(load, name, columns):
        return None
    return substitute(linear.rest, {panel: floordiv(sym(COLUMN), columns)})


def _is_packed(load: Op, n: str, columns: int) -> bool:
    """Whether the memory holds whole panels: its last dim is a panel's columns, so that there always is a whole
    vector."""
    mem, index = load.operand(0).type, load.attrs["index"]
    assert isinstance(mem, Mem)
    return mem.shape[-1:] == (columns,) and index[-1] == mod(sym(n), columns)  # type: ignore[index]


def _joint_stride(flat: DimLike, axes: Axes) -> DimLike | None:
    """How far one step of the position among all of `axes` moves; None when that differs. 0 for no axes."""
    if not axes:
        return 0
    strides = []
    for name, _ in axes:
        linear = linear_in(flat, name)
        if linear is None or symbols_of(linear.stride) & {a for a, _ in axes}:
            return None
        strides.append(linear.stride)
    step = expected = strides[-1]
    for i in range(len(axes) - 1, -1, -1):
        if strides[i] != expected:
            return None
        expected = expected * axes[i][1]
    return step
