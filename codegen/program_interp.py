"""Runs a host program on numpy: every launch through the kernel interpreter, every buffer at its place in one arena.

The oracle between the tensor passes and the native program. With memory planned, buffers share bytes as they will
natively, and the arena starts out as a pattern that no result may depend on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxc.codegen.interp import run_kernel
from onnxc.ir.core import Func, Module, Op, Value
from onnxc.ir.dims import Dim, evaluate
from onnxc.ir.types import Mem

__all__ = ["run_program"]

_POISON = 0xA5


def run_program(module: Module, inputs: Sequence[np.ndarray], dims: Mapping[str, int]) -> tuple[list[np.ndarray], list[str]]:
    """Outputs of @main, and the messages of the errors that kernels recorded."""
    main = module.main
    n = int(main.attrs["inputs"])  # type: ignore[arg-type]
    memory: dict[Value, np.ndarray] = {}
    for value, array in zip(main.args, inputs):
        memory[value] = np.ascontiguousarray(array).reshape(np.shape(array))     # which is 1-d for 0-d input
    for value in main.args[n:]:
        memory[value] = _poisoned(value, dims)
    size = main.attrs["arena"]
    arena = np.full(evaluate(size, dims), _POISON, np.uint8) if isinstance(size, (int, Dim)) else None
    errors: list[str] = []
    for op in main.body.ops:
        _step(module, op, memory, arena, dims, errors)
    return [memory[v] for v in main.args[n:]], errors


def _shape(value: Value, dims: Mapping[str, int]) -> tuple[int, ...]:
    assert isinstance(value.type, Mem)
    return tuple(evaluate(d, dims) for d in value.type.shape)


def _poisoned(value: Value, dims: Mapping[str, int]) -> np.ndarray:
    assert isinstance(value.type, Mem)
    shape, dtype = _shape(value, dims), value.type.dtype.numpy
    return np.full(int(np.prod(shape)) * dtype.itemsize, _POISON, np.uint8).view(dtype).reshape(shape)


def _step(module: Module, op: Op, memory: dict[Value, np.ndarray], arena: np.ndarray | None, dims: Mapping[str, int],
          errors: list[str]) -> None:
    if op.name == "p.const":
        memory[op.result] = module.constants[_ref(op.attrs["ref"])]
    elif op.name == "p.alloc":
        memory[op.result] = _poisoned(op.result, dims) if arena is None else _placed(op, arena, dims)
    elif op.name == "p.view":
        memory[op.result] = memory[op.operand(0)].reshape(_shape(op.result, dims))
    elif op.name == "p.copy":
        memory[op.operand(1)][...] = memory[op.operand(0)].reshape(memory[op.operand(1)].shape)
    elif op.name == "p.launch":
        kernel: Func = module.funcs[_ref(op.attrs["kernel"])]
        errors.extend(run_kernel(kernel, [memory[v] for v in op.inputs], dict(dims)))
    elif op.name != "return":
        raise ValueError(f"{op.name} is not a step of a program")


def _ref(attr: Any) -> str:
    return str(attr.name)


def _placed(op: Op, arena: np.ndarray, dims: Mapping[str, int]) -> np.ndarray:
    mem = op.result.type
    assert isinstance(mem, Mem)
    start = evaluate(op.attrs["offset"], dims)  # type: ignore[arg-type]
    shape = _shape(op.result, dims)
    stop = start + int(np.prod(shape)) * mem.dtype.numpy.itemsize
    return arena[start:stop].view(mem.dtype.numpy).reshape(shape)
