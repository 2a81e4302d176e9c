"""Running compiled kernels on a CUDA device, as the tests and benchmarks here need it: upload, launch, download."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxc.codegen.triton.source import error_code
from onnxc.codegen.triton.target import CompiledKernel
from onnxc.ir.dims import evaluate
from onnxc.runtime.cuda import CudaDevice, Function, Memory, Parameters

__all__ = ["Launch", "run_on_device"]


class Launch:
    """A kernel with its arrays on a device, ready to be enqueued again and again."""

    def __init__(self, device: CudaDevice, kernel: CompiledKernel, arrays: Sequence[np.ndarray],
                 dims: Mapping[str, int]) -> None:
        self.device, self.kernel, self.arrays = device, kernel, arrays
        self.grid = evaluate(kernel.source.grid, dims)
        self.function: Function = device.load(kernel.cubin, kernel.source.name, kernel.shared)
        self.buffers: list[Memory] = [device.allocate(a.nbytes) for a in arrays]
        self.word = device.allocate(4)
        for memory, array in zip(self.buffers, arrays, strict=True):
            device.upload(memory, array)
        device.fill(self.word, 0)
        values = kernel.source.parameters([b.address for b in self.buffers], dims, self.word.address)
        self.parameters = Parameters(values)

    def enqueue(self) -> None:
        self.device.launch(self.function, self.grid, self.kernel.warps, self.parameters)

    def finish(self) -> list[str]:
        """Fill the arrays from the device and give all memory back; the recorded error, if any."""
        word = np.zeros(1, np.int32)
        for memory, array in zip([*self.buffers, self.word], [*self.arrays, word], strict=True):
            self.device.download(array, memory)
            memory.free()
        self.function.unload()
        code = error_code(int(word[0]))
        return [] if code is None else [self.kernel.source.errors[code]]


def run_on_device(device: CudaDevice, kernel: CompiledKernel, arrays: Sequence[np.ndarray],
                  dims: Mapping[str, int]) -> list[str]:
    """Run a kernel once on its arrays, in place; the recorded error, if any."""
    launch = Launch(device, kernel, arrays, dims)
    launch.enqueue()
    return launch.finish()
