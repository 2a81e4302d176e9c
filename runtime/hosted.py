"""Programs with host steps: native segments, and between them operators on texts, sequences, maps and optionals,
operators in Python, and loops and branches around such.

A segment is compiled for the element types and ranks of its inputs, which host steps may only tell in a run; what was
compiled is kept.
"""

from __future__ import annotations

import ctypes
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import numpy as np

from onnxc import errors
from onnxc.errors import (
    Cancelled,
    InvalidArgument,
    ModelRequiresCompilation,
    NodeFailed,
    OnnxcError,
    RuntimeException,
    UnsupportedModel,
    while_running,
)
from onnxc.ir.types import ALL_DTYPES, STR, Tensor, dtype_named, dtype_of
from onnxc.runtime.compiled import CompiledModel, Form, HostPlan, HostStep, NativeStep
from onnxc.runtime.custom import PYTHON_OPS, PythonOp
from onnxc.runtime.forked import ChildSafeLock
from onnxc.runtime.host_control import Body
from onnxc.runtime.host_ops import HOST_OPS, STATEFUL_OPS
from onnxc.runtime.log import LOG, Log
from onnxc.runtime.profiling import Profile
from onnxc.runtime.program import NativeProgram

__all__ = ["HostedProgram"]

Types = tuple[tuple[np.dtype, tuple[int | None, ...]], ...]
_DTYPES = {f"tensor({d.onnx_text})": d.numpy for d in ALL_DTYPES}


class HostedProgram:
    """Runs a `CompiledModel` that has a host plan; to callers what `NativeProgram` is, but that values are also texts,
    lists, dicts and None."""

    def __init__(self, compiled: CompiledModel, again: Callable[[], CompiledModel] | None = None, *,
                 profile: Profile | None = None, log: Log = LOG.log, **how: Any) -> None:
        """`again` compiles the model anew, for a program that was read from a file; None where nothing can. `log` and
        `how` are what `NativeProgram` takes. Raises NotImplemented for operators in Python that are
        not registered; those that are stay the program's, whatever becomes of the registry."""
        if compiled.host is None:
            raise ValueError("a program without host steps is a NativeProgram")
        self.compiled, self._plan, self._again, self._profile = compiled, compiled.host, again, profile
        self._how, self._log = {**how, "profile": profile, "log": log}, log
        self._functions = {step: _function_of(step) for step in self._plan.walk() if isinstance(step, HostStep)}
        self._programs: dict[NativeStep, list[tuple[Types, NativeProgram]]] = {}
        self._lock = ChildSafeLock()
        self._count = itertools.count()
        self.runs = 0
        self._results = [_DTYPES.get(info.type_text) for info in compiled.signature.outputs]
        for step in self._plan.walk():
            if isinstance(step, NativeStep):
                self._programs[step] = [(_types(form), NativeProgram(segment, **self._how))
                                        for form, segment in step.compiled.items()]

    def run(self, inputs: Sequence[Any], cancel: int = 0, times: Any = None, shapes: Any = None) -> list[Any]:
        """The outputs, new values, for inputs in the model's order; see `NativeProgram.run`."""
        self.runs = next(self._count) + 1
        outputs = self._run(self._plan, inputs, cancel)
        for info, dtype, value in zip(self.compiled.signature.outputs, self._results, outputs, strict=True):
            found = value.dtype if isinstance(value, np.ndarray) else None
            if dtype is not None and found != dtype:
                what = f"of type {type(value).__name__}" if found is None else f"an array of {found}"
                raise InvalidArgument(f"Output '{info.name}' is {what}; the model declares {info.type_text}. An "
                                      "operator in Python gives another type than it should.")
        return outputs

    def _run(self, plan: HostPlan, inputs: Sequence[Any], cancel: int, copied: bool = True) -> list[Any]:
        """The outputs of a plan, which share no memory with inputs or constants where they are to be `copied`."""
        values: list[Any] = [None] * plan.values
        values[:len(inputs)] = inputs
        for number, array in plan.constants.items():
            values[number] = array
        fresh: set[int] = set()
        for step in plan.steps:
            if cancel and ctypes.c_int32.from_address(cancel).value:
                raise Cancelled
            if isinstance(step, NativeStep):
                arrays = [_plain(values[i]) for i in step.inputs]
                results: Sequence[Any] = self._segment(step, arrays).run(arrays, cancel)
                fresh.update(step.outputs)
            else:
                results = self._host(step, [None if i is None else values[i] for i in step.inputs], cancel)
            for number, value in zip(step.outputs, results, strict=False):
                values[number] = value
        if not copied:
            return [values[i] for i in plan.outputs]
        return [values[i] if i in fresh else _copied(values[i]) for i in plan.outputs]

    def _segment(self, step: NativeStep, arrays: Sequence[Any]) -> NativeProgram:
        found = self._fitting(step, arrays)
        if found is not None:
            return found
        with self._lock:
            found = self._fitting(step, arrays)
            if found is None:
                form = _form_of(arrays)
                try:
                    compiled = self._compile(step, form)
                except UnsupportedModel:        # a rank may be how many sizes there are
                    if form == _form_of(arrays, sizes=True):
                        raise
                    form = _form_of(arrays, sizes=True)
                    compiled = self._compile(step, form)
                found = NativeProgram(compiled, **self._how)
                self._programs[step].append((_types(form), found))
            return found

    def _compile(self, step: NativeStep, form: Form) -> CompiledModel:
        """A step for inputs of a form that nobody knew of before the run."""
        if step.compile is not None:
            return step.compile(form)
        fresh = None if self._again is None else self._again().host
        if fresh is None:
            shown = ", ".join(f"{name} of rank {len(sizes)}" for name, sizes in form)
            raise ModelRequiresCompilation(f"A native part of this artifact is not compiled for inputs of these types: "
                                           f"{shown}. Open the model itself.")
        # Compiling the same model gives the same steps.
        twin = next(new for old, new in zip(self._plan.walk(), fresh.walk(), strict=True) if old is step)
        assert isinstance(twin, NativeStep) and twin.compile is not None
        return twin.compile(form)

    def _fitting(self, step: NativeStep, arrays: Sequence[Any]) -> NativeProgram | None:
        """The program of a step that was compiled for arrays such as these."""
        for types, program in self._programs[step]:
            if all(_takes(dtype, sizes, array) for (dtype, sizes), array in zip(types, arrays, strict=True)):
                return program
        return None

    def _host(self, step: HostStep, inputs: list[Any], cancel: int) -> tuple[Any, ...]:
        begin = time.monotonic_ns()
        known = len(inputs) - step.captured
        attrs = step.attrs
        if step.bodies:
            attrs = {**attrs, **{name: self._body(plan, inputs[known:], cancel) for name, plan in step.bodies.items()}}
        try:
            out = self._functions[step](step, attrs, inputs[:known])
        except OnnxcError as error:
            if not isinstance(error, Cancelled):
                self._log(logging.ERROR, "%s", error.message)
            raise
        if self._profile is not None:
            self._profile.phase(step.loc, begin, step.op)
        return out

    def _body(self, plan: HostPlan, captured: Sequence[Any], cancel: int) -> Body:
        return Body(lambda given: self._run(plan, [*given, *captured], cancel, copied=False), plan.empty)

    def _all(self) -> Iterator[NativeProgram]:
        for programs in self._programs.values():
            yield from (program for _, program in list(programs))

    def memory(self) -> dict[str, int]:
        """Bytes of all segments; see `NativeProgram.memory`."""
        parts = [program.memory() for program in self._all()]
        return {key: sum(part[key] for part in parts) for key in ("constants", "code", "planned", "held", "peak")}

    def release_memory(self) -> int:
        """Gives up the memory that no run uses now; how many bytes that were."""
        return sum(program.release_memory() for program in self._all())

    def profile(self, inputs: Sequence[Any]) -> NoReturn:
        raise InvalidArgument("A model with host steps has no table of its kernels. A session's profile "
                              "(SessionOptions.enable_profiling) has its steps and kernels one by one.")


def _form_of(arrays: Sequence[Any], sizes: bool = False) -> Form:
    """The form of arrays, with open dims; with `sizes`, vectors of integers have as many elements as they do."""
    return tuple([(dtype_of(a.dtype).name, a.shape if sizes and a.ndim == 1 and a.dtype.kind in "iu" else
                   (None,) * a.ndim) for a in arrays])


def _types(form: Form) -> Types:
    return tuple([(dtype_named(name).numpy, sizes) for name, sizes in form])


def _takes(dtype: np.dtype, sizes: tuple[int | None, ...], array: Any) -> bool:
    return array.dtype == dtype and array.ndim == len(sizes) and all(
        d is None or d == n for d, n in zip(sizes, array.shape, strict=True))


def _plain(value: Any) -> Any:
    if not isinstance(value, np.ndarray) or value.dtype.hasobject:
        kind = "texts" if isinstance(value, np.ndarray) else f"type {type(value).__name__}"
        raise InvalidArgument(f"A value of {kind} would enter native code, which takes tensors of numbers.")
    return np.require(value, requirements=("C_CONTIGUOUS", "ALIGNED"))


def _copied(value: Any) -> Any:
    """A value that shares no memory with inputs or constants."""
    if isinstance(value, np.ndarray):
        return value.copy()
    return [_copied(item) for item in value] if isinstance(value, list) else value


# ---- calling operators -----------------------------------------------------------------------------------------------

Call = Callable[[HostStep, Any, list[Any]], tuple[Any, ...]]


def _function_of(step: HostStep) -> Call:
    """What runs a step."""
    if step.op in STATEFUL_OPS:
        own = STATEFUL_OPS[step.op](step.attrs)
        return lambda step, attrs, inputs: _call(own, step, attrs, inputs)
    if step.op in HOST_OPS:
        fn = HOST_OPS[step.op]
        return lambda step, attrs, inputs: _call(fn, step, attrs, inputs)
    if step.op not in PYTHON_OPS:
        domain, _, name = step.op.rpartition(".")
        raise errors.NotImplemented(f"{_named(step)} is an operator in Python that is not registered here: call "
                             f"onnxc.register_op({domain!r}, {name!r}, function) before the model is opened.")
    op = PYTHON_OPS[step.op]
    return lambda step, attrs, inputs: _call_python(op, step, attrs, inputs)


def _named(step: HostStep) -> str:
    return f"{step.op} node '{step.loc}'"


def _failed(step: HostStep, what: object) -> str:
    return while_running(step.op, step.loc, what)


def _call(fn: Callable[..., Any], step: HostStep, attrs: Any, inputs: list[Any]) -> tuple[Any, ...]:
    try:
        out = fn(attrs, *inputs)
    except InvalidArgument as error:
        raise NodeFailed(_failed(step, error.message)) from error.__cause__
    except (ValueError, IndexError, TypeError, KeyError) as error:
        raise NodeFailed(_failed(step, error)) from error
    return out if isinstance(out, tuple) else (out,)


def _call_python(op: PythonOp, step: HostStep, attrs: Any, inputs: list[Any]) -> tuple[Any, ...]:
    """A call of an operator in Python: its exceptions arrive as the cause of a RuntimeException."""
    try:
        out = op.fn(*map(_read_only, inputs), **attrs)
    except Cancelled:
        raise
    except Exception as error:
        raise RuntimeException(_failed(step, f"{type(error).__name__}: {error}")) from error
    several = isinstance(out, tuple) or (isinstance(out, list) and len(step.outputs) > 1)
    results = tuple(out) if several else (out,)
    if len(results) < len(step.outputs):
        raise RuntimeException(_failed(step, f"the function gives {len(results)} results; the node has "
                                             f"{len(step.outputs)} outputs"))
    return tuple(_checked(step, i, value) for i, value in enumerate(results[:len(step.outputs)]))


def _read_only(value: Any) -> Any:
    """Arrays that a function must not write: others read them, too."""
    if isinstance(value, np.ndarray):
        view = value.view()
        view.flags.writeable = False
        return view
    return [_read_only(item) for item in value] if isinstance(value, list) else value


def _checked(step: HostStep, i: int, value: Any) -> Any:
    """A result of an operator in Python in the form that values have, held against what was said of it."""
    if isinstance(value, list):
        return [_checked(step, i, item) for item in value]
    if value is None or isinstance(value, dict):
        return value
    array = np.asarray(value)
    try:
        array = array.astype(object) if array.dtype.kind in "UT" else array
        dtype = dtype_of(array.dtype)
        if dtype == STR and not all(isinstance(item, str) for item in array.flat):
            raise TypeError
    except (KeyError, TypeError):
        raise RuntimeException(_failed(step, f"result {i} is an array of {array.dtype}, which ONNX has no type "
                                             "for")) from None
    array = np.asarray(array, dtype.numpy)      # native code takes one byte order
    said = step.promised[i] if i < len(step.promised) else None
    if said is not None and not _fits(array.shape, dtype.name, said):
        raise RuntimeException(_failed(step, f"result {i} is of type {dtype}{list(array.shape)}; the operator was "
                                             f"registered to give {_shown(said)}"))
    return array


def _fits(shape: tuple[int, ...], dtype: str, said: Tensor) -> bool:
    if dtype != said.dtype.name:
        return False
    return said.shape is None or (len(shape) == len(said.shape) and all(
        d == n for d, n in zip(said.shape, shape, strict=True) if isinstance(d, int)))


def _shown(t: Tensor) -> str:
    dims = "of any shape" if t.shape is None else str([d if isinstance(d, int) else "any" for d in t.shape])
    return f"{t.dtype} {dims}"
