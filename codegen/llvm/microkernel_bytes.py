"""Micro-kernels that multiply 8-bit integers and sum in i32: the family of `microkernel` with four steps of k at once.

The left operand's rows are bytes that are contiguous along depth; the panel holds groups of four steps, byte j of the
32-bit element c of group g being step 4 * g + j of column c, zero past the end of depth. Sums are exact modulo 2**32
for every sign of either operand: no product is ever saturated or rounded.

The dot product instruction takes an unsigned and a signed operand. Where both operands have the same sign, the left one
has its top bit flipped, which moves it by 128 into the other's range, and what that adds (128 times the sum of the
column) is summed beside the tile and subtracted at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from onnxc.codegen.llvm.loops import counted_loop, i64
from onnxc.codegen.llvm.microkernel import I8, I32, STEPS, Emitter, Microkernel, byte_offset, declared, prefetch, splat
from onnxc.codegen.llvm.target import Target
from onnxc.ir.dims import DimLike, ceildiv

__all__ = ["GROUP", "byte_microkernel", "dot_for", "groups_of"]

GROUP = 4
"""Steps of depth in a group."""


def groups_of(depth: DimLike, dot: str) -> DimLike:
    """How many groups a panel has of each tap of `depth` steps: those that `dot` reads."""
    return ceildiv(depth, STEPS[dot]) * (STEPS[dot] // GROUP)


_TOP_BITS = 0x80808080
_PAIRS = {4: "llvm.x86.sse2.pmadd.wd", 8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}


def dot_for(target: Target) -> str:
    """How the target sums products of bytes: "vnni" by one instruction, "pairs" by products of 16-bit halves, "" where
    operands are better widened to i32."""
    if target.arch != "x86_64":
        return ""
    wide = {"avx512vnni", "avx512vl"} if target.vector_bytes == 64 else {"avxvnni"}
    if target.features >= wide:
        return "vnni"
    return "pairs" if "avx2" in target.features or target.vector_bytes == 16 else ""


def byte_microkernel(module: ir.Module, spec: Microkernel) -> ir.Function:
    """The function of `spec`, which has a `dot`, in `module`: as `microkernel`, with depth in bytes and the panel's
    row stride from group to group."""
    existing = module.globals.get(spec.name)
    if existing is not None:
        return existing
    function = declared(module, spec)
    _ByteEmitter(spec, function).emit()
    return function


class _ByteEmitter(Emitter):
    """The carried values are the tile's sums, then a correction for each vector where the left operand is flipped, then
    the panel's pointer."""

    def emit(self) -> None:
        spec = self.spec
        builder = ir.IRBuilder(self.function.append_basic_block("entry"))
        groups, self.rest = builder.lshr(self.depth, i64(2)), builder.and_(self.depth, i64(GROUP - 1))
        zero = ir.Constant(spec.vector_type, None)
        first = [*self.initial(builder), *([zero] * spec.vectors if spec.flips else [])]

        def tap(b: ir.IRBuilder, t: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            rows = self.row_pointers(b, t)
            values = counted_loop(b, "k", 0, groups, 1, carried, lambda c, k, now: self._group(c, k, rows, now))
            values = self._tail(b, groups, rows, values)
            return [*values[:-1], byte_offset(b, carried[-1], self.tap_stride)]

        *sums, _ = counted_loop(builder, "tap", 0, self.taps, 1, [*first, self.panel], tap)
        for i, pointer in enumerate(self.cells(builder)):
            value = sums[i]
            if spec.flips:
                value = builder.sub(value, sums[spec.rows * spec.vectors + i % spec.vectors])
            builder.store(value, pointer, align=4)
        builder.ret_void()

    def _group(
        self, b: ir.IRBuilder, k: ir.Value, rows: Sequence[ir.Value], carried: list[ir.Value]
    ) -> list[ir.Value]:
        offset = b.shl(k, i64(2))
        return self._products(b, [b.load(byte_offset(b, r, offset), typ=I32, align=1) for r in rows], carried)

    def _tail(
        self, b: ir.IRBuilder, groups: ir.Value, rows: Sequence[ir.Value], carried: list[ir.Value]
    ) -> list[ir.Value]:
        """The last group, where depth is no whole number of them: only bytes that exist are read."""
        before = b.block
        partial, after = b.append_basic_block("partial"), b.append_basic_block("whole")
        b.cbranch(b.icmp_signed("!=", self.rest, i64(0)), partial, after)
        b.position_at_end(partial)
        start = b.shl(groups, i64(2))
        values = self._products(b, [self._last_bytes(b, byte_offset(b, r, start)) for r in rows], carried)
        end = b.block
        b.branch(after)
        b.position_at_end(after)
        out = []
        for old, new in zip(carried, values, strict=True):
            phi = b.phi(old.type)
            phi.add_incoming(old, before)
            phi.add_incoming(new, end)
            out.append(phi)
        return out

    def _last_bytes(self, b: ir.IRBuilder, row: ir.Value) -> ir.Value:
        """One to three bytes as the low ones of a group; the others meet zeros of the panel."""
        total = b.zext(b.load(row, typ=I8, align=1), I32)
        for j in range(1, GROUP - 1):
            exists = b.icmp_signed(">", self.rest, i64(j))
            byte = b.zext(b.load(byte_offset(b, row, b.select(exists, i64(j), i64(0))), typ=I8, align=1), I32)
            total = b.or_(total, b.shl(byte, I32(8 * j)))
        return total

    def _products(self, b: ir.IRBuilder, left: Sequence[ir.Value], carried: list[ir.Value]) -> list[ir.Value]:
        """One group: `left` holds four bytes of each row."""
        spec = self.spec
        *sums, panel = carried
        if spec.prefetches:
            prefetch(b, panel)
        right = [
            self._operand(
                b, b.load(byte_offset(b, panel, i64(v * spec.vector_bytes)), typ=spec.vector_type, align=4), "right"
            )
            for v in range(spec.vectors)
        ]
        flip = splat(b, I32(_TOP_BITS), spec.lanes)
        for r, group in enumerate(left):
            # Flipped before it is spread over the lanes: LLVM 22 never ends combining a spread load with the xor.
            row = self._operand(b, splat(b, b.xor(group, I32(_TOP_BITS)) if spec.flips else group, spec.lanes), "left")
            for v in range(spec.vectors):
                cell = r * spec.vectors + v
                sums[cell] = self._dot(b, sums[cell], row, right[v])
        if spec.flips:
            flipped, base = self._operand(b, flip, "left"), spec.rows * spec.vectors
            for v in range(spec.vectors):
                sums[base + v] = self._dot(b, sums[base + v], flipped, right[v])
        return [*sums, byte_offset(b, panel, self.row_stride)]

    # ---- dot products ------------------------------------------------------------------------------------------------

    def _is_signed(self, side: str) -> bool:
        signed = self.spec.signs[side == "right"] == "s"
        return signed != self.spec.flips if side == "left" else signed

    def _operand(self, b: ir.IRBuilder, vector: ir.Value, side: str) -> list[ir.Value]:
        """A vector of groups as the instructions take it: as bytes, or as its even and its odd bytes in 16 bits."""
        lanes = self.spec.lanes
        if self.spec.dot == "vnni":
            return [b.bitcast(vector, ir.VectorType(I8, lanes * GROUP))]
        kind = ir.VectorType(ir.IntType(16), lanes * 2)
        halves, eight = b.bitcast(vector, kind), ir.Constant(kind, [8] * (lanes * 2))
        shift = b.ashr if self._is_signed(side) else b.lshr
        return [shift(b.shl(halves, eight), eight), shift(halves, eight)]

    def _dot(self, b: ir.IRBuilder, total: ir.Value, left: list[ir.Value], right: list[ir.Value]) -> ir.Value:
        """`total` plus the four products of each lane."""
        lanes, vector = self.spec.lanes, self.spec.vector_type
        if self.spec.dot == "vnni":
            unsigned, signed = (right, left) if self._is_signed("left") else (left, right)
            function = _intrinsic(b, f"llvm.x86.avx512.vpdpbusd.{lanes * 32}", vector, [total, *unsigned, *signed])
            return b.call(function, [total, *unsigned, *signed])
        for pair in zip(left, right, strict=True):
            total = b.add(total, b.call(_intrinsic(b, _PAIRS[lanes], vector, pair), pair))
        return total


def _intrinsic(b: ir.IRBuilder, name: str, result: ir.Type, arguments: Sequence[ir.Value]) -> ir.Function:
    existing = b.module.globals.get(name)
    return existing or ir.Function(b.module, ir.FunctionType(result, [a.type for a in arguments]), name)
