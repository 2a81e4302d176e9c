"""A session's own thread, on which `run_async` runs: made when it is first needed, one call after another."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from onnxc.errors import OnnxcError

__all__ = ["Callback", "Worker"]

_LOG = logging.getLogger("onnxc")
_LIVE: weakref.WeakSet[Worker] = weakref.WeakSet()

#: Takes the results, the caller's own data, and the text of the error; no results or no text.
Callback = Callable[[list[Any], Any, str], object]


class Worker:
    """Calls functions in order on one thread, which ends with this object, or with the process when all are done."""

    _executor: ThreadPoolExecutor | None

    def __init__(self) -> None:
        self._start_afresh()
        _LIVE.add(self)

    def submit(self, call: Callable[[], list[Any]], callback: Callback, user_data: Any) -> None:
        """Has `callback` called with what `call` gives, or with the text of the exception that it raises."""
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(1, thread_name_prefix="onnxc-run-async")
            self._executor.submit(_report, call, callback, user_data)

    def close(self) -> None:
        """Waits for the calls so far and ends the thread; the next call starts one again."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown()

    def _start_afresh(self) -> None:
        self._lock = threading.Lock()
        self._executor = None


def _report(call: Callable[[], list[Any]], callback: Callback, user_data: Any) -> None:
    results: list[Any] = []
    text = ""
    try:
        results = call()
    except BaseException as error:
        text = (error.message if isinstance(error, OnnxcError) else str(error)) or type(error).__name__
    try:
        callback(results, user_data, text)
    except BaseException:
        _LOG.exception("Exception ignored in: 'InferenceSession.run_async callback'")


def _after_fork_in_child() -> None:
    for worker in list(_LIVE):
        worker._start_afresh()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
