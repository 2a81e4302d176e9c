"""Write the list of refused operator cases: `python -m tests.lowerings.bless`."""

from __future__ import annotations

from tests.lowerings.node_cases import all_cases, outcomes
from tests.lowerings.test_onnx_nodes import REFUSED

HEAD = "# Cases of the onnx package that are refused, and the op; written by `python -m tests.lowerings.bless`.\n"

if __name__ == "__main__":
    found = outcomes(frozenset(c.name for c in all_cases()))
    lines = sorted(f"{name} {text.removeprefix('refused: ')}\n" for name, text in found if text.startswith("refused: "))
    REFUSED.write_text(HEAD + "".join(lines))
    print(f"{len(lines)} cases are refused")
