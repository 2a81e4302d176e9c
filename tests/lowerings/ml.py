"""Nodes of `ai.onnx.ml` by themselves: their results as ONNX Runtime gives them, as the lowering gives them by its
reference column, and natively."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxc.driver import CompileOptions, import_to_ir
from onnxc.frontend import loaded_proto
from onnxc.frontend.inline import expand
from onnxc.ir.interp import run_func
from onnxc.lowerings.lower import lower

__all__ = ["TYPES", "agree", "by_reference", "natively", "node_model", "ort_results", "stumps"]

TYPES = {np.dtype(t): n for t, n in {np.float32: 1, np.int32: 6, np.int64: 7, object: 8, np.float16: 10,
                                     np.float64: 11}.items()}
Arrays = Sequence[np.ndarray]


def node_model(op: str, inputs: Arrays, outputs: Sequence[Any], version: int = 3, **attrs: Any) -> onnx.ModelProto:
    """A model of one node, its dims open; `outputs` are element types."""
    names = [[f"{stem}{i}" for i in range(len(values))] for stem, values in (("x", inputs), ("y", outputs))]
    node = helper.make_node(op, *names, domain="ai.onnx.ml", **attrs)
    infos = [helper.make_tensor_value_info(n, TYPES[a.dtype], [None] * a.ndim)
             for n, a in zip(names[0], inputs, strict=True)]
    results = [helper.make_tensor_value_info(n, TYPES[np.dtype(t)], None)
               for n, t in zip(names[1], outputs, strict=True)]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", version)]
    return helper.make_model(helper.make_graph([node], "g", infos, results), opset_imports=opsets, ir_version=10)


def ort_results(model: onnx.ModelProto, inputs: Arrays) -> list[np.ndarray]:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    ort = pytest.importorskip("onnxruntime")
    ort.set_default_logger_severity(4)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {f"x{i}": a for i, a in enumerate(inputs)})


def by_reference(model: onnx.ModelProto, inputs: Arrays) -> list[np.ndarray]:
    module = import_to_ir(loaded_proto(model), CompileOptions())
    lower(module, expand)
    return list(run_func(module, module.main, list(inputs)))


def natively(model: onnx.ModelProto, inputs: Arrays) -> list[np.ndarray]:
    import onnxc
    session = onnxc.InferenceSession(model.SerializeToString())
    return session.run(None, {f"x{i}": a for i, a in enumerate(inputs)})


def agree(op: str, inputs: Arrays, outputs: Sequence[Any], native: bool = False, rtol: float = 1e-5,
          atol: float = 1e-6, version: int = 3, **attrs: Any) -> None:
    """The lowering, and with `native` the compiled program, give what ONNX Runtime gives. Sums of some floats that are
    about 1 in another order differ in their last bits: by less than 1e-6."""
    model = node_model(op, inputs, outputs, version, **attrs)
    wanted = ort_results(model, inputs)
    for way in [by_reference, *([natively] if native else [])]:
        for found, want in zip(way(model, inputs), wanted, strict=True):
            assert (found.dtype, found.shape) == (want.dtype, want.shape), way.__name__
            if want.dtype == object:
                assert found.tolist() == want.tolist()
            else:
                np.testing.assert_allclose(found, want, rtol, atol, err_msg=way.__name__)


def stumps(weights: Sequence[Sequence[tuple[int, float]]], kind: str, **attrs: Any) -> dict[str, Any]:
    """The attributes of one tree over one feature with the leaves x <= -1, x <= 0 and the rest, each with weights for
    some classes (`kind` "class") or targets ("target")."""
    leaves = [(node, number, weight) for node, given in zip((2, 3, 4), weights, strict=True)
              for number, weight in given]
    return {"nodes_treeids": [0] * 5, "nodes_nodeids": [0, 1, 2, 3, 4], "nodes_featureids": [0] * 5,
            "nodes_modes": ["BRANCH_LEQ"] * 2 + ["LEAF"] * 3, "nodes_values": [0.0, -1.0, 0.0, 0.0, 0.0],
            "nodes_truenodeids": [1, 2, 0, 0, 0], "nodes_falsenodeids": [4, 3, 0, 0, 0],
            f"{kind}_nodeids": [n for n, _, _ in leaves], f"{kind}_ids": [c for _, c, _ in leaves],
            f"{kind}_treeids": [0] * len(leaves), f"{kind}_weights": [float(w) for _, _, w in leaves], **attrs}
