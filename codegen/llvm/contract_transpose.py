"""Packs panels of an operand that is contiguous along k: squares are read along k, transposed in registers, stored
along n."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from llvmlite import ir

from onnxc.codegen.accesses import loop_axes
from onnxc.codegen.llvm.abi import PTR
from onnxc.codegen.llvm.contract_epilogue import lane_mask
from onnxc.codegen.llvm.contract_form import place_of
from onnxc.codegen.llvm.contract_pack import INSIDE, WIDTH, Part
from onnxc.codegen.llvm.dims import constant, splat
from onnxc.codegen.llvm.loops import counted_loop
from onnxc.codegen.llvm.nests import scalar_nest
from onnxc.codegen.llvm.registers import memory_type
from onnxc.codegen.llvm.scope import Scope
from onnxc.codegen.llvm.transpose import transposed
from onnxc.ir.types import Mem

__all__ = ["emit_transposed"]

Stored = Callable[[ir.IRBuilder, ir.Value, list[ir.Value]], None]


def emit_transposed(scope: Scope, part: Part, columns: int) -> None:
    """Emit what `part.sweep`, which packs a panel of `columns` columns, computes; `part.element` is its region. Columns
    past the last one repeat it."""
    _Transposer(part, columns, scope.kernel.memory[part.buffer]).emit(scope)


@dataclasses.dataclass(frozen=True)
class _Transposer:
    part: Part
    columns: int
    buffer: ir.Value

    @property
    def side(self) -> int:
        """Rows and columns of a square."""
        return min(self.part.schedule.lanes, self.columns)

    @property
    def vector(self) -> ir.VectorType:
        assert isinstance(self.part.buffer.type, Mem)
        return ir.VectorType(memory_type(self.part.buffer.type.dtype), self.side)

    def emit(self, scope: Scope) -> None:
        axes = [a for a in loop_axes(self.part.sweep) if a[0] not in (INSIDE, self.part.across)]
        with scope.builder.goto_entry_block():
            stack = scope.builder.alloca(ir.ArrayType(self.vector, self.side))
            stack.align = 64
            stack.type = PTR

        def inside(inner: Scope, carried: list[ir.Value]) -> list[ir.Value]:
            self.line(inner, stack)
            return carried

        scalar_nest(scope, axes, [], inside)

    def line(self, scope: Scope, stack: ir.Value) -> None:
        """All squares at one position of the other k axes."""
        b, side = scope.builder, self.side
        extent = scope.dim(dict(loop_axes(self.part.sweep))[self.part.across])
        whole = b.and_(extent, constant(-side))

        def full(b: ir.IRBuilder, k: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            self.squares(scope, stack, k, None)
            return []

        counted_loop(b, "square", 0, whole, side, [], full)
        with b.if_then(b.icmp_signed("<", whole, extent)):
            self.squares(scope, stack, whole, b.sub(extent, whole))

    def squares(self, scope: Scope, stack: ir.Value, k: ir.Value, steps: ir.Value | None) -> None:
        """The squares at steps [k, k + side) of all columns; only the first `steps` of them exist, if given."""
        b, width = scope.builder, scope.axes[WIDTH]

        def square(b: ir.IRBuilder, column: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            self.read(scope, stack, k, column, steps)
            rows = [b.load(self.at(b, stack, constant(i)), typ=self.vector) for i in range(self.side)]
            turned = transposed(b, rows)
            if steps is None:
                for i, row in enumerate(turned):
                    self.store(scope, row, b.add(k, constant(i)), column)
                return []
            for i, row in enumerate(turned):
                b.store(row, self.at(b, stack, constant(i)))

            def one(b: ir.IRBuilder, i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
                self.store(scope, b.load(self.at(b, stack, i), typ=self.vector), b.add(k, i), column)
                return []

            counted_loop(b, "step", 0, steps, 1, [], one)
            return []

        counted_loop(b, "column", 0, width, self.side, [], square)

    def read(self, scope: Scope, stack: ir.Value, k: ir.Value, column: ir.Value, steps: ir.Value | None) -> None:
        """The square's columns, each a vector along k, one after the other on the stack."""
        mask = None if steps is None else lane_mask(scope.builder, steps, self.side)
        last = scope.builder.sub(scope.axes[WIDTH], constant(1))

        def one(b: ir.IRBuilder, i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            wanted = b.add(column, i)
            existing = b.select(b.icmp_signed("<", wanted, last), wanted, last)
            axes: Mapping[str, ir.Value] = {self.part.across: k, INSIDE: existing}
            inner = scope.within(axes=axes, lanes=self.side, axis=self.part.across, mask=mask)
            assert self.part.element is not None
            (element,) = scope.kernel.block(inner, self.part.element)
            b.store(splat(b, element.value, self.side), self.at(b, stack, i))
            return []

        counted_loop(scope.builder, "read", 0, self.side, 1, [], one)

    def at(self, b: ir.IRBuilder, stack: ir.Value, index: ir.Value) -> ir.Value:
        return b.gep(stack, [index], inbounds=True, source_etype=self.vector)

    def store(self, scope: Scope, row: ir.Value, k: ir.Value, column: ir.Value) -> None:
        b = scope.builder
        axes = [a for a in loop_axes(self.part.sweep) if a[0] != INSIDE]
        place = scope.within(axes={self.part.across: k}).dim(place_of(axes) * self.columns)
        pointer = b.gep(self.buffer, [b.add(place, column)], inbounds=True, source_etype=self.vector.element)
        item = 8 if self.vector.element in (ir.DoubleType(), ir.IntType(64)) else 4
        b.store(row, pointer, align=item)
