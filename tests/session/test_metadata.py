"""What a session says of its model: `NodeArg` for inputs and outputs, `ModelMetadata`. Run on both engines."""

from __future__ import annotations

import gc

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.session import models
from tests.session.models import FLOAT, INT64, node, value

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def shapes(session):
    return [a.shape for a in (*session.get_inputs(), *session.get_outputs())]


def same(shape, declared=None):
    """y = x."""
    return models.model([node("Identity", "x", "y")], [value("x", shape)], [value("y", declared)])


# ---- NodeArg ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("attribute", ["name", "type", "shape"])
def test_what_is_said_of_a_value_is_read_only_and_stays(engine, attribute):
    session = engine.session(models.sums())
    argument = session.get_inputs()[0]
    with pytest.raises(AttributeError):
        setattr(argument, attribute, "other")
    before = getattr(argument, attribute)
    del session
    gc.collect()
    assert getattr(argument, attribute) == before


def test_a_value_prints_as_text_and_shows_as_an_object(engine):
    argument = engine.session(models.sums()).get_inputs()[0]
    assert str(argument) == "NodeArg(name='x', type='tensor(float)', shape=['N', 3])"
    assert "NodeArg object at 0x" in repr(argument)


@pytest.mark.parametrize("shape", [[-1, "", 2], [None, None, 2]], ids=["by a text or number", "by nothing"])
def test_dimensions_without_a_name_are_none(engine, shape):
    assert shapes(engine.session(same(shape))) == [[None, None, 2]] * 2


@pytest.mark.parametrize("shape", [["past_length + 1", "N", 0], ["?", "a b", "2*N"], [], [7]], ids=str)
def test_declared_dimensions_are_verbatim_and_inferred_ones_are_the_same(engine, shape):
    assert shapes(engine.session(same(shape))) == [shape] * 2


def test_sizes_that_only_data_tells_are_none(engine):
    model = models.model([node("NonZero", "x", "y")], [value("x", ["N", "C"])], [value("y", None, INT64)])
    assert shapes(engine.session(model)) == [["N", "C"], [2, None]]


def test_sums_of_named_dimensions_are_expressions_of_the_names(ours):
    model = models.model([node("Concat", "x y", "z", axis=0), node("Concat", "u v", "w", axis=0)],
                         [value("x", ["past", 3]), value("y", ["N", 3]), value("u", ["a b"]), value("v", [None])],
                         [value("z", None), value("w", None)])
    assert shapes(ours.session(model))[4:] == [["N + past", 3], [None]]


def test_a_shape_that_is_not_declared_is_empty(engine):
    session = engine.session(same(None))
    assert shapes(session) == [[], []]


def test_types_and_shapes_that_outputs_lack_are_inferred(engine):
    model = models.model([node("Shape", "x", "s"), node("Cast", "x", "d", to=onnx.TensorProto.DOUBLE)],
                         [value("x", ["N", 3])], [onnx.ValueInfoProto(name="s"), onnx.ValueInfoProto(name="d")])
    outputs = engine.session(model).get_outputs()
    assert [(o.name, o.type, o.shape) for o in outputs] == [("s", "tensor(int64)", [2]),
                                                            ("d", "tensor(double)", ["N", 3])]


def test_an_optional_has_the_shape_of_its_tensor(engine):
    kind = helper.make_optional_type_proto(helper.make_tensor_type_proto(FLOAT, ["N", 3]))
    several = helper.make_optional_type_proto(helper.make_sequence_type_proto(
        helper.make_tensor_type_proto(FLOAT, ["N", 3])))
    model = models.model([node("OptionalHasElement", "o", "y"), node("OptionalHasElement", "s", "z")],
                         [helper.make_value_info("o", kind), helper.make_value_info("s", several)],
                         [value("y", [], onnx.TensorProto.BOOL), value("z", [], onnx.TensorProto.BOOL)])
    model.opset_import[0].version = 18
    session = engine.session(model)
    assert [(i.type, i.shape) for i in session.get_inputs()] == [
        ("optional(tensor(float))", ["N", 3]), ("optional(seq(tensor(float)))", [])]
    assert session.run(None, {"o": X, "s": [X, X]}) == [True, True]
    assert session.run(None, {"s": None}) == [False, False]
    with pytest.raises(engine.errors.InvalidArgument, match="Invalid rank for input: o Got: 1 Expected: 2"):
        session.run(None, {"o": X[0]})


@pytest.mark.parametrize("element", [
    "FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "BOOL", "STRING", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16",
    "UINT32", "UINT64", "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "INT4", "UINT4"])
def test_element_types_have_names(engine, element):
    number = onnx.TensorProto.DataType.Value(element)
    four_bits = element.endswith("INT4")        # Identity of these is nothing that ONNX Runtime has
    nodes = [node("Identity", "x", "y")] if not four_bits else [node("Cast", "x", "y", to=FLOAT)]
    model = models.model(nodes, [value("x", [2], number)], [value("y", [2], FLOAT if four_bits else number)],
                         ir_version=10)
    model.opset_import[0].version = 21
    name = {"FLOAT": "float", "DOUBLE": "double"}.get(element, element.lower())
    assert engine.session(model).get_inputs()[0].type == f"tensor({name})"


# ---- initializers ----------------------------------------------------------------------------------------------------

def test_an_initializer_is_no_input(engine):
    model = models.model([node("Mul", "x w", "y")], [value("x", ["N", 3])], [value("y", ["N", 3])],
                         [models.constant("w", np.ones(3, np.float32))])
    session = engine.session(model)
    assert [i.name for i in session.get_inputs()] == ["x"]
    assert session.get_overridable_initializers() == []
    with pytest.raises(engine.errors.InvalidArgument, match="Invalid input name: w"):
        session.run(None, {"x": X, "w": np.ones(3, np.float32)})


@pytest.mark.parametrize(("bad", "text"), [
    (np.ones(3), r"Unexpected input data type. Actual: \(tensor\(double\)\) , expected: \(tensor\(float\)\)"),
    (np.ones((1, 3), np.float32), "Invalid rank for input: w Got: 2 Expected: 1"),
    (np.ones(4, np.float32), "Got invalid dimensions for input: w for the following indices\n index: 0 Got: 4 "),
], ids=["type", "rank", "size"])
def test_what_overrides_an_initializer_is_checked_like_an_input(engine, bad, text):
    session = engine.session(models.overridable())
    (argument,) = session.get_overridable_initializers()
    assert (argument.name, argument.type, argument.shape) == ("w", "tensor(float)", [3])
    with pytest.raises(engine.errors.InvalidArgument, match=text):
        session.run(None, {"x": X, "w": bad})


# ---- the model's texts -----------------------------------------------------------------------------------------------

def test_texts_that_the_model_lacks_are_empty(engine):
    meta = engine.session(models.sums()).get_modelmeta()
    assert (meta.producer_name, meta.description, meta.domain, meta.graph_description) == ("", "", "", "")
    assert meta.graph_name == "g"
    assert meta.custom_metadata_map == {}
    assert type(meta.custom_metadata_map) is dict
    assert type(meta.version) is int


@pytest.mark.parametrize(("attribute", "other"), [
    ("producer_name", "a"), ("version", 7), ("description", "b"), ("domain", "c"), ("graph_name", "d"),
    ("graph_description", "e"), ("custom_metadata_map", {"k": "v"})])
def test_they_can_be_set_and_nothing_follows(engine, attribute, other):
    session = engine.session(models.sums())
    setattr(session.get_modelmeta(), attribute, other)
    assert getattr(session.get_modelmeta(), attribute) == other
    np.testing.assert_array_equal(session.run(["z"], {"x": X, "y": X})[0], X + X)
