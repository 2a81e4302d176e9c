"""Times of the eight spike kernels on a CUDA device, against what the device could do at best.

    python -m benchmarks.gpu_spike [name ...]

For each kernel a large size, with rows bounded (held in a block), offsets of 32 bits and dims known as multiples of 16:
what a program specialised for its shapes runs. Prints the median of launches in a replayed graph, and the share of the
memory bandwidth (from the bytes of all arguments) or of the f32 rate that it comes to.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
from collections.abc import Mapping

import numpy as np

from onnxc.codegen.triton.emit import emit_kernel
from onnxc.codegen.triton.target import GpuTarget, compile_kernel
from onnxc.ops import kernel, scalar  # noqa: F401  (their rows)
from onnxc.runtime.cuda import CudaDevice, device_count
from tests.codegen.spike import SPIKES
from tests.gpu.device_kernels import Launch

LAUNCHES, REPEATS = 20, 7


@dataclasses.dataclass(frozen=True)
class Case:
    """A size of a spike kernel; `flops` counts those of a contraction."""

    sizes: Mapping[str, int]
    limits: Mapping[str, int] = dataclasses.field(default_factory=dict)
    multiples: Mapping[str, int] = dataclasses.field(default_factory=dict)
    flops: int = 0
    tf32: bool = False


CASES: list[tuple[str, Case]] = [
    ("softmax", Case({"N": 16384, "C": 4096}, {"C": 4096}, {"C": 16})),
    ("softmax", Case({"N": 16384, "C": 4096})),
    ("layer_norm", Case({"N": 16384, "C": 4096}, {"C": 4096}, {"C": 16})),
    ("transpose_pad", Case({"N": 8192, "C": 8192}, {}, {"N": 16, "C": 16})),
    ("max_pool", Case({"N": 32, "H": 112, "W": 112, "C": 256}, {"C": 256}, {"C": 16})),
    ("gather_add", Case({"V": 50000, "N": 16384, "C": 4096}, {}, {"C": 16})),
    ("argmax", Case({"N": 16384, "C": 4096}, {"C": 4096}, {"C": 16})),
    ("cumsum", Case({"A": 64, "L": 256, "B": 4096}, {}, {"B": 16})),
    ("matmul_gelu", Case({"M": 4096, "N": 4096, "K": 4096}, {}, {"M": 16, "N": 16, "K": 16}, 2 * 4096**3)),
    ("matmul_gelu", Case({"M": 4096, "N": 4096, "K": 4096}, {}, {"M": 16, "N": 16, "K": 16}, 2 * 4096**3, True)),
]


def copy_bandwidth(device: CudaDevice) -> float:
    """Bytes a second of filling device memory, which the driver does well: the yardstick."""
    nbytes = 1 << 30
    with device.arena(nbytes) as memory:
        device.fill(memory, 0)
        start = device.record()
        for _ in range(LAUNCHES):
            device.fill(memory, 0)
        return LAUNCHES * nbytes / (start.milliseconds_to(device.record()) * 1e-3)


def seconds(device: CudaDevice, launch: Launch) -> float:
    """The median time of one launch, among others of its kind in a graph."""
    def enqueue() -> None:
        for _ in range(LAUNCHES):
            launch.enqueue()
    graph = device.capture(enqueue)
    device.replay(graph)
    times = []
    for _ in range(REPEATS):
        start = device.record()
        device.replay(graph)
        times.append(start.milliseconds_to(device.record()) * 1e-3 / LAUNCHES)
    graph.destroy()
    return statistics.median(times)


def measure(device: CudaDevice, name: str, case: Case, bandwidth: float) -> str:
    """One line of the table; AssertionError when the result is wrong."""
    spike = SPIKES[name]
    source = emit_kernel(spike.func(), index_bits=32, limits=case.limits, multiples=case.multiples, tf32=case.tf32)
    built = compile_kernel(source, GpuTarget(device.capability))
    arrays = spike.inputs(case.sizes)
    launch = Launch(device, built, arrays, case.sizes)
    took = seconds(device, launch)
    if not case.flops:                                  # float64 references of large products take minutes
        launch.finish()
        spike.check(case.sizes, arrays, arrays[-1])
    nbytes = sum(a.nbytes for a in arrays)
    rate = f"{case.flops / took / 1e12:8.1f} TFLOP/s" if case.flops else \
        f"{nbytes / took / 1e9:8.0f} GB/s {100 * nbytes / took / bandwidth:5.0f} %"
    what = "tf32" if case.tf32 else "row held" if case.limits else ""
    return f"{name:14s} {what:9s} {took * 1e6:10.1f} us {rate:22s} {built.usage.registers:4d} registers"


def main() -> int:
    if not device_count():
        print("there is no CUDA device on this machine", file=sys.stderr)
        return 1
    with CudaDevice() as device:
        bandwidth = copy_bandwidth(device)
        print(f"{device.name}, sm_{device.capability}, fill {bandwidth / 1e9:.0f} GB/s; numpy {np.__version__}")
        for name, case in CASES:
            if len(sys.argv) < 2 or name in sys.argv[1:]:
                print(measure(device, name, case, bandwidth))
    return 0


if __name__ == "__main__":
    sys.exit(main())
