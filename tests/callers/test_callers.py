"""Programs written for ONNX Runtime, unmodified, on onnxc under its name: each file beside this one is a program.

    pip install onnxc[callers]
    pytest tests/callers [--callers PYTHON]

`PYTHON` is an interpreter that has the libraries, where the one that runs the tests has not. A program whose library is
missing is skipped. Each holds its results against torch, or against sums of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = {"optimum_bert": "optimum.onnxruntime", "optimum_gpt2": "optimum.onnxruntime",
             "silero_vad_real": "silero_vad", "fastembed_custom": "fastembed", "rembg_custom": "rembg",
             "insightface_custom": "insightface", "piper_custom": "piper",
             "kokoro_custom": "kokoro_onnx", "rapidocr_own": "rapidocr", "skl2onnx_pipelines": "skl2onnx"}
PROBE = "import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)"
LOADED = "import sys, onnxruntime; assert onnxruntime.InferenceSession.__module__ == 'onnxc.runtime.session'\n"


def test_every_program_is_run():
    assert {p.stem for p in Path(__file__).parent.glob("*.py")} == {*LIBRARIES, Path(__file__).stem}


@pytest.mark.slow
@pytest.mark.parametrize("program", LIBRARIES)
def test_program(program, request, tmp_path):
    python = request.config.getoption("--callers") or sys.executable
    probe = subprocess.run([python, "-c", PROBE, LIBRARIES[program]], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(f"{LIBRARIES[program]} is not installed: pip install onnxc[callers]")
    path = tmp_path / "program.py"
    path.write_text(Path(__file__).with_name(f"{program}.py").read_text() + "\n" + LOADED)
    done = subprocess.run([python, "-m", "onnxc.shim", str(path)], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
