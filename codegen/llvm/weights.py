"""What an op costs: a count of instructions on one element or vector, as coarse as schedules need it."""

from __future__ import annotations

from onnxc.ir.core import Op
from onnxc.ir.types import Scalar
from onnxc.ops.scalar import SCALARS, column

__all__ = ["weight"]

_FREE = ("s.const", "s.bitcast", "k.index")
_SLOW = {"div": 5, "sqrt": 6, "rsqrt": 8, "recip": 5}
_SHORT = frozenset(("min", "max", "neg", "abs", "not", "bit_not", "isnan", "isinf", "sign", "shl", "shr"))
_EXPANDED = 14                  # exp, erf, tanh ...
_GUARDED = 3                    # expansions of a few instructions


def weight(op: Op) -> int:
    """Instructions of a scalar op, a load or a store; 0 for what is free or has a region."""
    if op.name in ("k.load", "k.store", "s.cast"):
        return 1
    if not op.name.startswith("s.") or op.name in _FREE:
        return 0
    name = op.name[2:]
    if name in _SLOW:
        return _SLOW[name]
    row, operand = SCALARS.get(name), op.operand(len(op.operands) - 1).type
    if row is not None and isinstance(operand, Scalar) and column(row.llvm, operand.dtype) is not None:
        return 1
    return _GUARDED if name in _SHORT else _EXPANDED
