"""How a contraction is cut on a CPU target: its tile, the rows that share a panel, the depth of a block, the least
work.

The schedule's fields: `rows` and `vectors` of `lanes` elements make the tile, `chunk` rows of the left operand pass
over a panel together, `depth` steps of k are a block. A job is one panel of columns for one chunk of rows; a thread
that takes neighbouring jobs takes neighbouring panels of the same rows, whose pointers or packed copies it makes once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from onnxc.codegen.llvm.casts import converts_half
from onnxc.codegen.llvm.contract_form import axes_of, bytes_of, contraction_of, extent_of, rows_of, signs_of
from onnxc.codegen.llvm.contract_loops import Blocking, rows_met
from onnxc.codegen.llvm.contract_plan import Plan, plan_of
from onnxc.codegen.llvm.microkernel import BLOCK_ROWS, ITEM_BYTES, STEPS, Coding, Microkernel
from onnxc.codegen.llvm.microkernel_amx import has_amx
from onnxc.codegen.llvm.microkernel_bytes import dot_for
from onnxc.codegen.llvm.microkernel_narrow import STEPS_TOGETHER
from onnxc.codegen.llvm.narrow import group_of
from onnxc.codegen.llvm.target import Target
from onnxc.codegen.llvm.tiles import blocking_for, byte_tile_for, narrow_tile_for
from onnxc.codegen.schedule import Schedule
from onnxc.ir.core import Func
from onnxc.ir.dims import DimLike, ceildiv, dim_max, dim_min, floordiv
from onnxc.ir.types import DType, Mem

__all__ = ["TILE_TYPES", "blocking_of", "chunks_of", "coding_of", "few_blocking", "grain_of", "schedule_contraction"]

TILE_TYPES = {"f32": "f32", "f64": "f64", "i32": "i32", "u32": "i32", "i64": "i64", "u64": "i64"}
"""Accumulators that tiles hold -> the micro-kernels' type: integers of one width multiply and add alike."""

# Packing a panel costs about as much as two dozen rows of products, so that more rows share one that is packed as it is
# used.
_PACKED_CHUNKS = 4

# Waking a worker that sleeps costs about 10 us, so that less work than this many cycles of multiply-adds is not shared.
_CYCLES_WORTH_SHARING = 16384
_FMAS_A_CYCLE = 2
_BYTES_READ_AHEAD = 1 << 17
_WORK_A_LANE = {"vnni": 2, "amx": 8}
_ROWS_A_READ = 4


def schedule_contraction(func: Func, target: Target) -> Schedule:
    """The schedule of a contraction in normal form."""
    op = contraction_of(func)
    accumulate = cast(DType, op.attrs["accumulate"])
    dtype = TILE_TYPES[accumulate.name]
    height, columns = extent_of(axes_of(op, "m")), extent_of(axes_of(op, "n"))
    width = columns if isinstance(columns, int) else None
    types = bytes_of(op)
    dot = dot_for(target) if types else ""
    if types and has_amx(target) and _fills_blocks(height, columns, extent_of(axes_of(op, "k"))):
        dot = "amx"
    of_bytes = byte_tile_for(target, dot, signs_of(types), width) if dot and types else None
    blocking = blocking_for(target, dtype, n=width, tile=of_bytes)
    tile = blocking.tile
    plan = plan_of(func, blocking.columns, tile.lanes, tile.dot)
    chunk = blocking.chunk_rows * (1 if plan.panels is not None else _PACKED_CHUNKS)
    if isinstance(height, int):
        chunk = min(chunk, max(1, -(-height // tile.rows)) * tile.rows)
    n = axes_of(op, "n")
    return Schedule(
        vector=n[0][0] if n else "",
        lanes=tile.lanes,
        rows=tile.rows,
        vectors=tile.vectors,
        chunk=chunk,
        depth=blocking.block_bytes // blocking.row_bytes * tile.group,
        dot=tile.dot,
    )


def _fills_blocks(height: DimLike, columns: DimLike, depth: DimLike) -> bool:
    """Whether a matrix unit's blocks of rows and columns, and its steps of depth, are mostly full."""
    least = ((height, BLOCK_ROWS // 2), (columns, BLOCK_ROWS), (depth, STEPS["amx"] // 2))
    return all(not isinstance(extent, int) or extent > limit for extent, limit in least)


def blocking_of(func: Func, schedule: Schedule) -> Blocking:
    """The engine's blocking for a scheduled contraction: sizes of tile that its extents rule out are left out."""
    op = contraction_of(func)
    accumulate = cast(DType, op.attrs["accumulate"])
    dtype = TILE_TYPES[accumulate.name]
    types = bytes_of(op) if schedule.dot else None
    signs = signs_of(types) if types else ""
    tile = Microkernel(
        dtype, schedule.rows, schedule.vectors, schedule.lanes, schedule.rows, schedule.dot if types else "", signs
    )
    width = tile.vectors * tile.lanes
    height, columns = extent_of(rows_of(op)), extent_of(axes_of(op, "n"))
    row_counts, vector_counts = None, None
    if isinstance(height, int):
        row_counts = _row_counts(height, schedule.chunk, tile)
    if isinstance(columns, int):
        vector_counts = frozenset(-(-min(width, columns - n0) // tile.lanes) for n0 in range(0, columns, width)) or None
    block_bytes = -(-schedule.depth // tile.group) * width * ITEM_BYTES[dtype]
    return Blocking(tile, schedule.chunk, block_bytes, row_counts, vector_counts)


def reads_ahead(plan: Plan, tile: Microkernel) -> bool:
    """Whether tiles ask for the panel's next block while they multiply: panels of floats, packed one behind the other,
    of too many bytes to be near still since the last run."""
    size = extent_of(plan.k) * plan.columns * ITEM_BYTES[tile.dtype]
    packed = plan.panels is not None and plan.panels.row_stride == tile.vectors * tile.lanes
    plain = tile.dtype == "f32" and not tile.dot and not tile.prefetches
    return packed and plain and isinstance(size, int) and size >= _BYTES_READ_AHEAD


def reads_rows_ahead(plan: Plan, tile: Microkernel) -> bool:
    """Whether tiles ask for the next tile's rows while they multiply: rows of floats, read where they lie. Cores' own
    prefetchers notice a row only after its first lines, which come from memory or the third-level cache: a product of
    3072x256x64 took .87 of the time, resnet50 .89 (Sapphire Rapids). A window's rows were the taps of others."""
    several = not isinstance(plan.height, int) or plan.height > tile.rows
    plain = tile.dtype == "f32" and not tile.dot and plan.narrow is None
    return plan.rows is not None and not plan.taps and plain and several


def coding_of(target: Target, plan: Plan) -> Coding | None:
    """How narrow weights lie in the panels of a plan; None where they are floats."""
    narrow, depth = plan.narrow, extent_of(plan.k)
    if narrow is None or not isinstance(depth, int):
        return None
    dtype = cast(Mem, narrow.codes.type).dtype
    if dtype.is_float:
        return Coding(dtype.name, depth, False, False, depth % STEPS_TOGETHER != 0, converts_half(target))
    together = max(group_of(dtype), STEPS_TOGETHER)
    odd = depth % together != 0 or (narrow.block < depth and narrow.block % together != 0)
    lookup = target.arch == "x86_64" and target.vector_bytes == 64
    return Coding(dtype.name, narrow.block, narrow.scales is not None, narrow.zeros is not None, odd, lookup)


def few_blocking(target: Target, plan: Plan, blocking: Blocking) -> Blocking | None:
    """The blocking for so few rows that each tile widens its weights itself; None where none does."""
    coding = coding_of(target, plan)
    if coding is None or plan.taps:
        return None
    tile = narrow_tile_for(target, blocking.tile, coding)
    height = plan.height
    counts = frozenset({height}) if isinstance(height, int) and 0 < height <= tile.rows else None
    return replace(blocking, tile=tile, chunk_rows=tile.rows, row_counts=counts)


def _row_counts(height: int, chunk: int, tile: Microkernel) -> frozenset[int] | None:
    """The sizes of tile that chunks of equal size meet; see `chunks_of`."""
    step = cast(int, chunks_of(height, chunk, tile.rows)[1])
    if not step:
        return None
    return frozenset().union(*(rows_met(min(step, height - m0), chunk, tile) for m0 in range(0, height, step)))


def chunks_of(height: DimLike, chunk: int, rows: int) -> tuple[DimLike, DimLike]:
    """(how many chunks `height` rows make, how many rows each of them but the last has): equal chunks of at most
    `chunk` rows in whole tiles. No chunk is empty: all but one of them together have less than `height` rows."""
    count = ceildiv(height, chunk)
    return count, ceildiv(ceildiv(height, dim_max(1, count)), rows) * rows


def grain_of(func: Func, schedule: Schedule) -> DimLike:
    """Least jobs that a thread takes at once."""
    if schedule.grain > 1:
        return schedule.grain
    op = contraction_of(func)
    height, depth = extent_of(axes_of(op, "m")), extent_of(axes_of(op, "k"))
    width = schedule.vectors * schedule.lanes
    # A panel comes from the second-level cache or beyond, at some 32 bytes a cycle: one row takes as long as four.
    rows = dim_max(_ROWS_A_READ, dim_min(height, schedule.chunk))
    job = rows * dim_min(extent_of(axes_of(op, "n")), width) * dim_max(1, depth)
    worth = _CYCLES_WORTH_SHARING * _FMAS_A_CYCLE * schedule.lanes * _WORK_A_LANE.get(schedule.dot, 1)
    return dim_max(1, floordiv(worth, dim_max(1, job)))
