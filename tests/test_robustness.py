"""What is wrong with a model or a feed is a typed error that names the place, in a process that goes on.

Every case is followed by a run of a session that was opened before it.
"""

from __future__ import annotations

import random

import numpy as np
import onnx
import pytest
from onnx import helper

import onnxc
from onnxc.errors import Fail, InvalidArgument, InvalidGraph, InvalidProtobuf, NoSuchFile, OnnxcError, UnsupportedModel
from tests.session import models

X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture(scope="module")
def healthy():
    return onnxc.InferenceSession(models.sums().SerializeToString())


@pytest.fixture(autouse=True)
def survives(healthy):
    yield
    np.testing.assert_array_equal(healthy.run(["z"], {"x": X, "y": X})[0], X + X)


# ---- files -----------------------------------------------------------------------------------------------------------

def weighted() -> onnx.ModelProto:
    weights = models.constant("w", np.arange(3, dtype=np.float32))
    return models.model([models.node("Add", "x w", "y", "plus")], [models.value("x", ["N", 3])],
                        [models.value("y", ["N", 3])], [weights])


def test_a_file_cut_anywhere_is_no_crash(tmp_path):
    whole = weighted().SerializeToString()
    path = tmp_path / "cut.onnx"
    opened = 0
    for size in range(0, len(whole), 3):
        path.write_bytes(whole[:size])
        try:
            onnxc.InferenceSession(path)
            opened += 1         # a cut between two fields leaves a smaller message, which may be a model
        except OnnxcError:
            pass
    assert opened <= 3


def test_random_bytes_are_no_model():
    generator = random.Random(7)
    for size in [0, 1, 10, 100, 1000, 10_000]:
        for _ in range(5):
            with pytest.raises((InvalidProtobuf, InvalidArgument, Fail)):
                onnxc.InferenceSession(generator.randbytes(size))


def test_flipped_bytes_are_typed_errors_or_models():
    whole = weighted().SerializeToString()
    generator = random.Random(3)
    refused = 0
    for _ in range(60):
        changed = bytearray(whole)
        for _ in range(generator.randint(1, 4)):
            changed[generator.randrange(len(changed))] = generator.randrange(256)
        try:
            onnxc.InferenceSession(bytes(changed))
        except OnnxcError as error:
            # A RuntimeException would be a defect of the compiler that a broken model uncovered.
            assert type(error).__name__ != "RuntimeException", error
            refused += 1
    assert refused > 10


@pytest.mark.parametrize("name", ["nope.onnx", "no/such/folder.onnx", "nope.onnxc", "a\0b"])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(NoSuchFile, match="File doesn't exist"):
        onnxc.InferenceSession(str(tmp_path / name))


def test_a_folder_is_no_model(tmp_path):
    with pytest.raises(InvalidProtobuf, match="directory"):
        onnxc.InferenceSession(tmp_path)


# ---- external data ---------------------------------------------------------------------------------------------------

def with_external(location: str) -> bytes:
    model = weighted()
    (weights,) = model.graph.initializer
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    entry = weights.external_data.add()
    entry.key, entry.value = "location", location
    return model.SerializeToString()


def test_external_data_is_read_from_beside_the_model_or_a_named_folder(tmp_path):
    (tmp_path / "w.bin").write_bytes(np.arange(3, dtype=np.float32).tobytes())
    (tmp_path / "m.onnx").write_bytes(with_external("w.bin"))
    options = onnxc.SessionOptions()
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(tmp_path))
    for session in (onnxc.InferenceSession(tmp_path / "m.onnx"),
                    onnxc.InferenceSession(with_external("w.bin"), options)):
        np.testing.assert_array_equal(session.run(None, {"x": X})[0], X + [0, 1, 2])


@pytest.mark.parametrize(("location", "says"), [("w.bin", "does not exist|cannot be opened|missing"),
                                                ("../secret.bin", "escapes"), ("/etc/hostname", "escapes")])
def test_external_data_that_cannot_be_had_names_the_initializer(tmp_path, location, says):
    (tmp_path / "secret.bin").write_bytes(bytes(12))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "m.onnx").write_bytes(with_external(location))
    with pytest.raises(Fail, match=says) as refused:
        onnxc.InferenceSession(folder / "m.onnx")
    assert "w" in refused.value.message


def test_external_data_too_short(tmp_path):
    (tmp_path / "w.bin").write_bytes(bytes(11))
    (tmp_path / "m.onnx").write_bytes(with_external("w.bin"))
    with pytest.raises(Fail, match="w"):
        onnxc.InferenceSession(tmp_path / "m.onnx")


def test_bytes_have_no_folder():
    with pytest.raises(Fail, match="given as bytes"):
        onnxc.InferenceSession(with_external("w.bin"))


# ---- graphs ----------------------------------------------------------------------------------------------------------

def one(op: str, element: int = models.FLOAT, domain: str = "", **attributes: object) -> onnx.ModelProto:
    node = helper.make_node(op, ["x"], ["y"], name="the_node", domain=domain, **attributes)
    return models.model([node], [models.value("x", ["N"], element)], [models.value("y", ["N"], element)])


@pytest.mark.parametrize(("model", "error", "says"), [
    (one("NoSuchOp"), InvalidGraph, "NoSuchOp"),
    (one("Relu", models.INT64 + 1), InvalidGraph, "the_node"),
    (one("Relu", no_such_attribute=3), InvalidGraph, "no_such_attribute"),
    (one("Op", domain="my.domain"), InvalidGraph, "my.domain"),
], ids=["unknown op", "type", "attribute", "domain"])
def test_a_broken_graph_names_the_node(model, error, says):
    with pytest.raises(error, match=says):
        onnxc.InferenceSession(model.SerializeToString())


def test_an_op_without_a_lowering_is_listed_with_its_node():
    model = one("Op", domain="my.domain")
    model.opset_import.append(helper.make_opsetid("my.domain", 1))
    with pytest.raises((UnsupportedModel, Fail), match="Op"):
        onnxc.InferenceSession(model.SerializeToString())


def test_nodes_in_a_circle_and_inputs_from_nowhere():
    circle = models.model([models.node("Add", "x b", "a"), models.node("Neg", "a", "b")], [models.value("x", ["N"])],
                          [models.value("a", ["N"])])
    with pytest.raises(OnnxcError):
        onnxc.InferenceSession(circle.SerializeToString())
    ghost = models.model([models.node("Add", "x ghost", "y")], [models.value("x", ["N"])], [models.value("y", ["N"])])
    with pytest.raises(InvalidArgument, match="ghost"):
        onnxc.InferenceSession(ghost.SerializeToString())


def test_shapes_that_contradict_each_other():
    model = models.model([models.node("Add", "x y", "z", "plus")], [models.value("x", [2]), models.value("y", [3])],
                         [models.value("z", [None])])
    with pytest.raises(OnnxcError, match="plus"):
        onnxc.InferenceSession(model.SerializeToString())


# ---- feeds that differ from what was compiled ------------------------------------------------------------------------

@pytest.mark.parametrize(("y", "says"), [
    (X.astype(np.int64), "input: y"), (X[0], "input: y"), (X[:, :2], "input: y"), (np.tile(X, (3, 1)), "input 'y'"),
    (X.tolist()[0], "input: y"), ("text", "input 'y'"), (3.0, "input 'y'"), ([[1], [2, 3]], "input 'y'"),
], ids=["type", "rank", "size", "other input's size", "list's rank", "text", "number", "ragged"])
def test_a_wrong_feed_names_the_input(healthy, y, says):
    with pytest.raises((InvalidArgument, RuntimeError), match=says):
        healthy.run(None, {"x": X, "y": y})


def test_sizes_that_do_not_broadcast_are_an_error_of_the_run():
    model = models.model([models.node("Add", "x y", "z", "plus")], [models.value("x", ["N"]), models.value("y", ["M"])],
                         [models.value("z", [None])])
    session = onnxc.InferenceSession(model.SerializeToString())
    with pytest.raises(InvalidArgument, match=r"Name:'plus'.*N = 2, M = 3|Name:'plus'.*M = 3, N = 2"):
        session.run(None, {"x": X[:, 0], "y": X[0]})
    (z,) = session.run(None, {"x": X[0], "y": X[0, :1]})
    np.testing.assert_array_equal(z, X[0] + X[0, :1])


@pytest.mark.parametrize("shape", [(0, 3), (0, 0), (3, 0)])
def test_nothing_goes_through_every_kind_of_step(shape):
    model = models.model(
        [models.node("Softmax", "x", "s", axis=1), models.node("Transpose", "s", "t", perm=[1, 0]),
         models.node("MatMul", "s t", "m"), models.node("ReduceSum", "x", "r", keepdims=0)],
        [models.value("x", ["N", "C"])], [models.value("m", ["N", "N"]), models.value("r", [])])
    m, r = onnxc.InferenceSession(model.SerializeToString()).run(None, {"x": np.zeros(shape, np.float32)})
    np.testing.assert_array_equal(m, np.zeros((shape[0], shape[0]), np.float32))
    assert (r.shape, float(r)) == ((), 0.0)
