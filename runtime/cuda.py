"""The CUDA driver through ctypes: devices, memory, modules, launches, graphs and events; no toolkit, no compiler.

Everything runs in the device's primary context, which other libraries of the process share, on a stream of its own.
Calls are asynchronous unless they say otherwise. Knows cubins and addresses, and nothing of kernels' meaning.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from onnxc.errors import EPFail, NotFound

__all__ = ["CudaDevice", "CudaError", "Event", "Function", "Graph", "Memory", "Parameters", "device_count"]

_STATIC_SHARED_LIMIT = 49_152           # bytes of shared memory that a launch may have without asking
_MULTIPROCESSORS, _SHARED_OPTIN, _MAJOR, _MINOR = 16, 97, 75, 76        # CUdevice_attribute
_MAX_DYNAMIC_SHARED = 8                 # CUfunction_attribute
_RELAXED = 2                            # CUstreamCaptureMode
_NON_BLOCKING = 1                       # CUstream_flags


class CudaError(EPFail):
    """A driver call failed: `call` and `result` say which and with what code."""

    def __init__(self, call: str, result: int, text: str) -> None:
        self.call, self.result = call, result
        super().__init__(f"{call} failed with {result}: {text}")


@functools.cache
def _driver() -> ctypes.CDLL:
    """The driver's library, initialised; NotFound where there is none."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError as e:
        raise NotFound(f"there is no NVIDIA driver on this machine ({e}): the CUDA provider needs one") from e
    status = library.cuInit(0)
    if status != 0:
        raise CudaError("cuInit", status, _text(library, status))
    return library


def _text(library: ctypes.CDLL, status: int) -> str:
    found = ctypes.c_char_p()
    library.cuGetErrorString(status, ctypes.byref(found))
    return found.value.decode() if found.value else "unknown error"


def _call(name: str, *args: object) -> None:
    library = _driver()
    status = getattr(library, name)(*args)
    if status != 0:
        raise CudaError(name, status, _text(library, status))


def device_count() -> int:
    """How many CUDA devices there are; 0 where there is no driver or it does not start."""
    try:
        count = ctypes.c_int()
        _call("cuDeviceGetCount", ctypes.byref(count))
    except (NotFound, CudaError):
        return 0
    return count.value


class CudaDevice:
    """A device with its primary context and one stream. `capability` is 90 for sm_90; `close` gives all back."""

    def __init__(self, ordinal: int = 0) -> None:
        handle, context, stream = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
        _call("cuDeviceGet", ctypes.byref(handle), ordinal)
        self._handle = handle.value
        self.capability = self._attribute(_MAJOR) * 10 + self._attribute(_MINOR)
        self.multiprocessors = self._attribute(_MULTIPROCESSORS)
        self.shared_limit = self._attribute(_SHARED_OPTIN)
        _call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._handle)
        self._context: ctypes.c_void_p | None = context
        self.bind()
        _call("cuStreamCreate", ctypes.byref(stream), _NON_BLOCKING)
        self._stream = stream
        self._held: list[np.ndarray] = []               # host arrays of copies under way

    def __enter__(self) -> CudaDevice:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def bind(self) -> None:
        """Make the context current in the calling thread; each thread that uses the device does so once."""
        _call("cuCtxSetCurrent", self._context)

    def close(self) -> None:
        """Wait for the stream and release stream and context."""
        if self._context is not None:
            self.synchronize()
            _call("cuStreamDestroy_v2", self._stream)
            _call("cuDevicePrimaryCtxRelease_v2", self._handle)
            self._context = None

    def _attribute(self, which: int) -> int:
        value = ctypes.c_int()
        _call("cuDeviceGetAttribute", ctypes.byref(value), which, self._handle)
        return value.value

    @property
    def name(self) -> str:
        """The product's name."""
        text = ctypes.create_string_buffer(256)
        _call("cuDeviceGetName", text, len(text), self._handle)
        return text.value.decode()

    def synchronize(self) -> None:
        """Wait until the stream is done; errors of earlier launches come out here."""
        _call("cuStreamSynchronize", self._stream)
        self._held.clear()

    # ---- memory ------------------------------------------------------------------------------------------------------
    def allocate(self, nbytes: int) -> Memory:
        """Device memory, its start a multiple of 256 bytes."""
        address = ctypes.c_uint64()
        _call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(nbytes, 1)))
        return Memory(address.value, nbytes)

    def upload(self, to: Memory, array: np.ndarray, offset: int = 0) -> None:
        """Copy an array's bytes to the device."""
        data = np.ascontiguousarray(array)
        to.check(offset, data.nbytes)
        self._held.append(data)
        _call("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(to.address + offset), ctypes.c_void_p(data.ctypes.data),
              ctypes.c_size_t(data.nbytes), self._stream)

    def download(self, array: np.ndarray, source: Memory, offset: int = 0) -> None:
        """Copy bytes from the device into a C-contiguous array, and wait for them."""
        if not array.flags.c_contiguous:
            raise ValueError("only C-contiguous arrays can be filled from the device")
        source.check(offset, array.nbytes)
        _call("cuMemcpyDtoHAsync_v2", ctypes.c_void_p(array.ctypes.data), ctypes.c_uint64(source.address + offset),
              ctypes.c_size_t(array.nbytes), self._stream)
        self.synchronize()

    def fill(self, memory: Memory, byte: int) -> None:
        """Set every byte."""
        _call("cuMemsetD8Async", ctypes.c_uint64(memory.address), ctypes.c_ubyte(byte),
              ctypes.c_size_t(memory.nbytes), self._stream)

    # ---- kernels -----------------------------------------------------------------------------------------------------
    def load(self, cubin: bytes, name: str, shared: int) -> Function:
        """A kernel of a cubin, allowed `shared` bytes of dynamic shared memory."""
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        _call("cuModuleLoadData", ctypes.byref(module), cubin)
        _call("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
        if shared > _STATIC_SHARED_LIMIT:
            _call("cuFuncSetAttribute", function, _MAX_DYNAMIC_SHARED, shared)
        return Function(module, function, shared)

    def launch(self, function: Function, grid: int, warps: int, parameters: Parameters) -> None:
        """Run `grid` programs of `warps` warps; nothing for 0."""
        if grid == 0:
            return
        _call("cuLaunchKernel", function.handle, grid, 1, 1, 32 * warps, 1, 1, function.shared, self._stream,
              parameters.pointers, None)

    def capture(self, enqueue: Callable[[], None]) -> Graph:
        """A graph of what `enqueue` puts on the stream; nothing of it runs yet."""
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        _call("cuStreamBeginCapture_v2", self._stream, _RELAXED)
        try:
            enqueue()
        finally:
            _call("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        _call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
        _call("cuGraphDestroy", graph)
        return Graph(executable)

    def replay(self, graph: Graph) -> None:
        """Run a captured graph."""
        _call("cuGraphLaunch", graph.handle, self._stream)

    def record(self) -> Event:
        """An event at this place of the stream."""
        handle = ctypes.c_void_p()
        _call("cuEventCreate", ctypes.byref(handle), 0)
        _call("cuEventRecord", handle, self._stream)
        return Event(handle)

    @contextlib.contextmanager
    def arena(self, nbytes: int) -> Iterator[Memory]:
        """Device memory for the length of a block."""
        memory = self.allocate(nbytes)
        try:
            yield memory
        finally:
            self.synchronize()
            memory.free()


class Memory:
    """A piece of device memory."""

    def __init__(self, address: int, nbytes: int) -> None:
        self.address, self.nbytes = address, nbytes

    def check(self, offset: int, nbytes: int) -> None:
        """ValueError unless the range lies within."""
        if offset < 0 or offset + nbytes > self.nbytes:
            raise ValueError(f"bytes {offset} to {offset + nbytes} of a buffer of {self.nbytes}")

    def free(self) -> None:
        if self.address:
            _call("cuMemFree_v2", ctypes.c_uint64(self.address))
            self.address = 0


class Function:
    """A kernel in a loaded module; `unload` gives the module back."""

    def __init__(self, module: ctypes.c_void_p, handle: ctypes.c_void_p, shared: int) -> None:
        self.module, self.handle, self.shared = module, handle, shared

    def unload(self) -> None:
        _call("cuModuleUnload", self.module)


class Parameters:
    """A launch's parameters, packed once: addresses and scalars by their type text, then the two null pointers that
    kernels compiled by Triton take for scratch memory."""

    def __init__(self, values: Sequence[tuple[str, int]]) -> None:
        """Each value with its type: "*..." for an address, else "i32" or "i64"."""
        self.values = [_parameter(kind, value) for kind, value in [*values, ("*", 0), ("*", 0)]]
        self.pointers = (ctypes.c_void_p * len(self.values))(*(ctypes.addressof(v) for v in self.values))


def _parameter(kind: str, value: int) -> ctypes.c_uint64 | ctypes.c_int32 | ctypes.c_int64:
    if kind.startswith("*"):
        return ctypes.c_uint64(value)
    return ctypes.c_int32(value) if kind == "i32" else ctypes.c_int64(value)


class Graph:
    """Captured work that is launched as one."""

    def __init__(self, handle: ctypes.c_void_p) -> None:
        self.handle = handle

    def destroy(self) -> None:
        _call("cuGraphExecDestroy", self.handle)


class Event:
    """A moment on the stream."""

    def __init__(self, handle: ctypes.c_void_p) -> None:
        self.handle = handle

    def milliseconds_to(self, later: Event) -> float:
        """The time between two events; waits for the later one."""
        elapsed = ctypes.c_float()
        _call("cuEventSynchronize", later.handle)
        _call("cuEventElapsedTime", ctypes.byref(elapsed), self.handle, later.handle)
        return elapsed.value

    def destroy(self) -> None:
        _call("cuEventDestroy_v2", self.handle)
