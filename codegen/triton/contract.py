"""Contractions: `k.contract` as a loop of `tl.dot` on tiles, or as an ordinary fold where the tensor cores do not fit.

The lhs region is evaluated on a tile [m, k], the rhs region on [k, n], the epilogue on [m, n]: so any prologue, any
index expression (a convolution is a contraction whose lhs reads through a window) and any epilogue go through one
skeleton. Lanes beyond k hold 0 in both operands; those beyond m and n are computed and not stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxc.codegen.schedule import Schedule
from onnxc.codegen.triton.context import Context
from onnxc.codegen.triton.dtypes import triton_name
from onnxc.codegen.triton.folds import combine, fold_dims, start
from onnxc.codegen.triton.loops import Fold, fold_nest, masked
from onnxc.codegen.triton.nests import Group, emit_program_ids, groups_of, index_of_counter, lay_out
from onnxc.codegen.triton.scalars import cast
from onnxc.codegen.triton.text import Dims, Val
from onnxc.ir.core import Op, Value
from onnxc.ir.dims import DimLike, product
from onnxc.ir.types import F32, I64, DType, Scalar

__all__ = ["LEAST_TILE", "contract_axes", "dot_operand", "emit_contract", "uses_dot"]

LEAST_TILE = 16                 # the least extent of a tile that tl.dot takes
_SWIZZLE = 8                    # rows of tiles that programs near in time share, for the cache


def contract_axes(op: Op, group: str) -> tuple[list[str], list[DimLike]]:
    """The axes of "batch", "m", "n" or "k", and their extents."""
    pairs: Any = op.attrs[group]
    return [str(a) for a, _ in pairs], [e for _, e in pairs]


def _element(value: Value) -> DType:
    return value.type.dtype if isinstance(value.type, Scalar) else I64


def dot_operand(value: Value) -> Value:
    """The value that a tensor core takes for a yielded one: casts that lose nothing are its own business."""
    op = value.op
    if op is not None and op.name == "s.cast" and _element(value) == F32:
        source = op.operand(0)
        if _element(source).name in ("f16", "bf16"):
            return source
    return value


def _dot_operands(op: Op) -> tuple[Value, Value]:
    """The two operands in the type of the multiplication: both as loaded, or both as yielded."""
    left, right = (r.terminator.operand(0) for r in op.regions[:2])
    narrow = dot_operand(left), dot_operand(right)
    return narrow if _element(narrow[0]) == _element(narrow[1]) else (left, right)


def uses_dot(op: Op) -> bool:
    """Whether the element types of a `k.contract` are some that `tl.dot` multiplies and accumulates exactly so."""
    a, b = (_element(v).name for v in _dot_operands(op))
    wide: Any = op.attrs["accumulate"]
    return a == b and (a, wide.name) in (("f32", "f32"), ("f16", "f32"), ("bf16", "f32"), ("i8", "i32"))


def emit_contract(ctx: Context, op: Op, schedule: Schedule) -> DimLike:
    """Emit a `k.contract`; the grid of the launch. Where the schedule's tiles are too thin for tl.dot it is a fold."""
    if ctx.serial:
        raise ctx.unsupported(op, "an epilogue that stores with this combine has no Triton form")
    blocks = dict(schedule.blocks)
    groups = {g: groups_of(*contract_axes(op, g), blocks) for g in ("batch", "m", "n", "k")}
    tiles = [groups[g][-1].block if groups[g] else 1 for g in ("m", "n", "k")]
    if uses_dot(op) and min(tiles) >= LEAST_TILE:
        return _Dot(ctx, op, groups).emit()
    return _emit_fold(ctx, op, groups)


# ---- tensor cores ------------------------------------------------------------------------------------------------
class _Dot:
    """The skeleton: a program owns a tile of the output and runs over k."""

    def __init__(self, ctx: Context, op: Op, groups: dict[str, list[Group]]) -> None:
        self.ctx, self.op = ctx, op
        self.m, self.n, self.k = (groups[g][-1] for g in ("m", "n", "k"))
        self.outer = [*groups["batch"], *groups["m"][:-1], *groups["n"][:-1]]
        self.k_outer = groups["k"][:-1]
        self.wide: Any = op.attrs["accumulate"]

    def emit(self) -> DimLike:
        ctx = self.ctx
        row, column = self.tile_ids()
        self.row = ctx.let(f"{row.text} * {self.m.block}", ctx.index)
        self.column = ctx.let(f"{column.text} * {self.n.block}", ctx.index)
        total = ctx.writer.fresh("a")
        ctx.writer.line(f"{total} = tl.zeros(({self.m.block}, {self.n.block}), {triton_name(self.wide)})")
        self.sum_products(total)
        with ctx.tile((self.m.block, self.n.block)):
            lay_out(ctx, self.m, self.row, 0)
            lay_out(ctx, self.n, self.column, 1)
            ctx.values[self.op.regions[2].args[0]] = Val(total, self.wide, frozenset({0, 1}))
            ctx.run_block(ctx, self.op.regions[2])
        return product([*(g.size for g in self.outer), self.m.steps, self.n.steps])

    def tile_ids(self) -> tuple[Val, Val]:
        """Bind the outer axes; the tile's row and column. Programs that run together share rows and columns."""
        ctx, index = self.ctx, self.ctx.index
        rows, columns = ctx.dim(self.m.steps), ctx.dim(self.n.steps)
        at = ctx.let(f"tl.program_id(0).to({triton_name(index)})", index)
        if self.outer:
            tiles = ctx.let(f"{rows.text} * {columns.text}", index)
            rest = ctx.let(f"{at.text} // {tiles.text}", index)
            at = ctx.let(f"{at.text} % {tiles.text}", index)
            self.bind_outer(self.outer, rest)
        width = ctx.let(f"{columns.text} * {_SWIZZLE}", index)
        first = ctx.let(f"{at.text} // {width.text} * {_SWIZZLE}", index)
        left = ctx.let(f"{rows.text} - {first.text}", index)
        height = ctx.let(f"tl.where({left.text} < {_SWIZZLE}, {left.text}, {_SWIZZLE})", index)
        within = ctx.let(f"{at.text} % {width.text}", index)
        row = ctx.let(f"{first.text} + {within.text} % {height.text}", index)
        return row, ctx.let(f"{within.text} // {height.text}", index)

    def bind_outer(self, groups: Sequence[Group], flat: Val) -> None:
        """Bind scalar groups from a flattened position, the last one fastest."""
        ctx = self.ctx
        for i in range(len(groups) - 1, -1, -1):
            size = ctx.dim(groups[i].size)
            at = ctx.let(f"{flat.text} % {size.text}", ctx.index) if i else flat
            flat = ctx.let(f"{flat.text} // {size.text}", ctx.index) if i else flat
            ctx.bind(groups[i].axes[0], at, groups[i].size)

    def sum_products(self, total: str) -> None:
        """One loop over all of k, so that loads of any iteration can be in flight."""
        ctx = self.ctx
        steps = product([*(g.size for g in self.k_outer), self.k.steps])
        counter = ctx.writer.fresh("n")
        with ctx.writer.loop(f"for {counter} in range(0, {ctx.dim(steps).text}):"):
            at = index_of_counter(ctx, counter)
            if self.k_outer:
                inner = ctx.dim(self.k.steps)
                self.bind_outer(self.k_outer, ctx.let(f"{at.text} // {inner.text}", ctx.index))
                at = ctx.let(f"{at.text} % {inner.text}", ctx.index)
            base = ctx.let(f"{at.text} * {self.k.block}", ctx.index)
            a = self.operand(0, [(self.m, self.row), (self.k, base)])
            b = self.operand(1, [(self.k, base), (self.n, self.column)])
            precision = f', input_precision="{"tf32" if ctx.tf32 else "ieee"}"' if a.dtype.is_float else ""
            kind = triton_name(self.wide)
            ctx.writer.line(f"{total} = tl.dot({a.text}, {b.text}, {total}{precision}, out_dtype={kind})")
        for group in self.k_outer:
            ctx.unbind(group.axes[0])

    def operand(self, side: int, tiles: Sequence[tuple[Group, Val]]) -> Val:
        """The tile that a region yields, with 0 beyond the end of k."""
        ctx = self.ctx
        source = _dot_operands(self.op)[side]
        with ctx.tile([group.block for group, _ in tiles]):
            for d, (group, base) in enumerate(tiles):
                lay_out(ctx, group, base, d)
            ctx.run_block(ctx, self.op.regions[side])
            v = masked(ctx, ctx.get(source), source, 0, frozenset({1 - side}))
            return ctx.spread(v, frozenset({0, 1}))


# ---- anything else -----------------------------------------------------------------------------------------------
class _Products(Fold):
    """The sum of products as a fold; floats are fused, since that is what tl.dot does."""

    def begin(self, ctx: Context, block: Sequence[Val]) -> tuple[Val, ...]:
        a, b = block
        return (combine(ctx, "mul", a, b),)

    def step(self, ctx: Context, held: Sequence[Val], block: Sequence[Val]) -> tuple[Val, ...]:
        (total,), (a, b) = held, block
        if not self.dtype.is_float:
            return (combine(ctx, "add", total, combine(ctx, "mul", a, b)),)
        dims: Dims = total.dims | a.dims | b.dims
        a, b, total = (ctx.spread(v, dims) for v in (a, b, total))
        return (ctx.let(f"tl.fma({a.text}, {b.text}, {total.text})", self.dtype, dims),)

    def finish(self, ctx: Context, dims: Sequence[int]) -> tuple[Val, ...]:
        if self.values is None:
            return (ctx.const(start("add", self.dtype), self.dtype),)
        return (fold_dims(ctx, "add", self.values[0], dims),)


def _emit_fold(ctx: Context, op: Op, groups: dict[str, list[Group]]) -> DimLike:
    """The contraction as outer points that each fold over k, in the type of the sum."""
    wide: Any = op.attrs["accumulate"]
    outer = [*groups["batch"], *groups["m"], *groups["n"]]
    ctx.blocks = [1] * sum(g.block > 1 for g in [*outer, *groups["k"]])
    grid = emit_program_ids(ctx, outer)
    sources = [r.terminator.operand(0) for r in op.regions[:2]]
    fold = _Products("add", sources, wide)

    def produce(own: Dims) -> list[list[Val]]:
        block = []
        for region, source in zip(op.regions[:2], sources, strict=True):
            (v,) = ctx.run_block(ctx, region)
            block.append(cast(ctx, masked(ctx, v, source, 0, own), wide))
        return [block]

    (total,) = fold_nest(ctx, groups["k"], [fold], produce)
    ctx.values[op.regions[2].args[0]] = total
    ctx.run_block(ctx, op.regions[2])
    return grid
