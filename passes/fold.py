"""The pass `fold`: what only depends on constants is computed now, by the reference column of the op table.

Integer tensors that shape arithmetic determines become `t.dims` (or constants when no symbol is left). Results above a
budget stay in the program: a small model must not unfold into gigabytes. Weights that contractions widen stay narrow.
"""

from __future__ import annotations

import math

import numpy as np

from onnxc.ir.builder import Builder, constant_of
from onnxc.ir.core import Func, Module, Op, Value
from onnxc.ir.dims import Dim, symbols_of
from onnxc.ir.registry import lookup
from onnxc.ir.types import I32, I64, Tensor
from onnxc.ops.known import KnownValues
from onnxc.passes.widening import widening_ops

__all__ = ["evaluated", "fold"]

_EACH = 64 << 20            # bytes of one folded result
_TOGETHER = 512 << 20       # bytes folded beyond what the operands held, over the model
_REPEATED = 4096            # elements up to which a broadcast of a constant is written out


def fold(module: Module) -> None:
    """Fold constant subgraphs of every graph function."""
    budget = _TOGETHER
    for func in module.funcs.values():
        if func.kind == "graph":
            budget = _fold_func(module, func, budget)


def _fold_func(module: Module, func: Func, budget: int) -> int:
    known, widening = KnownValues(module), widening_ops(func.body.ops)
    for op in func.body.ops:
        row = lookup(op.name)
        if op in widening or op.name == "t.const" or op.regions or len(op.results) != 1:
            continue
        if row is None or not row.has("pure"):
            continue
        if _fold_known(module, op, known) or op.name == "t.dims":
            continue
        arrays = [constant_of(module, v) for v in op.inputs]
        held = sum(a.nbytes for a in arrays if a is not None)
        if not arrays or any(a is None for a in arrays) or row.ref is None or not _worth(op, held, budget):
            continue
        result = evaluated(op, [None if v is None else constant_of(module, v) for v in op.operands])
        if result is None:
            continue
        budget -= max(0, result.nbytes - held)
        _replace(op, Builder.at(module, op).const(result, name=op.result.name or "folded"))
    return budget


def _worth(op: Op, held: int, budget: int) -> bool:
    """Whether to compute an op now whose operands are `held` bytes of constants: always where they become no more."""
    t = op.result.type
    if not isinstance(t, Tensor) or not t.is_static or any(symbols_of(d) for d in _attr_dims(op)):
        return False
    size = _elements(op.result)
    if op.name == "t.broadcast" and size > max(_REPEATED, *map(_elements, op.inputs)):
        return False
    nbytes = size * max(t.dtype.bits, 8) // 8
    return nbytes <= held or (nbytes <= _EACH and nbytes - held <= budget)


def _elements(v: Value) -> int:
    """The size of a tensor of known dims; a constant has such."""
    return math.prod(d for d in v.dims if isinstance(d, int))


def _attr_dims(op: Op) -> list[Dim]:
    return [d for a in op.attrs.values() if isinstance(a, tuple) for d in a if isinstance(d, Dim)]


def evaluated(op: Op, arrays: list[np.ndarray | None]) -> np.ndarray | None:
    """The result of an op of these operands; None where it has none, or has an error that a run has to report."""
    row = lookup(op.name)
    if row is None or row.ref is None:
        return None
    try:
        with np.errstate(all="ignore"):
            result = np.asarray(row.ref(dict(op.attrs), *arrays))
    except (IndexError, ZeroDivisionError):
        return None
    dtype = op.result.tensor.dtype.numpy
    return np.ascontiguousarray(result.astype(dtype, copy=False)).reshape(result.shape)


def _fold_known(module: Module, op: Op, known: KnownValues) -> bool:
    """Replace shape arithmetic by its result."""
    t = op.result.type
    if not isinstance(t, Tensor) or len(t.dims) > 1 or t.dtype not in (I32, I64):
        return False
    values = known.of(op.result)
    if values is None:
        return False
    flat = list(values.flat)
    if op.name == "t.dims" and any(isinstance(v, Dim) for v in flat):
        return False
    b = Builder.at(module, op)
    if any(isinstance(v, Dim) for v in flat):
        new = b.value("t.dims", values=tuple(flat), vector=len(t.dims) == 1, dtype=t.dtype)
    else:
        new = b.const(np.array(flat, t.dtype.numpy).reshape(values.shape), name=op.result.name or "shape")
    _replace(op, new)
    return True


def _replace(op: Op, new: Value) -> None:
    new.name = new.name or op.result.name
    op.result.replace_by(new)
    op.erase()
