"""`run_async`, on both engines where they agree, and `close`."""

from __future__ import annotations

import gc
import os
import threading
import time

import numpy as np
import pytest

import onnxc
from tests.session import models

X = np.arange(6, dtype=np.float32).reshape(2, 3)


class Waiting:
    """A callback that can be waited for."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.calls: list[tuple] = []

    def __call__(self, *arguments) -> None:
        self.calls.append((*arguments, threading.get_ident()))
        self.done.set()

    def wait(self) -> tuple:
        assert self.done.wait(30)
        (call,) = self.calls
        return call


def two_threads(engine):
    options = engine.api.SessionOptions()
    options.intra_op_num_threads = 2
    return options


@pytest.fixture(scope="module")
def sums(engine):
    return engine.session(models.sums(), two_threads(engine))


def test_the_callback_gets_results_and_its_data_on_another_thread(sums):
    waiting, data = Waiting(), object()
    assert sums.run_async(["w", "z"], {"x": X, "y": X}, waiting, data) is None
    (w, z), user_data, error, thread = waiting.wait()
    np.testing.assert_array_equal(z, X + X)
    np.testing.assert_array_equal(w, -X - X)
    assert user_data is data
    assert error == ""
    assert thread != threading.get_ident()


@pytest.mark.parametrize(("names", "feed", "refusal"), [
    ([1], {}, TypeError), ("z", {}, TypeError), (1.5, {}, TypeError), (None, {"y": 1.0}, RuntimeError),
    (None, {"y": [[1.0], [1.0, 2.0]]}, RuntimeError), (None, {"q": [1.0]}, RuntimeError)])
def test_what_is_neither_names_nor_tensors_is_refused_at_once(sums, names, feed, refusal):
    with pytest.raises(refusal):
        sums.run_async(names, {"x": X, "y": X, **feed}, Waiting(), None)


def test_names_that_can_be_read_once(ours):
    waiting = Waiting()
    ours.session(models.sums()).run_async((name for name in "wz"), {"x": X, "y": X}, waiting, None)
    w, z = waiting.wait()[0]
    np.testing.assert_array_equal(w, -z)


def test_missing_inputs_are_refused_at_once_and_other_errors_go_to_the_callback(sums):
    waiting = Waiting()
    with pytest.raises(ValueError, match=r"\['y'\]"):
        sums.run_async(None, {"x": X}, waiting, None)
    sums.run_async(None, {"x": X, "y": X[0]}, waiting, None)
    results, _, error, _ = waiting.wait()
    assert list(results) == []
    assert error.startswith("Invalid rank for input: y Got: 1 Expected: 2")


def test_arguments_have_names_and_the_callers_data_is_required(engine, sums):
    waiting = Waiting()
    with pytest.raises(TypeError, match="user_data"):
        sums.run_async(None, {"x": X, "y": X}, waiting)
    sums.run_async(output_names=None, input_feed={"x": X, "y": X}, callback=waiting, user_data=None,
                   run_options=engine.api.RunOptions())
    results, data, error, _ = waiting.wait()
    assert (type(results), len(results), data, error) == (list, 2, None, "")


@pytest.mark.parametrize(("change", "text"), [
    ({"q": X}, "Invalid input name: q"), ({"x": X.astype(np.float64)}, "Unexpected input data type. Actual: "),
    ({"y": X[:, :2]}, "Got invalid dimensions for input: y for the following indices\n index: 1 Got: 2 Expected: 3"),
    ({"y": np.ones((5, 3), np.float32)}, "Non-zero status code returned while running Add node. Name:'add_z' Status"),
], ids=["name", "type", "size", "node"])
def test_errors_arrive_without_their_head(sums, change, text):
    waiting = Waiting()
    assert sums.run_async(None, {"x": X, "y": X, **change}, waiting, None) is None
    results, _, error, _ = waiting.wait()
    assert results == []
    assert error.startswith(text)


def test_an_unknown_output_goes_to_the_callback(sums):
    waiting = Waiting()
    sums.run_async(["nope"], {"x": X, "y": X}, waiting, None)
    assert waiting.wait()[2].replace(" ", "") == "Invalidoutputname:nope"


def test_a_session_that_was_dropped_runs_to_the_end(engine):
    session = engine.session(models.chain(20), two_threads(engine))
    waiting = Waiting()
    session.run_async(None, {"x": np.ones((500, 32), np.float32)}, waiting, None)
    del session
    gc.collect()
    results, _, error, _ = waiting.wait()
    assert (error, results[0].shape) == ("", (500, 32))


def test_an_exception_in_the_callback_is_reported_and_ends_nothing(ours, caplog):
    session = ours.session(models.sums())

    def fails(*_):
        raise KeyError("mine")

    session.run_async(None, {"x": X, "y": X}, fails, None)
    waiting = Waiting()
    session.run_async(None, {"x": X, "y": X}, waiting, None)
    assert waiting.wait()[2] == ""
    assert "Exception ignored in: 'InferenceSession.run_async callback'" in caplog.text
    assert "KeyError: 'mine'" in caplog.text


def test_one_thread_is_enough_and_calls_keep_their_order(ours):
    options = ours.api.SessionOptions()
    options.intra_op_num_threads = 1
    session = ours.session(models.sums(), options)
    order: list[int] = []
    for i in range(20):
        session.run_async(["z"], {"x": X + i, "y": X}, lambda r, i, e: order.append((i, float(r[0][0, 0]), e)), i)
    session.close()
    assert order == [(i, float(i), "") for i in range(20)]


def test_a_run_under_way_stops_within_50_ms(ours):
    """One thread and large products: a run notices between pieces of one kernel as well."""
    options = ours.api.SessionOptions()
    options.intra_op_num_threads = 1
    session = ours.session(models.chain(2, 1024), options)
    x = np.ones((20_000, 1024), np.float32)
    run, waiting = ours.api.RunOptions(), Waiting()
    session.run_async(None, {"x": x}, waiting, None, run)
    time.sleep(0.1)
    assert not waiting.done.is_set(), "the run was too short to be stopped"
    run.terminate = True
    begin = time.perf_counter()
    assert waiting.wait()[2] == "Exiting due to terminate flag being set to true."
    # 50 ms on an idle machine; others may have the processors.
    assert time.perf_counter() - begin < 0.5
    run.terminate = False
    assert len(session.run(None, {"x": x[:1]}, run)) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_a_worker_of_its_own(ours):
    session = ours.session(models.sums())
    waiting = Waiting()
    session.run_async(None, {"x": X, "y": X}, waiting, None)
    waiting.wait()
    child = os.fork()
    if child == 0:
        again = Waiting()
        session.run_async(None, {"x": X, "y": X}, again, None)
        os._exit(0 if again.done.wait(20) and again.calls[0][2] == "" else 3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_callback_may_close_its_session(ours):
    session = ours.session(models.sums())
    found, done = [], threading.Event()

    def close(results, *_):
        try:
            session.close()
        except Exception as error:
            found.append(error)
        done.set()

    session.run_async(None, {"x": X, "y": X}, close, None)
    assert done.wait(30)
    assert found == []
    with pytest.raises(onnxc.errors.NoModel):
        session.run(None, {"x": X, "y": X})


def test_what_is_no_function_is_refused_at_once(ours):
    with pytest.raises(TypeError, match="callback"):
        ours.session(models.sums()).run_async(None, {"x": X, "y": X}, None, None)


def test_a_closed_session_says_so_and_keeps_what_it_knows():
    with onnxc.InferenceSession(models.sums().SerializeToString()) as session:
        (z,) = session.run(["z"], {"x": X, "y": X})
    np.testing.assert_array_equal(z, X + X)
    assert [i.name for i in session.get_inputs()] == ["x", "y"]
    for use in (lambda: session.run(None, {"x": X, "y": X}), session.statistics, session.memory,
                lambda: session.run_async(None, {"x": X, "y": X}, print, None)):
        with pytest.raises(onnxc.errors.NoModel, match="was closed"):
            use()
    session.close()
