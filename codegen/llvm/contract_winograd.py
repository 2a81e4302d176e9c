"""Winograd's contractions: k.contract kernels with the attribute `winograd`, which the pass `pack` makes.

A row of the engine is a tile of results. A job transforms the inputs of a chunk of tiles once, to [position][tile]
[channel]; then, for each of its panels, one product of matrices a position gives [position][tile][column], and each
tile's results are transformed back and go to the epilogue, a line of neighbours at a time. Everything between memory's
inputs and results stays in the thread's scratch, a second-level cache large.
"""

from __future__ import annotations

from typing import cast

from llvmlite import ir

from onnxc.codegen.llvm import abi
from onnxc.codegen.llvm.abi import KernelError, aligned
from onnxc.codegen.llvm.contract import ContractEmitter, Scratch, decode
from onnxc.codegen.llvm.contract_form import axes_of, extent_of, place_of, rows_of, winograd_of
from onnxc.codegen.llvm.contract_loops import POINTER_BYTES, Block, Chunk, ahead_of, call_microkernel
from onnxc.codegen.llvm.dims import constant
from onnxc.codegen.llvm.loops import counted_loop, i64, least
from onnxc.codegen.llvm.microkernel import byte_offset
from onnxc.codegen.llvm.winograd_transform import along_all
from onnxc.codegen.winograd import TAPS, transforms

__all__ = ["WinogradEmitter"]

_LINE = 64


def _apart(size: int) -> int:
    """At least `size` bytes, an odd number of cache lines: what lies so far apart falls into different sets."""
    lines = -(-size // _LINE)
    return (lines | 1) * _LINE


class WinogradEmitter(ContractEmitter):
    """Emits one kernel whose right operand is packed, transformed weights."""

    def _scratch(self) -> Scratch:
        op, item = self.op, self.item
        self.pairs = winograd_of(op)
        extents = dict(axes_of(op, "k"))
        self.size = cast(int, extents[self.pairs[0][1]]) - TAPS + 1
        self.positions = (self.size + TAPS - 1) ** len(self.pairs)
        self.matrices = transforms(self.size)
        self.channels = cast(int, extent_of(axes_of(op, "k"))) // self.positions
        if self.plan.panels is None:
            raise KernelError(f"kernel @{self.func.name}: Winograd's weights must be packed in panels")
        chunk, row = self.schedule.chunk, self.blocking.row_bytes
        self.input_pitch = _apart(chunk * self.channels * item)
        self.sum_pitch = _apart(chunk * row)
        sizes = {
            "table": self.tile.rows * POINTER_BYTES,
            "zeros": self.channels * item,
            "rows": 0 if self.plan.rows is not None else self.positions * self.channels * item,
            "inputs": self.positions * self.input_pitch,
            "sums": self.positions * self.sum_pitch,
            "results": self.size ** len(self.pairs) * row,
        }
        self.places: dict[str, int] = {}
        end = 0
        for name, size in sizes.items():
            self.places[name] = end
            end += cast(int, aligned(size))
        return Scratch(self.places["zeros"], self.places["rows"], end, end)

    def _bind(self, b: ir.IRBuilder, frame: ir.Value, thread: ir.Value) -> None:
        super()._bind(b, frame, thread)
        self.inputs, self.sums, self.results = (
            byte_offset(b, self.base, i64(self.places[name])) for name in ("inputs", "sums", "results")
        )
        for r in range(self.tile.rows):
            row = byte_offset(b, self.inputs, i64(r * self.channels * self.item))
            b.store(row, byte_offset(b, self.base, i64(r * POINTER_BYTES)), align=POINTER_BYTES)

    def _chunk(self, b: ir.IRBuilder, index: ir.Value, low: ir.Value, high: ir.Value) -> None:
        dim = self._dims(b)
        width = self.blocking.columns
        m0 = self.m0 = b.mul(index, dim(self.chunk_rows))
        rows = b.sub(least(b, b.add(m0, dim(self.chunk_rows)), dim(self.plan.height)), m0)
        end = least(b, b.mul(high, constant(width)), dim(self.plan.columns))
        chunk = Chunk.of(b, m0, rows, self.tile)

        def each_input(b: ir.IRBuilder, r: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            self._transform_inputs(b, r)
            return []

        def each_panel(b: ir.IRBuilder, n0: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            columns = least(b, b.sub(end, n0), constant(width))
            self._multiply(b, chunk, n0, columns)

            def each_result(b: ir.IRBuilder, r: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
                self._transform_sums(b, r, n0, columns)
                return []

            counted_loop(b, "result", 0, rows, 1, [], each_result)
            return []

        counted_loop(b, "input", 0, rows, 1, [], each_input)
        counted_loop(b, "n", b.mul(low, constant(width)), end, width, [], each_panel)

    def _axes_of_tile(self, b: ir.IRBuilder, r: ir.Value) -> dict[str, ir.Value]:
        """The m axes' values at the first result of tile r of the chunk."""
        axes = decode(b, b.add(self.m0, r), rows_of(self.op), self._dims(b))
        along = {row for row, _ in self.pairs}
        return {name: b.mul(v, i64(self.size)) if name in along else v for name, v in axes.items()}

    def _transform_inputs(self, b: ir.IRBuilder, r: ir.Value) -> None:
        """[position][channel] of one tile of the chunk."""
        pointers = self._input_rows(b, r)
        tile, item = self.tile, self.item
        lanes = tile.lanes
        target = byte_offset(b, self.inputs, b.mul(r, i64(self.channels * item)))

        def vector(b: ir.IRBuilder, c: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            # The last vector ends with the last channel; what it has in common with the one before is done twice.
            offset = b.mul(least(b, c, i64(self.channels - lanes)), i64(item))
            loaded = [b.load(byte_offset(b, p, offset), typ=tile.vector_type, align=item) for p in pointers]
            for i, value in enumerate(along_all(b, self.matrices.inputs, loaded, len(self.pairs))):
                place = byte_offset(b, target, i64(i * self.input_pitch))
                b.store(value, byte_offset(b, place, offset), align=item)
            return []

        counted_loop(b, "channel", 0, self.channels, lanes, [], vector)

    def _input_rows(self, b: ir.IRBuilder, r: ir.Value) -> list[ir.Value]:
        """Pointers to the channels at each position of a tile."""
        axes = self._axes_of_tile(b, r)
        if self.plan.rows is not None:
            values = list(axes.values())
            return [self._row_pointer(b, values, i64(position)) for position in range(self.positions)]
        assert self.row_part is not None
        self._emit_part(b, self.row_part, self.packed_rows, axes)
        size = self.channels * self.item
        return [byte_offset(b, self.packed_rows, i64(position * size)) for position in range(self.positions)]

    def _multiply(self, b: ir.IRBuilder, chunk: Chunk, n0: ir.Value, columns: ir.Value) -> None:
        """Sums over channels, for each position of all tiles of a chunk."""
        panel = self._panel(b, n0, columns)
        step = b.mul(panel.row_stride, i64(self.channels))
        vectors = b.udiv(b.add(columns, i64(self.tile.lanes - 1)), i64(self.tile.lanes))
        stride = self.blocking.row_bytes

        def each_position(b: ir.IRBuilder, position: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            weights = byte_offset(b, panel.pointer, b.mul(position, step))
            inputs = b.mul(position, i64(self.input_pitch))
            sums = byte_offset(b, self.sums, b.mul(position, i64(self.sum_pitch)))

            def each_tile(b: ir.IRBuilder, index: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
                first, rows = chunk.tile(b, index)
                offset = b.add(inputs, b.mul(first, i64(self.channels * self.item)))
                result = byte_offset(b, sums, b.mul(first, i64(stride)))
                arguments = [i64(1), i64(self.channels), self.base, offset, weights, panel.row_stride, i64(0), result]
                arguments += [i64(stride), ir.Constant(abi.I1, 0)]
                if self.tile.ahead:
                    arguments.append(ahead_of(b, byte_offset(b, weights, step), i64(self.channels), index))
                call_microkernel(b, self.blocking, rows, vectors, arguments)
                return []

            counted_loop(b, "tile", 0, chunk.tiles, 1, [], each_tile)
            return []

        counted_loop(b, "position", 0, self.positions, 1, [], each_position)

    def _transform_sums(self, b: ir.IRBuilder, r: ir.Value, n0: ir.Value, columns: ir.Value) -> None:
        """The results of one tile of the chunk, and their epilogue."""
        tile, row = self.tile, self.blocking.row_bytes
        sums = byte_offset(b, self.sums, b.mul(r, i64(row)))

        def vector(b: ir.IRBuilder, n: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            offset = b.mul(n, i64(tile.vector_bytes // tile.lanes))
            loaded = [
                b.load(byte_offset(b, byte_offset(b, sums, i64(i * self.sum_pitch)), offset), typ=tile.vector_type,
                       align=self.item)
                for i in range(self.positions)
            ]
            for i, value in enumerate(along_all(b, self.matrices.outputs, loaded, len(self.pairs))):
                place = byte_offset(b, self.results, i64(i * row))
                b.store(value, byte_offset(b, place, offset), align=self.item)
            return []

        counted_loop(b, "column", 0, columns, tile.lanes, [], vector)
        self._lines(b, self._axes_of_tile(b, r), n0, columns)

    def _lines(self, b: ir.IRBuilder, first: dict[str, ir.Value], n0: ir.Value, columns: ir.Value) -> None:
        """The epilogue of a tile's results, of those that the result has: line by line along the last m axis."""
        dim, stride = self._dims(b), i64(self.blocking.row_bytes)
        extents = dict(self.plan.m)
        across, (last, _) = self.pairs[:-1], self.pairs[-1]
        rows = least(b, b.sub(dim(extents[last]), first[last]), i64(self.size))

        def line(b: ir.IRBuilder, y: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            axes = {**first, **{name: b.add(first[name], y) for name, _ in across}}
            m0 = self._dims(b, axes)(place_of(self.plan.m))
            results = byte_offset(b, self.results, b.mul(b.mul(y, stride), i64(self.size)))

            def row(b: ir.IRBuilder, m: ir.Value) -> dict[str, ir.Value]:
                return {**axes, last: b.add(axes[last], b.sub(m, m0))}

            self._epilogue(b, Block(m0, rows, n0, columns, results, stride), row)
            return []

        lines = i64(1)
        for name, _ in across:
            lines = least(b, b.sub(dim(extents[name]), first[name]), i64(self.size))
        counted_loop(b, "line", 0, lines, 1, [], line)
