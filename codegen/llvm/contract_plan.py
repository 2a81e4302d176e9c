"""How the operands of a contraction in normal form are read: in place where the engine can, packed where it cannot.

The engine wants the left operand as rows that are contiguous along the depth of each tap, and the right one as panels
whose rows are contiguous. `rows_in_place` and `panels_in_place` find both in a kernel's accesses, and what they do not
find is packed into scratch as the job goes (`contract_pack`).
"""

from __future__ import annotations

import dataclasses
from typing import cast

from onnxc.codegen.accesses import Accesses, Condition, linear_in
from onnxc.codegen.llvm.contract_form import Axes, axes_of, contraction_of, extent_of
from onnxc.ir.core import Block, Func, Op, Value
from onnxc.ir.dims import Bounds, DimLike, floordiv, mod, simplify, substitute, sym, symbols_of
from onnxc.ir.types import DType, Mem

__all__ = ["COLUMN", "Panels", "Plan", "Rows", "plan_of", "single_load"]

# A tap of fewer steps than this spends more on its row pointers than on its products, and a packed row has no taps.
_SHORTEST_DEPTH = 8


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of the left operand in place: element `index` (over batch, m and tap axes) is the first of a tap's depth;
    where a condition fails the tap reads zeros."""

    memory: Value
    index: DimLike
    where: tuple[Condition, ...]


@dataclasses.dataclass(frozen=True)
class Panels:
    """Panels of the right operand in place: element `index` (over batch axes and the panel's first column, `COLUMN`) is
    step 0 of tap 0; strides count elements."""

    memory: Value
    index: DimLike
    row_stride: DimLike
    tap_stride: DimLike


COLUMN = "column."


@dataclasses.dataclass(frozen=True)
class Plan:
    """A contraction's axes, with those of k split into taps and the depth of each, and how its operands are read (None:
    packed)."""

    batch: Axes
    m: Axes
    n: Axes
    k: Axes
    taps: Axes
    depth: Axes
    rows: Rows | None
    panels: Panels | None

    @property
    def columns(self) -> DimLike:
        return extent_of(self.n)

    @property
    def height(self) -> DimLike:
        return extent_of(self.m)


def plan_of(func: Func, columns: int, lanes: int) -> Plan:
    """The plan for a kernel in normal form and panels of `columns` columns in vectors of `lanes`."""
    op = contraction_of(func)
    accesses = Accesses(func)
    batch, m, n, k = (axes_of(op, g) for g in ("batch", "m", "n", "k"))
    rows, split = _rows_in_place(op, accesses, k)
    taps, depth = k[:split], k[split:]
    panels = _panels_in_place(op, accesses, n, taps, depth, columns, lanes)
    return Plan(batch, m, n, k, taps, depth, rows, panels)


def single_load(region: Block, accumulate: DType) -> Op | None:
    """The load that an operand's region consists of, if it is one load of elements of the accumulator's type whose
    place no data decides."""
    first = region.first
    if first is None or first.name != "k.load" or len(region) != 2 or len(first.operands) != 1:
        return None
    mem = first.operand(0).type
    assert isinstance(mem, Mem)
    if region.terminator.operand(0) is not first.result or mem.dtype != accumulate:
        return None
    return first


def _rows_in_place(op: Op, accesses: Accesses, k: Axes) -> tuple[Rows | None, int]:
    """The rows and how many of the k axes are taps; None and 0 when rows have to be packed."""
    load = single_load(op.regions[0], op.attrs["accumulate"])  # type: ignore[arg-type]
    if load is None:
        return None, 0
    flat, where = accesses.flat(load), accesses.conditions(load)
    if where and load.attrs["other"] != 0:
        return None, 0
    split, step = len(k), cast("DimLike", 1)
    while split:
        name, extent = k[split - 1]
        linear = linear_in(flat, name)
        if linear is None or linear.stride != step or any(name in symbols_of(c) for c in where):
            break
        step, split = step * extent, split - 1
    if split and isinstance(step, int) and step < _SHORTEST_DEPTH:
        return None, 0
    first = substitute(flat, {name: 0 for name, _ in k[split:]})
    return Rows(load.operand(0), first, tuple(where)), split


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
