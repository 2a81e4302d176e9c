"""Long calls into native code that leave the main thread open to signals.

Python runs signal handlers in the main thread only, and there only between two of its own instructions: a call that
stays in native code would hold Ctrl-C up until it returns. Here another thread makes the call while the main thread
waits on a lock, which handlers interrupt.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

__all__ = ["call_stoppable", "give_up_on_interrupt", "in_main_thread"]

T = TypeVar("T")

_STEP = 0.02        # seconds between two looks at what else may stop a call
_GRACE = 1.0        # seconds that an abandoned call may take to notice


def in_main_thread() -> bool:
    """Whether handlers of signals would run in this thread."""
    return threading.current_thread() is threading.main_thread()


class _Call(Generic[T]):
    """One call in a thread of its own. `claim` is taken by whoever decides first: the thread that the call is made, or
    the caller that it shall not be. The thread opens `done` at its end, after it has set `ended`: a caller may have
    passed `done` and yet have an exception raised before it knows."""

    def __init__(self, call: Callable[[], T]) -> None:
        self.call, self.result, self.error, self.ended = call, None, None, False
        self.claim, self.done = _thread.allocate_lock(), _thread.allocate_lock()
        self.done.acquire()

    call: Callable[[], T]
    result: T | None
    error: BaseException | None

    def run(self) -> None:
        if not self.claim.acquire(False):
            return
        try:
            self.result = self.call()
        except BaseException as error:
            self.error = error
        finally:
            self.ended = True
            self.done.release()

    def never_begins(self) -> bool:
        """Forbids a call that has not begun; whether that came in time."""
        return self.claim.acquire(False)

    def outcome(self) -> T:
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]


def call_stoppable(call: Callable[[], T], stop: Callable[[], None], look: Callable[[], None] | None = None) -> T:
    """The result of `call()`. What a signal handler raises meanwhile is raised after `stop()` was called and the call
    has returned, so that nothing it uses is in use any longer. `look` is called every 20 ms."""
    work = _Call(call)
    try:
        _thread.start_new_thread(work.run, ())
        if look is None:
            work.done.acquire()
        while look is not None and not work.done.acquire(timeout=_STEP):
            look()
    except BaseException:
        if not work.never_begins():
            stop()
            _wait(work)
        raise
    return work.outcome()


def _wait(work: _Call[Any]) -> None:
    """Waits for the end of a call, whatever handlers raise."""
    while not work.ended:
        with contextlib.suppress(BaseException):
            work.done.acquire(timeout=_STEP)


def give_up_on_interrupt(call: Callable[[], T]) -> T:
    """The result of `call()`, which touches nothing that anyone else uses. What a signal handler raises is raised
    within a second or so; the call goes on to its end, and so should be told by its caller to come to it soon. Nothing
    is raised in its thread: an exception between any two instructions would leave native objects half released."""
    if not in_main_thread():
        return call()
    work = _Call(call)
    try:
        _thread.start_new_thread(work.run, ())
        work.done.acquire()
    except BaseException:
        if not work.never_begins():
            _abandon(work)
        raise
    return work.outcome()


def _abandon(work: _Call[Any]) -> None:
    if not work.ended and not work.done.acquire(timeout=_GRACE):
        # Native code must not outlive what the end of the process destroys.
        atexit.register(work.done.acquire, True, 60)
