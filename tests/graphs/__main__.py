"""`python -m tests.graphs --seeds 1000`: random graphs, each through the passes and, with --native, natively."""

from __future__ import annotations

import argparse
import sys
import time
import traceback

from onnxc.ir.printer import print_module
from tests.graphs.check import OPTIONAL, check_graph, check_native, expected
from tests.graphs.choices import replayed, seeded, shrink
from tests.graphs.grow import grow


def fault(taken: list[int] | None, seed: int, ops: int, native: bool) -> tuple[str, str, list[int]]:
    """What kind of thing goes wrong with one graph ("" for nothing), all of it, and the choices that made the graph."""
    choices = seeded(seed) if taken is None else replayed(taken)
    one = (OPTIONAL[seed // 4 % len(OPTIONAL)],)
    left_out: tuple[str, ...] = OPTIONAL if seed % 4 == 1 else one if seed % 4 == 2 else ()
    graph = grow(choices, ops)
    try:
        wanted = expected(graph)
        if native:
            check_native(graph, wanted, 1 + seed % 3)
        else:
            check_graph(graph, wanted, left_out)
    except Exception as e:
        return type(e).__name__, f"without {left_out}: {traceback.format_exc(limit=-4)}", choices.taken
    return "", "", choices.taken


def report(seed: int, kind: str, taken: list[int], ops: int, native: bool) -> None:
    """Print the smallest case that fails in the same way."""
    small = shrink(taken, lambda candidate: fault(candidate, seed, ops, native)[0] == kind, 600)
    graph = grow(replayed(small), ops)
    print(f"==== seed {seed}: sizes {graph.bindings}, tolerances {graph.tolerances}")
    print(print_module(graph.module, inline=True))
    print(fault(small, seed, ops, native)[1], flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.graphs", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--ops", type=int, default=20, help="the most ops that a graph has")
    parser.add_argument("--native", action="store_true", help="run the compiled machine code")
    parser.add_argument("--most", type=int, default=3, help="faults after which to stop")
    args = parser.parse_args()
    begin, found, seed = time.time(), 0, args.start
    while seed < args.start + args.seeds and found < args.most:
        kind, _, taken = fault(None, seed, args.ops, args.native)
        if kind:
            found += 1
            report(seed, kind, taken, args.ops, args.native)
        seed += 1
    print(f"{found} faults in {seed - args.start} graphs; {time.time() - begin:.0f} s")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
