"""One session in many threads, forked children, and runs that are stopped."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import onnxc
from onnxc.errors import Cancelled
from tests.session import models

ROOT = Path(__file__).resolve().parents[2]


def rows_of(count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, 32)).astype(np.float32)


@pytest.fixture(scope="module")
def chain():
    return onnxc.InferenceSession(models.chain(4).SerializeToString())


def test_many_threads_with_mixed_shapes_equal_one(chain):
    sizes = [0, 1, 2, 7, 33, 64, 100, 257]
    expected = {n: chain.run(None, {"x": rows_of(n)})[0] for n in sizes}
    before = chain.statistics()["runs"]

    def work(seed: int) -> int:
        for n in np.random.default_rng(seed).choice(sizes, 60):
            (y,) = chain.run(None, {"x": rows_of(n)})
            # Each element is one sum in one order, whichever thread takes it.
            np.testing.assert_array_equal(y, expected[n])
        return 60

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, range(8))) == 480
    assert chain.statistics()["runs"] == before + 480


def test_sessions_come_and_go_in_threads():
    data = models.sums().SerializeToString()
    compiled = onnxc.compile(data)
    from onnxc.runtime.program import NativeProgram
    x = np.ones((500, 3), np.float32)

    def work(_: int) -> float:
        return float(NativeProgram(compiled, threads=3).run([x, x])[0].sum())

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(work, range(40))) == {3000.0}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_forked_child_goes_on_with_the_session(chain):
    x = rows_of(3000)
    expected = chain.run(None, {"x": x})[0]
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            chain.run(None, {"x": x})

    other = threading.Thread(target=busy)
    other.start()
    try:
        for _ in range(5):
            child = os.fork()
            if child == 0:
                good = np.array_equal(chain.run(None, {"x": x})[0], expected)
                os._exit(0 if good else 3)
            assert wait_for(child, 30) == 0
    finally:
        stop.set()
        other.join()
    np.testing.assert_array_equal(chain.run(None, {"x": x})[0], expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_a_program_that_a_thread_compiles(chain, monkeypatch):
    compiling, go_on = threading.Event(), threading.Event()
    build = type(chain._programs)._build

    def slowly(self, variant):
        compiling.set()
        go_on.wait(60)
        return build(self, variant)

    monkeypatch.setattr(type(chain._programs), "_build", slowly)
    inside = chain.get_outputs()[0].name
    other = threading.Thread(target=lambda: chain.run(None, {"x": rows_of(1)}, taps=[inside]))
    other.start()
    assert compiling.wait(60)
    try:
        child = os.fork()
        if child == 0:
            os._exit(0 if chain.statistics()["runs"] >= 0 and len(chain.run(None, {"x": rows_of(2)})) == 1 else 3)
        assert wait_for(child, 20) == 0
    finally:
        go_on.set()
        other.join()


def wait_for(child: int, seconds: float) -> int:
    """The exit status of a child, which is killed when it takes too long (status -9)."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -9


def test_a_session_goes_to_another_process():
    session = onnxc.InferenceSession(models.sums().SerializeToString())
    code = ("import pickle, sys, numpy as np\n"
            "x = np.ones((2, 3), np.float32)\n"
            "print(pickle.load(sys.stdin.buffer).run(['z'], {'x': x, 'y': x})[0].sum())\n")
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(session), cwd=ROOT, capture_output=True,
                          timeout=120, check=False)
    assert done.stdout.strip() == b"12.0", done.stderr.decode()


def test_a_run_under_way_is_stopped_and_the_next_one_is_right():
    session = onnxc.InferenceSession(models.chain(40, 256).SerializeToString())
    x = np.random.default_rng(0).standard_normal((4000, 256)).astype(np.float32)
    start = time.perf_counter()
    (expected,) = session.run(None, {"x": x})
    whole = time.perf_counter() - start
    stopped = 0
    for part in (0.02, 0.1, 0.3, 0.5):
        options = onnxc.RunOptions()
        timer = threading.Timer(whole * part, lambda o=options: setattr(o, "terminate", True))
        timer.start()
        try:
            session.run(None, {"x": x}, options)
        except Cancelled:
            stopped += 1
        timer.cancel()
    # A busy machine may let the timer come too late, but not every time.
    assert stopped > 0
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], expected)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_kernel_under_way_is_stopped(threads):
    """One product of about a second. A busy machine may take the processor away, but not every time."""
    options = onnxc.SessionOptions()
    options.intra_op_num_threads = threads
    model = models.model([models.node("MatMul", "x w", "y")],
                         [models.value("x", ["N", 1024]), models.value("w", [1024, 1024])],
                         [models.value("y", ["N", 1024])])
    session = onnxc.InferenceSession(model.SerializeToString(), options)
    x, w = np.zeros((40_000, 1024), np.float32), np.zeros((1024, 1024), np.float32)
    delays: list[float] = []
    while not delays or (min(delays) >= 0.05 and len(delays) < 10):
        run, set_at = onnxc.RunOptions(), []
        timer = threading.Timer(0.05, lambda run=run, at=set_at: (at.append(time.perf_counter()),
                                                                 setattr(run, "terminate", True)))
        timer.start()
        with pytest.raises(Cancelled):
            session.run(None, {"x": x, "w": w}, run)
        delays.append(time.perf_counter() - set_at[0])
    assert min(delays) < 0.05
