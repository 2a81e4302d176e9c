"""The inner loops of a kernel: sweeps, reductions and scans.

A reduction over a loop keeps an accumulator tensor, folds each block into it lane by lane and folds its lanes at the
end; without a loop it folds the block. Lanes outside the axes hold the value that folding starts with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from onnxc.codegen.triton.context import Context
from onnxc.codegen.triton.dtypes import literal, register_type
from onnxc.codegen.triton.folds import arg_step, combine, filled, fold_arg, fold_dims, no_position, running, start
from onnxc.codegen.triton.nests import (
    Group,
    claim_dim,
    groups_of,
    index_of_counter,
    is_resident,
    lay_out,
    release_dim,
    run_nest,
)
from onnxc.codegen.triton.text import Dims, Val
from onnxc.ir.core import Block, Op, Value
from onnxc.ir.dims import DimLike
from onnxc.ir.types import I64, DType, Scalar
from onnxc.ops.kernel import ARG_KINDS, REDUCE_KINDS

__all__ = ["Fold", "emit_reduce", "emit_scan", "emit_sweep", "fold_nest", "masked"]


def _attr(op: Op, name: str) -> Any:
    return op.attrs[name]


def emit_sweep(ctx: Context, op: Op, blocks: Mapping[str, int]) -> None:
    """Emit a `k.sweep`."""
    groups = groups_of(_attr(op, "axes"), _attr(op, "extents"), blocks)

    def body() -> None:
        ctx.run_block(ctx, op.regions[0])

    run_nest(ctx, groups, body)


def masked(ctx: Context, v: Val, source: Value | None, fill: Any, dims: Dims) -> Val:
    """`v` with `fill` in the lanes outside the axes along `dims`, along all of which it varies then."""
    v = ctx.spread(v, dims)
    mask = ctx.both(ctx.inside(dims))
    if mask is None or (source is not None and _filled_by_load(ctx, source, fill, dims)):
        return v
    return ctx.let(f"tl.where({mask.text}, {v.text}, {ctx.const(fill, v.dtype).text})", v.dtype, v.dims)


def _filled_by_load(ctx: Context, source: Value, fill: Any, dims: Dims) -> bool:
    """Whether the value is a load that gives `fill` outside: its `other` is that, and its place varies along `dims`."""
    op = source.op
    if op is None or op.name != "k.load" or not isinstance(op.attrs["other"], (int, float)):
        return False
    loaded = ctx.values.get(source)
    varies = loaded.dims if loaded is not None else frozenset()
    other = op.attrs["other"]
    return dims <= varies and isinstance(source.type, Scalar) and source.type.dtype.bits >= 8 \
        and literal(other, source.type.dtype) == literal(fill, source.type.dtype)


# ---- reductions --------------------------------------------------------------------------------------------------
class Fold:
    """One fold on its way through a nest: `values` are its key (and position) so far; `sources` are what it folds."""

    def __init__(self, kind: str, sources: Sequence[Value], dtype: DType) -> None:
        self.kind, self.sources, self.dtype = kind, sources, dtype
        self.values: tuple[Val, ...] | None = None

    @property
    def starts(self) -> list[tuple[Any, DType]]:
        """What the key (and the position) begin with."""
        key = (start(self.kind, self.dtype), self.dtype)
        return [key, (no_position(self.kind), I64)] if self.kind in ARG_KINDS else [key]

    def begin(self, ctx: Context, block: Sequence[Val]) -> tuple[Val, ...]:
        """The values after the first block: a key and its position of one shape, so that they fold together."""
        dims: Dims = frozenset().union(*(v.dims for v in block))
        return tuple(ctx.spread(v, dims) for v in block)

    def step(self, ctx: Context, held: Sequence[Val], block: Sequence[Val]) -> tuple[Val, ...]:
        """The values after one block more."""
        if self.kind in ARG_KINDS:
            return arg_step(ctx, self.kind, (held[0], held[1]), (block[0], block[1]))
        return (combine(ctx, self.kind, held[0], block[0]),)

    def finish(self, ctx: Context, dims: Sequence[int]) -> tuple[Val, ...]:
        """The results, once the lanes along `dims` are folded too; the start's where there was no position at all."""
        values = self.values
        if values is None:
            values, dims = tuple(ctx.const(value, dtype) for value, dtype in self.starts), ()
        if self.kind not in ARG_KINDS:
            return (fold_dims(ctx, self.kind, values[0], dims),)
        key, at = fold_arg(ctx, self.kind, (values[0], values[1]), dims)
        none = ctx.const(no_position(self.kind), I64)
        return key, ctx.let(f"tl.where({at.text} == {none.text}, {ctx.const(0, I64).text}, {at.text})", I64, at.dims)


def fold_nest(ctx: Context, groups: Sequence[Group], folds: Sequence[Fold],
              produce: Callable[[Dims], list[list[Val]]]) -> list[Val]:
    """Run a nest and fold what `produce` gives for each block: a list of values a fold. `produce` gets the nest's dims
    of the tile, beyond whose axes its values hold the folds' starts. The results of all folds."""
    own = _dims_to_be(ctx, groups)
    mark, depth = ctx.writer.mark(), ctx.writer.depth

    def body() -> None:
        for fold, block in zip(folds, produce(frozenset(own)), strict=True):
            _add(ctx, fold, block, mark, depth)

    run_nest(ctx, groups, body)
    return [value for fold in folds for value in fold.finish(ctx, own)]


def emit_reduce(ctx: Context, op: Op, blocks: Mapping[str, int]) -> None:
    """Emit a `k.reduce` and bind its results."""
    folds = list(_folds(ctx, op))

    def produce(own: Dims) -> list[list[Val]]:
        values = iter(ctx.run_block(ctx, op.regions[0]))
        return [[masked(ctx, next(values), source, value, own)
                 for source, (value, _) in zip(fold.sources, fold.starts, strict=True)] for fold in folds]

    groups = groups_of(_attr(op, "axes"), _attr(op, "extents"), blocks)
    for result, value in zip(op.results, fold_nest(ctx, groups, folds, produce), strict=True):
        ctx.values[result] = value


def _folds(ctx: Context, op: Op) -> Iterator[Fold]:
    yields = op.regions[0].terminator.inputs
    i = 0
    for kind in _attr(op, "kinds"):
        if kind not in ARG_KINDS and kind not in REDUCE_KINDS:
            raise ctx.unsupported(op, f"there is no kind '{kind}'")
        count = 2 if kind in ARG_KINDS else 1
        element = yields[i].type
        yield Fold(kind, yields[i:i + count], register_type(element.dtype) if isinstance(element, Scalar) else I64)
        i += count


def _dims_to_be(ctx: Context, groups: Sequence[Group]) -> list[int]:
    """The dims of the tile that the nest's groups will own."""
    free = [d for d, b in enumerate(ctx.blocks) if b == 1]
    return free[:sum(g.block > 1 for g in groups)]


def _add(ctx: Context, fold: Fold, block: Sequence[Val], mark: int, depth: int) -> None:
    """Fold a block into what the fold holds: into accumulators, which live outside the loops, once there is a loop."""
    if ctx.writer.depth == depth:
        fold.values = fold.begin(ctx, block) if fold.values is None else fold.step(ctx, fold.values, block)
        return
    if fold.values is None:
        # Along all dims in force, whichever of them this copy of the body happens to vary along.
        dims: Dims = frozenset(d for d, b in enumerate(ctx.blocks) if b > 1)
        fold.values = tuple(Val(ctx.writer.fresh("a"), dtype, dims) for _, dtype in fold.starts)
        for held, (value, dtype) in zip(fold.values, fold.starts, strict=True):
            ctx.writer.insert(mark, f"{held.text} = {filled(ctx, value, dtype, dims)}", depth)
    for held, new in zip(fold.values, fold.step(ctx, fold.values, block), strict=True):
        ctx.writer.line(f"{held.text} = {new.text}")


# ---- scans -----------------------------------------------------------------------------------------------------------
def emit_scan(ctx: Context, op: Op, blocks: Mapping[str, int]) -> None:
    """Emit a `k.scan`: a loop that carries the running value, over positions or over blocks of them."""
    axis, extent = str(_attr(op, "axis")), _attr(op, "extent")
    (group,) = groups_of([axis], [extent], blocks)
    if group.block > 1:
        _scan_blocks(ctx, op, group)
    else:
        _scan_positions(ctx, op, axis, extent)


def _carry(ctx: Context, op: Op, dtype: DType, dims: Dims, mark: int, depth: int) -> Val:
    """The carried value, defined ahead of the loop."""
    carry = Val(ctx.writer.fresh("a"), dtype, dims)
    ctx.writer.insert(mark, f"{carry.text} = {filled(ctx, start(_attr(op, 'kind'), dtype), dtype, dims)}", depth)
    return carry


def _scan_positions(ctx: Context, op: Op, axis: str, extent: DimLike) -> None:
    first, second = op.regions
    mark, depth = ctx.writer.mark(), ctx.writer.depth
    counter = ctx.writer.fresh("n")
    with ctx.writer.loop(f"for {counter} in range(0, {ctx.dim(extent).text}):"):
        ctx.bind(axis, index_of_counter(ctx, counter), extent)
        (value,) = ctx.run_block(ctx, first)
        carry = _carry(ctx, op, value.dtype, value.dims, mark, depth)
        before = Val(ctx.writer.fresh(), carry.dtype, carry.dims)
        ctx.writer.line(f"{before.text} = {carry.text}")
        after = combine(ctx, _attr(op, "kind"), before, value)
        _store_running(ctx, second, before if _attr(op, "exclusive") else after)
        ctx.writer.line(f"{carry.text} = {after.text}")
        ctx.unbind(axis)


def _store_running(ctx: Context, region: Block, value: Val) -> None:
    ctx.values[region.args[0]] = value
    ctx.run_block(ctx, region)


def _scan_blocks(ctx: Context, op: Op, group: Group) -> None:
    d = claim_dim(ctx, group.block)
    if is_resident(ctx, group):
        lay_out(ctx, group, None, d)
        _store_running(ctx, op.regions[1], _running(ctx, op, group, d))
    else:
        mark, depth = ctx.writer.mark(), ctx.writer.depth
        counter = ctx.writer.fresh("n")
        with ctx.writer.loop(f"for {counter} in range(0, {ctx.dim(group.size).text}, {group.block}):"):
            base = index_of_counter(ctx, counter)
            lay_out(ctx, group, base, d)
            value = _elements(ctx, op, group, d)
            carry = _carry(ctx, op, value.dtype, value.dims - {d}, mark, depth)
            prefix = combine(ctx, _attr(op, "kind"), carry, running(ctx, _attr(op, "kind"), value, d))
            _store_running(ctx, op.regions[1], prefix)
            total = combine(ctx, _attr(op, "kind"), carry, fold_dims(ctx, _attr(op, "kind"), value, [d]))
            ctx.writer.line(f"{carry.text} = {total.text}")
    ctx.unbind(group.axes[0])
    release_dim(ctx, d)


def _running(ctx: Context, op: Op, group: Group, d: int) -> Val:
    return running(ctx, _attr(op, "kind"), _elements(ctx, op, group, d), d)


def _elements(ctx: Context, op: Op, group: Group, d: int) -> Val:
    """The values to fold; an exclusive scan folds those of the position before, and nothing at the first."""
    kind, axis = _attr(op, "kind"), group.axes[0]
    yielded = op.regions[0].terminator.operand(0)
    if not _attr(op, "exclusive"):
        (value,) = ctx.run_block(ctx, op.regions[0])
        return masked(ctx, value, yielded, start(kind, value.dtype), frozenset({d}))
    here, mask = ctx.position(axis), ctx.masks.get(d)
    size = ctx.dim(group.size)
    shifted = ctx.let(f"{here.text} - 1", ctx.index, here.dims)
    ctx.masks[d] = ctx.writer.let(f"({shifted.text} >= 0) & ({shifted.text} < {size.text})")
    ctx.bind(axis, shifted, group.size)
    (value,) = ctx.run_block(ctx, op.regions[0])
    value = masked(ctx, value, yielded, start(kind, value.dtype), frozenset({d}))
    ctx.bind(axis, here, group.size)
    if mask is None:
        del ctx.masks[d]
    else:
        ctx.masks[d] = mask
    return value
