"""Runs of many shapes, in every way in which a session runs: the process holds no more memory behind them than before.

    python -m tests.stress.growth --n 100000
"""

from __future__ import annotations

import argparse
import gc
import itertools
import resource
from pathlib import Path

import numpy as np

import onnxc
from tests.session import models

LIMIT = 1 << 20             # bytes
_WARM_UP = 2000
_SIZES = range(1, 100)      # more than a session remembers


def grown(n: int) -> int:
    """Bytes by which the process grew over `n` runs, after some to warm up. Needs Linux."""
    session = onnxc.InferenceSession(models.chain(3).SerializeToString())
    feeds = [np.random.default_rng(size).standard_normal((size, 32)).astype(np.float32) for size in _SIZES]
    (output,) = (o.name for o in session.get_outputs())
    binding = session.io_binding()
    ways = itertools.cycle([_run, _run_on_values, _bind, _refuse])

    def run(count: int) -> None:
        for i in range(count):
            next(ways)(session, binding, output, feeds[i % len(feeds)])
        gc.collect()

    run(_WARM_UP)
    before = _resident()
    run(n)
    return _resident() - before


def _run(session: onnxc.InferenceSession, _: onnxc.IOBinding, output: str, x: np.ndarray) -> None:
    session.run([output], {"x": x}, onnxc.RunOptions())


def _run_on_values(session: onnxc.InferenceSession, _: onnxc.IOBinding, output: str, x: np.ndarray) -> None:
    (value,) = session.run_with_ort_values([output], {"x": onnxc.OrtValue.ortvalue_from_numpy(x)})
    np.from_dlpack(value)


def _bind(session: onnxc.InferenceSession, binding: onnxc.IOBinding, output: str, x: np.ndarray) -> None:
    binding.bind_cpu_input("x", x.copy())
    binding.bind_output(output)
    session.run_with_iobinding(binding)
    binding.copy_outputs_to_cpu()


def _refuse(session: onnxc.InferenceSession, _: onnxc.IOBinding, output: str, x: np.ndarray) -> None:
    try:
        session.run([output], {"x": x[:, :3]})
    except onnxc.errors.InvalidArgument:
        return
    raise AssertionError("a wrong shape was taken")


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=100_000)
    number = parser.parse_args().n
    found = grown(number)
    print(f"{number} runs: {found / 2**20:.2f} MiB more")
    raise SystemExit(found > LIMIT)
