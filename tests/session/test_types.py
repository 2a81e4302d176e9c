"""The annotations of everything public, by mypy in its strict mode on a program that uses it."""

from __future__ import annotations

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


def test_a_strict_checker_finds_nothing(tmp_path):
    pytest.importorskip("mypy")
    done = subprocess.run([sys.executable, "-m", "mypy", "--strict", "--config-file=", "--follow-imports=silent",
                           "--cache-dir", str(tmp_path), str(PROGRAM)],
                          cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
