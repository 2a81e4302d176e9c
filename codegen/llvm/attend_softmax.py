"""The online softmax of attention kernels: what a chunk of rows keeps from one block of keys to the next.

For a block of scores, of each row:

    most'   = max(most, scores)
    weights = exp(scores - most'), total = total * exp(most - most') + sum(weights)
    sums    = sums * exp(most - most'), to which the caller adds weights * values

M. Milakov, N. Gimelshein, "Online normalizer calculation for softmax" (2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from llvmlite import ir

from onnxc.codegen.llvm import abi
from onnxc.codegen.llvm.abi import I64
from onnxc.codegen.llvm.intrinsics import intrinsic
from onnxc.codegen.llvm.loops import counted_loop, i64, least
from onnxc.codegen.llvm.microkernel import byte_offset, splat
from onnxc.codegen.llvm.registers import Element
from onnxc.codegen.llvm.scalars import Scalars
from onnxc.codegen.llvm.target import Target
from onnxc.ir.types import F32

__all__ = ["OnlineSoftmax", "at", "folded"]

_LEAST_NORMAL_LOG = -87.33      # of 2**-126, rounded up
# Rows whose weights are computed together: enough that none waits for the latencies of its maximum and exponentials.
_ROWS_AT_ONCE = 4
_ITEM = 4
_FLOAT = ir.FloatType()


class OnlineSoftmax:
    """Where a thread keeps the state of a chunk's rows: `block`, the scores that become weights, rows `block_bytes`
    apart; `sums`, rows `sum_bytes` apart; `most` and `total`, one float each. Blocks are gone through in vectors of
    `lanes`, sums in vectors of `sum_lanes`."""

    def __init__(self, target: Target, lanes: int, sum_lanes: int, block: ir.Value, block_bytes: int, sums: ir.Value,
                 sum_bytes: ir.Value, most: ir.Value, total: ir.Value) -> None:
        self.target, self.lanes, self.sum_lanes = target, lanes, sum_lanes
        self.block, self.block_bytes, self.sums, self.sum_bytes = block, block_bytes, sums, sum_bytes
        self.most, self.total = most, total

    def begin(self, b: ir.IRBuilder, rows: ir.Value) -> None:
        zero, lowest = ir.Constant(_FLOAT, 0.0), ir.Constant(_FLOAT, -math.inf)

        def row(b: ir.IRBuilder, r: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            b.store(lowest, at(b, self.most, r), align=_ITEM)
            b.store(zero, at(b, self.total, r), align=_ITEM)
            return []

        counted_loop(b, "begin", 0, rows, 1, [], row)
        clear = intrinsic(b.module, "llvm.memset", [abi.PTR, I64], abi.VOID, [abi.PTR, abi.I8, I64, abi.I1])
        b.call(clear, [self.sums, ir.Constant(abi.I8, 0), b.mul(rows, self.sum_bytes), ir.Constant(abi.I1, 0)])

    def weigh_block(self, b: ir.IRBuilder, rows: ir.Value, n0: ir.Value, count: ir.Value) -> None:
        """The block's scores become weights in their place, beside their rows' new greatest score and total; what the
        rows have summed so far is scaled to it. Rows are taken a few at once, the last ones again where rows run out:
        each waits for its own maximum, exponentials and sum."""
        again, last = b.icmp_signed("!=", n0, i64(0)), b.sub(rows, i64(1))

        def group(b: ir.IRBuilder, r: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            places = [least(b, b.add(r, i64(i)), last) for i in range(_ROWS_AT_ONCE)]
            before = [b.load(at(b, self.most, p), typ=_FLOAT, align=_ITEM) for p in places]
            most, base = self._greatest(b, places, before, count)
            totals = self._weigh(b, places, base, count)
            for place, m in zip(places, most, strict=True):
                b.store(m, at(b, self.most, place), align=_ITEM)
            with b.if_else(again) as (rescaled, first):
                with rescaled:
                    self._rescale(b, r, last, before, base, totals)
                with first:
                    for place, total in zip(places, totals, strict=True):
                        b.store(total, at(b, self.total, place), align=_ITEM)
            return []

        counted_loop(b, "weights", 0, rows, _ROWS_AT_ONCE, [], group)

    def line(self, b: ir.IRBuilder, row: ir.Value) -> ir.Value:
        return byte_offset(b, self.block, b.mul(row, i64(self.block_bytes)))

    def _greatest(self, b: ir.IRBuilder, places: Sequence[ir.Value], before: Sequence[ir.Value],
                  count: ir.Value) -> tuple[list[ir.Value], list[ir.Value]]:
        """Of each row the greatest score so far, and the number that its exponents are counted from: 0 where that is
        -inf, so that scores of -inf weigh nothing and not NaN."""
        kind, lines = ir.VectorType(_FLOAT, self.lanes), [self.line(b, p) for p in places]

        def greater(b: ir.IRBuilder, n: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            scores = [b.load(at(b, line, n), typ=kind, align=_ITEM) for line in lines]
            return [b.select(b.fcmp_ordered(">", s, c), s, c) for s, c in zip(scores, carried, strict=True)]

        vectors = counted_loop(b, "most", 0, count, self.lanes, [splat(b, v, self.lanes) for v in before], greater)
        most = [folded(b, "fmax", v) for v in vectors]
        zero, lowest = ir.Constant(_FLOAT, 0.0), ir.Constant(_FLOAT, -math.inf)
        return most, [b.select(b.fcmp_ordered("==", m, lowest), zero, m) for m in most]

    def _weigh(self, b: ir.IRBuilder, places: Sequence[ir.Value], base: Sequence[ir.Value],
               count: ir.Value) -> list[ir.Value]:
        """Scores become weights; of each row their sum."""
        kind, lines = ir.VectorType(_FLOAT, self.lanes), [self.line(b, p) for p in places]
        bases, scalars = [splat(b, v, self.lanes) for v in base], Scalars(b, self.target)

        def weigh(b: ir.IRBuilder, n: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            scores = [b.load(at(b, line, n), typ=kind, align=_ITEM) for line in lines]
            shifted = [b.fsub(s, m) for s, m in zip(scores, bases, strict=True)]
            weights = [scalars.apply("exp", [Element(_without_traces(b, d), F32)]).value for d in shifted]
            for line, w in zip(lines, weights, strict=True):
                b.store(w, at(b, line, n), align=_ITEM)
            return [b.fadd(c, w) for c, w in zip(carried, weights, strict=True)]

        sums = counted_loop(b, "weigh", 0, count, self.lanes, [ir.Constant(kind, None)] * len(lines), weigh)
        return [folded(b, "fadd", v) for v in sums]

    def _rescale(self, b: ir.IRBuilder, r: ir.Value, last: ir.Value, before: Sequence[ir.Value],
                 base: Sequence[ir.Value], totals: Sequence[ir.Value]) -> None:
        """Bring the totals and sums of the rows from `r` on to their new base."""
        scalars = Scalars(b, self.target)
        for i, (old, new, total) in enumerate(zip(before, base, totals, strict=True)):
            place = b.add(r, i64(i))
            with b.if_then(b.icmp_signed("<=", place, last)):
                scale = scalars.apply("exp", [Element(b.fsub(old, new), F32)]).value
                earlier = b.load(at(b, self.total, place), typ=_FLOAT, align=_ITEM)
                b.store(b.fadd(b.fmul(earlier, scale), total), at(b, self.total, place), align=_ITEM)
                self._scale(b, place, scale)

    def _scale(self, b: ir.IRBuilder, r: ir.Value, scale: ir.Value, counts: ir.Value | None = None) -> None:
        """Multiply the sums of a row; where it does not count, they become 0."""
        width = self.sum_lanes
        kind = ir.VectorType(_FLOAT, width)
        line, spread = byte_offset(b, self.sums, b.mul(r, self.sum_bytes)), splat(b, scale, width)

        def vector(b: ir.IRBuilder, at: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            place = byte_offset(b, line, at)
            value = b.fmul(b.load(place, typ=kind, align=_ITEM), spread)
            b.store(value if counts is None else b.select(counts, value, ir.Constant(kind, None)), place, align=_ITEM)
            return []

        counted_loop(b, "scale", 0, self.sum_bytes, width * _ITEM, [], vector)

    def finish(self, b: ir.IRBuilder, rows: ir.Value, keys: ir.Value, missing: bool) -> None:
        """Sums become sums / total; over no keys they are 0. With `missing`, a row whose softmax is NaN weighs every
        key with 0: what it has summed where all of its scores are -inf, and 0 where one is NaN."""
        zero, one = ir.Constant(_FLOAT, 0.0), ir.Constant(_FLOAT, 1.0)
        empty = b.icmp_signed("==", keys, i64(0))

        def row(b: ir.IRBuilder, r: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            total = b.load(at(b, self.total, r), typ=_FLOAT, align=_ITEM)
            whole = b.or_(empty, b.fcmp_ordered("==", total, zero)) if missing else empty
            inverse = b.select(whole, one, b.fdiv(one, total))
            self._scale(b, r, inverse, b.fcmp_ordered(">=", total, zero) if missing else None)
            return []

        counted_loop(b, "finish", 0, rows, 1, [], row)


def _without_traces(b: ir.IRBuilder, differences: ir.Value) -> ir.Value:
    """Differences from the row's greatest score, -inf for those whose exponential would be denormal. Such weights are
    less than 2**-126 of the greatest, and cost each product with them a hundred cycles."""
    lanes = differences.type.count
    least, lowest = (ir.Constant(differences.type, [x] * lanes) for x in (_LEAST_NORMAL_LOG, float("-inf")))
    return b.select(b.fcmp_ordered("<", differences, least), lowest, differences)


def at(b: ir.IRBuilder, floats: ir.Value, index: ir.Value) -> ir.Value:
    return b.gep(floats, [index], source_etype=_FLOAT)


def folded(b: ir.IRBuilder, kind: str, vector: ir.Value) -> ir.Value:
    """All lanes as one: the greatest ("fmax") of lanes that are no NaN, or their sum in any order ("fadd")."""
    start = [ir.Constant(_FLOAT, -0.0)] if kind == "fadd" else []
    function = intrinsic(b.module, f"llvm.vector.reduce.{kind}", [vector.type], _FLOAT,
                         [*(s.type for s in start), vector.type])
    return b.call(function, [*start, vector], fastmath=("reassoc",) if kind == "fadd" else ("nnan", "nsz"))
