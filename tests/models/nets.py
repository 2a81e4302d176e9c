"""Small networks of the architectures that people export, with seeded weights: real structure, seconds to run.

Each function gives a model and feeds for two sizes of its dynamic dims. The transformer is written as the TorchScript
exporter writes one, shapes computed from Shape, Gather and Concat, attention out of MatMul, Where and Softmax.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh

Feeds = dict[str, np.ndarray]
Net = tuple[onnx.ModelProto, list[Feeds]]


class Graph:
    """Collects nodes and initializers; every op gives the name of its first output."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.inits: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(seed)

    def op(self, kind: str, *inputs: str, **attrs: object) -> str:
        out = f"v{len(self.nodes)}"
        self.nodes.append(h.make_node(kind, list(inputs), [out], name=f"{kind}_{len(self.nodes)}", **attrs))
        return out

    def init(self, array: np.ndarray) -> str:
        self.inits.append(nh.from_array(array, f"w{len(self.inits)}"))
        return self.inits[-1].name

    def weight(self, *shape: int, fan: int | None = None) -> str:
        std = 1 / np.sqrt(fan or shape[-1])
        return self.init((self.random.standard_normal(shape) * std).astype(np.float32))

    def ints(self, *values: int) -> str:
        return self.init(np.array(values, np.int64))

    def model(self, inputs: list[tuple[str, int, list[int | str]]], outputs: list[str],
              opset: int = 18) -> onnx.ModelProto:
        graph = h.make_graph(self.nodes, "net", [h.make_tensor_value_info(n, t, s) for n, t, s in inputs],
                             [h.make_tensor_value_info(o, T.FLOAT, None) for o in outputs], self.inits)
        return h.make_model(graph, opset_imports=[h.make_opsetid("", opset)], ir_version=9)


def residual_cnn() -> Net:
    """Convolutions (3x3, strided, 1x1, depthwise, grouped, dilated), batch norms, residuals, pools, a classifier."""
    g = Graph(1)

    def conv(x: str, i: int, o: int, k: int, bn: bool = True, **attrs: object) -> str:
        group = int(attrs.get("group", 1))  # type: ignore[call-overload]
        y = g.op("Conv", x, g.weight(o, i // group, k, k, fan=i // group * k * k), kernel_shape=[k, k], **attrs)
        if not bn:
            return y
        scale, bias, mean = (g.init(g.random.uniform(0.5, 1.5, o).astype(np.float32)) for _ in range(3))
        return g.op("BatchNormalization", y, scale, bias, mean, g.init(g.random.uniform(0.5, 2, o).astype(np.float32)))

    x = g.op("Relu", conv("image", 3, 16, 7, strides=[2, 2], pads=[3, 3, 3, 3]))
    x = g.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    y = g.op("Relu", conv(x, 16, 16, 3, pads=[1, 1, 1, 1]))
    x = g.op("Relu", g.op("Add", conv(y, 16, 16, 3, pads=[1, 1, 1, 1]), x))
    y = g.op("Clip", conv(x, 16, 16, 3, group=16, pads=[1, 1, 1, 1]), g.init(np.float32(0)), g.init(np.float32(6)))
    y = conv(y, 16, 40, 1, strides=[2, 2])
    y = g.op("Add", y, conv(x, 16, 40, 3, group=2, strides=[2, 2], dilations=[2, 2], pads=[2, 2, 2, 2]))
    gate = g.op("Sigmoid", conv(g.op("GlobalAveragePool", y), 40, 40, 1, bn=False))
    y = g.op("AveragePool", g.op("Mul", y, gate), kernel_shape=[2, 2], strides=[1, 1], pads=[0, 0, 1, 1], ceil_mode=1)
    y = g.op("Flatten", g.op("ReduceMean", y, g.ints(2, 3), keepdims=1))
    g.op("Gemm", y, g.weight(10, 40), g.weight(10), transB=1)
    model = g.model([("image", T.FLOAT, ["batch", 3, 37, 35])], [g.nodes[-1].output[0]])
    return model, [{"image": g.random.standard_normal((n, 3, 37, 35)).astype(np.float32)} for n in (1, 3)]


def encoder() -> Net:
    """Two layers of a text encoder with padding mask, dynamic batch and sequence length."""
    g, heads, width = Graph(2), 4, 32

    def linear(x: str, i: int, o: int) -> str:
        return g.op("Add", g.op("MatMul", x, g.weight(i, o, fan=i)), g.weight(o))

    def norm(x: str) -> str:
        return g.op("LayerNormalization", x, g.init(np.ones(width, np.float32)), g.weight(width), axis=-1, epsilon=1e-5)

    def split(x: str) -> str:
        shape = g.op("Shape", x)
        sizes = [g.op("Unsqueeze", g.op("Gather", shape, g.init(np.array(i, np.int64)), axis=0), g.ints(0)) for i in
        (0, 1)]
        x = g.op("Reshape", x, g.op("Concat", *sizes, g.ints(heads), g.ints(width // heads), axis=0))
        return g.op("Transpose", x, perm=[0, 2, 1, 3])

    def attention(x: str, mask: str) -> str:
        q, k, v = (split(linear(x, width, width)) for _ in range(3))
        scores = g.op("MatMul", q, g.op("Transpose", k, perm=[0, 1, 3, 2]))
        scores = g.op("Div", scores, g.init(np.float32(np.sqrt(width // heads))))
        scores = g.op("Where", mask, scores, g.init(np.float32(-np.inf)))
        p = g.op("Softmax", scores, axis=-1)
        p = g.op("Where", g.op("IsNaN", p), g.init(np.float32(0)), p)
        y = g.op("Transpose", g.op("MatMul", p, v), perm=[0, 2, 1, 3])
        return linear(g.op("Reshape", y, g.ints(0, 0, width)), width, width)

    def gelu(x: str) -> str:
        e = g.op("Erf", g.op("Div", x, g.init(np.float32(np.sqrt(2)))))
        return g.op("Mul", g.op("Mul", x, g.op("Add", e, g.init(np.float32(1)))), g.init(np.float32(0.5)))

    length = g.op("Gather", g.op("Shape", "ids"), g.init(np.array(1, np.int64)), axis=0)
    places = g.op("Range", g.init(np.array(0, np.int64)), length, g.init(np.array(1, np.int64)))
    x = g.op("Add", g.op("Gather", g.weight(50, width), "ids"), g.op("Gather", g.weight(64, width), places))
    mask = g.op("Cast", g.op("Unsqueeze", "mask", g.ints(1, 2)), to=T.BOOL)
    x = norm(x)
    for _ in range(2):
        x = norm(g.op("Add", x, attention(x, mask)))
        x = norm(g.op("Add", x, linear(gelu(linear(x, width, 4 * width)), 4 * width, width)))
    first = g.op("Slice", x, g.ints(0), g.ints(1), g.ints(1))
    pooled = g.op("Tanh", linear(g.op("Squeeze", first, g.ints(1)), width, width))
    model = g.model([("ids", T.INT64, ["batch", "seq"]), ("mask", T.INT64, ["batch", "seq"])], [x, pooled])
    feeds = []
    for n, s in ((1, 9), (3, 17)):
        keep = np.ones((n, s), np.int64)
        keep[:, s - 3:] = 0
        feeds.append({"ids": g.random.integers(0, 50, (n, s)), "mask": keep})
    return model, feeds


def tabular() -> Net:
    """Embeddings of categories beside numbers, a multilayer perceptron, a softmax."""
    g = Graph(3)
    columns = [g.op("Gather", g.weight(20 + i, 4), g.op("Gather", "cat", g.init(np.array(i, np.int64)), axis=1)) for i
    in range(3)]
    x = g.op("Concat", "num", *columns, axis=1)
    for i, o in ((17, 48), (48, 33)):
        x = g.op("Relu", g.op("Gemm", x, g.weight(o, i), g.weight(o), transB=1))
    g.op("Softmax", g.op("Gemm", x, g.weight(2, 33), g.weight(2), transB=1), axis=1)
    model = g.model([("num", T.FLOAT, ["n", 5]), ("cat", T.INT64, ["n", 3])], [g.nodes[-1].output[0]])
    feeds = [{"num": g.random.standard_normal((n, 5)).astype(np.float32), "cat": g.random.integers(0, 20, (n, 3))}
             for n in (7, 64)]
    return model, feeds


NETS: dict[str, Callable[[], Net]] = {"residual_cnn": residual_cnn, "encoder": encoder, "tabular": tabular}
