"""ONNX's operator cases: each gives the expected results, or stands in `refused_nodes.txt` with the op that is refused.

The list is exact in both directions; `python -m tests.lowerings.bless` writes it anew.
"""

from __future__ import annotations

import pathlib

from tests.lowerings.node_cases import PASSED, all_cases, outcomes

REFUSED = pathlib.Path(__file__).with_name("refused_nodes.txt")


def expected_refusals() -> dict[str, str]:
    lines = [line for line in REFUSED.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split(" ", 1) for line in lines)  # type: ignore[misc]


def test_every_case_passes_or_is_listed() -> None:
    """One test, so that the cases are loaded and run once however many processes share the tests."""
    found = dict(outcomes(frozenset(c.name for c in all_cases())))
    refused = {name: text.removeprefix("refused: ") for name, text in found.items() if text.startswith("refused: ")}
    want = expected_refusals()
    problems = [f"{name}: {text}" for name, text in found.items() if text != PASSED and name not in refused]
    problems += [f"{name}: newly refused for {op}" for name, op in refused.items() if want.get(name) != op]
    problems += [f"{name}: no longer refused" for name in want if name not in refused]
    assert not problems, "\n".join(problems)
    assert sum(text == PASSED for text in found.values()) > 1600      # the loader has found the cases
