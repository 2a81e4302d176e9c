"""Operands of contractions as holes of `contract_loops`: matrices, convolution windows, packed and strided panels.

Left operands are contiguous along depth: a matrix's rows, or an image's pixels, channels last. Right operands are
panels, packed by `pack` or read in place. Every extent and stride is an int or an i64 value; strides are in bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from llvmlite import ir

from onnxc.codegen.llvm.contract_loops import Blocking, Panel
from onnxc.codegen.llvm.loops import I64, i64
from onnxc.codegen.llvm.microkernel import ITEM_BYTES, byte_offset

Extent: TypeAlias = int | ir.Value
PanelHole = Callable[[ir.IRBuilder, ir.Value, ir.Value], Panel]


@dataclass(frozen=True)
class MatrixRows:
    """Rows of a matrix: row m at `base + m * row_stride`. One tap."""

    base: ir.Value
    row_stride: Extent

    def row(self, builder: ir.IRBuilder, m: ir.Value) -> Sequence[ir.Value]:
        return [byte_offset(builder, self.base, builder.mul(m, i64(self.row_stride)))]

    def row_pointer(self, builder: ir.IRBuilder, values: Sequence[ir.Value], tap: ir.Value) -> ir.Value:
        return values[0]


@dataclass(frozen=True)
class WindowAxis:
    """One spatial axis of a convolution: input and output extent, window, and the input's stride along it.

    Window position w of output position o reads input position o * step + w * dilation - pad, and zero where that is
    outside [0, size)."""

    size: Extent
    outputs: Extent
    window: Extent
    step: Extent
    dilation: Extent
    pad: Extent
    stride: Extent


@dataclass(frozen=True)
class WindowRows:
    """A convolution's windows over images whose channels are contiguous.

    Row m of the result is an output position: image, then the axes, row-major. A tap is a window position, row-major.
    `zeros` points to as many zero bytes as a pixel has.
    """

    base: ir.Value
    zeros: ir.Value
    image_stride: Extent
    axes: tuple[WindowAxis, ...]

    def row(self, builder: ir.IRBuilder, m: ir.Value) -> Sequence[ir.Value]:
        """The image's address and, for each axis, the input position of the window's first element."""
        starts: list[ir.Value] = []
        for axis in reversed(self.axes):
            outputs = i64(axis.outputs)
            position = builder.srem(m, outputs)
            m = builder.sdiv(m, outputs)
            starts.append(builder.sub(builder.mul(position, i64(axis.step)), i64(axis.pad)))
        image = byte_offset(builder, self.base, builder.mul(m, i64(self.image_stride)))
        return [image, *reversed(starts)]

    def row_pointer(self, builder: ir.IRBuilder, values: Sequence[ir.Value], tap: ir.Value) -> ir.Value:
        pointer, *starts = values
        inside = ir.Constant(ir.IntType(1), 1)
        distance: ir.Value = ir.Constant(I64, 0)
        for axis, start in zip(reversed(self.axes), reversed(starts), strict=True):
            window = i64(axis.window)
            position = builder.add(start, builder.mul(builder.srem(tap, window), i64(axis.dilation)))
            tap = builder.sdiv(tap, window)
            # Unsigned, so that one comparison refuses negative positions too.
            inside = builder.and_(inside, builder.icmp_unsigned("<", position, i64(axis.size)))
            distance = builder.add(distance, builder.mul(position, i64(axis.stride)))
        return builder.select(inside, byte_offset(builder, pointer, distance), self.zeros)


def packed_panels(blocking: Blocking, base: ir.Value, taps: Extent, depth: Extent) -> PanelHole:
    """Panels of an operand that `pack.pack_panels` made for this blocking's columns and lanes."""
    item, lanes = ITEM_BYTES[blocking.tile.dtype], blocking.tile.lanes

    def panel(builder: ir.IRBuilder, n0: ir.Value, columns: ir.Value) -> Panel:
        per_column = builder.mul(builder.mul(i64(taps), i64(depth)), i64(item))
        vectors = builder.sdiv(builder.add(columns, i64(lanes - 1)), i64(lanes))
        row_stride = builder.mul(vectors, i64(lanes * item))
        pointer = byte_offset(builder, base, builder.mul(n0, per_column))
        return Panel(pointer, row_stride, builder.mul(row_stride, i64(depth)))

    return panel


def strided_panels(blocking: Blocking, base: ir.Value, row_stride: Extent, tap_stride: Extent) -> PanelHole:
    """Panels read in place from [taps][depth][n] whose last axis is contiguous and a whole number of vectors long."""
    item = ITEM_BYTES[blocking.tile.dtype]

    def panel(builder: ir.IRBuilder, n0: ir.Value, columns: ir.Value) -> Panel:
        return Panel(byte_offset(builder, base, builder.mul(n0, i64(item))), i64(row_stride), i64(tap_stride))

    return panel
