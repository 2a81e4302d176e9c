"""The pass `plan_memory`: gives every buffer of the program its place in one arena.

Buffers whose lives do not overlap share bytes. Sizes may be symbolic, so the plan holds for all of them: buffers of known
size are packed by first fit, largest first; each other buffer goes to a slot, shared over time, whose size is the largest
of its buffers' sizes. Offsets are dim expressions that the program evaluates when a run starts. `check_plan` proves a plan
independently.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from onnxc.ir.core import Func, Module, Op, Value
from onnxc.ir.dims import Dim, DimLike, ceildiv, dim_max, evaluate, symbols_of
from onnxc.ir.types import Mem

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


def _root(v: Value) -> Value:
    while v.op is not None and v.op.name == "p.view":
        v = v.op.operand(0)
    return v


def _lives(main: Func) -> list[_Buffer]:
    """The buffers with the positions of their first and last use, views counted as uses of what they view."""
    out: dict[Value, _Buffer] = {}
    for position, op in enumerate(main.body.ops):
        if op.name == "p.alloc":
            mem = op.result.type
            assert isinstance(mem, Mem)
            out[op.result] = _Buffer(op, _rounded(mem.nbytes), -1, -1)
        elif op.name != "p.view":
            for v in op.inputs:
                b = out.get(_root(v))
                if b is not None:
                    b.first = position if b.first < 0 else b.first
                    b.last = position
    return list(out.values())


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
    uses: dict[Value, list[int]] = {}
    steps = list(main.body.ops)
    for position, op in enumerate(steps):
        if op.name in ("p.launch", "p.copy"):
            for v in op.inputs:
                uses.setdefault(_root(v), []).append(position)
    extents: list[tuple[Value, int, int]] = []
    for v in uses:
        if v.op is None or v.op.name != "p.alloc":
            continue
        mem = v.type
        assert isinstance(mem, Mem)
        start = evaluate(_dim(v.op.attrs["offset"]), dims)
        stop = start + evaluate(mem.nbytes, dims)
        if start < 0 or start % ALIGN or stop > arena:
            raise PlanError(f"%{v.name} at [{start}, {stop}) does not lie in the arena of {arena} bytes")
        extents.append((v, start, stop))
    for position in range(len(steps)):
        live = sorted((e for e in extents if uses[e[0]][0] <= position <= uses[e[0]][-1]), key=lambda e: e[1])
        for (a, _, a_stop), (b, b_start, b_stop) in zip(live, live[1:]):
            if a_stop > b_start and b_stop > b_start:
                raise PlanError(f"%{a.name} and %{b.name} overlap while step {position} runs")


def _dim(a: object) -> DimLike:
    if not isinstance(a, (int, Dim)):
        raise PlanError(f"memory is not planned: {a!r} stands for an offset")
    return a
