"""Products of one left operand, merged: one contraction in the program, and the results of float64 or the reference."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import onnxc
from onnxc.driver import CompileOptions, import_to_ir, lower_to_program

HEADS, GROUPS, SIZE = 4, 2, 16
K = HEADS * SIZE
RNG = np.random.default_rng(5)


def model(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], shape: list[int | str]) -> bytes:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    outputs = [onnx.ValueInfoProto(name=n.output[0]) for n in nodes if n.output[0].startswith("y")]
    graph = helper.make_graph(nodes, "g", [x], outputs, [numpy_helper.from_array(a, n) for n, a in constants.items()])
    text = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()
    assert isinstance(text, bytes)
    return text


def contractions(text: bytes) -> int:
    """How many kernels of the compiled program are contractions of constants."""
    module = import_to_ir(text)
    lower_to_program(module, CompileOptions())
    return sum(op.name == "k.contract" for f in module.funcs.values() if f.kind == "kernel" for op in f.walk())


def attention() -> tuple[bytes, dict[str, np.ndarray]]:
    """Grouped queries: keys and values have half of the queries' heads."""
    widths = {"q": K, "k": GROUPS * SIZE, "v": GROUPS * SIZE}
    constants = {f"w{c}": (RNG.standard_normal((K, n)) / 8).astype(np.float32) for c, n in widths.items()}
    constants |= {f"b{c}": RNG.standard_normal(n).astype(np.float32) for c, n in widths.items()}
    shapes = {"sq": [0, GROUPS, HEADS // GROUPS, SIZE], "sk": [0, GROUPS, 1, SIZE], "flat": [0, K]}
    constants |= {name: np.array(shape) for name, shape in shapes.items()} | {"half": np.array(0.25, np.float32)}
    nodes = []
    for c, perm in (("q", [1, 2, 0, 3]), ("k", [1, 2, 3, 0]), ("v", [1, 2, 0, 3])):
        nodes += [helper.make_node("MatMul", ["x", f"w{c}"], [f"p{c}"]),
                  helper.make_node("Add", [f"p{c}", f"b{c}"], [f"a{c}"]),
                  helper.make_node("Reshape", [f"a{c}", "sq" if c == "q" else "sk"], [f"h{c}"]),
                  helper.make_node("Transpose", [f"h{c}"], [f"t{c}"], perm=perm)]
    nodes += [helper.make_node("MatMul", ["tq", "tk"], ["s"]), helper.make_node("Mul", ["s", "half"], ["m"]),
              helper.make_node("Softmax", ["m"], ["e"]), helper.make_node("MatMul", ["e", "tv"], ["o"]),
              helper.make_node("Transpose", ["o"], ["r"], perm=[2, 0, 1, 3]),
              helper.make_node("Reshape", ["r", "flat"], ["y"])]
    return model(nodes, constants, ["rows", K]), constants


def test_queries_keys_and_values_are_one_product_that_attention_reads_in_place() -> None:
    text, c = attention()
    assert contractions(text) == 1
    session = onnxc.InferenceSession(text)
    for rows in (1, 2, 7, 100):
        x = RNG.standard_normal((rows, K)).astype(np.float32)
        q, k, v = (x.astype(np.float64) @ c[f"w{n}"] + c[f"b{n}"] for n in "qkv")
        q, k, v = q.reshape(rows, GROUPS, -1, SIZE), k.reshape(rows, GROUPS, SIZE), v.reshape(rows, GROUPS, SIZE)
        scores = np.exp(np.einsum("mghd,ngd->ghmn", q, k) * 0.25)
        exact = np.einsum("ghmn,ngd->mghd", scores / scores.sum(-1, keepdims=True), v).reshape(rows, K)
        (found,) = session.run(None, {"x": x})
        # Scores of some dozens are rounded to 2e-6, and raise e to that.
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-5 * np.abs(exact).max())


@pytest.mark.parametrize("size", [1, 3])
def test_convolutions_of_one_image_with_activations_are_one(size: int) -> None:
    constants, nodes = {}, []
    for c, n in (("a", 8), ("b", 20)):
        constants |= {f"w{c}": (RNG.standard_normal((n, 8, size, size)) / 8).astype(np.float32),
                      f"b{c}": RNG.standard_normal(n).astype(np.float32),
                      f"v{c}": (RNG.standard_normal((5, n, 1, 1)) / 8).astype(np.float32)}
        nodes += [helper.make_node("Conv", ["x", f"w{c}", f"b{c}"], [f"p{c}"], pads=[size // 2] * 4),
                  helper.make_node("Sigmoid", [f"p{c}"], [f"s{c}"]),
                  helper.make_node("Mul", [f"p{c}", f"s{c}"], [f"m{c}"]),
                  helper.make_node("Conv", [f"m{c}", f"v{c}"], [f"y{c}"])]
    text = model(nodes, constants, ["N", 8, 12, 9])
    assert contractions(text) == 3
    session, reference = onnxc.InferenceSession(text), ReferenceEvaluator(onnx.load_from_string(text))
    for batch in (1, 3):
        x = RNG.standard_normal((batch, 8, 12, 9)).astype(np.float32)
        for found, wanted in zip(session.run(None, {"x": x}), reference.run(None, {"x": x}), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
