"""Timings of several engines taken in turns.

Engines alternate in short rounds, so that a machine that is busy for a while slows all of them alike; what counts are
medians over rounds, and the median and quartiles of the rounds' ratios.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["Ratio", "Timing", "geometric_mean", "take_turns"]

_PAUSE = 0.003      # seconds before a turn: idle threads of the engine before spin for about one


@dataclasses.dataclass(frozen=True)
class Ratio:
    """How many times as fast one engine is as another: the median over rounds, and the rounds' quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclasses.dataclass(frozen=True)
class Timing:
    """One engine's result: `median` and `fastest` seconds a run, `runs` taken, and its medians round by round."""

    name: str
    median: float
    fastest: float
    runs: int
    rounds: tuple[float, ...]

    def ratio_to(self, other: Timing) -> Ratio:
        """How many times as fast as `other` this one is, by the rounds, each of which both saw."""
        ratios = [b / a for a, b in zip(self.rounds, other.rounds, strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        return Ratio(statistics.median(ratios), low, high)


def take_turns(engines: Mapping[str, Callable[[], Any]], seconds: float = 2.0, rounds: int = 10) -> list[Timing]:
    """Times each engine in `rounds` rounds that take about `seconds` in all.

    Every turn begins with a run that does not count: the engine before has left the caches and the threads cold.
    """
    share = seconds / (rounds * len(engines))
    taken: dict[str, list[list[float]]] = {name: [] for name in engines}
    order = list(engines)
    for _ in range(rounds):
        for name in order:
            taken[name].append(_turn(engines[name], share))
        order.reverse()     # who follows whom changes
    return [_summary(name, times) for name, times in taken.items()]


def geometric_mean(values: Sequence[float]) -> float:
    """Of at least one positive number."""
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def _turn(run: Callable[[], Any], seconds: float) -> list[float]:
    time.sleep(_PAUSE)
    end = time.perf_counter() + seconds
    run()
    times: list[float] = []
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times


def _summary(name: str, rounds: list[list[float]]) -> Timing:
    medians = tuple(statistics.median(times) for times in rounds)
    return Timing(name, statistics.median(medians), min(map(min, rounds)), sum(map(len, rounds)), medians)
