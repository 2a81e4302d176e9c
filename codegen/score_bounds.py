"""Between what numbers the scores of an attention lie, whatever its products are.

The region that makes a score of a product becomes one that makes two bounds of two: interval arithmetic over the
kernel's own ops. Rounding keeps order, so that the bounds hold for scores as they are computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

from onnxc.codegen.accesses import dims_of
from onnxc.codegen.clone import clone_op
from onnxc.ir.core import Block, Op, Value
from onnxc.ir.dims import symbols_of
from onnxc.ir.types import Scalar

__all__ = ["score_bounds"]

_Interval = tuple[Value, Value]

# The hyperbolic tangent is right to some units in its last place.
_BEYOND_TANH = 1.0001


def score_bounds(region: Block, key: str) -> Block | None:
    """A region of two products, the least and the greatest, that yields bounds of what `region` yields for all
    products between them. None where that takes ops whose bounds are not known, or where nothing that varies along the
    axis `key` has a part in scores."""
    if not any(key in symbols_of(dims_of(op)) for op in region.ops):
        return None
    return _Bounds(region).block


class _Bounds:
    def __init__(self, region: Block) -> None:
        product = region.args[0]
        block = Block([product.type] * 2, ["least", "greatest"])
        self.out = block
        self.values: dict[Value, Value] = {}                   # of what does not depend on the product
        self.intervals: dict[Value, _Interval] = {product: (block.args[0], block.args[1])}
        self.block: Block | None = block
        for op in region.ops:
            if not any(v in self.intervals for v in op.inputs):
                block.append(clone_op(op, self.values))
                continue
            found = self._interval(op)
            if found is None:
                self.block = None
                return
            if op.name == "yield":
                block.append(Op("yield", list(found)))
            else:
                self.intervals[op.result] = found

    def _interval(self, op: Op) -> _Interval | None:
        """The bounds of an op that depends on the product, or of what is yielded."""
        if op.regions or any(v in self.intervals and not _is_float(v) for v in op.inputs):
            return None
        rules: dict[str, Callable[[Op], _Interval | None]] = {
            "yield": lambda op: self._of(op.operand(0)), "s.add": self._in_step, "s.min": self._in_step,
            "s.max": self._in_step, "s.cast": self._in_step, "s.select": self._selected, "s.sub": self._difference,
            "s.neg": self._negative, "s.mul": self._scaled, "s.div": self._scaled, "s.tanh": self._hyperbolic}
        rule = rules.get(op.name)
        return None if rule is None else rule(op)

    def _of(self, v: Value) -> _Interval:
        return self.intervals.get(v) or (self.values.get(v, v),) * 2

    def _make(self, op: Op, *operands: Value) -> Value:
        return self.out.append(Op(op.name, operands, [op.result.type], dict(op.attrs))).result

    def _in_step(self, op: Op) -> _Interval | None:
        """Of an op that grows with each operand."""
        if not _is_float(op.result):
            return None
        operands = [self._of(v) for v in op.inputs]
        return self._make(op, *(x[0] for x in operands)), self._make(op, *(x[1] for x in operands))

    def _selected(self, op: Op) -> _Interval | None:
        condition, x, y = op.inputs
        if condition in self.intervals:
            return None
        choice = self.values.get(condition, condition)
        pairs = zip(self._of(x), self._of(y), strict=True)
        least, greatest = (self._make(op, choice, a, b) for a, b in pairs)
        return least, greatest

    def _difference(self, op: Op) -> _Interval:
        x, y = (self._of(v) for v in op.inputs)
        return self._make(op, x[0], y[1]), self._make(op, x[1], y[0])

    def _negative(self, op: Op) -> _Interval:
        least, greatest = self._of(op.operand(0))
        return self._make(op, greatest), self._make(op, least)

    def _scaled(self, op: Op) -> _Interval | None:
        """Of a product with a number, or a quotient by one. Others might be 0 or infinite, and scores NaN."""
        x, y = op.inputs
        moving, number = (x, y) if x in self.intervals else (y, x)
        factor = _number(number)
        if factor is None or not math.isfinite(factor) or (op.name == "s.div" and (moving is y or not factor)):
            return None
        ends = self.intervals[moving] if factor >= 0 else self.intervals[moving][::-1]
        least, greatest = (self._make(op, *(e if v is moving else self.values.get(v, v) for v in (x, y))) for e in ends)
        return least, greatest

    def _hyperbolic(self, op: Op) -> _Interval:
        kind = cast(Scalar, op.result.type)
        least, greatest = (self.out.append(Op("s.const", (), [kind], {"value": v, "dtype": kind.dtype})).result
                           for v in (-_BEYOND_TANH, _BEYOND_TANH))
        return least, greatest


def _number(v: Value) -> float | None:
    return cast(float, v.op.attrs["value"]) if v.op is not None and v.op.name == "s.const" else None


def _is_float(v: Value) -> bool:
    return isinstance(v.type, Scalar) and v.type.dtype.is_float
