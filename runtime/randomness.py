"""The generator of the process, of which come the seeds of random operators that have none."""

from __future__ import annotations

import os

import numpy as np

__all__ = ["generator", "set_seed"]

_own: dict[int, np.random.Generator] = {}       # by process: a forked child draws numbers of its own
_seed: list[int] = []


def generator() -> np.random.Generator:
    """The generator of this process; it may be used in many threads."""
    process = os.getpid()
    if process not in _own:
        _own.clear()
        _own[process] = np.random.default_rng([*_seed, process] if _seed else None)
    return _own[process]


def set_seed(seed: int) -> None:
    """Starts it again: programs draw the same numbers after the same seed."""
    _seed[:] = [seed & (1 << 64) - 1]
    _own.clear()
    _own[os.getpid()] = np.random.default_rng(_seed)
