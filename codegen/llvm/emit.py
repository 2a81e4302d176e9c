"""Kernels as LLVM functions: the kernel IR of `onnxc.ops.kernel`, laid out as a Schedule says.

A kernel's outer points become jobs: a job is one point of the parallel axes that are not across lanes, times one block
of the axis that is. The thread pool hands out ranges of jobs; a range is decoded once and then stepped through.

When the schedule's vector axis is a parallel axis, everything inside runs in its lanes and inner loops are plain loops.
Otherwise each reduce and sweep that is reached first has its own best axis across lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir

from onnxc.codegen.accesses import LOOPS, Accesses, loop_axes
from onnxc.codegen.llvm import abi
from onnxc.codegen.llvm.abi import I64, KernelCode, KernelError
from onnxc.codegen.llvm.dims import DimEmitter, constant
from onnxc.codegen.llvm.heuristics import grain_of, vector_axes
from onnxc.codegen.llvm.intrinsics import intrinsic
from onnxc.codegen.llvm.loops import counted_loop
from onnxc.codegen.llvm.memory import emit_load, emit_store, holds
from onnxc.codegen.llvm.nests import Form, forms_for, scalar_nest, vector_axis, vector_nest
from onnxc.codegen.llvm.prepare import is_contraction, prepare_kernel
from onnxc.codegen.llvm.reduce import emit_reduce, emit_scan
from onnxc.codegen.llvm.registers import Element, const
from onnxc.codegen.llvm.rowcache import SCRATCH
from onnxc.codegen.llvm.scope import KernelContext, Scope
from onnxc.codegen.llvm.target import Target
from onnxc.codegen.llvm.transpose import TiledLoad, read_row, read_tile, tiled_loads
from onnxc.codegen.schedule import Schedule
from onnxc.ir.core import Block, Func, Op, Value
from onnxc.ir.dims import DimLike, ceildiv, dim_min, product, symbols_of
from onnxc.ir.types import I64 as INDEX
from onnxc.ir.types import Mem

__all__ = ["emit_kernel", "kernel_symbols"]

_BLOCK_ELEMENTS = 4096          # of the vector axis in one job: long enough to forget the job's start, short enough to share


def kernel_symbols(func: Func) -> list[str]:
    """The dim symbols of a kernel, sorted: those of its arguments' shapes and of its loops' extents."""
    dims: list[DimLike] = [d for a in func.args if isinstance(a.type, Mem) for d in a.type.shape]
    axes: set[str] = set()
    for op in func.walk():
        if op.name in LOOPS:
            for name, extent in loop_axes(op):
                axes.add(name)
                dims.append(extent)
        dims.extend(_dims_of(op))
    return sorted(s for s in symbols_of(dims) - axes if not s.startswith("$"))


def _dims_of(op: Op) -> list[DimLike]:
    if op.name == "k.index":
        return [op.attrs["expr"]]  # type: ignore[list-item]
    if op.name not in ("k.load", "k.store"):
        return []
    return [*op.attrs["index"], *(d for condition in op.attrs["where"] for d in condition)]  # type: ignore


def emit_kernel(module: ir.Module, func: Func, target: Target, errors: Callable[[str], int],
                symbols: Sequence[str] | None = None) -> KernelCode:
    """Add `func` to `module` as a function of its name.

    `errors` gives the error code of a k.require's message. `symbols` is the order of the symbol table that the frame
    points to; without it, `kernel_symbols(func)`. A kernel without the attribute `schedule` goes through `prepare_kernel`
    first. Raises KernelError for what this backend has no code for.
    """
    if is_contraction(func):
        from onnxc.codegen.llvm.contract import emit_contract, prepare_contraction
        func = prepare_contraction(func, target)
        if is_contraction(func):
            return emit_contract(module, func, target, errors, _order(func, symbols))
    func = prepare_kernel(func, target)
    schedule = Schedule.parse(str(func.attrs.get("schedule") or ""))
    return _KernelEmitter(module, func, target, schedule, errors, _order(func, symbols)).emit()


def _order(func: Func, symbols: Sequence[str] | None) -> list[str]:
    """The order of the symbol table, which has to hold every symbol of the kernel."""
    order = list(symbols) if symbols is not None else kernel_symbols(func)
    missing = set(kernel_symbols(func)) - set(order)
    if missing:
        raise KernelError(f"kernel @{func.name} uses the dims {', '.join(sorted(missing))}, which its program has no symbols for")
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
                raise KernelError(f"kernel @{self.func.name}: the extent {axis.extent} of axis {axis.name} varies over another "
                                  f"axis; run to the longest and put the condition into `where`")
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
        return KernelContext(self.func, self.function, self.target, self.schedule, self.accesses, context, memory, symbols,
                             self.errors, emit_block, vector_axes(self.accesses, self.schedule))

    def _scratch_memory(self, builder: ir.IRBuilder, frame: ir.Value, symbols: dict[str, ir.Value]) -> dict[Value, ir.Value]:
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

    def _jobs(self) -> _Jobs:
        axes = loop_axes(self.parallel)
        name = self.schedule.vector if self.schedule.vector in dict(axes) and self.schedule.lanes > 1 else ""
        outer = [(n, e) for n, e in axes if n != name]
        if not name:
            return _Jobs(outer, "", 1, 1)
        tile = next((n for n, size in self.schedule.blocks if n in dict(outer) and size == self.schedule.lanes), "")
        return _Jobs(outer, name, dict(axes)[name], _BLOCK_ELEMENTS, tile, self.schedule.lanes if tile else 1)

    def _run_jobs(self, scope: Scope, plan: _Jobs, begin: ir.Value, end: ir.Value) -> None:
        """Steps through [begin, end): positions are decoded from the first job and then counted up with carry."""
        b = scope.builder
        extents = [scope.dim(e) for _, e in plan.counters]
        starts = _decode(b, begin, extents)

        def job(_: ir.IRBuilder, index: ir.Value, positions: list[ir.Value]) -> list[ir.Value]:
            names = [n for n, _ in plan.counters]
            self._job(scope.within(axes=dict(zip(names, positions, strict=True))), plan)
            return _advance(b, positions, extents)

        counted_loop(b, "job", begin, end, 1, starts, job)

    def _job(self, scope: Scope, plan: _Jobs) -> None:
        if not plan.vector:
            emit_block(scope, self.parallel.regions[0])
        elif plan.tile:
            self._tiles(scope, plan)
        else:
            self._vectors(scope, plan)

    def _vectors(self, scope: Scope, plan: _Jobs) -> None:
        """The job's part of the vector axis, every other axis having its position."""
        region = self.parallel.regions[0]
        forms = forms_for(scope, region, plan.vector, plan.extent)
        inner = hoist(scope, region, {plan.vector})
        vector = vector_axis(inner, region, plan.vector, *plan.range(scope))

        def body(form: Form, lanes: Scope, carried: list[ir.Value]) -> list[ir.Value]:
            emit_block(lanes, region)
            return carried

        vector_nest(inner, [], vector, forms, [[] for _ in forms], body)

    # ---- tiles -------------------------------------------------------------------------------------------------------

    def _tiles(self, scope: Scope, plan: _Jobs) -> None:
        """A job of as many positions along the tile axis as there are lanes, fewer at its end: as tiles if all of their
        loads happen, else one position after the other."""
        b = scope.builder
        first, last = plan.tile_range(scope)
        loads = tiled_loads(self.accesses, plan.tile, plan.vector)
        conditions = frozenset(c for load in loads for c in self.accesses.conditions(load.op) if plan.tile in symbols_of(c))
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

    def _each_position(self, scope: Scope, plan: _Jobs, first: ir.Value, last: ir.Value,
                       body: Callable[[Scope], None]) -> None:
        def position(_: ir.IRBuilder, index: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            body(scope.within(axes={plan.tile: index}))
            return []

        counted_loop(scope.builder, plan.tile, first, last, 1, [], position)

    def _whole_tile(self, scope: Scope, plan: _Jobs, loads: list[TiledLoad], first: ir.Value) -> None:
        region = self.parallel.regions[0]
        vector = vector_axis(scope, region, plan.vector, *plan.range(scope))
        last = scope.builder.add(first, constant(plan.width))

        def body(form: Form, lanes: Scope, carried: list[ir.Value]) -> list[ir.Value]:
            if form.lanes != plan.width or form.masked:
                self._each_position(lanes, plan, first, last, lambda inner: emit_block(inner, region) and None)
                return carried
            tiles = [read_tile(lanes, load, first) for load in loads]

            def row(inner: Scope) -> None:
                index = inner.builder.sub(inner.axes[plan.tile], first)
                values = {load.op.result: read_row(inner, load, tile, index) for load, tile in zip(loads, tiles, strict=True)}
                emit_block(inner.within(values=values), region)

            self._each_position(lanes, plan, first, last, row)
            return carried

        forms = forms_for(scope, region, plan.vector, plan.extent)
        vector_nest(scope, [], vector, forms, [[] for _ in forms], body)


def _rounded_bytes(argument: Value) -> DimLike:
    assert isinstance(argument.type, Mem)
    return ceildiv(argument.type.nbytes, abi.SCRATCH_ALIGN) * abi.SCRATCH_ALIGN


class _Jobs:
    """How outer points become jobs: `outer` axes, blocks of the axis across lanes ("" when there is none), and runs of
    `width` positions along the `tile` axis ("" when there is none)."""

    BLOCK, TILE = "block.", "tile."

    def __init__(self, outer: list[tuple[str, DimLike]], vector: str, extent: DimLike, block: int, tile: str = "",
                 width: int = 1) -> None:
        self.vector, self.extent, self.block, self.tile, self.width = vector, extent, block, tile, width
        self.tile_extent = dict(outer).get(tile, 1)
        self.blocked = bool(vector) and not (isinstance(extent, int) and extent <= block)
        tiles = [(self.TILE, ceildiv(self.tile_extent, width))] if tile else []
        blocks = [(self.BLOCK, ceildiv(extent, block))] if self.blocked else []
        self.counters = [(n, e) for n, e in outer if n != tile] + tiles + blocks
        self.total: DimLike = product(e for _, e in self.counters)
        if vector and not self.blocked:
            self.total = self.total * (1 if extent else 0)

    @property
    def points(self) -> DimLike:
        """Outer points in one job."""
        return dim_min(self.extent, self.block) * self.width if self.vector else 1

    def tile_range(self, scope: Scope) -> tuple[ir.Value, ir.Value]:
        """The positions along the tile axis that a job covers."""
        b, extent = scope.builder, scope.dim(self.tile_extent)
        first = b.mul(scope.axes[self.TILE], constant(self.width))
        last = b.add(first, constant(self.width))
        return first, b.select(b.icmp_signed("<", last, extent), last, extent)

    def range(self, scope: Scope) -> tuple[ir.Value, ir.Value]:
        """The part of the vector axis that a job covers."""
        extent = scope.dim(self.extent)
        if not self.blocked:
            return ir.Constant(I64, 0), extent
        b = scope.builder
        start = b.mul(scope.axes[self.BLOCK], constant(self.block))
        stop = b.add(start, constant(self.block))
        return start, b.select(b.icmp_signed("<", stop, extent), stop, extent)


def _decode(b: ir.IRBuilder, job: ir.Value, extents: list[ir.Value]) -> list[ir.Value]:
    """The position along each axis of job number `job`, the last axis fastest."""
    positions = []
    for extent in reversed(extents[1:]):
        positions.append(b.urem(job, extent))
        job = b.udiv(job, extent)
    return [job, *reversed(positions)] if extents else []


def _advance(b: ir.IRBuilder, positions: list[ir.Value], extents: list[ir.Value]) -> list[ir.Value]:
    """The positions of the next job."""
    out: list[ir.Value] = []
    carry: ir.Value = constant(1)
    for i in range(len(positions) - 1, 0, -1):
        following = b.add(positions[i], carry)
        wraps = b.icmp_signed("==", following, extents[i])
        out.append(b.select(wraps, constant(0), following))
        carry = b.zext(wraps, I64)
    if positions:
        out.append(b.add(positions[0], carry))
    return out[::-1]


def points_meet(accesses: Accesses, parallel: Op) -> bool:
    """Whether different outer points may change the same byte, which then all run on one thread, in order: they fold into
    elements that the data chooses, or store elements that share a byte."""
    outer = {n for n, _ in loop_axes(parallel)}
    for op in accesses.func.walk():
        if op.name != "k.store":
            continue
        if op.operand(0).type.dtype.bits < 8:  # type: ignore[union-attr]
            return True
        plain = {str(i) for i in op.attrs["index"]}  # type: ignore[union-attr]
        if op.attrs["combine"] is not None and not outer <= plain:
            return True
    return False


# ---- ops -------------------------------------------------------------------------------------------------------------

def emit_block(scope: Scope, block: Block) -> list[Element]:
    """Emits the ops of a region in order; gives what it yields."""
    values = dict(scope.values)
    for op in block.ops:
        if op.name == "yield":
            return [values[v] for v in op.inputs]
        if all(r in values for r in op.results) and op.results:
            continue                                       # emitted in front of the loop already
        results = _emit_op(scope.within(values=values), op)
        values.update(zip(op.results, results, strict=True))
    return []


def _emit_op(scope: Scope, op: Op) -> list[Element]:
    if op.name.startswith("s."):
        return [_emit_scalar(scope, op)]
    if op.name == "k.load":
        return [emit_load(scope, op)]
    if op.name == "k.index":
        operands = {f"${i}": scope.values[v].value for i, v in enumerate(op.inputs)}
        return [Element(scope.dim(op.attrs["expr"], operands), INDEX)]  # type: ignore[arg-type]
    if op.name == "k.reduce":
        return emit_reduce(scope, op)
    effects = {"k.store": emit_store, "k.scan": emit_scan, "k.sweep": _emit_sweep, "k.require": _emit_require}
    if op.name not in effects:
        raise KernelError(f"kernel @{scope.kernel.func.name}: {op.name} cannot stand inside k.parallel")
    effects[op.name](scope, op)
    return []


def _emit_scalar(scope: Scope, op: Op) -> Element:
    args = [scope.values[v] for v in op.inputs]
    if op.name == "s.const":
        return const(op.attrs["value"], op.attrs["dtype"])  # type: ignore[arg-type]
    if op.name == "s.cast":
        return scope.scalars.cast(args[0], op.attrs["to"], bool(op.attrs.get("saturate", True)))  # type: ignore[arg-type]
    if op.name == "s.bitcast":
        return scope.scalars.bitcast(args[0], op.attrs["to"])  # type: ignore[arg-type]
    return scope.scalars.apply(op.name[2:], args)


def _emit_sweep(scope: Scope, op: Op) -> None:
    extents = [e for _, e in loop_axes(op)]
    if all(isinstance(e, int) and e > 0 for e in extents):
        _run_sweep(scope, op)
        return
    b = scope.builder
    runs: ir.Value = ir.Constant(abi.I1, 1)
    for extent in extents:
        runs = b.and_(runs, b.icmp_signed(">", scope.dim(extent), constant(0)))
    with b.if_then(runs):
        _run_sweep(scope, op)


def _run_sweep(scope: Scope, op: Op) -> None:
    """A sweep that has at least one iteration."""
    axes, region = loop_axes(op), op.regions[0]
    scope = hoist(scope, region, {n for n, _ in axes})
    name = scope.kernel.vectorised.get(op)
    if name is None or scope.lanes > 1:
        scalar_nest(scope, axes, [], lambda inner, carried: [] if emit_block(inner, region) else [])
        return
    extent = dict(axes)[name]
    forms = forms_for(scope, region, name, extent)
    vector = vector_axis(scope, region, name, constant(0), scope.dim(extent))

    def body(form: Form, inner: Scope, carried: list[ir.Value]) -> list[ir.Value]:
        emit_block(inner, region)
        return carried

    vector_nest(scope, [(n, e) for n, e in axes if n != name], vector, forms, [[] for _ in forms], body)


def _emit_require(scope: Scope, op: Op) -> None:
    """Records the error when the condition fails in any real lane; the call stands outside the hot path."""
    b = scope.builder
    failed = b.not_(scope.values[op.operand(0)].value)
    if isinstance(failed.type, ir.VectorType):
        if scope.mask is not None:
            failed = b.and_(failed, scope.mask)
        any_lane = intrinsic(b.module, "llvm.vector.reduce.or", [failed.type], abi.I1, [failed.type])
        failed = b.call(any_lane, [failed])
    code = scope.kernel.errors(str(op.attrs["message"]))
    with b.if_then(failed, likely=False):
        b.call(abi.fail_function(b.module), [scope.kernel.context, constant(code)])


# ---- what does not depend on a loop ----------------------------------------------------------------------------------

def hoist(scope: Scope, region: Block, axes: set[str]) -> Scope:
    """A scope in which the region's loads and scalars that do not depend on `axes` are emitted already.

    The loop is known to run, for an index is in range only where its load happens; and only unconditional loads of memory
    that the kernel does not write are taken. LLVM cannot do this, for the stores in the loop might change what is loaded.
    """
    accesses, values = scope.kernel.accesses, dict(scope.values)
    for op in region.ops:
        if not _invariant(op, values, accesses, axes):
            continue
        (result,) = op.results
        values[result] = _emit_op(scope.within(values=values), op)[0]
    return scope.within(values=values)


def _invariant(op: Op, values: dict[Value, Element], accesses: Accesses, axes: set[str]) -> bool:
    if not op.name.startswith("s.") and op.name not in ("k.load", "k.index"):
        return False
    if op.name == "k.load":
        if op.operand(0) in accesses.written or accesses.conditions(op):
            return False
    used = [v for v in op.inputs if not isinstance(v.type, Mem)]
    return all(v in values for v in used) and not symbols_of(_dims_of(op)) & axes


