"""What stands between two convolutions costs no reordering: channels stay last through it, and nothing is copied."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto

import onnxc
from onnxc.driver import CompileOptions, compile_model
from onnxc.ir.printer import print_module
from tests.models.nets import Graph

C = 56


def _layer_norm(g: Graph, x: str) -> str:
    last = g.op("Transpose", x, perm=[0, 2, 3, 1])
    return g.op("Transpose", g.op("LayerNormalization", last, g.weight(C), g.weight(C)), perm=[0, 3, 1, 2])


def _group_norm(g: Graph, x: str) -> str:
    """As torch's exporters write it, with SiLU behind."""
    ones, zeros = g.init(np.ones(4, np.float32)), g.init(np.zeros(4, np.float32))
    view = g.op("Reshape", x, g.ints(0, 4, -1))
    normal = g.op("Reshape", g.op("InstanceNormalization", view, ones, zeros), g.op("Shape", x))
    y = g.op("Add", g.op("Mul", normal, g.weight(C, 1, 1)), g.weight(C, 1, 1))
    return g.op("Mul", y, g.op("Sigmoid", y))


def _resize(mode: str) -> Callable[[Graph, str], str]:
    return lambda g, x: g.op("Resize", x, "", g.init(np.array([1, 1, 2, 2], np.float32)), mode=mode)


def _branches(g: Graph, x: str) -> str:
    other = g.op("Relu", g.op("Conv", x, g.weight(C, C, 3, 3, fan=9 * C), pads=[1] * 4))
    return g.op("Slice", g.op("Concat", x, other, axis=1), g.ints(C // 2), g.ints(C // 2 + C), g.ints(1))


# Name -> what stands between, and how many kernels it may take beside the two convolutions.
BETWEEN: dict[str, tuple[Callable[[Graph, str], str], int]] = {
    "depthwise": (lambda g, x: g.op("Conv", x, g.weight(C, 1, 3, 3, fan=9), group=C, pads=[1] * 4), 1),
    "pad": (lambda g, x: g.op("Pad", x, g.ints(0, 0, 1, 2, 0, 0, 3, 0)), 0),
    "reflected pad": (lambda g, x: g.op("Pad", x, g.ints(0, 0, 1, 2, 0, 0, 3, 1), mode="reflect"), 1),
    "batch norm": (lambda g, x: g.op("BatchNormalization", x, *(g.init(np.full(C, v, np.float32))
                                                                for v in (2, 1, 0.5, 4))), 0),
    "instance norm": (lambda g, x: g.op("InstanceNormalization", x, g.weight(C), g.weight(C)), 1),
    "layer norm": (_layer_norm, 1),
    "group norm": (_group_norm, 6),
    "concat": (_branches, 3),
    "nearest": (_resize("nearest"), 2),
    "linear": (_resize("linear"), 2),
    "max pool": (lambda g, x: g.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4), 1),
    "average pool": (lambda g, x: g.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]), 1),
    "gate": (lambda g, x: g.op("Mul", x, g.op("Sigmoid", g.op("GlobalAveragePool", x))), 3),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_channels_stay_last(name: str) -> None:
    g, (between, kernels) = Graph(5), BETWEEN[name]
    first = g.op("Relu", g.op("Conv", "x", g.weight(C, 8, 3, 3, fan=72), pads=[1] * 4))
    y = g.op("Conv", between(g, first), g.weight(16, C, 3, 3, fan=9 * C), pads=[1] * 4)
    data = g.model([("x", TensorProto.FLOAT, ["N", 8, 20, 22])], [y]).SerializeToString()
    session = onnxc.InferenceSession(data)
    reference = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    for n in (1, 3):
        x = np.random.default_rng(n).standard_normal((n, 8, 20, 22)).astype(np.float32)
        np.testing.assert_allclose(session.run(None, {"x": x})[0], reference.run(None, {"x": x})[0], atol=2e-5)
    names = [k["name"] for k in session.report()["kernels"]]
    assert len(names) <= 2 + kernels, names
    assert not [n for n in names if n.endswith(("_copy", "_transpose"))]
    assert f"f32[N, {C}, " not in _stored(data)


def _stored(data: bytes) -> str:
    """The module when it is known which values are in memory, without what kernels compute in between."""
    seen: dict[str, str] = {}
    compile_model(data, CompileOptions(), [lambda stage, module: seen.setdefault(stage, print_module(module))])
    return "\n".join(line for line in seen["fuse"].split("\n") if line.startswith("  %"))
