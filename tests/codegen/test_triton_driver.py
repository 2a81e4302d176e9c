"""The ctypes driver layer without a driver: a stand-in with libcuda's calls, whose launches go through the simulator.

What it holds: the order and packing of parameters, sizes of launches, copies within bounds, errors by name, and that
everything allocated is given back.
"""

from __future__ import annotations

import ctypes
import dataclasses

import ml_dtypes
import numpy as np
import pytest

from onnxc.codegen.triton.emit import emit_kernel
from onnxc.codegen.triton.simulate import Simulator
from onnxc.codegen.triton.source import ERROR_LIMIT
from onnxc.codegen.triton.target import CompiledKernel, GpuTarget
from onnxc.errors import NotFound
from onnxc.ops import kernel, scalar  # noqa: F401  (their rows)
from onnxc.runtime import cuda
from tests.codegen.spike import SPIKES
from tests.gpu.device_kernels import Launch, run_on_device

_ELEMENTS = {"*fp32": np.float32, "*i64": np.int64, "*i32": np.int32, "*bf16": ml_dtypes.bfloat16}
_ATTRIBUTES = {75: 9, 76: 0, 16: 132, 97: 232_448}


class StandIn:
    """libcuda, as far as `runtime.cuda` calls it. `kernels` are those whose cubins it knows."""

    def __init__(self, simulator: Simulator | None) -> None:
        self.simulator, self.kernels = simulator, {}
        self.memory: dict[int, np.ndarray] = {}
        self.open: dict[int, str] = {}
        self.captured: list[tuple] | None = None
        self.failing: dict[str, int] = {}
        self.log: list[str] = []

    def __getattr__(self, name):
        if not name.startswith("cu"):
            raise AttributeError(name)

        def call(*args):
            self.log.append(name)
            if name in self.failing:
                return self.failing[name]
            return getattr(self, "do_" + name.removesuffix("_v2"))(*args) or 0
        return call

    def make(self, out, what):
        handle = 0x1000 + len(self.log)
        self.open[handle] = what
        out._obj.value = handle

    def end(self, handle, *_):
        del self.open[handle.value if isinstance(handle, (ctypes.c_void_p, ctypes.c_uint64)) else handle]

    def do_cuGetErrorString(self, status, out):
        out._obj.value = b"made up"

    def do_cuDeviceGetCount(self, out):
        out._obj.value = 1

    def do_cuDeviceGet(self, out, ordinal):
        out._obj.value = ordinal

    def do_cuDeviceGetAttribute(self, out, which, device):
        out._obj.value = _ATTRIBUTES[which]

    def do_cuDeviceGetName(self, text, size, device):
        text.value = b"stand-in"

    def do_cuDevicePrimaryCtxRetain(self, out, device):
        self.open[device] = "context"
        out._obj.value = 1

    def do_cuCtxSetCurrent(self, context):
        assert context.value == 1

    def do_cuStreamCreate(self, out, flags):
        self.make(out, "stream")

    do_cuStreamDestroy = do_cuDevicePrimaryCtxRelease = do_cuModuleUnload = end
    do_cuGraphExecDestroy = do_cuGraphDestroy = do_cuEventDestroy = end

    def do_cuStreamSynchronize(self, stream):
        assert self.open[stream.value] == "stream"

    def do_cuMemAlloc(self, out, size):
        data = np.full(size.value, 0xA5, np.uint8)
        self.memory[data.ctypes.data] = data
        self.open[data.ctypes.data] = "memory"
        out._obj.value = data.ctypes.data

    def do_cuMemFree(self, address):
        del self.memory[address.value]
        self.end(address)

    def do_cuMemcpyHtoDAsync(self, to, source, size, stream):
        ctypes.memmove(to.value, source.value, size.value)

    def do_cuMemcpyDtoHAsync(self, to, source, size, stream):
        ctypes.memmove(to.value, source.value, size.value)

    def do_cuMemsetD8Async(self, address, byte, size, stream):
        ctypes.memset(address.value, byte.value, size.value)

    def do_cuModuleLoadData(self, out, image):
        self.make(out, image)

    def do_cuModuleGetFunction(self, out, module, name):
        built = self.kernels[self.open[module.value]]
        assert name.decode() == built.source.name
        out._obj.value = module.value

    def do_cuFuncSetAttribute(self, function, which, value):
        assert which == 8

    def do_cuLaunchKernel(self, function, gx, gy, gz, bx, by, bz, shared, stream, pointers, extra):
        built = self.kernels[self.open[function.value]]
        assert (gy, gz, bx, by, bz) == (1, 1, 32 * built.warps, 1, 1)
        assert (shared, extra) == (built.shared, None)
        if self.captured is not None:
            self.captured.append((built, gx, pointers))
        else:
            self.run(built, gx, pointers)

    def run(self, built, grid, pointers):
        """Unpack the parameters as the cubin would, and run the source."""
        arguments = built.source.arguments
        assert len(pointers) == len(arguments) + 2
        values = [ctypes.cast(p, ctypes.POINTER(ctypes.c_int32 if a.type == "i32" else ctypes.c_int64))[0]
                  for p, a in zip(pointers, [*arguments, None, None][:len(arguments)], strict=False)]
        assert [ctypes.cast(p, ctypes.POINTER(ctypes.c_int64))[0] for p in pointers[len(arguments):]] == [0, 0]
        named = list(zip(arguments, values, strict=True))
        arrays = [self.memory[v].view(_ELEMENTS[a.type]) for a, v in named if a.kind == "mem"]
        dims = {a.name: v for a, v in named if a.kind == "symbol"}
        messages = self.simulator.launch(dataclasses.replace(built.source, grid=grid), arrays, dims)
        for a, v in named:
            if a.kind == "error" and messages:
                self.memory[v].view(np.int32)[0] = ERROR_LIMIT - built.source.errors.index(messages[0])

    def do_cuStreamBeginCapture(self, stream, mode):
        self.captured = []

    def do_cuStreamEndCapture(self, stream, out):
        self.make(out, "graph")
        self.graph, self.captured = self.captured, None

    def do_cuGraphInstantiateWithFlags(self, out, graph, flags):
        self.make(out, "executable")

    def do_cuGraphLaunch(self, graph, stream):
        for launch in self.graph:
            self.run(*launch)

    def do_cuEventCreate(self, out, flags):
        self.make(out, "event")

    def do_cuEventRecord(self, event, stream):
        assert self.open[event.value] == "event"

    def do_cuEventSynchronize(self, event):
        assert self.open[event.value] == "event"

    def do_cuEventElapsedTime(self, out, first, last):
        out._obj.value = 1.5


@pytest.fixture(scope="module")
def simulator():
    with Simulator() as s:
        yield s


@pytest.fixture
def driver(monkeypatch):
    stand_in = StandIn(None)
    monkeypatch.setattr(cuda, "_driver", lambda: stand_in)
    yield stand_in
    assert stand_in.open == {}, "something was not given back"


def _built(driver, name):
    """A kernel as if it was compiled: its image is a token that the stand-in knows."""
    source = emit_kernel(SPIKES[name].func())
    built = CompiledKernel(source, GpuTarget(90), f"cubin of {name}".encode(), "", source.schedule.warps, 60_000)
    driver.kernels[built.cubin] = built
    return built


@pytest.mark.triton
@pytest.mark.parametrize(("name", "sizes"), [
    ("softmax", {"N": 5, "C": 37}), ("argmax", {"N": 11, "C": 40}), ("gather_add", {"V": 9, "N": 6, "C": 40}),
    ("matmul_gelu", {"M": 37, "N": 70, "K": 90}), ("softmax", {"N": 0, "C": 3}),
])
def test_launches_pass_what_the_kernel_takes(driver, simulator, name, sizes):
    driver.simulator = simulator
    arrays = SPIKES[name].inputs(sizes)
    with cuda.CudaDevice() as device:
        assert run_on_device(device, _built(driver, name), arrays, sizes) == []
    SPIKES[name].check(sizes, arrays, arrays[-1])
    assert ("cuLaunchKernel" in driver.log) == (sizes["N"] > 0)
    assert "cuFuncSetAttribute" in driver.log


@pytest.mark.triton
def test_errors_come_back(driver, simulator):
    driver.simulator = simulator
    arrays = [np.ones((4, 5), np.float32), np.array([0, 9, 1]), np.ones((3, 5), np.float32),
              np.zeros((3, 5), np.float32)]
    with cuda.CudaDevice() as device:
        found = run_on_device(device, _built(driver, "gather_add"), arrays, {"V": 4, "N": 3, "C": 5})
    assert found == ["an index is out of range"]


@pytest.mark.triton
def test_graphs_and_events(driver, simulator):
    driver.simulator = simulator
    sizes = {"N": 5, "C": 37}
    arrays = SPIKES["softmax"].inputs(sizes)
    with cuda.CudaDevice() as device:
        launch = Launch(device, _built(driver, "softmax"), arrays, sizes)
        graph = device.capture(launch.enqueue)
        before = device.record()
        device.replay(graph)
        after = device.record()
        assert before.milliseconds_to(after) == 1.5
        for thing in (graph, before, after):
            thing.destroy()
        assert launch.finish() == []
    SPIKES["softmax"].check(sizes, arrays, arrays[-1])


def test_a_device_says_what_it_is(driver):
    with cuda.CudaDevice() as device:
        assert (device.name, device.capability, device.multiprocessors) == ("stand-in", 90, 132)
        assert device.shared_limit == 232_448
    assert cuda.device_count() == 1


def test_copies_stay_inside(driver):
    with cuda.CudaDevice() as device, device.arena(16) as memory:
        device.upload(memory, np.arange(2, dtype=np.int64))
        out = np.zeros(1, np.int64)
        device.download(out, memory, 8)
        assert out[0] == 1
        for offset in (-8, 9, 16):
            with pytest.raises(ValueError, match="of a buffer of 16"):
                device.download(out, memory, offset)
        with pytest.raises(ValueError, match="of a buffer of 16"):
            device.upload(memory, np.zeros(3, np.int64))
        with pytest.raises(ValueError, match="contiguous"):
            device.download(np.zeros((2, 2), np.int32).T[:1], memory)


def test_failures_name_the_call(driver):
    with cuda.CudaDevice() as device:
        driver.failing["cuMemAlloc_v2"] = 2
        with pytest.raises(cuda.CudaError, match="cuMemAlloc_v2 failed with 2: made up") as caught:
            device.allocate(8)
        assert (caught.value.call, caught.value.result) == ("cuMemAlloc_v2", 2)
        driver.failing.clear()


def test_without_a_driver(monkeypatch):
    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")
    monkeypatch.setattr(cuda, "_driver", cuda._driver.__wrapped__)
    monkeypatch.setattr(cuda.ctypes, "CDLL", missing)
    assert cuda.device_count() == 0
    with pytest.raises(NotFound, match="no NVIDIA driver"):
        cuda.CudaDevice()
