"""Long calls that leave the main thread open to signals: an exception that comes just when the call has ended."""

from __future__ import annotations

import _thread
import atexit
import threading
import types
from typing import Any

import pytest

from onnxc.runtime import interrupt


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
