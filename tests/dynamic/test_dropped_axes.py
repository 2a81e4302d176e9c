"""An axis that a program drops, as exporters write it: `If size == 1: Squeeze, else: as it is`."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

import onnxc
from onnxc.errors import InvalidArgument
from tests.session import models


def dropping(then: str = "Squeeze", otherwise: str = "Identity"):
    """y = x without its last axis if that has one element."""
    one, last = models.constant("one", np.array(1)), models.constant("last", np.array([-1]))

    def branch(op, out):
        inputs = ["x", "last"] if op in ("Squeeze", "Unsqueeze") else ["x"]
        return helper.make_graph([helper.make_node(op, inputs, [out])], out, [], [models.value(out, None)])

    nodes = [models.node("Shape", "x", "s"), models.node("Gather", "s last", "d"), models.node("Equal", "d one", "c"),
             helper.make_node("If", ["c"], ["y"], "drop", then_branch=branch(then, "t"),
                              else_branch=branch(otherwise, "e")),
             models.node("Relu", "y", "z")]
    return models.model(nodes, [models.value("x", ["N", "M"])], [models.value("z", None)], [one, last])


def test_the_size_is_demanded_and_the_axis_dropped():
    session = onnxc.InferenceSession(dropping().SerializeToString())
    x = np.array([[-1], [2], [3]], np.float32)
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], [0, 2, 3])
    with pytest.raises(InvalidArgument, match="drop.*an axis is dropped whose size has to be 1"):
        session.run(None, {"x": np.ones((3, 2), np.float32)})


def test_other_branches_of_unlike_ranks_are_chosen_by_the_host():
    session = onnxc.InferenceSession(dropping("Unsqueeze", "Identity").SerializeToString())
    assert session.report()["host_ops"] == ["If (drop)"]
    np.testing.assert_array_equal(session.run(None, {"x": np.array([[-1], [2]], np.float32)})[0], [[[0]], [[2]]])
    np.testing.assert_array_equal(session.run(None, {"x": np.ones((1, 2), np.float32)})[0], np.ones((1, 2)))


def test_sizes_that_decide_a_rank_behind_a_step_of_the_host():
    model = dropping("Unsqueeze", "Identity")
    graph = model.graph
    graph.node.extend([models.node("Mul", "sizes one", "to"), models.node("Reshape", "z to", "w")])
    graph.input.append(models.value("sizes", ["K"], models.INT64))
    del graph.output[:]
    graph.output.append(models.value("w", None))
    session = onnxc.InferenceSession(model.SerializeToString())
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    for sizes in ((2, 6), (3, 2, 2), (12,), (1, 12, 1, 1)):
        (w,) = session.run(None, {"x": x, "sizes": np.array(sizes)})
        np.testing.assert_array_equal(w, x.reshape(sizes))
