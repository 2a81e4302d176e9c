"""Kernels as LLVM functions: the kernel IR of `onnxc.ops.kernel`, laid out as a Schedule says.

A kernel's outer points become jobs: a job is one point of the parallel axes that are not across lanes, times one block
of the axis that is. The thread pool hands out ranges of jobs; a range is decoded once and then stepped through.

When the schedule's vector axis is a parallel axis, everything inside runs in its lanes and inner loops are plain loops.
Otherwise each reduce and sweep that is reached first has its own best axis across lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir

from onnxc.codegen.accesses import Accesses, element_of, index_of, kernel_symbols, loop_axes
from onnxc.codegen.llvm import abi
from onnxc.codegen.llvm.abi import KernelCode, KernelError
from onnxc.codegen.llvm.body import emit_block, emit_together, hoist
from onnxc.codegen.llvm.dims import DimEmitter, constant
from onnxc.codegen.llvm.heuristics import grain_of, vector_axes
from onnxc.codegen.llvm.jobs import BLOCK_ELEMENTS, Jobs, advance, decode
from onnxc.codegen.llvm.loops import counted_loop
from onnxc.codegen.llvm.memory import holds
from onnxc.codegen.llvm.nests import Form, forms_for, vector_axis, vector_nest, whole_windows
from onnxc.codegen.llvm.prepare import is_attention, is_contraction, prepare_kernel
from onnxc.codegen.llvm.rowcache import SCRATCH
from onnxc.codegen.llvm.scope import KernelContext, Scope
from onnxc.codegen.llvm.target import Target
from onnxc.codegen.llvm.transpose import TiledLoad, read_row, read_tile, tiled_loads
from onnxc.codegen.schedule import Schedule
from onnxc.ir.core import Func, Op, Value
from onnxc.ir.dims import DimLike, symbols_of
from onnxc.ir.types import Mem

__all__ = ["emit_block", "emit_kernel", "kernel_symbols"]


def emit_kernel(module: ir.Module, func: Func, target: Target, errors: Callable[[str], int],
                symbols: Sequence[str] | None = None) -> KernelCode:
    """Add `func` to `module` as a function of its name.

    `errors` gives the error code of a k.require's message. `symbols` is the order of the symbol table that the frame
    points to; without it, `kernel_symbols(func)`. A kernel without the attribute `schedule` is prepared first. Raises
    KernelError for what this backend has no code for.
    """
    if is_contraction(func):
        from onnxc.codegen.llvm.contract import emit_contract, prepare_contraction
        func = prepare_contraction(func, target)
        if is_contraction(func):
            return emit_contract(module, func, target, errors, _order(func, symbols))
    if is_attention(func):
        from onnxc.codegen.llvm.attend import emit_attention, prepare_attention
        return emit_attention(module, prepare_attention(func, target), target, errors, _order(func, symbols))
    func = prepare_kernel(func, target)
    schedule = Schedule.parse(str(func.attrs.get("schedule") or ""))
    return _KernelEmitter(module, func, target, schedule, errors, _order(func, symbols)).emit()


def _order(func: Func, symbols: Sequence[str] | None) -> list[str]:
    """The order of the symbol table, which has to hold every symbol of the kernel."""
    order = list(symbols) if symbols is not None else kernel_symbols(func)
    missing = set(kernel_symbols(func)) - set(order)
    if missing:
        raise KernelError(f"kernel @{func.name} uses dims that its program has no symbols for: "
                          f"{', '.join(sorted(missing))}")
    return order


class _KernelEmitter:
    def __init__(self, module: ir.Module, func: Func, target: Target, schedule: Schedule, errors: Callable[[str], int],
                 order: Sequence[str]) -> None:
        self.func, self.target, self.schedule, self.errors, self.order = func, target, schedule, errors, order
        inner = int(func.attrs.get(SCRATCH) or 0)  # type: ignore[arg-type]
        self.arguments = func.args[:len(func.args) - inner]
        self.scratch_arguments = func.args[len(self.arguments):]
        self.scratch: DimLike = sum(map(_rounded_bytes, self.scratch_arguments), 0)
        self.function = ir.Function(module, abi.KERNEL_TYPE, func.name)
        self.function.linkage = "internal"
        self.accesses = Accesses(func)
        self.parallel = self._parallel()
        self.serial = points_meet(self.accesses, self.parallel)

    def _parallel(self) -> Op:
        ops = [op for op in self.func.body.ops if op.name != "return"]
        if len(ops) != 1 or ops[0].name != "k.parallel":
            found = ", ".join(op.name for op in ops) or "nothing"
            raise KernelError(f"kernel @{self.func.name}: its body must be one k.parallel, found {found}")
        for axis in self.accesses.axes.values():
            if symbols_of(axis.extent) & self.accesses.axes.keys():
                raise KernelError(f"kernel @{self.func.name}: the extent {axis.extent} of axis {axis.name} varies over "
                                  f"another axis; run to the longest and put the condition into `where`")
        return ops[0]

    # ---- the function ------------------------------------------------------------------------------------------------

    def emit(self) -> KernelCode:
        frame, begin, end, _ = self.function.args
        builder = ir.IRBuilder(self.function.append_basic_block("entry"))
        context = self._context(builder, frame)
        plan = self._jobs()
        if self.serial:
            begin, end = constant(0), DimEmitter(builder, context.symbols)(plan.total)
        with builder.if_then(builder.icmp_signed("<", begin, end)):
            self._run_jobs(Scope(builder, context, {}, {}), plan, begin, end)
        builder.ret_void()
        if self.serial:
            return KernelCode(self.function, 1, 1, self.scratch)
        grain = grain_of(self.accesses, self.schedule, plan.points)
        return KernelCode(self.function, plan.total, grain, self.scratch)

    def _context(self, builder: ir.IRBuilder, frame: ir.Value) -> KernelContext:
        table = abi.load_slot(builder, frame, abi.FRAME_SYMBOLS)
        symbols = abi.load_symbols(builder, table, self.order, frozenset(kernel_symbols(self.func)))
        memory = {a: abi.load_slot(builder, frame, abi.FRAME_MEMORY + i) for i, a in enumerate(self.arguments)}
        memory.update(self._scratch_memory(builder, frame, symbols))
        context = abi.load_slot(builder, frame, abi.FRAME_CONTEXT)
        return KernelContext(self.func, self.function, self.target, self.schedule, self.accesses, context, memory,
                             symbols, self.errors, emit_block, vector_axes(self.accesses, self.schedule))

    def _scratch_memory(self, builder: ir.IRBuilder, frame: ir.Value,
                        symbols: dict[str, ir.Value]) -> dict[Value, ir.Value]:
        """The thread's piece of the launch's scratch, cut into the scratch arguments."""
        if not self.scratch_arguments:
            return {}
        dim = DimEmitter(builder, symbols)
        offset = builder.mul(self.function.args[3], dim(self.scratch))
        piece = builder.gep(abi.load_slot(builder, frame, abi.FRAME_SCRATCH), [offset], source_etype=abi.I8)
        places: dict[Value, ir.Value] = {}
        start: DimLike = 0
        for argument in self.scratch_arguments:
            places[argument] = builder.gep(piece, [dim(start)], source_etype=abi.I8)
            start = start + _rounded_bytes(argument)
        return places

    # ---- jobs --------------------------------------------------------------------------------------------------------

    def _jobs(self) -> Jobs:
        axes = loop_axes(self.parallel)
        name = self.schedule.vector if self.schedule.vector in dict(axes) and self.schedule.lanes > 1 else ""
        outer = [(n, e) for n, e in axes if n != name]
        if not name:
            return Jobs(outer, "", 1, 1)
        width = self.schedule.jam or self.schedule.lanes
        tile = next((n for n, size in self.schedule.blocks if n in dict(outer) and size == width), "")
        return Jobs(outer, name, dict(axes)[name], BLOCK_ELEMENTS, tile, width if tile else 1)

    def _run_jobs(self, scope: Scope, plan: Jobs, begin: ir.Value, end: ir.Value) -> None:
        """Steps through [begin, end): positions are decoded from the first job and then counted up with carry."""
        b = scope.builder
        extents = [scope.dim(e) for _, e in plan.counters]
        starts = decode(b, begin, extents)

        def job(_: ir.IRBuilder, index: ir.Value, positions: list[ir.Value]) -> list[ir.Value]:
            names = [n for n, _ in plan.counters]
            self._job(scope.within(axes=dict(zip(names, positions, strict=True))), plan)
            return advance(b, positions, extents)

        counted_loop(b, "job", begin, end, 1, starts, job)

    def _job(self, scope: Scope, plan: Jobs) -> None:
        if not plan.vector:
            emit_block(scope, self.parallel.regions[0])
        elif plan.tile and self.schedule.jam:
            self._jammed(scope, plan)
        elif plan.tile:
            self._tiles(scope, plan)
        else:
            self._vectors(scope, plan)

    def _vectors(self, scope: Scope, plan: Jobs) -> None:
        """The job's part of the vector axis, every other axis having its position. Where the conditions of windows hold
        for all of their positions, inner loops run without them."""
        inside = whole_windows(scope, self.parallel.regions[0], plan.vector)
        if inside is None:
            self._vector_loops(scope, plan)
            return
        with scope.builder.if_else(inside.holds) as (interior, border):
            with interior:
                self._vector_loops(scope.within(known=scope.known | inside.conditions), plan)
            with border:
                self._vector_loops(scope, plan)

    def _vector_loops(self, scope: Scope, plan: Jobs, first: ir.Value | None = None) -> None:
        """The job's part of the vector axis; at all positions of the tile axis from `first` on as one, if given."""
        region = self.parallel.regions[0]
        forms = forms_for(scope, region, plan.vector, plan.extent)
        inner = hoist(scope, region, {plan.vector} if first is None else {plan.vector, plan.tile})
        vector = vector_axis(inner, region, plan.vector, *plan.range(scope))

        def body(form: Form, lanes: Scope, carried: list[ir.Value]) -> list[ir.Value]:
            if first is None:
                emit_block(lanes, region)
            else:
                positions = [lanes.builder.add(first, constant(i)) for i in range(plan.width)]
                emit_together([lanes.within(axes={plan.tile: p}) for p in positions], region)
            return carried

        vector_nest(inner, [], vector, forms, [[] for _ in forms], body)

    # ---- positions whose inner loops run as one --------------------------------------------------------------------

    def _jammed(self, scope: Scope, plan: Jobs) -> None:
        """A job of `plan.width` positions along the tile axis as one; where fewer are left, one after the other."""
        b = scope.builder
        first, last = plan.tile_range(scope)
        if isinstance(plan.tile_extent, int) and plan.tile_extent % plan.width == 0:
            self._together(scope, plan, first)
            return
        with b.if_else(b.icmp_signed("==", b.sub(last, first), constant(plan.width))) as (whole, rest):
            with whole:
                self._together(scope, plan, first)
            with rest:
                self._each_position(scope, plan, first, last, lambda inner: self._vector_loops(inner, plan))

    def _together(self, scope: Scope, plan: Jobs, first: ir.Value) -> None:
        """Windows' conditions are linear along the tile axis: they hold between two places where they hold."""
        b, region = scope.builder, self.parallel.regions[0]
        ends = (first, b.add(first, constant(plan.width - 1)))
        low, high = (whole_windows(scope.within(axes={plan.tile: end}), region, plan.vector) for end in ends)
        if low is None or high is None:
            self._vector_loops(scope, plan, first)
            return
        with b.if_else(b.and_(low.holds, high.holds)) as (interior, border):
            with interior:
                self._vector_loops(scope.within(known=scope.known | low.conditions), plan, first)
            with border:
                self._vector_loops(scope, plan, first)

    # ---- tiles -------------------------------------------------------------------------------------------------------

    def _tiles(self, scope: Scope, plan: Jobs) -> None:
        """A job of as many positions along the tile axis as there are lanes, fewer at its end: as tiles if all of their
        loads happen, else one position after the other."""
        b = scope.builder
        first, last = plan.tile_range(scope)
        loads = tiled_loads(self.accesses, plan.tile, plan.vector)
        open_conditions = (c for load in loads for c in self.accesses.conditions(load.op))
        conditions = frozenset(c for c in open_conditions if plan.tile in symbols_of(c))
        whole = b.icmp_signed("==", b.sub(last, first), constant(plan.width))
        for end in (first, b.sub(last, constant(1))):
            at_end = scope.within(axes={plan.tile: end})
            for condition in conditions:                # linear, so that they hold between two places where they hold
                whole = b.and_(whole, holds(at_end, condition, {}))
        with b.if_else(whole) as (tiled, plain):
            with tiled:
                self._whole_tile(scope.within(known=scope.known | conditions), plan, loads, first)
            with plain:
                self._each_position(scope, plan, first, last, lambda inner: self._vectors(inner, plan))

    def _each_position(self, scope: Scope, plan: Jobs, first: ir.Value, last: ir.Value,
                       body: Callable[[Scope], object]) -> None:
        def position(_: ir.IRBuilder, index: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            body(scope.within(axes={plan.tile: index}))
            return []

        counted_loop(scope.builder, plan.tile, first, last, 1, [], position)

    def _whole_tile(self, scope: Scope, plan: Jobs, loads: list[TiledLoad], first: ir.Value) -> None:
        region = self.parallel.regions[0]
        vector = vector_axis(scope, region, plan.vector, *plan.range(scope))
        last = scope.builder.add(first, constant(plan.width))

        def body(form: Form, lanes: Scope, carried: list[ir.Value]) -> list[ir.Value]:
            if form.lanes != plan.width or form.masked:
                self._each_position(lanes, plan, first, last, lambda inner: emit_block(inner, region))
                return carried
            tiles = [read_tile(lanes, load, first) for load in loads]

            def row(inner: Scope) -> None:
                index = inner.builder.sub(inner.axes[plan.tile], first)
                pairs = zip(loads, tiles, strict=True)
                values = {load.op.result: read_row(inner, load, tile, index) for load, tile in pairs}
                emit_block(inner.within(values=values), region)

            self._each_position(lanes, plan, first, last, row)
            return carried

        forms = forms_for(scope, region, plan.vector, plan.extent)
        vector_nest(scope, [], vector, forms, [[] for _ in forms], body)


def _rounded_bytes(argument: Value) -> DimLike:
    assert isinstance(argument.type, Mem)
    return abi.aligned(argument.type.nbytes)


def points_meet(accesses: Accesses, parallel: Op) -> bool:
    """Whether different outer points may change the same byte, and so have to run on one thread, in order: they fold
    into elements that the data chooses, or store elements that share a byte."""
    outer = {n for n, _ in loop_axes(parallel)}
    for op in accesses.func.walk():
        if op.name != "k.store":
            continue
        if element_of(op.operand(0)).bits < 8:
            return True
        plain = {str(i) for i in index_of(op)}
        if op.attrs["combine"] is not None and not outer <= plain:
            return True
    return False
