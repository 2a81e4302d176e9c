"""ONNX's own backend tests, through its runner, and the list of those that fail.

`python -m tests.backend.cases [i/n]` runs all of them (five minutes of processor time), or the i-th of n shares, and
prints what differs from the list of those that fail; `pytest` runs a share of them. The list says of each why.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import unittest
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from unittest import mock

import onnxc.backend

EXPECTED = Path(__file__).with_name("expected_failures.txt")
CATEGORIES = ("Node", "Real", "Simple", "PyTorchConverted", "PyTorchOperator")


@cache
def items() -> dict[str, Callable[[unittest.TestCase], None]]:
    """The tests of the runner by name, on a CPU."""
    import onnx.backend.test
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runner = onnx.backend.test.BackendTest(onnxc.backend, __name__)
    return {name: function for category in CATEGORIES
            for name, function in vars(runner.test_cases[f"OnnxBackend{category}ModelTest"]).items()
            if name.startswith("test_") and name.endswith("_cpu")}


def expected_failures() -> dict[str, str]:
    """The tests that fail, and why."""
    lines = [line for line in EXPECTED.read_text().splitlines() if line and not line.startswith("#")]
    known = dict(line.split(" ", 1) for line in lines)
    if importlib.util.find_spec("PIL") is None:
        known.update((name, "needs the package pillow") for name in items() if name.startswith("test_image_decoder"))
    return known


def failure(name: str) -> str | None:
    """Why a test fails; None when it passes or the runner leaves it out."""
    case = type("Case", (unittest.TestCase,), {name: items()[name]})(name)
    result = unittest.TestResult()
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as models:
        warnings.simplefilter("ignore")
        with mock.patch.dict(os.environ, ONNX_MODELS=models):      # where the runner puts feeds of whole models
            case.run(result)
    found = [text for _, text in (*result.failures, *result.errors)]
    return found[0].strip().splitlines()[-1] if found else None


def main(share: str = "0/1") -> int:
    """Runs a share of the tests; 0 when just those fail that are expected to."""
    known, wrong = expected_failures(), 0
    first, step = map(int, share.split("/"))
    names = sorted(items())[first::step]
    for name in names:
        found = failure(name)
        if (found is not None) != (name in known):
            wrong += 1
            print(name, found or "passes", flush=True)
    print(f"{len(names)} tests, {wrong} differences from the lists")
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
