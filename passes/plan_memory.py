"""The pass `plan_memory`: gives every buffer of the program its place in one arena.

Buffers whose lives do not overlap share bytes. Sizes may be symbolic, so the plan holds for all of them: buffers of
known size are packed by first fit, largest first; each other buffer goes to a slot, shared over time, whose size is
the largest of its buffers' sizes. Offsets are dim expressions that the program evaluates when a run starts. Symbols
that get their value during the run count with their bounds. `passes.check_plan` proves a plan independently.

A value that comes out of a loop or a branch may be one of several buffers: all of them live as long as it does. A
buffer from outside of a loop that is used inside of it lives from the loop's beginning to its end.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

from onnxc.ir.core import Func, Module, Op, Value
from onnxc.ir.dims import DimLike, ceildiv, dim_max, evaluate, symbols_of
from onnxc.ops.program import most_elements
from onnxc.passes.check_plan import ALIGN, PlanError, check_plan

__all__ = ["PlanError", "check_plan", "plan_memory"]

_TYPICAL = 128              # stands for a symbol when sizes have to be ranked


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
    mem = alloc.result.mem
    run_symbols: Any = main.attrs.get("run_symbols") or ()
    size = most_elements(mem.shape, run_symbols)
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
    end, placed = 0, _Timeline()
    for b in sorted(buffers, key=lambda b: (-_known(b.size), b.first)):
        at = 0
        for start, stop in sorted(placed.during(b)):
            if at + _known(b.size) <= start:
                break
            at = max(at, stop)
        b.op.attrs["offset"] = at
        placed.add(b, at)
        end = max(end, at + _known(b.size))
    return end


def _known(size: DimLike) -> int:
    if not isinstance(size, int):
        raise TypeError(f"a size of {size} bytes is not known")
    return size


class _Timeline:
    """Placed buffers by the stretches of the program during which they live: most live shortly."""

    _STRETCH = 32           # steps

    def __init__(self) -> None:
        self._placed: dict[int, list[tuple[_Buffer, int]]] = {}

    def _stretches(self, b: _Buffer) -> range:
        return range(b.first // self._STRETCH, b.last // self._STRETCH + 1)

    def add(self, b: _Buffer, at: int) -> None:
        for stretch in self._stretches(b):
            self._placed.setdefault(stretch, []).append((b, at))

    def during(self, b: _Buffer) -> set[tuple[int, int]]:
        """The bytes [start, stop) that other buffers hold during the life of `b`."""
        return {(at, at + _known(other.size)) for stretch in self._stretches(b)
                for other, at in self._placed.get(stretch, ()) if other.overlaps(b)}


def _share(buffers: list[_Buffer]) -> list[list[_Buffer]]:
    """Slots for buffers of symbolic size: a buffer joins the slot of nearest size in which no life overlaps its own."""
    slots: list[_Slot] = []
    for b in sorted(buffers, key=lambda b: (-_typical_size(b.size), b.first)):
        free = [s for s in slots if s.is_free(b)]
        if not free:
            slots.append(_Slot(_typical_size(b.size)))
            free = slots[-1:]
        min(free, key=lambda s: abs(s.typical - _typical_size(b.size))).add(b)
    return [s.buffers for s in slots]


class _Slot:
    """Buffers that share bytes, in the order of their lives, which do not overlap."""

    def __init__(self, typical: int) -> None:
        self.typical = typical
        self.buffers: list[_Buffer] = []

    def is_free(self, b: _Buffer) -> bool:
        at = bisect.bisect(self.buffers, b.first, key=lambda o: o.first)
        return not any(b.overlaps(o) for o in self.buffers[max(at - 1, 0):at + 1])

    def add(self, b: _Buffer) -> None:
        bisect.insort(self.buffers, b, key=lambda o: o.first)


@functools.cache
def _typical_size(size: DimLike) -> int:
    return evaluate(size, dict.fromkeys(symbols_of(size), _TYPICAL))
