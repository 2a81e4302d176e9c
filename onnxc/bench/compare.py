"""One model measured: how it starts, how fast it runs beside its peers, and where its time goes."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import onnxc
import onnxc.errors
from onnxc.bench.cold import Cold, compile_cold, measure_cold
from onnxc.bench.engines import (
    check_peers,
    first_outputs,
    holds_artifact,
    largest_difference,
    model_of,
    open_engine,
    runner,
    with_threads,
)
from onnxc.bench.kernels import Profile, profile_kernels
from onnxc.bench.timing import Ratio, Timing, take_turns

__all__ = ["Comparison", "Request", "compare"]


@dataclasses.dataclass(frozen=True)
class Request:
    """What to measure: peers by name, threads of every engine (None: all processors), about how many seconds of steady
    runs in how many rounds, whether also new processes (`cold`) and single kernels (`kernels`), and the file that torch
    runs (None: the one beside the model)."""

    peers: tuple[str, ...] = ()
    threads: int | None = None
    seconds: float = 3.0
    rounds: int = 10
    cold: bool = True
    kernels: bool = False
    torch_program: str | None = None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The results: `timings` of onnxc and then of each peer; `compiling` (None for a compiled model) and the first
    starts of each engine; the largest difference of outputs from each peer's, absolute and relative to the output's
    greatest magnitude."""

    model: str
    threads: int
    shapes: dict[str, list[int]]
    timings: tuple[Timing, ...]
    differences: dict[str, tuple[float, float]]
    compiling: Cold | None
    starts: dict[str, Cold]
    profile: Profile | None

    def ratio(self, peer: str) -> Ratio:
        """How many times as fast as `peer` onnxc is."""
        return self.timings[0].ratio_to(next(t for t in self.timings if t.name == peer))

    def to_json(self) -> dict[str, Any]:
        return {"model": self.model, "onnxc": onnxc.__version__, "threads": self.threads, "shapes": self.shapes,
                "timings": [dataclasses.asdict(t) for t in self.timings],
                "ratios": {t.name: dataclasses.asdict(self.ratio(t.name)) for t in self.timings[1:]},
                "differences": self.differences, "compiling": self.compiling and dataclasses.asdict(self.compiling),
                "starts": {name: dataclasses.asdict(c) for name, c in self.starts.items()},
                "profile": self.profile and self.profile.to_json()}


def compare(model: str, feed_for: Callable[[Any], Mapping[str, Any]], request: Request,
            say: Callable[[str], None] = lambda what: None) -> Comparison:
    """Measures the model at path `model`. `feed_for` makes the feed from an open session; `say` hears what is done.

    The model is compiled once, in a new process; what runs is the compiled model. Raises what compiling, peers and
    runs raise.
    """
    check_peers(request.peers, model, request.torch_program)
    threads = with_threads(request.threads)
    with tempfile.TemporaryDirectory() as folder:
        compiled, compiling = model, None
        if not holds_artifact(model):
            say("compiling in a new process")
            compiled = str(Path(folder) / "model.onnxc")
            compiling = _compile(model, compiled)
        feed = _feed(compiled, feed_for)
        paths = {"onnxc": compiled, **{p: model_of(p, model, request.torch_program) for p in request.peers}}
        starts: dict[str, Cold] = {}
        for name, path in paths.items() if request.cold else ():
            say(f"starting {name} in a new process")
            starts[name] = measure_cold(name, path, feed, threads)
        timings, differences = _steady(paths, feed, threads, request, say)
        profile = None
        if request.kernels:
            say("timing kernels")
            profile = profile_kernels(compiled, feed, threads, min(request.seconds, 2.0))
    shapes = {name: list(np.shape(value)) for name, value in feed.items()}
    return Comparison(model, threads, shapes, tuple(timings), differences, compiling, starts, profile)


def _feed(compiled: str, feed_for: Callable[[Any], Mapping[str, Any]]) -> dict[str, Any]:
    """The feed in the order of the model's inputs, which is how engines without their names tell them apart."""
    session = onnxc.InferenceSession(compiled)
    feed = feed_for(session)
    ordered = {i.name: feed[i.name] for i in session.get_inputs() if i.name in feed}
    return {**ordered, **feed}      # with names that are no inputs, which runs refuse


def _compile(model: str, output: str) -> Cold:
    """Compiling in a new process says what it takes; what it refuses is refused here, where errors keep their type."""
    try:
        return compile_cold(model, output)
    except onnxc.errors.Fail:
        onnxc.compile(model, output)
        raise


def _steady(paths: Mapping[str, str], feed: Mapping[str, Any], threads: int, request: Request,
            say: Callable[[str], None]) -> tuple[Sequence[Timing], dict[str, tuple[float, float]]]:
    engines, results = {}, {}
    for name, path in paths.items():
        say(f"opening it with {name}")
        engines[name] = open_engine(name, path, threads)
        results[name] = first_outputs(name, engines[name], feed)
    differences = {name: largest_difference(results["onnxc"], theirs) for name, theirs in results.items()
                   if name != "onnxc"}
    results.clear()
    say(f"{request.rounds} rounds")
    return take_turns({name: runner(e, feed) for name, e in engines.items()}, request.seconds,
                      request.rounds), differences
