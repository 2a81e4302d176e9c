"""Programs with host steps: native segments, and between them operators on texts, sequences, maps and optionals.

A segment is compiled for the ranks of its inputs, which host steps may only tell in a run; what was compiled is kept.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from onnxc.errors import Cancelled, InvalidArgument
from onnxc.runtime.compiled import CompiledModel, HostStep, NativeStep
from onnxc.runtime.host_ops import HOST_OPS
from onnxc.runtime.program import NativeProgram

__all__ = ["HostedProgram"]


class HostedProgram:
    """Runs a `CompiledModel` that has a host plan; to callers what `NativeProgram` is, but that values are also texts,
    lists, dicts and None."""

    def __init__(self, compiled: CompiledModel, overridden: Sequence[str] = (), **how: Any) -> None:
        """`how` is what `NativeProgram` takes for the segments."""
        if compiled.host is None:
            raise ValueError("a program without host steps is a NativeProgram")
        self.compiled, self._plan, self._how = compiled, compiled.host, how
        self._programs: dict[tuple[NativeStep, tuple[int, ...]], NativeProgram] = {}
        self._lock = threading.Lock()
        self._count = itertools.count()
        self.runs = 0
        for step in self._plan.steps:
            if isinstance(step, NativeStep):
                for ranks, segment in step.compiled.items():
                    self._programs[step, ranks] = NativeProgram(segment, **how)

    def run(self, inputs: Sequence[Any], cancel: int = 0, times: Any = None, shapes: Any = None) -> list[Any]:
        """The outputs, new values, for inputs in the model's order; see `NativeProgram.run`."""
        self.runs = next(self._count) + 1
        values: list[Any] = [None] * self._plan.values
        values[:len(inputs)] = inputs
        for number, array in self._plan.constants.items():
            values[number] = array
        fresh: set[int] = set()
        for step in self._plan.steps:
            if cancel and ctypes.c_int32.from_address(cancel).value:
                raise Cancelled
            if isinstance(step, NativeStep):
                arrays = [np.require(values[i], requirements=("C_CONTIGUOUS", "ALIGNED")) for i in step.inputs]
                results: Sequence[Any] = self._segment(step, arrays).run(arrays, cancel)
                fresh.update(step.outputs)
            else:
                results = _call(step, [None if i is None else values[i] for i in step.inputs])
            for number, value in zip(step.outputs, results, strict=False):
                values[number] = value
        return [values[i] if i in fresh else _copied(values[i]) for i in self._plan.outputs]

    def _segment(self, step: NativeStep, arrays: Sequence[Any]) -> NativeProgram:
        ranks = tuple(array.ndim for array in arrays)
        found = self._programs.get((step, ranks))
        if found is None:
            with self._lock:
                found = self._programs.get((step, ranks)) or NativeProgram(step.compile(ranks), **self._how)
                self._programs[step, ranks] = found
        return found

    def memory(self) -> dict[str, int]:
        """Bytes of all segments; see `NativeProgram.memory`."""
        parts = [program.memory() for program in self._programs.values()]
        return {key: sum(part[key] for part in parts) for key in ("constants", "code", "planned", "held", "peak")}

    def release_memory(self) -> int:
        """Gives up the memory that no run uses now; how many bytes that were."""
        return sum(program.release_memory() for program in self._programs.values())

    def profile(self, inputs: Sequence[Any]) -> NoReturn:
        raise InvalidArgument("A model with host steps has no profile of its kernels.")


def _call(step: HostStep, inputs: list[Any]) -> tuple[Any, ...]:
    try:
        out = HOST_OPS[step.op](step.attrs, *inputs)
    except InvalidArgument as error:
        raise InvalidArgument(f"Non-zero status code returned while running {step.op} node. Name:'{step.loc}' Status "
                              f"Message: {error.message}") from None
    except (ValueError, IndexError, TypeError, KeyError) as error:
        raise InvalidArgument(f"Non-zero status code returned while running {step.op} node. Name:'{step.loc}' Status "
                              f"Message: {error}") from error
    return out if isinstance(out, tuple) else (out,)


def _copied(value: Any) -> Any:
    """A value that shares no memory with inputs or constants."""
    if isinstance(value, np.ndarray):
        return value.copy()
    return [_copied(item) for item in value] if isinstance(value, list) else value
