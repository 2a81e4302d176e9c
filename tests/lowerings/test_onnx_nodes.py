"""ONNX's operator cases: each gives the expected results, or stands in `refused_nodes.txt` with the op that is refused.

The list is exact in both directions; `python -m tests.lowerings.bless` writes it anew.
"""

from __future__ import annotations

import pathlib

import pytest

from tests.lowerings.node_cases import PASSED, all_cases, outcomes

REFUSED = pathlib.Path(__file__).with_name("refused_nodes.txt")


@pytest.fixture(scope="module")
def found() -> dict[str, str]:
    """The outcome of every case."""
    return dict(outcomes(frozenset(c.name for c in all_cases())))


def expected_refusals() -> dict[str, str]:
    lines = [line for line in REFUSED.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split(" ", 1) for line in lines)  # type: ignore[misc]


def test_no_case_gives_something_else(found: dict[str, str]) -> None:
    wrong = [f"{name}: {text}" for name, text in found.items() if text != PASSED and not text.startswith("refused: ")]
    assert not wrong, "\n".join(wrong)


def test_refusals_are_those_listed(found: dict[str, str]) -> None:
    refused = {name: text.removeprefix("refused: ") for name, text in found.items() if text.startswith("refused: ")}
    want = expected_refusals()
    news = [f"{name} {op}" for name, op in refused.items() if want.get(name) != op]
    gone = [name for name in want if name not in refused]
    assert not news and not gone, "\n".join(["newly refused:", *news, "no longer refused:", *gone])


def test_most_cases_pass(found: dict[str, str]) -> None:
    """A guard against a loader that finds nothing."""
    assert sum(text == PASSED for text in found.values()) > 1000
