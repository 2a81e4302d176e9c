"""`python -m tests.calls --seeds 1000`: random sequences of calls on onnxc and on ONNX Runtime side by side.

The sequences run in a child process, so that a crash of either costs one of them; the seed is reported.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

__all__ = ["check", "main"]

ROOT = Path(__file__).resolve().parents[2]
_PATIENCE = 300.0       # seconds without a word, after which a child hangs


def child(args: argparse.Namespace) -> int:
    """Plays sequences, and says what it does on what was its standard output."""
    from tests.calls.sequence import play
    from tests.calls.world import sides
    from tests.graphs.choices import replayed, seeded, shrink

    report = os.fdopen(os.dup(1), "w", buffering=1)
    with tempfile.TemporaryDirectory() as folder:
        quiet = os.open(os.path.join(folder, "written"), os.O_CREAT | os.O_RDWR | os.O_APPEND)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)

        def tell(what: str) -> None:
            report.write(json.dumps({"at": what[:1000]}) + "\n")
        both = sides()
        for seed in range(args.start, args.start + args.seeds):
            report.write(json.dumps({"seed": seed}) + "\n")
            kind, text, world = play(seeded(seed), both, args.steps, folder, tell)
            if kind and args.tries:
                taken = shrink(world.choices.taken, lambda t, kind=kind: play(
                    replayed(t), both, args.steps, folder, tell)[0] == kind, args.tries)
                kind, text, world = play(replayed(taken), both, args.steps, folder, tell)
            report.write(json.dumps({"done": seed, "kind": kind, "text": text, "calls": len(world.log),
                                     "known": sorted(world.seen)}) + "\n")
    return 0


class Tally:
    """What children have said so far."""

    def __init__(self) -> None:
        self.faults: list[tuple[int, str, str]] = []
        self.crashes: list[tuple[int, str]] = []        # of ONNX Runtime
        self.known: Counter[str] = Counter()
        self.calls = self.sequences = 0
        self.seed, self.at = -1, ""

    def hear(self, line: str) -> None:
        said: dict[str, Any] = json.loads(line)
        self.seed, self.at = said.get("seed", self.seed), said.get("at", self.at)
        if "done" in said:
            self.sequences += 1
            self.calls += said["calls"]
            self.known.update(said["known"])
            if said["kind"]:
                self.faults.append((said["done"], said["kind"], said["text"]))

    def lost(self, status: str) -> None:
        """A child ended, or was ended, in the middle of a sequence."""
        text = f"{status} in {self.at}"
        if self.at.startswith("onnxruntime "):
            self.crashes.append((self.seed, text))
        else:
            self.faults.append((self.seed, "crash", text))


def check(start: int, seeds: int, steps: int = 20, tries: int = 0, most: int = 1, tell: Any = None) -> Tally:
    """Plays the sequences of these seeds, up to `most` faults; shrinks each fault in `tries` tries."""
    tally, at = Tally(), start
    while at < start + seeds and len(tally.faults) < most:
        command = [sys.executable, "-m", "tests.calls", "--child", "--start", str(at), "--seeds",
                   str(start + seeds - at), "--steps", str(steps), "--tries", str(tries)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            ended = _listen(process, tally, most, tell)
        finally:
            process.kill()
            process.wait()
        if ended:
            tally.lost(ended)
        at = tally.seed + 1
    return tally


def _listen(process: subprocess.Popen[str], tally: Tally, most: int, tell: Any) -> str:
    """Hears what a child says until it is done, or has found enough; how it ended otherwise."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as waiting:
        waiting.register(process.stdout, selectors.EVENT_READ)
        while len(tally.faults) < most:
            if not waiting.select(_PATIENCE):
                return f"no word for {_PATIENCE:.0f} s"
            line = process.stdout.readline()
            if not line:
                return f"exit status {process.wait()}" if process.wait() else ""
            before = len(tally.faults)
            tally.hear(line)
            if tell is not None and len(tally.faults) > before:
                tell(tally.faults[-1])
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.calls", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20, help="the most calls, about, that a sequence has")
    parser.add_argument("--tries", type=int, default=200, help="how often a faulty sequence is made shorter")
    parser.add_argument("--most", type=int, default=3, help="faults after which to stop")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args)
    begin = time.time()
    tally = check(args.start, args.seeds, args.steps, args.tries, args.most,
                  lambda fault: print("==== seed {}: {}\n{}".format(*fault), flush=True))
    for seed, text in tally.crashes:
        print(f"onnxruntime did not survive seed {seed}: {text}")
    for reason, count in tally.known.most_common():
        print(f"{count:6} {reason}")
    print(f"{len(tally.faults)} faults in {tally.sequences} sequences of {tally.calls} calls; "
          f"{time.time() - begin:.0f} s")
    return 1 if tally.faults else 0


if __name__ == "__main__":
    sys.exit(main())
