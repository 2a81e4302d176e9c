"""Micro-kernels over panels of narrow weights: the family of `microkernel`, with the panel widened in registers.

Weights are (code - zero) * scale, and a block of steps of depth shares zero point and scale, so that

    tile[r, c] = sum over blocks of  scale[c] * (sum of row[k] * code[k, c]  -  zero[c] * sum of row[k])

and a weight costs its widening and one multiply-add. Of integers narrower than a byte a word holds one column's codes
of a group of steps, the first lowest; a vector of words is read once and shifted for each step.

Floats of 16 bits need neither, and are multiplied as the plain family does it.

`unpack_panel` widens a whole panel for tiles of more rows, which then read it as one of floats.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llvmlite import ir

from onnxc.codegen.llvm.casts import Element, widened
from onnxc.codegen.llvm.loops import I64, counted_loop, i64
from onnxc.codegen.llvm.microkernel import (
    I32,
    POINTER,
    Coding,
    Emitter,
    Microkernel,
    byte_offset,
    declared,
    multiply_add,
    prefetch,
    splat,
)
from onnxc.ir.types import dtype_named

__all__ = ["STEPS_TOGETHER", "narrow_microkernel", "unpack_panel"]

STEPS_TOGETHER = 4
"""Steps of depth that are taken together of codes that fill bytes."""

_FLOAT = ir.FloatType()
_LOOKUP = "llvm.x86.avx512.permvar.sf.512"
_WORD = 32


def narrow_microkernel(module: ir.Module, spec: Microkernel) -> ir.Function:
    """The function of `spec`, which has a coding, in `module`: as `microkernel`, for one tap, with the panel's row
    stride from group to group."""
    existing = module.globals.get(spec.name)
    if existing is not None:
        return existing
    function = declared(module, spec)
    assert spec.coding is not None
    (_HalfEmitter if spec.coding.is_float else _NarrowEmitter)(spec, function).emit()
    return function


def unpack_panel(module: ir.Module, spec: Microkernel) -> ir.Function:
    """void (depth, panel, row_stride, scales, zeros, out): writes all columns of a panel of `spec` as floats."""
    assert spec.coding is not None
    name = f"unpack_{spec.coding.name}_{spec.vectors}x{spec.lanes}"
    existing = module.globals.get(name)
    if existing is not None:
        return existing
    types = [I64, POINTER, I64, POINTER, POINTER, POINTER]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), types), name)
    function.linkage = "internal"
    function.attributes.add("nounwind")
    function.attributes.add("noinline")
    _emit_unpack(function, spec, spec.coding)
    return function


class _Codes:
    """Reads a panel's codes as vectors of floats."""

    def __init__(self, spec: Microkernel, coding: Coding) -> None:
        self.spec, self.coding = spec, coding
        self.words = ir.VectorType(I32, spec.lanes)
        self.looks_up = coding.lookup and spec.lanes == 16 and coding.bits == 4

    @property
    def together(self) -> int:
        """Steps that one iteration of the inner loop takes."""
        return max(self.coding.group, STEPS_TOGETHER)

    def steps(self, b: ir.IRBuilder, panel: ir.Value, row_stride: ir.Value) -> Iterator[tuple[int, list[ir.Value]]]:
        """The weights of each of the steps that are taken together: (step, vectors)."""
        prefetch(b, panel)
        if self.coding.group > 1:
            words = self.load(b, panel)
            for j in range(self.together):
                yield j, [self.decoded(b, w, j) for w in words]
            return
        for j in range(self.together):
            yield j, [self.widened(b, x) for x in self.load(b, panel)]
            panel = byte_offset(b, panel, row_stride)

    def one_step(self, b: ir.IRBuilder, panel: ir.Value, row_stride: ir.Value, k: ir.Value) -> list[ir.Value]:
        """The weights of step k from `panel` on, which is known at run time only."""
        group = self.coding.group
        place = byte_offset(b, panel, b.mul(b.udiv(k, i64(group)), row_stride))
        if group == 1:
            return [self.widened(b, x) for x in self.load(b, place)]
        up = b.sub(i64(_WORD - self.coding.bits), b.mul(b.urem(k, i64(group)), i64(self.coding.bits)))
        amount = splat(b, b.trunc(up, I32), self.spec.lanes)
        return [self.widened(b, b.ashr(b.shl(w, amount), self.shift(_WORD - self.coding.bits)))
                for w in self.load(b, place)]

    def advance(self, b: ir.IRBuilder, panel: ir.Value, row_stride: ir.Value) -> ir.Value:
        """Where the next steps begin."""
        return byte_offset(b, panel, b.mul(row_stride, i64(self.together // self.coding.group)))

    def behind(self, b: ir.IRBuilder, panel: ir.Value, row_stride: ir.Value, steps: ir.Value) -> ir.Value:
        """Where what follows `steps` whole groups begins."""
        return byte_offset(b, panel, b.mul(row_stride, b.udiv(steps, i64(self.coding.group))))

    def parameter_stride(self, b: ir.IRBuilder, row_stride: ir.Value) -> ir.Value:
        """Bytes from one block's parameters to the next one's: four a column, as a row of words has."""
        return b.mul(row_stride, i64(_WORD // (self.coding.group * self.coding.bits)))

    def load(self, b: ir.IRBuilder, place: ir.Value) -> list[ir.Value]:
        """A row of the panel: words of codes, or codes."""
        lanes, bits = self.spec.lanes, max(8, self.coding.bits)
        kind = self.words if self.coding.group > 1 else ir.VectorType(ir.IntType(bits), lanes)
        nbytes = lanes * kind.element.width // 8
        return [b.load(byte_offset(b, place, i64(v * nbytes)), typ=kind, align=1) for v in range(self.spec.vectors)]

    def decoded(self, b: ir.IRBuilder, words: ir.Value, j: int) -> ir.Value:
        """Step j of a group, as floats."""
        bits = self.coding.bits
        if self.looks_up:
            return b.call(self.lookup(b), [self.table(), b.lshr(words, self.shift(bits * j)) if j else words])
        up = _WORD - bits * (j + 1)
        raised = b.shl(words, self.shift(up)) if up else words
        return self.widened(b, b.ashr(raised, self.shift(_WORD - bits)))

    def widened(self, b: ir.IRBuilder, codes: ir.Value) -> ir.Value:
        if self.coding.is_float:
            return widened(b, Element(codes, dtype_named(self.coding.dtype)), self.coding.lookup)
        wide = codes if codes.type == self.words else b.sext(codes, self.words)
        return b.sitofp(wide, self.spec.vector_type)

    def shift(self, amount: int) -> ir.Constant:
        return ir.Constant(self.words, [amount] * self.spec.lanes)

    def table(self) -> ir.Constant:
        """What the sixteen codes stand for; the instruction looks at the lowest four bits of a lane only."""
        return ir.Constant(self.spec.vector_type, [float(i if i < 8 else i - 16) for i in range(16)])

    def lookup(self, b: ir.IRBuilder) -> ir.Function:
        kind = ir.FunctionType(self.spec.vector_type, [self.spec.vector_type, self.words])
        return b.module.globals.get(_LOOKUP) or ir.Function(b.module, kind, _LOOKUP)


class _HalfEmitter(Emitter):
    """The plain micro-kernel over a panel of floats of 16 bits."""

    def right(self, builder: ir.IRBuilder, place: ir.Value) -> list[ir.Value]:
        assert self.spec.coding is not None
        codes = _Codes(self.spec, self.spec.coding)
        return [codes.widened(builder, x) for x in codes.load(builder, place)]


class _NarrowEmitter(Emitter):
    """The carried values are the tile's sums, then the panel's pointer and the distance to the block's parameters."""

    def __init__(self, spec: Microkernel, function: ir.Function) -> None:
        super().__init__(spec, function)
        assert spec.coding is not None
        self.coding = spec.coding
        self.codes = _Codes(spec, spec.coding)
        self.scales, self.zeros = function.args[10:12]

    def emit(self) -> None:
        builder = ir.IRBuilder(self.function.append_basic_block("entry"))
        rows = self.row_pointers(builder, i64(0))
        first = [*self.initial(builder), self.panel, i64(0)]
        *totals, _, _ = counted_loop(builder, "block", 0, self.depth, self.coding.block, first,
                                     lambda b, start, carried: self._block(b, start, rows, carried))
        for pointer, value in zip(self.cells(builder), totals, strict=True):
            builder.store(value, pointer, align=4)
        builder.ret_void()

    def _block(self, b: ir.IRBuilder, start: ir.Value, rows: Sequence[ir.Value],
               carried: list[ir.Value]) -> list[ir.Value]:
        """Adds a block's sums, scaled, to the totals."""
        spec, together = self.spec, self.codes.together
        *totals, panel, place = carried
        left = b.sub(self.depth, start)
        steps = b.select(b.icmp_signed("<", left, i64(self.coding.block)), left, i64(self.coding.block))
        whole = b.and_(steps, i64(-together)) if self.coding.odd else steps
        zero, none = ir.Constant(spec.vector_type, None), ir.Constant(ir.VectorType(_FLOAT, together), None)
        begin = [*([zero] * len(totals)), *([none] * len(rows) if self.coding.shifted else []), panel]
        values = counted_loop(b, "k", 0, whole, together, begin,
                              lambda c, k, now: self._steps_together(c, c.add(start, k), rows, now))
        if self.coding.odd:
            *sums, _ = values
            sums = counted_loop(b, "rest", whole, steps, 1, sums,
                                lambda c, k, now: self._rest(c, start, k, panel, rows, now))
            values = [*sums, self.codes.behind(b, panel, self.row_stride, steps)]
        scaled = self._scaled(b, values[:len(totals)], values[len(totals):-1], totals, place)
        following = b.add(place, self.codes.parameter_stride(b, self.row_stride))
        return [*scaled, values[-1], following]

    def _steps_together(self, b: ir.IRBuilder, k: ir.Value, rows: Sequence[ir.Value],
                        carried: list[ir.Value]) -> list[ir.Value]:
        *sums, panel = carried
        for j, weights in self.codes.steps(b, panel, self.row_stride):
            self._add(b, sums, weights, [b.gep(row, [b.add(k, i64(j))], source_etype=_FLOAT) for row in rows])
        if self.coding.shifted:
            kind, cells = ir.VectorType(_FLOAT, self.codes.together), len(rows) * self.spec.vectors
            for r, row in enumerate(rows):
                part = b.load(b.gep(row, [k], source_etype=_FLOAT), typ=kind, align=4)
                sums[cells + r] = b.fadd(sums[cells + r], part)
        return [*sums, self.codes.advance(b, panel, self.row_stride)]

    def _rest(self, b: ir.IRBuilder, start: ir.Value, k: ir.Value, panel: ir.Value, rows: Sequence[ir.Value],
              sums: list[ir.Value]) -> list[ir.Value]:
        """One step, `k` from the beginning of the block, of those that are left."""
        sums = list(sums)
        places = [b.gep(row, [b.add(start, k)], source_etype=_FLOAT) for row in rows]
        self._add(b, sums, self.codes.one_step(b, panel, self.row_stride, k), places)
        if self.coding.shifted:
            none, cells = ir.Constant(ir.VectorType(_FLOAT, self.codes.together), None), len(rows) * self.spec.vectors
            for r, place in enumerate(places):
                one = b.insert_element(none, b.load(place, typ=_FLOAT, align=4), I32(0))
                sums[cells + r] = b.fadd(sums[cells + r], one)
        return sums

    def _add(self, b: ir.IRBuilder, sums: list[ir.Value], weights: list[ir.Value], places: list[ir.Value]) -> None:
        for r, place in enumerate(places):
            left = splat(b, b.load(place, typ=_FLOAT, align=4), self.spec.lanes)
            for v, weight in enumerate(weights):
                cell = r * self.spec.vectors + v
                sums[cell] = multiply_add(b, left, weight, sums[cell])

    def _scaled(self, b: ir.IRBuilder, sums: list[ir.Value], lefts: list[ir.Value], totals: list[ir.Value],
                place: ir.Value) -> list[ir.Value]:
        """`totals` with what a block adds; `lefts` sum the block's part of each row."""
        spec = self.spec
        scales = _parameters(b, spec, self.scales, place) if self.coding.scaled else []
        zeros = _parameters(b, spec, self.zeros, place) if self.coding.shifted else []
        out = []
        for cell, total in enumerate(totals):
            r, v = divmod(cell, spec.vectors)
            value = sums[cell]
            if zeros:
                whole = splat(b, b.fneg(_sum_of(b, lefts[r])), spec.lanes)
                value = multiply_add(b, zeros[v], whole, value)
            out.append(multiply_add(b, value, scales[v], total) if scales else b.fadd(total, value))
        return out


def _parameters(b: ir.IRBuilder, spec: Microkernel, base: ir.Value, place: ir.Value) -> list[ir.Value]:
    """A block's scales or zero points: one a column."""
    at = byte_offset(b, base, place)
    return [b.load(byte_offset(b, at, i64(v * spec.vector_bytes)), typ=spec.vector_type, align=4)
            for v in range(spec.vectors)]


def _sum_of(b: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    """The sum of a vector's lanes, halves first."""
    lanes = vector.type.count
    undefined = ir.Constant(vector.type, ir.Undefined)
    while lanes > 1:
        lanes //= 2
        order = [*range(lanes, 2 * lanes), *range(vector.type.count - lanes)]
        picked = ir.Constant(ir.VectorType(I32, vector.type.count), [I32(i) for i in order])
        vector = b.fadd(vector, b.shuffle_vector(vector, undefined, picked))
    return b.extract_element(vector, I32(0))


def _emit_unpack(function: ir.Function, spec: Microkernel, coding: Coding) -> None:
    depth, panel, row_stride, scales, zeros, out = function.args
    codes, row_bytes = _Codes(spec, coding), spec.vectors * spec.vector_bytes
    builder = ir.IRBuilder(function.append_basic_block("entry"))

    def block(b: ir.IRBuilder, start: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
        panel, place = carried
        factors = _parameters(b, spec, scales, place) if coding.scaled else []
        shifts = _parameters(b, spec, zeros, place) if coding.shifted else []

        def write(b: ir.IRBuilder, k: ir.Value, weights: list[ir.Value]) -> None:
            row = byte_offset(b, out, b.mul(b.add(start, k), i64(row_bytes)))
            for v, weight in enumerate(weights):
                value = b.fsub(weight, shifts[v]) if shifts else weight
                value = b.fmul(value, factors[v]) if factors else value
                b.store(value, byte_offset(b, row, i64(v * spec.vector_bytes)), align=4)

        def together(b: ir.IRBuilder, k: ir.Value, now: list[ir.Value]) -> list[ir.Value]:
            for j, weights in codes.steps(b, now[0], row_stride):
                write(b, b.add(k, i64(j)), weights)
            return [codes.advance(b, now[0], row_stride)]

        def rest(b: ir.IRBuilder, k: ir.Value, now: list[ir.Value]) -> list[ir.Value]:
            write(b, k, codes.one_step(b, panel, row_stride, k))
            return []

        left = b.sub(depth, start)
        steps = b.select(b.icmp_signed("<", left, i64(coding.block)), left, i64(coding.block))
        whole = b.and_(steps, i64(-codes.together)) if coding.odd else steps
        (after,) = counted_loop(b, "k", 0, whole, codes.together, [panel], together)
        if coding.odd:
            counted_loop(b, "rest", whole, steps, 1, [], rest)
            after = codes.behind(b, panel, row_stride, steps)
        return [after, b.add(place, i64(row_bytes))]

    counted_loop(builder, "block", 0, depth, coding.block, [panel, i64(0)], block)
    builder.ret_void()
