"""The schedules that a kernel may have on a CPU target: first what the heuristics choose, then what is worth a try.

Whatever is given here is right; only its speed is in question. Nothing behind the first candidate is computed unless it
is asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from onnxc.codegen.llvm.contract_form import axes_of, contraction_of, extent_of
from onnxc.codegen.llvm.heuristics import ranked_schedules
from onnxc.codegen.llvm.narrow import narrow_operand
from onnxc.codegen.llvm.schedule_contract import schedule_contraction
from onnxc.codegen.llvm.schedule_winograd import with_winograd
from onnxc.codegen.llvm.target import Target
from onnxc.codegen.schedule import Schedule
from onnxc.ir.core import Func

__all__ = ["contraction_candidates", "kernel_candidates"]

_AXES = 3                       # schedules over other axes than the best
_UNROLLS = (1, 2, 8)
_GRAINS = (64, 1024, 16384)
_ROWS, _VECTORS = (4, 6, 8, 12), (1, 2, 3, 4)
_SCRATCH = 2                    # vector registers that a tile leaves free, beside a row of the panel


def kernel_candidates(func: Func, target: Target) -> Iterator[Schedule]:
    """Of a kernel without a contraction: axes across lanes, vectors in flight, points that a thread takes at once."""
    best, *others = ranked_schedules(func, target)
    yield best
    yield from others[:_AXES]
    if best.lanes > 1:
        yield from (dataclasses.replace(best, unroll=n) for n in _UNROLLS if not best.blocks)
    yield from (dataclasses.replace(best, grain=n) for n in _GRAINS)


def contraction_candidates(func: Func, target: Target, constant: frozenset[int]) -> Iterator[Schedule]:
    """Of a contraction in normal form: tiles, rows that share a panel, blocks of depth; plain sums for Winograd's.
    Arguments at positions `constant` are known when compiling."""
    plain = schedule_contraction(func, target)
    best = with_winograd(func, target, plain, constant)
    yield best
    if best.winograd:
        yield plain
        return
    if not best.dot and narrow_operand(func) is None:
        yield from _tiles(func, target, best)
    for chunk in (best.chunk // 4, best.chunk // 2, best.chunk * 2):
        if chunk >= best.rows:
            yield dataclasses.replace(best, chunk=chunk // best.rows * best.rows)
    depth = extent_of(axes_of(contraction_of(func), "k"))
    for block in (best.depth // 16 * 4, best.depth * 2):
        if not best.dot and block and not (isinstance(depth, int) and depth <= min(block, best.depth)):
            yield dataclasses.replace(best, depth=block)


def _tiles(func: Func, target: Target, best: Schedule) -> Iterator[Schedule]:
    """Other tiles that fit the registers and that the result fills."""
    op = contraction_of(func)
    height, columns = extent_of(axes_of(op, "m")), extent_of(axes_of(op, "n"))
    for vectors in _VECTORS:
        if isinstance(columns, int) and vectors > 1 and (vectors - 1) * best.lanes >= columns:
            continue
        for rows in _ROWS:
            fits = (rows + 1) * vectors + _SCRATCH <= target.vector_registers
            if not fits or (rows, vectors) == (best.rows, best.vectors) or (
                    isinstance(height, int) and rows > _ROWS[0] and rows >= 2 * height):
                continue
            chunk, depth = max(1, best.chunk // rows) * rows, max(1, best.depth * best.vectors // vectors)
            yield dataclasses.replace(best, rows=rows, vectors=vectors, chunk=chunk, depth=depth)
