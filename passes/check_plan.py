"""Proof of a memory plan, independent of how it was made: the program is stepped through on a shadow of the arena.

The shadow knows which buffer's bytes lie where. A step that reads a buffer must find all of its bytes there, and what a
step writes evicts what it overlaps. Nothing of `plan_memory` is used but where the buffers are.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from typing import Any

from onnxc.ir.core import Block, Module, Op, Value
from onnxc.ir.dims import evaluate
from onnxc.ops.program import most_elements

__all__ = ["ALIGN", "PlanError", "check_plan"]

ALIGN = 64                  # bytes: a cache line, and the widest vector
_COURSES = ((0, 3), (1, 1), (0, 0))         # (the region that branches take, iterations of loops): runs that are tried


class PlanError(Exception):
    """A buffer is overwritten while it is needed, leaves the arena, or has no place."""


def check_plan(module: Module, dims: Mapping[str, int]) -> None:
    """Prove the plan for one binding of the symbols that a run starts with. PlanError says which buffers collide."""
    for branch, iterations in _COURSES:
        _Shadow(module, dims, branch, iterations).block(module.main.body)


class _Shadow:
    def __init__(self, module: Module, dims: Mapping[str, int], branch: int, iterations: int) -> None:
        self.attrs: dict[str, Any] = dict(module.main.attrs)
        self.dims, self.branch, self.iterations = dims, branch, iterations
        arena: Any = self.attrs["arena"]
        if arena is None:
            raise PlanError("memory is not planned")
        self.arena = evaluate(arena, dims)
        self.buffers: dict[Value, Value] = {}               # a value of the program -> the p.alloc that it is now
        self.extents: dict[Value, tuple[int, int]] = {}
        self.intact: list[tuple[int, int, int]] = []        # (start, stop, number) of buffers whose bytes are there
        self.owners: list[Value] = []                       # by number
        self.numbers: dict[Value, int] = {}
        self.evicted: dict[Value, Value] = {}               # buffer -> whose bytes took its place

    # ---- steps -----------------------------------------------------------------------------------------------------
    def block(self, block: Block) -> tuple[Value, ...]:
        """Step through a block; the values that it yields."""
        for op in block.ops:
            if op.name in ("return", "yield"):
                return op.inputs
            self.step(op)
        return ()

    def step(self, op: Op) -> None:
        if op.name == "p.alloc":
            self.alloc(op)
        elif op.name in ("p.view", "p.row"):
            self.alias(op.result, op.operand(0))
        elif op.name == "p.launch":
            writes = op.attr("writes")
            self.run(op, [v for i, v in enumerate(op.inputs) if i not in writes], [op.inputs[i] for i in writes])
        elif op.name in ("p.copy", "p.give"):
            self.run(op, [op.operand(0)], [op.operand(1)])
        elif op.name in ("p.read", "p.give"):
            self.read(op, op.operand(0))
        elif op.name == "p.loop":
            self.loop(op)
        elif op.name == "p.if":
            self.read(op, op.operand(0))
            for r, v in zip(op.results, self.block(op.regions[self.branch]), strict=True):
                self.alias(r, v)

    def loop(self, op: Op) -> None:
        flags = int(op.attr("conditional"))
        state: tuple[Value, ...] = op.inputs
        for _ in range(self.iterations):
            for v in state[:flags]:
                self.read(op, v)
            for arg, buffer in zip(op.regions[0].args, [self.buffers.get(v) for v in state[flags:]], strict=True):
                self.buffers.pop(arg, None)
                if buffer is not None:
                    self.buffers[arg] = buffer
            state = self.block(op.regions[0])
        for r, v in zip(op.results, state[flags:], strict=True):
            self.alias(r, v)

    def alias(self, v: Value, of: Value) -> None:
        """`v` now is the buffer that `of` is, if it is in the arena."""
        self.buffers.pop(v, None)
        if of in self.buffers:
            self.buffers[v] = self.buffers[of]

    # ---- memory ----------------------------------------------------------------------------------------------------
    def alloc(self, op: Op) -> None:
        v, offset = op.result, op.attr("offset")
        size = most_elements(v.mem.shape, self.attrs.get("run_symbols") or ())
        if offset is None or size is None:
            raise PlanError(f"%{v.name} has no place in the arena")
        start = evaluate(offset, self.dims)
        stop = start + evaluate(v.mem.dtype.nbytes(size), self.dims)
        if start < 0 or start % ALIGN or stop > self.arena:
            raise PlanError(f"%{v.name} at [{start}, {stop}) does not lie in the arena of {self.arena} bytes")
        self.buffers[v], self.extents[v] = v, (start, stop)
        if v not in self.numbers:
            self.numbers[v] = len(self.owners)
            self.owners.append(v)

    def run(self, op: Op, reads: list[Value], writes: list[Value]) -> None:
        for v in reads:
            self.read(op, v)
        for v in writes:
            self.write(v)
        for v in reads:                        # a kernel reads and writes in any order
            self.read(op, v)

    def read(self, op: Op, v: Value) -> None:
        buffer = self.buffers.get(v)
        if buffer in self.evicted:
            raise PlanError(f"%{buffer.name} is overwritten by %{self.evicted[buffer].name} when {op.name} of "
                            f"'{op.loc}' reads it")

    def write(self, v: Value) -> None:
        buffer = self.buffers.get(v)
        if buffer is None:
            return
        start, stop = self.extents[buffer]
        self.evicted.pop(buffer, None)
        if start == stop:
            return
        at = bisect.bisect_left(self.intact, (start, -1, -1))
        if at and self.intact[at - 1][1] > start:
            at -= 1
        end = at
        while end < len(self.intact) and self.intact[end][0] < stop:
            other = self.owners[self.intact[end][2]]
            if other is not buffer:
                self.evicted[other] = buffer
            end += 1
        self.intact[at:end] = [(start, stop, self.numbers[buffer])]
