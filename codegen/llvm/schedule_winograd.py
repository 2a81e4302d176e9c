"""Which contractions are Winograd's on a CPU, and how they become so.

A contraction over windows is one when three taps a spatial axis move over neighbours (stride 1, no dilation), the other
k axis is the channels, and the weights are constants, which are transformed when compiling. Whether it pays is an
estimate in cycles of both ways: products, transforms of inputs and results, and weights from beyond the caches, of
which Winograd's have up to four times as many.
"""

from __future__ import annotations

import dataclasses
from typing import cast

from onnxc.codegen.accesses import accesses_of
from onnxc.codegen.llvm.contract_form import Axes, axes_of, contraction_of, extent_of
from onnxc.codegen.llvm.narrow import narrow_operand
from onnxc.codegen.llvm.target import Target
from onnxc.codegen.schedule import Schedule
from onnxc.codegen.winograd import TAPS, TILES
from onnxc.ir.core import Func, Op
from onnxc.ir.dims import Bounds, DimLike, simplify, substitute, sym, symbols_of
from onnxc.ir.types import F32

__all__ = ["apply_winograd", "winograd_pairs", "with_winograd"]

# Fewer channels or columns than this leave the transforms in front (16 -> 16 channels, AVX-512).
_FEWEST = 16
_UNKNOWN, _UNKNOWN_BATCH = 56, 2        # assumed extents of axes known at run time only: of windows, and others
_WEIGHT_BYTES_A_CYCLE = 6       # of weights that no cache near the core holds, for a core at its peak of products
_GAIN = 0.85                    # of the plain way's time: less gain than that is within the estimate's error
_LEAST_CHUNK, _MOST_CHUNK = 24, 96
_JOBS = 8                       # jobs that a kernel has at least where its tiles are enough: work for threads


def with_winograd(func: Func, target: Target, schedule: Schedule, constant: frozenset[int]) -> Schedule:
    """The schedule with `winograd` set, and a chunk in tiles, where that pays; else as it is."""
    op = contraction_of(func)
    pairs = winograd_pairs(op)
    if not pairs or schedule.dot or narrow_operand(func) is not None or not _reads_only(func, op, constant):
        return schedule
    plain = _plain_cycles(op, pairs, schedule)
    best = min(TILES, key=lambda size: _winograd_cycles(op, pairs, schedule, size))
    if _winograd_cycles(op, pairs, schedule, best) > _GAIN * plain:
        return schedule
    chunk = _chunk(op, pairs, schedule, best, target)
    return dataclasses.replace(schedule, winograd=best, chunk=chunk)


def _reads_only(func: Func, op: Op, constant: frozenset[int]) -> bool:
    """Whether the right operand consists of arguments at positions `constant`, some at least."""
    used = {v for inner in op.regions[1].ops for v in inner.inputs if v in func.args}
    return bool(used) and all(func.args.index(v) in constant for v in used)


def winograd_pairs(op: Op) -> list[tuple[str, str]]:
    """The (m axis, k axis) pairs of windows that move over neighbours, when all k axes but one, the channels, are such:
    one pair or two, in the order of k. The last pair's m axis is the last there is. [] when there are none."""
    k, m = axes_of(op, "k"), axes_of(op, "m")
    channels = [e for _, e in k if e != TAPS]
    if op.attrs["accumulate"] != F32 or len(channels) != 1 or len(k) not in (2, 3) or k[-1][1] == TAPS:
        return []
    depth, columns = channels[0], extent_of(axes_of(op, "n"))
    if not (isinstance(depth, int) and isinstance(columns, int) and min(depth, columns) >= _FEWEST):
        return []
    if any(inner.regions or inner.name == "k.index" for inner in op.regions[0].ops):
        return []
    pairs: list[tuple[str, str]] = []
    for tap, _ in k[:-1]:
        rows = [row for row, _ in m if _moves_with(op, row, tap)]
        if len(rows) != 1:
            return []
        pairs.append((rows[0], tap))
    return pairs if pairs[-1][0] == m[-1][0] and len({row for row, _ in pairs}) == len(pairs) else []


def _moves_with(op: Op, row: str, tap: str) -> bool:
    """Whether the left operand depends on two axes by their sum alone, and does."""
    bounds, found = Bounds({}, set()), False
    for access in accesses_of(op.regions[0]):
        index = cast("tuple[DimLike, ...]", access.attrs["index"])
        where = cast("tuple[tuple[DimLike, ...], ...]", access.attrs["where"])
        for expr in (*index, *(d for condition in where for d in condition)):
            moved = simplify(substitute(expr, {row: sym(row) - sym(tap)}), bounds)
            if tap in symbols_of(moved):
                return False
            found = found or tap in symbols_of(expr)
    return found


def apply_winograd(func: Func, size: int) -> Axes:
    """Makes the sum of a contraction in normal form Winograd's, but for its weights: gives the k axes over which the
    right operand is to yield them. Inputs that no result needs, beyond the last window, read as zeros."""
    op = contraction_of(func)
    pairs = winograd_pairs(op)
    taps, extents = {tap for _, tap in pairs}, dict(axes_of(op, "m"))
    k: Axes = [(name, size + TAPS - 1 if name in taps else extent) for name, extent in axes_of(op, "k")]
    for load in accesses_of(op.regions[0]):
        where = cast("tuple[tuple[DimLike, DimLike, DimLike], ...]", load.attrs["where"])
        inside = [(sym(row) + sym(tap), 0, extents[row] + TAPS - 1) for row, tap in pairs]
        load.attrs["where"] = (*where, *inside)
    op.attrs["k"] = tuple((sym(name), extent) for name, extent in k)
    op.attrs["winograd"] = tuple((sym(row), sym(tap)) for row, tap in pairs)
    return k


# ---- cost, in cycles of one core -------------------------------------------------------------------------------------

def _batch(op: Op) -> int:
    out = 1
    for _, extent in axes_of(op, "batch"):
        out *= extent if isinstance(extent, int) else _UNKNOWN_BATCH
    return out


def _tiles(op: Op, pairs: list[tuple[str, str]], size: int) -> int:
    """How many tiles of a batch position."""
    rows, out = {row for row, _ in pairs}, 1
    for name, extent in axes_of(op, "m"):
        known = extent if isinstance(extent, int) else _UNKNOWN if name in rows else _UNKNOWN_BATCH
        out *= -(-known // (size if name in rows else 1))
    return out


def _plain_cycles(op: Op, pairs: list[tuple[str, str]], schedule: Schedule) -> float:
    return _products(op, schedule, _tiles(op, pairs, 1), cast(int, extent_of(axes_of(op, "k"))))


def _products(op: Op, schedule: Schedule, rows: int, depth: int) -> float:
    """Of `rows` by all columns by `depth` products: two multiply-adds a cycle, and reading weights, which a tile of few
    rows hides little of (16x16 of 512 -> 512 channels, two threads of Sapphire Rapids: 7.6 ms direct, 4.4 by F(4))."""
    width = schedule.vectors * schedule.lanes
    columns = cast(int, extent_of(axes_of(op, "n")))
    panels = -(-columns // width) * width
    # A tile of one or two rows takes as long as one of three: its sums wait for each other.
    rounded = max(3, rows)
    reading = 4 * columns * depth / _WEIGHT_BYTES_A_CYCLE
    return _batch(op) * (rounded * panels * depth / (2 * schedule.lanes) + reading)


def _winograd_cycles(op: Op, pairs: list[tuple[str, str]], schedule: Schedule, size: int) -> float:
    span, axes = size + TAPS - 1, len(pairs)
    channels = cast(int, axes_of(op, "k")[-1][1])
    columns = cast(int, extent_of(axes_of(op, "n")))
    tiles = _tiles(op, pairs, size)
    # A vector goes through each position once an axis, in some `span` instructions, half of them at once, and is loaded
    # and stored.
    inputs = tiles * channels / schedule.lanes * span**axes * (axes * 0.5 * 2 + 1.5)
    results = tiles * columns / schedule.lanes * span**axes * (axes * 0.5 * 2 + 1.5)
    return _products(op, schedule, tiles, span**axes * channels) + _batch(op) * (inputs + results)


def _chunk(op: Op, pairs: list[tuple[str, str]], schedule: Schedule, size: int, target: Target) -> int:
    """Tiles that pass over the weights together. Weights that stay in the second-level cache leave half of it to what
    tiles become; others are read again for each chunk, which so takes as many tiles as there are, to a limit."""
    positions = (size + TAPS - 1) ** len(pairs)
    channels, columns = cast(int, axes_of(op, "k")[-1][1]), cast(int, extent_of(axes_of(op, "n")))
    width = schedule.vectors * schedule.lanes
    half = target.l2_bytes // 2
    stay = 4 * positions * channels * columns <= half
    fitting = half // (4 * positions * (channels + width)) if stay else _MOST_CHUNK
    panels, tiles = -(-columns // width), _tiles(op, pairs, size)
    shared = -(-tiles // max(1, _JOBS // panels))
    chunk = min(_MOST_CHUNK, max(_LEAST_CHUNK, min(fitting, shared)), max(1, tiles))
    return -(-chunk // schedule.rows) * schedule.rows
