"""The short forms of the stress commands, and what a session does when memory runs out or nothing is asked of it."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

import onnxc
from tests.session import models
from tests.stress.children import finish, start
from tests.stress.fork import fork_children
from tests.stress.interrupt import COMPILE_LIMIT, RUN_LIMIT, interrupt
from tests.stress.kill import kill_writers
from tests.stress.threads import run_in_threads


def test_killed_writers_leave_nothing_that_is_wrong():
    counts = kill_writers(5)
    assert (counts["wrong"], counts["right"]) == (0, 1)


@pytest.mark.parametrize(("what", "limit"), [("compile", COMPILE_LIMIT), ("run", RUN_LIMIT)])
def test_ctrl_c_is_heard(what, limit):
    delays = interrupt(what, 2, seed=1)
    assert min(delays) >= 0
    assert max(delays) <= limit


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forks():
    assert set(fork_children(10)) == {0}


def test_threads():
    assert run_in_threads(8, 50) == 0


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux")
def test_runs_leave_no_memory_behind():
    """In a process of its own, whose memory is nobody else's."""
    status, out, err = finish(start("from tests.stress.growth import *; print(grown(3000))", ONNXC_THREADS="2"), 120)
    assert status == 0, err
    assert int(out) <= 1 << 20


def test_a_session_that_waits_uses_no_processor():
    session = onnxc.InferenceSession(models.chain(4).SerializeToString())
    session.run(None, {"x": np.zeros((3000, 32), np.float32)})
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.05


_STARVED = """
import resource, numpy as np, onnxc
from tests.session import models
session = onnxc.InferenceSession(models.chain(3, 64).SerializeToString())
x = np.ones((100, 64), np.float32)
expected = session.run(None, {"x": x})[0]
big = np.ones((1_000_000, 64), np.float32)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
refused = 0
for room in range(0, 600, 100):
    resource.setrlimit(resource.RLIMIT_AS, (used + (room << 20), resource.RLIM_INFINITY))
    try:
        session.run(None, {"x": big})
    except MemoryError as error:
        refused += 1
        assert "memory" in str(error), error
    assert np.array_equal(session.run(None, {"x": x})[0], expected)
print(refused)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux")
def test_no_memory_is_a_memory_error_and_the_session_goes_on():
    status, out, err = finish(start(_STARVED, ONNXC_THREADS="1"), 120)
    assert status == 0, err
    # The output alone takes 244 MiB.
    assert int(out) >= 3
