"""Updates in place: a scatter takes the memory of data that dies with it, and of no other."""

from __future__ import annotations

import numpy as np
import pytest

from onnxc.codegen.program_interp import run_program
from onnxc.ir.core import Module
from onnxc.ir.parser import parse_module
from onnxc.ops import load_all
from onnxc.passes import pipeline
from onnxc.passes.check_plan import check_plan

load_all()

DYING = """func @main(%x: f32[N, 4], %i: i64[2, 1], %u: f32[2, 4]) -> (f32[N, 4]) kind "graph" {
  %a = t.neg(%x) : f32[N, 4]
  %s = t.scatter_nd(%a, %i, %u) {reduction = "none"} : f32[N, 4]
  %t = t.scatter_nd(%s, %i, %u) {reduction = "add"} : f32[N, 4]
  %y = t.reduce(%t) {kind = "max", axes = [1]} : f32[N]
  %z = t.reshape(%y) {shape = [<N>, 1]} : f32[N, 1]
  %r = t.broadcast(%z) {shape = [<N>, 4]} : f32[N, 4]
  return(%r)
}
"""
READ_LATER = DYING.replace("%r = t.broadcast(%z) {shape = [<N>, 4]} : f32[N, 4]", "%r = t.add(%a, %z) : f32[N, 4]")
GIVEN = DYING.replace("t.scatter_nd(%a,", "t.scatter_nd(%x,")


def lowered(text: str) -> Module:
    module = parse_module(text)
    context = pipeline.Context(supplied={"schedule": lambda m: None, "pack": lambda m: None})
    pipeline.run(module, context, [p for p in pipeline.PIPELINE if p.level != "onnx"])
    return module


@pytest.mark.parametrize("text", [DYING, READ_LATER, GIVEN], ids=["dying", "read", "given"])
def test_data_is_copied_only_where_it_is_needed(text: str) -> None:
    """Never for the second scatter; for the first one it is also where what computes the data is."""
    module = lowered(text)
    kernels = [op.attrs["kernel"].name for op in module.main.body.ops if op.name == "p.launch"]
    assert len([k for k in kernels if k.endswith("_data")]) == 1
    assert len([k for k in kernels if k.endswith("_updates")]) == 2
    check_plan(module, {"N": 5})
    x, u = np.arange(20, dtype=np.float32).reshape(5, 4), np.full((2, 4), 3, np.float32)
    kept = x.copy()
    (found,), errors = run_program(module, [x, np.array([[1], [-1]]), u], {"N": 5})
    assert not errors
    np.testing.assert_array_equal(x, kept)
    want = kept.copy() if text is GIVEN else -kept
    want[[1, -1]] = 6
    want = np.repeat(want.max(1, keepdims=True), 4, 1) - (kept if text is READ_LATER else 0)
    np.testing.assert_array_equal(found, want)
