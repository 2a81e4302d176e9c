"""The loops of a contraction around its micro-kernels, with holes for what a kernel's operands look like.

A job is a range of rows and of columns of the result. Rows are taken in chunks whose row pointers are tabulated once;
within a chunk, for each panel of columns and each block of depth, one micro-kernel call makes a tile of a few rows.
A panel's block of depth is bounded so that it stays in the second-level cache while the chunk's rows pass over it.
Tiles land in scratch memory, where the epilogue hole finds them as soon as they are complete (`contract_epilogue`
walks over one).

Owns order and blocking. Where the operands lie and what becomes of a tile is said by `Holes`; how wide the tile is, by
`Blocking`; distributing jobs over threads and allocating scratch memory is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from llvmlite import ir

from onnxc.codegen.llvm.loops import I64, counted_loop, i64, least
from onnxc.codegen.llvm.microkernel import ITEM_BYTES, POINTER, Microkernel, byte_offset, microkernel
from onnxc.codegen.llvm.microkernel_amx import amx_microkernel
from onnxc.codegen.llvm.microkernel_bytes import byte_microkernel
from onnxc.codegen.llvm.microkernel_narrow import narrow_microkernel

POINTER_BYTES = 8
_ALIGNMENT = 64
# Cache lines of the widest panel's row: so many tiles bring the next block near, with a line a step.
_SHARES = 4
# Blocks of a part of depth begin at multiples of this, so that no micro-kernel has a remainder but the last.
_STEP_MULTIPLE = 8


@dataclass(frozen=True)
class Blocking:
    """How a contraction is cut.

    `tile` is the full tile, whose pitch is its rows. `chunk_rows`, a multiple of the tile's rows, bounds the rows that
    pass over a panel together. `block_bytes` bounds the bytes of a panel in one block of depth. `row_counts` and
    `vector_counts` are the sizes of tile that a problem of known extents can meet: only those micro-kernels are
    emitted; meeting another one is undefined. None stands for every size.
    """

    tile: Microkernel
    chunk_rows: int
    block_bytes: int
    row_counts: frozenset[int] | None = None
    vector_counts: frozenset[int] | None = None

    def __post_init__(self) -> None:
        if self.tile.pitch != self.tile.rows:
            raise ValueError(f"the full tile {self.tile.name} must fill its pointer table")
        if self.chunk_rows < 1 or self.chunk_rows % self.tile.rows:
            raise ValueError(f"chunks of {self.chunk_rows} rows are no whole number of {self.tile.rows}-row tiles")
        if self.block_bytes < self.row_bytes:
            raise ValueError(f"a block of {self.block_bytes} bytes holds no row of {self.row_bytes} bytes of a panel")

    @property
    def columns(self) -> int:
        """Columns of a full panel."""
        return self.tile.vectors * self.tile.lanes

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of a full panel, and of one row of scratch."""
        return self.columns * ITEM_BYTES[self.tile.dtype]

    @property
    def tile_bytes(self) -> int:
        """Scratch bytes in front of the pointer table: a chunk's rows of one panel."""
        return -(-self.chunk_rows * self.row_bytes // _ALIGNMENT) * _ALIGNMENT

    def scratch_bytes(self, taps: int | ir.Value, builder: ir.IRBuilder | None = None) -> int | ir.Value:
        """Scratch memory that a job needs, 64-byte aligned; `builder` emits the sum when `taps` is not a constant."""
        table = self.chunk_rows * POINTER_BYTES
        if isinstance(taps, int):
            return self.tile_bytes + taps * table
        if builder is None:
            raise ValueError("a run-time number of taps needs a builder")
        return builder.add(i64(self.tile_bytes), builder.mul(taps, i64(table)))


@dataclass(frozen=True)
class Job:
    """The part of a contraction that one call computes: rows [m_begin, m_end) and columns [n_begin, n_end), summed
    over `taps` times `depth`. `n_begin` is a multiple of the panel's columns. Ints or i64 values."""

    m_begin: int | ir.Value
    m_end: int | ir.Value
    n_begin: int | ir.Value
    n_end: int | ir.Value
    taps: int | ir.Value
    depth: int | ir.Value


@dataclass(frozen=True)
class Panel:
    """Where a panel lies: step k of tap t at `pointer + t * tap_stride + k * row_stride` bytes, readable in whole
    vectors up to the last one that holds a column of the result. For tiles of bytes, and of weights of less than a
    byte, k counts groups of steps. `parameters` are what a coding adds to the micro-kernel's arguments."""

    pointer: ir.Value
    row_stride: ir.Value
    tap_stride: ir.Value
    parameters: tuple[ir.Value, ...] = ()


@dataclass(frozen=True)
class Block:
    """A complete block of the result: element (m0 + r, n0 + c) at `tile + r * stride` bytes plus c elements, for
    r < rows and c < columns; whole vectors are readable. All i64 but `tile`."""

    m0: ir.Value
    rows: ir.Value
    n0: ir.Value
    columns: ir.Value
    tile: ir.Value
    stride: ir.Value


@dataclass(frozen=True)
class Holes:
    """What a kernel fills in, as callbacks that emit code.

    row(builder, m): what is computed once for a row of the result, as a sequence of values.
    row_pointer(builder, values, tap): pointer to the first of `depth` contiguous elements that row and tap contract;
        the window positions that fall into padding point to a row of zeros.
    panel(builder, n0, columns): the `Panel` of columns [n0, n0 + columns), at most one panel wide.
    epilogue(builder, block): consumes a `Block`.
    row_stride(builder): for matrix units, the bytes between rows of the left operand.
    row_shift(builder, n0): the bytes that the rows of the panel at n0 lie behind those of the table, which several
        panels share; asked for behind `panel`.
    """

    row: Callable[[ir.IRBuilder, ir.Value], Sequence[ir.Value]]
    row_pointer: Callable[[ir.IRBuilder, Sequence[ir.Value], ir.Value], ir.Value]
    panel: Callable[[ir.IRBuilder, ir.Value, ir.Value], Panel]
    epilogue: Callable[[ir.IRBuilder, Block], None]
    row_stride: Callable[[ir.IRBuilder], ir.Value] | None = None
    row_shift: Callable[[ir.IRBuilder, ir.Value], ir.Value] | None = None


def contraction(builder: ir.IRBuilder, blocking: Blocking, job: Job, holes: Holes, scratch: ir.Value) -> None:
    """Emit the loops of one job at `builder`, which is left behind them.

    `scratch` points to `blocking.scratch_bytes(job.taps)` bytes that nobody else uses meanwhile. A sum over nothing is
    zero: the epilogue runs over every element of the job whatever taps and depth are.
    """
    _Contraction(blocking, job, holes, scratch).emit(builder)


@dataclass(frozen=True)
class Chunk:
    """Rows [m0, m0 + rows) in `tiles` tiles of `base` rows, the first `longer` of which have one row more; where it is
    None, the last of which may have fewer."""

    m0: ir.Value
    rows: ir.Value
    tiles: ir.Value
    base: ir.Value
    longer: ir.Value | None

    @staticmethod
    def of(builder: ir.IRBuilder, m0: ir.Value, rows: ir.Value, tile: Microkernel) -> Chunk:
        """`rows` rows from `m0` on in tiles of at most those of `tile`."""
        tiles = _ceil_div(builder, rows, tile.rows)
        if tile.is_matrix:
            return Chunk(m0, rows, tiles, i64(tile.rows), None)
        return Chunk(m0, rows, tiles, builder.sdiv(rows, tiles), builder.srem(rows, tiles))

    def tile(self, builder: ir.IRBuilder, index: ir.Value) -> tuple[ir.Value, ir.Value]:
        """First row, counted from m0, and number of rows of a tile."""
        if self.longer is None:
            first = builder.mul(index, self.base)
            return first, least(builder, self.base, builder.sub(self.rows, first))
        extra = least(builder, index, self.longer)
        first = builder.add(builder.mul(index, self.base), extra)
        is_longer = builder.zext(builder.icmp_signed("<", index, self.longer), I64)
        return first, builder.add(self.base, is_longer)


@dataclass(frozen=True)
class _DepthBlock:
    """Taps [tap, tap + taps) and steps [step, step + steps) of each of them."""

    tap: ir.Value
    taps: ir.Value
    step: ir.Value
    steps: ir.Value
    is_first: ir.Value
    is_last: ir.Value
    is_only: ir.Value


def rows_met(rows: int, chunk_rows: int, tile: Microkernel) -> frozenset[int]:
    """The sizes of tile, in rows, that a job of `rows` rows meets: what `Blocking.row_counts` has to hold."""
    tile_rows = tile.rows
    chunks = max(1, _ceil(rows, chunk_rows))
    step = max(1, _ceil(_ceil(rows, chunks), tile_rows) * tile_rows)
    met: set[int] = set()
    for size in {min(step, rows - m0) for m0 in range(0, rows, step)}:
        if tile.is_matrix:
            met |= {_ceil(min(tile_rows, size - first), tile.block) * tile.block for first in range(0, size, tile_rows)}
            continue
        tiles = _ceil(size, tile_rows)
        met.add(size // tiles)
        if size % tiles:
            met.add(size // tiles + 1)
    return frozenset(met)


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


class _Contraction:
    """Emits one job. Methods go from the outermost loop inwards."""

    def __init__(self, blocking: Blocking, job: Job, holes: Holes, scratch: ir.Value) -> None:
        self.blocking = blocking
        self.job = job
        self.holes = holes
        self.taps, self.depth = i64(job.taps), i64(job.depth)
        self.tiles = scratch
        self.scratch = scratch

    def emit(self, builder: ir.IRBuilder) -> None:
        self.table = byte_offset(builder, self.scratch, i64(self.blocking.tile_bytes))
        begin, end = i64(self.job.m_begin), i64(self.job.m_end)
        rows = builder.sub(end, begin)
        # Chunks of equal size: a short last one would read every panel for a handful of rows.
        chunks = _maximum(builder, _ceil_div(builder, rows, self.blocking.chunk_rows), i64(1))
        equal = _round_up(builder, _ceil_div_by(builder, rows, chunks), self.blocking.tile.rows)
        step = _maximum(builder, equal, i64(1))

        def body(b: ir.IRBuilder, m0: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            self._chunk(b, m0, least(b, step, b.sub(end, m0)))
            return []

        counted_loop(builder, "m", begin, end, step, [], body)

    def _chunk(self, builder: ir.IRBuilder, m0: ir.Value, rows: ir.Value) -> None:
        chunk = Chunk.of(builder, m0, rows, self.blocking.tile)
        self._tabulate(builder, chunk)
        end = i64(self.job.n_end)

        def body(b: ir.IRBuilder, n0: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            self._panel(b, chunk, n0, least(b, b.sub(end, n0), i64(self.blocking.columns)))
            return []

        counted_loop(builder, "n", self.job.n_begin, end, self.blocking.columns, [], body)

    def _tabulate(self, builder: ir.IRBuilder, chunk: Chunk) -> None:
        """Fill the pointer table: ptr[tile][tap][row of the tile]."""
        pitch = self.blocking.tile.pitch

        def each_tile(b: ir.IRBuilder, index: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            first, count = chunk.tile(b, index)
            table = self._table_of(b, index)

            def each_row(b: ir.IRBuilder, r: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
                values = self.holes.row(b, b.add(chunk.m0, b.add(first, r)))

                def each_tap(b: ir.IRBuilder, tap: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
                    slot = b.add(b.mul(tap, i64(pitch)), r)
                    pointer = self.holes.row_pointer(b, values, tap)
                    b.store(pointer, byte_offset(b, table, b.mul(slot, i64(POINTER_BYTES))), align=POINTER_BYTES)
                    return []

                counted_loop(b, "table.tap", 0, self.taps, 1, [], each_tap)
                return []

            counted_loop(b, "table.row", 0, count, 1, [], each_row)
            return []

        counted_loop(builder, "table.tile", 0, chunk.tiles, 1, [], each_tile)

    def _table_of(self, builder: ir.IRBuilder, tile: ir.Value) -> ir.Value:
        pointers = builder.mul(builder.mul(tile, self.taps), i64(self.blocking.tile.pitch))
        return byte_offset(builder, self.table, builder.mul(pointers, i64(POINTER_BYTES)))

    def _panel(self, builder: ir.IRBuilder, chunk: Chunk, n0: ir.Value, columns: ir.Value) -> None:
        """All of taps and depth for one panel, a block at a time."""
        panel = self.holes.panel(builder, n0, columns)
        shift = i64(0) if self.holes.row_shift is None else self.holes.row_shift(builder, n0)
        tap_step, depth_step = self._depth_blocking(builder, chunk)
        all_taps = builder.icmp_signed(">=", tap_step, self.taps)
        all_steps = builder.icmp_signed(">=", depth_step, self.depth)
        is_only = builder.and_(all_taps, all_steps)

        def each_tap_block(b: ir.IRBuilder, tap: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            taps = least(b, tap_step, b.sub(self.taps, tap))
            ends = b.icmp_signed(">=", b.add(tap, taps), self.taps)

            def each_depth_block(b: ir.IRBuilder, step: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
                steps = least(b, depth_step, b.sub(self.depth, step))
                is_first = b.icmp_signed("==", b.or_(tap, step), i64(0))
                is_last = b.and_(ends, b.icmp_signed(">=", b.add(step, steps), self.depth))
                block = _DepthBlock(tap, taps, step, steps, is_first, is_last, is_only)
                self._depth_block(b, chunk, panel, n0, columns, block, shift)
                return []

            counted_loop(b, "depth", 0, _maximum(b, self.depth, i64(1)), depth_step, [], each_depth_block)
            return []

        counted_loop(builder, "taps", 0, _maximum(builder, self.taps, i64(1)), tap_step, [], each_tap_block)

    def _depth_blocking(self, builder: ir.IRBuilder, chunk: Chunk) -> tuple[ir.Value, ir.Value]:
        """Taps and steps of depth in a block: several whole taps, or a part of one. Equal blocks; both positive.

        A chunk of one tile reads the panel once, so it takes everything at once."""
        tile = self.blocking.tile
        most = self.blocking.block_bytes // self.blocking.row_bytes * tile.group
        depth, taps = _maximum(builder, self.depth, i64(1)), _maximum(builder, self.taps, i64(1))
        fitting = _maximum(builder, builder.sdiv(i64(most), depth), i64(1))
        tap_blocks = _ceil_div_by(builder, taps, fitting)
        depth_blocks = _ceil_div(builder, depth, most)
        tap_step = _ceil_div_by(builder, taps, tap_blocks)
        depth_step = _round_up(builder, _ceil_div_by(builder, depth, depth_blocks), max(_STEP_MULTIPLE, tile.steps))
        once = builder.icmp_signed("==", chunk.tiles, i64(1))
        return builder.select(once, taps, tap_step), builder.select(once, depth, depth_step)

    def _depth_block(
        self,
        builder: ir.IRBuilder,
        chunk: Chunk,
        panel: Panel,
        n0: ir.Value,
        columns: ir.Value,
        block: _DepthBlock,
        shift: ir.Value,
    ) -> None:
        """All tiles of a chunk for one block of depth, and the epilogue of those that are complete."""
        tile = self.blocking.tile
        stride = i64(self.blocking.row_bytes)
        vectors = _ceil_div(builder, columns, tile.lanes)
        offset = builder.add(shift, builder.mul(block.step, i64(tile.left_bytes)))
        group = builder.udiv(block.step, i64(tile.group))  # blocks begin with a group: see _STEP_MULTIPLE
        skipped = builder.add(builder.mul(block.tap, panel.tap_stride), builder.mul(group, panel.row_stride))
        start = byte_offset(builder, panel.pointer, skipped)
        again = builder.not_(block.is_first)

        def each_tile(b: ir.IRBuilder, index: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            first, rows = chunk.tile(b, index)
            line = b.mul(block.tap, i64(tile.pitch * POINTER_BYTES))
            table = byte_offset(b, self._table_of(b, index), line)
            # With one block of depth a tile is consumed before the next is made: one stays in the first-level cache.
            place = b.select(block.is_only, i64(0), b.mul(first, stride))
            result = byte_offset(b, self.tiles, place)
            further = panel.tap_stride if self.holes.row_stride is None else self.holes.row_stride(b)
            arguments = [block.taps, block.steps, table, offset, start, panel.row_stride, further]
            arguments += [result, stride, again, *panel.parameters]
            if tile.ahead:
                lines = b.mul(block.taps, block.steps)
                following = byte_offset(b, start, b.mul(lines, panel.row_stride))
                arguments.append(ahead_of(b, following, lines, index))
            if tile.rows_ahead:
                arguments += self._rows_ahead(b, chunk, index)
            call_microkernel(b, self.blocking, rows, vectors, arguments)
            with b.if_then(block.is_last):
                self.holes.epilogue(b, Block(b.add(chunk.m0, first), rows, n0, columns, result, stride))
            return []

        counted_loop(builder, "tile", 0, chunk.tiles, 1, [], each_tile)

    def _rows_ahead(self, builder: ir.IRBuilder, chunk: Chunk, index: ir.Value) -> list[ir.Value]:
        """The first row of the tile behind number `index`, and its bytes for a step of this one."""
        following = least(builder, builder.add(index, i64(1)), builder.sub(chunk.tiles, i64(1)))
        row, next_row = (builder.load(self._table_of(builder, i), typ=POINTER, align=POINTER_BYTES)
                         for i in (index, following))
        size = builder.sub(builder.ptrtoint(next_row, I64), builder.ptrtoint(row, I64))
        return [next_row, _ceil_div_by(builder, size, _maximum(builder, self.depth, i64(1)))]


def ahead_of(builder: ir.IRBuilder, block: ir.Value, lines: ir.Value, tile: ir.Value) -> ir.Value:
    """What tile number `tile` asks for of the next block, one line for each of its own steps: the first tiles the
    block's first, second ... as many lines, later ones the same again, which are near by then."""
    share = builder.and_(tile, i64(_SHARES - 1))
    return byte_offset(builder, block, builder.mul(builder.mul(share, lines), i64(_ALIGNMENT)))


def call_microkernel(
    builder: ir.IRBuilder, blocking: Blocking, rows: ir.Value, vectors: ir.Value, arguments: Sequence[ir.Value]
) -> None:
    """Call the micro-kernel for `rows` by `vectors`."""
    tile = blocking.tile
    if tile.is_matrix:
        rows = _round_up(builder, rows, tile.block)
    row_counts = sorted(blocking.row_counts or range(tile.block, tile.rows + 1, tile.block), reverse=True)
    vector_counts = sorted(blocking.vector_counts or range(1, tile.vectors + 1), reverse=True)
    specs = [replace(tile, rows=r, vectors=v) for v in vector_counts for r in row_counts]
    make = microkernel
    if tile.dot:
        make = amx_microkernel if tile.is_matrix else byte_microkernel
    elif tile.coding:
        make = narrow_microkernel
    if len(specs) == 1:
        builder.call(make(builder.module, specs[0]), arguments)
        return
    key = builder.add(builder.mul(vectors, i64(tile.rows + 1)), rows)
    never, after = builder.append_basic_block("size.never"), builder.append_basic_block("size.end")
    switch = builder.switch(key, never)
    for spec in specs:
        case = builder.append_basic_block(f"size.{spec.rows}x{spec.vectors}")
        switch.add_case(i64(spec.vectors * (tile.rows + 1) + spec.rows), case)
        builder.position_at_end(case)
        builder.call(make(builder.module, spec), arguments)
        builder.branch(after)
    builder.position_at_end(never)
    builder.unreachable()
    builder.position_at_end(after)


def _maximum(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    return builder.select(builder.icmp_signed(">", a, b), a, b)


def _ceil_div(builder: ir.IRBuilder, a: ir.Value, b: int) -> ir.Value:
    return builder.sdiv(builder.add(a, i64(b - 1)), i64(b))


def _ceil_div_by(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    return builder.sdiv(builder.add(a, builder.sub(b, i64(1))), b)


def _round_up(builder: ir.IRBuilder, a: ir.Value, b: int) -> ir.Value:
    return builder.mul(_ceil_div(builder, a, b), i64(b))
