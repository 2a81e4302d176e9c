"""What an element of `t.walk` is inside a kernel: a loop that goes down a tree, its node carried as a value.

At points that share a vector the walks go on side by side; those that have ended wait for the others.
"""

from __future__ import annotations

from typing import Any

from onnxc.ir.core import Block, Op, Value
from onnxc.ir.dims import Dim
from onnxc.ir.types import BOOL, I64, Scalar
from onnxc.ops.trees import Layout
from onnxc.passes.indexing import Index, Where, broadcast_index
from onnxc.passes.kernel_builder import FORMS, Demand

__all__: list[str] = []


def _walk(d: Demand, op: Op, index: Index, where: Where, other: Any) -> Value:
    x, roots = op.operand(0), op.operand(1)
    shape = op.result.dims
    row = broadcast_index(index, x.dims[:-1], shape)
    root = d.at(roots, broadcast_index(index, roots.dims, shape), where)
    early = not op.attr("level")
    flag = [Scalar(BOOL)] if early else []
    region = Block([*flag, Scalar(I64)], ["on", "node"][1 - early:])
    step = d.axis("s")
    start = [d.const(True, BOOL), root] if early else [root]
    around = d.depends([*index, *(e for t in where for e in t)])
    d.open([step], [op.attr("depth")], region)
    following, inner = _Step(d, op, region.args[-1], step, around).take(row, where)
    d.append(Op("yield", [inner, following] if early else [following]))
    d.close()
    attrs = {"axis": step, "extent": op.attr("depth"), "conditional": early}
    return d.append(Op("k.iterate", start, [v.type for v in start], attrs, [region], op.loc)).results[-1]


class _Step:
    """One step from a node, in a loop over `step` inside of the axes `around`."""

    def __init__(self, d: Demand, op: Op, node: Value, step: Dim, around: frozenset[str]) -> None:
        self.d, self.op, self.node = d, op, node
        self.inside = around | {str(step)}
        self.layout = Layout.of(op.attrs)
        words, splits = op.operand(2), op.operand(3)
        at = d.given_index(node, self.inside)
        self.word = d.cast(d.at(words, (at,)), I64)
        self.split = d.at(splits, (at,))

    def take(self, row: Index, where: Where) -> tuple[Value, Value]:
        """The node that follows, and whether it is another one."""
        d, layout = self.d, self.layout
        feature = d.given_index(self.field(0, layout.bits), self.inside)
        left = self.goes_left(d.at(self.op.operand(0), (*row, feature), where))
        away = d.apply("rshift", self.word, d.const(layout.child_at, I64))
        inner = d.apply("ne", away, d.const(0, I64))
        right = d.cast(d.apply("and", inner, d.apply("not", left)), I64)
        return d.apply("add", self.node, d.apply("add", away, right)), inner

    def goes_left(self, value: Value) -> Value:
        d, layout = self.d, self.layout
        left = d.apply(layout.tests[0], value, self.split)
        for i, test in enumerate(layout.tests[1:], 1):
            this = d.apply("eq", self.field(layout.bits, layout.test_bits), d.const(i, I64))
            left = d.apply("select", this, d.apply(test, value, self.split), left)
        if layout.missing == "right":
            return left
        nan = d.apply("ne", value, value)
        if layout.missing == "either":
            nan = d.apply("and", nan, d.apply("ne", self.field(layout.missing_at, 1), d.const(0, I64)))
        return d.apply("or", left, nan)

    def field(self, at: int, bits: int) -> Value:
        d = self.d
        shifted = d.apply("rshift", self.word, d.const(at, I64)) if at else self.word
        return d.apply("bit_and", shifted, d.const((1 << bits) - 1, I64))


FORMS["t.walk"] = _walk
