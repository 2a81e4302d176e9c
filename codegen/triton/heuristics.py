"""Schedules for GPU kernels: which axes get blocks and how large, and how many warps a program has.

What decides is which axis an access moves along by one element: lanes of a warp should lie along it, so that their
accesses fall into the same sectors. Extents that are symbols are taken to be large unless `limits` bounds them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from onnxc.codegen.schedule import Schedule
from onnxc.codegen.triton.contract import LEAST_TILE, contract_axes, uses_dot
from onnxc.codegen.triton.memory import offset
from onnxc.ir.core import Block, Func, Op
from onnxc.ir.dims import Bounds, Dim, DimLike, symbols_of
from onnxc.ir.types import Mem

__all__ = ["schedule_kernel"]

_LARGE = 1 << 30                # stands for an extent without a bound
_LANES = 1024                   # elements of a tile: 8 for each thread of 4 warps, a 16-byte access of f32 twice
_WIDEST = 4096                  # the longest row that a block holds: 32 registers a thread of 4 warps for each value


def schedule_kernel(func: Func, limits: Mapping[str, int] | None = None, multiples: Mapping[str, int] | None = None,
                    index_bits: int = 64) -> Schedule:
    """A schedule for any kernel; `limits` are greatest values of symbols and `multiples` their divisors."""
    shape = _Shape(func, dict(limits or {}))
    if shape.contract is not None:
        return _contraction(shape, shape.contract, index_bits == 32 and _aligned(shape, dict(multiples or {})))
    if shape.parallel is None:
        return Schedule()
    return _points(shape) if not shape.inner else _rows(shape)


class _Shape:
    """What the heuristics look at: the outer points, the inner loops by axis, and the accesses' unit-stride axes."""

    def __init__(self, func: Func, limits: dict[str, int]) -> None:
        self.limits = limits
        ops = list(func.walk())
        self.contract = next((op for op in ops if op.name == "k.contract"), None)
        self.parallel = next((op for op in ops if op.name == "k.parallel"), None)
        self.loads = [op for op in ops if op.name == "k.load"]
        self.stores = [op for op in ops if op.name == "k.store"]
        self.inner = dict(self._inner(self.parallel.regions[0])) if self.parallel is not None else {}

    def _inner(self, block: Block) -> Iterator[tuple[str, int]]:
        """The axes of innermost loops that are too long to unroll, with their extents."""
        for op in block.ops:
            if op.name not in ("k.reduce", "k.sweep", "k.scan"):
                continue
            nested = [x for region in op.regions for x in self._inner(region)]
            if nested:
                yield from nested
                continue
            axes, extents = _axes(op)
            sizes = [self.size(e) for e in extents]
            if math.prod(sizes) > 32:
                yield from zip(axes, sizes, strict=True)

    def size(self, extent: DimLike) -> int:
        """An upper bound of an extent."""
        high = Bounds(dict(self.limits)).eliminate(extent, lowest=False)
        return high if isinstance(high, int) else _LARGE

    def outer(self) -> list[tuple[str, int]]:
        if self.parallel is None:
            return []
        axes, extents = _axes(self.parallel)
        return [(a, self.size(e)) for a, e in zip(axes, extents, strict=True)]

    def unit_axes(self, ops: list[Op]) -> list[str]:
        """For each access the axes along which it moves by one element."""
        return [axis for op in ops for axis in _unit_terms(_offset(op))]

    def crossing(self, lead: str) -> list[str]:
        """The axes along which a load moves by one element that strides along `lead`."""
        out = []
        for op in self.loads:
            at = _offset(op)
            if lead in symbols_of(at) and lead not in _unit_terms(at):
                out += _unit_terms(at)
        return out


def _axes(op: Op) -> tuple[list[str], list[DimLike]]:
    attrs: dict[str, Any] = op.attrs
    if op.name == "k.scan":
        return [str(attrs["axis"])], [attrs["extent"]]
    return [str(a) for a in attrs["axes"]], list(attrs["extents"])


def _offset(op: Op) -> DimLike:
    mem: Any = op.operand(0).type
    index: Any = op.attrs["index"]
    return offset(mem, index)


def _unit_terms(d: DimLike) -> list[str]:
    if not isinstance(d, Dim):
        return []
    return [mono[0] for mono, coef in d.terms if len(mono) == 1 and abs(coef) == 1 and isinstance(mono[0], str)]


def _power(n: int) -> int:
    """The least power of two that is not below n."""
    return 1 << max(n - 1, 0).bit_length()


def _warps(elements: int) -> int:
    """Eight elements a thread, between one warp and eight."""
    return min(8, max(1, _power(elements // 256)))


def _points(shape: _Shape) -> Schedule:
    """Kernels without inner loops: lanes along the axis of the stores, and along a second one when loads lie there."""
    outer = shape.outer()
    names = [a for a, _ in outer]
    sizes = dict(outer)
    stored = [a for a in shape.unit_axes(shape.stores) if a in sizes]
    loaded = [a for a in shape.unit_axes(shape.loads) if a in sizes]
    if not names:
        return Schedule(warps=1)
    lead = stored[0] if stored else loaded[0] if loaded else names[-1]
    across = next((a for a in shape.crossing(lead) if sizes.get(a, 0) > 8), None)
    if across is not None and sizes[lead] > 8:              # a transposition: both sides get whole sectors
        tile = {lead: min(64, _power(sizes[lead])), across: min(32, _power(sizes[across]))}
        return Schedule(blocks=_in_order(names, tile), warps=4)
    tile = {lead: min(_LANES, _power(sizes[lead]))}
    for axis in reversed(names[:names.index(lead)]):        # short rows: several of them fill a program
        if math.prod(tile.values()) >= _LANES:
            break
        tile[axis] = min(_LANES // math.prod(tile.values()), _power(sizes[axis]))
    return Schedule(blocks=_in_order(names, tile), warps=_warps(math.prod(tile.values())))


def _rows(shape: _Shape) -> Schedule:
    """Kernels with inner loops: blocks along the inner axis where accesses are contiguous there, or along an outer."""
    outer = shape.outer()
    sizes = dict(outer)
    unit = shape.unit_axes([*shape.loads, *shape.stores])
    inside = [a for a in shape.inner if a in unit]
    outside = [a for a in sizes if a in unit]
    if outside and not inside:                              # columns: lanes along an outer axis, loops inside
        lead = outside[-1]
        tile = {lead: min(128, _power(sizes[lead]))}
        return Schedule(blocks=_in_order(list(sizes), tile), warps=_warps(math.prod(tile.values()) * 4))
    chosen = inside or [next(reversed(shape.inner))]
    longest = max(shape.inner[a] for a in chosen)
    inner = {a: min(_power(shape.inner[a]), _WIDEST if longest <= _WIDEST else _LANES) for a in chosen}
    row = max(inner.values())
    tile = {}
    if row < 256 and outer and outer[-1][1] > 1:            # short rows: several of them in a program
        tile[outer[-1][0]] = min(_power(outer[-1][1]), max(1, 512 // row))
    blocks = _in_order(list(sizes), tile) + tuple((a, n) for a, n in inner.items())
    return Schedule(blocks=blocks, warps=_warps(row * math.prod(tile.values())))


def _in_order(names: list[str], tile: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """The blocks in the order of the axes; the others are scalars, so that no group is flattened by accident."""
    return tuple((a, tile.get(a, 1)) for a in names)


# ---- contractions ------------------------------------------------------------------------------------------------
def _contraction(shape: _Shape, op: Op, aligned: bool) -> Schedule:
    """Tiles for tl.dot; element types without it, and products with a vector, are folds.

    Where rows are aligned, loads are wide copies to shared memory that need few registers: 128x128 on eight warps, 64
    along k for 16-bit elements. Elsewhere each element is loaded by its own 64-bit address and mask, and a larger tile
    than 64x64 on eight warps spills (a 3x3 convolution takes 242 registers then).
    """
    sizes = {g: min(_LARGE, math.prod(shape.size(e) for e in contract_axes(op, g)[1])) for g in ("m", "n", "k")}
    if not uses_dot(op) or min(sizes["m"], sizes["n"]) <= 4:
        return _fold(op, sizes)
    side = 128 if aligned else 64
    m, n = (min(side, max(LEAST_TILE, _power(sizes[g]))) for g in ("m", "n"))
    k = min(64 if aligned and _narrow(op) else 32, max(LEAST_TILE, _power(sizes["k"])))
    blocks = _group_blocks(op, {"m": m, "n": n, "k": k})
    return Schedule(blocks=blocks, warps=8 if m * n >= 64 * 64 else 4, stages=3)


def _aligned(shape: _Shape, multiples: Mapping[str, int]) -> bool:
    """Whether every row that is loaded starts at a multiple of 16 elements for certain."""
    memories = [op.operand(0).type for op in shape.loads]
    last = [d for m in memories if isinstance(m, Mem) for d in m.shape[-1:]]
    return all(d % 16 == 0 if isinstance(d, int) else multiples.get(str(d), 1) % 16 == 0 for d in last)


def _narrow(op: Op) -> bool:
    return any(x.name == "s.cast" or x.name == "k.load" and x.result.type != op.regions[2].args[0].type
               for r in op.regions[:2] for x in r.ops)


def _fold(op: Op, sizes: Mapping[str, int]) -> Schedule:
    """Element types without tensor cores, and products with a vector: lanes along n, or along m where n is short."""
    wide, thin = ("n", "m") if sizes["n"] >= sizes["m"] else ("m", "n")
    if sizes[thin] <= 4:                                    # a matrix and a vector: all the time goes into reading
        tile = {wide: min(32, _power(sizes[wide])), thin: 1, "k": min(64, _power(sizes["k"]))}
    else:
        tile = {wide: min(64, _power(sizes[wide])), thin: min(32, _power(sizes[thin])), "k": 1}
    return Schedule(blocks=_group_blocks(op, tile), warps=4)


def _group_blocks(op: Op, tile: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """Blocks of whole groups; of several k axes the last is blocked if it is long, so that the others stay scalars."""
    out: list[tuple[str, int]] = []
    for group in ("m", "n", "k"):
        axes, extents = contract_axes(op, group)
        if not axes:
            continue
        at = 0
        if group == "k" and not (isinstance(extents[-1], int) and extents[-1] < tile["k"]):
            at = len(axes) - 1
        out += [(a, 1) for a in axes[:at]] + [(axes[at], tile[group])]
    return tuple(out)
