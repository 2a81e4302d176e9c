"""Small ONNX models for tests of sessions, each one question wide."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def model(nodes: Sequence[onnx.NodeProto], inputs: Sequence[onnx.ValueInfoProto],
          outputs: Sequence[onnx.ValueInfoProto], constants: Sequence[onnx.TensorProto] = (), ir_version: int = 8,
          **texts: object) -> onnx.ModelProto:
    """A model at opset 17, which every engine under test reads."""
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(constants))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=ir_version, **texts)


def value(name: str, shape: Sequence[int | str | None] | None, element: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element, shape)


def node(op: str, inputs: str, outputs: str, name: str = "", **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), name or f"{op.lower()}_{outputs}", **attributes)


def constant(name: str, array: object) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(array), name)


def sums(**texts: object) -> onnx.ModelProto:
    """z = x + y and w = -z, for x, y: float[N, 3]."""
    return model([node("Add", "x y", "z"), node("Neg", "z", "w")], [value("x", ["N", 3]), value("y", ["N", 3])],
                 [value("z", ["N", 3]), value("w", ["N", 3])], **texts)


def copies(element: int, shape: Sequence[int | str | None] | None = ("N",)) -> onnx.ModelProto:
    """y = x."""
    return model([node("Identity", "x", "y")], [value("x", shape, element)], [value("y", shape, element)])


def picks() -> onnx.ModelProto:
    """y = x[i] along the first axis, by a node called 'pick'."""
    return model([node("Gather", "x i", "y", "pick")], [value("x", ["N", "C"]), value("i", ["K"], INT64)],
                 [value("y", ["K", "C"])])


def overridable(ir_version: int = 8) -> onnx.ModelProto:
    """y = x * w, where w = [1, 2, 3] is an initializer and an input."""
    return model([node("Mul", "x w", "y")], [value("x", ["N", 3]), value("w", [3])], [value("y", ["N", 3])],
                 [constant("w", np.array([1, 2, 3], np.float32))], ir_version)


def unused() -> onnx.ModelProto:
    """y = -x, and an input u that nothing uses."""
    return model([node("Neg", "x", "y")], [value("x", ["N"]), value("u", ["M"])], [value("y", ["N"])])


def total() -> onnx.ModelProto:
    """A scalar: the sum of x."""
    return model([node("ReduceSum", "x", "y", keepdims=0)], [value("x", ["N", "C"])], [value("y", [])])


def softmaxes() -> onnx.ModelProto:
    """y = the softmax over rows of the softmax over columns of x."""
    return model([node("Softmax", "x", "h", axis=0), node("Softmax", "h", "y", axis=1)],
                 [value("x", ["N", "C"])], [value("y", ["N", "C"])])


def several() -> onnx.ModelProto:
    """y, z = the sums and the largest elements of the rows of x[N, 3]."""
    return model([node("ReduceSum", "x axes", "y"), node("ReduceMax", "x", "z", axes=[1])], [value("x", ["N", 3])],
                 [value("y", ["N", 1]), value("z", ["N", 1])], [constant("axes", np.array([1]))])


def chain(steps: int, width: int = 32) -> onnx.ModelProto:
    """Work that takes at least `steps` launches: as many products with one matrix, x: float[N, width]."""
    names = ["x", *(f"h{i}" for i in range(steps))]
    nodes = [node("MatMul", f"{a} w", b) for a, b in itertools.pairwise(names)]
    weights = np.random.default_rng(1).standard_normal((width, width)).astype(np.float32) / np.float32(width) ** 0.5
    return model(nodes, [value("x", ["N", width])], [value(names[-1], ["N", width])], [constant("w", weights)])
