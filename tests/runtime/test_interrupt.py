"""Long calls that leave the main thread open to signals: an exception that comes just when the call has ended."""

from __future__ import annotations

import _thread
import atexit
import threading
import types
from typing import Any

import numpy as np
import pytest

import onnxc
from onnxc.runtime import interrupt, program
from tests.session import models


class Late(Exception):
    """What a signal handler raises."""


class LateLock:
    """A lock that, once it has been acquired by waiting, lets one exception through, as a signal handler does that runs
    between that and the next instruction."""

    def __init__(self) -> None:
        self.lock, self.is_late = _thread.allocate_lock(), False

    def acquire(self, *arguments: Any, **named: Any) -> bool:
        waits = self.lock.locked() and not arguments and not named
        got = self.lock.acquire(*arguments, **named)
        if waits and not self.is_late:
            self.is_late = True
            raise Late
        return got

    def release(self) -> None:
        self.lock.release()

    def locked(self) -> bool:
        return self.lock.locked()


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Locks are late; what is registered for the end of the process."""
    monkeypatch.setattr(interrupt, "_thread", types.SimpleNamespace(
        allocate_lock=LateLock, start_new_thread=_thread.start_new_thread))
    registered: list[Any] = []
    monkeypatch.setattr(atexit, "register", lambda *what: registered.append(what))
    return registered


def in_time(call: Any) -> None:
    """Fails where `call`, which raises Late, takes longer than a few seconds."""
    raised = []

    def run() -> None:
        try:
            call()
        except Late:
            raised.append(True)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(10)
    assert raised, "the exception did not come"


def test_a_stoppable_call_that_ended_is_not_waited_for(late: list[Any]) -> None:
    stopped: list[bool] = []
    in_time(lambda: interrupt.call_stoppable(lambda: 1, lambda: stopped.append(True)))


def test_an_abandoned_call_that_ended_holds_nothing_up(late: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupt, "in_main_thread", lambda: True)
    in_time(lambda: interrupt.give_up_on_interrupt(lambda: 1))
    assert not late, "the end of the process would wait"


def test_runs_that_will_be_short_are_made_in_the_main_thread(monkeypatch: pytest.MonkeyPatch):
    """A decoder has other sizes each step, and a thread for each would take longer than many a step."""
    stoppable = []
    monkeypatch.setattr(program, "call_stoppable",
                        lambda call, *args: (stoppable.append(1), interrupt.call_stoppable(call, *args))[1])
    session = onnxc.InferenceSession(models.sums().SerializeToString())
    for rows, expected in ((2, 1), (2, 1), (3, 1), (1, 1), (1000, 2), (1000, 2), (1900, 2)):
        x = np.ones((rows, 3), np.float32)
        session.run(None, {"x": x, "y": x})
        assert len(stoppable) == expected
