"""The backend interface: every way to call it, and a share of ONNX's own tests with the runner that comes with them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

import onnxc.backend
from onnxc.errors import InvalidArgument, UnsupportedModel
from tests.backend.cases import expected_failures, failure, items
from tests.session import models

X = np.arange(6, dtype=np.float32).reshape(2, 3)
SHARE = 13      # a prime: one case in so many, of every family


@pytest.mark.slow
def test_a_share_of_onnxs_own_tests():
    """`python -m tests.backend.cases` runs all of them."""
    known, names = expected_failures(), sorted(items())
    assert len(names) > 1900
    assert known.keys() <= set(names)
    wrong = {}
    for name in names[::SHARE]:
        found = failure(name)
        if (found is not None) != (name in known):
            wrong[name] = found or "passes, and is listed as a failure"
    assert not wrong


def test_devices():
    assert onnxc.backend.supports_device("CPU")
    assert onnxc.backend.supports_device("CPU:0")
    assert not onnxc.backend.supports_device("CUDA")
    assert onnxc.backend.is_compatible(models.sums())
    with pytest.raises(RuntimeError, match="Incompatible device"):
        onnxc.backend.prepare(models.sums(), "CUDA")


@pytest.mark.parametrize("form", ["message", "bytes", "path", "session", "prepared"])
def test_everything_that_can_be_prepared(form, tmp_path):
    model = models.sums()
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    given = {"message": model, "bytes": model.SerializeToString(), "path": str(path),
             "session": onnxc.InferenceSession(path), "prepared": onnxc.backend.prepare(model)}[form]
    z, w = onnxc.backend.prepare(given).run([X, X])
    np.testing.assert_array_equal(z, X + X)
    np.testing.assert_array_equal(w, -X - X)


def test_one_array_for_one_input():
    (y,) = onnxc.backend.run_model(models.copies(models.FLOAT), X[0])
    np.testing.assert_array_equal(y, X[0])


def test_feeds_that_do_not_fit():
    rep = onnxc.backend.prepare(models.sums())
    with pytest.raises(RuntimeError, match="Model expect 2 inputs"):
        rep.run([X, X, X])
    with pytest.raises(RuntimeError, match="Model expect 2 inputs"):
        rep.run({"x": X, "y": X})


def test_options_by_name():
    rep = onnxc.backend.prepare(models.sums(), intra_op_num_threads=1, no_such_option=2)
    assert rep.session.get_session_options().intra_op_num_threads == 1
    with pytest.raises(InvalidArgument, match="not permitted"):
        onnxc.backend.prepare(models.sums(), enable_profiling=True)


def test_a_message_is_checked():
    model = models.sums()
    model.graph.node[0].input.append("z")
    with pytest.raises(onnx.checker.ValidationError):
        onnxc.backend.prepare(model)


def test_sizes_as_inputs_are_compiled_in():
    model = models.model([models.node("Unsqueeze", "x axes", "y")],
                         [models.value("x", ["N", 3]), models.value("axes", [1], models.INT64)],
                         [models.value("y", (None, None, None))])
    rep = onnxc.backend.prepare(model)
    for axis in (0, 1, 2, 0):
        (y,) = rep.run([X, np.array([axis])])
        np.testing.assert_array_equal(y, np.expand_dims(X, axis))


def test_what_no_constant_helps_is_refused_at_once():
    graph = helper.make_node("Gradient", ["x"], ["y"], domain="ai.onnx.preview.training", xs=["x"], y="x")
    model = models.model([graph], [models.value("x", ["N", 3, 3])], [models.value("y", ["N", 3, 3])])
    model.opset_import.append(helper.make_opsetid("ai.onnx.preview.training", 1))
    with pytest.raises(UnsupportedModel):
        onnxc.backend.prepare(model)


# ---- single nodes ----------------------------------------------------------------------------------------------------

def test_a_node_by_itself():
    node = helper.make_node("Add", ["a", "b"], ["c"])
    (c,) = onnxc.backend.run_node(node, [X, X])
    np.testing.assert_array_equal(c, X + X)
    (c,) = onnxc.backend.run_node(node, {"a": X, "b": X[0]}, outputs_info=[(np.float32, (2, 3))])
    np.testing.assert_array_equal(c, X + X[0])
    with pytest.raises(RuntimeError, match="2 inputs; got 1"):
        onnxc.backend.run_node(node, [X])


def test_a_node_of_an_older_version():
    node = helper.make_node("Clip", ["x"], ["y"], min=1.0, max=3.0)
    (y,) = onnxc.backend.run_node(node, [X], opset_version=6)
    np.testing.assert_array_equal(y, np.clip(X, 1, 3))


def test_a_node_with_one_input_twice_and_one_left_out():
    (y,) = onnxc.backend.run_node(helper.make_node("Mul", ["x", "x"], ["y"]), {"x": X})
    np.testing.assert_array_equal(y, X * X)
    (y,) = onnxc.backend.run_node(helper.make_node("Clip", ["x", "", "high"], ["y"]), [X, np.float32(2)])
    np.testing.assert_array_equal(y, np.minimum(X, 2))
