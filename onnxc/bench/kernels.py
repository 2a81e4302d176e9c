"""Where the time of a run goes: every kernel's time beside its work and what the machine could do with it at best."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxc.bench.machine import Limits, measure_limits
from onnxc.bench.work import Work, footprint, step_work
from onnxc.errors import ModelRequiresCompilation
from onnxc.ir.core import Module
from onnxc.runtime.artifact import open_artifact
from onnxc.runtime.feeds import Feeds
from onnxc.runtime.program import NativeProgram
from onnxc.runtime.report import program_of

__all__ = ["KernelTime", "Profile", "profile_kernels", "program_of"]

_MOST_RUNS, _LEAST_RUNS = 200, 5


@dataclasses.dataclass(frozen=True)
class KernelTime:
    """All launches of one kernel in a run: seconds, their work (None where data decides it), and the nodes that the
    kernel comes from."""

    name: str
    launches: int
    seconds: float
    work: Work | None
    nodes: str

    def rate(self) -> float | None:
        """Operations a second."""
        return self.work.operations / self.seconds if self.work and self.seconds else None

    def bandwidth(self) -> float | None:
        """Bytes a second."""
        return self.work.nbytes / self.seconds if self.work and self.seconds else None

    def limit(self, limits: Limits) -> tuple[float, str] | None:
        """The share of the machine's limit that is reached, and which limit it is."""
        if self.work is None or not self.seconds:
            return None
        least, what = limits.seconds(self.work.operations, self.work.nbytes, self.work.dtype)
        return least / self.seconds, what


@dataclasses.dataclass(frozen=True)
class Profile:
    """Kernels by falling time, the seconds of a run inside and in all, and what it was measured against."""

    kernels: tuple[KernelTime, ...]
    seconds: float
    run_seconds: float
    dims: dict[str, int]
    limits: Limits

    def share(self, kernel: KernelTime) -> float:
        """Of the time that all kernels take."""
        return kernel.seconds / self.seconds if self.seconds else 0.0

    def least_seconds(self) -> float:
        """The time of a run in which every kernel whose work is known reached its limit, and the others their time."""
        shares = [(k.seconds, k.limit(self.limits)) for k in self.kernels]
        return sum(s if limit is None else s * limit[0] for s, limit in shares)

    def to_json(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "run_seconds": self.run_seconds, "least_seconds": self.least_seconds(),
                "dims": self.dims, "limits": dataclasses.asdict(self.limits),
                "kernels": [{**dataclasses.asdict(k), "share": self.share(k), "limit": k.limit(self.limits)}
                            for k in self.kernels]}


def profile_kernels(path: str, feed: Mapping[str, Any], threads: int, seconds: float = 1.0) -> Profile:
    """Profiles runs of the compiled model at `path`: the medians of each step over about `seconds`.

    Raises ModelRequiresCompilation for feeds of initializers, and what runs raise.
    """
    compiled = open_artifact(path)
    signature = compiled.signature
    arrays, overridden, _ = Feeds(signature.inputs, signature.overridable).prepare(feed)
    if overridden:
        raise ModelRequiresCompilation(f"The initializers {', '.join(overridden)} are constants in a compiled model: "
                                       "leave them out of the feed.")
    program = NativeProgram(compiled, threads=threads)
    times, whole, dims = _times(program, arrays, seconds)
    module = program_of(compiled)
    work = step_work(module, dims)
    limits = measure_limits(sorted({w.dtype for w in work if w}), footprint(module, dims), threads)
    kernels = _by_kernel(compiled.steps, times, work, _nodes(module))
    return Profile(kernels, float(times.sum()), whole, dims, limits)


def _times(program: NativeProgram, arrays: Sequence[np.ndarray], seconds: float) -> tuple[np.ndarray, float,
                                                                                         dict[str, int]]:
    """Median seconds of each step and of a run, and the dims."""
    program.profile(arrays)
    samples: list[np.ndarray] = []
    whole: list[float] = []
    end = time.perf_counter() + seconds
    while len(samples) < _LEAST_RUNS or (len(samples) < _MOST_RUNS and time.perf_counter() < end):
        start = time.perf_counter()
        stamps, dims = program.profile(arrays)
        whole.append(time.perf_counter() - start)
        samples.append((stamps[:, 1] - stamps[:, 0]) * 1e-9)
    return np.median(np.array(samples), axis=0), float(np.median(whole)), dims


def _nodes(module: Module) -> dict[str, str]:
    return {name: str(func.attrs.get("nodes") or "") for name, func in module.funcs.items() if func.kind == "kernel"}


def _by_kernel(steps: Sequence[str], times: np.ndarray, work: Sequence[Work | None],
               nodes: Mapping[str, str]) -> tuple[KernelTime, ...]:
    rows: dict[str, KernelTime] = {}
    for name, seconds, done in zip(steps, times.tolist(), work, strict=True):
        row = rows.get(name)
        if row is None:
            rows[name] = KernelTime(name, 1, seconds, done, nodes.get(name, ""))
        else:
            total = row.work + done if row.work is not None and done is not None else None
            rows[name] = KernelTime(name, row.launches + 1, row.seconds + seconds, total, row.nodes)
    return tuple(sorted(rows.values(), key=lambda k: -k.seconds))
