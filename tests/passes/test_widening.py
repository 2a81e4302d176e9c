"""Weights of few bits stay so through the passes: no floats of them are folded, no launch writes any, and results are
those of float64."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxc
from onnxc.driver import CompileOptions, import_to_ir, lower_to_program
from onnxc.ir.core import Module
from onnxc.ir.types import Mem

K, N, BLOCK = 128, 160, 32


def tensor(name: str, array: np.ndarray, dtype: int | None = None) -> onnx.TensorProto:
    return numpy_helper.from_array(array, name) if dtype is None else helper.make_tensor(
        name, dtype, array.shape, array.astype(np.int8).reshape(-1))


def model(nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto], given: str = "x") -> bytes:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", K])
    inputs = [x] if given == "x" else [x, helper.make_tensor_value_info(given, TensorProto.INT64, ["rows"])]
    outputs = [onnx.ValueInfoProto(name=nodes[-1].output[0])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    text = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    assert isinstance(text, bytes)
    return text


def dequantised(kind: str) -> tuple[bytes, np.ndarray]:
    """x @ W with W dequantised as `kind` says, and W [K, N] in float64."""
    rng = np.random.default_rng(7)
    scale = rng.uniform(0.01, 0.02, (K // BLOCK, N)).astype(np.float32)
    if kind == "blocks of i4":
        codes = rng.integers(-8, 8, (K, N))
        nodes = [helper.make_node("DequantizeLinear", ["w", "s"], ["f"], axis=0, block_size=BLOCK),
                 helper.make_node("MatMul", ["x", "f"], ["y"])]
        constants = [tensor("w", codes, TensorProto.INT4), tensor("s", scale)]
        return model(nodes, constants), codes * np.repeat(scale.astype(np.float64), BLOCK, 0)
    if kind == "blocks of u4 with zero points, transposed":
        codes, zero = rng.integers(0, 16, (N, K)), rng.integers(0, 16, (N, K // BLOCK))
        nodes = [helper.make_node("DequantizeLinear", ["w", "s", "z"], ["f"], axis=1, block_size=BLOCK),
                 helper.make_node("Transpose", ["f"], ["t"]), helper.make_node("MatMul", ["x", "t"], ["y"])]
        constants = [tensor("w", codes, TensorProto.UINT4), tensor("s", np.ascontiguousarray(scale.T)),
                     tensor("z", zero, TensorProto.UINT4)]
        return model(nodes, constants), ((codes - np.repeat(zero, BLOCK, 1)) * np.repeat(
            scale.T.astype(np.float64), BLOCK, 1)).T
    codes = rng.integers(-128, 128, (N, K)).astype(np.int8)            # a scale a column of i8, by Gemm
    nodes = [helper.make_node("DequantizeLinear", ["w", "s"], ["f"], axis=0),
             helper.make_node("Gemm", ["x", "f", "b"], ["y"], transB=1)]
    bias = rng.standard_normal(N).astype(np.float32)
    constants = [tensor("w", codes), tensor("s", scale[0]), tensor("b", bias)]
    return model(nodes, constants), (codes * scale[0].astype(np.float64)[:, None]).T


def compiled(text: bytes) -> Module:
    module = import_to_ir(text)
    lower_to_program(module, CompileOptions())
    return module


def of_halves(kind: str) -> tuple[bytes, np.ndarray]:
    """x @ W with W of floats of 16 bits, and W in float64."""
    dtype, code = (np.float16, TensorProto.FLOAT16) if "f16" in kind.split() else (ml_dtypes.bfloat16,
                                                                                   TensorProto.BFLOAT16)
    weights = np.random.default_rng(1).standard_normal((K, N)).astype(dtype)
    constant = helper.make_tensor("w", code, weights.shape, weights.tobytes(), raw=True)
    nodes = [helper.make_node("Cast", ["w"], ["f"], to=TensorProto.FLOAT),
             helper.make_node("MatMul", ["x", "f"], ["y"])]
    if kind.startswith("all"):
        nodes = [helper.make_node("Cast", ["x"], ["h"], to=code), helper.make_node("MatMul", ["h", "w"], ["p"]),
                 helper.make_node("Cast", ["p"], ["y"], to=TensorProto.FLOAT)]
    return model(nodes, [constant]), weights.astype(np.float64)


@pytest.mark.parametrize("kind", ["f16 as f32", "bf16 as f32", "all f16", "all bf16"])
def test_weights_of_16_bits_are_read_as_such(kind: str) -> None:
    text, weights = of_halves(kind)
    module = compiled(text)
    assert all(a.nbytes <= 2 * K * (N + 64) for a in module.constants.values())
    session, dtype = onnxc.InferenceSession(text), ml_dtypes.bfloat16 if "bf16" in kind else np.float16
    for rows in (1, 3, 6, 7, 130):
        x = np.random.default_rng(rows).standard_normal((rows, K)).astype(np.float32)
        (found,) = session.run(None, {"x": x})
        exact = (x.astype(dtype) if kind.startswith("all") else x).astype(np.float64) @ weights
        rounding = float(ml_dtypes.finfo(dtype).eps) / 2 if kind.startswith("all") else 0.0
        np.testing.assert_allclose(found, exact, rtol=rounding, atol=2e-6 * np.abs(exact).max())


KINDS = ["blocks of i4", "blocks of u4 with zero points, transposed", "columns of i8"]


@pytest.mark.parametrize("kind", KINDS)
def test_weights_stay_as_narrow_as_the_model_has_them(kind: str) -> None:
    text, weights = dequantised(kind)
    module = compiled(text)
    types = [a.type for f in module.funcs.values() if f.kind == "kernel" for a in f.args if isinstance(a.type, Mem)]
    sizes = [t.size for t in types if t.dtype.name == "f32"]
    assert all(not isinstance(s, int) or s <= (K // BLOCK) * (N + 64) for s in sizes), sizes
    assert sum(op.name == "p.launch" for op in module.main.walk()) == 1
    session = onnxc.InferenceSession(text)
    for rows in (1, 2, 5, 70):
        x = np.random.default_rng(rows).standard_normal((rows, K)).astype(np.float32)
        (found,) = session.run(None, {"x": x})
        exact = x @ weights
        if kind == "columns of i8":
            exact = exact + numpy_helper.to_array(next(
                t for t in onnx.load_from_string(text).graph.initializer if t.name == "b"))
        np.testing.assert_allclose(found, exact, rtol=0, atol=2e-6 * np.abs(exact).max())


def test_a_table_that_also_multiplies_is_looked_up_without_being_written_out() -> None:
    rng = np.random.default_rng(3)
    codes, scale = rng.integers(-128, 128, (N, K)).astype(np.int8), rng.uniform(0.01, 0.02, N).astype(np.float32)
    nodes = [helper.make_node("DequantizeLinear", ["w", "s"], ["f"], axis=0),
             helper.make_node("Gather", ["f", "ids"], ["rows"]), helper.make_node("Add", ["x", "rows"], ["h"]),
             helper.make_node("Transpose", ["f"], ["t"]), helper.make_node("MatMul", ["h", "t"], ["y"])]
    text = model(nodes, [tensor("w", codes), tensor("s", scale)], "ids")
    x, ids = rng.standard_normal((3, K)).astype(np.float32), np.array([5, 0, N - 1])
    (found,) = onnxc.InferenceSession(text).run(None, {"x": x, "ids": ids})
    table = codes * scale.astype(np.float64)[:, None]
    exact = (x + table[ids]) @ table.T
    np.testing.assert_allclose(found, exact, rtol=0, atol=2e-6 * np.abs(exact).max())


def test_few_weights_are_floats() -> None:
    codes = np.ones((K, 4))
    nodes = [helper.make_node("DequantizeLinear", ["w", "s"], ["f"], axis=0, block_size=BLOCK),
             helper.make_node("MatMul", ["x", "f"], ["y"])]
    scale = np.ones((K // BLOCK, 4), np.float32)
    module = compiled(model(nodes, [tensor("w", codes, TensorProto.INT4), tensor("s", scale)]))
    assert all(a.dtype != ml_dtypes.int4 for a in module.constants.values())


def test_a_difference_in_the_codes_own_type_wraps_around() -> None:
    codes = np.random.default_rng(5).integers(0, 256, (K, N)).astype(np.uint8)
    zero, scale = np.array(100, np.uint8), np.array(0.01, np.float32)
    nodes = [helper.make_node("Sub", ["w", "z"], ["d"]), helper.make_node("Cast", ["d"], ["f"], to=TensorProto.FLOAT),
             helper.make_node("Mul", ["f", "s"], ["r"]), helper.make_node("MatMul", ["x", "r"], ["y"])]
    text = model(nodes, [tensor("w", codes), tensor("z", zero), tensor("s", scale)])
    x = np.random.default_rng(6).standard_normal((3, K)).astype(np.float32)
    (found,) = onnxc.InferenceSession(text).run(None, {"x": x})
    exact = x @ ((codes - zero) * np.float64(0.01))
    np.testing.assert_allclose(found, exact, rtol=0, atol=2e-6 * np.abs(exact).max())


def test_blocks_of_scales_and_of_zero_points_may_begin_at_different_steps() -> None:
    depth, rng = 192, np.random.default_rng(8)
    codes = rng.integers(0, 256, (depth, N)).astype(np.uint8)
    zero = rng.integers(0, 256, (depth // 48, 1, N)).astype(np.float32)
    scale = rng.uniform(0.01, 0.02, (depth // 32, 1, N)).astype(np.float32)
    nodes = [helper.make_node("Cast", ["w"], ["f"], to=TensorProto.FLOAT),
             helper.make_node("Reshape", ["f", "zeros_shape"], ["fz"]), helper.make_node("Sub", ["fz", "z"], ["d"]),
             helper.make_node("Reshape", ["d", "scales_shape"], ["ds"]), helper.make_node("Mul", ["ds", "s"], ["m"]),
             helper.make_node("Reshape", ["m", "shape"], ["r"]), helper.make_node("MatMul", ["xx", "r"], ["y"])]
    nodes.insert(0, helper.make_node("Concat", ["x", "more"], ["xx"], axis=1))
    more = rng.standard_normal((3, depth - K)).astype(np.float32)
    shapes = {"zeros_shape": (depth // 48, 48, N), "scales_shape": (depth // 32, 32, N), "shape": (depth, N)}
    constants = [tensor("w", codes), tensor("z", zero), tensor("s", scale), tensor("more", more)]
    text = model(nodes, constants + [tensor(name, np.array(shape)) for name, shape in shapes.items()])
    x = rng.standard_normal((3, K)).astype(np.float32)
    (found,) = onnxc.InferenceSession(text).run(None, {"x": x})
    weights = (codes - zero.repeat(48, 1).reshape(depth, N).astype(np.float64)) * scale.repeat(32, 1).reshape(depth, N)
    exact = np.concatenate([x, more], 1) @ weights
    np.testing.assert_allclose(found, exact, rtol=0, atol=2e-6 * np.abs(exact).max())
