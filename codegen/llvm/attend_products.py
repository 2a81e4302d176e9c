"""The two products of an attention kernel as contractions: queries by keys, and weights by values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import cast

from onnxc.codegen.accesses import Accesses, linear_in
from onnxc.codegen.clone import clone_op
from onnxc.codegen.llvm.contract_form import axes_of, contraction_of, extent_of, flat_form
from onnxc.codegen.llvm.contract_loops import Blocking
from onnxc.codegen.llvm.contract_pack import Part, panel_part
from onnxc.codegen.llvm.contract_plan import Panels, Plan, plan_of, single_load
from onnxc.codegen.llvm.schedule_contract import chunks_of
from onnxc.codegen.llvm.target import Target
from onnxc.codegen.llvm.tiles import blocking_for
from onnxc.ir.core import Block as Region
from onnxc.ir.core import Func, Op, Value
from onnxc.ir.dims import DimLike, ceildiv
from onnxc.ir.types import F32, Scalar

__all__ = ["Product", "attention_of", "contiguous_load", "products"]

# A panel's copy costs as much as some two dozen rows of products.
_ROWS_WORTH_PACKING = 24
_ITEM = 4


def attention_of(func: Func) -> Op:
    """The k.attend of an attention kernel."""
    return next(op for op in func.body.ops if op.name == "k.attend")


@dataclasses.dataclass(frozen=True)
class Product:
    """One of the two products as a contraction: `func` holds it, `panel` packs its right operand (None: in place);
    `in_place` says how panels are read where they lie, also where it pays to pack them."""

    func: Func
    plan: Plan
    blocking: Blocking
    panel: Part | None
    in_place: Panels | None

    @property
    def packed_bytes(self) -> DimLike:
        """Of the packed right operand of a batch position: whole panels, [panel][k][columns]."""
        if self.panel is None:
            return 0
        width = self.blocking.columns
        return ceildiv(self.plan.columns, width) * extent_of(self.plan.k) * (width * _ITEM)

    @property
    def panel_bytes(self) -> DimLike:
        return extent_of(self.plan.k) * self.blocking.row_bytes


def products(func: Func, target: Target, chunk: int) -> tuple[Product, Product]:
    op = attention_of(func)
    zero = Region()
    element = zero.append(Op("s.const", (), [Scalar(F32)], {"value": 0.0, "dtype": F32})).result
    zero.append(Op("yield", [element]))
    height = extent_of(axes_of(op, "m"))
    scores = _contraction(func, op, ("m", "n", "k"), op.regions[:3])
    values = _contraction(func, op, ("m", "columns", "n"), [zero, *op.regions[3:]])
    return _product(scores, target, height, chunk), _product(values, target, height, chunk)


def _contraction(func: Func, attend: Op, groups: Sequence[str], regions: Sequence[Region]) -> Func:
    """A product of the attention as a kernel of its own: its rows, columns and sum are the axes of `groups`. The
    regions stay those of the attention, with its arguments."""
    copy = Func(func.name, [a.type for a in func.args], [a.name for a in func.args], (), "kernel")
    values: dict[Value, Value] = dict(zip(func.args, copy.args, strict=True))
    blocks = []
    for region in regions:
        block = Region([a.type for a in region.args], [a.name for a in region.args])
        values.update(zip(region.args, block.args, strict=True))
        for op in region.ops:
            block.append(clone_op(op, values))
        blocks.append(block)
    lists = {key: attend.attrs[group] for key, group in zip(("m", "n", "k"), groups, strict=True)}
    attrs = {"batch": attend.attrs["batch"], **lists, "accumulate": F32, "winograd": ()}
    copy.body.append(Op("k.contract", (), (), attrs, blocks))
    return flat_form(copy)


def _product(func: Func, target: Target, height: DimLike, chunk: int) -> Product:
    columns = extent_of(axes_of(contraction_of(func), "n"))
    rows = None
    if isinstance(height, int):
        step = cast(int, chunks_of(height, chunk, 1)[1])
        rows = {min(step, height - m0) for m0 in range(0, height, max(step, 1))} or None
    blocking = blocking_for(target, "f32", n=columns if isinstance(columns, int) else None, job_rows=rows)
    plan = plan_of(func, blocking.columns, blocking.tile.lanes)
    packed = plan.panels is None or _scattered(plan, blocking)
    part = panel_part(func, target, blocking.columns) if packed else None
    return Product(func, plan, blocking, part, plan.panels)


def _scattered(plan: Plan, blocking: Blocking) -> bool:
    """Whether a panel's rows lie apart, so that most of them would share a few sets of the first-level cache, and
    enough rows of the left operand pass over it to pay for a copy."""
    assert plan.panels is not None
    apart = plan.panels.row_stride != blocking.columns
    return apart and not (isinstance(plan.height, int) and plan.height < _ROWS_WORTH_PACKING)


def contiguous_load(scores: Product) -> Op | None:
    """The load of a key's element, if keys are f32 that lie along k."""
    op, plan = contraction_of(scores.func), scores.plan
    load, accesses = single_load(op.regions[1], F32), Accesses(scores.func)
    if load is None or accesses.conditions(load) or len(plan.k) != 1 or len(plan.n) != 1:
        return None
    linear = linear_in(accesses.flat(load), plan.k[0][0])
    return load if linear is not None and linear.stride == 1 else None
