"""Two engines in lockstep: each step makes one call on both, compares what they give, and keeps it for later steps."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.calls.known import known
from tests.calls.outcomes import Array, difference, outcome_of, plain
from tests.graphs.choices import Choices

__all__ = ["Fault", "Pair", "Side", "World", "sides"]


@dataclass
class Side:
    """One engine: its module, and the module of its exceptions."""

    name: str
    api: Any
    errors: Any

    @property
    def is_ours(self) -> bool:
        return self.name == "onnxc"

    def __getitem__(self, pair: Pair) -> Any:
        """This side's object of a pair."""
        return pair.ours if self.is_ours else pair.theirs


class Pair(NamedTuple):
    """What both sides gave for one call, how it came to be, and what is known about it."""

    theirs: Any
    ours: Any
    text: str = ""
    about: Any = None


class Fault(Exception):
    """The sides differ in a way that no row of `known.py` allows."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def sides() -> tuple[Side, Side]:
    """ONNX Runtime and onnxc."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as their_errors

    import onnxc
    import onnxc.errors

    onnxruntime.set_default_logger_severity(4)
    logging.getLogger("onnxc").addHandler(logging.NullHandler())     # else Python writes to stderr what is logged
    return Side("onnxruntime", onnxruntime, their_errors), Side("onnxc", onnxc, onnxc.errors)


@dataclass
class World:
    """Everything that the calls of one sequence have made so far."""

    choices: Choices
    sides: tuple[Side, Side]
    folder: str
    tell: Callable[[str], None]
    things: dict[str, list[Pair]] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)                     # reasons of known differences that occurred
    kept: list[tuple[str, Any, Any, str]] = field(default_factory=list)  # results that nobody may change
    alive: list[Any] = field(default_factory=list)      # memory that was given by its address
    ran: set[int] = field(default_factory=set)          # ids of bindings whose outputs are those of a run
    sizes: dict[str, int] = field(default_factory=dict)  # of dimensions that were bound last

    def some(self, kind: str) -> Pair | None:
        """One of the pairs of a kind, if there is one."""
        have = self.things.get(kind)
        return self.choices.pick(have[::-1]) if have else None

    def keep(self, kind: str, pair: Pair | None) -> Pair | None:
        if pair is not None:
            self.things.setdefault(kind, []).append(pair)
        return pair

    def drop(self, pair: Pair) -> None:
        for pairs in self.things.values():
            pairs[:] = [p for p in pairs if p is not pair]

    def both(self, text: str, call: Callable[[Side], Any], about: Any = None, tolerance: float = 0.0,
             several: bool = False) -> Pair | None:
        """The call on both sides; what they gave, None unless both gave something. With `several` mistakes in it, both
        have to raise, whatever. Raises Fault."""
        self.log.append(text)
        found = []
        for side in self.sides:
            self.tell(f"{side.name} {text}")
            before = _written()
            found.append(outcome_of(lambda side=side: call(side), tolerance))
            if side.is_ours and _written() != before:
                raise Fault("writes", f"{text}\n  onnxc wrote to stdout or stderr")
        (theirs, given), (ours, mine) = found
        self.log[-1] += f"   # {str(theirs)[:160]}"
        what = difference(theirs, ours)
        if several and what and what != "one raises" and given is None:
            what = ""
        if not what:
            return None if given is None and theirs.value is not None else Pair(given, mine, text, about)
        reason = known(text, str(theirs), str(ours))
        if not reason:
            head = text.split("(")[0]
            raise Fault(f"{what} {head}", f"{text}\n  onnxruntime: {theirs}\n  onnxc:       {ours}\n  ({what})")
        self.seen.add(reason)
        return None

    def hold(self, text: str, results: Any) -> None:
        """Notes our results of a call, which no later call may change."""
        for i, result in enumerate(results if isinstance(results, list) else []):
            if hasattr(result, "dtype") and result.dtype != object:
                self.kept.append((f"result {i} of {text}", result, plain(result), ""))

    def check_kept(self) -> None:
        for text, result, before, _ in self.kept:
            after = plain(result)
            if isinstance(before, Array) and before != after:
                raise Fault("changed", f"{text} was {before} and is now {after}")


def _written() -> int:
    """Bytes that this process has written where its output goes; 0 where that is no file."""
    return os.fstat(1).st_size + os.fstat(2).st_size
