"""The op that fusion makes: a group of tensor ops that one kernel computes."""

from __future__ import annotations

from collections.abc import Iterator

from onnxc.ir.core import Op
from onnxc.ir.registry import register


def _check(op: Op) -> Iterator[str]:
    region = op.regions[0]
    given, taken = [v.type for v in op.inputs], [a.type for a in region.args]
    if None in op.operands or given != taken:
        yield f"the region of t.fused takes ({', '.join(map(str, taken))}), not ({', '.join(map(str, given))})"
    last = region.last
    yielded = [v.type for v in last.inputs] if last is not None and last.name == "yield" else []
    if yielded != [op.result.type]:
        yield f"the region of t.fused yields ({', '.join(map(str, yielded))}), not ({op.result.type})"


register("t.fused", "inputs*", traits="pure isolated", regions=1, check=_check,
         ref=lambda attrs, *xs: attrs["regions"][0](*xs)[0],
         doc="a group of tensor ops computed together; the region sees only its arguments and yields the group's value")
