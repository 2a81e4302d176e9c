"""Writes a session's profile in Chrome's trace format, which Perfetto opens: one complete event a line.

Categories, names and the first arguments are those of ONNX Runtime's profiles. A kernel stands for all nodes that were
fused into it; its event says which, what the launch read and wrote, and how many operations it was.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

from onnxc.bench.kernels import program_of
from onnxc.bench.work import Work, step_work
from onnxc.ir.core import Module, Op, Ref, Value
from onnxc.ir.dims import evaluate
from onnxc.ir.signature import type_text
from onnxc.ir.types import Mem, Tensor
from onnxc.ops.program import STEPS
from onnxc.runtime.compiled import CompiledModel
from onnxc.runtime.profiling import Phase, Run, symbols_of_program

__all__ = ["write_trace"]

_MOST_NAMES = 4     # of nodes in an event's name; its arguments have all of them
_PROVIDER = "CPUExecutionProvider"
Event = dict[str, Any]


def write_trace(path: str, start: int, phases: Sequence[Phase], runs: Sequence[Run]) -> None:
    """Writes what was recorded since `start` to `path`, ordered by when it ended."""
    events = [_host_step(p, start) if p.op else _event("Session", p.name, p.begin, p.end, p.thread, {}, start)
              for p in phases]
    programs: dict[int, _Program] = {}
    for run in runs:
        key = id(run.program)
        if key not in programs:
            programs[key] = _Program(run.program)
        events += programs[key].events(run, start)
    # What ends together ends from the inside out.
    events.sort(key=lambda e: (e.end, -e.begin))
    with open(path, "w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(json.dumps(e.written) for e in events) + "\n]\n")


class _Timed(NamedTuple):
    """An event as it is written, and when it began and ended in nanoseconds."""

    begin: int
    end: int
    written: Event


def _event(category: str, name: str, begin: int, end: int, thread: int, arguments: Event, start: int) -> _Timed:
    # Both ends are rounded down, so that what lies within another event still does.
    first, last = (begin - start) // 1000, (end - start) // 1000
    return _Timed(begin, end, {"cat": category, "pid": os.getpid(), "tid": thread, "dur": last - first, "ts": first,
                               "ph": "X", "name": name, "args": arguments})


def _host_step(p: Phase, start: int) -> _Timed:
    """An operator that ran in Python."""
    known = {"op_name": p.op, "provider": _PROVIDER, "host": True, "nodes": [p.name], "nanoseconds": p.end - p.begin}
    return _event("Node", f"{p.name}_kernel_time", p.begin, p.end, p.thread, known, start)


class _Program:
    """The steps of one program, and what is known of them for given dims."""

    def __init__(self, compiled: CompiledModel) -> None:
        module = program_of(compiled)
        self.module = module
        self.nodes = {label: (name, kind) for label, name, _, kind in compiled.report.get("nodes", ())}
        self.ops = [op for op in module.main.body.ops if op.name in STEPS]
        self.steps = [_Step(module, op, i, name, self.nodes)
                      for i, (op, name) in enumerate(zip(self.ops, compiled.steps, strict=True))]
        self._arguments: dict[tuple[int, ...], list[Event]] = {}

    def events(self, run: Run, start: int) -> Iterator[_Timed]:
        known = self.arguments(run.program, run.dims)
        for step, arguments, (begin, end) in zip(self.steps, known, run.steps.tolist(), strict=True):
            if end:
                yield _event("Node", f"{step.title}_kernel_time", begin, end, run.thread,
                             {**arguments, "threads": run.threads, "nanoseconds": end - begin}, start)
        yield _event("Session", "SequentialExecutor::Execute", run.begin, run.end, run.thread, {}, start)

    def arguments(self, compiled: CompiledModel, values: tuple[int, ...]) -> list[Event]:
        """What events say of each step when the program's symbols have these values."""
        if values not in self._arguments:
            dims = dict(zip(symbols_of_program(compiled), values, strict=True))
            work = step_work(self.module, dims)
            self._arguments[values] = [s.arguments(dims, w) for s, w in zip(self.steps, work, strict=True)]
        return self._arguments[values]


@dataclasses.dataclass(frozen=True)
class _Step:
    module: Module
    op: Op
    index: int
    kernel: str
    known: Mapping[str, tuple[str, str]]

    @property
    def nodes(self) -> list[str]:
        text = self.op.loc
        if self.op.name == "p.launch":
            ref = self.op.attrs["kernel"]
            text = str(self.module.funcs[ref.name if isinstance(ref, Ref) else str(ref)].attrs.get("nodes") or text)
        return list(dict.fromkeys(filter(None, text.split(", "))))

    @property
    def title(self) -> str:
        nodes = [self._shown(label) for label in self.nodes]
        if not nodes:
            return f"{self.kernel}_{self.index}"
        more = len(nodes) - _MOST_NAMES
        return "+".join(nodes[:_MOST_NAMES]) + (f"+{more} more" if more > 0 else "")

    def _shown(self, label: str) -> str:
        name, kind = self.known.get(label, (label, ""))
        return name or f"{kind}_{self.index}"

    def arguments(self, dims: Mapping[str, int], work: Work | None) -> Event:
        kinds = [self.known[n][1] for n in self.nodes if n in self.known]
        written = {self.op.operand(i) for i in self._written()}
        read = [v for v in dict.fromkeys(v for v in self.op.inputs if v is not None) if v not in written]
        constants = [v for v in read if v.op is not None and v.op.name == "p.const"]
        sizes = {v: _nbytes(v, dims) for v in (*read, *written)}
        found: Event = {
            "op_name": "+".join(kinds) or self.kernel, "provider": _PROVIDER, "node_index": str(self.index),
            "input_type_shape": [_shape(v, dims) for v in read],
            "output_type_shape": [_shape(v, dims) for v in written],
            "activation_size": str(sum(sizes[v] for v in read if v not in constants)),
            "parameter_size": str(sum(sizes[v] for v in constants)),
            "output_size": str(sum(sizes[v] for v in written)),
            "kernel": self.kernel, "nodes": self.nodes}
        if work is not None:
            found.update(bytes_read=work.read, bytes_written=work.written, flops=work.operations)
        return found

    def _written(self) -> Sequence[int]:
        if self.op.name == "p.launch":
            return self.op.attrs["writes"]  # type: ignore[return-value]
        return (1,) if self.op.name in ("p.copy", "p.give") else ()


def _shape(value: Value, dims: Mapping[str, int]) -> dict[str, list[int]]:
    """A buffer as ONNX Runtime writes it: its element type and its shape."""
    if not isinstance(value.type, Mem):
        return {str(value.type): []}
    element = type_text(Tensor(value.type.dtype, ())).removeprefix("tensor(").removesuffix(")")
    return {element: [_extent(d, dims) for d in value.type.shape]}


def _nbytes(value: Value, dims: Mapping[str, int]) -> int:
    if not isinstance(value.type, Mem):
        return 0
    total = math.prod(max(_extent(d, dims), 0) for d in value.type.shape)
    return cast("int", value.type.dtype.nbytes(total))


def _extent(d: Any, dims: Mapping[str, int]) -> int:
    """A size; -1 where it follows from a value that changed during the run."""
    try:
        return evaluate(d, dims)
    except KeyError:
        return -1
