"""Helpers that compile parts of a program: used where they can be, and never needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from onnxc import compilers
from onnxc.codegen.llvm import parts
from onnxc.compilers import Compilers
from tests.codegen.test_share import WIDTHS, layers, parts_of

_RUN = """
import numpy as np, onnxc, onnxc.compilers as c, sys, time
import onnxc.codegen.llvm.parts as parts
c._processes, parts._ENOUGH = lambda: 2, 1
Compilers, answers = c.Compilers, []
class Counting(Compilers):
    def prepare(self, kernels): super().prepare(100)
    def begin(self, text):
        super().begin(text)
        while not self._parts[0].object: time.sleep(0.01)
    def finish(self, text, linked):
        data = super().finish(text, linked)
        answers.extend(h.answers for h in self.helpers)
        return data
import onnxc.driver as d
d.Compilers = Counting
def go():
    s = onnxc.InferenceSession(sys.argv[1])
    s.run(None, {"x": np.zeros((33, 192), np.float32)})
    return [a > 0 for a in answers]
"""


def in_new_process(tmp_path: Path, code: str) -> str:
    model = tmp_path / "layers.onnx"
    model.write_bytes(layers(WIDTHS))
    done = subprocess.run([sys.executable, "-c", _RUN + code, str(model)], capture_output=True, text=True, check=False,
                          timeout=120, env={"ONNXC_CACHE": "off", "PYTHONPATH": str(Path(__file__).parent.parent)})
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_helper_compiles_for_a_program_without_a_main_module(tmp_path: Path):
    assert in_new_process(tmp_path, "print(go())") == "[True]"


def test_a_helper_compiles_in_a_daemonic_forked_process(tmp_path: Path):
    code = """
import multiprocessing as m
q = m.get_context("fork").SimpleQueue()
p = m.get_context("fork").Process(target=lambda: q.put(go()), daemon=True)
p.start(); print(q.get()); p.join()
"""
    assert in_new_process(tmp_path, code) == "[True]"


@pytest.mark.parametrize("executable", ["", "/nonexistent/python3", "/bin/false"])
def test_without_helpers_everything_is_compiled_here(executable: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compilers, "_processes", lambda: 2)
    monkeypatch.setattr(parts, "_ENOUGH", 1)
    if executable == "/bin/false":      # a helper that ends at once
        monkeypatch.setattr(compilers, "_can_help", lambda: True)
    monkeypatch.setattr(sys, "executable", executable)
    from onnxc.codegen.llvm.pool import pool_ir
    from onnxc.codegen.llvm.target import Target
    from onnxc.runtime.loader import NativeModule
    with Compilers("host") as workers:
        workers.prepare(100)
        text = parts_of(layers(WIDTHS), workers.begin).rest()
        data = workers.finish(text, [pool_ir(Target.host())])
        assert not any(h.answers for h in workers.helpers)
    with NativeModule(data) as native:
        assert native.address("onnxc_run")


def test_what_all_programs_share_is_compiled_once():
    from onnxc.codegen.llvm.pool import pool_ir
    from onnxc.codegen.llvm.target import Target
    linked = [pool_ir(Target.host())]
    compilers._shared_object.cache_clear()
    for widths in (WIDTHS, WIDTHS[:2]):
        Compilers("host").finish(parts_of(layers(widths)).rest(), linked)
    assert compilers._shared_object.cache_info().misses == 1
