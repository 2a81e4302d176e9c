"""Gates, and the old forms of ONNX's operators, of the domain com.microsoft."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import onnxc
import onnxc.errors
from tests.lowerings.contrib import F32, Arrays, bytes_of, check, floats, model

X, Y, ROW = floats(2, 3, 8), floats(2, 3, 8, seed=1), floats(8, seed=2)


# ---- gates ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [F32, np.float16])
def test_gates(kind: type) -> None:
    """In f16 a step of rounding may differ."""
    near = 1e-5 if kind is F32 else 2e-3
    x, y = X.astype(kind), Y.astype(kind)
    check("GatedAdd", {"X": x, "Y": y, "gate": floats(2, 3, 1).astype(kind)}, tolerance=near)
    check("LinearAttentionGate", {"a": x, "dt_bias": ROW, "decay_scale": -np.abs(ROW), "b": y}, {}, 2, near)
    check("LinearAttentionGate", {"a": x, "dt_bias": ROW, "decay_scale": ROW}, tolerance=near)
    check("ScaledSiLU", {"X": x}, tolerance=near, alpha=1.7)
    check("ScaledSiLU", {"X": x, "scale": np.array(0.3, F32)}, tolerance=near)
    for activation in ("silu", "swish", "sigmoid"):
        check("GatedRMSNorm", {"X": x, "scale": floats(4).astype(kind), "gate": y}, tolerance=near,
              activation=activation)


# ---- old forms -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("axis", [0, 1, 3, -1, -4])
def test_one_more_axis(axis: int) -> None:
    check("ExpandDims", {"X": X}, {"axis": np.array(axis, np.int32)})


def test_an_axis_out_of_range_is_refused() -> None:
    with pytest.raises(onnxc.errors.UnsupportedModel, match="axis"):
        onnxc.InferenceSession(model("ExpandDims", {"X": X}, {"axis": np.array(4, np.int32)}).SerializeToString())


@pytest.mark.parametrize(("op", "inputs", "constants", "attrs"), [
    ("SampleOp", {"X": X}, {}, {}),
    ("GatherND", {"data": X}, {"indices": np.array([[0, 1], [1, 2]])}, {}),
    ("GatherND", {"data": X}, {"indices": np.array([[[0]], [[-1]]], np.int32)}, {}),
    *(("GridSample", {"X": floats(2, 3, 5, 6), "Grid": floats(2, 4, 4, 2, seed=1)}, {},
       {"mode": mode, "padding_mode": "border"}) for mode in ("bilinear", "nearest", "bicubic")),
    ("Pad", {"data": X}, {"pads": np.array([[0, 1, 2, 0, 0, -1]]), "value": np.array([3], F32)}, {}),
    ("Pad", {"data": X}, {"pads": np.array([0, 1, 2, 0, 0, 1])}, {"mode": "edge"}),
    ("Range", {"start": np.array([1], F32), "limit": np.array([7], F32)}, {}, {}),
    ("Range", {"start": np.array(9, np.int16), "limit": np.array(1, np.int16), "delta": np.array(-2, np.int16)}, {},
     {}),
    ("Trilu", {"X": X, "k": np.array(1)}, {}, {}), ("Trilu", {"X": X}, {}, {"upper": 0}),
    ("UnfoldTensor", {"input": X}, {}, {"size": 3, "step": 2}),
    ("UnfoldTensor", {"input": X}, {}, {"size": 3, "dim": 1})])
def test_old_forms(op: str, inputs: Arrays, constants: Arrays, attrs: dict[str, Any]) -> None:
    check(op, inputs, constants, **attrs)


def test_what_is_unique_in_order() -> None:
    check("Unique", {"x": np.array([2, 1, 1, 3, 4, 3], F32)}, {}, 3)
    check("Unique", {"x": bytes_of(0).astype(F32)}, {}, 3)
