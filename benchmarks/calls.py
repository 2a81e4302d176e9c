"""What a call costs beside the work: a session of one Add on six numbers, in every way that tensors are given.

    python -m benchmarks.calls [--rounds 11] [--calls 3000] [--threads 2]

One line a way (`Ways`): microseconds of a call here and in ONNX Runtime, and the median over rounds of their ratio,
below 1 where onnxc takes less. The engines take turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto, helper

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

SHAPE = (2, 3)


def model() -> bytes:
    x, y, z = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in "xyz")
    graph = helper.make_graph([helper.make_node("Add", ["x", "y"], ["z"])], "sum", [x, y], [z])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


class Ways:
    """The ways of one engine, each a method that makes one call. A binding belongs to one of them."""

    def __init__(self, api: Any, threads: int) -> None:
        self.api = api
        options = api.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = api.InferenceSession(model(), options, providers=["CPUExecutionProvider"])
        rng = np.random.default_rng(0)
        self.arrays = [rng.standard_normal(SHAPE, np.float32) for _ in range(4)]
        self.longer = [rng.standard_normal((rows, 3), np.float32) for rows in (2, 4, 7)]
        self.addresses = [a.ctypes.data for a in self.arrays]
        self.values = [api.OrtValue.ortvalue_from_numpy(a) for a in self.arrays]
        self.places = [api.OrtValue.ortvalue_from_numpy(np.zeros(SHAPE, np.float32)) for _ in range(2)]
        self.turn = 0
        self.binding: Any = None

    def start(self) -> None:
        """A binding with everything bound, before the calls of one way."""
        self.binding = self.session.io_binding()
        self.binding.bind_ortvalue_input("x", self.values[0])
        self.binding.bind_ortvalue_input("y", self.values[1])
        self.binding.bind_output("z")

    def _next(self, of: int = 2) -> int:
        self.turn = (self.turn + 1) % of
        return self.turn

    def run(self) -> None:
        self.session.run(None, {"x": self.arrays[0], "y": self.arrays[1]})

    def run_with_ort_values(self) -> None:
        self.session.run_with_ort_values(None, {"x": self.values[0], "y": self.values[1]})

    def bound_once(self) -> None:
        self.session.run_with_iobinding(self.binding)

    def values_bound_again(self) -> None:
        i = self._next()
        self.binding.bind_ortvalue_input("x", self.values[i])
        self.binding.bind_ortvalue_input("y", self.values[i + 2])
        self.session.run_with_iobinding(self.binding)

    def arrays_bound_again(self) -> None:
        i = self._next()
        self.binding.bind_cpu_input("x", self.arrays[i])
        self.binding.bind_cpu_input("y", self.arrays[i + 2])
        self.session.run_with_iobinding(self.binding)

    def addresses_bound_again(self) -> None:
        i = self._next()
        self.binding.bind_input("x", "cpu", 0, np.float32, SHAPE, self.addresses[i])
        self.binding.bind_input("y", "cpu", 0, np.float32, SHAPE, self.addresses[i + 2])
        self.binding.bind_output("z", "cpu", 0, np.float32, SHAPE, self.places[i].data_ptr())
        self.session.run_with_iobinding(self.binding)

    def output_becomes_input(self) -> None:
        i = self._next()
        self.binding.bind_ortvalue_output("z", self.places[i])
        self.binding.bind_ortvalue_input("x", self.places[1 - i])
        self.session.run_with_iobinding(self.binding)

    def result_becomes_input(self) -> None:
        self.binding.bind_output("z")
        self.session.run_with_iobinding(self.binding)
        self.binding.bind_ortvalue_input("x", self.binding.get_outputs()[0])

    def sizes_change(self) -> None:
        array = self.longer[self._next(3)]
        self.binding.bind_cpu_input("x", array)
        self.binding.bind_cpu_input("y", array)
        self.binding.bind_output("z")
        self.session.run_with_iobinding(self.binding)
        self.binding.copy_outputs_to_cpu()

    def cleared(self) -> None:
        self.binding.clear_binding_inputs()
        self.binding.clear_binding_outputs()
        self._bind_all(self.binding)
        self.session.run_with_iobinding(self.binding)
        self.binding.get_outputs()[0].numpy()

    def binding_for_one_run(self) -> None:
        binding = self.session.io_binding()
        self._bind_all(binding)
        self.session.run_with_iobinding(binding)
        binding.copy_outputs_to_cpu()

    def _bind_all(self, binding: Any) -> None:
        binding.bind_cpu_input("x", self.arrays[0])
        binding.bind_cpu_input("y", self.arrays[1])
        binding.bind_output("z")


def seconds_of(ways: Ways, name: str, calls: int) -> float:
    ways.start()
    call: Callable[[], None] = getattr(ways, name)
    begin = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - begin) / calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--calls", type=int, default=3000, help="of each way in a round")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    import onnxruntime

    import onnxc
    engines = [Ways(api, args.threads) for api in (onnxc, onnxruntime)]
    names = [n for n, method in vars(Ways).items() if callable(method) and not n.startswith("_") and n != "start"]
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for _ in range(args.rounds):
        for name in names:
            times[name].append((seconds_of(engines[0], name, args.calls), seconds_of(engines[1], name, args.calls)))
    print(f"{'':24} {'onnxc us':>9} {'peer us':>9}  ratio")
    for name, pairs in times.items():
        here, there = (statistics.median(side) * 1e6 for side in zip(*pairs, strict=True))
        print(f"{name.replace('_', ' '):24} {here:9.2f} {there:9.2f}  {statistics.median(a / b for a, b in pairs):.2f}")


if __name__ == "__main__":
    main()
