"""Loops and branches, on the program interpreter and natively, against ONNX's reference evaluator."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

import onnxc
from onnxc.errors import InvalidArgument, OnnxcError
from tests.dynamic.check import body, check, model, node, ort_results

F = np.float32


def counted(n: object) -> np.ndarray:
    return np.asarray(n, np.int64)


def test_a_loop_over_time_carries_and_stacks() -> None:
    inner = body([node("Gather", "x i", "row", axis=0), node("Add", "h row", "sum"), node("Tanh", "sum", "h2"),
                  node("Mul", "h2 h2", "y")], ["i", "go", "h"], ["go", "h2", "y"])
    m = model([node("Shape", "x", "shape", start=0, end=1), node("Squeeze", "shape", "n"),
               node("Loop", "n _ h0", "last ys", body=inner)],
              {"x": (F, ["T", "C"]), "h0": (F, ["C"])}, ["last", "ys"])
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.standard_normal((t, c), F), "h0": rng.standard_normal(c, F)} for t, c in ((5, 3), (1, 1), (0,
        2), (9, 65))]
    check(m, feeds, tolerance=1e-6)


def test_carried_values_change_places() -> None:
    """(a, b, c) -> (b, a + b, b): one value arrives in two places, and another without being computed."""
    inner = body([node("Add", "a b", "s"), node("Identity", "b", "b1"), node("Identity", "b", "b2")],
                 ["i", "go", "a", "b", "c"], ["go", "b1", "s", "b2", "s"])
    m = model([node("Loop", "n _ a0 b0 c0", "a b c all", body=inner)], {k: (F, ["N"]) for k in ("a0", "b0", "c0")},
              ["a", "b", "c", "all"], {"n": counted(7)})
    check(m, [{k: np.arange(3, dtype=F) + i for i, k in enumerate(("a0", "b0", "c0"))}])


def test_what_stands_still_is_carried_as_it_is() -> None:
    """A value from outside, a constant, the argument itself, and a row of another result."""
    inner = body([node("Identity", "x", "p"), node("Constant", "", "q", value_floats=[1.0, 2.0]), node("Identity", "c",
        "c2"),
                  node("Add", "d x", "d2"), node("Identity", "d2", "row")],
                 ["i", "go", "a", "b", "c", "d"], ["go", "p", "q", "c2", "d2", "row"])
    m = model([node("Loop", "n _ x y x y", "a b c d rows", body=inner)], {"x": (F, [2]), "y": (F, [2])},
              ["a", "b", "c", "d", "rows"], {"n": counted(4)})
    check(m, [{"x": np.array([1, 5], F), "y": np.array([-1, 0.5], F)}])


@pytest.mark.parametrize("start", [0.0, 3.0, 1000.0])
def test_a_condition_ends_a_loop(start: float) -> None:
    inner = body([node("Add", "v v", "twice"), node("Add", "twice one", "v2"), node("ReduceMax", "v2", "top",
                                                                                    keepdims=0),
                  node("Less", "top limit", "on")], ["i", "go", "v"], ["on", "v2", "v2"], {"on": np.bool_})
    m = model([node("ReduceMax", "v0", "top0", keepdims=0), node("Less", "top0 limit", "first"),
               node("Loop", "n first v0", "v vs", body=inner), node("ReduceSum", "vs axis", "total", keepdims=0)],
              {"v0": (F, ["N"])}, ["v", "vs", "total"],
              {"one": F(1), "limit": F(100), "n": counted(20), "axis": counted([0])})
    feeds = [{"v0": np.array([start, 0], F)}, {"v0": np.array([start, 1, 2], F)}]
    # Of no rows, ONNX Runtime does not know the shape.
    check(m, feeds, [[f["v0"], np.zeros((0, f["v0"].size), F), np.zeros_like(f["v0"])] for f in feeds] if start > 100
          else None)


def test_a_loop_without_a_trip_count() -> None:
    inner = body([node("Mul", "v half", "v2"), node("ReduceMax", "v2", "top", keepdims=0), node("Greater", "top one",
        "on"),
                  node("Add", "k step", "k2")], ["i", "go", "v", "k"], ["on", "v2", "k2"],
                 {"on": np.bool_, "k": np.int64, "k2": np.int64})
    m = model([node("Loop", "_ yes v0 k0", "v k", body=inner)], {"v0": (F, ["N"])}, ["v", "k"],
              {"half": F(0.5), "one": F(1), "yes": np.asarray(True), "step": counted(1), "k0": counted(0)})
    check(m, [{"v0": np.array([200, 3], F)}, {"v0": np.array([0.25], F)}])


def test_the_trip_count_may_come_from_data() -> None:
    inner = body([node("Add", "v v", "v2")], ["i", "go", "v"], ["go", "v2"])
    m = model([node("ReduceMax", "k", "n", keepdims=0), node("Loop", "n _ v0", "v", body=inner)],
              {"k": (np.int64, ["K"]), "v0": (F, ["N"])}, ["v"])
    check(m, [{"k": counted([1, 3, 2]), "v0": np.ones(2, F)}, {"k": counted([0]), "v0": np.ones(3, F)}])


def test_loops_in_loops_and_branches_in_loops() -> None:
    """Row i of a is doubled i times, or negated where its sum is negative."""
    double = body([node("Add", "w w", "w2")], ["i2", "go2", "w"], ["go2", "w2"], {"i2": np.int64, "go2": np.bool_})
    then = body([node("Neg", "row", "r1")], [], ["r1"])
    other = body([node("Loop", "i _ row", "r2", body=double)], [], ["r2"])
    inner = body([node("Gather", "a i", "row", axis=0), node("ReduceSum", "row", "sum", keepdims=0),
                  node("Less", "sum zero", "low"), node("If", "low", "r", then_branch=then, else_branch=other),
                  node("Add", "acc r", "acc2")], ["i", "go", "acc"], ["go", "acc2", "r"])
    m = model([node("Shape", "a", "s", start=0, end=1), node("Squeeze", "s", "n"), node("Loop", "n _ acc0", "acc rows",
                                                                                        body=inner)],
              {"a": (F, ["T", "C"]), "acc0": (F, ["C"])}, ["acc", "rows"], {"zero": F(0)})
    rng = np.random.default_rng(3)
    check(m, [{"a": rng.integers(-4, 5, (t, c)).astype(F), "acc0": np.zeros(c, F)} for t, c in ((6, 3), (0, 1), (4,
        17))])


def test_branches_may_differ_in_shape() -> None:
    then = body([node("Concat", "x x", "p", axis=0), node("Identity", "x", "q")], [], ["p", "q"])
    other = body([node("Neg", "x", "r"), node("Constant", "", "s", value_floats=[7.0])], [], ["r", "s"])
    m = model([node("ReduceSum", "x", "sum", keepdims=0), node("Greater", "sum zero", "high"),
               node("If", "high", "u v", then_branch=then, else_branch=other), node("Exp", "u", "y"), node("Shape",
                   "v", "n")],
              {"x": (F, ["N"])}, ["y", "v", "n"], {"zero": F(0)})
    check(m, [{"x": np.array(x, F)} for x in ([1, 2, 3], [-1, -2], [], [5])], tolerance=1e-6)


@pytest.mark.parametrize("direction", [0, 1])
def test_scans_go_either_way_along_any_axis(direction: int) -> None:
    inner = body([node("Add", "s e", "s2"), node("Mul", "s2 e", "y")], ["s", "e"], ["s2", "y"])
    m = model([node("Scan", "s0 x", "s ys", body=inner, num_scan_inputs=1, scan_input_axes=[1],
                    scan_input_directions=[direction], scan_output_axes=[-1], scan_output_directions=[1 - direction])],
              {"s0": (F, ["N"]), "x": (F, ["N", "T"])}, ["s", "ys"])
    rng = np.random.default_rng(5)
    feeds = [{"s0": rng.standard_normal(n, F), "x": rng.standard_normal((n, t), F)} for n, t in ((3, 4), (1, 1), (2,
        0))]
    expected = []
    for f in feeds:
        s, rows = f["s0"], []
        for t in range(f["x"].shape[1]):
            e = f["x"][:, -1 - t if direction else t]
            s = s + e
            rows.append(s * e)
        rows = rows if direction else rows[::-1]
        expected.append([s, np.stack(rows, -1) if rows else np.zeros((len(s), 0), F)])
    check(m, feeds, expected, tolerance=1e-6)


@pytest.mark.parametrize("size", [2, "N"])
def test_a_value_that_changes_its_shape_is_carried_by_the_host(size) -> None:
    """The loop is a host step, what it computes stays native; it is compiled before the first run."""
    grows = body([node("Concat", "v v", "v2", axis=0), node("Exp", "v", "e"), node("ReduceSum", "e axis", "row")],
                 ["i", "go", "v"], ["go", "v2", "row"])
    m = model([node("Loop", "n _ v0", "v rows", body=grows)], {"v0": (F, [size])}, ["v", "rows"],
              {"n": counted(3), "axis": counted([0])})
    session = onnxc.InferenceSession(m.SerializeToString())
    assert session.report()["host_ops"] == ["Loop (Loop_v)"]
    assert session.statistics()["kernels"] > 0
    feed = {"v0": np.array([1, 2], F)}
    for got, want in zip(session.run(None, feed), ort_results(m, [feed])[0], strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_a_shape_that_data_changes_is_an_error() -> None:
    """What is carried gets its size from data: the one that it began with is demanded."""
    inner = body([node("NonZero", "v", "at"), node("Gather", "at zero", "row", axis=0),
                  node("Cast", "row", "v2", to=1)], ["i", "go", "v"], ["go", "v2"])
    m = model([node("Loop", "n _ v0", "v", body=inner)], {"v0": (F, ["N"])}, ["v"],
              {"n": counted(1), "zero": counted(0)})
    session = onnxc.InferenceSession(m.SerializeToString())
    np.testing.assert_array_equal(session.run(None, {"v0": np.array([5, 6], F)})[0], [0, 1])
    with pytest.raises(InvalidArgument, match="changes its shape"):
        session.run(None, {"v0": np.array([5, 0], F)})


def test_rows_of_as_many_iterations_as_data_says() -> None:
    """Nothing bounds them when a run starts; what follows works on the real number, and one output has none at all."""
    inner = body([node("Add", "v v", "v2")], ["i", "go", "v"], ["go", "v2", "v2"])
    m = model([node("Loop", "n _ v0", "v vs", body=inner), node("MatMul", "vs w", "z"), node("ReduceSum", "vs axis",
        "s")],
              {"n": (np.int64, []), "v0": (F, [2])}, ["v", "vs", "z", "s"],
              {"w": np.ones((2, 3), F), "axis": counted([0])})
    check(m, [{"n": counted(n), "v0": np.array([1, 2], F)} for n in (3, 1, 20)])


@pytest.mark.parametrize("count", ["n", "_"])
def test_rows_that_nothing_bounds_before_a_run_are_stacked_by_the_host(count) -> None:
    inner = body([node("Mul", "v half", "v2"), node("ReduceMax", "v2", "top", keepdims=0),
                  node("Greater", "top one", "on")], ["i", "go", "v"], ["on", "v2", "v2"], {"on": np.bool_})
    m = model([node("Loop", f"{count} _ v0", "v vs", body=inner)], {"n": (np.int64, []), "v0": (F, ["N"])}, ["v", "vs"],
              {"one": F(1), "half": F(0.5)})
    session = onnxc.InferenceSession(m.SerializeToString())
    assert session.report()["host_ops"] == ["Loop (Loop_v)"]
    for feed in ({"n": counted(30), "v0": np.array([100, 3], F)}, {"n": counted(4), "v0": np.array([0.5], F)}):
        for got, want in zip(session.run(None, feed), ort_results(m, [feed])[0], strict=True):
            np.testing.assert_array_equal(got, want)


def test_runs_at_the_same_time_have_symbols_of_their_own(tmp_path: Path) -> None:
    """Each thread's loop ends after another number of iterations; also from an artifact."""
    inner = body([node("Add", "v one", "v2"), node("ReduceMax", "v2", "top", keepdims=0), node("Less", "top limit",
        "on")],
                 ["i", "go", "v"], ["on", "v2", "v2"], {"on": np.bool_})
    m = model([node("Loop", "n yes v0", "v vs", body=inner)], {"v0": (F, ["N"])}, ["v", "vs"],
              {"one": F(1), "limit": F(50), "n": counted(200), "yes": np.asarray(True)})
    session = onnxc.InferenceSession(m.SerializeToString())
    wrong: list[str] = []

    def work(k: int) -> None:
        for _ in range(40):
            rows = session.run(["vs"], {"v0": np.array([k], F)})[0]
            if rows.shape != (50 - k, 1) or not np.array_equal(rows[:, 0], np.arange(k + 1, 51, dtype=F)):
                wrong.append(f"{k}: {rows.shape}")

    threads = [threading.Thread(target=work, args=(k,)) for k in range(0, 48, 6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_errors_name_the_loop() -> None:
    inner = body([node("Gather", "x j", "row", axis=0), node("Add", "h row", "h2")], ["i", "go", "h"], ["go", "h2"])
    m = model([node("Loop", "n _ h0", "h", body=inner)], {"x": (F, ["T"]), "j": (np.int64, []), "h0": (F, [])}, ["h"],
              {"n": counted(2)})
    session = onnxc.InferenceSession(m.SerializeToString())
    assert session.run(None, {"x": np.array([1, 2], F), "j": counted(1), "h0": np.zeros((), F)})[0] == 4
    with pytest.raises(OnnxcError, match="out of range"):
        session.run(None, {"x": np.array([1, 2], F), "j": counted(2), "h0": np.zeros((), F)})
