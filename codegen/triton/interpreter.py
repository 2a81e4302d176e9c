"""The simulator's worker process: runs Triton source on numpy memory, with every access checked.

Built on Triton's interpreter, whose builder evaluates each operation on numpy arrays; what it lacks or gets wrong is
replaced here: memory (addresses with provenance and bounds, races between programs), bf16 and f8 arithmetic, rounding
casts, exact fma, tf32 dots, NaN in minima and maxima, folds and scans by device functions, and numpy from 2.4 on.

Run as a module with TRITON_INTERPRET=1; `simulate` speaks to it over its standard streams. Triton decides when it is
imported whether it interprets, which is why this is a process of its own.
"""

from __future__ import annotations

import json
import linecache
import struct
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
import triton.language as tl
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter as stock

from onnxc.ops.numpy_scalars import fused

_SEGMENT = 40                   # bits of an address that are the offset into its buffer
_SMALL_FLOATS = {"bf16": ml_dtypes.bfloat16, "fp8e4nv": ml_dtypes.float8_e4m3fn, "fp8e5": ml_dtypes.float8_e5m2}
_UNSEEN, _SEVERAL = -1, -2


class SimulationError(Exception):
    """The kernel did what no kernel may: the text says what, where, and which program."""


# ---- memory ----------------------------------------------------------------------------------------------------------
class Buffer:
    """One argument's memory, and which program wrote and read each element in this launch."""

    def __init__(self, name: str, data: np.ndarray) -> None:
        self.name, self.data = name, data
        self.writer = np.full(data.size, _UNSEEN, np.int64)
        self.reader = np.full(data.size, _UNSEEN, np.int64)


class Memory:
    """The live buffers: buffer k starts at address (k + 1) << 40, so that no stray offset lands in another one."""

    def __init__(self) -> None:
        self.buffers: list[Buffer] = []
        self.program = 0

    def add(self, name: str, data: np.ndarray) -> int:
        self.buffers.append(Buffer(name, data))
        return len(self.buffers) << _SEGMENT

    def lanes(self, addresses: np.ndarray, mask: np.ndarray, what: str) -> tuple[Buffer | None, np.ndarray]:
        """The buffer that the active lanes point into and the elements there; SimulationError if any is outside."""
        active = addresses[mask].astype(np.int64)
        if not active.size:
            return None, active
        segment = active >> _SEGMENT
        buffer = self.buffers[int(segment[0]) - 1] if 0 < segment[0] <= len(self.buffers) else None
        if buffer is None or (segment != segment[0]).any():
            raise SimulationError(f"{what} far outside any buffer, program {self.program}")
        size = buffer.data.itemsize
        offset = active & ((1 << _SEGMENT) - 1)
        if (offset % size).any():
            raise SimulationError(f"misaligned {what} of {buffer.name}, program {self.program}")
        at = offset // size
        if (at >= buffer.data.size).any():
            raise SimulationError(f"{what} out of bounds: element {int(at.max())} of {buffer.name}, which has "
                                  f"{buffer.data.size}, program {self.program}")
        return buffer, at

    def load(self, addresses: np.ndarray, mask: np.ndarray, other: np.ndarray) -> np.ndarray:
        buffer, at = self.lanes(addresses, mask, "load")
        out = np.array(np.broadcast_to(other, addresses.shape))
        if buffer is not None:
            self._check(buffer, buffer.writer[at], "reads what was written by")
            seen = buffer.reader[at]
            buffer.reader[at] = np.where((seen == _UNSEEN) | (seen == self.program), self.program, _SEVERAL)
            out[mask] = buffer.data[at]
        return out

    def store(self, addresses: np.ndarray, values: np.ndarray, mask: np.ndarray) -> None:
        buffer, at = self.lanes(addresses, mask, "store")
        if buffer is None:
            return
        values = np.broadcast_to(values, addresses.shape)[mask]
        self._check(buffer, buffer.writer[at], "writes what was written by")
        self._check(buffer, buffer.reader[at], "writes what was read by")
        if np.unique(at).size != at.size:
            raise SimulationError(f"one store writes an element of {buffer.name} twice, program {self.program}")
        buffer.writer[at] = self.program
        buffer.data[at] = values

    def _check(self, buffer: Buffer, seen: np.ndarray, what: str) -> None:
        foreign = (seen != _UNSEEN) & (seen != self.program)
        if foreign.any():
            raise SimulationError(f"race on {buffer.name}: program {self.program} {what} program "
                                  f"{int(seen[foreign][0])} (-2: several) in the same launch")

    def update(self, addresses: np.ndarray, values: np.ndarray, mask: np.ndarray,
               ufunc: Callable[..., Any]) -> np.ndarray:
        """An atomic read-modify-write of each lane, one after another; the values before."""
        buffer, at = self.lanes(addresses, mask, "atomic")
        before = np.zeros(addresses.shape, values.dtype)
        if buffer is not None:
            before[mask] = buffer.data[at]
            ufunc.at(buffer.data, at, np.broadcast_to(values, addresses.shape)[mask])  # type: ignore[attr-defined]
        return before


MEMORY = Memory()


# ---- numbers -------------------------------------------------------------------------------------------------------
def _numbers(data: np.ndarray, dtype: Any) -> np.ndarray:
    """The elements as numpy computes with them: small floats, which are held as their bits, widened to f32."""
    small = _SMALL_FLOATS.get(dtype.scalar.name)
    return data if small is None else np.ascontiguousarray(data).view(small).astype(np.float32)


def _elements(numbers: np.ndarray, dtype: Any) -> np.ndarray:
    """Numbers rounded to nearest even as elements of `dtype`; f8 saturates."""
    small = _SMALL_FLOATS.get(dtype.scalar.name)
    if small is None:
        return np.asarray(numbers).astype(stock._get_np_dtype(dtype.scalar))
    wide = np.asarray(numbers).astype(np.float32)
    if np.dtype(small).itemsize == 1:
        limit = np.float32(ml_dtypes.finfo(small).max)
        wide = np.clip(wide, -limit, limit)
    narrow = wide.astype(small)
    return narrow.view(np.uint8 if narrow.itemsize == 1 else np.uint16)


def _tf32(numbers: np.ndarray) -> np.ndarray:
    """What the tensor core reads of an f32."""
    return (np.ascontiguousarray(numbers, np.float32).view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


Handle = stock.TensorHandle


class Builder(stock.InterpreterBuilder):
    """Triton's evaluating builder, with the repairs."""

    def __init__(self) -> None:
        super().__init__()
        self.options = stock.InterpreterOptions(sanitize_overflow=False)    # kernels' integers wrap

    def binary_op(self, lhs: Any, rhs: Any, op: Callable[..., Any]) -> Any:
        out = op(_numbers(lhs.data, lhs.dtype), _numbers(rhs.data, rhs.dtype))
        if out.dtype == np.bool_:                           # a comparison: its handle must not keep the operands' type
            return Handle(out, tl.int1)
        return Handle(_elements(out, lhs.dtype), lhs.dtype.scalar)

    def unary_op(self, arg: Any, op: Callable[..., Any]) -> Any:
        return Handle(_elements(op(_numbers(arg.data, arg.dtype)), arg.dtype), arg.dtype.scalar)

    def cast_impl(self, src: Any, dst_type: Any) -> Any:
        return Handle(_elements(_numbers(src.data, src.dtype), dst_type), dst_type.scalar)

    def create_fp_to_fp(self, src: Any, dst_type: Any, rounding_mode: Any) -> Any:
        return self.cast_impl(src, dst_type)

    def create_fma(self, x: Any, y: Any, z: Any) -> Any:
        return Handle(np.asarray(fused(x.data, y.data, z.data), z.data.dtype), z.dtype.scalar)

    def create_maxnumf(self, lhs: Any, rhs: Any) -> Any:
        return self.binary_op(lhs, rhs, np.fmax)

    def create_minnumf(self, lhs: Any, rhs: Any) -> Any:
        return self.binary_op(lhs, rhs, np.fmin)

    def create_dot(self, a: Any, b: Any, d: Any, input_precision: Any, max_num_imprecise_acc: Any) -> Any:
        left, right = _numbers(a.data, a.dtype), _numbers(b.data, b.dtype)
        if a.dtype.scalar == tl.float32 and input_precision == stock._ir.INPUT_PRECISION.TF32:
            left, right = _tf32(left), _tf32(right)
        # Integers of 8 bits are exact in f64; halves and f32 are multiplied in f32.
        wide = np.float64 if left.dtype.kind in "iu" or left.dtype == np.float64 else np.float32
        total = np.matmul(left.astype(wide), right.astype(wide))
        return Handle((total + d.data.astype(wide)).astype(d.data.dtype), d.dtype.scalar)

    def create_masked_load(self, ptrs: Any, mask: Any, other: Any, *rest: Any) -> Any:
        element = ptrs.get_element_ty()
        kind = stock._get_np_dtype(element)
        fill = other.data if other is not None else np.zeros((), kind)
        held = np.broadcast_to(mask.data, ptrs.data.shape)
        return Handle(MEMORY.load(ptrs.data, held, np.asarray(fill, kind)), element)

    def create_masked_store(self, ptrs: Any, value: Any, mask: Any, *rest: Any) -> None:
        MEMORY.store(ptrs.data, value.data, np.broadcast_to(mask.data, ptrs.data.shape))

    def create_atomic_rmw(self, op: Any, ptr: Any, val: Any, mask: Any, sem: Any, scope: Any) -> Any:
        kinds = stock._ir.ATOMIC_OP
        ufunc = {kinds.ADD: np.add, kinds.FADD: np.add, kinds.MAX: np.maximum, kinds.UMAX: np.maximum,
                 kinds.MIN: np.minimum, kinds.UMIN: np.minimum}.get(op)
        if ufunc is None or val.dtype.scalar.name in _SMALL_FLOATS:
            raise SimulationError(f"the simulator has no atomic {op} of {val.dtype}")
        held = np.broadcast_to(mask.data, ptr.data.shape)
        return Handle(MEMORY.update(ptr.data, val.data, held, ufunc), val.dtype.scalar)


# ---- folds and scans by device functions -----------------------------------------------------------------------------
def _combined(op: Any, a: Sequence[np.ndarray], b: Sequence[np.ndarray], types_of: Sequence[Any]) -> list[np.ndarray]:
    """The device function on whole arrays."""
    args = [op.to_tensor(x, t) for x, t in zip([*a, *b], [*types_of, *types_of], strict=True)]
    out = op.combine_fn.fn(*args)
    return [v.handle.data.reshape(a[0].shape) for v in (out if isinstance(out, tuple) else (out,))]


def _reduce(self: Any, inputs: Sequence[Any]) -> list[Any]:
    """Fold by halves, so a dim of 1024 (extents are powers of two) takes ten calls of the device function."""
    kinds = [x.dtype for x in inputs]
    rank = inputs[0].handle.data.ndim
    axis = self.axis if self.axis is not None else 0
    parts = [x.handle.data if self.axis is not None else x.handle.data.reshape(-1) for x in inputs]
    while parts[0].shape[axis] > 1:
        halves = [np.split(p, 2, axis) for p in parts]
        parts = _combined(self, [low for low, _ in halves], [high for _, high in halves], kinds)
    if not self.keep_dims:
        parts = [np.squeeze(p, axis) for p in parts]
    elif self.axis is None:
        parts = [p.reshape((1,) * rank) for p in parts]
    return [self.to_tensor(p if p.ndim else p[()], k) for p, k in zip(parts, kinds, strict=True)]


def _scan(self: Any, inputs: Sequence[Any]) -> list[Any]:
    """Running folds by doubling the distance."""
    kinds = [x.dtype for x in inputs]
    parts = [np.moveaxis(x.handle.data, self.axis, -1) for x in inputs]
    length = parts[0].shape[-1]
    distance = 1
    while distance < length:
        folded = _combined(self, [np.roll(p, distance, -1) for p in parts], parts, kinds)
        parts = [np.where(np.arange(length) >= distance, f, p) for p, f in zip(parts, folded, strict=True)]
        distance *= 2
    return [self.to_tensor(np.moveaxis(p, -1, self.axis), k) for p, k in zip(parts, kinds, strict=True)]


class _Unscoped:
    """Stands for the stock interpreter's patch scope once everything is patched for good."""

    def restore(self) -> None:
        pass


def _install() -> Builder:
    """Put the repairs into the stock interpreter, for the life of the process."""
    builder = Builder()
    stock.interpreter_builder = builder
    stock.interpreter_semantic = TritonSemantic(builder)
    stock.ReduceOps.generic_reduce = _reduce
    stock.ScanOps.generic_scan = _scan
    stock._patch_lang(types.SimpleNamespace(__globals__={"tl": tl, "core": tl.core}))
    tl.tensor.__index__ = lambda self: int(np.asarray(self.handle.data).reshape(-1)[0])
    stock._patch_lang = lambda fn: _Unscoped()
    return builder


# ---- running ---------------------------------------------------------------------------------------------------------
_MODULES: dict[str, types.ModuleType] = {}


def _load(text: str) -> types.ModuleType:
    if text not in _MODULES:
        name = f"<kernel {len(_MODULES)}>"
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        module = types.ModuleType(f"kernel_{len(_MODULES)}")
        module.__file__ = name
        exec(compile(text, name, "exec"), module.__dict__)
        _MODULES[text] = module
    return _MODULES[text]


def _argument(builder: Builder, spec: dict[str, Any], data: np.ndarray | None) -> Any:
    kind = tl.str_to_ty(spec["type"], None)
    if data is None:
        value = np.array([spec["value"]], stock._get_np_dtype(kind))
        return tl.core.tensor(Handle(value, kind), kind)
    carrier = stock._get_np_dtype(kind.element_ty)
    address = MEMORY.add(spec["name"], data.view(carrier))
    return tl.core.tensor(Handle(np.array([address], np.uint64), kind), kind)


def run(builder: Builder, request: dict[str, Any], buffers: list[np.ndarray]) -> None:
    """Run every program of a launch, in order; the buffers are changed in place."""
    function = getattr(_load(request["text"]), request["name"])
    MEMORY.buffers.clear()
    data = iter(buffers)
    arguments = [_argument(builder, a, next(data) if "bytes" in a else None) for a in request["arguments"]]
    body = function.rewrite()
    grid = int(request["grid"])
    builder.set_grid_dim(grid, 1, 1)
    with np.errstate(all="ignore"):
        for program in range(grid):
            builder.set_grid_idx(program, 0, 0)
            MEMORY.program = program
            body(*arguments)


def _receive(stream: BinaryIO) -> bytes | None:
    head = stream.read(8)
    if len(head) < 8:
        return None
    (size,) = struct.unpack("<q", head)
    return stream.read(size)


def _send(stream: BinaryIO, payload: bytes) -> None:
    stream.write(struct.pack("<q", len(payload)) + payload)


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests (a JSON head, then the buffers) until the stream ends."""
    builder = _install()
    while (head := _receive(requests)) is not None:
        request = json.loads(head)
        buffers = [np.frombuffer(bytearray(_receive(requests) or b""), np.uint8)
                   for a in request["arguments"] if "bytes" in a]
        answer: dict[str, Any] = {"error": None}
        try:
            run(builder, request, buffers)
        except Exception as e:
            answer["error"] = f"{type(e).__name__}: {e}"
        _send(answers, json.dumps(answer).encode())
        for b in buffers:
            _send(answers, b.tobytes())
        answers.flush()


if __name__ == "__main__":
    pipe = sys.stdout.buffer
    sys.stdout = sys.stderr                                 # what kernels print must not end up among the answers
    serve(sys.stdin.buffer, pipe)

