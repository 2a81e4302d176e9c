"""What a kernel's loads and stores touch: its loop axes, and every index as one expression over flat memory.

Read by schedules and emitters; owns no decision. A flat index counts elements from the start of the buffer. It is kept
as a dim over axis symbols, dim symbols and `$n` (the n-th index operand of the access).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import cast

from onnxc.ir.core import Block, Func, Op, Value
from onnxc.ir.dims import (
    Bounds,
    DimLike,
    Shape,
    linear_parts,
    product,
    provably_less,
    provably_nonneg,
    recombine,
    simplify,
    symbols_of,
)
from onnxc.ir.types import DType, Mem, Scalar
from onnxc.ops.attention import KERNEL_AXES

__all__ = ["LOOPS", "Accesses", "Axis", "Condition", "Linear", "accesses_of", "dependent_values", "dims_of",
           "element_of", "ends_as_one", "flat_index", "index_of", "kernel_symbols", "linear_in", "loop_axes",
           "recombine", "row_major_strides", "where_of"]

LOOPS = ("k.parallel", "k.sweep", "k.reduce", "k.scan", "k.iterate", "k.contract", "k.attend")
Condition = tuple[DimLike, DimLike, DimLike]
"""(expr, low, high): low <= expr < high."""


@dataclasses.dataclass(frozen=True)
class Axis:
    """A loop axis: its extent, the loop that introduces it, and its place in the order of nesting (outermost 0)."""

    name: str
    extent: DimLike
    loop: Op
    depth: int


@dataclasses.dataclass(frozen=True)
class Linear:
    """`stride * axis + rest`, neither part depending on the axis."""

    stride: DimLike
    rest: DimLike


def loop_axes(loop: Op) -> list[tuple[str, DimLike]]:
    """The (name, extent) pairs that a loop op introduces, outermost first."""
    if loop.name in ("k.scan", "k.iterate"):
        return [(_name(loop.attrs["axis"]), loop.attrs["extent"])]  # type: ignore[list-item]
    if loop.name == "k.contract":
        return [(_name(a), e) for key in ("batch", "m", "n", "k") for a, e in loop.attrs[key]]  # type: ignore
    if loop.name == "k.attend":
        return [(_name(a), e) for key in KERNEL_AXES for a, e in loop.attrs[key]]  # type: ignore
    return [(_name(a), e) for a, e in zip(loop.attrs["axes"], loop.attrs["extents"], strict=True)]  # type: ignore


def _name(axis: object) -> str:
    (name,) = symbols_of(axis)  # type: ignore[arg-type]
    return name


def index_of(access: Op) -> tuple[DimLike, ...]:
    """The index of a k.load or k.store, one expression a dim of the memory."""
    return cast("tuple[DimLike, ...]", access.attrs["index"])


def where_of(access: Op) -> tuple[Condition, ...]:
    """The conditions of a k.load or k.store as it states them."""
    return cast("tuple[Condition, ...]", access.attrs["where"])


def element_of(value: Value) -> DType:
    """The element type of a memory argument or a scalar."""
    if not isinstance(value.type, (Mem, Scalar)):
        raise TypeError(f"{value!r} has no element type")
    return value.type.dtype


def row_major_strides(shape: Shape) -> list[DimLike]:
    """Elements between neighbours along each dim."""
    return [product(shape[i + 1:]) for i in range(len(shape))]


def flat_index(access: Op, bounds: Bounds) -> DimLike:
    """The flat index of a k.load or k.store, simplified within `bounds`."""
    mem = access.operand(0).type
    if not isinstance(mem, Mem):
        raise TypeError(f"{access.name} of {mem}, which is no memory")
    strides = row_major_strides(mem.shape)
    return recombine(sum((simplify(i, bounds) * s for i, s in zip(index_of(access), strides, strict=True)), 0))


def linear_in(d: DimLike, axis: str) -> Linear | None:
    """`d` as a linear function of `axis`; None when it is not one (inside a division, a square ...)."""
    parts = linear_parts(d, axis)
    return None if parts is None else Linear(*parts)


class Accesses:
    """The axes and accesses of one kernel, computed once."""

    def __init__(self, func: Func) -> None:
        self.func = func
        self.axes: dict[str, Axis] = {}
        for op in func.walk():
            if op.name in LOOPS:
                for name, extent in loop_axes(op):
                    self.axes[name] = Axis(name, extent, op, len(self.axes))
        positive = {s for a in self.axes.values() for s in _factors(a.extent)}
        self.bounds = Bounds({a.name: a.extent - 1 for a in self.axes.values()}, positive)
        self.written = {op.operand(0) for op in func.walk() if op.name == "k.store"}
        self._flat: dict[Op, DimLike] = {}

    def flat(self, access: Op) -> DimLike:
        """The flat index of a load or store."""
        if access not in self._flat:
            self._flat[access] = flat_index(access, self.bounds)
        return self._flat[access]

    def conditions(self, access: Op) -> list[Condition]:
        """The conditions of a load or store that are not known to hold, simplified."""
        out: list[Condition] = []
        for expr, low, high in where_of(access):
            expr = simplify(expr, self.bounds)
            if not (provably_nonneg(expr - low, self.bounds) and provably_less(expr, high, self.bounds)):
                out.append((expr, low, high))
        return out

    def range_of(self, d: DimLike, axes: Iterable[str]) -> tuple[DimLike, DimLike] | None:
        """Bounds of `d` from below and above in which none of `axes` occurs; None when they are not plain to see."""
        inner = Bounds({name: self.axes[name].extent - 1 for name in axes})
        low, high = inner.eliminate(d, lowest=True), inner.eliminate(d, lowest=False)
        left = symbols_of(low) | symbols_of(high)
        return None if left & set(axes) else (low, high)

    def rank(self, symbol: str) -> int:
        """Place of a symbol in the order of nesting: -1 for a dim, a loop's depth for its axis, last for operands."""
        if symbol.startswith("$"):
            return len(self.axes)
        axis = self.axes.get(symbol)
        return -1 if axis is None else axis.depth


def _factors(extent: DimLike) -> set[str]:
    """The symbols that are at least 1 wherever an axis of this extent exists: the factors of a plain product."""
    if isinstance(extent, int) or len(extent.terms) != 1:
        return set()
    return {atom for atom in extent.terms[0][0] if isinstance(atom, str)}


def accesses_of(block: Block) -> Iterator[Op]:
    """Every load and store below a block."""
    for op in block.ops:
        for inner in op.walk():
            if inner.name in ("k.load", "k.store"):
                yield inner


def dependent_values(block: Block, axis: str) -> set[Value]:
    """The values below `block` whose content may change along `axis`, an axis introduced by the block's own loop."""
    found: set[Value] = set()
    for op in block.ops:
        _mark(op, axis, found)
    return found


def _mark(op: Op, axis: str, found: set[Value]) -> None:
    for region in op.regions:
        if op.name == "k.scan" and region is op.regions[1] and _yields(op.regions[0], found):
            found.update(region.args)
        for inner in region.ops:
            _mark(inner, axis, found)
        if op.name == "k.iterate" and (_yields(region, found) or any(v in found for v in op.inputs)) \
                and not found.issuperset(region.args):
            found.update(region.args)
            _mark(op, axis, found)
    depends = any(v in found for v in op.inputs) or axis in symbols_of(dims_of(op))
    if op.name in ("k.reduce", "k.iterate"):
        depends = depends or _yields(op.regions[0], found)
    if depends:
        found.update(op.results)


def ends_as_one(op: Op) -> bool:
    """Whether a k.iterate has to end at the same time at all points that share a vector: one that may end early does
    not where all it does is read and compute."""
    return bool(op.attrs["conditional"]) and any(
        inner is not op and (inner.regions or inner.name in ("k.store", "k.require")) for inner in op.walk())


def _yields(region: Block, found: set[Value]) -> bool:
    return any(v in found for v in region.terminator.inputs)


def dims_of(op: Op) -> list[DimLike]:
    """The index expressions of an op: those of an access and its conditions, or that of a k.index."""
    if op.name == "k.index":
        return [cast("DimLike", op.attrs["expr"])]
    if op.name not in ("k.load", "k.store"):
        return []
    return [*index_of(op), *(d for condition in where_of(op) for d in condition)]


def kernel_symbols(func: Func) -> list[str]:
    """The dim symbols of a kernel, sorted: those of its arguments' shapes, loops' extents and index expressions."""
    dims: list[DimLike] = [d for a in func.args if isinstance(a.type, Mem) for d in a.type.shape]
    axes: set[str] = set()
    for op in func.walk():
        if op.name in LOOPS:
            axes.update(name for name, _ in loop_axes(op))
            dims.extend(extent for _, extent in loop_axes(op))
        dims.extend(dims_of(op))
    return sorted(s for s in symbols_of(dims) - axes if not s.startswith("$"))
