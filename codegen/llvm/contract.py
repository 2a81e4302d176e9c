"""k.contract kernels as LLVM functions: the engine's loops, with a kernel's regions in their holes.

A job is one panel of columns for one chunk of rows of one batch position, in the order batch, chunk, panel. The range
of jobs that a thread gets is gone through chunk by chunk: neighbouring panels of one chunk are one call of the engine's
loops, which tabulates (or packs) the chunk's rows once. Small groups of a convolution are panels of one chunk, too
(`contract_plan.shared_axis`): their rows lie at a distance from those of the first group.

Scratch of a thread: the engine's tiles and pointer table, a row of zeros that padding points to, packed rows, one
packed panel; what a kernel does not need has no bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from llvmlite import ir

from onnxc.codegen.accesses import kernel_symbols, linear_in
from onnxc.codegen.llvm import abi
from onnxc.codegen.llvm.abi import I8, I64, KernelCode, KernelError, aligned
from onnxc.codegen.llvm.body import emit_block
from onnxc.codegen.llvm.candidates import contraction_candidates
from onnxc.codegen.llvm.contract_epilogue import Row, sweep
from onnxc.codegen.llvm.contract_form import Axes, contraction_of, extent_of, normal_form
from onnxc.codegen.llvm.contract_generic import generic_form, micro_kernel_pays
from onnxc.codegen.llvm.contract_loops import POINTER_BYTES, Block, Blocking, Holes, Job, Panel, contraction
from onnxc.codegen.llvm.contract_pack import (
    FIRST,
    INSIDE,
    WIDTH,
    Part,
    byte_panel_part,
    epilogue_part,
    panel_part,
    row_part,
    rows_part,
)
from onnxc.codegen.llvm.contract_plan import COLUMN, Plan, Shared, plan_of, shared_axis
from onnxc.codegen.llvm.contract_transpose import emit_transposed, emit_transposed_rows
from onnxc.codegen.llvm.dims import DimEmitter, constant
from onnxc.codegen.llvm.intrinsics import intrinsic
from onnxc.codegen.llvm.loops import counted_loop, i64, least
from onnxc.codegen.llvm.microkernel import ITEM_BYTES, byte_offset
from onnxc.codegen.llvm.microkernel_amx import configure, copy_bytes, release
from onnxc.codegen.llvm.microkernel_narrow import unpack_panel
from onnxc.codegen.llvm.narrow import group_of
from onnxc.codegen.llvm.prepare import is_contraction, prepare_kernel
from onnxc.codegen.llvm.registers import Element
from onnxc.codegen.llvm.schedule_contract import (
    blocking_of,
    chunks_of,
    coding_of,
    few_blocking,
    grain_of,
    reads_ahead,
    reads_rows_ahead,
)
from onnxc.codegen.llvm.scope import KernelContext, Scope
from onnxc.codegen.llvm.target import Target
from onnxc.codegen.llvm.weights import weight
from onnxc.codegen.schedule import Choose, Schedule, first
from onnxc.ir.core import Func, Value
from onnxc.ir.dims import DimLike, ceildiv, floordiv, product
from onnxc.ir.types import DType, Mem

__all__ = ["ContractEmitter", "Scratch", "decode", "emit_contract", "prepare_contraction"]

# Epilogues of more instructions than this are a loop over vectors; straight-line code over a panel would repeat them.
_LONGEST_STRAIGHT = 12


def prepare_contraction(func: Func, target: Target, constant: frozenset[int] = frozenset(),
                        choose: Choose = first) -> Func:
    """A kernel equal to `func` with its schedule in the attribute `schedule`: the contraction in normal form, or plain
    loops where the engine does not pay. `constant` holds the positions of arguments whose content is known when
    compiling."""
    if isinstance(func.attrs.get("schedule"), str):
        return func
    normal = normal_form(func)
    if not micro_kernel_pays(normal, target, constant):
        return prepare_kernel(generic_form(normal), target, choose)
    schedule = choose(contraction_candidates(normal, target, constant))
    normal.attrs = {**normal.attrs, "schedule": str(schedule)}
    return normal


def emit_contract(
    module: ir.Module, func: Func, target: Target, errors: Callable[[str], int], symbols: Sequence[str]
) -> KernelCode:
    """Add a prepared contraction to `module`; see `emit.emit_kernel`, which calls this for kernels that are one."""
    if not is_contraction(func):
        raise KernelError(f"kernel @{func.name} is no contraction")
    func = normal_form(func)
    schedule = Schedule.parse(str(func.attrs["schedule"]))
    if not schedule.rows or not schedule.vectors or schedule.chunk % schedule.rows or not schedule.depth:
        raise KernelError(
            f"kernel @{func.name}: the schedule '{schedule}' of a contraction needs rows, vectors, depth and a chunk "
            f"that is a multiple of rows; without a schedule they are chosen"
        )
    emitter = ContractEmitter
    if contraction_of(func).attrs["winograd"]:
        from onnxc.codegen.llvm.contract_winograd import WinogradEmitter as emitter
    return emitter(module, func, target, schedule, errors, symbols).emit()


@dataclasses.dataclass(frozen=True)
class Scratch:
    """Where the parts of a thread's scratch begin, in bytes, and where they end."""

    zeros: DimLike
    rows: DimLike
    panel: DimLike
    end: DimLike


class ContractEmitter:
    """Emits one kernel. `env` holds the dim symbols and, from the loop over chunks on, the batch axes."""

    def __init__(
        self,
        module: ir.Module,
        func: Func,
        target: Target,
        schedule: Schedule,
        errors: Callable[[str], int],
        order: Sequence[str],
    ) -> None:
        self.func, self.target, self.schedule, self.errors, self.order = func, target, schedule, errors, order
        self.op = contraction_of(func)
        self.accumulate = cast(DType, self.op.attrs["accumulate"])
        self.blocking: Blocking = blocking_of(func, schedule)
        self.tile = self.blocking.tile
        self.plan: Plan = plan_of(func, self.blocking.columns, self.tile.lanes, self.tile.dot)
        self.tile = dataclasses.replace(
            self.tile,
            ahead=reads_ahead(self.plan, self.tile),
            rows_ahead=reads_rows_ahead(self.plan, self.tile) and not self.op.attrs["winograd"],
        )
        self.blocking = dataclasses.replace(self.blocking, tile=self.tile)
        self.shared = None if self.op.attrs["winograd"] else shared_axis(self.plan, self.blocking.columns)
        self.batch = self.plan.batch if self.shared is None else self.plan.batch[:-1]
        self.row_part = row_part(func, target, self.tile.dot) if self.plan.rows is None else None
        plain = self.row_part is not None and not self.tile.dot and not self.op.attrs["winograd"]
        self.rows_part = rows_part(func, target, schedule.chunk) if plain else None
        coding = coding_of(target, self.plan)
        self.unpacked = None if coding is None else dataclasses.replace(self.tile, coding=coding)
        self.few = few_blocking(target, self.plan, self.blocking)
        self.panel_part = self._panel_part() if self.plan.panels is None and self.plan.narrow is None else None
        self.epilogue_part = epilogue_part(func, target, self.tile.lanes)
        self.scratch = self._scratch()
        self.chunks, self.chunk_rows = chunks_of(self.plan.height, schedule.chunk, schedule.rows)
        self.panels = ceildiv(self.plan.columns, self.blocking.columns) * (self.shared.extent if self.shared else 1)
        self.function = ir.Function(module, abi.KERNEL_TYPE, func.name)
        self.function.linkage = "internal"

    def _panel_part(self) -> Part:
        columns = self.blocking.columns
        if self.tile.dot:
            return byte_panel_part(self.func, self.target, columns, self.plan.taps, self.plan.depth, self.tile.dot)
        return panel_part(self.func, self.target, columns)

    @property
    def item(self) -> int:
        """Bytes of an element of the left operand."""
        return self.tile.left_bytes

    @property
    def panel_item(self) -> int:
        """Bytes of an element of the right operand."""
        return self.tile.left_bytes

    @property
    def panel_row(self) -> int:
        """Bytes of a step, or group of steps, of a packed panel."""
        return self.blocking.columns * ITEM_BYTES[self.tile.dtype]

    @property
    def panel_steps(self) -> DimLike:
        """Steps, or groups of them, of one tap of a packed panel."""
        return ceildiv(extent_of(self.plan.depth), self.tile.steps) * (self.tile.steps // self.tile.group)

    @property
    def _tap_depth(self) -> Axes:
        """The axes of k along which rows in place are contiguous."""
        return self.plan.depth if self.plan.copied is None else self.plan.k[len(self.plan.copied) :]

    @property
    def has_packed_rows(self) -> bool:
        """Whether rows of the left operand are made or copied for a chunk, and lie one behind the other then."""
        return self.plan.rows is None or self.plan.copied is not None

    @property
    def row_bytes(self) -> DimLike:
        """Bytes from one packed row to the next: for matrix units an odd number of cache lines, as a multiple of 4 KiB
        would have 16 rows meet in one set of the first-level cache."""
        size = extent_of(self.plan.k) * self.item
        return (floordiv(ceildiv(size, 64), 2) * 2 + 1) * 64 if self.tile.is_matrix else size

    @property
    def zero_bytes(self) -> DimLike:
        """Of the row that padding points to; those who share pointers read it at their own distance."""
        if self.plan.rows is None or not self.plan.rows.where:
            return 0
        further = 0 if self.shared is None else (self.shared.extent - 1) * self.shared.stride
        return (extent_of(self._tap_depth) + further) * self.item

    def _scratch(self) -> Scratch:
        plan = self.plan
        zeros = self.blocking.tile_bytes + aligned(extent_of(plan.taps) * (self.schedule.chunk * POINTER_BYTES))
        rows = zeros + aligned(self.zero_bytes)
        panel = rows + (aligned(self.row_bytes * self.schedule.chunk) if self.has_packed_rows else 0)
        steps = extent_of(plan.taps) * self.panel_steps
        end = panel + (aligned(steps * self.panel_row) if plan.panels is None and not self._only_few() else 0)
        return Scratch(zeros, rows, panel, end)

    def _only_few(self) -> bool:
        """Whether all rows multiply weights that are still narrow."""
        return self.few is not None and isinstance(self.plan.height, int) and self.plan.height <= self.few.tile.rows

    # ---- the function ------------------------------------------------------------------------------------------------

    def emit(self) -> KernelCode:
        frame, begin, end, thread = self.function.args
        b = ir.IRBuilder(self.function.append_basic_block("entry"))
        with b.if_then(b.icmp_signed("<", begin, end)):
            if self.tile.is_matrix:
                configure(b)
            self._bind(b, frame, thread)
            self._jobs(b, begin, end)
            if self.tile.is_matrix:
                release(b)
        b.ret_void()
        total = product(e for _, e in self.batch) * self.chunks * self.panels
        return KernelCode(self.function, total, grain_of(self.func, self.schedule), self.scratch.end)

    def _bind(self, b: ir.IRBuilder, frame: ir.Value, thread: ir.Value) -> None:
        table = abi.load_slot(b, frame, abi.FRAME_SYMBOLS)
        self.symbols = abi.load_symbols(b, table, self.order, frozenset(kernel_symbols(self.func)))
        self.memory = {a: abi.load_slot(b, frame, abi.FRAME_MEMORY + i) for i, a in enumerate(self.func.args)}
        self.context = abi.load_slot(b, frame, abi.FRAME_CONTEXT)
        self.env: dict[str, ir.Value] = dict(self.symbols)
        dim = self._dims(b)
        offset = b.mul(thread, dim(self.scratch.end))
        self.base = byte_offset(b, abi.load_slot(b, frame, abi.FRAME_SCRATCH), offset)
        self.zeros = byte_offset(b, self.base, dim(self.scratch.zeros))
        self.packed_rows = byte_offset(b, self.base, dim(self.scratch.rows))
        self.packed_panel = byte_offset(b, self.base, dim(self.scratch.panel))
        if self.plan.rows is not None and self.plan.rows.where:
            _memset(b, self.zeros, self.plan.rows.fill, dim(self.zero_bytes))

    def _dims(self, b: ir.IRBuilder, axes: Mapping[str, ir.Value] | None = None) -> DimEmitter:
        return DimEmitter(b, {**self.env, **(axes or {})}, self._rank)

    def _rank(self, name: str) -> int:
        """Order of loops, for sums of indices: batch and dims, then m, then taps."""
        if name in dict(self.plan.copied or self.plan.taps):
            return 2
        return 1 if name in dict(self.plan.m) else 0

    # ---- jobs --------------------------------------------------------------------------------------------------------

    def _jobs(self, b: ir.IRBuilder, begin: ir.Value, end: ir.Value) -> None:
        """Goes through [begin, end) chunk by chunk, all panels of the range that belong to a chunk at once."""
        dim = self._dims(b)
        panels, chunks = dim(self.panels), dim(self.chunks)
        first, last = b.udiv(begin, panels), b.udiv(b.sub(end, constant(1)), panels)

        def chunk(b: ir.IRBuilder, group: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            start = b.mul(group, panels)
            low = b.select(b.icmp_signed("==", group, first), b.sub(begin, start), constant(0))
            high = b.select(b.icmp_signed("==", group, last), b.sub(end, start), panels)
            self.env = {**self.symbols, **decode(b, b.udiv(group, chunks), self.batch, dim)}
            self._chunk(b, b.urem(group, chunks), low, high)
            self.env = dict(self.symbols)
            return []

        counted_loop(b, "chunk", first, b.add(last, constant(1)), 1, [], chunk)

    def _chunk(self, b: ir.IRBuilder, index: ir.Value, low: ir.Value, high: ir.Value) -> None:
        dim = self._dims(b)
        width = constant(self.blocking.columns)
        self.m0 = b.mul(index, dim(self.chunk_rows))
        m1 = least(b, b.add(self.m0, dim(self.chunk_rows)), dim(self.plan.height))
        n1 = least(b, b.mul(high, width), dim(self._all_columns))
        stride = self._row_stride if self.tile.is_matrix else None
        job = Job(
            self.m0, m1, b.mul(low, width), n1, self._extent(dim, self.plan.taps), self._extent(dim, self.plan.depth)
        )
        row: Callable[[ir.IRBuilder, ir.Value], Sequence[ir.Value]] = self._row
        pointer = self._row_pointer
        if self.has_packed_rows:
            row, pointer = self._pack_row if self.plan.rows is None else self._copy_row, self._packed_row
        if self.rows_part is not None:
            self._pack_rows(b, self.rows_part, m1)
            row = self._row_of_chunk
        panel = self._panel if self.plan.panels is not None else self._pack_panel
        if self.plan.narrow is not None:
            panel = self._unpack_panel
        many, few = (Holes(row, pointer, p, self._epilogue, stride) for p in (panel, self._narrow_panel))
        if self.shared is not None:
            many = self._sharing(many, self.shared)
        if self.few is None:
            contraction(b, self.blocking, job, many, self.base)
        elif self._only_few():
            contraction(b, self.few, job, few, self.base)
        else:
            fits = b.icmp_signed("<=", b.sub(m1, self.m0), constant(self.few.tile.rows))
            with b.if_else(fits) as (then, otherwise):
                with then:
                    contraction(b, self.few, job, few, self.base)
                with otherwise:
                    contraction(b, self.blocking, job, many, self.base)

    @property
    def _all_columns(self) -> DimLike:
        """Columns of all positions that share a table of pointers, one behind the other."""
        return self.plan.columns * (1 if self.shared is None else self.shared.extent)

    def _sharing(self, holes: Holes, shared: Shared) -> Holes:
        """`holes` for columns of all positions of the shared axis: the table is that of the first one."""
        self.env[shared.axis] = constant(0)
        width = constant(cast(int, self.plan.columns))

        def panel(b: ir.IRBuilder, n0: ir.Value, columns: ir.Value) -> Panel:
            self.env[shared.axis] = b.udiv(n0, width)
            return holes.panel(b, b.urem(n0, width), columns)

        def shift(b: ir.IRBuilder, n0: ir.Value) -> ir.Value:
            return b.mul(self.env[shared.axis], constant(shared.stride * self.item))

        def epilogue(b: ir.IRBuilder, block: Block) -> None:
            holes.epilogue(b, dataclasses.replace(block, n0=b.urem(block.n0, width)))

        return dataclasses.replace(holes, panel=panel, row_shift=shift, epilogue=epilogue)

    def _extent(self, dim: DimEmitter, axes: Axes) -> int | ir.Value:
        extent = extent_of(axes)
        return extent if isinstance(extent, int) else dim(extent)

    # ---- the left operand --------------------------------------------------------------------------------------------

    def _row(self, b: ir.IRBuilder, m: ir.Value) -> Sequence[ir.Value]:
        return list(decode(b, m, self.plan.m, self._dims(b)).values())

    def _row_pointer(self, b: ir.IRBuilder, values: Sequence[ir.Value], tap: ir.Value) -> ir.Value:
        return self._tap_pointer(b, values, tap, self.plan.taps)

    def _tap_pointer(self, b: ir.IRBuilder, values: Sequence[ir.Value], tap: ir.Value, taps: Axes) -> ir.Value:
        """Where the elements of a row lie that belong to a position of `taps`."""
        rows = self.plan.rows
        assert rows is not None
        axes = dict(zip((n for n, _ in self.plan.m), values, strict=True))
        dim = self._dims(b, {**axes, **decode(b, tap, taps, self._dims(b))})
        pointer = byte_offset(b, self.memory[rows.memory], b.mul(dim(rows.index), constant(self.item)))
        inside: ir.Value | None = None
        for expr, low, high in rows.where:
            holds = _within(b, dim, expr, low, high)
            inside = holds if inside is None else b.and_(inside, holds)
        return pointer if inside is None else b.select(inside, pointer, self.zeros)

    def _pack_row(self, b: ir.IRBuilder, m: ir.Value) -> Sequence[ir.Value]:
        """Packs row m of the chunk, which is asked for once."""
        assert self.row_part is not None
        (pointer,) = self._row_of_chunk(b, m)
        self._emit_part(b, self.row_part, pointer, decode(b, m, self.plan.m, self._dims(b)))
        return [pointer]

    def _pack_rows(self, b: ir.IRBuilder, part: Part, m1: ir.Value) -> None:
        """Packs the rows of the chunk, up to m1, one run of neighbours along the last m axis after the other."""
        dim, (*outer, (_, extent)) = self._dims(b), self.plan.m
        length, one = dim(extent), constant(1)

        def run(b: ir.IRBuilder, index: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            start = b.mul(index, length)
            begin = b.select(b.icmp_signed("<", start, self.m0), self.m0, start)
            axes = decode(b, index, outer, self._dims(b))
            end = least(b, m1, b.add(start, length))
            buffer = byte_offset(b, self.packed_rows, b.mul(b.sub(begin, self.m0), self._dims(b)(self.row_bytes)))
            run_axes = {**axes, FIRST: b.sub(begin, start), WIDTH: b.sub(end, begin)}
            scope = Scope(b, self._kernel(part, buffer), {}, {**self._axes(), **run_axes})
            emit_transposed_rows(scope, part)
            return []

        last = b.udiv(b.sub(m1, one), length)
        counted_loop(b, "run", b.udiv(self.m0, length), b.add(last, one), 1, [], run)

    def _row_of_chunk(self, b: ir.IRBuilder, m: ir.Value) -> Sequence[ir.Value]:
        """Where row m of the chunk has been packed."""
        return [byte_offset(b, self.packed_rows, b.mul(b.sub(m, self.m0), self._dims(b)(self.row_bytes)))]

    def _copy_row(self, b: ir.IRBuilder, m: ir.Value) -> Sequence[ir.Value]:
        """Copies row m of the chunk, which is asked for once, a tap behind the other."""
        dim, taps = self._dims(b), self.plan.copied
        assert taps is not None
        row = byte_offset(b, self.packed_rows, b.mul(b.sub(m, self.m0), dim(self.row_bytes)))
        size = dim(extent_of(self._tap_depth) * self.item)
        values = self._row(b, m)

        def each_tap(b: ir.IRBuilder, tap: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            copy_bytes(b, byte_offset(b, row, b.mul(tap, size)), self._tap_pointer(b, values, tap, taps), size)
            return []

        counted_loop(b, "copy.tap", 0, dim(extent_of(taps)), 1, [], each_tap)
        return [row]

    def _row_stride(self, b: ir.IRBuilder) -> ir.Value:
        """Bytes between rows of the left operand, for matrix units."""
        dim = self._dims(b)
        if self.has_packed_rows:
            return dim(self.row_bytes)
        assert self.plan.rows is not None
        linear = linear_in(self.plan.rows.index, self.plan.m[0][0])
        assert linear is not None
        return b.mul(dim(linear.stride), constant(self.item))

    def _packed_row(self, b: ir.IRBuilder, values: Sequence[ir.Value], tap: ir.Value) -> ir.Value:
        return values[0]

    # ---- the right operand -------------------------------------------------------------------------------------------

    def _panel(self, b: ir.IRBuilder, n0: ir.Value, columns: ir.Value) -> Panel:
        panels = self.plan.panels
        assert panels is not None
        dim = self._dims(b, {COLUMN: n0})
        item = constant(self.panel_item)
        pointer = byte_offset(b, self.memory[panels.memory], b.mul(dim(panels.index), item))
        return Panel(pointer, b.mul(dim(panels.row_stride), item), b.mul(dim(panels.tap_stride), item))

    def _pack_panel(self, b: ir.IRBuilder, n0: ir.Value, columns: ir.Value) -> Panel:
        """Packs the panel for the chunk that is about to use it."""
        assert self.panel_part is not None
        stride, dim = constant(self.panel_row), self._dims(b)
        depth = extent_of(self.plan.depth)
        if self.tile.dot and not (isinstance(depth, int) and depth % self.tile.steps == 0):
            _memset(b, self.packed_panel, 0, b.mul(dim(extent_of(self.plan.taps) * self.panel_steps), stride))
        self._emit_part(b, self.panel_part, self.packed_panel, {FIRST: n0, WIDTH: columns})
        return Panel(self.packed_panel, stride, b.mul(dim(self.panel_steps), stride))

    def _narrow_panel(self, b: ir.IRBuilder, n0: ir.Value, columns: ir.Value) -> Panel:
        """A panel of narrow weights where it lies, with its scales and zero points."""
        narrow, depth = self.plan.narrow, extent_of(self.plan.k)
        assert narrow is not None
        group = group_of(cast(Mem, narrow.codes.type).dtype)
        width, index = self.blocking.columns, b.udiv(n0, constant(self.blocking.columns))
        row = width * 4 if group > 1 else width * cast(Mem, narrow.codes.type).dtype.bits // 8
        dim = self._dims(b)

        def place(memory: Value | None, nbytes: DimLike) -> ir.Value:
            return self.base if memory is None else byte_offset(b, self.memory[memory], b.mul(index, dim(nbytes)))

        parameters = [place(v, ceildiv(depth, narrow.block) * (width * 4)) for v in (narrow.scales, narrow.zeros)]
        codes = place(narrow.codes, ceildiv(depth, group) * row)
        return Panel(codes, constant(row), constant(0), tuple(parameters))

    def _unpack_panel(self, b: ir.IRBuilder, n0: ir.Value, columns: ir.Value) -> Panel:
        """Widens the panel for the chunk that is about to use it."""
        assert self.unpacked is not None
        panel = self._narrow_panel(b, n0, columns)
        unpack = unpack_panel(self.function.module, self.unpacked)
        depth = self._dims(b)(extent_of(self.plan.k))
        b.call(unpack, [depth, panel.pointer, panel.row_stride, *panel.parameters, self.packed_panel])
        stride = constant(self.panel_row)
        return Panel(self.packed_panel, stride, b.mul(self._dims(b)(self.panel_steps), stride))

    # ---- the epilogue ------------------------------------------------------------------------------------------------

    def _epilogue(self, b: ir.IRBuilder, block: Block, row: Row | None = None) -> None:
        """Consumes a block; `row` gives the m axes' values at a row, by division unless something better is known."""
        part = self.epilogue_part
        kernel = self._kernel(part, self.base)
        (name, _), *_ = self.plan.n or [(INSIDE, 1)]
        region = part.sweep.regions[0]
        (total,) = part.totals

        def decoded(b: ir.IRBuilder, m: ir.Value) -> dict[str, ir.Value]:
            return decode(b, m, self.plan.m, self._dims(b))

        def consume(
            b: ir.IRBuilder, axes: dict[str, ir.Value], n: ir.Value, value: ir.Value, mask: ir.Value | None
        ) -> None:
            values = {total: Element(value, self.accumulate)}
            scope = Scope(b, kernel, values, {**self._axes(), **axes, name: n}, self.tile.lanes, name, mask)
            emit_block(scope, region)

        straight = sum(map(weight, region.ops)) <= _LONGEST_STRAIGHT
        sweep(b, self.blocking, block, consume, row or decoded, straight)

    # ---- regions -----------------------------------------------------------------------------------------------------

    def _emit_part(self, b: ir.IRBuilder, part: Part, buffer: ir.Value, axes: Mapping[str, ir.Value]) -> None:
        scope = Scope(b, self._kernel(part, buffer), {}, {**self._axes(), **axes})
        if part.element is not None:
            emit_transposed(scope, part, self.blocking.columns)
        else:
            emit_block(scope, part.body)

    def _axes(self) -> dict[str, ir.Value]:
        return {n: v for n, v in self.env.items() if n not in self.symbols}

    def _kernel(self, part: Part, buffer: ir.Value) -> KernelContext:
        memory: dict[Value, ir.Value] = {new: self.memory[old] for old, new in part.arguments.items()}
        memory[part.buffer] = buffer
        return KernelContext(
            part.func,
            self.function,
            self.target,
            part.schedule,
            part.accesses,
            self.context,
            memory,
            self.symbols,
            self.errors,
            emit_block,
            part.vectorised,
        )


def decode(b: ir.IRBuilder, position: ir.Value, axes: Axes, dim: DimEmitter) -> dict[str, ir.Value]:
    """The axes' values at a row-major position, which is not negative."""
    out: dict[str, ir.Value] = {}
    for name, extent in axes[:0:-1]:
        size = dim(extent)
        out[name] = b.urem(position, size)
        position = b.udiv(position, size)
    for name, _ in axes[:1]:
        out[name] = position
    return {name: out[name] for name, _ in axes}


def _memset(b: ir.IRBuilder, pointer: ir.Value, byte: int, size: ir.Value) -> None:
    function = intrinsic(b.module, "llvm.memset", [abi.PTR, I64], abi.VOID, [abi.PTR, I8, I64, abi.I1])
    b.call(function, [pointer, ir.Constant(I8, byte & 0xFF), size, ir.Constant(abi.I1, 0)])


def _within(b: ir.IRBuilder, dim: DimEmitter, expr: DimLike, low: DimLike, high: DimLike) -> ir.Value:
    """low <= expr < high: for known widths one unsigned comparison."""
    width = high - low
    if isinstance(width, int):
        return b.icmp_unsigned("<", dim(expr - low), i64(max(width, 0)))
    value = dim(expr)
    return b.and_(b.icmp_signed(">=", value, dim(low)), b.icmp_signed("<", value, dim(high)))
