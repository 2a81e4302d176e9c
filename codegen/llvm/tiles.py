"""Chooses the tile and the blocking of a contraction for a target.

Owns the sizes and their reasons; `microkernel` and `contract_loops` take any.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from onnxc.codegen.llvm.contract_loops import Blocking, rows_met
from onnxc.codegen.llvm.microkernel import ITEM_BYTES, Coding, Microkernel
from onnxc.codegen.llvm.target import Target

# More rows than this and their pointers no longer fit the 16 general registers, and more lines of the left operand are
# in use at once than a set of the first-level cache holds when its rows are a multiple of 4 KiB apart: 14x32 floats
# reached 46 % of peak at 1024x1024x1024 where 6x64, 8x48 and 5x80 reached 95-96 %.
_MOST_ROWS = 6
# Powers of two divide the usual numbers of channels.
_VECTOR_COUNTS = (4, 2, 1)
_CHUNK_ROWS = 96
# Two by two of a matrix unit's registers of sums: each of either operand's is multiplied twice.
_AMX_ROWS, _AMX_VECTORS, _AMX_LANES = 32, 2, 16
_NARROWEST_VECTOR_BYTES = 16


def scratch_registers(target: Target, dtype: str) -> int:
    """Vector registers that multiply-adds need beside the accumulators and one row of the panel.

    One holds the left operand; separate products and multiplications made of narrower ones take the others, as many as
    it took LLVM to keep the inner loop free of spills (a test looks).
    """
    features = target.features
    if dtype in ("f32", "f64"):
        return 1 if target.arch == "aarch64" or "fma" in features else 2
    if dtype == "i32":
        return 3 if target.arch == "aarch64" or "sse4.1" in features else 6
    if target.arch == "aarch64":
        return 20  # products are made in general registers, which run out first
    if "avx512dq" in features and target.vector_bytes == 64:
        return 3
    return 6 if "avx2" in features else 8


def tile_for(target: Target, dtype: str, n: int | None = None) -> Microkernel:
    """The full tile: of those whose operands stay in registers, the one with most multiply-adds a load.

    `n`, the result's columns when known, narrows a tile that they would not fill, down to 16-byte vectors.
    """
    item = ITEM_BYTES[dtype]
    lanes = _narrowed(target.vector_bytes // item, item, n)
    most_vectors = _VECTOR_COUNTS[0] if n is None else max(1, -(-n // lanes))
    free = target.vector_registers - scratch_registers(target, dtype)
    shapes = []
    for vectors in _VECTOR_COUNTS:
        rows = min(_MOST_ROWS, (free - vectors) // vectors)
        if rows >= 1 and (vectors <= most_vectors or vectors == 1):
            shapes.append((rows * vectors / (rows + vectors), rows, vectors))
    _, rows, vectors = max(shapes)
    return Microkernel(dtype, rows, vectors, lanes, rows)


def byte_tile_for(target: Target, dot: str, signs: str, n: int | None = None) -> Microkernel:
    """The full tile for products of bytes, as `tile_for`. Beside the tile in registers: the panel's vectors (twice, as
    even and odd bytes, where products are made in pairs), one of the left operand alike, and where the left operand is
    flipped a sum for each vector and the bits to flip."""
    if dot == "amx":
        return Microkernel("i32", _AMX_ROWS, _AMX_VECTORS, _AMX_LANES, _AMX_ROWS, dot, signs)
    lanes = _narrowed(target.vector_bytes // 4, 4, n)
    most_vectors = _VECTOR_COUNTS[0] if n is None else max(1, -(-n // lanes))
    flips = signs[0] == signs[1]
    copies, free = (1, 1) if dot == "vnni" else (2, 4)
    free = target.vector_registers - free - 2 * flips
    shapes = []
    for vectors in _VECTOR_COUNTS:
        rows = min(_MOST_ROWS, (free - vectors * (copies + flips)) // vectors)
        if rows >= 1 and (vectors <= most_vectors or vectors == 1):
            shapes.append((rows * vectors / (rows + vectors), rows, vectors))
    _, rows, vectors = max(shapes)
    return Microkernel("i32", rows, vectors, lanes, rows, dot, signs)


def narrow_tile_for(target: Target, tile: Microkernel, coding: Coding) -> Microkernel:
    """The tile of most rows over the columns of `tile` whose weights are narrow. In registers are a block's sums and
    the totals that they are added to, a weight, its word, and what is looked up; floats need no more than others."""
    if coding.is_float:
        return replace(tile, coding=coding)
    rows = (target.vector_registers - 4) // (2 * tile.vectors)
    rows = max(1, min(tile.rows, rows))
    return replace(tile, rows=rows, pitch=rows, coding=coding)


def _narrowed(lanes: int, item: int, n: int | None) -> int:
    """`lanes`, halved while `n` columns fill half of them, down to 16-byte vectors."""
    while n is not None and n <= lanes // 2 and lanes * item > _NARROWEST_VECTOR_BYTES:
        lanes //= 2
    return lanes


def blocking_for(
    target: Target,
    dtype: str,
    *,
    n: int | None = None,
    job_rows: Iterable[int] | None = None,
    tile: Microkernel | None = None,
) -> Blocking:
    """The blocking for `n` columns and jobs of `job_rows` rows; None where a number is known at run time only. `tile`
    is `tile_for`'s unless given.

    Half of the second-level cache holds a panel's block of depth, the other half the chunk's rows.
    """
    tile = tile or tile_for(target, dtype, n)
    chunk_rows = _CHUNK_ROWS // tile.rows * tile.rows
    row_counts = None
    if job_rows is not None:
        row_counts = frozenset().union(*(rows_met(rows, chunk_rows, tile) for rows in job_rows))
    vector_counts = None
    if n is not None:
        columns = tile.vectors * tile.lanes
        vector_counts = frozenset(-(-min(columns, n - n0) // tile.lanes) for n0 in range(0, n, columns))
    return Blocking(tile, chunk_rows, target.l2_bytes // 2, row_counts, vector_counts)
