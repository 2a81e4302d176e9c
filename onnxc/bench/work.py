"""How much work the steps of a program are, read off their IR for given dims: operations on elements, and bytes.

A contraction is 2 * batch * m * n * k operations, attention its two products and the softmax between. Every other
scalar op counts one wherever it is evaluated, however many instructions it takes, and so does each element that a fold
takes in; constants, conversions and index arithmetic count nothing. Bytes are those that have to move at least: each
buffer that a step reads or writes counts once, with its size, or with the elements that are touched where those are
fewer (a gather from a long table). Work that data decides (loops that may end early, branches) has no number.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import cast

from onnxc.codegen.accesses import LOOPS, element_of, loop_axes
from onnxc.codegen.winograd import TAPS
from onnxc.ir.core import Block, Func, Module, Op, Ref, Value
from onnxc.ir.dims import DimLike, evaluate
from onnxc.ir.types import F64, Mem, Scalar
from onnxc.ops.attention import KERNEL_AXES
from onnxc.ops.program import STEPS

__all__ = ["Work", "footprint", "kernel_work", "step_work"]

Dims = Mapping[str, int]
_FREE = ("s.const", "s.cast", "s.bitcast")
_SOFTMAX = 4            # of attention, a score: greatest, difference, exponential, total


@dataclasses.dataclass(frozen=True)
class Work:
    """Operations and bytes of a step; `dtype` is what its operations are limited by: "f32", "f64", or "i8" for
    contractions of bytes."""

    operations: int = 0
    read: int = 0
    written: int = 0
    dtype: str = "f32"

    @property
    def nbytes(self) -> int:
        return self.read + self.written

    @property
    def intensity(self) -> float:
        """Operations a byte; 0 when there are no bytes."""
        return self.operations / self.nbytes if self.nbytes else 0.0

    def __add__(self, other: Work) -> Work:
        more = self if self.operations >= other.operations else other
        return Work(self.operations + other.operations, self.read + other.read, self.written + other.written,
                    more.dtype)

    def times(self, n: int) -> Work:
        return Work(self.operations * n, self.read * n, self.written * n, self.dtype)


def step_work(module: Module, dims: Dims) -> list[Work | None]:
    """The work of each step of @main in the order of its profile; None where data decides it."""
    return [_step(module, op, dims) for op in module.main.body.ops if op.name in STEPS]


def footprint(module: Module, dims: Dims) -> int:
    """Bytes that a run touches: constants, inputs and outputs, and the arena; without what comes from the heap."""
    arena = cast("DimLike", module.main.attrs.get("arena", 0))
    named = [op.result for op in module.main.walk() if op.name == "p.const"]
    return evaluate(arena, dims) + sum(_size(v, dims) for v in (*module.main.args, *named))


def _step(module: Module, op: Op, dims: Dims) -> Work | None:
    try:
        if op.name == "p.launch":
            ref = op.attrs["kernel"]
            return kernel_work(module.funcs[ref.name if isinstance(ref, Ref) else str(ref)], dims)
        if op.name in ("p.copy", "p.give"):
            size = _size(op.operand(0), dims)
            return Work(0, size, size)
        if op.name == "p.loop":
            return _loop(module, op, dims)
    except KeyError:        # a dim that gets its value inside
        return None
    return None if op.name == "p.if" else Work()


def _loop(module: Module, op: Op, dims: Dims) -> Work | None:
    count = str(op.attrs["count"])
    if op.attrs["conditional"] and count not in dims:
        return None
    turns = dims[count] if count in dims else evaluate(cast("DimLike", op.attrs["extent"]), dims)
    # What the run found is the last turn's.
    changing = {str(o.attrs["symbol"]) for o in op.walk() if "symbol" in o.attrs}
    outside = {name: value for name, value in dims.items() if name not in changing}
    total = Work()
    for inner in op.regions[0].ops:
        if inner.name in STEPS:
            work = _step(module, inner, outside)
            if work is None:
                return None
            total += work
    return total.times(turns)


def kernel_work(func: Func, dims: Dims) -> Work | None:
    """The work of one launch. Raises KeyError for a dim that has no value."""
    count = _Count(dims)
    if not count.block(func.body, 1):
        return None
    read, written = (sum(min(n * element_of(v).bits // 8, _size(v, dims)) for v, n in touched.items())
                     for touched in (count.loads, count.stores))
    return Work(count.operations, read, written, _limiting_type(func))


def _limiting_type(func: Func) -> str:
    contracts = [op for op in func.walk() if op.name == "k.contract"]
    for op in contracts:
        if str(op.attrs["accumulate"]) == "i32" and all(_reads_bytes(region) for region in op.regions[:2]):
            return "i8"
    kinds = [op.result.type for op in func.walk() if op.name.startswith("s.") and op.results]
    return "f64" if Scalar(F64) in kinds or any(str(op.attrs["accumulate"]) == "f64" for op in contracts) else "f32"


def _reads_bytes(region: Block) -> bool:
    loads = [op for op in region.ops if op.name == "k.load"]
    return bool(loads) and all(element_of(op.operand(0)).bits <= 8 for op in loads)


def _size(value: Value, dims: Dims) -> int:
    if not isinstance(value.type, Mem):
        return 0
    return cast("int", value.type.dtype.nbytes(_extent(value.type.shape, dims)))


def _extent(extents: Sequence[DimLike], dims: Dims) -> int:
    total = 1
    for extent in extents:
        total *= max(evaluate(extent, dims), 0)
    return total


class _Count:
    """Walks a kernel with the number of times that a place is reached."""

    def __init__(self, dims: Dims) -> None:
        self.dims = dims
        self.operations = 0
        self.loads: Counter[Value] = Counter()
        self.stores: Counter[Value] = Counter()

    def block(self, block: Block, times: int) -> bool:
        """False where data decides how often something happens."""
        return all(self.op(op, times) for op in block.ops)

    def op(self, op: Op, times: int) -> bool:
        if op.name in LOOPS:
            return self.loop(op, times)
        if op.name == "k.load":
            self.loads[op.operand(0)] += times
        elif op.name == "k.store":
            self.stores[op.operand(0)] += times
            if op.attrs["combine"] is not None:
                self.loads[op.operand(0)] += times
                self.operations += times
        elif op.name.startswith("s.") and op.name not in _FREE:
            self.operations += times
        return True

    def loop(self, op: Op, times: int) -> bool:
        if op.name == "k.contract":
            batch, m, n, k = (self.group(op, key) for key in ("batch", "m", "n", "k"))
            batch *= times
            self.operations += 2 * batch * m * n * k // self.shared(op)
            reached = (batch * m * k * (n > 0), batch * n * k * (m > 0), batch * m * n)
            return all(self.block(r, count) for r, count in zip(op.regions, reached, strict=True))
        if op.name == "k.attend":
            batch, m, n, k, columns = (self.group(op, key) for key in KERNEL_AXES)
            batch *= times
            self.operations += batch * m * n * (2 * k + 2 * columns + _SOFTMAX)
            places = (batch * m * k * (n > 0), batch * n * k * (m > 0), batch * m * n, batch * n * columns * (m > 0),
                      batch * m * columns)
            return all(self.block(r, count) for r, count in zip(op.regions, places, strict=True))
        turns = times * _extent([extent for _, extent in loop_axes(op)], self.dims)
        if op.name == "k.reduce":
            self.operations += turns * len(cast("Sequence[str]", op.attrs["kinds"]))
        elif op.name == "k.scan":
            self.operations += turns
        known = [self.block(region, turns) for region in op.regions]
        return all(known) and not (op.name == "k.iterate" and op.attrs["conditional"])

    def shared(self, op: Op) -> int:
        """The results that Winograd's products serve together."""
        pairs = cast("Sequence[tuple[DimLike, DimLike]]", op.attrs["winograd"])
        extents = dict(cast("Sequence[tuple[DimLike, int]]", op.attrs["k"]))
        return math.prod(extents[tap] - TAPS + 1 for _, tap in pairs)

    def group(self, op: Op, key: str) -> int:
        """The points of one of a contraction's groups of axes."""
        axes = cast("Sequence[tuple[DimLike, DimLike]]", op.attrs[key])
        return _extent([extent for _, extent in axes], self.dims)
