"""A compiled model: everything that running it needs, and nothing of the compiler. Made by the driver or read from an
artifact."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from onnxc.ir.dims import DimLike
from onnxc.ir.signature import ValueInfo
from onnxc.ir.types import Tensor

__all__ = ["CompiledModel", "Empty", "Form", "HostPlan", "HostStep", "NativeStep", "Signature"]

Form = tuple[tuple[str, tuple[int | None, ...]], ...]
"""What a native part is compiled for: the element type of each input, and its sizes, None for those that are open."""

Empty = tuple[str, tuple[int, ...]]
"""An element type, and sizes with 0 for those that are not known."""


@dataclasses.dataclass(frozen=True)
class Signature:
    """What the model's author declared: inputs, outputs, initializers that a feed may override, and the model's
    texts."""

    inputs: tuple[ValueInfo, ...]
    outputs: tuple[ValueInfo, ...]
    overridable: tuple[ValueInfo, ...]
    model: dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Cache:
    """Output number `output` begins with input number `input` and goes on behind it along `axis`. The memory of either
    has room along the axis for as many elements as the value of its symbol says; where both are the same memory, what
    is there already is not written again."""

    input: int
    output: int
    axis: int
    past_room: str
    present_room: str


@dataclasses.dataclass(frozen=True)
class CompiledModel:
    """A program for one target.

    `object_bytes` is its object code with the entry points `onnxc_plan` and `onnxc_run` (documented in
    `codegen.llvm.program`); `constants` are the arrays it takes pointers of, in order; `symbols` the dims it takes
    values of;
    `input_types` and `output_types` the inferred types, whose dims are expressions over those symbols; `errors` the
    message
    of each error code; `kernels` and `steps` the names in reports; `text` the program and its kernels as IR. `target`
    names
    what the code is for, `features` every instruction-set extension, by LLVM's names, that it may use.
    `host` is the plan of a program with host steps, which has no code of its own but that of its native steps.
    `run_symbols` are dims that get their value during a run, each with the most that it can be (None: not known); the
    code
    writes them behind the values of `symbols`, and output types may hold them. `caches` are outputs that may grow in
    the memory of an input; their symbols are among `symbols`.
    """

    object_bytes: bytes
    constants: tuple[np.ndarray, ...]
    symbols: tuple[str, ...]
    input_types: tuple[Tensor, ...]
    output_types: tuple[Tensor, ...]
    errors: tuple[str, ...]
    kernels: tuple[str, ...]
    steps: tuple[str, ...]
    signature: Signature
    target: str
    features: tuple[str, ...]
    text: str
    report: dict[str, Any]
    run_symbols: tuple[tuple[str, DimLike | None], ...] = ()
    caches: tuple[Cache, ...] = ()
    host: HostPlan | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class NativeStep:
    """A native part of a program with host steps: from values to values, by number. `compiled` has it for the forms of
    its inputs that were known when the model was compiled; `compile` makes it for others, None where no compiler is."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    compile: Callable[[Form], CompiledModel] | None
    compiled: dict[Form, CompiledModel]


@dataclasses.dataclass(frozen=True, eq=False)
class HostStep:
    """An operator of `runtime.host_ops`, or one in Python, on values by number; None stands for an input that is left
    out. `bodies` are its regions by attribute, which take the last `captured` inputs behind what the operator gives
    them. `promised` are the types that an operator in Python says its results have, None where it says nothing."""

    op: str
    attrs: dict[str, Any]
    inputs: tuple[int | None, ...]
    outputs: tuple[int, ...]
    loc: str
    bodies: dict[str, HostPlan] = dataclasses.field(default_factory=dict)
    captured: int = 0
    promised: tuple[Tensor | None, ...] = ()

    @property
    def label(self) -> str:
        """The step in reports."""
        return f"{self.op} ({self.loc})" if self.loc else self.op


@dataclasses.dataclass(frozen=True, eq=False)
class HostPlan:
    """The steps of a program, or of a region, in order, on `values` numbered values; those of the inputs come first.
    `empty` tells of outputs what a loop stacks that never runs: None of one that is no tensor or of no known rank."""

    steps: tuple[NativeStep | HostStep, ...]
    constants: dict[int, np.ndarray]
    outputs: tuple[int, ...]
    values: int
    empty: tuple[Empty | None, ...] = ()

    def walk(self) -> Iterator[NativeStep | HostStep]:
        """All steps, those of regions behind the step that has them."""
        for step in self.steps:
            yield step
            for body in step.bodies.values() if isinstance(step, HostStep) else ():
                yield from body.walk()

    def compiled(self) -> list[CompiledModel]:
        """What the native steps were compiled to so far."""
        return [part for step in self.walk() if isinstance(step, NativeStep) for part in step.compiled.values()]
