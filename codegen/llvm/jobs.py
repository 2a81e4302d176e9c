"""How the outer points of a kernel become jobs, the numbers that the thread pool hands out in ranges."""

from __future__ import annotations

from llvmlite import ir

from onnxc.codegen.llvm.abi import I64
from onnxc.codegen.llvm.dims import constant
from onnxc.codegen.llvm.scope import Scope
from onnxc.ir.dims import DimLike, ceildiv, dim_min, product

__all__ = ["Jobs", "advance", "decode"]

BLOCK_ELEMENTS = 4096
"""Of the vector axis in one job: long enough to forget the job's start, short enough to share."""


class Jobs:
    """How outer points become jobs: `outer` axes, blocks of the axis across lanes ("" when there is none), and runs of
    `width` positions along the `tile` axis ("" when there is none)."""

    BLOCK, TILE = "block.", "tile."

    def __init__(self, outer: list[tuple[str, DimLike]], vector: str, extent: DimLike, block: int, tile: str = "",
                 width: int = 1) -> None:
        self.vector, self.extent, self.block, self.tile, self.width = vector, extent, block, tile, width
        self.tile_extent = dict(outer).get(tile, 1)
        self.blocked = bool(vector) and not (isinstance(extent, int) and extent <= block)
        tiles = [(self.TILE, ceildiv(self.tile_extent, width))] if tile else []
        blocks = [(self.BLOCK, ceildiv(extent, block))] if self.blocked else []
        self.counters = [(n, e) for n, e in outer if n != tile] + tiles + blocks
        self.total: DimLike = product(e for _, e in self.counters)
        if vector and not self.blocked:
            self.total = self.total * (1 if extent else 0)

    @property
    def points(self) -> DimLike:
        """Outer points in one job."""
        return dim_min(self.extent, self.block) * self.width if self.vector else 1

    def tile_range(self, scope: Scope) -> tuple[ir.Value, ir.Value]:
        """The positions along the tile axis that a job covers."""
        b, extent = scope.builder, scope.dim(self.tile_extent)
        first = b.mul(scope.axes[self.TILE], constant(self.width))
        last = b.add(first, constant(self.width))
        return first, b.select(b.icmp_signed("<", last, extent), last, extent)

    def range(self, scope: Scope) -> tuple[ir.Value, ir.Value]:
        """The part of the vector axis that a job covers."""
        extent = scope.dim(self.extent)
        if not self.blocked:
            return ir.Constant(I64, 0), extent
        b = scope.builder
        start = b.mul(scope.axes[self.BLOCK], constant(self.block))
        stop = b.add(start, constant(self.block))
        return start, b.select(b.icmp_signed("<", stop, extent), stop, extent)


def decode(b: ir.IRBuilder, job: ir.Value, extents: list[ir.Value]) -> list[ir.Value]:
    """The position along each axis of job number `job`, the last axis fastest."""
    positions = []
    for extent in reversed(extents[1:]):
        positions.append(b.urem(job, extent))
        job = b.udiv(job, extent)
    return [job, *reversed(positions)] if extents else []


def advance(b: ir.IRBuilder, positions: list[ir.Value], extents: list[ir.Value]) -> list[ir.Value]:
    """The positions of the next job."""
    out: list[ir.Value] = []
    carry: ir.Value = constant(1)
    for i in range(len(positions) - 1, 0, -1):
        following = b.add(positions[i], carry)
        wraps = b.icmp_signed("==", following, extents[i])
        out.append(b.select(wraps, constant(0), following))
        carry = b.zext(wraps, I64)
    if positions:
        out.append(b.add(positions[0], carry))
    return out[::-1]
