"""Times the schedules that a kernel may have on its real shapes, and notes the fastest for later compilations.

A kernel is timed alone, in a program of one launch on random data, in turns with the schedule that the heuristics
choose; that one stays unless another is clearly faster. Kernels with most work come first. Those whose places in memory
are data, that read what they write, or whose dims are not given, are left to the heuristics.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from onnxc.bench.work import step_work
from onnxc.codegen.accesses import kernel_symbols
from onnxc.codegen.clone import clone_op
from onnxc.codegen.llvm.prepare import is_attention
from onnxc.codegen.llvm.schedule import constant_arguments, schedule
from onnxc.codegen.llvm.target import Target
from onnxc.codegen.schedule import Choose, Schedule
from onnxc.driver import CompileOptions, emit, import_to_ir, load_changed, pass_context
from onnxc.errors import InvalidArgument
from onnxc.hosting import split_of
from onnxc.ir.core import Func, Module, Op, Ref, Value
from onnxc.ir.dims import evaluate, sym
from onnxc.ir.signature import ValueInfo
from onnxc.ir.types import U8, DType, Mem
from onnxc.passes.pipeline import PIPELINE, passes_named, run
from onnxc.runtime.program import NativeProgram
from onnxc.tuned import Notes, named, open_notes

__all__ = ["Tuned", "tune", "tune_model"]

Say = Callable[[str], None]
Dims = Mapping[str, int]

_GAIN = 0.95                    # of the default's time: less gain than that is within the noise of short timings
_ROUND = 0.01                   # seconds of runs in one turn of a comparison, about
_LEAST_RUNS, _MOST_RUNS = 2, 20
_TURNS = 5
_AWAKE = 0.002                  # seconds after which the workers of a program that ran sleep
_MOST_BYTES = 1 << 30           # of a kernel's arguments: more are not made for a timing


@dataclasses.dataclass(frozen=True)
class Tuned:
    """How many different kernels were to be timed, how many were, and how many got a faster schedule."""

    kernels: int = 0
    timed: int = 0
    faster: int = 0


def tune_model(model: str | bytes | os.PathLike[str], options: CompileOptions, dims: Dims, seconds: float,
               say: Say = lambda what: None) -> Tuned:
    """Tunes the kernels of a model for the target of `options`.

    Raises InvalidArgument for a target that this machine is not, and where there is no cache that keeps winners.
    """
    target = Target.parse(options.target)
    notes = open_notes(target)
    if not _runs_here(target):
        raise InvalidArgument(f"Schedules for {target.name} cannot be timed on this machine, {Target.host().name}: "
                              "tune where the model will run.")
    if notes is None or not notes.cache.writable:
        raise InvalidArgument("Tuning keeps what it finds in the cache folder, and the cache is off or only read: "
                              "change or unset ONNXC_CACHE.")
    module = import_to_ir(load_changed(model, options), options)
    if split_of(module) is not None:
        raise InvalidArgument("The model has steps that run in Python; its native parts are tuned as they are compiled "
                              "with ONNXC_TUNE set.")
    say("up to its schedules")
    rows = PIPELINE[:[p.name for p in PIPELINE].index("schedule")]
    run(module, pass_context(options), rows, options.left_out())
    return tune(module, notes, seconds, dims, say)


def _runs_here(target: Target) -> bool:
    host = Target.host()
    return target.triple == host.triple and target.features <= host.features


def tune(module: Module, notes: Notes, seconds: float, dims: Dims | None = None,
         say: Say = lambda what: None) -> Tuned:
    """Tunes the kernels of a program that have no schedule yet, as long as there is time."""
    if not _runs_here(notes.target) or not notes.cache.writable:
        return Tuned()
    deadline, timed, faster = time.perf_counter() + seconds, 0, 0
    jobs = _jobs(module, notes, dims or {})
    for i, job in enumerate(jobs):
        if time.perf_counter() >= deadline:
            break
        say(f"kernel {i + 1} of {len(jobs)}, {job.name}")
        faster += job.tune(notes, deadline)
        timed += 1
    return Tuned(len(jobs), timed, faster)


def _jobs(module: Module, notes: Notes, dims: Dims) -> list[_Job]:
    """The kernels to be timed, each structure once, by falling work."""
    constant = constant_arguments(module)
    jobs: dict[str, _Job] = {}
    work: dict[str, int] = {}
    for op in module.main.walk():
        if op.name != "p.launch":
            continue
        func = module.funcs[_kernel_name(op)]
        own = {s: dims[s] for s in kernel_symbols(func) if s in dims}
        if not _can_be_timed(func, op, own):
            continue
        fixed = constant.get(func.name, frozenset())
        key = notes.key(func, fixed)
        if notes.winner(key) is not None and notes.dims(key) == own:
            continue
        job = jobs.setdefault(key, _Job(key, module, op, fixed, own))
        work[key] = work.get(key, 0) + job.work()
    return sorted(jobs.values(), key=lambda job: -work[job.key])


def _kernel_name(launch: Op) -> str:
    kernel = launch.attrs["kernel"]
    return kernel.name if isinstance(kernel, Ref) else str(kernel)


def _can_be_timed(func: Func, launch: Op, dims: Dims) -> bool:
    if is_attention(func) or "schedule" in func.attrs or not set(kernel_symbols(func)) <= dims.keys():
        return False
    written = {func.args[i] for i in cast("tuple[int, ...]", launch.attrs["writes"])}
    types = [cast(Mem, a.type) for a in func.args]
    if sum(math.prod(evaluate(d, dims) for d in t.shape) * t.dtype.bits // 8 for t in types) > _MOST_BYTES:
        return False
    loads = [op for op in func.walk() if op.name == "k.load"]
    stores = [op for op in func.walk() if op.name == "k.store"]
    # Random data is no index.
    return all(len(op.operands) == 1 and op.operand(0) not in written for op in loads) and \
        all(len(op.operands) == 2 for op in stores) and not any(op.name == "k.iterate" for op in func.walk())


@dataclasses.dataclass(frozen=True)
class _Job:
    """One kernel to be timed: as a launch of `module` has it, with these dims."""

    key: str
    module: Module
    launch: Op
    constant: frozenset[int]
    dims: dict[str, int]

    @property
    def name(self) -> str:
        return _kernel_name(self.launch)

    def work(self) -> int:
        """Operations and bytes."""
        (work,) = step_work(self.program(), self.dims)
        return 0 if work is None else work.operations + work.nbytes

    def tune(self, notes: Notes, deadline: float) -> bool:
        """Times the candidates as long as there is time, and notes the fastest; whether that is another than the
        default. Where the time was too short for all of them and none has won yet, nothing is noted."""
        candidates = self._candidates(notes.target)
        default = self._compiled(notes.target, candidates[0])
        inputs = _inputs(default)
        best, best_ratio, is_complete = candidates[0], _GAIN, True
        for candidate in candidates[1:]:
            if time.perf_counter() >= deadline:
                is_complete = False
                break
            other = self._compiled(notes.target, candidate)
            ratio = _compared(default.run, other.run, inputs)
            # The fastest of many short timings is a lucky one: it has to win again.
            if ratio < best_ratio and (again := _compared(default.run, other.run, inputs)) < _GAIN:
                best, best_ratio = candidate, max(ratio, again)
        if is_complete or best is not candidates[0]:
            notes.keep(self.key, best, self.dims, 1 / best_ratio if best is not candidates[0] else 1.0)
        return best is not candidates[0]

    def _candidates(self, target: Target) -> list[Schedule]:
        found: list[Schedule] = []

        def listed(candidates: Iterable[Schedule]) -> Schedule:
            found.extend(dict.fromkeys(candidates))
            return found[0]

        schedule(self.program(), target, lambda func, constant: listed)
        return found

    def _compiled(self, target: Target, wanted: Schedule) -> _Timed:
        def choose(candidates: Iterable[Schedule]) -> Schedule:
            return named(candidates, str(wanted))

        module = self.program()
        choosing: Choose = choose
        schedule(module, target, lambda func, constant: choosing)
        options = CompileOptions(target=str(target))
        run(module, pass_context(options), passes_named(["pack", "plan-memory"]))
        compiled = emit(module, options)
        return _Timed(NativeProgram(compiled), [(t.dtype, tuple(evaluate(d, self.dims) for d in t.dims))
                                                for t in compiled.input_types])

    def program(self) -> Module:
        """A program of this launch alone. What it reads are inputs, but for constants, what it writes are outputs; for
        each of its dims an input of that many bytes says what it is."""
        func, written = self.module.funcs[self.name], set(cast("tuple[int, ...]", self.launch.attrs["writes"]))
        free = [i for i in range(len(func.args)) if i not in self.constant]
        order = [*(i for i in free if i not in written), *(i for i in free if i in written)]
        types = [cast(Mem, self.launch.inputs[i].type) for i in order]
        read = len(free) - len(written)
        types[read:read] = [Mem(U8, (sym(s),)) for s in self.dims]
        names = [f"v{i}" for i in range(len(types))]
        main = Func("main", types, names, kind="program")
        count = read + len(self.dims)
        main.attrs.update(symbols=tuple(self.dims), inputs=count, guards=(), arena=None)
        at = [*range(read), *range(count, len(types))]
        given: dict[int, Value] = {i: main.args[k] for i, k in zip(order, at, strict=True)}
        program = Module()
        infos = [ValueInfo(name, "", tuple(d if isinstance(d, int) else str(d) for d in t.shape))
                 for name, t in zip(names, types, strict=True)]
        program.meta.update(inputs=tuple(infos[:count]), outputs=tuple(infos[count:]), model={})
        operands = [given[i] if i in given else _constant(self.launch.inputs[i], self.module, program, main)
                    for i in range(len(func.args))]
        main.body.append(Op("p.launch", operands, [], self.launch.attrs, (), self.launch.loc))
        main.body.append(Op("return"))
        program.add(main)
        program.add(func)
        return program


def _constant(value: Value, source: Module, program: Module, main: Func) -> Value:
    """A constant, or a view of one, in the program."""
    op = value.op
    assert op is not None
    if op.name == "p.view":
        return main.body.append(clone_op(op, {op.operand(0): _constant(op.operand(0), source, program, main)})).result
    name = cast(Ref, op.attrs["ref"]).name
    program.constants[name] = source.constants[name]
    return main.body.append(clone_op(op, {})).result


@dataclasses.dataclass(frozen=True)
class _Timed:
    """A program of one kernel, and what it takes."""

    program: NativeProgram
    inputs: list[tuple[DType, tuple[int, ...]]]

    def run(self, arrays: Sequence[Any]) -> float:
        """Seconds of one run's steps."""
        stamps, _ = self.program.profile(arrays)
        return float((stamps[:, 1] - stamps[:, 0]).sum()) * 1e-9


def _inputs(timed: _Timed) -> list[Any]:
    generator = np.random.default_rng(0)
    return [_random(generator, dtype, shape) for dtype, shape in timed.inputs]


def _random(generator: np.random.Generator, dtype: DType, shape: tuple[int, ...]) -> Any:
    if dtype.is_float or dtype.kind == "complex":
        return generator.standard_normal(shape, np.float32).astype(dtype.numpy)
    return generator.integers(0, 2, shape).astype(dtype.numpy)


def _compared(default: Callable[[Sequence[Any]], float], other: Callable[[Sequence[Any]], float],
              inputs: Sequence[Any]) -> float:
    """How many times as long as the default another takes: the ratio of medians of runs in turns."""
    default(inputs), other(inputs)
    runs = min(_MOST_RUNS, max(_LEAST_RUNS, int(_ROUND / max(default(inputs), 1e-9))))
    mine: list[float] = []
    theirs: list[float] = []
    for _ in range(_TURNS):
        for run_once, times in ((default, mine), (other, theirs)):
            time.sleep(_AWAKE)
            run_once(inputs)
            times.extend(run_once(inputs) for _ in range(runs))
    return float(np.median(theirs) / max(float(np.median(mine)), 1e-9))
