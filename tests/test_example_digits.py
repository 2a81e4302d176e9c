"""The digits example judges rightly: an engine known to be good passes, a slightly wrong network does not.

onnxruntime runs the model here; the example's own run of onnxc is what its exit status says.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "digits"


def judge(model: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, FOLDER / "main.py", "--engine", "onnxruntime", "--model", model]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_committed_network_passes():
    done = judge(FOLDER / "digits.onnx")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("357/360 correct, 360/360 as the float64 reference") == 2
    assert "images/s at batch 1" in done.stdout


@pytest.mark.parametrize(("change", "symptom"), [(1e-3, "357/360 correct"), (float("nan"), "difference nan")])
def test_a_wrong_bias_fails(tmp_path, change, symptom):
    model = onnx.load(FOLDER / "digits.onnx")
    (bias,) = [w for w in model.graph.initializer if list(w.dims) == [10]]
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(change), bias.name))
    onnx.save(model, tmp_path / "wrong.onnx")
    done = judge(tmp_path / "wrong.onnx")
    assert done.returncode == 1, done.stderr
    assert done.stdout.count("WRONG") == 2
    assert symptom in done.stdout


def test_the_files_are_what_the_example_says():
    with np.load(FOLDER / "heldout.npz") as held, np.load(FOLDER / "reference.npz") as reference:
        assert (held["images"].shape, held["images"].dtype, held["images"].max()) == ((360, 8, 8), np.uint8, 16)
        # Stratified: ten classes of almost equal size.
        assert set(np.bincount(held["labels"])) <= {35, 36, 37}
        assert (reference["logits"].shape, reference["logits"].dtype) == ((360, 10), np.float64)
    model = onnx.load(FOLDER / "digits.onnx")
    onnx.checker.check_model(model, full_check=True)
    (image,), (logits,) = model.graph.input, model.graph.output
    assert (image.name, image.type.tensor_type.shape.dim[0].dim_param) == ("image", "batch")
    assert (logits.name, logits.type.tensor_type.shape.dim[0].dim_param) == ("logits", "batch")
    assert {"Conv", "BatchNormalization", "Relu", "Add", "MaxPool", "Gemm"} <= {n.op_type for n in model.graph.node}
    assert (FOLDER / "digits.onnx").stat().st_size <= 200_000
