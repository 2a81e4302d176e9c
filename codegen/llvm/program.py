"""The host program (`p.*` of `@main`) and its kernels as one LLVM module with native entry points.

    i64 onnxc_plan(ptr symbols, ptr sizes, i64 threads)
    i64 onnxc_run(ptr context, ptr symbols, ptr inputs, ptr outputs, ptr arena, ptr constants, i64 threads)

`symbols` holds the i64 values of `Program.symbols`, those of rooms last. `onnxc_plan` writes the bytes of all inputs
and outputs into `sizes` (i64 each, inputs first) and gives the bytes of the arena, scratch for `threads` threads
included; -1 when a size does not fit 63 bits or is negative, or -2 - i when the guard with message i fails. `onnxc_run`
gives 0, 1 + i for the error with message i, or -1 when the cancel word was set. `inputs`, `outputs` and `constants` are
arrays of pointers, the last in the order of `Program.constants`; the arena is aligned to 64 bytes. Slots of the context
are in `abi`.

Where the program has run symbols, the table of symbols goes on with a slot for each of them, which `onnxc_run` writes:
it then belongs to one run, and tells the real sizes of outputs afterwards. `onnxc_plan` takes their bounds instead; the
size of an output that has none is 0, and `onnxc_run` writes its address into the table of outputs: the caller frees it.

Building the module and compiling it are two functions, so that modules can be compiled elsewhere or not at all.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import cast

from llvmlite import ir

from onnxc.codegen.accesses import LOOPS, loop_axes
from onnxc.codegen.llvm import abi
from onnxc.codegen.llvm.abi import I32, I64, PTR, KernelCode, KernelError
from onnxc.codegen.llvm.control import makers
from onnxc.codegen.llvm.denormals import flushing
from onnxc.codegen.llvm.dims import CheckedDims, DimEmitter, SizesOnce, constant
from onnxc.codegen.llvm.emit import emit_kernel
from onnxc.codegen.llvm.heap import give, heap_buffer, room, wrap
from onnxc.codegen.llvm.intrinsics import intrinsic
from onnxc.codegen.llvm.parts import Parts
from onnxc.codegen.llvm.pool import declare_pool, pool_ir
from onnxc.codegen.llvm.prepare import is_contraction
from onnxc.codegen.llvm.share import Sharing
from onnxc.codegen.llvm.target import Target
from onnxc.ir.core import Block, Func, Module, Op, Ref, Value
from onnxc.ir.dims import DimLike, dim_max, product, provably_nonneg, sym
from onnxc.ir.printer import print_func
from onnxc.ir.types import Mem
from onnxc.ops.program import STEPS, at_most, copies_of_inputs

__all__ = ["Program", "ProgramCode", "build_program", "emit_program", "structure_of"]

_NUMBER = re.compile(r"\d+")
_LONG = 64              # launches: LLVM's time for a function grows faster than its length, and what it gains here is
                        # nanoseconds a launch
_SLICES = 4             # chunks a thread gets where there is enough work: what one thread loses, another picks up
_STOPPABLE = 512        # chunks a thread gets in a run that may be stopped, which is noticed between chunks


@dataclasses.dataclass(frozen=True)
class ProgramCode:
    """A program as LLVM functions, and what its caller has to know. `steps` are the names that profiles speak
    of."""

    parts: Parts
    symbols: tuple[str, ...]
    constants: tuple[str, ...]
    errors: tuple[str, ...]
    kernels: tuple[str, ...]
    steps: tuple[str, ...]
    run_symbols: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program. `errors[i]` is the message of error i, `steps` the names of launches and copies in order."""

    object_bytes: bytes
    llvm_text: str
    symbols: tuple[str, ...]
    constants: tuple[str, ...]
    errors: tuple[str, ...]
    kernels: tuple[str, ...]
    steps: tuple[str, ...]
    run_symbols: tuple[str, ...] = ()


def emit_program(module: Module, target: Target, begin: Callable[[str], None] | None = None,
                 finish: Callable[[str, Sequence[str]], bytes] | None = None,
                 flush_denormals: bool = False) -> Program:
    """The program of `module` compiled for `target`, its thread pool linked in. LLVM's work, which can take seconds, is
    done by `finish`, given the text of a module and those of modules that become part of it, for the object; without
    it, here. With `begin`, that module is but the last part: `begin` is given the others, while kernels are still being
    written. `flush_denormals`: see `codegen.llvm.denormals`."""
    code = build_program(module, target, flush_denormals, begin)
    linked, text = [pool_ir(target)], code.parts.rest()
    object_bytes = finish(text, linked) if finish is not None else target.compile(text, linked=linked)
    return Program(object_bytes, code.parts.whole(), code.symbols, code.constants, code.errors, code.kernels,
                   code.steps, code.run_symbols)


def build_program(module: Module, target: Target, flush_denormals: bool = False,
                  give: Callable[[str], None] | None = None) -> ProgramCode:
    """The LLVM module of a program whose memory is planned, in parts of which `give` takes all but the last. Raises
    KernelError for what has no native code."""
    main = module.funcs.get("main")
    if main is None or main.kind != "program":
        raise KernelError("the module has no @main of kind \"program\": lower it to kernels first")
    return _ProgramEmitter(module, main, target, flush_denormals, give).build()


def structure_of(func: Func) -> str:
    """The text of a kernel with its own, its values' and its axes' names replaced by numbers: equal for kernels that
    are emitted alike."""
    numbers: dict[str, str] = {}
    axes = {name for op in func.walk() if op.name in LOOPS for name, _ in loop_axes(op)}

    def number(match: re.Match[str]) -> str:
        name = match.group(0)
        if name.startswith("%") or name in axes:
            return numbers.setdefault(name, f"{'%' if name.startswith('%') else 'axis.'}{len(numbers)}")
        return name

    # Where a kernel comes from does not change its code.
    text = re.sub(r'\b(?:nodes = |loc )"(?:[^"\\]|\\.)*"', "", print_func(func).split("(", 1)[1])
    return re.sub(r'"(?:[^"\\]|\\.)*"|%(?:"(?:[^"\\]|\\.)*"|[\w$./:\-]+)|[$A-Za-z_][\w.$]*', number, text)


class _ProgramEmitter:
    def __init__(self, module: Module, main: Func, target: Target, flush_denormals: bool,
                 give: Callable[[str], None] | None) -> None:
        self.flush_denormals = flush_denormals
        self.source, self.main, self.target = module, main, target
        self.module = ir.Module("onnxc")
        self.parts = Parts(self.module, give)
        self.pool = declare_pool(self.module)
        rooms = cast("tuple[tuple[str, DimLike], ...]", main.attrs.get("rooms") or ())
        given = cast("tuple[str, ...]", main.attrs.get("symbols") or ())
        self.symbols = (*given, *(name for name, _ in rooms))
        self.bounds: list[tuple[str, DimLike | None]] = list(main.attrs.get("run_symbols") or ())  # type: ignore[arg-type]
        self.table = (*self.symbols, *(name for name, _ in self.bounds))      # the order of the table of symbols
        self.inputs = int(main.attrs.get("inputs") or 0)  # type: ignore[arg-type]
        self.guards: list[tuple] = list(main.attrs.get("guards") or ())  # type: ignore[arg-type]
        self.errors: dict[str, int] = {}            # messages, and their codes
        self.codes: dict[str, KernelCode] = {}      # by kernel; kernels of one structure share theirs
        self.steps = [op for op in main.body.ops if op.name in STEPS]
        self.heaps = [op for op in main.walk() if op.name == "p.heap"]
        self.launches = [op for op in main.walk() if op.name == "p.launch"]
        self.copies = copies_of_inputs(main)
        names = dict.fromkeys(_const_name(op) for op in main.walk() if op.name == "p.const")
        self.constants = {name: i for i, name in enumerate(names)}      # and their places in the table of constants

    def build(self) -> ProgramCode:
        for *_, message in self.guards:
            self.error(message)
        kernels = self.emit_kernels()
        guards = self.emit_guards()
        self.emit_plan(guards)
        self.emit_run(guards)
        self.parts.add({})
        return ProgramCode(self.parts, self.symbols, tuple(self.constants), tuple(self.errors), tuple(kernels),
                           tuple(_step_name(op) for op in self.steps), tuple(name for name, _ in self.bounds))

    def error(self, message: str) -> int:
        """The code of an error message; equal messages share one."""
        return self.errors.setdefault(message, len(self.errors))

    # ---- kernels -----------------------------------------------------------------------------------------------------

    def emit_kernels(self) -> list[str]:
        """Every kernel that is launched, those of one structure once; the names of those emitted. What may share a body
        is emitted together, and then written down: kernels whose texts differ in numbers only."""
        first: dict[str, Func] = {}     # of each structure, in the order of launches
        structures: dict[str, str] = {}
        for op in self.launches:
            name = _kernel_name(op)
            if name in structures:
                continue
            func = self.source.funcs.get(name)
            if func is None:
                raise KernelError(f"p.launch of @{name}: the module has no such kernel")
            structures[name] = structure_of(func)
            first.setdefault(structures[name], func)
        groups: dict[str, list[str]] = {}
        for structure in first:
            groups.setdefault(_NUMBER.sub("#", structure), []).append(structure)
        codes: dict[str, KernelCode] = {}
        for group in groups.values():
            codes |= {structure: self.emit_kernel(first[structure]) for structure in group}
            self.parts.add({first[structure].name: self.sharing(first[structure].name) for structure in group})
        self.codes = {name: codes[structure] for name, structure in structures.items()}
        return [func.name for func in first.values()]

    def emit_kernel(self, func: Func) -> KernelCode:
        code = emit_kernel(self.module, func, self.target, self.error, self.table)
        if self.flush_denormals:
            code = dataclasses.replace(code, function=flushing(code.function, self.target))
        return code

    def sharing(self, kernel: str) -> Sharing:
        """The inner loops of contractions are functions of their own, which take extents as arguments anyway; in other
        kernels only what runs once an element is as fast with extents that are loaded."""
        func = self.source.funcs[kernel]
        if is_contraction(func):
            return Sharing.NUMBERS
        inner = {op.name for op in func.walk() if op.name in LOOPS} - {"k.parallel", "k.sweep"}
        return Sharing.NOTHING if inner else Sharing.FACTORS

    # ---- onnxc_guards ------------------------------------------------------------------------------------------------

    def emit_guards(self) -> ir.Function:
        """i64 (ptr symbols): 0, or 1 + the code of the first guard that does not hold, or whose sides do not fit
        an i64: sizes that are equal only after wrapping around are not."""
        function = ir.Function(self.module, ir.FunctionType(I64, [PTR]), "onnxc_guards")
        function.linkage = "internal"
        b = ir.IRBuilder(function.append_basic_block("entry"))
        values = self.symbol_values(b, function.args[0])
        value: CheckedDims | None = None
        for kind, left, right, message in self.guards:
            value = CheckedDims(b, values, value)
            a, c = value(left), value(right)
            holds = b.icmp_signed("==", a, c)
            if kind == "broadcast":
                holds = b.or_(holds, b.icmp_signed("==", a, constant(1)))
            elif kind != "eq":
                raise KernelError(f"a guard of kind {kind!r}: expected \"eq\" or \"broadcast\"")
            with b.if_then(b.or_(b.not_(holds), value.failed), likely=False):
                b.ret(constant(1 + self.error(message)))
        b.ret(constant(0))
        return function

    def symbol_values(self, b: ir.IRBuilder, table: ir.Value) -> dict[str, ir.Value]:
        """The symbols that the inputs give."""
        return abi.load_symbols(b, table, self.symbols, frozenset(self.symbols))

    def at_most(self, d: DimLike) -> DimLike:
        """The most that a size can become, over symbols that the inputs give."""
        out = at_most(d, self.bounds) if self.bounds else d
        if out is None:
            raise KernelError(f"a size of {d}: nothing that is known when a run starts bounds it")
        return out

    # ---- onnxc_plan --------------------------------------------------------------------------------------------------

    def emit_plan(self, guards: ir.Function) -> None:
        function = ir.Function(self.module, ir.FunctionType(I64, [PTR, PTR, I64]), "onnxc_plan")
        table, sizes, threads = function.args
        b = ir.IRBuilder(function.append_basic_block("entry"))
        broken = b.call(guards, [table])
        with b.if_then(b.icmp_signed("!=", broken, constant(0)), likely=False):
            b.ret(b.sub(constant(-1), broken))
        values = {**self.symbol_values(b, table), _THREADS: threads}
        size = CheckedDims(b, values)
        for i, argument in enumerate(self.main.args):
            room = self.checked_size(b, size, argument) if self.is_bounded(argument.mem.size) else constant(0)
            b.store(room, abi.slot_pointer(b, sizes, i))
        for op in self.main.walk():
            if op.name == "p.alloc":
                self.checked_size(b, size, op.result)
        total = size(self.arena() + self.scratch_room())
        with b.if_then(b.or_(size.failed, b.icmp_signed("<", total, constant(0))), likely=False):
            b.ret(constant(-1))
        b.ret(total)

    def checked_size(self, b: ir.IRBuilder, size: CheckedDims, value: Value) -> ir.Value:
        """The bytes of a buffer; a dim that may be negative fails the plan."""
        assert isinstance(value.type, Mem)
        for d in value.type.shape:
            if not provably_nonneg(d):
                size.failed = b.or_(size.failed, b.icmp_signed("<", size(self.at_most(d)), constant(0)))
        return size(value.type.dtype.nbytes(product(map(self.at_most, value.type.shape))))

    def arena(self) -> DimLike:
        """Bytes of the planned buffers, and where the scratch of launches starts."""
        arena = self.main.attrs.get("arena")
        return abi.aligned(0 if arena is None else arena)  # type: ignore[arg-type]

    def scratch_room(self) -> DimLike:
        """Bytes of scratch that the launch with the most of it needs on all threads."""
        pieces = {self.at_most(code.scratch) for code in self.codes.values() if self.is_bounded(code.scratch)}
        return dim_max(0, *pieces) * sym(_THREADS) if pieces else 0

    def is_bounded(self, d: DimLike) -> bool:
        """Whether a size has a bound when a run starts."""
        return not self.bounds or at_most(d, self.bounds) is not None

    # ---- onnxc_run ---------------------------------------------------------------------------------------------------

    def emit_run(self, guards: ir.Function) -> None:
        function = ir.Function(self.module, ir.FunctionType(I64, [PTR] * 6 + [I64]), "onnxc_run")
        unbounded = any(not self.is_bounded(code.scratch) for code in self.codes.values())
        if self.heaps or unbounded:
            function = wrap(self.module, function, len(self.heaps) + 1)
        if len(self.launches) > _LONG:
            function.attributes.update(("noinline", "optnone"))
        context, table = function.args[0], function.args[1]
        b = ir.IRBuilder(function.append_basic_block("entry"))
        frame = abi.stack_slots(b, self.frame_slots())
        b.store(constant(0), abi.slot_pointer(b, context, abi.CONTEXT_ERROR))
        broken = b.call(guards, [table])
        with b.if_then(b.icmp_signed("!=", broken, constant(0)), likely=False):
            b.ret(broken)
        _RunEmitter(self, function, b, frame).emit()

    def frame_slots(self) -> int:
        return abi.FRAME_MEMORY + max((len(op.operands) for op in self.launches), default=0)


_THREADS = "threads."


class _RunEmitter:
    """The body of onnxc_run, from a point where the guards hold."""

    def __init__(self, program: _ProgramEmitter, function: ir.Function, builder: ir.IRBuilder, frame: ir.Value) -> None:
        self.program, self.b, self.frame = program, builder, frame
        self.context, self.table, self.inputs, self.outputs = function.args[:4]
        self.arena, self.constants, self.threads = function.args[4:7]
        self.heap: ir.Value | None = function.args[7] if len(function.args) > 7 else None
        self.values = program.symbol_values(builder, self.table)
        self.values[_THREADS] = self.threads
        self.once = SizesOnce(builder, self.values)
        self.buffers: dict[Value, ir.Value] = {}
        self.pool = abi.load_slot(builder, self.context, abi.CONTEXT_POOL)
        self.cancel = abi.load_slot(builder, self.context, abi.CONTEXT_CANCEL)
        self.profile = abi.load_slot(builder, self.context, abi.CONTEXT_PROFILE)
        never = builder.icmp_unsigned("==", self.cancel, ir.Constant(PTR, None))
        self.slices = builder.select(never, constant(_SLICES), constant(_STOPPABLE))

    def emit(self) -> None:
        b = self.b
        self.bind_arguments()
        self.fill_frame(abi.FRAME_SYMBOLS, self.table)
        self.fill_frame(abi.FRAME_CONTEXT, self.context)
        self.fill_frame(abi.FRAME_SCRATCH, self.at(self.arena, self.program.arena()))
        self.makers: dict[str, Callable[[Op], None]] = {
            "p.const": self.bind_const, "p.alloc": self.bind_alloc, "p.view": self.bind_view, "p.launch": self.launch,
            "p.copy": self.copy, "p.heap": lambda op: heap_buffer(self, op.result, self.program.heaps.index(op)),
            "p.give": self.give, **makers(self)}
        self.block(self.program.main.body)
        self.leave_if_cancelled()
        b.ret(abi.load_slot(b, self.context, abi.CONTEXT_ERROR, I64))

    @property
    def dim(self) -> DimEmitter:
        """Emits dims over the symbols that have a value here."""
        return DimEmitter(self.b, self.values, once=self.once)

    def block(self, block: Block) -> list[Value]:
        """The steps of a block; what it yields. Symbols that get their value inside count only inside."""
        top, outer = block is self.program.main.body, dict(self.values)
        step = 0
        for op in block.ops:
            if op.name in ("return", "yield"):
                break
            if op.name not in self.makers:
                raise KernelError(f"{op.name} has no native code in a program")
            if top and op.name in STEPS:
                self.timed(step, op, self.makers[op.name])
                step += 1
            else:
                self.makers[op.name](op)
        if not top:
            self.values = outer
        return list(block.terminator.inputs)

    def define(self, symbol: str, value: ir.Value) -> None:
        """Give a run symbol its value, for what is emitted after this and for kernels."""
        self.values[symbol] = value
        self.b.store(value, abi.slot_pointer(self.b, self.table, self.program.table.index(symbol)))

    def recall(self, symbol: str) -> None:
        """Take the value of a run symbol out of the table: several places may have given it."""
        self.values[symbol] = abi.load_slot(self.b, self.table, self.program.table.index(symbol), I64)

    def fail(self, message: str) -> None:
        """End the run with an error."""
        self.b.ret(constant(1 + self.program.error(message)))

    # ---- buffers -----------------------------------------------------------------------------------------------------

    def bind_arguments(self) -> None:
        for i, argument in enumerate(self.program.main.args):
            table, slot = (self.inputs, i) if i < self.program.inputs else (self.outputs, i - self.program.inputs)
            self.buffers[argument] = abi.load_slot(self.b, table, slot)

    def bind_const(self, op: Op) -> None:
        self.buffers[op.result] = abi.load_slot(self.b, self.constants, self.program.constants[_const_name(op)])

    def bind_alloc(self, op: Op) -> None:
        offset = op.attrs.get("offset")
        if offset is None:
            raise KernelError(f"%{op.result.name} of @main has no place in the arena: run plan-memory first")
        self.buffers[op.result] = self.at(self.arena, offset)  # type: ignore[arg-type]

    def bind_view(self, op: Op) -> None:
        self.buffers[op.result] = self.buffers[op.operand(0)]

    def at(self, base: ir.Value, offset: DimLike) -> ir.Value:
        return base if offset == 0 else self.b.gep(base, [self.dim(offset)], source_etype=abi.I8)

    # ---- steps -------------------------------------------------------------------------------------------------------

    def fill_frame(self, slot: int, value: ir.Value) -> None:
        self.b.store(value, abi.slot_pointer(self.b, self.frame, slot))

    def launch(self, op: Op) -> None:
        code = self.program.codes[_kernel_name(op)]
        for i, operand in enumerate(op.inputs):
            self.fill_frame(abi.FRAME_MEMORY + i, self.buffers[operand])
        bounded = self.program.is_bounded(code.scratch)
        if not bounded:
            need = code.scratch * sym(_THREADS)
            self.fill_frame(abi.FRAME_SCRATCH, room(self, None, (need,), len(self.program.heaps), "a kernel's scratch"))
        total = self.dim(code.total)
        if op in self.program.copies:
            same = self.b.icmp_unsigned("==", self.buffers[op.operand(0)], self.buffers[op.operand(1)])
            total = self.b.select(same, constant(0), total)
        grain = self.larger(self.dim(code.grain), self.share(total))
        self.b.call(self.program.pool.parallel_for, [self.pool, code.function, self.frame, total, grain, self.cancel])
        if not bounded:
            self.fill_frame(abi.FRAME_SCRATCH, self.at(self.arena, self.program.arena()))

    def share(self, total: ir.Value) -> ir.Value:
        """Jobs in a chunk when every thread gets a few chunks."""
        chunks = self.b.mul(self.larger(self.threads, constant(1)), self.slices)
        return self.b.udiv(self.b.add(total, self.b.sub(chunks, constant(1))), chunks)

    def larger(self, a: ir.Value, c: ir.Value) -> ir.Value:
        return self.b.select(self.b.icmp_signed(">", a, c), a, c)

    def give(self, op: Op) -> None:
        position = self.program.main.args.index(op.operand(1)) - self.program.inputs
        give(self, op.operand(0), self.outputs, position)

    def copy(self, op: Op) -> None:
        source, target = op.operand(0), op.operand(1)
        assert isinstance(source.type, Mem)
        function = intrinsic(self.program.module, "llvm.memcpy", [PTR, PTR, I64], abi.VOID, [PTR, PTR, I64, abi.I1])
        self.b.call(function, [self.buffers[target], self.buffers[source], self.dim(source.type.nbytes),
                               ir.Constant(abi.I1, 0)])

    def timed(self, step: int, op: Op, emit: Callable[[Op], None]) -> None:
        """A step: not begun once the run is cancelled, and between two times when there is a profile."""
        self.leave_if_cancelled()
        self.b.call(_stamp(self.program.module, self.program.target), [self.profile, constant(2 * step)])
        emit(op)
        self.b.call(_stamp(self.program.module, self.program.target), [self.profile, constant(2 * step + 1)])

    def leave_if_cancelled(self) -> None:
        b = self.b
        stopped = b.call(_cancelled(self.program.module), [self.cancel])
        with b.if_then(stopped, likely=False):
            b.ret(constant(-1))


# ---- helpers of the run ----------------------------------------------------------------------------------------------

def _cancelled(module: ir.Module) -> ir.Function:
    """i1 (ptr word): whether there is a cancel word and it is set."""
    name = "onnxc_cancelled"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(abi.I1, [PTR]), name)
    function.linkage = "internal"
    b = ir.IRBuilder(function.append_basic_block("entry"))
    with b.if_then(b.icmp_unsigned("==", function.args[0], ir.Constant(PTR, None))):
        b.ret(ir.Constant(abi.I1, 0))
    word = b.load_atomic(function.args[0], "monotonic", 4, typ=I32)
    b.ret(b.icmp_unsigned("!=", word, ir.Constant(I32, 0)))
    return function


def _stamp(module: ir.Module, target: Target) -> ir.Function:
    """void (ptr profile, i64 slot): the monotonic time in nanoseconds, where there is a profile."""
    name = "onnxc_stamp"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(abi.VOID, [PTR, I64]), name)
    function.linkage = "internal"
    profile, slot = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    with b.if_then(b.icmp_unsigned("!=", profile, ir.Constant(PTR, None)), likely=False):
        clock = ir.Function(module, ir.FunctionType(I32, [I32, PTR]), "clock_gettime")
        time = abi.stack_slots(b, 2)
        b.call(clock, [ir.Constant(I32, 1 if "linux" in target.triple else 6), time])
        seconds, rest = abi.load_slot(b, time, 0, I64), abi.load_slot(b, time, 1, I64)
        now = b.add(b.mul(seconds, constant(1_000_000_000)), rest)
        b.store(now, b.gep(profile, [slot], source_etype=I64))
    b.ret_void()
    return function


def _kernel_name(op: Op) -> str:
    kernel = op.attrs["kernel"]
    return kernel.name if isinstance(kernel, Ref) else str(kernel)


def _const_name(op: Op) -> str:
    ref = op.attrs["ref"]
    return ref.name if isinstance(ref, Ref) else str(ref)


def _step_name(op: Op) -> str:
    return _kernel_name(op) if op.name == "p.launch" else op.name.removeprefix("p.")
