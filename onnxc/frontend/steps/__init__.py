"""Steps that bring one op to the next version of its operator: `forms` moves attributes, `rewrites` makes new ops.

A step changes its op in place and gives None, or makes other ops in front of it and gives the values that replace the
results. What it makes has to be valid at the newest opset.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np

from onnxc import errors
from onnxc.frontend.constants import make_constant
from onnxc.frontend.problems import printable
from onnxc.ir.core import Attr, Block, Module, Op, Value
from onnxc.ir.types import I64, Tensor, Type

__all__ = ["STEPS", "Step", "Upgrade", "step"]


class Upgrade:
    """The op that a step works on, and the means to make others in front of it."""

    def __init__(self, module: Module, op: Op) -> None:
        self.module, self.op = module, op
        if op.block is None:
            raise ValueError(f"{op.name} is in no block")
        self.block: Block = op.block

    @property
    def dtype(self) -> np.dtype:
        """The numpy type of the elements of the first operand."""
        t = self.op.operand(0).type
        return t.dtype.numpy if isinstance(t, Tensor) else np.dtype(np.float32)

    def const(self, values: Any, dtype: Any = np.int64) -> Value:
        """A constant tensor."""
        return make_constant(self.module, lambda op: self.block.insert(op, self.op), np.asarray(values, dtype),
                             f"{self.op.loc}_{self.op.name.removeprefix('onnx.')}", self.op.loc)

    def make(self, op_type: str, *operands: Value | None, type: Type | None = None, **attrs: Attr) -> Value:
        """A new op with one result; its type is the first operand's, without dims, unless given."""
        return self.make_op(op_type, operands, [type or self.like(operands[0])], **attrs).result

    def make_op(self, op_type: str, operands: Sequence[Value | None], types: Sequence[Type], **attrs: Attr) -> Op:
        """A new op."""
        return self.block.insert(Op(f"onnx.{op_type}", operands, types, attrs, (), self.op.loc), self.op)

    @staticmethod
    def like(value: Value | None) -> Type:
        """The type of a value without its dims."""
        if value is None:
            raise ValueError("an absent value has no type")
        return Tensor(value.type.dtype, None) if isinstance(value.type, Tensor) else value.type

    def shape(self, value: Value | None) -> Value:
        """The dims of a value as an int64 vector."""
        return self.make("Shape", value, type=Tensor(I64, None))

    def rank(self, value: Value | None) -> Value:
        """The rank of a value as an int64 scalar."""
        return self.make("Size", self.shape(value), type=Tensor(I64, ()))

    def take(self, attribute: str, default: Any = None) -> Any:
        """Remove an attribute; its value, or `default`."""
        return self.op.attrs.pop(attribute, default)

    def operand(self, i: int) -> Value | None:
        """The i-th operand, None when it is absent."""
        return self.op.operands[i] if i < len(self.op.operands) else None

    def set_operand(self, i: int, value: Value | None) -> None:
        """Set the i-th operand; absent ones fill the gap before it."""
        operands = list(self.op.operands)
        operands += [None] * (i + 1 - len(operands))
        operands[i] = value
        self.op.set_operands(operands)

    def refuse(self, reason: str) -> NoReturn:
        """The op, in the version it is written in, is not supported."""
        raise errors.NotImplemented(f"{self.op.name.removeprefix('onnx.')} node ({printable(self.op.loc)}) of an old "
                                    f"opset cannot be brought to the current one: {reason}.")


Step = Callable[[Upgrade], "Sequence[Value] | None"]
STEPS: dict[str, dict[int, Step]] = {}


def step(names: str, since: int, domain: str = "") -> Callable[[Step], Step]:
    """Register a function as the step of some ops (separated by spaces) to version `since`."""
    def register(fn: Step) -> Step:
        for name in names.split():
            key = f"onnx.{domain}.{name}" if domain else f"onnx.{name}"
            if since in STEPS.setdefault(key, {}):
                raise ValueError(f"{key} has two steps to version {since}")
            STEPS[key][since] = fn
        return fn
    return register
