"""The short form of `python -m tests.calls`: random sequences of calls give what they give on ONNX Runtime."""

from __future__ import annotations

import pytest

from tests.calls.__main__ import check

pytest.importorskip("onnxruntime")


@pytest.mark.slow
def test_random_calls(monkeypatch, tmp_path):
    monkeypatch.setenv("ONNXC_CACHE", str(tmp_path))        # as many sessions are of the same models
    tally = check(start=0, seeds=60)
    assert not tally.faults, "seed {}: {}\n{}".format(*tally.faults[0])
    assert tally.calls > 300
