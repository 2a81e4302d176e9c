"""How many threads a run uses and on which processors, and the life of a compiled program's native thread pool.

The pool itself is native code that comes with the program; this module creates it, tells it about forks, and frees it.
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from onnxc.runtime.forked import begin_anew_in_child
from onnxc.runtime.loader import NativeModule
from onnxc.runtime.log import LOG, Log

__all__ = ["ThreadPool", "affinities", "default_threads"]

_WORD, _POINTER = ctypes.c_int64, ctypes.c_void_p
_START = 5.0        # seconds that all workers of a pool have to start in


def default_threads(root: Path = Path("/")) -> int:
    """The processors that this process may use: its affinity, within its control groups' quota; at least 1.

    A fractional quota is rounded up. `root` is where /proc and /sys are looked for.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    processors = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min([processors, *_quotas(root)]))


def _quotas(root: Path) -> Iterator[int]:
    """The processor quota, rounded up, of each control group (v1 or v2) that the process is in."""
    try:
        memberships = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return
    mounts = root / "sys/fs/cgroup"
    for line in memberships:
        _, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        if controllers == "":
            yield from _limits(mounts, path, _quota_v2)
        elif "cpu" in controllers.split(","):
            for mount in dict.fromkeys(("cpu", controllers)):
                yield from _limits(mounts / mount, path, _quota_v1)


def _limits(mount: Path, path: str, read: Callable[[Path], tuple[int, int]]) -> Iterator[int]:
    """Limits of a group and of all that contain it; inside a container the mount may be the group itself."""
    relative = PurePosixPath(path.lstrip("/"))
    for part in (relative, *relative.parents):
        if ".." in part.parts:
            continue
        try:
            quota, period = read(mount / part)
        except (OSError, ValueError):
            continue
        if quota > 0 and period > 0:
            yield -(-quota // period)


def _quota_v2(group: Path) -> tuple[int, int]:
    quota, period = (group / "cpu.max").read_text().split()
    return (0 if quota == "max" else int(quota)), int(period)


def _quota_v1(group: Path) -> tuple[int, int]:
    return int((group / "cpu.cfs_quota_us").read_text()), int((group / "cpu.cfs_period_us").read_text())


def affinities(text: str, workers: int) -> tuple[frozenset[int], ...]:
    """The processors of each worker, as ONNX Runtime's option has them: one group a worker, `1,2;3-4`, counted from 1.

    Raises RuntimeError for a text of another form and for another number of groups.
    """
    groups = [_processors(group) for group in text.removesuffix(";").split(";")]
    if len(groups) != workers:
        raise RuntimeError(f"Number of affinities does not equal to thread_pool_size minus one: {text!r} names "
                           f"{len(groups)}, and there are {workers} threads beside the caller's")
    return tuple(groups)


def _processors(group: str) -> frozenset[int]:
    found: set[int] = set()
    for part in group.split(","):
        low, _, high = part.partition("-")
        high = high or low
        if not all(n.isascii() and n.isdigit() and 0 < int(n) < 1 << 16 for n in (low, high)) or int(low) > int(high):
            raise RuntimeError(f"Processor id must consist of only digits and start from 1: {part!r} in the affinities "
                               f"of a thread; expected a number or a range")
        found.update(range(int(low) - 1, int(high)))
    return frozenset(found)


class ThreadPool:
    """A native pool made by the functions of one compiled program, which it keeps loaded.

    `pointer` is what the program's entry point takes. Workers start with the first parallel loop. In a forked child the
    pool starts anew. `close` must not be called while a run is under way; dropping the last reference closes, but the
    end of the interpreter does not: it ends the threads with the process.
    """

    def __init__(self, module: NativeModule, threads: int | None = None, spin_ns: int = -1,
                 processors: Sequence[frozenset[int]] = (), log: Log = LOG.log) -> None:
        """`threads` counts the caller (None: `default_threads()`); spin_ns < 0 is the default time before sleeping.
        `processors` are those of each worker, where they may not run on all; `log` is told of what is not there."""
        wanted = default_threads() if threads is None else threads
        if wanted < 1:
            raise ValueError(f"a pool of {wanted} threads; expected at least 1, the caller's")
        new = module.function("onnxc_pool_new", _POINTER, _WORD, _WORD)
        self._abandon = module.function("onnxc_pool_abandon", None, _POINTER)
        self.pointer: int | None = new(wanted, max(-1, spin_ns))
        if not self.pointer:
            raise MemoryError(f"no memory for a pool of {wanted} threads")
        free = module.function("onnxc_pool_free", None, _POINTER)
        self.threads = int(module.function("onnxc_pool_threads", _WORD, _POINTER)(self.pointer))
        self._module, self._processors, self._log = module, tuple(processors), log
        self._is_bound = False
        self._finalizer = weakref.finalize(self, free, self.pointer)
        self._finalizer.atexit = False
        begin_anew_in_child(self)

    def bind(self) -> None:
        """Starts the workers and has each run on its processors only; does nothing where they may run on all, or do so
        already. No run may be under way."""
        if self._is_bound or not self._processors or not hasattr(os, "sched_setaffinity"):
            return
        self._is_bound = True
        everybody = threading.Barrier(self.threads)

        def body(_: int | None, begin: int, end: int, thread: int) -> None:
            try:
                everybody.wait(_START)          # so that no thread takes the part of another one
            except threading.BrokenBarrierError:
                return
            if 0 < thread <= len(self._processors):
                self._bind_this(thread)

        visit = ctypes.CFUNCTYPE(None, _POINTER, _WORD, _WORD, _WORD)(body)
        run = self._module.function("onnxc_parallel_for", None, _POINTER, _POINTER, _POINTER, _WORD, _WORD, _POINTER)
        run(self.pointer, ctypes.cast(visit, _POINTER), None, self.threads, 1, None)

    def _bind_this(self, thread: int) -> None:
        wanted = self._processors[thread - 1]
        try:
            os.sched_setaffinity(0, wanted)     # of the thread that calls
        except OSError as error:
            self._log(logging.WARNING, "thread %d cannot be bound to the processors %s: %s", thread,
                      sorted(p + 1 for p in wanted), error.strerror)

    def close(self) -> None:
        """Ends the workers and frees the pool. Closing again does nothing."""
        self.pointer = None
        self._finalizer()

    def __enter__(self) -> ThreadPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start_afresh(self) -> None:
        self._is_bound = False
        if self.pointer:
            self._abandon(self.pointer)
