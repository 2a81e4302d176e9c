"""The pass `plan_memory`: gives every buffer of the program its place in one arena.

Buffers whose lives do not overlap share bytes. Sizes may be symbolic, so the plan holds for all of them: buffers of known
size are packed by first fit, largest first; each other buffer goes to a slot, shared over time, whose size is the largest
of its buffers' sizes. Offsets are dim expressions that the program evaluates when a run starts. Symbols that get their
value during the run count with their bounds. `check_plan` proves a plan independently.

A value that comes out of a loop or a branch may be one of several buffers: all of them live as long as it does. A buffer
from outside of a loop that is used inside of it lives from the loop's beginning to its end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from onnxc.ir.core import Func, Module, Op, Value
from onnxc.ir.dims import Dim, DimLike, ceildiv, dim_max, evaluate, symbols_of
from onnxc.ir.types import Mem
from onnxc.ops.program import most_elements

__all__ = ["PlanError", "check_plan", "plan_memory"]

ALIGN = 64                  # bytes: a cache line, and the widest vector
_TYPICAL = 128              # stands for a symbol when sizes have to be ranked


class PlanError(Exception):
    """Two live buffers overlap, or a buffer leaves the arena."""


@dataclasses.dataclass(slots=True)
class _Buffer:
    op: Op
    size: DimLike           # bytes, a multiple of ALIGN
    first: int
    last: int

    def overlaps(self, other: _Buffer) -> bool:
        return self.first <= other.last and other.first <= self.last


def plan_memory(module: Module) -> None:
    """Set `offset` of every p.alloc of @main and the function's `arena` size."""
    main = module.main
    buffers = _lives(main)
    fixed = [b for b in buffers if isinstance(b.size, int)]
    end: DimLike = _pack(fixed)
    for slot in _share([b for b in buffers if not isinstance(b.size, int)]):
        for b in slot:
            b.op.attrs["offset"] = end
        end = end + dim_max(*(b.size for b in slot))
    main.attrs["arena"] = end


def _rounded(size: DimLike) -> DimLike:
    return ceildiv(size, ALIGN) * ALIGN


def _bytes(alloc: Op, main: Func) -> DimLike:
    """The most bytes that a buffer takes; PlanError where nothing bounds them."""
    mem = alloc.result.type
    assert isinstance(mem, Mem)
    size = most_elements(mem.shape, main.attrs.get("run_symbols") or ())  # type: ignore[arg-type]
    if size is None:
        raise PlanError(f"%{alloc.result.name} of type {mem}: nothing that is known when a run starts bounds its size")
    return mem.dtype.nbytes(size)


def _roots(main: Func) -> dict[Value, frozenset[Op]]:
    """The p.allocs that each buffer of the program may be."""
    roots: dict[Value, frozenset[Op]] = {}
    sources: dict[Value, list[Value]] = {}
    for op in main.walk():
        if op.name == "p.alloc":
            roots[op.result] = frozenset((op,))
        elif op.name in ("p.view", "p.row"):
            sources[op.result] = [op.operand(0)]
        elif op.name == "p.loop":
            skip = len(op.inputs) - len(op.results)
            for r, arg, first, again in zip(op.results, op.regions[0].args, op.inputs[skip:],
                                            op.regions[0].terminator.inputs[skip:], strict=True):
                sources[r] = sources[arg] = [first, again]
        elif op.name == "p.if":
            for r, *given in zip(op.results, *(region.terminator.inputs for region in op.regions), strict=True):
                sources[r] = given
    changed = True
    while changed:                                   # loops yield what they take: until nothing is added
        changed = False
        for v, given in sources.items():
            found = frozenset[Op]().union(*(roots.get(g, frozenset()) for g in given))
            if found != roots.get(v, frozenset()):
                roots[v], changed = found, True
    return roots


def _lives(main: Func) -> list[_Buffer]:
    """The buffers with the positions of their first and last use, in the order of the program's text."""
    roots = _roots(main)
    position: dict[Op, int] = {op: i for i, op in enumerate(main.walk())}
    out = {op: _Buffer(op, _rounded(_bytes(op, main)), -1, -1) for op in position if op.name == "p.alloc"}
    for op, at in position.items():
        if op.name in ("p.alloc", "p.view", "p.row"):
            continue
        for v in op.inputs:
            for alloc in roots.get(v, ()):
                _extend(out[alloc], at, at)
                for loop in _loops_between(op, alloc):
                    _extend(out[alloc], position[loop], position[_last_inside(loop)])
    return list(out.values())


def _extend(b: _Buffer, first: int, last: int) -> None:
    b.first = first if b.first < 0 else min(b.first, first)
    b.last = max(b.last, last)


def _loops_between(op: Op, alloc: Op) -> Iterator[Op]:
    """The loops around `op` that are not around `alloc`."""
    around: set[Op] = set()
    at = alloc.block
    while at is not None and isinstance(at.parent, Op):
        around.add(at.parent)
        at = at.parent.block
    at = op.block
    while at is not None and isinstance(at.parent, Op) and at.parent not in around:
        if at.parent.name == "p.loop":
            yield at.parent
        at = at.parent.block


def _last_inside(loop: Op) -> Op:
    return list(loop.walk())[-1]


def _pack(buffers: list[_Buffer]) -> int:
    """First fit for buffers of known size, largest first; the end of the last one."""
    placed: list[tuple[int, int, _Buffer]] = []
    for b in sorted(buffers, key=lambda b: (-int(b.size), b.first)):  # type: ignore[arg-type]
        size, at = int(b.size), 0  # type: ignore[arg-type]
        for start, stop, other in sorted((p for p in placed if p[2].overlaps(b)), key=lambda p: p[0]):
            if at + size <= start:
                break
            at = max(at, stop)
        b.op.attrs["offset"] = at
        placed.append((at, at + size, b))
    return max((stop for _, stop, _ in placed), default=0)


def _share(buffers: list[_Buffer]) -> list[list[_Buffer]]:
    """Slots for buffers of symbolic size: a buffer joins the slot of nearest size in which no life overlaps its own."""
    slots: list[list[_Buffer]] = []
    typical = {b.op: _typical_size(b.size) for b in buffers}
    for b in sorted(buffers, key=lambda b: (-typical[b.op], b.first)):
        free = [s for s in slots if not any(b.overlaps(o) for o in s)]
        if free:
            min(free, key=lambda s: abs(typical[s[0].op] - typical[b.op])).append(b)
        else:
            slots.append([b])
    return slots


def _typical_size(size: DimLike) -> int:
    return evaluate(size, dict.fromkeys(symbols_of(size), _TYPICAL))


def check_plan(module: Module, dims: Mapping[str, int]) -> None:
    """Prove the plan for one binding of the symbols by stepping through the program: a buffer holds its bytes from its
    first write to its last read, and nothing else may be stored there in between. PlanError says which two collide."""
    main = module.main
    arena = evaluate(_dim(main.attrs["arena"]), dims)
    extents: list[tuple[_Buffer, int, int]] = []
    for b in _lives(main):
        if b.first < 0:
            continue
        name = b.op.result.name
        start = evaluate(_dim(b.op.attrs["offset"]), dims)
        stop = start + evaluate(_bytes(b.op, main), dims)
        if start < 0 or start % ALIGN or stop > arena:
            raise PlanError(f"%{name} at [{start}, {stop}) does not lie in the arena of {arena} bytes")
        extents.append((b, start, stop))
    for position in sorted({p for b, _, _ in extents for p in (b.first, b.last)}):
        live = sorted((e for e in extents if e[0].first <= position <= e[0].last), key=lambda e: e[1])
        for (a, _, a_stop), (b, b_start, b_stop) in zip(live, live[1:]):
            if a_stop > b_start and b_stop > b_start:
                raise PlanError(f"%{a.op.result.name} and %{b.op.result.name} overlap while step {position} runs")


def _dim(a: object) -> DimLike:
    if not isinstance(a, (int, Dim)):
        raise PlanError(f"memory is not planned: {a!r} stands for an offset")
    return a
