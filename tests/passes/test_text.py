"""Passes on text: every `*.ir` file beside this one holds cases of input IR, the passes to run, and the IR that must
result.

    ; case: a name
    ; run: canonicalize, fold
    <module>
    ; ----
    <module as it must print>

`pytest tests/passes --bless` writes what the passes print now; read the difference before you commit it. The result is
verified, and printed with its constants written out.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from onnxc.ir.parser import parse_module
from onnxc.ir.printer import print_module
from onnxc.ir.verify import verify
from onnxc.ops import load_all
from onnxc.passes import pipeline

HERE = Path(__file__).parent
load_all()


def split_cases(text: str) -> dict[str, tuple[str, str, str]]:
    """name -> (passes, input, expected)."""
    out = {}
    for part in re.split(r"(?m)^; case: ", text)[1:]:
        name, rest = part.split("\n", 1)
        head, rest = rest.split("\n", 1)
        assert head.startswith("; run: "), f"case {name}: '; run:' has to follow, not {head!r}"
        before, _, after = rest.partition("; ----\n")
        out[name.strip()] = (head.removeprefix("; run: "), before, after)
    return out


CASES = [(path.name, name) for path in sorted(HERE.glob("*.ir")) for name in split_cases(path.read_text())]


def run_case(passes: str, text: str) -> str:
    module = parse_module(text)
    verify(module)
    context = pipeline.Context()
    pipeline.run(module, context, pipeline.passes_named([p.strip() for p in passes.split(",")]))
    verify(module, 2)
    return print_module(module, inline=True)


@pytest.mark.parametrize(("file", "case"), CASES, ids=[f"{f}:{c}" for f, c in CASES])
def test_case(file: str, case: str, request: pytest.FixtureRequest) -> None:
    passes, before, expected = split_cases((HERE / file).read_text())[case]
    found = run_case(passes, before)
    if request.config.getoption("--bless") and found.strip() != expected.strip():
        bless(HERE / file, case, found)
        return
    assert found.strip() == expected.strip()


def bless(path: Path, case: str, found: str) -> None:
    cases = split_cases(path.read_text())
    cases[case] = (*cases[case][:2], found)
    path.write_text("\n".join(f"; case: {name}\n; run: {passes}\n{before.strip()}\n; ----\n{after.strip()}\n"
                              for name, (passes, before, after) in cases.items()))


def test_every_tensor_pass_has_a_case() -> None:
    """Passes without a case are untested in text; what the driver supplies is tested with its layer."""
    run = {p.strip() for path in HERE.glob("*.ir") for passes, _, _ in split_cases(path.read_text()).values()
           for p in passes.split(",")}
    missing = {p.name for p in pipeline.PIPELINE if p.run is not None} - run
    assert {re.sub(r"-\d$", "", m) for m in missing} <= {re.sub(r"-\d$", "", r) for r in run}


def test_every_rule_has_a_case_that_fires_it() -> None:
    from onnxc.passes import attention, byte_flow, canonicalize, layout, quant, scale_contract

    fired: set[str] = set()
    for path in HERE.glob("*.ir"):
        for passes, before, _ in split_cases(path.read_text()).values():
            context = pipeline.Context()
            pipeline.run(parse_module(before), context, pipeline.passes_named([p.strip() for p in passes.split(",")]))
            fired |= set(context.log.counts())
    rules = {r.name for m in (canonicalize, layout, scale_contract, byte_flow) for r in m._RULES}
    rules |= {r.name for r in (quant._contract_bytes, quant._requantise, attention._attention)}
    assert rules <= fired, f"rules that no case fires: {sorted(rules - fired)}"
