"""Runs a host program on numpy: every launch through the kernel interpreter, every buffer at its place in one arena.

The oracle between the tensor passes and the native program. With memory planned, buffers share bytes as they will
natively, and the arena starts out as a pattern that no result may depend on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from onnxc.codegen.interp import run_kernel
from onnxc.ir.core import Block, Func, Module, Op, Value
from onnxc.ir.dims import Dim, evaluate
from onnxc.ir.types import Mem
from onnxc.ops.program import copies_of_inputs, most_elements

__all__ = ["run_program"]

_POISON = 0xA5


def run_program(module: Module, inputs: Sequence[np.ndarray], dims: Mapping[str, int]) -> tuple[list[np.ndarray],
    list[str]]:
    """Outputs of @main, and the messages of the errors that kernels and guards recorded."""
    main = module.main
    n = int(main.attrs["inputs"])  # type: ignore[arg-type]
    run = _Run(module, dims)
    for value, array in zip(main.args, inputs, strict=False):
        run.memory[value] = np.ascontiguousarray(array).reshape(-1)
    for value in main.args[n:]:
        if most_elements(_mem(value).shape, run.run_symbols) is not None:
            run.memory[value] = run.poisoned(value)
    try:
        run.block(main.body)
    except _Ended as end:
        return [np.zeros(0)] * (len(main.args) - n), [*run.errors, str(end)]
    return [run.array(v) for v in main.args[n:]], run.errors


class _Ended(Exception):
    """The run ended with an error."""


class _Run:
    """One run. `memory` holds each buffer as a flat array of at least its elements: how many they are may only become
    known after the buffer exists."""

    def __init__(self, module: Module, dims: Mapping[str, int]) -> None:
        rooms: Any = module.main.attrs.get("rooms") or ()
        self.module, self.dims = module, {**{name: evaluate(extent, dims) for name, extent in rooms}, **dims}
        self.run_symbols: Any = module.main.attrs.get("run_symbols") or ()
        self.copies = copies_of_inputs(module.main)
        self.memory: dict[Value, np.ndarray] = {}
        self.errors: list[str] = []
        size = module.main.attrs["arena"]
        planned = isinstance(size, (int, Dim))
        self.arena = np.full(evaluate(size, dims), _POISON, np.uint8) if planned else None  # type: ignore[arg-type]

    # ---- buffers ---------------------------------------------------------------------------------------------------
    def shape(self, value: Value) -> tuple[int, ...]:
        return tuple(evaluate(d, self.dims) for d in _mem(value).shape)

    def array(self, value: Value) -> np.ndarray:
        """A buffer under its shape."""
        shape = self.shape(value)
        return self.memory[value][:math.prod(shape)].reshape(shape)

    def most(self, value: Value) -> int:
        """The most elements that a buffer can have."""
        bound = most_elements(_mem(value).shape, self.run_symbols)
        return evaluate(_mem(value).size if bound is None else bound, self.dims)

    def poisoned(self, value: Value) -> np.ndarray:
        dtype = _mem(value).dtype.numpy
        return np.full(self.most(value) * dtype.itemsize, _POISON, np.uint8).view(dtype)

    # ---- steps -----------------------------------------------------------------------------------------------------
    def block(self, block: Block) -> list[Value]:
        """Run the steps; the buffers that the block yields."""
        for op in block.ops:
            if op.name in ("return", "yield"):
                return list(op.inputs)
            step: Callable[[Op], None] | None = getattr(self, "op_" + op.name.removeprefix("p."), None)
            if step is None:
                raise ValueError(f"{op.name} is not a step of a program")
            step(op)
        return []

    def op_const(self, op: Op) -> None:
        self.memory[op.result] = np.ascontiguousarray(self.module.constants[_ref(op.attrs["ref"])]).reshape(-1)

    def op_alloc(self, op: Op) -> None:
        if self.arena is None:
            self.memory[op.result] = self.poisoned(op.result)
            return
        dtype = _mem(op.result).dtype.numpy
        start = evaluate(op.attrs["offset"], self.dims)  # type: ignore[arg-type]
        self.memory[op.result] = self.arena[start:start + self.most(op.result) * dtype.itemsize].view(dtype)

    def op_heap(self, op: Op) -> None:
        self.memory[op.result] = self.poisoned(op.result)

    def op_give(self, op: Op) -> None:
        self.memory[op.operand(1)] = self.memory[op.operand(0)].copy()

    def op_view(self, op: Op) -> None:
        self.memory[op.result] = self.memory[op.operand(0)]

    def op_row(self, op: Op) -> None:
        start = evaluate(op.attrs["at"], self.dims) * math.prod(self.shape(op.result))  # type: ignore[arg-type]
        self.memory[op.result] = self.memory[op.operand(0)][start:]

    def op_copy(self, op: Op) -> None:
        self.array(op.operand(1))[...] = self.array(op.operand(0)).reshape(self.shape(op.operand(1)))

    def op_launch(self, op: Op) -> None:
        if op in self.copies and self.memory[op.operand(0)].ctypes.data == self.memory[op.operand(1)].ctypes.data:
            return
        kernel: Func = self.module.funcs[_ref(op.attrs["kernel"])]
        arrays = [self.memory[v] for v in op.inputs]
        arrays += [self.poisoned(scratch) for scratch in kernel.args[len(arrays):]]
        # A kernel may take a buffer under another shape: schedules join axes.
        shapes = [self.shape(arg) for arg in kernel.args]
        views = [a[:math.prod(s)].reshape(s) for a, s in zip(arrays, shapes, strict=True)]
        self.errors.extend(run_kernel(kernel, views, dict(self.dims)))

    def op_loop(self, op: Op) -> None:
        flags = int(bool(op.attrs["conditional"]))
        goes_on = not flags or bool(self.array(op.operand(0)))
        state = [self.memory[v] for v in op.inputs[flags:]]
        count = 0
        while goes_on and count < evaluate(op.attrs["extent"], self.dims):  # type: ignore[arg-type]
            self.dims[str(op.attrs["symbol"])] = count
            self.memory.update(zip(op.regions[0].args, state, strict=True))
            yielded = self.block(op.regions[0])
            goes_on = not flags or bool(self.array(yielded[0]))
            state = [self.memory[v] for v in yielded[flags:]]
            count += 1
        if op.attrs["count"]:
            self.dims[str(op.attrs["count"])] = count
        self.memory.update(zip(op.results, state, strict=True))

    def op_if(self, op: Op) -> None:
        yielded = self.block(op.regions[0 if bool(self.array(op.operand(0))) else 1])
        self.memory.update(zip(op.results, [self.memory[v] for v in yielded], strict=True))

    def op_set(self, op: Op) -> None:
        self.dims[str(op.attrs["symbol"])] = evaluate(op.attrs["value"], self.dims)  # type: ignore[arg-type]

    def op_read(self, op: Op) -> None:
        value, bound = int(self.array(op.operand(0)).reshape(())), op.attrs["bound"]
        if value < 0 or (bound is not None and value > evaluate(bound, self.dims)):  # type: ignore[arg-type]
            raise _Ended(str(op.attrs["message"]))
        self.dims[str(op.attrs["symbol"])] = value

    def op_require(self, op: Op) -> None:
        left, right = (evaluate(op.attrs[key], self.dims) for key in ("left", "right"))  # type: ignore[arg-type]
        if not (left == right or (op.attrs["kind"] == "broadcast" and left == 1)):
            raise _Ended(str(op.attrs["message"]))


def _mem(value: Value) -> Mem:
    assert isinstance(value.type, Mem)
    return value.type


def _ref(attr: Any) -> str:
    return str(attr.name)
