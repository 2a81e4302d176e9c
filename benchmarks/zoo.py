"""Compares onnxc with a peer over a folder of exported models: a line a model, and the geometric mean.

    python -m benchmarks.zoo DIR [--vs onnxruntime] [--threads N] [--seconds 4] [--rounds 12] [--only NAME ...]
        [--inputs inputs.npz] [--expected expected.npz] [--cold] [--json FILE]

A model is a folder below DIR with model.onnx, the archive of its inputs and, where there is one, that of the outputs
that another implementation gave, which errors are measured against. Engines take turns in short rounds; times are
medians, a ratio below 1 means that onnxc takes less time, and the ratio's quartiles tell how quiet the machine was.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from onnxc.bench.compare import Comparison, Request, compare
from onnxc.bench.engines import check_installed, largest_difference
from onnxc.bench.timing import geometric_mean

_HEAD = f"{'model':22}{'onnxc ms':>10}{'peer ms':>10}{'ratio':>7}  {'quartiles':14}{'error':>9}{'compile s':>11}"


def models_in(folder: Path, inputs: str) -> list[Path]:
    """The folders that hold a model and its inputs, by name."""
    return sorted(p.parent for p in folder.glob("*/model.onnx") if (p.parent / inputs).is_file())


def read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def measure(folder: Path, options: argparse.Namespace) -> tuple[Comparison, float | None]:
    """The comparison, and how far onnxc is from the expected outputs, relative to each one's greatest value."""
    feed = read(folder / options.inputs)
    expected = folder / options.expected
    error: list[float] = []

    def feed_for(session: Any) -> dict[str, np.ndarray]:
        if expected.is_file():
            wanted = read(expected)
            outputs = session.run(None, feed)
            theirs = [wanted[o.name] for o in session.get_outputs()]
            error.append(largest_difference(outputs, theirs)[1])
        return feed

    request = Request((options.vs,), options.threads, options.seconds, options.rounds, options.cold)
    return compare(str(folder / "model.onnx"), feed_for, request), error[0] if error else None


def apart(folder: Path, options: argparse.Namespace) -> tuple[Comparison, float | None]:
    """`measure` in a process of its own, which leaves no memory behind and whose end is not the end of the others."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(measure, folder, options).result()


def line(name: str, result: Comparison, peer: str, error: float | None) -> str:
    """One row of the table. The ratio is that of times, the other way round than `Comparison.ratio`."""
    ours, theirs = result.timings
    faster = result.ratio(peer)
    spread = f"{1 / faster.high:.2f} to {1 / faster.low:.2f}"
    compiling = f"{result.compiling.seconds:11.2f}" if result.compiling else ""
    start = "".join(f"  {engine}: open {c.seconds:.2f} s, first run {(c.first_run or 0) * 1e3:.1f} ms, "
                    f"{c.peak_bytes / 2**20:.0f} MiB" for engine, c in result.starts.items())
    return (f"{name:22}{ours.median * 1e3:10.3f}{theirs.median * 1e3:10.3f}{1 / faster.median:7.2f}  {spread:14}"
            f"{'' if error is None else f'{error:.1e}':>9}{compiling}{start}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--vs", default="onnxruntime", help="the peer: onnxruntime or openvino, or torch or "
                        "torch-compiled, with model.pt2 beside each model")
    parser.add_argument("--threads", type=int, help="of both engines; all processors unless given")
    parser.add_argument("--seconds", type=float, default=4.0, help="of steady runs of a model, about")
    parser.add_argument("--rounds", type=int, default=12, help="turns of each engine")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these models")
    parser.add_argument("--inputs", default="inputs.npz", help="the archive of inputs in each folder")
    parser.add_argument("--expected", default="expected.npz", help="the archive of right outputs, if it is there")
    parser.add_argument("--cold", action="store_true", help="also first starts and memory, in new processes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    return parser.parse_args()


def main() -> int:
    """1 when there is no model, or one failed; the others are measured all the same."""
    options = parse()
    found = [f for f in models_in(options.folder, options.inputs) if not options.only or f.name in options.only]
    missing = sorted(set(options.only or ()) - {f.name for f in found})
    if missing or not found:
        print(f"{options.folder} has no model.onnx with {options.inputs} in: {', '.join(missing) or 'any folder'}",
              file=sys.stderr)
        return 1
    check_installed([options.vs])
    print(_HEAD.replace("peer", options.vs[:7]), flush=True)
    results: dict[str, Comparison] = {}
    failed = 0
    for folder in found:
        try:
            results[folder.name], error = apart(folder, options)
        except Exception as refusal:        # the others are still worth measuring
            failed += 1
            said = " ".join(str(refusal).split())[:300]
            print(f"{folder.name:22}FAILED: {type(refusal).__name__}: {said}", flush=True)
            continue
        print(line(folder.name, results[folder.name], options.vs, error), flush=True)
    ratios = [1 / r.ratio(options.vs).median for r in results.values()]
    if ratios:
        print(f"geometric mean of {len(ratios)} ratios {geometric_mean(ratios):.3f}, worst {max(ratios):.2f}; load "
              f"average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    if options.json:
        report = {name: r.to_json() for name, r in results.items()}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
