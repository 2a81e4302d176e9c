"""Sends Ctrl-C to processes that compile or run, at random moments. The exception comes soon, the next run is right.

    python -m tests.stress.interrupt --n 50
"""

from __future__ import annotations

import argparse
import random
import signal
import time

from tests.stress.children import finish, start

COMPILE_LIMIT, RUN_LIMIT = 2.0, 0.5      # seconds until the exception is raised

_CHILD = """
import os, signal, sys, time, numpy as np, onnxc, onnxc.driver, onnxc.codegen.llvm.program
from tests.session import models
signal.signal(signal.SIGINT, signal.default_int_handler)    # a shell's background job is begun without it
data = models.chain(40, 256).SerializeToString()
what = sys.argv[1]
session = onnxc.InferenceSession(data)
x = np.random.default_rng(0).standard_normal((20_000, 256)).astype(np.float32)
small = session.run(None, {"x": x[:5]})[0]
parent = os.getppid()
print("ready", flush=True)
try:
    while os.getppid() == parent:
        if what == "compile":
            onnxc.InferenceSession(data)
        else:
            session.run(None, {"x": x})
except KeyboardInterrupt:
    print(time.monotonic(), flush=True)
assert np.array_equal(session.run(None, {"x": x[:5]})[0], small)
onnxc.InferenceSession(models.sums().SerializeToString())
print("right", flush=True)
"""


def interrupt(what: str, n: int, seed: int = 0) -> list[float]:
    """Seconds from signal to exception of `n` processes that compile or run; -1 for one that was not right after it."""
    generator, delays = random.Random(seed), []
    for _ in range(n):
        child = start(_CHILD, what, ONNXC_CACHE="off")
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n", child.communicate()[1]
        time.sleep(generator.uniform(0, 1.0))
        sent = time.monotonic()         # one clock for all processes
        child.send_signal(signal.SIGINT)
        status, out, err = finish(child, 60)
        lines = out.split()
        good = status == 0 and len(lines) == 2 and lines[1] == "right"
        delays.append(float(lines[0]) - sent if good else -1.0)
        if not good:
            print(f"{what}, seed {seed}: status {status}, {out!r}\n{err}")
    return delays


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    failed = False
    for kind, limit in (("compile", COMPILE_LIMIT), ("run", RUN_LIMIT)):
        found = interrupt(kind, given.n, given.seed)
        print(f"{kind}: {given.n} signals, longest {max(found):.3f} s, wrong {sum(d < 0 for d in found)}")
        failed |= min(found) < 0 or max(found) > limit
    raise SystemExit(failed)
