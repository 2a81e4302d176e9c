"""Quantised nets against ONNX Runtime without its optimisations, which dequantises, computes in floats and quantises,
and integer ops against int64: random shapes, scales, zero points, and layers between that move bytes."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxc

ort = pytest.importorskip("onnxruntime")
KIND = {np.dtype(np.uint8): TensorProto.UINT8, np.dtype(np.int8): TensorProto.INT8,
        np.dtype(np.float32): TensorProto.FLOAT}


@dataclasses.dataclass
class Net:
    """A graph being written. Values are names; `channels` says how many channels each has."""

    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = dataclasses.field(default_factory=list)
    constants: list[onnx.TensorProto] = dataclasses.field(default_factory=list)
    channels: dict[str, int] = dataclasses.field(default_factory=dict)

    def constant(self, array: object) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(self, op: str, *inputs: str, **attrs: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attrs))
        return name

    def parameters(self, scale: float = 0.0, kind: type = np.uint8) -> tuple[str, str]:
        zero = {np.uint8: [0, 128, 131], np.int8: [0, -7]}[kind]
        scale = scale or float(self.rng.uniform(0.02, 0.05))
        return self.constant(np.float32(scale)), self.constant(kind(self.rng.choice(zero)))

    def through_bytes(self, x: str, parameters: tuple[str, str] | None = None) -> str:
        parameters = parameters or self.parameters()
        out = self.node("DequantizeLinear", self.node("QuantizeLinear", x, *parameters), *parameters)
        self.channels[out] = self.channels[x]
        return out

    def weights(self, *shape: int, axis: int = 0) -> str:
        """Dequantised bytes with one scale, or one along `axis`."""
        q = self.constant(self.rng.integers(-127, 128, shape, np.int8))
        if self.rng.integers(2):
            return self.node("DequantizeLinear", q, self.constant(np.float32(0.01)), self.constant(np.int8(0)))
        n = shape[axis]
        scales = self.constant(self.rng.uniform(0.003, 0.01, n).astype(np.float32))
        return self.node("DequantizeLinear", q, scales, self.constant(np.zeros(n, np.int8)), axis=axis)

    def conv(self, x: str) -> str:
        c, outs, size = self.channels[x], int(self.rng.choice([5, 16, 24])), int(self.rng.choice([1, 3]))
        bias = self.constant(self.rng.standard_normal(outs).astype(np.float32))
        y = self.node("Conv", x, self.weights(outs, c, size, size), bias, pads=[size // 2] * 4,
                      kernel_shape=[size, size])
        self.channels[y] = outs
        return y

    def add(self, x: str) -> str:
        left, right = self.conv(x), self.conv(x)
        while self.channels[left] != self.channels[right]:
            right = self.conv(x)
        y = self.node("Add", self.through_bytes(left), self.through_bytes(right))
        self.channels[y] = self.channels[left]
        return self.relu(y)

    def relu(self, x: str) -> str:
        y = self.node("Relu", x)
        self.channels[y] = self.channels[x]
        return y

    def pool(self, x: str) -> str:
        y = self.node("MaxPool", x, kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4)
        self.channels[y] = self.channels[x]
        if self.rng.integers(2):        # by other numbers than x was
            return self.through_bytes(y)
        return self.conv(y)

    def joined(self, x: str) -> str:
        parameters = self.parameters()
        parts = [self.through_bytes(self.conv(x), parameters if i else None) for i in range(2)]
        y = self.node("Concat", *parts, axis=1)
        self.channels[y] = sum(self.channels[p] for p in parts)
        return y

    def model(self, inputs: dict[str, np.ndarray], outputs: list[str]) -> onnx.ModelProto:
        infos = [helper.make_tensor_value_info(k, KIND[v.dtype], ["N", *v.shape[1:]]) for k, v in inputs.items()]
        graph = helper.make_graph(self.nodes, "g", infos, [onnx.ValueInfoProto(name=o) for o in outputs],
                                  self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        return onnx.shape_inference.infer_shapes(model)


def both(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    text = model.SerializeToString()
    theirs = ort.InferenceSession(text, options, providers=["CPUExecutionProvider"]).run(None, feeds)
    return onnxc.InferenceSession(text).run(None, feeds), theirs


def check_steps(ours: np.ndarray, theirs: np.ndarray) -> None:
    """A sum that lies between two bytes may become either, which changes what is computed from it by a little."""
    steps = np.abs(ours.astype(np.int64) - theirs.astype(np.int64))
    assert steps.max() <= 2 and (steps > 0).mean() < 0.02


@pytest.mark.parametrize("seed", range(6))
def test_layers_between_quantisations(seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = Net(rng)
    x = rng.standard_normal((2, 3, 9, 7)).astype(np.float32) * 2
    net.channels["x"] = 3
    v = net.through_bytes("x")
    for layer in rng.choice(["conv", "add", "pool", "joined"], 3):
        v = net.through_bytes(getattr(net, layer)(v))
    pooled = net.node("GlobalAveragePool", v)
    last = net.node("QuantizeLinear", v, *net.parameters(0.08, np.int8))
    flat = net.node("Flatten", pooled)
    net.channels[flat] = net.channels[v]
    product = net.node("MatMul", net.through_bytes(flat), net.weights(net.channels[v], 10, axis=1))
    end = net.node("QuantizeLinear", product, *net.parameters(0.05))
    ours, theirs = both(net.model({"x": x}, [last, end]), {"x": x})
    for a, b in zip(ours, theirs, strict=True):
        check_steps(a, b)


def bytes_of(rng: np.random.Generator, kind: type, *shape: int) -> np.ndarray:
    limits = np.iinfo(kind)
    return rng.integers(limits.min, limits.max + 1, shape, kind)


@pytest.mark.parametrize("zeros", ["none", "left", "right", "both", "columns"])
@pytest.mark.parametrize(("left", "right"), [(np.uint8, np.int8), (np.uint8, np.uint8), (np.int8, np.int8)])
@pytest.mark.parametrize("fixed", [True, False], ids=["constant", "given"])
def test_integer_products(zeros: str, left: type, right: type, fixed: bool) -> None:
    """MatMulInteger, whose right operand is a constant or comes with the run, of a depth that only a run tells."""
    rng = np.random.default_rng(7)
    a, b = bytes_of(rng, left, 5, 37), bytes_of(rng, right, 37, 21)
    y, z = left(9), right(100)
    net = Net(rng)
    parameters = {"none": [], "left": [net.constant(y)], "right": ["", net.constant(z)],
                  "both": [net.constant(y), net.constant(z)],
                  "columns": [net.constant(y), net.constant(np.arange(21).astype(right))]}[zeros]
    feeds = {"a": a} if fixed else {"a": a, "b": b}
    out = net.node("MatMulInteger", "a", net.constant(b) if fixed else "b", *parameters)
    model = net.model(feeds, [out])
    if not fixed:
        for value in model.graph.input:
            for i, d in enumerate(value.type.tensor_type.shape.dim):
                d.dim_param = f"{value.name}{i}"
    (ours,) = onnxc.InferenceSession(model.SerializeToString()).run(None, feeds)
    less = [y if zeros in ("left", "both", "columns") else 0,
            np.arange(21) if zeros == "columns" else z if zeros in ("right", "both") else 0]
    np.testing.assert_array_equal(ours, (a.astype(np.int64) - less[0]) @ (b.astype(np.int64) - less[1]))


@pytest.mark.parametrize("group", [1, 2])
def test_convolutions_of_integers(group: int) -> None:
    """ConvInteger and QLinearConv, padded, with zero points, against ONNX Runtime."""
    rng = np.random.default_rng(3)
    x, w = bytes_of(rng, np.uint8, 2, 6, 8, 9), bytes_of(rng, np.int8, 10, 6 // group, 3, 3)
    net = Net(rng)
    attrs = {"group": group, "pads": [1, 0, 1, 2], "strides": [1, 2], "kernel_shape": [3, 3]}
    zero, weights = net.constant(np.uint8(77)), net.constant(w)
    total = net.node("ConvInteger", "x", weights, zero, **attrs)
    scales = net.constant(rng.uniform(0.001, 0.003, 10).astype(np.float32))
    bias = net.constant(rng.integers(-1000, 1000, 10, np.int32))
    narrow = net.node("QLinearConv", "x", net.constant(np.float32(0.05)), zero, weights, scales,
                      net.constant(np.zeros(10, np.int8)), net.constant(np.float32(0.04)),
                      net.constant(np.uint8(128)), bias, **attrs)
    ours, theirs = both(net.model({"x": x}, [total, narrow]), {"x": x})
    np.testing.assert_array_equal(ours[0], theirs[0])
    check_steps(ours[1], theirs[1])


@pytest.mark.parametrize("kind", [np.uint8, np.int8])
def test_quantised_products(kind: type) -> None:
    """QLinearMatMul, against ONNX Runtime."""
    rng = np.random.default_rng(4)
    a, b = bytes_of(rng, kind, 3, 5, 33), bytes_of(rng, kind, 33, 12)
    net = Net(rng)
    scale = net.constant(np.float32(0.02))
    zero = net.constant(kind(3))
    out = net.node("QLinearMatMul", "a", scale, zero, net.constant(b), net.constant(np.float32(0.01)), zero,
                   net.constant(np.float32(0.5)), zero)
    ours, theirs = both(net.model({"a": a}, [out]), {"a": a})
    check_steps(ours[0], theirs[0])


@pytest.mark.parametrize(("width", "factor"), [(1, 1), (16, 1), (50, 1), (16, 0)])
def test_activations_quantised_as_they_come(width: int, factor: int) -> None:
    """DynamicQuantizeLinear, MatMulInteger and the scales behind: what dynamic quantisation exports. Zeros are
    quantised by 1."""
    rng = np.random.default_rng(width)
    x = rng.standard_normal((7, width)).astype(np.float32) * np.float32(factor)
    net = Net(rng)
    net.nodes.append(helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]))
    total = net.node("MatMulInteger", "q", net.constant(bytes_of(rng, np.int8, width, 20)), "z",
                     net.constant(np.int8(0)))
    scaled = net.node("Mul", net.node("Cast", total, to=TensorProto.FLOAT),
                      net.node("Mul", "s", net.constant(np.float32(0.02))))
    ours, theirs = both(net.model({"x": x}, ["q", "s", "z", scaled]), {"x": x})
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-6)
    np.testing.assert_array_equal(ours[2], theirs[2])
    np.testing.assert_allclose(ours[3], theirs[3], rtol=1e-6, atol=1e-6)


def test_what_cannot_be_a_byte_saturates() -> None:
    x = np.array([[-np.inf, -1e30, -3.5, -0.5, 0.5, 1.5, 2.5, 1e30, np.inf]], np.float32)
    net = Net(np.random.default_rng(0))
    one = net.constant(np.float32(1))
    outs = [net.node("QuantizeLinear", "x", one, net.constant(kind(zero)))
            for kind, zero in ((np.uint8, 3), (np.int8, -2), (np.uint8, 0))]
    ours, theirs = both(net.model({"x": x}, outs), {"x": x})
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)
