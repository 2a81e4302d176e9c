"""What every test may rely on: no cache from outside, reproducible random cases, marks that skip with a reason.

A test marked `torch`, `triton` or `gpu` is skipped on a machine without it. `pytest --require gpu` makes that skip an
error instead, so that a machine that has one cannot lose it unnoticed.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from functools import cache
from pathlib import Path

import hypothesis
import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--require", action="append", default=[], choices=sorted(NEEDS), help="fail where this is missing")
    parser.addoption("--zoo", type=Path, help="folder of exported models, DIR/NAME/{model.onnx,inputs.npz,...}")
    parser.addoption("--callers", help="a Python that has the libraries of tests/callers")
    parser.addoption("--bless", action="store_true", help="write what passes print now into the text cases")


def pytest_configure() -> None:
    # Stale entries must not decide a test, and tests must not fill the user's folder.
    os.environ.setdefault("ONNXC_CACHE", "off")
    # Compilation inside a case makes its time no property of the case; the same cases run everywhere.
    hypothesis.settings.register_profile("suite", deadline=None, derandomize=True, database=None)
    hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark, present in NEEDS.items():
        if item.get_closest_marker(mark) and not present():
            if mark in item.config.getoption("--require"):
                pytest.fail(f"--require {mark}: it is not usable on this machine")
            pytest.skip(f"needs {mark}")


@pytest.fixture
def zoo(request: pytest.FixtureRequest) -> Path | None:
    """The folder of exported models, when there is one."""
    return request.config.getoption("--zoo")


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


@cache
def _cuda_devices() -> int:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


NEEDS = {
    "torch": lambda: _installed("torch"),
    "triton": lambda: _installed("triton"),
    "gpu": lambda: _cuda_devices() > 0,
}
