"""Locks in forked children."""

from __future__ import annotations

import os
import threading

import pytest

from onnxc.runtime.forked import ChildSafeLock

pytestmark = [pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
              pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")]


def in_child(lock: ChildSafeLock) -> int:
    """The exit status of a forked child that takes a lock, 0 when it gets it."""
    child = os.fork()
    if child == 0:
        thread = threading.Thread(target=lock.__enter__, daemon=True)
        thread.start()
        thread.join(10)
        os._exit(1 if thread.is_alive() else 0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_lock_that_another_thread_holds_is_free_in_a_child() -> None:
    lock, held, done = ChildSafeLock(), threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    try:
        assert in_child(lock) == 0
        assert not lock._lock.acquire(blocking=False)      # in the parent it is held
    finally:
        done.set()
        thread.join()
    with lock:
        pass


def test_the_thread_that_forks_may_hold_the_lock() -> None:
    lock = ChildSafeLock()
    parent, status = os.getpid(), 1
    try:
        with lock:
            child = os.fork()
        with lock:
            status = 0
    finally:
        if os.getpid() != parent:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
