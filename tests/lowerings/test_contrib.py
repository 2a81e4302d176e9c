"""Ops of the domain com.microsoft: the signatures of ONNX Runtime's schemas, and its results, natively."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnxc
from onnxc.lowerings import LOWERINGS, lowering_of

ort = pytest.importorskip("onnxruntime")
lowering_of("onnx.Add")                        # loads the families
CONTRIB = sorted(name for name in LOWERINGS if name.startswith("com.microsoft."))
TYPES = {np.dtype(np.float32): 1, np.dtype(np.uint8): 2, np.dtype(np.int8): 3, np.dtype(np.int32): 6,
         np.dtype(np.int64): 7, np.dtype(bool): 9, np.dtype(np.float16): 10}
F32 = np.float32
Arrays = dict[str, np.ndarray | None]


@functools.cache
def schemas() -> dict[str, Any]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state
    return {f"{s.domain}.{s.name}": s for s in state.get_all_operator_schema()}


@pytest.mark.parametrize("name", CONTRIB)
def test_inputs_and_attributes_are_those_of_the_schema(name: str) -> None:
    schema = schemas()[name]
    ours = list(inspect.signature(LOWERINGS[name]).parameters.values())[1:]
    inputs = [p for p in ours if p.kind is not p.KEYWORD_ONLY]
    assert [p.name for p in inputs] == [i.name for i in schema.inputs]
    for p, i in zip(inputs, schema.inputs, strict=True):
        kind = str(i.option).rpartition(".")[2]
        assert (p.default is None) == (kind == "Optional"), p.name
        assert (p.kind is p.VAR_POSITIONAL) == (kind == "Variadic"), p.name
    attributes = {p.name: p for p in ours if p.kind is p.KEYWORD_ONLY}
    assert attributes.keys() == schema.attributes.keys()
    for key, p in attributes.items():
        assert (p.default is p.empty) == schema.attributes[key].required, key


def model(op: str, inputs: Arrays, constants: Arrays, outputs: int = 1, **attrs: Any) -> onnx.ModelProto:
    """One node: `inputs` in order, with symbols for dims, then `constants`; None is absent."""
    named = {**inputs, **constants}
    node = helper.make_node(op, [k if v is not None else "" for k, v in named.items()], [f"y{i}" for i in range(outputs)],
                            domain="com.microsoft", **attrs)
    infos = [helper.make_tensor_value_info(k, TYPES[v.dtype], [f"{k}{i}" for i in range(v.ndim)])
             for k, v in inputs.items() if v is not None]
    results = [onnx.ValueInfoProto(name=f"y{i}") for i in range(outputs)]
    initializers = [numpy_helper.from_array(v, k) for k, v in constants.items() if v is not None]
    graph = helper.make_graph([node], "g", infos, results, initializers)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def check(op: str, inputs: Arrays, constants: Arrays | None = None, outputs: int = 1, tolerance: float = 1e-5,
          **attrs: Any) -> None:
    """Equal to ONNX Runtime within `tolerance` of the largest element; integers may differ by `tolerance` where it is 1."""
    m = model(op, inputs, constants or {}, outputs, **attrs)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    text = m.SerializeToString()
    feeds = {k: v for k, v in inputs.items() if v is not None}
    wanted = ort.InferenceSession(text, options, providers=["CPUExecutionProvider"]).run(None, feeds)
    found = onnxc.InferenceSession(text).run(None, feeds)
    for have, want in zip(found, wanted, strict=True):
        assert have.dtype == want.dtype and have.shape == want.shape
        most = np.max(np.abs(want.astype(np.float64)), initial=1.0) if want.dtype.kind == "f" else 1.0
        np.testing.assert_allclose(have.astype(np.float64), want.astype(np.float64), 0, tolerance * most)


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(F32)


def bytes_of(*shape: int, seed: int = 0, dtype: type = np.uint8) -> np.ndarray:
    limits = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(limits.min, limits.max + 1, shape).astype(dtype)


@pytest.mark.parametrize(("k", "n", "block", "bits", "zero", "rank"), [
    (64, 5, 32, 4, None, 2), (70, 7, 16, 4, "packed", 3), (96, 8, 32, 4, "float", 1), (64, 6, 32, 8, "packed", 2),
    (64, 8, 32, 8, None, 2), (128, 8, 32, 2, None, 2)])
@pytest.mark.parametrize("constant", [True, False])
def test_weights_of_a_few_bits(k: int, n: int, block: int, bits: int, zero: str | None, rank: int,
                               constant: bool) -> None:
    """As constants, and as inputs of the model."""
    blocks = -(-k // block)
    points = {None: None, "packed": bytes_of(n, (blocks * bits + 7) // 8, seed=1), "float": np.abs(floats(n, blocks))}
    weights = {"B": bytes_of(n, blocks, block * bits // 8), "scales": np.abs(floats(n, blocks, seed=2)),
               "zero_points": points[zero]}
    a = {"A": floats(*(2, 3, k)[-rank:])}
    given = ({**a}, weights) if constant else ({**a, **weights}, {})
    check("MatMulNBits", *given, K=k, N=n, block_size=block, bits=bits)


@pytest.mark.parametrize(("trans_a", "trans_b", "batch_a", "batch_b"), [
    (0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (1, 1, 0, 0), (0, 0, 1, 0), (0, 1, 0, 1), (1, 1, 1, 1)])
def test_a_product_of_transposed_factors(trans_a: int, trans_b: int, batch_a: int, batch_b: int) -> None:
    def shape(m: int, k: int, transposed: int, moved: int) -> tuple[int, ...]:
        rows, columns = (k, m) if transposed else (m, k)
        return (rows, 2, 5, columns) if moved else (2, 5, rows, columns)

    factors = {"A": floats(*shape(3, 4, trans_a, batch_a)), "B": floats(*shape(4, 6, trans_b, batch_b), seed=1)}
    check("FusedMatMul", factors, alpha=0.5, transA=trans_a, transB=trans_b, transBatchA=batch_a, transBatchB=batch_b)
