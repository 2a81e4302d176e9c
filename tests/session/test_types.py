"""The annotations of everything public, by mypy in its strict mode on a program that uses it."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import onnxc

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).parent / "uses.py"


def test_the_program_uses_every_public_name():
    text = PROGRAM.read_text()
    assert [name for name in onnxc.__all__ if not re.search(rf"\b(ort|onnxc)\.{name}\b", text)] == []


#: What other parts of onnxc use of these classes, and programs do not.
INNER = {"check_binding", "check_load", "content", "copy", "dimension_overrides",
         "disabled_passes", "entries", "entry", "fed", "log", "logging", "model_changes", "of", "of_content",
         "of_tensor", "processors", "providers", "shrinks", "spin_ns", "stop_address"}


@pytest.mark.parametrize("kind", [
    onnxc.InferenceSession, onnxc.SessionOptions, onnxc.RunOptions, onnxc.IOBinding, onnxc.OrtValue, onnxc.OrtDevice,
    onnxc.OrtValueVector, onnxc.OrtMemoryInfo, onnxc.SparseTensor, onnxc.NodeArg, onnxc.ModelMetadata],
    ids=lambda kind: kind.__name__)
def test_the_program_uses_every_attribute_and_method(kind):
    text = PROGRAM.read_text()
    names = {n for n in (*dir(kind), *inspect.get_annotations(kind)) if not n.startswith("_")} - INNER
    assert sorted(n for n in names if not re.search(rf"\.{n}\b", text)) == []


def test_a_strict_checker_finds_nothing(tmp_path):
    pytest.importorskip("mypy")
    done = subprocess.run([sys.executable, "-m", "mypy", "--strict", "--config-file=", "--follow-imports=silent",
                           "--cache-dir", str(tmp_path), str(PROGRAM)],
                          cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
