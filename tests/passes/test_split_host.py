"""How a model is split into native segments and host steps."""

from __future__ import annotations

import pytest

from onnxc.ir.parser import parse_module
from onnxc.ir.verify import verify
from onnxc.passes.split_host import HostNode, Segment, split_host
from onnxc.runtime.host_ops import CONTAINER_OPS, HOST_OPS


def steps(text):
    """The steps in short: a host op's name, or the names of the ops of a segment."""
    module = parse_module(text)
    split = split_host(module, HOST_OPS, CONTAINER_OPS)
    if split is None:
        return None
    known = set(range(len(module.main.args))) | set(split.constants)
    out = []
    for step in split.steps:
        assert {i for i in step.inputs if i is not None} <= known, "a value is used before it is made"
        known |= set(step.outputs)
        if isinstance(step, HostNode):
            out.append(step.op)
        else:
            assert isinstance(step, Segment)
            verify(step.module)
            out.append(" ".join(op.name.removeprefix("onnx.") for op in step.module.main.body.ops
                                if op.name.startswith("onnx.")))
    assert set(split.outputs) <= known
    return out


@pytest.mark.parametrize(("body", "result", "expected"), [
    ('%y = onnx.Neg(%a) : f32[N]\n return(%y)', "f32[N]", None),
    ('%y = onnx.SequenceConstruct(%a, %a) : seq<f32[N]>\n %c = t.const() {value = dense<i64[]: 0>} : i64[]\n'
     '%z = onnx.SequenceAt(%y, %c) : f32[N]\n return(%z)', "f32[N]", None),
    ('%y = onnx.SequenceConstruct(%a, %a) : seq<f32[N]>\n %z = onnx.SequenceAt(%y, %i) : f32[*]\n return(%z)', "f32[*]",
     ["SequenceConstruct", "SequenceAt"]),
    ('%n = onnx.Neg(%a) : f32[N]\n %p = onnx.SequenceAt(%s, %i) : f32[*]\n %q = onnx.Add(%n, %p) : f32[*]\n'
     '%r = onnx.Exp(%n) : f32[N]\n %u = onnx.Mul(%q, %r) : f32[*]\n return(%u)', "f32[*]",
     ["SequenceAt", "Neg Add Exp Mul"]),
    ('%n = onnx.Neg(%a) : f32[N]\n %y = onnx.SequenceConstruct(%n, %a) : seq<f32[N]>\n'
     '%p = onnx.SequenceAt(%y, %i) : f32[*]\n %q = onnx.Add(%n, %p) : f32[*]\n %r = onnx.Exp(%n) : f32[N]\n'
     '%u = onnx.Mul(%q, %r) : f32[*]\n return(%u)', "f32[*]",
     ["Neg Exp", "SequenceConstruct", "SequenceAt", "Add Mul"]),
    ('%e = onnx.Equal(%t, %t) : bool[N]\n %f = onnx.Not(%e) : bool[N]\n %l = onnx.SequenceLength(%s) : i64[]\n'
     'return(%f, %l)', "bool[N], i64[]", ["Equal", "SequenceLength", "Not"]),
    ('%n = onnx.Neg(%a) : f32[N]\n %y = onnx.SequenceConstruct(%n, %a) : seq<f32[N]>\n return(%y)', "seq<f32[N]>",
     ["Neg", "SequenceConstruct"]),
    ('%h = onnx.Shape(%a) : i64[1]\n %g = onnx.Mul(%h, %h) : i64[1]\n %n = onnx.Expand(%a, %g) : f32[*]\n'
     '%p = onnx.SequenceAt(%s, %i) : f32[*]\n %y = onnx.SequenceConstruct(%n, %p) : seq<f32[*]>\n'
     '%q = onnx.SequenceAt(%y, %i) : f32[*]\n %r = onnx.Reshape(%q, %g) : f32[*]\n return(%r)', "f32[*]",
     ["SequenceAt", "Shape Mul Expand", "SequenceConstruct", "SequenceAt", "Shape Mul Reshape"]),
    ('%y = onnx.com.microsoft.SparseToDenseMatMul(%m, %b) : f32[*]\n'
     '%z = onnx.com.microsoft.SparseToDenseMatMul(%m, %b) {alpha = 2.0} : f32[*]\n return(%y, %z)', "f32[*], f32[*]",
     ["ai.onnxc.SparseParts", "ai.onnxc.SparseProduct ai.onnxc.SparseProduct"]),
], ids=["native", "known place", "place in a run", "host first, one segment", "two segments", "host first",
        "sequence out", "sizes twice", "parts of a sparse matrix, once"])
def test_steps(body, result, expected):
    arguments = {"a": "f32[N]", "i": "i64[]", "t": "str[N]", "s": "seq<f32[*]>",
                 "m": "sparse<f32[M, K]>", "b": "f32[K, N]"}
    used = [f"%{name}: {kind}" for name, kind in arguments.items() if f"%{name}," in body or f"%{name})" in body]
    assert steps(f'func @main({", ".join(used)}) -> ({result}) kind "graph" {{\n{body}\n}}') == expected
