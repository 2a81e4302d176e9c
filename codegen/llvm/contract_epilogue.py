"""Walks over a complete block of a contraction in vectors, for epilogues to consume.

What becomes of a vector, and where it is stored, is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from onnxc.codegen.llvm.contract_loops import Block, Blocking
from onnxc.codegen.llvm.loops import counted_loop, i64
from onnxc.codegen.llvm.microkernel import ITEM_BYTES, byte_offset

VectorBody = Callable[[ir.IRBuilder, Any, ir.Value, ir.Value, ir.Value | None], None]
Row = Callable[[ir.IRBuilder, ir.Value], Any]


def sweep(
    builder: ir.IRBuilder,
    blocking: Blocking,
    block: Block,
    body: VectorBody,
    of_row: Row = lambda builder, m: m,
    straight: bool = True,
) -> None:
    """Emit an epilogue's loops over the vectors of a block, left behind by `builder`.

    `body(builder, row, n, value, mask)` consumes the vector `value` of elements (m, n) to (m, n + lanes - 1), where
    `row` is what `of_row(builder, m)` computed once for the row. `mask` is None where all lanes are columns of the
    block, and a vector of i1 for the last, partial one. The body is emitted several times. A full panel takes
    straight-line code over its columns, unless `straight` is false.
    """
    tile = blocking.tile
    lanes, item = tile.lanes, ITEM_BYTES[tile.dtype]

    def vector(b: ir.IRBuilder, row: ir.Value, m: Any, c: ir.Value, mask: ir.Value | None) -> None:
        pointer = byte_offset(b, row, b.mul(c, i64(item)))
        value = b.load(pointer, typ=tile.vector_type, align=item)
        body(b, m, b.add(block.n0, c), value, mask)

    def each_full_row(b: ir.IRBuilder, r: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        row, m = byte_offset(b, block.tile, b.mul(r, block.stride)), of_row(b, b.add(block.m0, r))
        for v in range(tile.vectors):
            vector(b, row, m, i64(v * lanes), None)
        return []

    def each_row(b: ir.IRBuilder, r: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        row, m = byte_offset(b, block.tile, b.mul(r, block.stride)), of_row(b, b.add(block.m0, r))
        whole = b.and_(block.columns, i64(-lanes))

        def each_vector(b: ir.IRBuilder, c: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            vector(b, row, m, c, None)
            return []

        counted_loop(b, "vector", 0, whole, lanes, [], each_vector)
        with b.if_then(b.icmp_signed("<", whole, block.columns)):
            vector(b, row, m, whole, lane_mask(b, b.sub(block.columns, whole), lanes))
        return []

    if not straight:
        counted_loop(builder, "row", 0, block.rows, 1, [], each_row)
        return
    is_full = builder.icmp_signed("==", block.columns, i64(blocking.columns))
    with builder.if_else(is_full) as (full, partial):
        with full:
            counted_loop(builder, "row", 0, block.rows, 1, [], each_full_row)
        with partial:
            counted_loop(builder, "row", 0, block.rows, 1, [], each_row)


def lane_mask(builder: ir.IRBuilder, count: ir.Value, lanes: int) -> ir.Value:
    """A vector of i1 whose first `count` lanes (i64) are set."""
    narrow = ir.IntType(32)
    ramp = ir.Constant(ir.VectorType(narrow, lanes), [ir.Constant(narrow, i) for i in range(lanes)])
    undefined = ir.Constant(ir.VectorType(narrow, lanes), ir.Undefined)
    first = builder.insert_element(undefined, builder.trunc(count, narrow), ir.Constant(narrow, 0))
    splat = builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(narrow, lanes), None))
    return builder.icmp_signed("<", ramp, splat)
