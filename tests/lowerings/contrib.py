"""One node of the domain com.microsoft on both engines."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnxc

ort = pytest.importorskip("onnxruntime")
F32 = np.float32
Arrays = dict[str, np.ndarray | None]


def model(op: str, inputs: Arrays, constants: Arrays, outputs: int = 1, static: bool = False,
          domain: str = "com.microsoft", **attrs: Any) -> onnx.ModelProto:
    """One node: `inputs` in order, with symbols for dims, then further `constants`; None is absent."""
    named = {**inputs, **constants}
    node = helper.make_node(op, [k if v is not None else "" for k, v in named.items()],
                            [f"y{i}" for i in range(outputs)], domain=domain, **attrs)
    infos = [helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype),
                                           v.shape if static else [f"{k}{i}" for i in range(v.ndim)])
             for k, v in inputs.items() if v is not None and k not in constants]
    results = [onnx.ValueInfoProto(name=f"y{i}") for i in range(outputs)]
    initializers = [numpy_helper.from_array(v, k) for k, v in constants.items() if v is not None]
    graph = helper.make_graph([node], "g", infos, results, initializers)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def check(op: str, inputs: Arrays, constants: Arrays | None = None, outputs: int = 1,
          tolerance: float = 1e-5, static: bool = False, **attrs: Any) -> None:
    """Equal to ONNX Runtime within `tolerance` of the largest element; integers may differ by a `tolerance` of 1."""
    m = model(op, inputs, constants or {}, outputs, static, **attrs)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    text, feeds = m.SerializeToString(), fed(inputs, constants)
    wanted = ort.InferenceSession(text, options, providers=["CPUExecutionProvider"]).run(None, feeds)
    compare(onnxc.InferenceSession(text).run(None, feeds), wanted, tolerance)


def check_numbers(op: str, inputs: Arrays, constants: Arrays, wanted: list[np.ndarray], tolerance: float = 1e-5,
                  static: bool = False, **attrs: Any) -> None:
    """Equal to arrays, where ONNX Runtime has no kernel for CPUs or one that is wrong."""
    m = model(op, inputs, constants, len(wanted), static, **attrs)
    compare(onnxc.InferenceSession(m.SerializeToString()).run(None, fed(inputs, constants)), wanted, tolerance)


def fed(inputs: Arrays, constants: Arrays | None) -> dict[str, np.ndarray]:
    return {k: v for k, v in inputs.items() if v is not None and k not in (constants or {})}


def compare(found: list[np.ndarray], wanted: list[np.ndarray], tolerance: float) -> None:
    for have, want in zip(found, wanted, strict=True):
        assert have.dtype == want.dtype and have.shape == want.shape
        most = np.max(np.abs(want.astype(np.float64)), initial=1.0) if want.dtype.kind in "fV" else 1.0
        np.testing.assert_allclose(have.astype(np.float64), want.astype(np.float64), 0, tolerance * most)


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(F32)


def bytes_of(*shape: int, seed: int = 0, dtype: type = np.uint8) -> np.ndarray:
    limits = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(limits.min, limits.max + 1, shape).astype(dtype)
