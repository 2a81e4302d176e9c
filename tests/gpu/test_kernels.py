"""The kernels on a card: the spike against float64 and the others against the interpreter, from their cubins."""

from __future__ import annotations

import numpy as np
import pytest

from onnxc.codegen.interp import run_kernel
from onnxc.codegen.triton.emit import emit_kernel
from onnxc.codegen.triton.target import GpuTarget, compile_kernel
from onnxc.ops import kernel, scalar  # noqa: F401  (their rows)
from onnxc.runtime.cuda import CudaDevice
from tests.codegen.kernels import KERNELS, same
from tests.codegen.spike import SPIKES, cases
from tests.gpu.device_kernels import Launch, run_on_device

pytestmark = [pytest.mark.gpu, pytest.mark.triton]


@pytest.fixture(scope="module")
def device():
    with CudaDevice() as d:
        yield d


def _build(device, func, **special):
    return compile_kernel(emit_kernel(func, **special), GpuTarget(device.capability))


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("spike", SPIKES.values(), ids=SPIKES)
def test_spike_is_its_reference(device, spike, bits):
    built = _build(device, spike.func(), index_bits=bits)
    for sizes in cases(spike):
        arrays = spike.inputs(sizes)
        assert run_on_device(device, built, arrays, sizes) == []
        spike.check(sizes, arrays, arrays[-1])


@pytest.mark.parametrize("case", KERNELS.values(), ids=KERNELS)
def test_kernels_are_what_the_interpreter_says(device, case):
    built = _build(device, case.func())
    for sizes in case.sizes:
        expected, found = case.arrays(sizes), case.arrays(sizes)
        errors = run_kernel(case.func(), expected, sizes)
        assert run_on_device(device, built, found, sizes) == errors[:1]
        same(case, sizes, found, expected)


def test_rows_held_in_a_block(device):
    for name in ("softmax", "layer_norm"):
        spike = SPIKES[name]
        built = _build(device, spike.func(), limits={"C": 300})
        for sizes in cases(spike):
            arrays = spike.inputs(sizes)
            run_on_device(device, built, arrays, sizes)
            spike.check(sizes, arrays, arrays[-1])


def test_aligned_products(device):
    spike = SPIKES["matmul_gelu"]
    built = _build(device, spike.func(), index_bits=32, multiples={"M": 16, "N": 16, "K": 16})
    sizes = {"M": 272, "N": 144, "K": 96}
    arrays = spike.inputs(sizes)
    run_on_device(device, built, arrays, sizes)
    spike.check(sizes, arrays, arrays[-1])


def test_indices_out_of_range_are_recorded(device):
    built = _build(device, SPIKES["gather_add"].func())
    arrays = [np.ones((4, 5), np.float32), np.array([0, 2**62, -1]), np.ones((3, 5), np.float32),
              np.zeros((3, 5), np.float32)]
    assert run_on_device(device, built, arrays, {"V": 4, "N": 3, "C": 5}) == ["an index is out of range"]
    np.testing.assert_array_equal(arrays[-1], [[2] * 5, [1] * 5, [2] * 5])


def test_a_graph_replays_the_launch(device):
    spike = SPIKES["softmax"]
    sizes = {"N": 5, "C": 37}
    arrays = spike.inputs(sizes)
    launch = Launch(device, _build(device, spike.func()), arrays, sizes)
    graph = device.capture(launch.enqueue)
    device.replay(graph)
    assert launch.finish() == []
    graph.destroy()
    spike.check(sizes, arrays, arrays[-1])
