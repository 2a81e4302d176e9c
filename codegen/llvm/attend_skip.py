"""Which keys of a block weigh nothing for a whole chunk of queries: those that a causal mask, a window or padding
leaves out. Their scores need not be computed, nor their values summed.

A key weighs exactly 0 for a row where its score is -inf, or so far below the row's greatest that the exponential gives
0. The bounds of a score (`score_bounds`) show that without its product, given how large products can be: the channels
times the greatest query and the greatest key. The first look takes products to be modest and
asks the last row and the first one alone, which costs little. Where it leaves something out, queries, keys and values
are measured, and the second look decides: where one of them is infinite or NaN nothing is left out, for 0 times it is
no 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from llvmlite import ir

from onnxc.codegen.llvm import abi
from onnxc.codegen.llvm.attend_products import Product
from onnxc.codegen.llvm.attend_softmax import at, folded
from onnxc.codegen.llvm.contract_epilogue import lane_mask
from onnxc.codegen.llvm.contract_loops import Panel
from onnxc.codegen.llvm.intrinsics import intrinsic
from onnxc.codegen.llvm.loops import counted_loop, i64, least
from onnxc.codegen.llvm.microkernel import byte_offset, splat

__all__ = ["LiveKeys", "Sources"]

# exp gives 0 below -104; the rest is for how scores and their differences are rounded.
_WEIGHS_NOTHING = 110.0
# A first guess of how large products are. Masks are as large as floats get, or some ten thousand.
_MODEST = 1e3
# For the rounding of products, which are sums.
_ROUNDED = 1.01
_ITEM = 4
_I32 = ir.IntType(32)
_FLOAT = ir.FloatType()
Axes = Mapping[str, ir.Value]
_LOWEST, _INFINITE_BITS, _MAGNITUDE_BITS = float("-inf"), 0x7F800000, 0x7FFFFFFF


@dataclass(frozen=True)
class Sources:
    """What is asked of the kernel around: where the query of a row lies, and panels of keys and values; how many
    channels and values there are; the axes of a row, and for these vectors of bounds of the scores from a key on, given
    the least and the greatest product, of those lanes that a mask has."""

    query: Callable[[ir.IRBuilder, ir.Value], ir.Value]
    keys: Callable[[ir.IRBuilder, ir.Value], Panel]
    values: Callable[[ir.IRBuilder, ir.Value], Panel]
    channels: Callable[[ir.IRBuilder], ir.Value]
    columns: Callable[[ir.IRBuilder], ir.Value]
    row: Callable[[ir.IRBuilder, ir.Value], Axes]
    bounds: Callable[[ir.IRBuilder, Axes, ir.Value, Sequence[ir.Value], ir.Value], Sequence[ir.Value]]


@dataclass(frozen=True)
class Block:
    """Keys [n0, n1) for rows [m0, m0 + rows), whose greatest scores so far are at `most`."""

    m0: ir.Value
    rows: ir.Value
    n0: ir.Value
    n1: ir.Value
    most: ir.Value


class LiveKeys:
    """Finds the range of a block's panels beyond which keys weigh nothing. Made where the function begins, for what it
    remembers of a batch position."""

    def __init__(self, b: ir.IRBuilder, scores: Product, values: Product, keys: ir.Value, sources: Sources) -> None:
        self.scores, self.values, self.count, self.sources = scores, values, keys, sources
        self.lanes = scores.blocking.tile.lanes
        self.is_measured, self.greatest_key, self.greatest_value = (
            _variable(b, kind) for kind in (abi.I1, _I32, _I32))
        self.forget(b)

    def forget(self, b: ir.IRBuilder) -> None:
        """Another batch position begins."""
        b.store(ir.Constant(abi.I1, 0), self.is_measured)

    def range(self, b: ir.IRBuilder, block: Block, skips: ir.Value) -> tuple[ir.Value, ir.Value]:
        """The first key and the one behind the last of those that may weigh something; all of the block's unless
        `skips`."""
        n0, n1 = block.n0, block.n1

        def look(b: ir.IRBuilder, index: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            ends = b.sub(block.rows, i64(1))
            is_first = b.icmp_signed("==", index, i64(0))
            several = b.and_(is_first, b.icmp_signed(">", ends, i64(1)))
            low, high = self._live(b, block, carried[0], b.select(several, ends, i64(1)))
            first, measured, decided = b.block, b.append_basic_block("measure"), b.append_basic_block("decided")
            again = b.and_(_leaves_out(b, low, high, n0, n1), is_first)
            b.cbranch(again, measured, decided)
            b.position_at_end(measured)
            greatest, is_finite = self._greatest_product(b, block)
            from_all, to_all = b.select(is_finite, low, n0), b.select(is_finite, high, n1)
            last = b.block
            b.branch(decided)
            b.position_at_end(decided)
            return [_phi(b, [(x, first), (y, last)])
                    for x, y in ((carried[0], greatest), (low, from_all), (high, to_all))]

        def goes_on(carried: Sequence[ir.Value]) -> ir.Value:
            return _leaves_out(b, carried[1], carried[2], n0, n1)

        _, low, high = counted_loop(b, "look", 0, b.select(skips, i64(2), i64(0)), 1,
                                    [ir.Constant(_FLOAT, _MODEST), n1, n0], look, goes_on)
        return b.select(skips, low, n0), b.select(skips, high, n1)

    # ---- which panels weigh something --------------------------------------------------------------------------------

    def _live(self, b: ir.IRBuilder, block: Block, greatest: ir.Value, step: ir.Value) -> tuple[ir.Value, ir.Value]:
        """The range of panels with a key that may weigh something for a row, if no product is greater: for each row,
        counted back from the last by `step`, what is outside of the range so far is looked at."""
        n0, n1, width = block.n0, block.n1, i64(self.scores.blocking.columns)
        products = [splat(b, p, self.lanes) for p in (b.fneg(greatest), greatest)]
        last = b.sub(b.add(block.m0, block.rows), i64(1))

        def row(b: ir.IRBuilder, index: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            low, high = carried
            axes = self.sources.row(b, b.sub(last, index))
            before = b.load(at(b, block.most, b.sub(b.sub(block.rows, i64(1)), index)), typ=_FLOAT, align=_ITEM)
            least_weight = self._least_weight(b, block, axes, before, products)
            left = b.sub(low, n0)

            def vector(b: ir.IRBuilder, i: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
                n = b.select(b.icmp_signed("<", i, left), b.add(n0, i), b.add(high, b.sub(i, left)))
                weighs = self._weighs(b, axes, n, n1, products, least_weight)
                begin = b.sub(n, b.urem(n, width))
                end = least(b, b.add(begin, width), n1)
                wider = b.icmp_signed(">", end, carried[1])
                return [b.select(weighs, least(b, begin, carried[0]), carried[0]),
                        b.select(b.and_(weighs, wider), end, carried[1])]

            outside = b.select(b.icmp_signed("<", low, high), b.add(left, b.sub(n1, high)), b.sub(n1, n0))
            return counted_loop(b, "live.vector", 0, outside, self.lanes, [low, high], vector)

        def goes_on(carried: Sequence[ir.Value]) -> ir.Value:
            return _leaves_out(b, carried[0], carried[1], n0, n1)

        low, high = counted_loop(b, "live.row", 0, block.rows, step, [n1, n0], row, goes_on)
        return low, high

    def _weighs(self, b: ir.IRBuilder, axes: Axes, n: ir.Value, end: ir.Value, products: Sequence[ir.Value],
                least_weight: ir.Value) -> ir.Value:
        """Whether one of a vector of keys may weigh something for a row: whether its score may be `least_weight`."""
        mask = lane_mask(b, b.sub(end, n), self.lanes)
        _, score = self.sources.bounds(b, axes, n, products, mask)
        lowest = ir.Constant(score.type, [_LOWEST] * self.lanes)
        weighs = b.and_(b.fcmp_unordered(">=", score, least_weight), b.fcmp_unordered("!=", score, lowest))
        return _any(b, b.and_(weighs, mask))

    def _least_weight(self, b: ir.IRBuilder, block: Block, axes: Axes, before: ir.Value,
                      products: Sequence[ir.Value]) -> ir.Value:
        """Below what score a key weighs nothing for a row. The row's greatest score is at least `before`, that of
        earlier blocks, and what the first keys of this one have."""
        mask = lane_mask(b, b.sub(block.n1, block.n0), self.lanes)
        score, _ = self.sources.bounds(b, axes, block.n0, products, mask)
        lowest = ir.Constant(score.type, [_LOWEST] * self.lanes)
        here = folded(b, "fmax", b.select(b.and_(mask, b.fcmp_ordered(">", score, lowest)), score, lowest))
        most = b.select(b.fcmp_ordered(">", here, before), here, before)
        return splat(b, b.fsub(most, ir.Constant(_FLOAT, _WEIGHS_NOTHING)), self.lanes)

    # ---- how large products are --------------------------------------------------------------------------------------

    def _greatest_product(self, b: ir.IRBuilder, block: Block) -> tuple[ir.Value, ir.Value]:
        """A bound of the products of the block's rows, and whether it and all values of the position are finite."""
        channels = self.sources.channels(b)
        with b.if_then(b.not_(b.load(self.is_measured))):
            for side, panels, depth, slot in (
                    (self.scores, self.sources.keys, channels, self.greatest_key),
                    (self.values, self.sources.values, self.count, self.greatest_value)):
                columns = self.count if side is self.scores else self.sources.columns(b)
                b.store(self._measured_panels(b, side, panels, columns, depth), slot)
            b.store(ir.Constant(abi.I1, 1), self.is_measured)

        def row(b: ir.IRBuilder, r: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            query = self.sources.query(b, b.add(block.m0, r))
            return [self._measured(b, query, channels, self.lanes, carried[0])]

        (queries,) = counted_loop(b, "measure.row", 0, block.rows, 1, [_nothing(self.lanes)], row)
        factors = [b.bitcast(x, _FLOAT) for x in (_greatest(b, queries), b.load(self.greatest_key))]
        factors += [b.sitofp(channels, _FLOAT), ir.Constant(_FLOAT, _ROUNDED)]
        product = factors[0]
        for factor in factors[1:]:
            product = b.fmul(product, factor)
        infinite = ir.Constant(_I32, _INFINITE_BITS)
        finite = (b.icmp_unsigned("<", x, infinite) for x in (b.bitcast(product, _I32), b.load(self.greatest_value)))
        return product, b.and_(*finite)

    def _measured_panels(self, b: ir.IRBuilder, side: Product, panels: Callable[[ir.IRBuilder, ir.Value], Panel],
                         columns: ir.Value, depth: ir.Value) -> ir.Value:
        """The greatest magnitude, as bits, of a product's right operand: NaN above infinity above all numbers."""
        width, lanes = side.blocking.columns, side.blocking.tile.lanes

        def panel(b: ir.IRBuilder, n: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            place, count = panels(b, n), least(b, b.sub(columns, n), i64(width))

            def line(b: ir.IRBuilder, k: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
                pointer = byte_offset(b, place.pointer, b.mul(k, place.row_stride))
                return [self._measured(b, pointer, count, lanes, carried[0])]

            return counted_loop(b, "measure.line", 0, depth, 1, carried, line)

        (found,) = counted_loop(b, "measure.panel", 0, columns, width, [_nothing(lanes)], panel)
        return _greatest(b, found)

    def _measured(self, b: ir.IRBuilder, pointer: ir.Value, count: ir.Value, lanes: int, so_far: ir.Value) -> ir.Value:
        """`so_far`, a vector of bits of magnitudes, with those of `count` floats."""
        kind = ir.VectorType(_I32, lanes)
        magnitude = ir.Constant(kind, [_MAGNITUDE_BITS] * lanes)
        bools = ir.VectorType(abi.I1, lanes)
        load = intrinsic(b.module, "llvm.masked.load", [kind, abi.PTR], kind, [abi.PTR, bools, kind])
        umax = intrinsic(b.module, "llvm.umax", [kind], kind, [kind, kind])

        def vector(b: ir.IRBuilder, c: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            bits = b.call(load, [at(b, pointer, c), lane_mask(b, b.sub(count, c), lanes), ir.Constant(kind, None)])
            return [b.call(umax, [carried[0], b.and_(bits, magnitude)])]

        (found,) = counted_loop(b, "measure", 0, count, lanes, [so_far], vector)
        return found


def _variable(b: ir.IRBuilder, kind: ir.Type) -> ir.Value:
    with b.goto_entry_block():
        return b.alloca(kind)


def _leaves_out(b: ir.IRBuilder, low: ir.Value, high: ir.Value, n0: ir.Value, n1: ir.Value) -> ir.Value:
    """Whether [low, high) is less than [n0, n1)."""
    return b.or_(b.icmp_signed(">", low, n0), b.icmp_signed("<", high, n1))


def _nothing(lanes: int) -> ir.Value:
    return ir.Constant(ir.VectorType(_I32, lanes), None)


def _greatest(b: ir.IRBuilder, bits: ir.Value) -> ir.Value:
    return b.call(intrinsic(b.module, "llvm.vector.reduce.umax", [bits.type], _I32, [bits.type]), [bits])


def _any(b: ir.IRBuilder, bools: ir.Value) -> ir.Value:
    return b.call(intrinsic(b.module, "llvm.vector.reduce.or", [bools.type], abi.I1, [bools.type]), [bools])


def _phi(b: ir.IRBuilder, incoming: Sequence[tuple[ir.Value, ir.Block]]) -> ir.Value:
    phi = b.phi(incoming[0][0].type)
    for value, block in incoming:
        phi.add_incoming(value, block)
    return phi
