"""k.attend kernels as LLVM functions: attention with an online softmax, on the engine of contractions.

A job is one chunk of rows (queries) of one batch position. Keys and values that cannot be read in place are packed once
for all chunks of a position that a thread takes; where there are a few rows alone, keys are read along their channels
instead. For a chunk the keys are gone through a block at a time:

    scores  = region(queries * keys)                  a block of the engine's tiles, kept in scratch
    weights = exp(scores - greatest)                  in their place, the online softmax of `attend_softmax.py`
    sums    = sums * scale + weights * values

and at the end the epilogue takes sums / total. Panels at either end of a block that a mask leaves out for all rows of
the chunk are skipped (`attend_skip.py`). A row all of whose scores are -inf so far has weights of 0 and total 0; at the
end that is 0 / 0, the NaN that the softmax of such a row is. A NaN among the scores ends up in the total.

Scratch of a thread: the engine's, then packed rows, keys and values, a block of scores, sums, and for each row its
greatest score and its total.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

from llvmlite import ir

from onnxc.codegen.accesses import Accesses, kernel_symbols
from onnxc.codegen.clone import clone_op
from onnxc.codegen.llvm import abi
from onnxc.codegen.llvm.abi import KernelCode, aligned
from onnxc.codegen.llvm.attend_products import Product, attention_of, contiguous_load, products
from onnxc.codegen.llvm.attend_skip import Block as KeyBlock
from onnxc.codegen.llvm.attend_skip import LiveKeys, Sources
from onnxc.codegen.llvm.attend_softmax import OnlineSoftmax, at, folded
from onnxc.codegen.llvm.body import emit_block
from onnxc.codegen.llvm.contract import decode
from onnxc.codegen.llvm.contract_epilogue import lane_mask, sweep
from onnxc.codegen.llvm.contract_form import axes_of, contraction_of, extent_of
from onnxc.codegen.llvm.contract_loops import POINTER_BYTES, Block, Holes, Job, Panel, contraction
from onnxc.codegen.llvm.contract_pack import FIRST, WIDTH, Part, epilogue_part, row_part, score_part
from onnxc.codegen.llvm.contract_plan import COLUMN
from onnxc.codegen.llvm.contract_transpose import emit_transposed
from onnxc.codegen.llvm.dims import DimEmitter
from onnxc.codegen.llvm.intrinsics import intrinsic
from onnxc.codegen.llvm.loops import counted_loop, i64, least
from onnxc.codegen.llvm.microkernel import byte_offset, multiply_add, splat
from onnxc.codegen.llvm.registers import Element
from onnxc.codegen.llvm.schedule_contract import chunks_of
from onnxc.codegen.llvm.scope import KernelContext, Scope
from onnxc.codegen.llvm.target import Target
from onnxc.codegen.llvm.tiles import blocking_for
from onnxc.codegen.llvm.weights import weight
from onnxc.codegen.schedule import Schedule
from onnxc.codegen.score_bounds import score_bounds
from onnxc.ir.core import Block as Region
from onnxc.ir.core import Func, Value
from onnxc.ir.dims import DimLike, ceildiv, dim_max, floordiv, product, substitute
from onnxc.ir.types import F32

__all__ = ["emit_attention", "prepare_attention"]

# A chunk's scores of a block (96 x 384 floats: 144 KiB) stay in the second-level cache beside a head's keys and values.
_CHUNK, _KEYS = 96, 384
# Up to so many rows the products are taken along keys where they lie: a product of 64 channels then takes some 9
# cycles, on tiles 2, but packing a key for them 25.
_FEW_ROWS = 4
# Less work than this many multiply-adds is not shared between threads.
_WORTH_SHARING = 1 << 19
_LONGEST_STRAIGHT = 12
_ITEM = 4
_FLOAT = ir.FloatType()


def prepare_attention(func: Func, target: Target) -> Func:
    """A kernel equal to `func` with its schedule in the attribute `schedule`: `chunk` rows at once, `depth` keys in a
    block."""
    if isinstance(func.attrs.get("schedule"), str):
        return func
    height = extent_of(axes_of(attention_of(func), "m"))
    tile = blocking_for(target, "f32").tile
    chunk = _CHUNK if not isinstance(height, int) else min(_CHUNK, -(-height // tile.rows) * tile.rows)
    copy = Func(func.name, [a.type for a in func.args], [a.name for a in func.args], (), "kernel", func.attrs)
    values: dict[Value, Value] = dict(zip(func.args, copy.args, strict=True))
    copy.body.append(clone_op(attention_of(func), values))
    copy.attrs["schedule"] = str(Schedule(lanes=tile.lanes, chunk=chunk, depth=_KEYS))
    return copy


def emit_attention(module: ir.Module, func: Func, target: Target, errors: Callable[[str], int],
                   symbols: Sequence[str]) -> KernelCode:
    """Add a prepared attention kernel to `module`; see `emit.emit_kernel`, which calls this."""
    return _AttendEmitter(module, func, target, errors, symbols).emit()


@dataclasses.dataclass(frozen=True)
class _Scratch:
    """Where the parts of a thread's scratch begin, in bytes, and where they end."""

    rows: DimLike
    keys: DimLike
    values: DimLike
    scores: DimLike
    sums: DimLike
    most: DimLike
    total: DimLike
    end: DimLike


class _AttendEmitter:
    """Emits one kernel. `env` holds the dim symbols and, inside the loop over jobs, the batch axes."""

    def __init__(self, module: ir.Module, func: Func, target: Target, errors: Callable[[str], int],
                 order: Sequence[str]) -> None:
        self.func, self.target, self.errors, self.order = func, target, errors, order
        self.schedule = Schedule.parse(str(func.attrs["schedule"]))
        self.missing = bool(attention_of(func).attrs["missing"])
        self.scores, self.values = products(func, target, self.schedule.chunk)
        self.lanes = self.scores.blocking.tile.lanes
        rows = self.scores.plan.rows
        self.rows_in_place = rows is not None and not rows.where and not self.scores.plan.taps
        self.row_part = None if self.rows_in_place else row_part(self.scores.func, target)
        self.score_part = score_part(self.scores.func, target, self.lanes)
        self.bounds_part = self._bounds_part()
        self.epilogue_part = epilogue_part(self.values.func, target, self.values.blocking.tile.lanes)
        self.height, self.keys = self.scores.plan.height, self.scores.plan.columns
        self.chunks, self.chunk_rows = chunks_of(self.height, self.schedule.chunk, 1)
        self.block_keys = -(-self.schedule.depth // self.scores.blocking.columns) * self.scores.blocking.columns
        self.score_stride = self.block_keys * _ITEM
        width = self.values.blocking.tile.lanes
        self.sum_stride: DimLike = ceildiv(self.values.plan.columns, width) * (width * _ITEM)
        self.key_load = contiguous_load(self.scores)
        self.scratch = self._scratch()
        self.function = ir.Function(module, abi.KERNEL_TYPE, func.name)
        self.function.linkage = "internal"

    def _bounds_part(self) -> Part | None:
        """Bounds of scores, where they may show that panels of keys weigh nothing: of several, for many rows."""
        plan, func = self.scores.plan, self.scores.func
        few_keys = isinstance(plan.columns, int) and plan.columns <= self.scores.blocking.columns
        few_rows = isinstance(plan.height, int) and plan.height <= _FEW_ROWS
        bounds = None if few_keys or few_rows else score_bounds(contraction_of(func).regions[2], plan.n[0][0])
        return None if bounds is None else score_part(func, self.target, self.lanes, bounds)

    def _scratch(self) -> _Scratch:
        chunk = self.schedule.chunk
        tiles = max(p.blocking.tile_bytes for p in (self.scores, self.values))
        rows = tiles + aligned(chunk * POINTER_BYTES)
        depth = extent_of(self.scores.plan.k)
        keys = rows + (0 if self.rows_in_place else aligned(depth * (chunk * _ITEM)))
        values = keys + aligned(self.scores.packed_bytes)
        scores = values + aligned(self.values.packed_bytes)
        sums = scores + chunk * self.score_stride
        most = sums + aligned(self.sum_stride * chunk)
        total = most + aligned(chunk * _ITEM)
        return _Scratch(rows, keys, values, scores, sums, most, total, total + aligned(chunk * _ITEM))

    # ---- the function ------------------------------------------------------------------------------------------------

    def emit(self) -> KernelCode:
        frame, begin, end, thread = self.function.args
        b = ir.IRBuilder(self.function.append_basic_block("entry"))
        with b.if_then(b.icmp_signed("<", begin, end)):
            self._bind(b, frame, thread)
            self._jobs(b, begin, end)
        b.ret_void()
        total = product(e for _, e in self.scores.plan.batch) * self.chunks
        job = dim_max(1, self.chunk_rows * self.keys) * (extent_of(self.scores.plan.k) + self.values.plan.columns)
        grain = dim_max(1, floordiv(_WORTH_SHARING, dim_max(1, job)))
        return KernelCode(self.function, total, grain, self.scratch.end)

    def _bind(self, b: ir.IRBuilder, frame: ir.Value, thread: ir.Value) -> None:
        table = abi.load_slot(b, frame, abi.FRAME_SYMBOLS)
        self.symbols = abi.load_symbols(b, table, self.order, frozenset(kernel_symbols(self.func)))
        self.pointers = [abi.load_slot(b, frame, abi.FRAME_MEMORY + i) for i in range(len(self.func.args))]
        self.context = abi.load_slot(b, frame, abi.FRAME_CONTEXT)
        self.env: dict[str, ir.Value] = dict(self.symbols)
        dim = self._dims(b)
        self.base = byte_offset(b, abi.load_slot(b, frame, abi.FRAME_SCRATCH), b.mul(thread, dim(self.scratch.end)))
        part = {f.name: byte_offset(b, self.base, dim(getattr(self.scratch, f.name)))
                for f in dataclasses.fields(self.scratch)}
        self.packed_rows, self.packed_keys, self.packed_values = part["rows"], part["keys"], part["values"]
        self.block, self.sums = part["scores"], part["sums"]
        self.key_count, self.sum_bytes = dim(self.keys), dim(self.sum_stride)
        self.softmax = OnlineSoftmax(self.target, self.lanes, self.values.blocking.tile.lanes, self.block,
                                     self.score_stride, self.sums, self.sum_bytes, part["most"], part["total"])
        self.live_keys = None
        if self.bounds_part is not None:
            self.live_keys = LiveKeys(b, self.scores, self.values, self.key_count, self._sources())

    def _dims(self, b: ir.IRBuilder, axes: Mapping[str, ir.Value] | None = None) -> DimEmitter:
        return DimEmitter(b, {**self.env, **(axes or {})}, lambda name: int(name in dict(self.scores.plan.m)))

    def _jobs(self, b: ir.IRBuilder, begin: ir.Value, end: ir.Value) -> None:
        dim = self._dims(b)
        chunks = dim(self.chunks)
        self.is_few = b.icmp_signed("<=", dim(self.height), i64(_FEW_ROWS if self.key_load is not None else 0))

        def job(b: ir.IRBuilder, index: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            chunk = b.urem(index, chunks)
            self.env = {**self.symbols, **decode(b, b.udiv(index, chunks), self.scores.plan.batch, dim)}
            new = b.or_(b.icmp_signed("==", index, begin), b.icmp_signed("==", chunk, i64(0)))
            tiled = b.and_(new, b.not_(self.is_few))
            if self.live_keys is not None:
                with b.if_then(new):
                    self.live_keys.forget(b)
            with b.if_then(tiled):
                self._pack(b, self.scores, self.packed_keys)
            with b.if_then(new if self.values.in_place is None else tiled):
                self._pack(b, self.values, self.packed_values)
            self._chunk(b, chunk)
            self.env = dict(self.symbols)
            return []

        counted_loop(b, "job", begin, end, 1, [], job)

    def _chunk(self, b: ir.IRBuilder, index: ir.Value) -> None:
        dim = self._dims(b)
        self.m0 = b.mul(index, dim(self.chunk_rows))
        self.m1 = least(b, b.add(self.m0, dim(self.chunk_rows)), dim(self.height))
        rows = b.sub(self.m1, self.m0)
        self.softmax.begin(b, rows)

        def keys(b: ir.IRBuilder, n0: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            n1 = least(b, b.add(n0, i64(self.block_keys)), self.key_count)
            if self.live_keys is None:
                self._block(b, n0, n1)
                return []
            block = KeyBlock(self.m0, rows, n0, n1, self.softmax.most)
            low, high = self.live_keys.range(b, block, b.not_(self.is_few))
            with b.if_then(b.icmp_signed("<", low, high)):
                self._block(b, low, high)
            return []

        counted_loop(b, "keys", 0, self.key_count, self.block_keys, [], keys)
        self.softmax.finish(b, rows, self.key_count, self.missing)
        columns = self._dims(b)(self.values.plan.columns)
        self._epilogue(b, Block(self.m0, rows, i64(0), columns, self.sums, self.sum_bytes))

    # ---- operands ----------------------------------------------------------------------------------------------------

    def _pack(self, b: ir.IRBuilder, side: Product, buffer: ir.Value) -> None:
        """All panels of a product's right operand at the batch position."""
        part = side.panel
        if part is None:
            return
        dim, width = self._dims(b), side.blocking.columns
        columns, size = dim(side.plan.columns), dim(side.panel_bytes)

        def panel(b: ir.IRBuilder, n0: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            place = byte_offset(b, buffer, b.mul(b.udiv(n0, i64(width)), size))
            count = least(b, b.sub(columns, n0), i64(width))
            scope = Scope(b, self._kernel(side.func, part, place), {}, {**self._axes(), FIRST: n0, WIDTH: count})
            if part.element is not None:
                emit_transposed(scope, part, width)
            else:
                emit_block(scope, part.body)
            return []

        counted_loop(b, "pack", 0, columns, width, [], panel)

    def _panel(self, b: ir.IRBuilder, side: Product, buffer: ir.Value, n0: ir.Value, step: ir.Value) -> Panel:
        """The panel of the columns from `n0` on, from step `step` on."""
        stride = i64(side.blocking.row_bytes)
        index = b.udiv(n0, i64(side.blocking.columns))
        pointer = byte_offset(b, buffer, b.mul(index, self._dims(b)(side.panel_bytes)))
        found = side.in_place
        if found is not None:
            dim, here = self._dims(b, {COLUMN: n0}), self.is_few if side.panel is not None else ir.Constant(abi.I1, 1)
            where = byte_offset(b, self._memory(side.func)[found.memory], b.mul(dim(found.index), i64(_ITEM)))
            pointer = b.select(here, where, pointer)
            stride = b.select(here, b.mul(dim(found.row_stride), i64(_ITEM)), stride)
        return Panel(byte_offset(b, pointer, b.mul(step, stride)), stride, i64(0))

    def _row(self, b: ir.IRBuilder, m: ir.Value) -> Sequence[ir.Value]:
        """The pointer to the query of row m; a row that has to be packed is asked for once a block of keys."""
        plan = self.scores.plan
        axes = decode(b, m, plan.m, self._dims(b))
        if self.row_part is None:
            assert plan.rows is not None
            index = self._dims(b, axes)(plan.rows.index)
            memory = self._memory(self.scores.func)[plan.rows.memory]
            return [byte_offset(b, memory, b.mul(index, i64(_ITEM)))]
        size = b.mul(self._dims(b)(extent_of(plan.k)), i64(_ITEM))
        pointer = byte_offset(b, self.packed_rows, b.mul(b.sub(m, self.m0), size))
        kernel = self._kernel(self.scores.func, self.row_part, pointer)
        emit_block(Scope(b, kernel, {}, {**self._axes(), **axes}), self.row_part.body)
        return [pointer]

    def _sources(self) -> Sources:
        """What is asked of this kernel to find keys that weigh nothing."""
        scores, values = self.scores, self.values

        def panel(b: ir.IRBuilder, side: Product, buffer: ir.Value, n: ir.Value) -> Panel:
            return self._panel(b, side, buffer, n, i64(0))

        return Sources(
            query=lambda b, m: self._row(b, m)[0],
            keys=lambda b, n: panel(b, scores, self.packed_keys, n),
            values=lambda b, n: panel(b, values, self.packed_values, n),
            channels=lambda b: self._dims(b)(extent_of(scores.plan.k)),
            columns=lambda b: self._dims(b)(values.plan.columns),
            row=lambda b, m: decode(b, m, scores.plan.m, self._dims(b)),
            bounds=self._bounds)

    # ---- a block of keys ---------------------------------------------------------------------------------------------

    def _block(self, b: ir.IRBuilder, n0: ir.Value, n1: ir.Value) -> None:
        rows = b.sub(self.m1, self.m0)
        self._block_scores(b, n0, n1)
        self.softmax.weigh_block(b, rows, n0, b.sub(n1, n0))
        self._block_sums(b, n0, n1)

    def _block_scores(self, b: ir.IRBuilder, n0: ir.Value, n1: ir.Value) -> None:
        with b.if_else(self.is_few) as (few, many):
            with few:
                self._few_scores(b, n0, n1)
            with many:
                self._tiled_scores(b, n0, n1)

    def _few_scores(self, b: ir.IRBuilder, n0: ir.Value, n1: ir.Value) -> None:
        """For so few rows that packing keys would take longer: each product along its key, where that lies."""
        if self.key_load is None:
            return
        side, rows = self.scores, b.sub(self.m1, self.m0)
        (name, extent), ((key, _),) = side.plan.k[-1], side.plan.n
        index = substitute(Accesses(side.func).flat(self.key_load), {name: 0})
        memory, depth = self._memory(side.func)[self.key_load.operand(0)], self._dims(b)(extent)

        def row(b: ir.IRBuilder, r: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            (query,), line = self._row(b, b.add(self.m0, r)), self.softmax.line(b, r)

            def product_of(b: ir.IRBuilder, n: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
                place = byte_offset(b, memory, b.mul(self._dims(b, {key: n})(index), i64(_ITEM)))
                b.store(_dot(b, query, place, depth, self.target.lanes(32)), at(b, line, b.sub(n, n0)), align=_ITEM)
                return []

            counted_loop(b, "few.key", n0, n1, 1, [], product_of)
            return []

        counted_loop(b, "few.row", 0, rows, 1, [], row)
        self._keep_scores(b, n0, Block(self.m0, rows, n0, b.sub(n1, n0), self.block, i64(self.score_stride)))

    def _tiled_scores(self, b: ir.IRBuilder, n0: ir.Value, n1: ir.Value) -> None:
        side = self.scores
        job = Job(self.m0, self.m1, n0, n1, 1, self._dims(b)(extent_of(side.plan.k)))

        def panel(b: ir.IRBuilder, n: ir.Value, _: ir.Value) -> Panel:
            return self._panel(b, side, self.packed_keys, n, i64(0))

        def keep(b: ir.IRBuilder, block: Block) -> None:
            self._keep_scores(b, n0, block)

        contraction(b, side.blocking, job, Holes(self._row, _first, panel, keep), self.base)

    def _keep_scores(self, b: ir.IRBuilder, n0: ir.Value, block: Block) -> None:
        """A tile of the product becomes scores; lanes past the last key are -inf, which weighs nothing."""
        part, plan = self.score_part, self.scores.plan
        kernel = self._kernel(self.scores.func, part, self.base)
        ((name, _),) = plan.n
        region, (total,) = part.sweep.regions[0], part.totals
        lowest = ir.Constant(ir.VectorType(_FLOAT, self.lanes), [-math.inf] * self.lanes)

        def row(b: ir.IRBuilder, m: ir.Value) -> tuple[dict[str, ir.Value], ir.Value]:
            line = byte_offset(b, self.block, b.mul(b.sub(m, self.m0), i64(self.score_stride)))
            return decode(b, m, plan.m, self._dims(b)), line

        def consume(b: ir.IRBuilder, row: tuple[dict[str, ir.Value], ir.Value], n: ir.Value, value: ir.Value,
                    mask: ir.Value | None) -> None:
            axes, line = row
            scope = Scope(b, kernel, {total: Element(value, F32)}, {**self._axes(), **axes, name: n}, self.lanes, name,
                          mask)
            (score,) = emit_block(scope, region)
            vector = score.value if score.lanes == self.lanes else splat(b, score.value, self.lanes)
            if mask is not None:
                vector = b.select(mask, vector, lowest)
            b.store(vector, at(b, line, b.sub(n, n0)), align=_ITEM)

        sweep(b, self.scores.blocking, block, consume, row, _is_short(region))

    def _bounds(self, b: ir.IRBuilder, row: Mapping[str, ir.Value], n: ir.Value, products: Sequence[ir.Value],
                mask: ir.Value) -> Sequence[ir.Value]:
        """See `Sources`."""
        part = self.bounds_part
        assert part is not None
        ((name, _),) = self.scores.plan.n
        axes = {**self._axes(), **row, name: n}
        totals = {t: Element(p, F32) for t, p in zip(part.totals, products, strict=True)}
        scope = Scope(b, self._kernel(self.scores.func, part, self.base), totals, axes, self.lanes, name, mask)
        found = emit_block(scope, part.sweep.regions[0])
        return [x.value if x.lanes == self.lanes else splat(b, x.value, self.lanes) for x in found]

    def _block_sums(self, b: ir.IRBuilder, n0: ir.Value, n1: ir.Value) -> None:
        side = self.values
        job = Job(self.m0, self.m1, 0, self._dims(b)(side.plan.columns), 1, b.sub(n1, n0))

        def row(b: ir.IRBuilder, m: ir.Value) -> Sequence[ir.Value]:
            return [byte_offset(b, self.block, b.mul(b.sub(m, self.m0), i64(self.score_stride)))]

        def panel(b: ir.IRBuilder, column: ir.Value, _: ir.Value) -> Panel:
            return self._panel(b, side, self.packed_values, column, n0)

        contraction(b, side.blocking, job, Holes(row, _first, panel, self._add), self.base)

    def _add(self, b: ir.IRBuilder, block: Block) -> None:
        tile = self.values.blocking.tile

        def row(b: ir.IRBuilder, r: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            source = byte_offset(b, block.tile, b.mul(r, block.stride))
            target = byte_offset(b, self.sums, b.mul(b.sub(b.add(block.m0, r), self.m0), self.sum_bytes))

            def vector(b: ir.IRBuilder, c: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
                place = at(b, target, b.add(block.n0, c))
                new = b.load(at(b, source, c), typ=tile.vector_type, align=_ITEM)
                b.store(b.fadd(b.load(place, typ=tile.vector_type, align=_ITEM), new), place, align=_ITEM)
                return []

            counted_loop(b, "add.vector", 0, block.columns, tile.lanes, [], vector)
            return []

        counted_loop(b, "add.row", 0, block.rows, 1, [], row)

    # ---- the end -----------------------------------------------------------------------------------------------------

    def _epilogue(self, b: ir.IRBuilder, block: Block) -> None:
        part, plan = self.epilogue_part, self.values.plan
        kernel = self._kernel(self.values.func, part, self.base)
        ((name, _),) = plan.n
        region, (total,) = part.sweep.regions[0], part.totals
        lanes = self.values.blocking.tile.lanes

        def row(b: ir.IRBuilder, m: ir.Value) -> dict[str, ir.Value]:
            return decode(b, m, plan.m, self._dims(b))

        def consume(b: ir.IRBuilder, axes: dict[str, ir.Value], n: ir.Value, value: ir.Value,
                    mask: ir.Value | None) -> None:
            values = {total: Element(value, F32)}
            emit_block(Scope(b, kernel, values, {**self._axes(), **axes, name: n}, lanes, name, mask), region)

        sweep(b, self.values.blocking, block, consume, row, _is_short(region))

    # ---- regions -----------------------------------------------------------------------------------------------------

    def _axes(self) -> dict[str, ir.Value]:
        return {n: v for n, v in self.env.items() if n not in self.symbols}

    def _memory(self, func: Func) -> dict[Value, ir.Value]:
        return dict(zip(func.args, self.pointers, strict=True))

    def _kernel(self, func: Func, part: Part, buffer: ir.Value) -> KernelContext:
        """What the regions of one of the products see."""
        pointers = self._memory(func)
        memory: dict[Value, ir.Value] = {new: pointers[old] for old, new in part.arguments.items()}
        memory[part.buffer] = buffer
        return KernelContext(part.func, self.function, self.target, part.schedule, part.accesses, self.context, memory,
                             self.symbols, self.errors, emit_block, part.vectorised)


def _dot(b: ir.IRBuilder, left: ir.Value, right: ir.Value, depth: ir.Value, lanes: int) -> ir.Value:
    """The sum of the products of two rows of floats."""
    kind = ir.VectorType(_FLOAT, lanes)
    whole = b.and_(depth, i64(-lanes))

    def step(b: ir.IRBuilder, k: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
        x, y = (b.load(at(b, p, k), typ=kind, align=_ITEM) for p in (left, right))
        return [multiply_add(b, x, y, carried[0])]

    (total,) = counted_loop(b, "dot", 0, whole, lanes, [ir.Constant(kind, None)], step)
    mask = lane_mask(b, b.sub(depth, whole), lanes)
    load = intrinsic(b.module, "llvm.masked.load", [kind, abi.PTR], kind, [abi.PTR, mask.type, kind])
    x, y = (b.call(load, [at(b, p, whole), mask, ir.Constant(kind, None)]) for p in (left, right))
    return folded(b, "fadd", multiply_add(b, x, y, total))


def _first(b: ir.IRBuilder, values: Sequence[ir.Value], tap: ir.Value) -> ir.Value:
    """The pointer of a row that has one tap."""
    return values[0]


def _is_short(region: Region) -> bool:
    return sum(map(weight, region.ops)) <= _LONGEST_STRAIGHT


