"""How many threads a run uses, and the life of a compiled program's native thread pool.

The pool itself is native code that comes with the program; this module creates it, tells it about forks, and frees it.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from onnxc.runtime.forked import begin_anew_in_child
from onnxc.runtime.loader import NativeModule


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


class ThreadPool:
    """A native pool made by the functions of one compiled program, which it keeps loaded.

    `pointer` is what the program's entry point takes. Workers start with the first parallel loop. In a forked child the
    pool starts anew. `close` must not be called while a run is under way; dropping the last reference closes, but the
    end of the interpreter does not: it ends the threads with the process.
    """

    def __init__(self, module: NativeModule, threads: int | None = None, spin_ns: int = -1) -> None:
        """`threads` counts the caller (None: `default_threads()`); spin_ns < 0 is the default time before sleeping."""
        wanted = default_threads() if threads is None else threads
        if wanted < 1:
            raise ValueError(f"a pool of {wanted} threads; expected at least 1, the caller's")
        word, pointer = ctypes.c_int64, ctypes.c_void_p
        new = module.function("onnxc_pool_new", pointer, word, word)
        self._abandon = module.function("onnxc_pool_abandon", None, pointer)
        self.pointer: int | None = new(wanted, max(-1, spin_ns))
        if not self.pointer:
            raise MemoryError(f"no memory for a pool of {wanted} threads")
        free = module.function("onnxc_pool_free", None, pointer)
        self.threads = int(module.function("onnxc_pool_threads", word, pointer)(self.pointer))
        self._finalizer = weakref.finalize(self, free, self.pointer)
        self._finalizer.atexit = False
        begin_anew_in_child(self)

    def close(self) -> None:
        """Ends the workers and frees the pool. Closing again does nothing."""
        self.pointer = None
        self._finalizer()

    def __enter__(self) -> ThreadPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start_afresh(self) -> None:
        if self.pointer:
            self._abandon(self.pointer)
