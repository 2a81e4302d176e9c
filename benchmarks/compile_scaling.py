"""How compile time grows with the number of nodes: chains of nodes, each size twice the one before.

    python benchmarks/compile_scaling.py --nodes 1250 2500 5000 10000

Prints processor seconds (other work on the machine is no cost) with the ratio to the size before, and wall seconds by
stage. A chain is the least favourable graph for anything that looks at all that comes before or after a node.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxc.driver import CompileOptions, compile_model

#: What a chain repeats: nodes that fuse, and one that ends a kernel.
KINDS = {
    "mixed": ("Add", "Relu", "Mul", "Tanh", "Sub", "Sigmoid", "Neg", "MatMul"),
    "elementwise": ("Add", "Relu", "Mul", "Tanh", "Sub", "Sigmoid", "Neg", "Abs"),
}
_BINARY = ("Add", "Mul", "Sub", "MatMul")


def chain(nodes: int, kind: str = "mixed", width: int = 16) -> onnx.ModelProto:
    """`nodes` nodes one after another on x: float[N, width]."""
    names = KINDS[kind]
    made = []
    for i in range(nodes):
        op = names[i % len(names)]
        second = [] if op not in _BINARY else ["w" if op == "MatMul" else "b"]
        made.append(helper.make_node(op, [f"h{i}", *second], [f"h{i + 1}"]))
    weights = [numpy_helper.from_array(np.eye(width, dtype=np.float32), "w"),
               numpy_helper.from_array(np.linspace(0, 1, width, dtype=np.float32), "b")]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", width]) for n in ("h0", f"h{nodes}")]
    graph = helper.make_graph(made, "chain", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def measure(sizes: Sequence[int], kind: str = "mixed") -> list[tuple[int, float, dict[str, float]]]:
    """Nodes, processor seconds, and wall seconds by stage, for each size; after a small chain that loads everything."""
    compile_model(chain(8, kind).SerializeToString(), CompileOptions())
    found = []
    for nodes in sizes:
        data = chain(nodes, kind).SerializeToString()
        start = time.process_time()
        compiled = compile_model(data, CompileOptions())
        seconds = time.process_time() - start
        stages = {**compiled.report["seconds"], **{p["name"]: p["seconds"] for p in compiled.report["passes"]}}
        found.append((nodes, seconds, {name: float(s) for name, s in stages.items()}))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1250, 2500, 5000, 10_000])
    parser.add_argument("--kind", choices=list(KINDS), default="mixed")
    given = parser.parse_args()
    before = None
    for nodes, seconds, stages in measure(given.nodes, given.kind):
        ratio = "" if before is None else f"  x{seconds / before:.2f}"
        largest = sorted(stages.items(), key=lambda item: -item[1])[:8]
        print(f"{nodes:6} nodes {seconds:8.2f} s{ratio}  {', '.join(f'{n} {s:.2f}' for n, s in largest)}", flush=True)
        before = seconds


if __name__ == "__main__":
    main()
