"""Square tiles of memory, transposed in registers: for loads whose neighbours lie along another axis than the lanes.

A tile is `lanes` rows, read as vectors along the axis in which memory is contiguous. After the transposition the
vectors run along the lanes' axis; they are left on the stack, where the kernel's body finds one at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from llvmlite import ir

from onnxc.codegen.accesses import Accesses, linear_in
from onnxc.codegen.llvm.abi import I32, PTR
from onnxc.codegen.llvm.dims import constant
from onnxc.codegen.llvm.registers import Element, memory_type
from onnxc.codegen.llvm.scope import Scope
from onnxc.ir.core import Op
from onnxc.ir.dims import DimLike, symbols_of
from onnxc.ir.types import BOOL, DType, Mem

__all__ = ["TiledLoad", "read_row", "read_tile", "tiled_loads", "transposed"]


@dataclasses.dataclass(frozen=True)
class TiledLoad:
    """A load at `rest + along + stride * across` elements: contiguous along one axis, strided across the lanes."""

    op: Op
    dtype: DType
    stride: DimLike
    rest: DimLike


def tiled_loads(accesses: Accesses, along: str, across: str) -> list[TiledLoad]:
    """The loads directly in the outer points that tiles serve, with `across` the lanes' axis."""
    found = []
    region = accesses.axes[across].loop.regions[0]
    for op in region.ops:
        if op.name != "k.load" or len(op.operands) > 1 or op.operand(0) in accesses.written:
            continue
        mem = op.operand(0).type
        assert isinstance(mem, Mem)
        rows = linear_in(accesses.flat(op), across)
        columns = linear_in(rows.rest, along) if rows is not None else None
        if rows is None or columns is None or columns.stride != 1 or mem.dtype.bits < 8:
            continue
        if rows.stride in (0, 1) or along in symbols_of(rows.stride):
            continue
        if not any({along, across} <= symbols_of(c) for c in accesses.conditions(op)):
            found.append(TiledLoad(op, mem.dtype, rows.stride, columns.rest))
    return found


def read_tile(scope: Scope, load: TiledLoad, first: ir.Value) -> ir.Value:
    """Reads the tile at the scope's lanes and at [first, first + lanes) of the contiguous axis; gives its address."""
    b, lanes = scope.builder, scope.lanes
    element = memory_type(load.dtype)
    vector = ir.VectorType(element, lanes)
    size = max(load.dtype.bits // 8, 1)
    stride = scope.dim(load.stride)
    start = b.add(b.add(scope.dim(load.rest), first), b.mul(stride, scope.axes[scope.axis]))
    pointer = b.gep(scope.kernel.memory[load.op.operand(0)], [start], inbounds=True, source_etype=element)
    rows = []
    for i in range(lanes):
        rows.append(b.load(pointer, typ=vector, align=size))
        if i + 1 < lanes:
            pointer = b.gep(pointer, [stride], inbounds=True, source_etype=element)
    with b.goto_entry_block():
        tile = b.alloca(ir.ArrayType(vector, lanes))
        tile.align = 64
        tile.type = PTR
    for i, column in enumerate(transposed(b, rows)):
        b.store(column, b.gep(tile, [constant(i)], inbounds=True, source_etype=vector), align=size * lanes)
    return tile


def read_row(scope: Scope, load: TiledLoad, tile: ir.Value, index: ir.Value) -> Element:
    """The lanes' elements at position `index` of the tile's contiguous axis."""
    b = scope.builder
    vector = ir.VectorType(memory_type(load.dtype), scope.lanes)
    align = max(load.dtype.bits // 8, 1) * scope.lanes
    raw = b.load(b.gep(tile, [index], inbounds=True, source_etype=vector), typ=vector, align=align)
    if load.dtype == BOOL:
        return Element(b.icmp_unsigned("!=", raw, ir.Constant(vector, None)), BOOL)
    return Element(raw, load.dtype)


def transposed(b: ir.IRBuilder, rows: Sequence[ir.Value]) -> list[ir.Value]:
    """The columns of a square of vectors: blocks off the diagonal change places, for blocks of 1, 2, 4 ... elements."""
    rows, lanes = list(rows), len(rows)
    size = 1
    while size < lanes:
        for i in range(lanes):
            if i & size == 0:
                rows[i], rows[i + size] = _exchange(b, rows[i], rows[i + size], size, lanes)
        size *= 2
    return rows


def _exchange(b: ir.IRBuilder, top: ir.Value, bottom: ir.Value, size: int, lanes: int) -> tuple[ir.Value, ir.Value]:
    """Two rows of blocks after the right block of the upper and the left block of the lower have changed places."""
    def pick(order: list[int]) -> ir.Value:
        places = ir.Constant(ir.VectorType(I32, lanes), [ir.Constant(I32, x) for x in order])
        return b.shuffle_vector(top, bottom, places)

    upper = [j if j & size == 0 else lanes + j - size for j in range(lanes)]
    lower = [j + size if j & size == 0 else lanes + j for j in range(lanes)]
    return pick(upper), pick(lower)
