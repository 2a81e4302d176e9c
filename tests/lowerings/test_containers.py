"""Sequences and optionals of known parts: compiled away, equal to ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import onnxc
from onnxc.errors import UnsupportedModel
from tests.session import models
from tests.session.models import constant, node, value

A, B = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((2, 3), np.float32)


def run(model, feed):
    data = model.SerializeToString()
    session = onnxc.InferenceSession(data)
    assert session.statistics()["host_ops"] == 0
    found = session.run(None, feed)
    for got, want in zip(found, ort.InferenceSession(data).run(None, feed), strict=True):
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        np.testing.assert_array_equal(got, want)
    return found


def pair(nodes, output, constants=(), kind=TensorProto.FLOAT):
    return models.model(nodes, [value("a", ["N", 3]), value("b", ["N", 3])], [value(*output, kind)],
                        [constant(name, np.array(v, np.int64)) for name, v in constants])


@pytest.mark.parametrize(("axis", "new_axis"), [(0, 0), (1, 0), (-1, 0), (0, 1), (1, 1), (-1, 1)])
def test_construct_and_concat(axis, new_axis):
    model = pair([node("SequenceConstruct", "a b", "s"), node("ConcatFromSequence", "s", "y", axis=axis,
                                                             new_axis=new_axis)], ("y", None))
    run(model, {"a": A, "b": B})


@pytest.mark.parametrize("at", [0, 1, -1, -2])
def test_construct_and_at(at):
    model = pair([node("SequenceConstruct", "a b", "s"), node("SequenceAt", "s i", "y")], ("y", ["N", 3]), [("i", at)])
    run(model, {"a": A, "b": B})


@pytest.mark.parametrize("where", [None, 0, 1, 2, -1, -2])
def test_insert_erase_length(where):
    place = "" if where is None else " p"
    nodes = [node("SequenceConstruct", "a b", "s"), node("SequenceInsert", f"s b{place}", "t"),
             node("SequenceInsert", "t a", "u"), node("SequenceErase", "u e", "v"), node("SequenceLength", "v", "n"),
             node("ConcatFromSequence", "v", "j", axis=0), node("Cast", "n", "f", to=TensorProto.FLOAT),
             node("Mul", "j f", "y")]
    model = pair(nodes, ("y", None), [("e", -2), *([] if where is None else [("p", where)])])
    run(model, {"a": A, "b": B})


def test_an_empty_one_to_begin_with():
    nodes = [node("SequenceEmpty", "", "e"), node("SequenceInsert", "e a", "s"), node("SequenceInsert", "s b z", "t"),
             node("ConcatFromSequence", "t", "y", axis=1)]
    run(pair(nodes, ("y", None), [("z", 0)]), {"a": A, "b": B})


@pytest.mark.parametrize(("split", "keepdims", "at"), [
    (None, 1, 2), (None, 0, 1), (2, 1, 1), (2, 1, 0), (5, 1, 0), ([1, 2], 1, 1), ([0, 3], 1, 0)])
def test_split_and_at(split, keepdims, at):
    parts = [] if split is None else [("p", split)]
    nodes = [node("SplitToSequence", "a p" if parts else "a", "s", axis=1, keepdims=keepdims),
             node("SequenceAt", "s i", "y")]
    run(pair(nodes, ("y", None), [("i", at), *parts]), {"a": A, "b": B})


def test_parts_of_an_open_dimension():
    nodes = [node("SplitToSequence", "a p", "s", axis=0), node("SequenceAt", "s i", "y")]
    model = pair(nodes, ("y", None), [("i", 1), ("p", [1, 2])])
    run(model, {"a": np.ones((3, 3), np.float32), "b": np.ones((3, 3), np.float32)})
    with pytest.raises(onnxc.errors.InvalidArgument, match="the parts do not add up"):  # 1 + 2 of 2
        onnxc.InferenceSession(model.SerializeToString()).run(None, {"a": A, "b": B})


@pytest.mark.parametrize("full", [True, False])
def test_an_optional_that_decides_a_branch(full):
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    then = helper.make_graph([node("OptionalGetElement", "o", "t")], "then", [], [value("t", None)])
    other = helper.make_graph([node("Neg", "b", "e")], "else", [], [value("e", None)])
    made = node("Optional", "a", "o") if full else node("Optional", "", "o", type=kind)
    nodes = [made, node("OptionalHasElement", "o", "c"), node("If", "c", "y", then_branch=then, else_branch=other)]
    model = pair(nodes, ("y", None))
    model.opset_import[0].version = 18
    run(model, {"a": A, "b": B})


@pytest.mark.parametrize(("nodes", "constants", "says"), [
    ([node("SequenceConstruct", "a b", "s"), node("SequenceAt", "s i", "y")], [("i", 2)], "position 2 is outside"),
    ([node("SequenceEmpty", "", "s"), node("ConcatFromSequence", "s", "y", axis=0)], [], "an empty sequence"),
    ([node("SequenceConstruct", "a b", "s"), node("ConcatFromSequence", "s", "y", axis=5)], [], "axis 5"),
    ([node("SplitToSequence", "a p", "s"), node("SequenceAt", "s p", "y")], [("p", 0)], "parts of size 0"),
])
def test_what_no_run_can_do_is_refused(nodes, constants, says):
    with pytest.raises(UnsupportedModel, match=says):
        onnxc.InferenceSession(pair(nodes, ("y", None), constants).SerializeToString())
