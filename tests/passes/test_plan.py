"""Memory plans of random programs, held by the proof, which must see every plan that is wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxc.ir.core import Block, Func, Module, Op, Ref, Value
from onnxc.ir.dims import DimLike, sym
from onnxc.ir.types import BOOL, F32, Mem
from onnxc.passes.check_plan import PlanError, check_plan
from onnxc.passes.plan_memory import plan_memory

N = sym("N")
SIZES: tuple[DimLike, ...] = (3, 16, 17, 100, N, N * 5, N * N + 1, 1000)


def program() -> Module:
    module = Module()
    module.add(Func("k", kind="kernel"))
    main = module.add(Func("main", [Mem(F32, (N,))], ["x"], kind="program"))
    main.attrs.update(symbols=("N",), inputs=1, guards=(), arena=None)
    return module


def alloc(block: Block, size: DimLike, name: str) -> Value:
    return block.append(Op("p.alloc", (), [Mem(F32, (size,))], {"offset": None}, names=[name])).result


def launch(block: Block, reads: list[Value], out: Value) -> None:
    block.append(Op("p.launch", [*reads, out], (), {"kernel": Ref("k"), "writes": (len(reads),)}))


@st.composite
def programs(draw: st.DrawFn) -> tuple[Module, list[tuple[Value, int, int]]]:
    """A program, and for each of its buffers when it is written and last read."""
    module = program()
    block, made = module.main.body, [(module.main.args[0], -1, -1)]
    for step in range(draw(st.integers(1, 14))):
        sources = [made[i] for i in draw(st.lists(st.integers(0, len(made) - 1), min_size=1, max_size=3, unique=True))]
        out = alloc(block, draw(st.sampled_from(SIZES)), f"b{step}")
        seen = [v for v, _, _ in sources]
        if draw(st.booleans()):
            seen[0] = block.append(Op("p.view", [seen[0]], [seen[0].type])).result
        launch(block, seen, out)
        made = [(v, first, step if any(v is s for s, _, _ in sources) else last) for v, first, last in made]
        made.append((out, step, step))
    return module, made[1:]


@given(case=programs())
def test_plans_hold_for_all_sizes(case: tuple[Module, list[tuple[Value, int, int]]]) -> None:
    module, _ = case
    plan_memory(module)
    for n in (0, 1, 7, 200):
        check_plan(module, {"N": n})


@given(case=programs(), data=st.data())
def test_two_live_buffers_in_one_place_are_seen(case: tuple[Module, list[tuple[Value, int, int]]],
                                               data: st.DataObject) -> None:
    module, made = case
    plan_memory(module)
    both = [(a, b) for a, begin, last in made for b, first, _ in made if begin < first <= last]
    if both:
        a, b = data.draw(st.sampled_from(both))
        b.op.attrs["offset"] = a.op.attrs["offset"]  # type: ignore[union-attr]
        module.main.attrs["arena"] = N * N * 64 + 100_000
        with pytest.raises(PlanError, match="is overwritten"):
            check_plan(module, {"N": 7})


def test_buffers_that_do_not_live_together_share_bytes() -> None:
    module = program()
    block = module.main.body
    chain = [module.main.args[0]]
    for i in range(20):
        out = alloc(block, N * 4, f"b{i}")
        launch(block, chain[-1:], out)
        chain.append(out)
    plan_memory(module)
    check_plan(module, {"N": 16})
    assert len({v.op.attrs["offset"] for v in chain[1:]}) == 2  # type: ignore[union-attr]


def carried_in_a_loop() -> tuple[Module, list[Value]]:
    """A loop whose carried value takes turns between two buffers, and a buffer from outside that it reads each time."""
    module = program()
    block = module.main.body
    outside, first, second = (alloc(block, 64, name) for name in ("outside", "first", "second"))
    launch(block, [], outside)
    launch(block, [], first)
    body = Block([first.type, second.type], ["now", "next"])
    launch(body, [body.args[0], outside], body.args[1])
    body.append(Op("yield", [body.args[1], body.args[0]]))
    loop = block.append(Op("p.loop", [first, second], [first.type, second.type], {
        "symbol": "i", "extent": 3, "conditional": False, "count": ""}, [body]))
    last = alloc(block, 64, "last")
    launch(block, [loop.results[0]], last)
    return module, [outside, first, second, last]


def test_loops_keep_what_they_carry_and_what_they_read() -> None:
    module, buffers = carried_in_a_loop()
    plan_memory(module)
    check_plan(module, {"N": 1})
    for a, b in ((0, 1), (0, 2), (1, 2), (2, 3)):
        module, buffers = carried_in_a_loop()
        plan_memory(module)
        buffers[b].op.attrs["offset"] = buffers[a].op.attrs["offset"]  # type: ignore[union-attr]
        with pytest.raises(PlanError):
            check_plan(module, {"N": 1})


def test_either_branch_keeps_what_it_gives() -> None:
    for spoilt in (None, 0, 1):
        module = program()
        block = module.main.body
        flag = block.append(Op("p.alloc", (), [Mem(BOOL, ())], {"offset": None}, names=["flag"])).result
        launch(block, [], flag)
        given, regions = [alloc(block, 64, "a"), alloc(block, 64, "b")], []
        for v in given:
            region = Block()
            launch(region, [], v)
            region.append(Op("yield", [v]))
            regions.append(region)
        branch = block.append(Op("p.if", [flag], [given[0].type], {}, regions, names=["r"]))
        other = alloc(block, 64, "other")
        launch(block, [], other)
        launch(block, [branch.results[0]], other)
        plan_memory(module)
        if spoilt is None:
            check_plan(module, {"N": 1})
        else:
            other.op.attrs["offset"] = given[spoilt].op.attrs["offset"]  # type: ignore[union-attr]
            with pytest.raises(PlanError):
                check_plan(module, {"N": 1})


def test_a_buffer_outside_of_the_arena_is_seen() -> None:
    module = program()
    out = alloc(module.main.body, 64, "b")
    launch(module.main.body, [], out)
    plan_memory(module)
    module.main.attrs["arena"] = 255
    with pytest.raises(PlanError, match="does not lie in the arena"):
        check_plan(module, {"N": 1})
