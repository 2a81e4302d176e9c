"""The profile of a session: what it did and when, recorded while it runs and written when it ends.

A run leaves its steps' times, which native code takes from the monotonic clock, and the values of its dims. Everything
else (which nodes a step is made of, shapes, bytes, operations) follows from the program's text, and is worked out when
the file is written: `onnxc.bench.trace`.
"""

from __future__ import annotations

import ctypes
import datetime
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from onnxc.errors import Fail
from onnxc.runtime.compiled import CompiledModel
from onnxc.runtime.forked import ChildSafeLock
from onnxc.runtime.options import SessionOptions

__all__ = ["Phase", "Profile", "Run", "start_profile", "symbols_of_program"]

_LOG = logging.getLogger("onnxc")
_MOST_EVENTS = 1_000_000
_SLOT = ctypes.sizeof(ctypes.c_int64)


def symbols_of_program(program: CompiledModel) -> tuple[str, ...]:
    """The symbols in the order of the table that native code takes."""
    return *program.symbols, *(name for name, _ in program.run_symbols)


class Phase(NamedTuple):
    """Something that a session did, from `begin` to `end` in nanoseconds of the monotonic clock. `op` is the operator
    of a host step, whose node is called `name`."""

    name: str
    begin: int
    end: int
    thread: int
    op: str = ""


class Run(NamedTuple):
    """One call of native code: i64[steps, 2], when each step began and ended (0: it was not reached), and the values of
    the program's symbols."""

    program: CompiledModel
    threads: int
    dims: tuple[int, ...]
    steps: npt.NDArray[np.int64]
    begin: int
    end: int
    thread: int


def start_profile(session: object, options: SessionOptions) -> Profile | None:
    """The profile that the options ask for, which ends with the session at the latest."""
    if not options.enable_profiling:
        return None
    profile = Profile(options.profile_file_prefix)
    weakref.finalize(session, profile.end_quietly)
    return profile


class Profile:
    """Records a session until `end`. A forked child records nothing: the file is its parent's."""

    def __init__(self, prefix: str) -> None:
        """Starts now, and makes the file. Raises Fail where it cannot be made."""
        self.start_ns = time.monotonic_ns()
        self.path = f"{prefix}_{_now()}.json"
        try:
            open(self.path, "wb").close()
        except (OSError, ValueError) as error:
            raise Fail(f"The profile {self.path} cannot be written: {error}. Set SessionOptions.profile_file_prefix to "
                       "a path in a folder that can.") from None
        self._process = os.getpid()
        self._phases: list[Phase] = []
        self._runs: list[Run] = []
        self._events = 0
        self._lock = ChildSafeLock()
        self._ended = False

    @property
    def is_open(self) -> bool:
        return not self._ended and os.getpid() == self._process

    def phase(self, name: str, begin: int, op: str = "") -> None:
        """Notes what began at `begin` and ends now."""
        if self._has_room(1):
            self._phases.append(Phase(name, begin, time.monotonic_ns(), threading.get_native_id(), op))

    def opened(self, kind: str) -> None:
        """Notes that the session is ready: its model was loaded when the compiler had imported it, or is so now."""
        now = time.monotonic_ns()
        loaded = next((p.end for p in self._phases if p.name == "compile:import"), now)
        thread = threading.get_native_id()
        if self._has_room(2):
            self._phases += [Phase(f"model_loading_{kind}", self.start_ns, loaded, thread),
                             Phase("session_initialization", loaded, time.monotonic_ns(), thread)]

    def stages(self) -> Callable[[str, object], None]:
        """A hook of the compiler that notes its stages, the first of which begins now."""
        begin = time.monotonic_ns()

        def hook(name: str, module: object) -> None:
            nonlocal begin
            self.phase(f"compile:{name}", begin)
            begin = time.monotonic_ns()

        return hook

    def watch(self, program: CompiledModel, slot: int, threads: int, entry: Callable[..., int]) -> Callable[..., int]:
        """The program's entry point `onnxc_run`, recorded; `slot` is the context's that takes the table of times."""
        table = ctypes.c_int64 * len(symbols_of_program(program))
        shape = (len(program.steps), 2)
        clock, thread_id, word = time.monotonic_ns, threading.get_native_id, ctypes.c_int64

        def run(context: int, symbols: int, *rest: int) -> int:
            if not self._has_room(shape[0] + 1):
                return entry(context, symbols, *rest)
            times = np.zeros(shape, np.int64)
            word.from_address(context + slot * _SLOT).value = times.ctypes.data
            begin = clock()
            result = entry(context, symbols, *rest)
            end = clock()
            self._runs.append(Run(program, threads, tuple(table.from_address(symbols)), times, begin, end, thread_id()))
            return result

        return run

    def end(self) -> str:
        """Writes the file and gives its path; "" when it was written before, or is another process's."""
        with self._lock:
            if not self.is_open:
                return ""
            self._ended = True
        from onnxc.bench.trace import write_trace
        try:
            write_trace(self.path, self.start_ns, self._phases, self._runs)
        finally:
            self._phases, self._runs = [], []
        return self.path

    def end_quietly(self) -> None:
        """`end`, for sessions that go: nobody is there to hear of an error."""
        with suppress(Exception):
            self.end()

    def _has_room(self, events: int) -> bool:
        if not self.is_open:
            return False
        before, self._events = self._events, self._events + events
        if self._events <= _MOST_EVENTS:
            return True
        if before <= _MOST_EVENTS:
            _LOG.error("the profile %s has %d events, which is all that it takes; later ones are left out", self.path,
                       _MOST_EVENTS)
        return False


def _now() -> str:
    now: Any = datetime.datetime.now()
    return f"{now:%Y-%m-%d_%H-%M-%S}_{now.microsecond // 1000:03d}"
