"""Where an op of a kernel is emitted: the values and axes it sees, and the vector lanes it runs in.

A scope is what changes from loop to loop; what holds for the whole kernel is `KernelContext`. Inside a vector loop one
axis is laid across lanes: its entry in `axes` is the position of lane 0, and a value is a vector exactly when it
depends on that axis.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from llvmlite import ir

from onnxc.codegen.accesses import Accesses, Condition
from onnxc.codegen.llvm.abi import I64
from onnxc.codegen.llvm.dims import DimEmitter, constant
from onnxc.codegen.llvm.registers import Element
from onnxc.codegen.llvm.scalars import Scalars
from onnxc.codegen.llvm.target import Target
from onnxc.codegen.schedule import Schedule
from onnxc.ir.core import Block, Func, Value
from onnxc.ir.dims import DimLike

__all__ = ["KernelContext", "Scope"]


@dataclasses.dataclass
class KernelContext:
    """A kernel being emitted. `block(scope, region)` emits the ops of a region and gives what it yields."""

    func: Func
    function: ir.Function
    target: Target
    schedule: Schedule
    accesses: Accesses
    context: ir.Value                       # pointer to the run's context
    memory: dict[Value, ir.Value]           # base pointers of the memory arguments
    symbols: Mapping[str, ir.Value]
    errors: Callable[[str], int]
    block: Callable[[Scope, Block], list[Element]]
    vectorised: dict[Any, str]              # loop op -> its axis across lanes


@dataclasses.dataclass(frozen=True)
class Scope:
    """An insertion point and what is visible there. `mask` says which lanes are real (None: all of them); `known` holds
    the conditions of accesses that are true here."""

    builder: ir.IRBuilder
    kernel: KernelContext
    values: Mapping[Value, Element]
    axes: Mapping[str, ir.Value]
    lanes: int = 1
    axis: str = ""
    mask: ir.Value | None = None
    known: frozenset[Condition] = frozenset()

    def within(self, **changes: Any) -> Scope:
        """A scope inside this one: mappings are extended, the other fields replaced."""
        for name in ("values", "axes"):
            if name in changes:
                changes[name] = {**getattr(self, name), **changes[name]}
        return dataclasses.replace(self, **changes)

    @property
    def scalars(self) -> Scalars:
        return Scalars(self.builder, self.kernel.target)

    def dim(self, d: DimLike, operands: Mapping[str, ir.Value] | None = None, lane_zero: bool = False) -> ir.Value:
        """The value of an index expression: a vector where it depends on the lanes, unless only lane 0 is asked for."""
        env = {**self.kernel.symbols, **self.axes, **(operands or {})}
        if self.lanes > 1 and not lane_zero:
            env[self.axis] = self.lane_positions()
        return DimEmitter(self.builder, env, self.kernel.accesses.rank)(d)

    def lane_positions(self) -> ir.Value:
        """The vector axis's position in each lane."""
        vector = ir.VectorType(I64, self.lanes)
        steps = ir.Constant(vector, [ir.Constant(I64, i) for i in range(self.lanes)])
        first = self.axes[self.axis]
        seed = self.builder.insert_element(ir.Constant(vector, ir.Undefined), first, constant(0, ir.IntType(32)))
        spread = self.builder.shuffle_vector(seed, ir.Constant(vector, ir.Undefined),
                                             ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), None))
        return self.builder.add(spread, steps)
