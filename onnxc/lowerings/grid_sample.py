"""GridSample: weighted sums of the input positions around points that a grid of coordinates gives."""

from __future__ import annotations

import itertools

import numpy as np

from onnxc.ir.core import Value
from onnxc.ir.dims import DimLike
from onnxc.ir.types import I64
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.conv import channels_first
from onnxc.lowerings.resize import tap_weight
from onnxc.lowerings.table import lowering

__all__: list[str] = []

_CUBIC = -0.75
_TAPS = {"nearest": (0,), "linear": (0, 1), "cubic": (-1, 0, 1, 2)}


@lowering
def GridSample(b: Lowering, X: Value, grid: Value, *, align_corners: int = 0, mode: str = "linear",
               padding_mode: str = "zeros") -> Value:
    n = b.rank(X) - 2
    if n < 1 or b.rank(grid) != n + 2:
        b.refuse(f"a grid of type {b.type(grid)} for an input of type {b.type(X)}")
    b.guard("eq", b.shape(grid)[-1], n, "the points of the grid do not have a coordinate for each spatial axis")
    if mode not in _TAPS or padding_mode not in ("zeros", "border", "reflection"):
        b.refuse(f"mode '{mode}' with padding_mode '{padding_mode}' is not supported")
    b.guard("eq", b.shape(X)[0], b.shape(grid)[0], "input and grid differ in the batch")
    space, out = b.shape(X)[2:], b.shape(grid)[:-1]
    exact = mode == "nearest" or not b.dtype(X).is_float
    image = b.transpose(X if exact else b.widen(X), (0, *range(2, n + 2), 1))
    frame = _Frame(b, space, b.widen(grid), bool(align_corners), padding_mode)
    point = frame.points()
    point = b.map("round", point) if mode == "nearest" else point
    point = point if mode == "cubic" else frame.brought_back(point)      # cubic: only its taps are brought back
    base = b.map("floor", point)
    taps = b.const(np.array(list(itertools.product(_TAPS[mode], repeat=n))).astype(b.dtype(point).numpy))
    position = b.map("add", b.reshape(base, (*out, 1, n)), taps)
    taken = b.value("t.gather_nd", image, frame.indices(position), batch=1)
    if padding_mode == "zeros":
        inside = b.reduce(frame.inside(position), "and", [n + 2])
        taken = b.map("select", inside, taken, b.scalar(0, taken))
    if mode != "nearest":
        share = b.reshape(b.map("sub", point, base), (*out, 1, n))
        weight = tap_weight(b, b.map("abs", b.map("sub", taps, share)), mode, _CUBIC)
        weight = b.cast(b.reduce(weight, "mul", [n + 2]), b.dtype(image))
        taken = b.map("mul", taken, weight)
    return b.cast(channels_first(b, b.reduce(taken, "add", [n + 1], keepdims=False)), b.dtype(X))


class _Frame:
    """The extents of the sampled axes and what happens beyond them. Positions are [..., axis], the first axis first."""

    def __init__(self, b: Lowering, space: tuple[DimLike, ...], grid: Value, align: bool, padding: str) -> None:
        self.b, self.grid, self.align, self.padding = b, grid, align, padding
        self.extent = b.cast(b.dims(space), b.dtype(grid))
        self.last = b.map("sub", self.extent, self.number(1))

    def number(self, v: float) -> Value:
        return self.b.scalar(v, self.grid)

    def points(self) -> Value:
        """The grid, which lists coordinates in [-1, 1] from the last axis to the first, as positions of the input."""
        b, shape = self.b, (*self.b.shape(self.grid)[:-1], self.b.rank(self.grid) - 2)
        starts = (*(0 for _ in shape[:-1]), shape[-1] - 1)
        turned = b.value("t.slice", self.grid, starts=starts, sizes=shape, steps=(*(1 for _ in shape[:-1]), -1))
        raised = b.map("add", turned, self.number(1))
        if self.align:
            return b.map("mul", b.map("mul", raised, self.number(0.5)), self.last)
        return b.map("mul", b.map("sub", b.map("mul", raised, self.extent), self.number(1)), self.number(0.5))

    def brought_back(self, position: Value) -> Value:
        """Positions beyond the input, moved onto it as the padding mode says ("zeros": not moved)."""
        if self.padding == "border":
            return self.clamped(position)
        return self.reflected(position) if self.padding == "reflection" else position

    def inside(self, position: Value) -> Value:
        """Whether each coordinate lies on the input."""
        b = self.b
        return b.map("and", b.map("ge", position, self.number(0)), b.map("le", position, self.last))

    def clamped(self, position: Value) -> Value:
        return self.b.map("max", self.b.map("min", position, self.last), self.number(0))

    def reflected(self, position: Value) -> Value:
        """Folded at the centres of the outer positions (aligned corners) or at their outer edges."""
        b = self.b
        low, span = (self.number(0), self.last) if self.align else (self.number(-0.5), self.extent)
        period = b.map("mul", span, self.number(2))
        distance = b.map("mod", b.map("sub", position, low), period)
        folded = b.map("add", low, b.map("min", distance, b.map("sub", period, distance)))
        return b.map("select", b.map("eq", span, self.number(0)), self.number(0), folded)

    def indices(self, position: Value) -> Value:
        """Whole positions as indices that are in range, whatever stands for what lies outside."""
        b = self.b
        index = b.cast(self.clamped(self.brought_back(position)), I64)
        return b.map("max", index, b.scalar(0, I64))      # NaN converts to the least integer
