"""Control flow that is decided before a run: the branch that is taken stands in place of the node."""

from __future__ import annotations

from onnxc.ir.core import Value
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.table import lowering

__all__: list[str] = []


@lowering
def If(b: Lowering, cond: Value, *, else_branch: int, then_branch: int) -> tuple[Value, ...]:
    decided = b.constant(cond)
    if decided is None or decided.size != 1:
        b.refuse(f"the condition (%{cond.name}) is computed from data; it has to follow from constants")
    region = b.node.regions[then_branch if decided.reshape(()).item() else else_branch]
    return b.inline(region, [v for v in b.captured if v is not None])
