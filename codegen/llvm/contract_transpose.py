"""Packs operands whose elements are neighbours along the other axis than the engine wants: squares are read along the
one, transposed in registers, stored along the other. Panels of what is contiguous along k, rows of what is not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from llvmlite import ir

from onnxc.codegen.accesses import loop_axes
from onnxc.codegen.llvm.abi import PTR
from onnxc.codegen.llvm.contract_epilogue import lane_mask
from onnxc.codegen.llvm.contract_form import extent_of, place_of
from onnxc.codegen.llvm.contract_pack import INSIDE, WIDTH, Part
from onnxc.codegen.llvm.dims import constant, splat
from onnxc.codegen.llvm.loops import counted_loop
from onnxc.codegen.llvm.memory import masked_store
from onnxc.codegen.llvm.nests import scalar_nest
from onnxc.codegen.llvm.registers import memory_type
from onnxc.codegen.llvm.scope import Scope
from onnxc.codegen.llvm.transpose import transposed
from onnxc.ir.dims import sym
from onnxc.ir.types import Mem

__all__ = ["emit_transposed", "emit_transposed_rows"]

Stored = Callable[[ir.IRBuilder, ir.Value, list[ir.Value]], None]


def emit_transposed(scope: Scope, part: Part, columns: int) -> None:
    """Emit what `part.sweep`, which packs a panel of `columns` columns, computes; `part.element` is its region. Columns
    past the last one repeat it."""
    _PanelTransposer(part, scope.kernel.memory[part.buffer], columns).emit(scope)


def emit_transposed_rows(scope: Scope, part: Part) -> None:
    """Emit what `part.sweep`, which packs rows, computes; `part.element` is its region."""
    _RowTransposer(part, scope.kernel.memory[part.buffer]).emit(scope)


@dataclasses.dataclass(frozen=True)
class _Squares:
    """Squares of `side` vectors, which lie on the stack between being read and being transposed."""

    part: Part
    buffer: ir.Value

    @property
    def side(self) -> int:
        return self.part.schedule.lanes

    @property
    def vector(self) -> ir.VectorType:
        assert isinstance(self.part.buffer.type, Mem)
        return ir.VectorType(memory_type(self.part.buffer.type.dtype), self.side)

    @property
    def item(self) -> int:
        """Bytes of an element."""
        return 8 if self.vector.element in (ir.DoubleType(), ir.IntType(64)) else 4

    def room(self, scope: Scope) -> ir.Value:
        with scope.builder.goto_entry_block():
            stack = scope.builder.alloca(ir.ArrayType(self.vector, self.side))
            stack.align = 64
            stack.type = PTR
        return stack

    def at(self, b: ir.IRBuilder, stack: ir.Value, index: ir.Value) -> ir.Value:
        return b.gep(stack, [index], inbounds=True, source_etype=self.vector)

    def read(self, scope: Scope, stack: ir.Value, along: tuple[str, ir.Value], over: tuple[str, ir.Value],
             last: ir.Value, count: ir.Value | None) -> list[ir.Value]:
        """The vectors along one axis, at positions of the other that go on from its own up to `last`, which is repeated
        then; of each vector only the first `count` elements exist, if given."""
        b, (axis, start), (name, first) = scope.builder, along, over
        mask = None if count is None else lane_mask(b, count, self.side)

        def one(b: ir.IRBuilder, i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            wanted = b.add(first, i)
            existing = b.select(b.icmp_signed("<", wanted, last), wanted, last)
            axes: Mapping[str, ir.Value] = {axis: start, name: existing}
            inner = scope.within(axes=axes, lanes=self.side, axis=axis, mask=mask)
            assert self.part.element is not None
            (element,) = scope.kernel.block(inner, self.part.element)
            b.store(splat(b, element.value, self.side), self.at(b, stack, i))
            return []

        counted_loop(b, "read", 0, self.side, 1, [], one)
        return transposed(b, [b.load(self.at(b, stack, constant(i)), typ=self.vector) for i in range(self.side)])

    def write(self, b: ir.IRBuilder, stack: ir.Value, rows: list[ir.Value], count: ir.Value | None,
              store: Callable[[ir.IRBuilder, ir.Value, ir.Value], None]) -> None:
        """Stores the transposed rows, or the first `count` of them, each with its index."""
        if count is None:
            for i, row in enumerate(rows):
                store(b, row, constant(i))
            return
        for i, row in enumerate(rows):
            b.store(row, self.at(b, stack, constant(i)))

        def one(b: ir.IRBuilder, i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            store(b, b.load(self.at(b, stack, i), typ=self.vector), i)
            return []

        counted_loop(b, "step", 0, count, 1, [], one)

    def cut(self, b: ir.IRBuilder, name: str, extent: ir.Value,
            each: Callable[[ir.IRBuilder, ir.Value, ir.Value | None], None]) -> None:
        """Goes through [0, extent) a side at a time; the last call is given how many there are if not all."""
        whole = b.and_(extent, constant(-self.side))

        def full(b: ir.IRBuilder, start: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            each(b, start, None)
            return []

        counted_loop(b, name, 0, whole, self.side, [], full)
        with b.if_then(b.icmp_signed("<", whole, extent)):
            each(b, whole, b.sub(extent, whole))


@dataclasses.dataclass(frozen=True)
class _RowTransposer(_Squares):
    """[row][k] out of vectors along the rows."""

    def emit(self, scope: Scope) -> None:
        stack, (*outer, (name, extent), _) = self.room(scope), loop_axes(self.part.sweep)

        def inside(inner: Scope, carried: list[ir.Value]) -> list[ir.Value]:
            last = inner.builder.sub(inner.dim(extent), constant(1))

            def band(b: ir.IRBuilder, k: ir.Value, steps: ir.Value | None) -> None:
                self.cut(b, "row", inner.axes[WIDTH], lambda b, row, rows: square(b, row, rows, k, steps))

            def square(b: ir.IRBuilder, row: ir.Value, rows: ir.Value | None, k: ir.Value,
                       steps: ir.Value | None) -> None:
                turned = self.read(inner, stack, (INSIDE, row), (name, k), last, rows)
                self.write(b, stack, turned, rows, lambda b, vector, i: self.store(
                    inner, vector, {INSIDE: b.add(row, i), name: k}, steps))

            self.cut(inner.builder, "square", inner.dim(extent), band)
            return carried

        scalar_nest(scope, outer, [], inside)

    def store(self, scope: Scope, row: ir.Value, axes: Mapping[str, ir.Value], steps: ir.Value | None) -> None:
        b, k = scope.builder, [a for a in loop_axes(self.part.sweep) if a[0] != INSIDE]
        place = scope.within(axes=axes).dim(sym(INSIDE) * extent_of(k) + place_of(k))
        pointer = b.gep(self.buffer, [place], inbounds=True, source_etype=self.vector.element)
        if steps is None:
            b.store(row, pointer, align=self.item)
        else:
            masked_store(b, row, pointer, lane_mask(b, steps, self.side), self.item)


@dataclasses.dataclass(frozen=True)
class _PanelTransposer(_Squares):
    """[k][column] out of vectors along k. Columns past the last one repeat it."""

    columns: int

    @property
    def side(self) -> int:
        return min(self.part.schedule.lanes, self.columns)

    def emit(self, scope: Scope) -> None:
        stack, across = self.room(scope), self.part.across
        axes = loop_axes(self.part.sweep)

        def inside(inner: Scope, carried: list[ir.Value]) -> list[ir.Value]:
            self.cut(inner.builder, "square", inner.dim(dict(axes)[across]),
                     lambda _, k, steps: self.squares(inner, stack, k, steps))
            return carried

        scalar_nest(scope, [a for a in axes if a[0] not in (INSIDE, across)], [], inside)

    def squares(self, scope: Scope, stack: ir.Value, k: ir.Value, steps: ir.Value | None) -> None:
        """The squares at steps [k, k + side) of all columns; only the first `steps` of them exist, if given."""
        width = scope.axes[WIDTH]
        last = scope.builder.sub(width, constant(1))

        def square(b: ir.IRBuilder, column: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            turned = self.read(scope, stack, (self.part.across, k), (INSIDE, column), last, steps)
            self.write(b, stack, turned, steps, lambda b, row, i: self.store(scope, row, b.add(k, i), column))
            return []

        counted_loop(scope.builder, "column", 0, width, self.side, [], square)

    def store(self, scope: Scope, row: ir.Value, k: ir.Value, column: ir.Value) -> None:
        b, axes = scope.builder, [a for a in loop_axes(self.part.sweep) if a[0] != INSIDE]
        place = scope.within(axes={self.part.across: k}).dim(place_of(axes) * self.columns)
        pointer = b.gep(self.buffer, [b.add(place, column)], inbounds=True, source_etype=self.vector.element)
        b.store(row, pointer, align=self.item)
