"""What a model is refused for: every node at once, each with its name and a reason; never a crash."""

from __future__ import annotations

import re

import numpy as np
import pytest
from onnx import helper

from onnxc.driver import CompileOptions, import_to_ir, lower_to_program
from onnxc.errors import Fail, NotImplemented, UnsupportedModel
from onnxc.frontend import loaded_proto
from tests.lowerings.models import lowered


@pytest.mark.parametrize(("graph", "reason"), [
    ("(float[2, 3] x, int64[K] s) => (float[] y) { y = Reshape(x, s) }", "computed from data"),
    ("(float[N] x) => (float[] y) { y = ReduceSum(x, a) }", "axis 3 is out of range for rank 1"),
    ("(float[2, 3] x) => (float[] y) { y = Transpose<perm = [0, 0]>(x) }", "not a permutation"),
    ("(float[2, 3] x, float[3, 2] z) => (float[] y) { y = Add(x, z) }", "cannot be broadcast together"),
    ("(float[2, 3] x, float[2, 3] z) => (float[] y) { y = MatMul(x, z) }", "product differ: 3 and 2"),
    ("(float[1, 3, 8] x) => (float[] y) { y = Conv(x, w) }", "channels"),
    ("(float[N] x) => (float[] y) { y = Slice(x, zero, zero, zero, zero) }", "a step of 0"),
    ("(float[2, 3] x) => (float[] y) { y = Reshape(x, two) }", "the sizes differ"),
    ("(float[2, 3] x) => (float[] y) { y = Concat<axis = 0>(x, w2) }", "differs"),
    ("(float[3] x) => (float[] y) { y = Split<axis = 0>(x, two) }", "do not add up"),
    ("(float[3] x) => (float[] y) { y = Pad(x, cut) }", "negative"),
    ("(string[N] x) => (string[] y) { y = Concat<axis = 0>(x, x) }", "element type str is not supported"),
    ("(float x) => (float[] y) { y = MatMul(x, x) }", "a scalar has no matrix product"),
    ("(float[2, 3] x) => (float[] y) { y = Squeeze(x, zero) }", "axis 0 is squeezed but is not 1"),
])
def test_the_reason_is_given(graph: str, reason: str) -> None:
    with pytest.raises((UnsupportedModel, Fail)) as e:
        lowered(graph, a=np.array([3]), w=np.ones((2, 4, 3), np.float32), w2=np.ones((2, 4), np.float32),
                zero=np.array([0]), two=np.array([2]), cut=np.array([-4, 0]))
    assert reason in str(e.value)
    assert re.search(r"node 'y'|Node \(y\)", str(e.value))


def test_what_no_engine_could_run_is_no_question_of_support() -> None:
    with pytest.raises(Fail, match=r"Node \(y\) Op \(MatMul\) \[ShapeInferenceError\] .*: 3 and 2") as e:
        lowered("(float[2, 3] x, float[2, 3] z) => (float[] y) { y = MatMul(x, z) }")
    assert not isinstance(e.value, NotImplemented)


def test_every_node_is_listed_and_what_follows_from_them_is_not() -> None:
    with pytest.raises(UnsupportedModel) as e:
        lowered("""(float[N] x, int64[K] s) => (float[] z) {
            a = Reshape(x, s)  b = Relu(a)  c = ReduceMax(b)  d = Squeeze(x)  e = Add(c, d)  z = Slice(x, s, s) }""")
    assert [n.name for n in e.value.nodes] == ["a", "d", "z"]


def test_wrong_declarations_are_hints(caplog: pytest.LogCaptureFixture) -> None:
    model = lowered("(float[2, 3] x) => (float[3, 2] z) { y = Relu(x)  z = Neg(y) }")
    assert model.types == ["f32[2, 3]"]
    assert any("declares" in r.message for r in caplog.records)


@pytest.mark.parametrize("value", [True, False])
def test_a_branch_on_a_constant_stands_in_place_of_the_node(value: bool) -> None:
    model = lowered("""(float[N] x) => (float[] z) {
        y = If (c) <then_branch = yes () => (float[N] t) { u = Neg(x)  t = Relu(u) },
                    else_branch = no () => (float[N] t) { t = Identity(x) }>
        z = Abs(y) }""", c=np.array(value))
    assert "onnx.If" not in model.ops and ("t.neg" in model.ops) == value
    x = np.array([-2, 3], np.float32)
    np.testing.assert_array_equal(model(x), np.array([2, 0], np.float32) if value else np.abs(x))


def test_a_sequence_is_no_input_of_a_program() -> None:
    info = helper.make_tensor_sequence_value_info("x", 1, ["N"])
    same = helper.make_tensor_sequence_value_info("y", 1, ["N"])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [info], [same])
    module = import_to_ir(loaded_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])))
    with pytest.raises(NotImplemented, match=r"%x is of type seq"):
        lower_to_program(module, CompileOptions())
