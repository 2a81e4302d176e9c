"""One session in many threads with mixed shapes: every result equals that of a run alone.

    python -m tests.stress.threads --threads 8 --n 1000
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import onnxc
from tests.session import models

SIZES = (0, 1, 2, 7, 33, 64, 100, 257, 1000)


def run_in_threads(threads: int, n: int) -> int:
    """How many of `threads` x `n` runs gave something else."""
    session = onnxc.InferenceSession(models.chain(4).SerializeToString())
    feeds = {size: np.random.default_rng(size).standard_normal((size, 32)).astype(np.float32) for size in SIZES}
    expected = {size: session.run(None, {"x": x})[0] for size, x in feeds.items()}

    def work(seed: int) -> int:
        sizes = np.random.default_rng(seed).choice(SIZES, n)
        return sum(not np.array_equal(session.run(None, {"x": feeds[s]})[0], expected[s]) for s in sizes)

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(work, range(threads)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--n", type=int, default=1000)
    given = parser.parse_args()
    wrong = run_in_threads(given.threads, given.n)
    print(f"{given.threads} threads x {given.n} runs: {wrong} wrong")
    raise SystemExit(bool(wrong))
