"""What was measured of kernels, for compilations: notes in the cache folder, by a kernel's text, the target and onnxc's
own sources.

A note only says which of a kernel's candidates to take. One that names none of them is as good as none, so that no note
can make a kernel wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from onnxc.codegen.clone import clone_func
from onnxc.codegen.llvm.schedule import Chooser
from onnxc.codegen.llvm.target import Target
from onnxc.codegen.schedule import Choose, Schedule, first
from onnxc.ir.core import Func
from onnxc.ir.printer import print_func
from onnxc.runtime import cache as compile_cache
from onnxc.runtime.cache import CompileCache
from onnxc.runtime.cache_key import sources_digest

__all__ = ["Notes", "chooser_of", "open_notes"]


def open_notes(target: Target) -> Notes | None:
    """The notes for a target; None where there is no cache."""
    cache = compile_cache.open_cache()
    return None if cache is None else Notes(cache, target)


class Notes:
    """Winners by kernel. A kernel's name, the names of its values and the nodes that it comes from do not count."""

    def __init__(self, cache: CompileCache, target: Target) -> None:
        self.cache, self.target = cache, target
        self._sources = ""

    def key(self, func: Func, constant: frozenset[int]) -> str:
        """What tells a kernel that is not scheduled yet from others, as a digest."""
        self._sources = self._sources or sources_digest()[0]
        facts = (_structure(func), sorted(constant), str(self.target), self._sources)
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    def winner(self, key: str) -> str | None:
        """The schedule that was fastest, as text; None when nothing was measured."""
        found = self.cache.tuned(key)
        text = found.get("schedule")
        return text if found.get("key") == key and isinstance(text, str) else None

    def dims(self, key: str) -> dict[str, int]:
        """The dims that a kernel was measured with."""
        dims = self.cache.tuned(key).get("dims")
        return dims if isinstance(dims, dict) else {}

    def keep(self, key: str, schedule: Schedule, dims: dict[str, int], gain: float) -> None:
        """Notes a winner, and for readers how many times as fast as the default it was."""
        self.cache.note_tuned(key, {"key": key, "schedule": str(schedule), "target": str(self.target), "dims": dims,
                                    "gain": round(gain, 3)})


def chooser_of(notes: Notes | None) -> Chooser:
    """Takes the winners that are noted, and elsewhere what the heuristics choose."""
    if notes is None or not notes.cache.tuned_state():
        return lambda func, constant: first

    def choose_for(func: Func, constant: frozenset[int]) -> Choose:
        winner = notes.winner(notes.key(func, constant))
        return first if winner is None else lambda candidates: named(candidates, winner)

    return choose_for


def named(candidates: Iterable[Schedule], text: str) -> Schedule:
    """The candidate that prints as `text`; the first when none does."""
    found = list(candidates)
    return next((c for c in found if str(c) == text), found[0])


def _structure(func: Func) -> str:
    copy = clone_func(func)
    copy.name, copy.attrs = "kernel", {k: v for k, v in func.attrs.items() if k != "nodes"}
    for value in copy.args:
        value.name = ""
    for op in copy.walk():
        op.loc = ""
        for value in (*op.results, *(arg for region in op.regions for arg in region.args)):
            value.name = ""
    return print_func(copy)
