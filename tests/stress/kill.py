"""Kills processes that fill a compile cache, at random moments; whoever comes next is served and right.

    python -m tests.stress.kill --n 300
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

from tests.cache.models import heavy
from tests.stress.children import finish, start

# After the first word it does nothing but write entries, so that most kills hit a write.
_WRITER = """
import os, sys, onnxc
from onnxc.runtime.cache import open_cache
from onnxc.runtime.cache_key import content_of, key_of
request = {"level": 3, "overridden": ()}
models = [(key_of(content_of(path), request), onnxc.compile(path)) for path in sys.argv[1:]]
parent = os.getppid()
print("ready", flush=True)
while os.getppid() == parent:       # whoever stops the test stops its writers
    for key, compiled in models:
        open_cache().store(key, compiled)
"""
_READER = """
import sys, numpy as np, onnxc
x = np.arange(6, dtype=np.float32).reshape(2, 3)
for path in sys.argv[1:]:
    session = onnxc.InferenceSession(path)
    factor = np.float32(path.rpartition("_")[2].partition(".")[0])
    assert np.array_equal(session.run(["y"], {"x": x, "i": np.array([3])})[0], x * factor), path
print("right")
"""


def kill_writers(n: int, seed: int = 0) -> dict[str, int]:
    """Counts over `n` kills: how many hit a write (its file is left over), and readers that were `right`, or `wrong` (a
    wrong result, an error, or no end)."""
    generator, counts = random.Random(seed), {"kills": 0, "right": 0, "wrong": 0, "in_writes": 0}
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for factor in (2, 3, 5):
            paths.append(str(Path(folder) / f"m_{factor}.onnx"))
            Path(paths[-1]).write_bytes(heavy(factor).SerializeToString())
        settings = {"ONNXC_CACHE": str(Path(folder) / "cache")}
        for i in range(n):
            writer = start(_WRITER, *paths, **settings)
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n", writer.communicate()[1]
            time.sleep(generator.uniform(0, 0.4))
            writer.kill()
            writer.communicate()
            counts["kills"] += 1
            unfinished = [p for p in (Path(folder) / "cache").iterdir() if p.name.startswith(".")]
            counts["in_writes"] += len(unfinished)
            for path in unfinished:
                path.unlink()
            if i % 5 == 4 or i == n - 1:
                status, out, err = finish(start(_READER, *paths, **settings), 60)
                good = (status, out) == (0, "right\n")
                counts["right" if good else "wrong"] += 1
                if not good:
                    print(f"seed {seed}, kill {i}: status {status}\n{err}")
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    found = kill_writers(given.n, given.seed)
    print(found)
    raise SystemExit(bool(found["wrong"]))
