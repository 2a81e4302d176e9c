"""`onnxc bench`: medians of a model's run time, alone or in turns with another engine."""

from __future__ import annotations

import importlib
import os
import time
from typing import Any

import click
import numpy as np

import onnxc
from onnxc.bench import take_turns
from onnxc.cli.console import print_table, working
from onnxc.cli.feeds import dim_option, feed_from, input_option, parse_dims


@click.command()
@click.argument("model", type=click.Path(dir_okay=False))
@click.option("--vs", "peer", metavar="MODULE", help="Also measure this module's InferenceSession, as onnxruntime's.")
@input_option
@dim_option
@click.option("--seed", default=0, show_default=True, help="Of the random values that inputs without a file get.")
@click.option("--threads", type=click.IntRange(1), help="Threads of a run, for both engines.")
@click.option("--seconds", default=3.0, show_default=True, type=click.FloatRange(0.01), help="Time to measure, about.")
@click.option("--rounds", default=10, show_default=True, type=click.IntRange(1), help="Turns of each engine.")
def command(model: str, peer: str | None, inputs: tuple[str, ...], dims: tuple[str, ...], seed: int,
            threads: int | None, seconds: float, rounds: int) -> None:
    """Measure MODEL on files or on random inputs."""
    sessions, opening = {}, {}
    for name in ["onnxc", *([peer] if peer else [])]:
        start = time.perf_counter()
        with working(f"opening {model} with {name}"):
            sessions[name] = _open(name, model, threads)
        opening[name] = time.perf_counter() - start
    feed = feed_from(inputs, sessions["onnxc"].get_inputs(), True, parse_dims(dims), seed)
    with working(f"measuring {model}"):
        results = {name: s.run(None, feed) for name, s in sessions.items()}
        timings = take_turns({name: _runner(s, feed) for name, s in sessions.items()}, seconds, rounds)
    print_table(("engine", "ms, median", "ms, fastest", "runs", "s to open"),
                [(t.name, t.median * 1e3, t.fastest * 1e3, t.runs, opening[t.name]) for t in timings])
    if peer:
        click.echo(f"onnxc is {timings[0].ratio_to(timings[1]):.2f} x as fast as {peer}; largest difference of outputs "
                   f"{_largest_difference(*results.values()):.2g}")


def _open(engine: str, model: str, threads: int | None) -> Any:
    if engine == "onnxc":
        module: Any = onnxc
    else:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        module = importlib.import_module(engine)
    options = module.SessionOptions()
    options.intra_op_num_threads = threads or 0
    return module.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _runner(session: Any, feed: dict[str, Any]) -> Any:
    return lambda: session.run(None, feed)


def _largest_difference(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """NaN when shapes differ; equal infinities and NaN in the same place do not count."""
    largest = 0.0
    for a, b in zip(ours, theirs, strict=True):
        if a.shape != b.shape:
            return float("nan")
        x, y = a.astype(np.complex128), b.astype(np.complex128)
        with np.errstate(invalid="ignore"):
            distance = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0, np.abs(x - y))
        largest = max(largest, float(distance.max(initial=0)))
    return largest
