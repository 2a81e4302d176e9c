"""Micro-kernels that multiply 8-bit integers in a matrix unit (AMX): the family of `microkernel_bytes` with the left
operand's rows at one stride.

A tile register holds 16 rows of 64 bytes. The sums of 32 rows and 32 columns take four of the eight; two hold 64 steps
of the left operand's rows and two those of the panel, whose groups of four steps are what the unit multiplies. So every
tile that is loaded is multiplied twice. All signs of operands have an instruction, and sums wrap modulo 2**32.

Rows are computed 16 at a time: those past a tile's rows are read and written too, and their content means nothing.
Depth is read in whole steps of 64 bytes: what lies past its end on the left meets zeros of the panel.

The unit has to be configured by `configure` before a micro-kernel runs on a thread, and released after the last.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from onnxc.codegen.llvm.intrinsics import intrinsic
from onnxc.codegen.llvm.loops import counted_loop, i64
from onnxc.codegen.llvm.microkernel import BLOCK_ROWS, I8, POINTER, STEPS, Microkernel, byte_offset, declared
from onnxc.codegen.llvm.target import Target

__all__ = ["amx_microkernel", "configure", "copy_bytes", "has_amx", "release"]

_ROW_BYTES = STEPS["amx"]
_TILES = 8
_NEEDED = frozenset({"amx-int8", "avx512vl", "avx512bw"})


def has_amx(target: Target) -> bool:
    """Whether the target multiplies bytes in a matrix unit."""
    return target.arch == "x86_64" and target.features >= _NEEDED


def configure(b: ir.IRBuilder) -> None:
    """All eight tile registers with 16 rows of 64 bytes, for this thread, until `release`."""
    name, kind = "amx_configuration", ir.ArrayType(I8, 64)
    config = b.module.globals.get(name)
    if config is None:
        # Palette 1; from byte 16 on the bytes of each register's row, in 16 bits; from byte 48 on its rows.
        content = [1, *[0] * 15, *[_ROW_BYTES, 0] * _TILES, *[0] * 16, *[BLOCK_ROWS] * _TILES, *[0] * 8]
        config = ir.GlobalVariable(b.module, kind, name)
        config.initializer = ir.Constant(kind, bytearray(content))
        config.global_constant, config.linkage, config.align = True, "internal", 64
    _call(b, "ldtilecfg", [b.bitcast(config, POINTER)])


def release(b: ir.IRBuilder) -> None:
    """Give the unit's registers back, so that nobody saves and restores them any more."""
    _call(b, "tilerelease", [])


def copy_bytes(b: ir.IRBuilder, to: ir.Value, source: ir.Value, size: ir.Value) -> None:
    """Copy `size` bytes in vectors of a register's row, the last of which may be partial."""
    vector, bits = ir.VectorType(I8, _ROW_BYTES), ir.VectorType(ir.IntType(1), _ROW_BYTES)
    whole = b.and_(size, i64(-_ROW_BYTES))

    def each(b: ir.IRBuilder, at: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        b.store(b.load(byte_offset(b, source, at), typ=vector, align=1), byte_offset(b, to, at), align=1)
        return []

    counted_loop(b, "copy", 0, whole, _ROW_BYTES, [], each)
    rest = b.sub(size, whole)
    with b.if_then(b.icmp_signed(">", rest, i64(0))):
        ones = b.lshr(i64(-1), b.sub(i64(_ROW_BYTES), rest))
        mask = b.bitcast(ones, bits)
        load = intrinsic(b.module, "llvm.masked.load", [vector, POINTER], vector, [POINTER, bits, vector])
        store = intrinsic(b.module, "llvm.masked.store", [vector, POINTER], ir.VoidType(), [vector, POINTER, bits])
        value = b.call(load, [byte_offset(b, source, whole), mask, ir.Constant(vector, None)])
        b.call(store, [value, byte_offset(b, to, whole), mask])


def amx_microkernel(module: ir.Module, spec: Microkernel) -> ir.Function:
    """The function of `spec`, whose `dot` is "amx", in `module`: as `byte_microkernel`, but `tap_stride` is what a row
    of the left operand is from the next, and of the table only the first pointer is read."""
    existing = module.globals.get(spec.name)
    if existing is not None:
        return existing
    function = declared(module, spec)
    _AmxEmitter(spec, function).emit()
    return function


class _AmxEmitter:
    """Tile registers: the sums row by row from 0, then the left operand's, then the panel's."""

    def __init__(self, spec: Microkernel, function: ir.Function) -> None:
        self.function, self.spec = function, spec
        self.blocks = -(-spec.rows // BLOCK_ROWS)
        (_, self.depth, table, offset, self.panel) = function.args[:5]
        (self.row_stride, self.left_stride, self.tile, self.tile_stride, self.accumulate) = function.args[5:]
        self.b = b = ir.IRBuilder(function.append_basic_block("entry"))
        self.left = byte_offset(b, b.load(table, typ=POINTER, align=8), offset)

    def emit(self) -> None:
        b = self.b
        with b.if_else(self.accumulate) as (resume, start):
            with resume:
                self._sums("tileloadd64")
            with start:
                for register in range(self.blocks * self.spec.vectors):
                    _call(b, "tilezero", [_register(register)])
        steps = b.udiv(b.add(self.depth, i64(_ROW_BYTES - 1)), i64(_ROW_BYTES))
        counted_loop(b, "k", 0, steps, 1, [], self._step)
        self._sums("tilestored64")
        b.ret_void()

    def _sums(self, instruction: str) -> None:
        """Loads or stores the registers of sums."""
        for i in range(self.blocks):
            row = self._at(self.tile, self.tile_stride, i * BLOCK_ROWS)
            for j in range(self.spec.vectors):
                place = byte_offset(self.b, row, i64(j * _ROW_BYTES))
                _call(self.b, instruction, [_register(i * self.spec.vectors + j), place, self.tile_stride])

    def _step(self, b: ir.IRBuilder, k: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        self.b, vectors = b, self.spec.vectors
        first = self.blocks * vectors
        left, right = range(first, first + self.blocks), range(first + self.blocks, first + self.blocks + vectors)
        here = byte_offset(b, self.left, b.mul(k, i64(_ROW_BYTES)))
        panel = byte_offset(b, self.panel, b.mul(b.mul(k, i64(_ROW_BYTES // self.spec.group)), self.row_stride))
        for j, register in enumerate(right):
            place = byte_offset(b, panel, i64(j * _ROW_BYTES))
            _call(b, "tileloadd64", [_register(register), place, self.row_stride])
        for i, register in enumerate(left):
            place = self._at(here, self.left_stride, i * BLOCK_ROWS)
            _call(b, "tileloadd64", [_register(register), place, self.left_stride])
        signs = self.spec.signs
        for i in range(self.blocks):
            for j in range(vectors):
                operands = [_register(i * vectors + j), _register(left[i]), _register(right[j])]
                _call(b, f"tdpb{signs}d", operands)
        return []

    def _at(self, pointer: ir.Value, stride: ir.Value, row: int) -> ir.Value:
        return byte_offset(self.b, pointer, self.b.mul(stride, i64(row))) if row else pointer


def _register(number: int) -> ir.Constant:
    return ir.Constant(I8, number)


def _call(b: ir.IRBuilder, instruction: str, arguments: Sequence[ir.Value]) -> None:
    name = f"llvm.x86.{instruction}"
    function = b.module.globals.get(name)
    if function is None:
        signature = ir.FunctionType(ir.VoidType(), [a.type for a in arguments])
        function = ir.Function(b.module, signature, name)
    b.call(function, arguments)
