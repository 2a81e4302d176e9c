"""Loop nests over axes: which are unrolled, which are loops of scalars, and which lie across the tile in blocks.

The schedule's `blocks` gives extents to axes. A blocked axis takes with it the unblocked axes that follow it, up to the
next blocked one: together they are one flattened group along one dim of the tile. Axes ahead of the first blocked one
(and those with block 1) are scalars: parts of the program id, loops, or unrolled where the extent is small and known.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

from onnxc.codegen.triton.context import Context
from onnxc.codegen.triton.dtypes import triton_name
from onnxc.codegen.triton.text import Val
from onnxc.ir.dims import DimLike, ceildiv, product

__all__ = ["Group", "claim_dim", "emit_program_ids", "groups_of", "index_of_counter", "is_resident", "lay_out",
           "release_dim", "run_nest"]

UNROLLED = 32                   # at most so many copies of a loop's body


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """Axes that are traversed together; `block` 1 is a single axis as a scalar."""

    axes: tuple[str, ...]
    extents: tuple[DimLike, ...]
    block: int

    @property
    def size(self) -> DimLike:
        """How many positions the group has."""
        return product(self.extents)

    @property
    def steps(self) -> DimLike:
        """How many blocks cover them."""
        return ceildiv(self.size, self.block)


def groups_of(axes: Sequence[object], extents: Sequence[DimLike], blocks: Mapping[str, int]) -> list[Group]:
    """The groups of a nest, outermost first."""
    out: list[Group] = []
    for axis, extent in zip(axes, extents, strict=True):
        name = str(axis)
        if name in blocks or not out or out[-1].block == 1:
            out.append(Group((name,), (extent,), blocks.get(name, 1)))
        else:
            out[-1] = Group((*out[-1].axes, name), (*out[-1].extents, extent), out[-1].block)
    return out


def claim_dim(ctx: Context, block: int) -> int:
    """Take the first free dim of the tile for a group."""
    d = ctx.blocks.index(1)
    ctx.blocks[d] = block
    return d


def release_dim(ctx: Context, d: int) -> None:
    """Give a dim back when its group ends."""
    ctx.blocks[d] = 1
    ctx.masks.pop(d, None)


def lay_out(ctx: Context, group: Group, base: Val | None, dim: int | None) -> None:
    """Bind the group's axes at block offset `base` (None: 0), along `dim` of the tile (None: scalars), and the mask."""
    if dim is None:
        flat = base if base is not None else Val("0", ctx.index)
    else:
        position = "".join(", :" if d == dim else ", None" for d in range(len(ctx.blocks)))[2:]
        lane = ctx.writer.let(f"tl.arange(0, {group.block})" + (f"[{position}]" if len(ctx.blocks) > 1 else ""))
        text = f"{base.text} + {lane}" if base is not None else f"{lane}.to({triton_name(ctx.index)})"
        flat = ctx.let(text, ctx.index, frozenset({dim}))
        if not (isinstance(group.size, int) and group.size % group.block == 0):
            ctx.masks[dim] = ctx.writer.let(f"{flat.text} < {ctx.dim(group.size).text}")
    _decode(ctx, group, flat)


def _decode(ctx: Context, group: Group, flat: Val) -> None:
    """Split a flattened position into the group's axes, the last one fastest."""
    rest = flat
    for k in range(len(group.axes) - 1, -1, -1):
        extent = group.extents[k]
        if k == 0:
            ctx.bind(group.axes[0], rest, extent)
            return
        size = ctx.dim(extent)
        ctx.bind(group.axes[k], ctx.let(f"{rest.text} % {size.text}", ctx.index, flat.dims), extent)
        rest = ctx.let(f"{rest.text} // {size.text}", ctx.index, flat.dims)


def run_nest(ctx: Context, groups: Sequence[Group], body: Callable[[], None], copies: int = 1) -> None:
    """Write the loops of a nest around `body`, which is called once for each copy of it."""
    if not groups:
        body()
        return
    group, rest = groups[0], groups[1:]
    if group.block > 1:
        _run_blocked(ctx, group, lambda: run_nest(ctx, rest, body, copies))
    elif isinstance(group.size, int) and group.size * copies <= UNROLLED and not ctx.serial:
        for position in range(group.size):
            ctx.bind(group.axes[0], position, group.size)
            run_nest(ctx, rest, body, copies * group.size)
            ctx.unbind(group.axes[0])
    else:
        _run_loop(ctx, group, lambda: run_nest(ctx, rest, body, copies))


def _run_loop(ctx: Context, group: Group, inside: Callable[[], None]) -> None:
    counter = ctx.writer.fresh("n")
    with ctx.writer.loop(f"for {counter} in range(0, {ctx.dim(group.size).text}):"):
        ctx.bind(group.axes[0], index_of_counter(ctx, counter), group.size)
        inside()
        ctx.unbind(group.axes[0])


def index_of_counter(ctx: Context, counter: str) -> Val:
    """A loop's counter as an offset: it may be narrower, or a plain integer where the loop's bounds are."""
    return ctx.let(f"tl.cast({counter}, {triton_name(ctx.index)})", ctx.index)


def is_resident(ctx: Context, group: Group) -> bool:
    """Whether one block holds the whole group for certain."""
    largest = ctx.largest(group.size)
    return largest is not None and largest <= group.block


def _run_blocked(ctx: Context, group: Group, inside: Callable[[], None]) -> None:
    d = claim_dim(ctx, group.block)
    if is_resident(ctx, group):
        lay_out(ctx, group, None, d)
        inside()
    else:
        counter = ctx.writer.fresh("n")
        with ctx.writer.loop(f"for {counter} in range(0, {ctx.dim(group.size).text}, {group.block}):"):
            lay_out(ctx, group, index_of_counter(ctx, counter), d)
            inside()
    for axis in group.axes:
        ctx.unbind(axis)
    release_dim(ctx, d)


def emit_program_ids(ctx: Context, groups: Iterable[Group]) -> DimLike:
    """Bind the outer groups from the program id, the last group fastest; the number of programs."""
    groups = list(groups)
    if not groups:
        return 1
    rest = ctx.let(f"tl.program_id(0).to({triton_name(ctx.index)})", ctx.index)
    for k in range(len(groups) - 1, -1, -1):
        group = groups[k]
        at = rest
        if k > 0:
            steps = ctx.dim(group.steps)
            at = ctx.let(f"{rest.text} % {steps.text}", ctx.index)
            rest = ctx.let(f"{rest.text} // {steps.text}", ctx.index)
        if group.block > 1:
            base = ctx.let(f"{at.text} * {group.block}", ctx.index)
            lay_out(ctx, group, base, claim_dim(ctx, group.block))
        else:
            lay_out(ctx, group, at, None)
    return product(g.steps for g in groups)
