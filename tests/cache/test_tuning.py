"""Tuning: what it notes, that later compilations take it, and that results stay what they were."""

from __future__ import annotations

import re

import numpy as np
import pytest
from click.testing import CliRunner

from onnxc.cli import main
from onnxc.codegen.llvm import candidates as given
from onnxc.codegen.llvm.target import Target
from onnxc.driver import CompileOptions, compile_model, import_to_ir, pass_context
from onnxc.errors import InvalidArgument
from onnxc.ir.core import Module
from onnxc.passes.pipeline import PIPELINE, run
from onnxc.runtime import cache as compile_cache
from onnxc.runtime.cache import CompileCache
from onnxc.runtime.program import NativeProgram
from onnxc.tuned import Notes
from onnxc.tuning import Tuned, tune_model
from tests.session import models

pytestmark = pytest.mark.filterwarnings("error")
GENERATOR = np.random.default_rng(1)
X = GENERATOR.standard_normal((24, 64), np.float32)
W = GENERATOR.standard_normal((64, 40), np.float32)


def layers() -> bytes:
    """Softmax(Relu(x @ w)): a contraction, and a kernel that is none."""
    nodes = [models.node("MatMul", "x w", "p"), models.node("Relu", "p", "r"), models.node("Softmax", "r", "y")]
    return models.model(nodes, [models.value("x", ["N", 64])], [models.value("y", ["N", 40])],
                        [models.constant("w", W)]).SerializeToString()


def schedules() -> list[str]:
    return re.findall(r'schedule = "([^"]*)"', compile_model(layers(), CompileOptions()).text)


def result() -> np.ndarray:
    return NativeProgram(compile_model(layers(), CompileOptions())).run([X])[0]


def unscheduled() -> Module:
    module = import_to_ir(layers())
    run(module, pass_context(CompileOptions()), PIPELINE[:[p.name for p in PIPELINE].index("schedule")])
    return module


def note(cache: CompileCache, text: str) -> str:
    """Says of the contraction that `text` is fastest; the note's name."""
    func = next(f for f in unscheduled().funcs.values() if "contract" in f.name)
    notes = Notes(cache, Target.host())
    key = notes.key(func, frozenset({1}))
    cache.note_tuned(key, {"key": key, "schedule": text, "dims": {}})
    return key


def test_what_was_tuned_gives_the_same_results(cache, monkeypatch):
    monkeypatch.setattr("onnxc.tuning._GAIN", 1e9)      # any candidate wins; a few of them will do
    for name, few in (("_ROWS", (6,)), ("_VECTORS", (2,)), ("_AXES", 1), ("_UNROLLS", ()), ("_GRAINS", (64,))):
        monkeypatch.setattr(given, name, few)
    before, plain = schedules(), result()
    tuned = tune_model(layers(), CompileOptions(), {"N": 24}, 60)
    assert tuned == Tuned(2, 2, 2)
    assert len(list(cache.folder.glob("*.tuned"))) == 2
    assert all((p.stat().st_mode & 0o777) == 0o600 for p in cache.folder.glob("*.tuned"))
    assert schedules() != before
    # Sums of 64 products in another order.
    np.testing.assert_allclose(result(), plain, rtol=1e-4, atol=1e-6)
    assert tune_model(layers(), CompileOptions(), {"N": 24}, 60) == Tuned()


def test_kernels_whose_dims_are_not_given_are_left_alone(cache):
    assert tune_model(layers(), CompileOptions(), {}, 60) == Tuned()


def test_no_time_is_no_result(cache):
    assert tune_model(layers(), CompileOptions(), {"N": 24}, 0).timed == 0
    assert not list(cache.folder.glob("*.tuned"))


def other_than_default() -> str:
    func = next(f for f in unscheduled().funcs.values() if "contract" in f.name)
    from onnxc.codegen.llvm.contract_form import normal_form
    found = list(given.contraction_candidates(normal_form(func), Target.host(), frozenset({1})))
    return str(next(c for c in found if c.vectors != found[0].vectors))


def test_a_noted_winner_is_taken(cache):
    before, wanted = schedules(), other_than_default()
    note(cache, wanted)
    assert wanted in schedules()
    assert wanted not in before


@pytest.mark.parametrize("text", ["", "rows=1000 vectors=1", "nonsense", "vector=i1 lanes=3"])
def test_a_note_that_names_no_candidate_is_ignored(cache, text):
    before = schedules()
    note(cache, text)
    assert schedules() == before


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b'{"schedule": 3}', b"\xff" * 100, b"[" * 100_000])
def test_a_damaged_note_is_ignored(cache, content):
    before = schedules()
    (cache.folder / f"{note(cache, other_than_default())}.tuned").write_bytes(content)
    assert schedules() == before


def test_a_note_that_others_may_write_is_ignored(cache):
    before = schedules()
    (cache.folder / f"{note(cache, other_than_default())}.tuned").chmod(0o666)
    assert schedules() == before


def test_tuning_another_machine_or_without_a_cache_is_refused(cache, monkeypatch):
    with pytest.raises(InvalidArgument, match="aarch64"):
        tune_model(layers(), CompileOptions(target="aarch64-neon"), {}, 1)
    monkeypatch.setattr(compile_cache, "open_cache", lambda: None)
    with pytest.raises(InvalidArgument, match="ONNXC_CACHE"):
        tune_model(layers(), CompileOptions(), {}, 1)


def test_the_verb_says_what_it_did(cache, tmp_path):
    (tmp_path / "m.onnx").write_bytes(layers())
    done = CliRunner().invoke(main, ["compile", str(tmp_path / "m.onnx"), "--tune", "--dim", "N=8", "--tune-seconds",
                                     "0"])
    assert done.exit_code == 0, done.output
    assert "0 kernels timed" in done.output
    assert "no time for 2" in done.output
    assert CliRunner().invoke(main, ["compile", str(tmp_path / "m.onnx"), "--dim", "N=8"]).exit_code == 2
