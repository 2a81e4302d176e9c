"""A cache in a folder of the test's own, which sessions of the test use."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxc.runtime import cache as compile_cache
from onnxc.runtime.cache import CompileCache, open_folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CompileCache:
    found = open_folder(tmp_path / "cache", 1 << 30)
    assert found is not None
    monkeypatch.setattr(compile_cache, "open_cache", lambda: found)
    return found
