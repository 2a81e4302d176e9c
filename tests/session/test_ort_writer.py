"""Models that onnxc writes in ONNX Runtime's own format: both engines open them, and they do what the model does."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxc
from onnxc.errors import InvalidArgument, NotImplemented
from onnxc.frontend.ort_writer import ort_format_bytes
from tests.session import models
from tests.session.models import constant, node, value

R = np.random.default_rng(11)
X = R.standard_normal((2, 3)).astype(np.float32)
IMAGE = R.standard_normal((1, 2, 6, 6)).astype(np.float32)
BOOL, INT64, STRING = TensorProto.BOOL, TensorProto.INT64, TensorProto.STRING


def layers():
    weights = [constant("w", R.standard_normal((3, 5)).astype(np.float32)), constant("b", np.ones(5, np.float32))]
    model = models.model([node("Gemm", "x w b", "h", "fc"), node("Relu", "h", "y", "act")], [value("x", ["N", 3])],
                         [value("y", ["N", 5])], weights, producer_name="maker", doc_string="what it does",
                         domain="org.example", model_version=7)
    model.metadata_props.add(key="k", value="v")
    model.graph.doc_string = "of the graph"
    return model, {"x": X}


def defaults():
    """Conv leaves out every attribute, Clip an input in the middle, Resize two."""
    weights = [constant("k", R.standard_normal((3, 2, 3, 3)).astype(np.float32)), constant("top", np.float32(0.5)),
               constant("scales", np.array([1, 1, 2, 2], np.float32))]
    nodes = [node("Conv", "x k", "c"), helper.make_node("Clip", ["c", "", "top"], ["d"]),
             helper.make_node("Resize", ["d", "", "scales"], ["y"])]
    return models.model(nodes, [value("x", [1, 2, "H", "W"])], [value("y", None)], weights), {"x": IMAGE}


def constants():
    """Every kind of Constant that has a tensor."""
    nodes = [helper.make_node("Constant", [], [name], **{f"value_{name}": v}) for name, v in (
        ("int", 2), ("ints", [1, 2, 3]), ("float", 0.5), ("floats", [1.0, 2.0, 3.0]), ("string", "s"),
        ("strings", ["a", "b"]))]
    nodes += [helper.make_node("Constant", [], ["tensor"], value=constant("", np.float32([[1], [2]]))),
              node("Cast", "ints", "f", to=1), node("Cast", "int", "g", to=1), node("Add", "x f", "h"),
              node("Mul", "h floats", "i"), node("Mul", "i float", "j"), node("Add", "j tensor", "k"),
              node("Add", "k g", "y"), node("Identity", "string", "s"), node("Identity", "strings", "t")]
    return models.model(nodes, [value("x", [2, 3])], [value("y", [2, 3]), value("s", [], STRING),
                                                      value("t", [2], STRING)]), {"x": X}


def branches():
    """A branch in a branch reads values of both graphs around it, and an initializer."""
    inner = [helper.make_graph([node(op, "a w", out)], out, [], [value(out, None)]) for op, out in (
        ("Add", "p"), ("Mul", "q"))]
    choice = helper.make_node("If", ["c"], ["t"], "inner", then_branch=inner[0], else_branch=inner[1])
    then = helper.make_graph([node("Neg", "h", "a"), choice], "then", [], [value("t", None)])
    other = helper.make_graph([node("Abs", "h", "e")], "else", [], [value("e", None)])
    outer = helper.make_node("If", ["c"], ["y"], "outer", then_branch=then, else_branch=other)
    inputs = [value("x", ["N", 3]), value("c", [], BOOL)]
    return models.model([node("Mul", "x w", "h"), outer], inputs, [value("y", None)],
                        [constant("w", np.float32([1, 2, 3]))]), {"x": X, "c": np.array(True)}


def loops():
    """A loop that adds a value from outside of it, and a scan behind it."""
    body = helper.make_graph([node("Add", "s x", "s2"), node("Identity", "c", "c2"), node("Neg", "s2", "each")], "body",
                             [value("i", [], INT64), value("c", [], BOOL), value("s", [2, 3])],
                             [value("c2", [], BOOL), value("s2", [2, 3]), value("each", [2, 3])])
    step = helper.make_graph([node("Add", "m n", "m2"), node("Identity", "m2", "row")], "step",
                             [value("m", [3]), value("n", [3])], [value("m2", [3]), value("row", [3])])
    nodes = [helper.make_node("Loop", ["n", "", "x"], ["last", "all"], "loop", body=body),
             helper.make_node("Scan", ["zero", "last"], ["sum", "rows"], "scan", body=step, num_scan_inputs=1)]
    return models.model(nodes, [value("n", [], INT64), value("x", [2, 3])],
                        [value("all", None), value("sum", [3]), value("rows", None)],
                        [constant("zero", np.zeros(3, np.float32))]), {"n": np.array(3), "x": X}


def texts_and_sequences():
    nodes = [node("Concat", "t names", "u", axis=0), node("SequenceConstruct", "x x", "s")]
    return models.model(nodes, [value("t", ["N"], STRING), value("x", ["M"])],
                        [value("u", [None], STRING), helper.make_tensor_sequence_value_info("s", 1, None)],
                        [constant("names", np.array(["a", "b"], object))]), {"t": np.array(["c"], object), "x": X[0]}


def classifier():
    """Attributes that are lists of everything, and a sequence of maps."""
    nodes = [helper.make_node("LinearClassifier", ["x"], ["label", "raw"], "linear", domain="ai.onnx.ml",
                              coefficients=[1.0, -1.0, 0.5, -0.5, 2.0, -2.0], intercepts=[0.1, -0.1],
                              classlabels_strings=["no", "yes"], post_transform="SOFTMAX"),
             helper.make_node("ZipMap", ["raw"], ["scores"], "zip", domain="ai.onnx.ml",
                              classlabels_strings=["no", "yes"])]
    scores = helper.make_value_info("scores", helper.make_sequence_type_proto(
        helper.make_map_type_proto(STRING, helper.make_tensor_type_proto(1, []))))
    model = models.model(nodes, [value("x", ["N", 3])], [value("label", ["N"], STRING), scores])
    model.opset_import.add(domain="ai.onnx.ml", version=3)
    return model, {"x": X}


def functions():
    body = [helper.make_node("Mul", ["a", "a"], ["b"]), helper.make_node("Neg", ["b"], ["c"])]
    model = models.model([helper.make_node("F", ["x"], ["h"], "f", domain="own"), node("Exp", "h", "y")],
                         [value("x", [2, 3])], [value("y", [2, 3])])
    model.opset_import.add(domain="own", version=1)
    model.functions.add().CopyFrom(helper.make_function("own", "F", ["a"], ["c"], body,
                                                        [helper.make_opsetid("", 17)]))
    return model, {"x": X}


def other_elements():
    """Weights that NumPy has no type for, and one in a field of its own instead of raw bytes."""
    weights = [numpy_helper.from_array(np.array([1, 2, 3], ml_dtypes.bfloat16), "w"),
               helper.make_tensor("v", TensorProto.FLOAT, [3], [0.5, 0.25, 2.0])]
    nodes = [node("Cast", "w", "f", to=1), node("Mul", "x f", "h"), node("Add", "h v", "y")]
    return models.model(nodes, [value("x", [2, 3])], [value("y", [2, 3])], weights), {"x": X}


MODELS = [layers, defaults, constants, branches, loops, texts_and_sequences, classifier, functions, other_elements]


def same(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        if isinstance(b, list):
            assert [list(d) for d in a] == [list(d) for d in b]
        elif b.dtype == object:
            assert a.tolist() == b.tolist()
        else:
            # Both engines, and sums of at most some twenty terms.
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def written(model, path, level="ORT_ENABLE_ALL", **entries):
    options = onnxc.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.graph_optimization_level = getattr(onnxc.GraphOptimizationLevel, level)
    for key, text in entries.items():
        options.add_session_config_entry(f"session.{key}", text)
    return onnxc.InferenceSession(model.SerializeToString(), options)


@pytest.mark.parametrize(("make", "level"), [*((make, "ORT_DISABLE_ALL") for make in MODELS),
                                             *((make, "ORT_ENABLE_ALL") for make in (layers, constants, branches))],
                         ids=lambda part: getattr(part, "__name__", part))
def test_what_is_written_does_the_same(engine, make, level, tmp_path):
    model, feed = make()
    expected = written(model, tmp_path / "m.ort", level).run(None, feed)
    assert (tmp_path / "m.ort").read_bytes()[4:8] == b"ORTM"
    session = engine.api.InferenceSession(str(tmp_path / "m.ort"), providers=["CPUExecutionProvider"])
    same(session.run(None, feed), expected)
    original = engine.session(model)
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [
        (i.name, i.type, i.shape) for i in original.get_inputs()]
    assert [o.name for o in session.get_outputs()] == [o.name for o in original.get_outputs()]


def test_the_models_texts_are_written(engine):
    model, _ = layers()
    meta = engine.session(ort_format_bytes(model)).get_modelmeta()
    assert (meta.producer_name, meta.description, meta.domain, meta.version, meta.graph_description) == (
        "maker", "what it does", "org.example", 7, "of the graph")
    assert meta.custom_metadata_map == {"k": "v"}


def test_the_entry_decides_before_the_name(tmp_path):
    model, feed = layers()
    expected = written(model, tmp_path / "m.onnx", save_model_format="ORT").run(None, feed)
    data = (tmp_path / "m.onnx").read_bytes()
    assert data[4:8] == b"ORTM"
    same(onnxc.InferenceSession(data).run(None, feed), expected)
    written(model, tmp_path / "m.ort", save_model_format="ONNX")
    onnx.checker.check_model(onnx.load(tmp_path / "m.ort", format="protobuf"))
    written(model, tmp_path / "upper.ORT")
    assert (tmp_path / "upper.ORT").read_bytes()[4:8] == b"ORTM"


def test_sparse_weights_are_written_as_they_are():
    model, feed = layers()
    sparse = helper.make_sparse_tensor(helper.make_tensor("b", 1, [2], [1.0, 3.0]),
                                       helper.make_tensor("", INT64, [2], [0, 4]), [5])
    model.graph.sparse_initializer.add().CopyFrom(sparse)
    del model.graph.initializer[1]
    expected = onnxc.InferenceSession(model.SerializeToString()).run(None, feed)
    same(onnxc.InferenceSession(ort_format_bytes(model)).run(None, feed), expected)


def test_equal_models_give_equal_bytes():
    model, _ = branches()
    assert ort_format_bytes(model) == ort_format_bytes(model)


def four_bits():
    model = models.model([node("Cast", "w", "f", to=1), node("Add", "x f", "y")], [value("x", [3])], [value("y", [3])],
                         [helper.make_tensor("w", TensorProto.INT4, [3], [1, 2, 3])], ir_version=10)
    model.opset_import[0].version = 21
    return model


def optional():
    kind = helper.make_optional_type_proto(helper.make_tensor_type_proto(1, [2]))
    return models.model([node("Identity", "x", "y")], [helper.make_value_info("x", kind)],
                        [helper.make_value_info("y", kind)])


def contrib():
    model = models.model([helper.make_node("Gelu", ["x"], ["y"], "act", domain="com.microsoft")], [value("x", [3])],
                         [value("y", [3])])
    model.opset_import.add(domain="com.microsoft", version=1)
    return model


@pytest.mark.parametrize(("make", "names"), [(four_bits, "'w' of elements INT4"), (optional, "'x' of an optional_type"),
                                             (contrib, "'act' of type com.microsoft:Gelu")])
def test_what_the_format_has_no_place_for(make, names):
    with pytest.raises(NotImplemented, match=f"{names}.*has no place for it"):
        ort_format_bytes(make())


def test_models_above_the_formats_size_are_refused(monkeypatch):
    monkeypatch.setattr("flatbuffers.Builder.MAX_BUFFER_SIZE", 1 << 17)
    model = models.chain(1, 256)
    with pytest.raises(InvalidArgument, match="below 2 GiB"):
        ort_format_bytes(model)
