"""Networks that are deeper than Python's stack."""

from __future__ import annotations

import sys

from onnxc.ir.builder import Builder
from onnxc.ir.core import Func, Module
from onnxc.ir.rewrite import Fuel, RewriteLog
from onnxc.ir.types import F32, Tensor
from onnxc.ops import load_all
from onnxc.passes.scale_contract import fold_scales


def test_a_long_residual_stream_is_no_constant() -> None:
    """The search for constants behind a sum of sums must not follow the whole network, nor recurse into it."""
    load_all()
    module = Module()
    t = Tensor(F32, (4,))
    func = module.add(Func("main", [t], ["x"], kind="graph"))
    b = Builder(module, func.body)
    x = total = func.args[0]
    for _ in range(2 * sys.getrecursionlimit()):
        total = b.value("t.add", total, b.value("t.sub", b.value("t.mul", total, total), x))
    b.op("return", [total], types=())
    fold_scales(module, Fuel(), RewriteLog())
    assert [op.name for op in func.body.ops][-2:] == ["t.add", "return"]
