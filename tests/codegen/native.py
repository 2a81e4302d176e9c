"""Running emitted kernels in tests: native code on numpy arrays, with any split of the jobs, against guard pages."""

from __future__ import annotations

import ctypes
import itertools
import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from llvmlite import ir

from onnxc.codegen.llvm import abi
from onnxc.codegen.llvm.emit import emit_kernel, kernel_symbols
from onnxc.codegen.llvm.target import Target
from onnxc.ir.core import Func
from onnxc.ir.dims import evaluate
from onnxc.runtime.loader import NativeModule

_PAGE = mmap.PAGESIZE


class NativeKernel:
    """A kernel compiled for `target`, to be run on arrays as often as wanted."""

    def __init__(self, func: Func, target: Target) -> None:
        self.func, self.symbols, self.messages = func, kernel_symbols(func), list[str]()
        module = ir.Module(func.name)
        self.code = emit_kernel(module, func, target, self._error, self.symbols)
        self.code.function.linkage = "external"
        self.text = str(module)
        self.native = NativeModule(target.compile(module))
        self._call = self.native.function(func.name, None, ctypes.c_void_p, *[ctypes.c_int64] * 3)

    def _error(self, message: str) -> int:
        if message not in self.messages:
            self.messages.append(message)
        return self.messages.index(message)

    def total(self, dims: Mapping[str, int]) -> int:
        return evaluate(self.code.total, dims)

    def run(self, arrays: Sequence[np.ndarray], dims: Mapping[str, int],
            split: Callable[[int], Sequence[int]] | None = None, threads: int = 1) -> str | None:
        """Runs all jobs, in ranges cut at the positions that `split(total)` gives; the message of the first error."""
        return self.run_at([a.ctypes.data for a in arrays], dims, split, threads)

    def run_at(self, addresses: Sequence[int], dims: Mapping[str, int],
               split: Callable[[int], Sequence[int]] | None = None, threads: int = 1) -> str | None:
        total, scratch = self.total(dims), evaluate(self.code.scratch, dims)
        assert evaluate(self.code.grain, dims) >= 1
        table = (ctypes.c_int64 * max(len(self.symbols), 1))(*(dims[s] for s in self.symbols))
        context = (ctypes.c_int64 * abi.CONTEXT_SLOTS)()
        room = np.full(scratch * threads + abi.SCRATCH_ALIGN, 0xA5, np.uint8)
        aligned = -(-room.ctypes.data // abi.SCRATCH_ALIGN) * abi.SCRATCH_ALIGN
        frame = (ctypes.c_int64 * (abi.FRAME_MEMORY + len(addresses)))(
            ctypes.addressof(table), ctypes.addressof(context), aligned, *addresses)
        cuts = [0, *(split(total) if split else ()), total]
        for n, (begin, end) in enumerate(itertools.pairwise(cuts)):
            self._call(ctypes.addressof(frame), begin, end, n % threads)
        code = context[abi.CONTEXT_ERROR]
        return self.messages[code - 1] if code else None


@contextmanager
def guarded(array: np.ndarray, at_end: bool) -> Iterator[np.ndarray]:
    """A copy of `array` flush against a page that may not be touched: behind its end, or in front of its start."""
    size = max(array.nbytes, 1)
    pages = -(-size // _PAGE)
    room = mmap.mmap(-1, (pages + 2) * _PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(room))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for page in (0, pages + 1):
        assert libc.mprotect(start + page * _PAGE, _PAGE, 0) == 0
    offset = _PAGE + (pages * _PAGE - array.nbytes if at_end else 0)
    inside = np.frombuffer(room, np.uint8, array.nbytes, offset).view(array.dtype).reshape(array.shape)
    inside[...] = array
    try:
        yield inside
    finally:
        libc.mprotect(start, (pages + 2) * _PAGE, mmap.PROT_READ | mmap.PROT_WRITE)
