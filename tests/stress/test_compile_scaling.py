"""The short form of `benchmarks/compile_scaling.py`: twice the nodes take at most 2.3 times as long."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "compile_scaling.py"
_spec = importlib.util.spec_from_file_location("compile_scaling", _FILE)
assert _spec is not None
assert _spec.loader is not None
scaling = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(scaling)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(scaling.KINDS))
def test_compile_time_grows_with_the_nodes(kind):
    (_, small, _), (_, large, _) = scaling.measure([600, 1200], kind)
    # One of two measurements may have been disturbed.
    if large > 2.3 * small:
        (_, small, _), (_, large, _) = scaling.measure([600, 1200], kind)
    assert large <= 2.3 * small
