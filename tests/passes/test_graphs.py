"""Random graphs of tensor ops: whatever the passes make of them gives what the reference column gives."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.graphs.check import OPTIONAL, check_graph, check_native, expected
from tests.graphs.choices import drawn, replayed, seeded, shrink
from tests.graphs.grow import grow


@settings(max_examples=60)
@given(data=st.data())
def test_any_graph_through_any_choice_of_passes(data: st.DataObject) -> None:
    graph = grow(drawn(data.draw), 16)
    left_out = data.draw(st.sampled_from([(), OPTIONAL, *((name,) for name in OPTIONAL)]))
    check_graph(graph, expected(graph), left_out)


@pytest.mark.parametrize("left_out", [(), OPTIONAL, *((name,) for name in OPTIONAL)],
                         ids=["all", "required", *(f"no-{name}" for name in OPTIONAL)])
def test_seeds_with_passes_left_out(left_out: tuple[str, ...]) -> None:
    for seed in range(25):
        graph = grow(seeded(seed + 100 * len(left_out)))
        check_graph(graph, expected(graph), left_out)


@pytest.mark.parametrize("seed", range(24))
def test_seeds_natively(seed: int) -> None:
    graph = grow(seeded(seed))
    check_native(graph, expected(graph), threads=1 + seed % 3)


def test_every_number_of_rewrites_leaves_a_right_graph() -> None:
    """So that a wrong rewrite is found by bisecting the fuel."""
    seen = 0
    for seed in (9, 122, 138, 143):
        graph = grow(seeded(seed), 40)
        wanted = expected(graph)
        total = check_graph(graph, wanted)
        for fuel in range(total + 1):
            assert check_graph(graph, wanted, fuel=fuel) == fuel
        seen += total
    assert seen > 20


def test_shrinking_finds_the_cause() -> None:
    def fails(taken: list[int]) -> bool:
        return any(op.name == "t.scan" for op in grow(replayed(taken)).module.walk())

    seed = next(s for s in range(100) if fails(_taken(s)))
    names = [op.name for op in grow(replayed(shrink(_taken(seed), fails))).module.walk()]
    assert "t.scan" in names and len(names) <= 4


def _taken(seed: int) -> list[int]:
    choices = seeded(seed)
    grow(choices)
    return choices.taken
