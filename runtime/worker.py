"""A session's own thread, on which `run_async` runs: made when it is first needed, one call after another."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from onnxc.errors import OnnxcError
from onnxc.runtime.forked import begin_anew_in_child

__all__ = ["Callback", "Worker"]

_LOG = logging.getLogger("onnxc")
_HERE = threading.local()       # on a worker's thread: that worker's token

#: Takes the results, the caller's own data, and the text of the error; no results or no text.
Callback = Callable[[list[Any], Any, str], object]


class Worker:
    """Calls functions in order on one thread, which ends with this object, or with the process when all are done."""

    _executor: ThreadPoolExecutor | None

    def __init__(self) -> None:
        self._token = object()
        self._start_afresh()
        begin_anew_in_child(self)

    def submit(self, call: Callable[[], list[Any]], callback: Callback, user_data: Any) -> None:
        """Has `callback` called with what `call` gives, or with the text of the exception that it raises."""
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(1, thread_name_prefix="onnxc-run-async")
            self._executor.submit(_report, self._token, call, callback, user_data)

    def close(self) -> None:
        """Waits for the calls so far and ends the thread; the next call starts one again. Called by one of these calls,
        it waits for none."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=getattr(_HERE, "token", None) is not self._token)

    def _start_afresh(self) -> None:
        self._lock = threading.Lock()
        self._executor = None


def _report(token: object, call: Callable[[], list[Any]], callback: Callback, user_data: Any) -> None:
    _HERE.token = token
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
