"""Takes sparse tensors apart: what they hold is read off by the host, and computed with natively as plain tensors."""

from __future__ import annotations

from onnxc.ir.core import Block, Module, Op, Value
from onnxc.ir.dims import sym
from onnxc.ir.types import I64, Sparse, Tensor

__all__ = ["PARTS", "separate_sparse"]

PARTS = "ai.onnxc.SparseParts"
"""The host's step: a sparse tensor as values [count], places [count, rank], and a tensor of its shape with an axis of
no elements behind it, which is there for its sizes."""

_PRODUCT, _PARTED = "onnx.com.microsoft.SparseToDenseMatMul", "onnx.ai.onnxc.SparseProduct"
_COUNT = sym("count")


def separate_sparse(module: Module) -> None:
    """Gives products of sparse matrices the parts of these in their place."""
    known: dict[tuple[Value, Block], Op] = {}
    for op in list(module.main.walk()):
        given = op.operands[0] if op.name == _PRODUCT and op.operands else None
        if given is None or not isinstance(given.type, Sparse) or op.block is None:
            continue
        parts = known.get((given, op.block))
        if parts is None:
            parts = known[given, op.block] = _parts(given, op)
            op.block.insert(parts, op)
        made = Op(_PARTED, [*parts.results, op.operands[1]], [r.type for r in op.results], dict(op.attrs), (), op.loc,
                  [r.name for r in op.results])
        op.block.insert(made, op)
        for old, new in zip(op.results, made.results, strict=True):
            old.replace_by(new)
        op.erase()


def _parts(given: Value, user: Op) -> Op:
    assert isinstance(given.type, Sparse)
    held = given.type.element
    shape = held.shape if held.shape is not None else (sym("rows"), sym("columns"))
    types = [Tensor(held.dtype, (_COUNT,)), Tensor(I64, (_COUNT, len(shape))), Tensor(held.dtype, (*shape, 0))]
    return Op(f"onnx.{PARTS}", [given], types, {}, (), user.loc, [f"{given.name}.{n}" for n in ("v", "at", "of")])
