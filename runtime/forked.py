"""What a forked child begins anew: the threads of its parent do not exist there, and what they held stays held."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any, Protocol

__all__ = ["ChildSafeLock", "begin_anew_in_child"]


class _Forked(Protocol):
    def _start_afresh(self) -> None: ...


_LIVE: weakref.WeakSet[Any] = weakref.WeakSet()


def begin_anew_in_child(thing: _Forked) -> None:
    """Has `thing._start_afresh()` called in each forked child, as long as there is the thing."""
    _LIVE.add(thing)


class ChildSafeLock:
    """A lock that is free in a forked child, whoever holds it in the parent."""

    def __init__(self) -> None:
        self._start_afresh()
        self._held = self._lock         # the one that was taken: a thread may fork while it holds it
        begin_anew_in_child(self)

    def _start_afresh(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        lock = self._lock
        lock.acquire()
        self._held = lock

    def __exit__(self, *_: object) -> None:
        self._held.release()


def _after_fork_in_child() -> None:
    for thing in list(_LIVE):
        thing._start_afresh()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
