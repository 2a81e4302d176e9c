"""Forks with a live session, while another thread runs it; children run it, drop it, and open another.

    python -m tests.stress.fork --n 100
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time

import numpy as np

import onnxc
from tests.session import models


def fork_children(n: int, seconds: float = 30.0) -> list[int]:
    """Exit statuses of `n` children: 0 right, 3 wrong, -9 killed after `seconds`."""
    session = onnxc.InferenceSession(models.chain(4).SerializeToString())
    x = np.random.default_rng(0).standard_normal((3000, 32)).astype(np.float32)
    expected = session.run(None, {"x": x})[0]
    stop, statuses = threading.Event(), []

    def busy() -> None:
        while not stop.is_set():
            session.run(None, {"x": x})

    other = threading.Thread(target=busy)
    other.start()
    try:
        for i in range(n):
            child = os.fork()
            if child == 0:
                _child(session, x, expected, i)
            statuses.append(_wait(child, seconds))
    finally:
        stop.set()
        other.join()
    return statuses


def _child(session: onnxc.InferenceSession, x: np.ndarray, expected: np.ndarray, i: int) -> None:
    status = 3
    try:
        good = np.array_equal(session.run(None, {"x": x})[0], expected)
        del session
        if i % 10 == 0:
            again = onnxc.InferenceSession(models.sums().SerializeToString())
            good &= bool((again.run(["z"], {"x": x[:2, :3], "y": x[:2, :3]})[0] == 2 * x[:2, :3]).all())
        status = 0 if good else 3
    finally:
        os._exit(status)


def _wait(child: int, seconds: float) -> int:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -9


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=100)
    found = fork_children(parser.parse_args().n)
    print({status: found.count(status) for status in sorted(set(found))})
    raise SystemExit(any(found))
