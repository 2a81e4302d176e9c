"""A decode loop: the present of each step is the past of the next one, through OrtValues.

    python -m benchmarks.decode MODEL.onnx --inputs inputs.npz [--steps 200] [--threads N]

Prints how long steps take at the beginning, in the middle and at the end of the loop, how often the past moved in
memory, and fails where a step compiles anything. Outputs continue the inputs that the compiler found them to continue;
other inputs whose sizes are the past's or the present's (masks, positions) grow with it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

import onnxc


class Loop:
    """A session, the inputs of its next step, and which outputs become inputs."""

    def __init__(self, path: Path, feed: dict[str, np.ndarray], threads: int) -> None:
        options = onnxc.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxc.InferenceSession(path, options)
        compiled = self.session._programs.plain.compiled
        names = [i.name for i in self.session.get_inputs()]
        self.outputs = [o.name for o in self.session.get_outputs()]
        self.caches = {names[c.input]: (c.output, c.axis) for c in compiled.caches}
        if not self.caches:
            raise SystemExit(f"{path}: no output continues an input")
        first = next(iter(self.caches))
        self.past = feed[first].shape[self.caches[first][1]]
        self.values = {name: onnxc.OrtValue.ortvalue_from_numpy(a) for name, a in feed.items() if name in self.caches}
        self.others = {name: a for name, a in feed.items() if name not in self.caches}

    def step(self) -> float:
        """Runs a step; its seconds, of which making the small inputs is no part."""
        small = {name: onnxc.OrtValue.ortvalue_from_numpy(a) for name, a in self.others.items()}
        begin = time.perf_counter()
        results = self.session.run_with_ort_values(self.outputs, {**self.values, **small})
        seconds = time.perf_counter() - begin
        self.values = {name: results[output] for name, (output, _) in self.caches.items()}
        self.others = {name: self._grown(a) for name, a in self.others.items()}
        self.past += 1
        return seconds

    def _grown(self, array: np.ndarray) -> np.ndarray:
        """An input of the next step: along axes as long as the past or the present there is one element more."""
        for axis, size in enumerate(array.shape):
            if size in (self.past, self.past + 1) and size > 1:
                last = np.take(array, [size - 1], axis)
                return np.concatenate([array, last], axis)
        return array

    def places(self) -> tuple[int, ...]:
        return tuple(value._tensor.address for value in self.values.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--inputs", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    with np.load(options.inputs) as archive:
        feed: dict[str, Any] = {name: archive[name] for name in archive.files}
    loop = Loop(options.model, feed, options.threads)
    before = loop.session.statistics()["compilations"]
    seconds, moves, places = [], 0, loop.places()
    for _ in range(options.steps):
        seconds.append(loop.step())
        moves += places != (places := loop.places())
    again = loop.session.statistics()["compilations"] - before
    third = max(1, len(seconds) // 3)
    parts = {"first": seconds[1:third], "middle": seconds[third:-third], "last": seconds[-third:]}
    for name, part in parts.items():
        if part:
            print(f"{name:7} third: median {statistics.median(part) * 1e3:8.3f} ms, fastest {min(part) * 1e3:8.3f} ms")
    print(f"past {loop.past - options.steps} to {loop.past}, moved {moves} times, {again} recompilations")
    if again:
        raise SystemExit("a step compiled something")


if __name__ == "__main__":
    main()
