"""Resize: each axis in turn, every output position a weighted sum of a few input positions.

Positions and weights are tensors in f64 computed from the position along the axis, so that extents may be symbolic;
where they are not, constant folding leaves tables.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from onnxc.ir.core import Value
from onnxc.ir.dims import DimLike, floordiv
from onnxc.ir.types import F32, F64, I64
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.table import lowering

__all__ = ["tap_weight"]

_TRANSFORMS = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric",
               "tf_crop_and_resize")
_NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


@dataclasses.dataclass(frozen=True)
class _Axis:
    """One axis to resize: from `extent` to `out` positions; `scale` (f64, rank 0) need not be their quotient."""

    index: int
    extent: DimLike
    out: DimLike
    scale: Value
    ratio: float | None                          # the scale where it is known
    roi: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class _Filter:
    """How input positions are weighted: `reach` of them on either side, stretched where an antialiased axis shrinks."""

    mode: str
    coefficient: float
    antialias: bool
    exclude_outside: bool

    @property
    def reach(self) -> int:
        return 1 if self.mode == "linear" else 2


@lowering
def Resize(b: Lowering, X: Value, roi: Value | None = None, scales: Value | None = None,
           sizes: Value | None = None, *, antialias: int = 0, axes: Sequence[int] | None = None,
           coordinate_transformation_mode: str = "half_pixel", cubic_coeff_a: float = -0.75, exclude_outside: int = 0,
           extrapolation_value: float = 0.0, keep_aspect_ratio_policy: str = "stretch", mode: str = "nearest",
           nearest_mode: str = "round_prefer_floor") -> Value:
    if mode not in ("nearest", "linear", "cubic") or nearest_mode not in _NEAREST:
        b.refuse(f"mode '{mode}' with nearest_mode '{nearest_mode}' is not supported")
    if coordinate_transformation_mode not in _TRANSFORMS:
        b.refuse(f"coordinate_transformation_mode '{coordinate_transformation_mode}' is not supported")
    at = [b.axis(a, X) for a in (range(b.rank(X)) if axes is None else axes)]
    plan = _plan(b, X, at, _table(b, scales), sizes, _table(b, roi), keep_aspect_ratio_policy)
    how = _Filter(mode, cubic_coeff_a, bool(antialias), bool(exclude_outside))
    exact = mode == "nearest" or b.dtype(X).is_float
    x = X if mode == "nearest" else b.widen(X) if exact else b.cast(X, F32)
    outside: Value | None = None
    for axis in plan:
        if axis.ratio == 1.0 and axis.out == axis.extent and coordinate_transformation_mode != "tf_crop_and_resize":
            continue
        source = _source(b, axis, coordinate_transformation_mode)
        x = _nearest(b, x, axis, source, nearest_mode) if mode == "nearest" else _filtered(b, x, axis, source, how)
        if coordinate_transformation_mode == "tf_crop_and_resize":
            outside = _beyond(b, axis, source, b.rank(X), outside)
    if outside is not None:
        x = b.map("select", outside, b.scalar(extrapolation_value, x), x)
    return b.cast(x, b.dtype(X))


def _table(b: Lowering, v: Value | None) -> list[float] | None:
    """The elements of an optional input of floats; None when it is absent or empty."""
    if v is None or b.shape(v) == (0,):
        return None
    array = b.constant(v)
    if array is None:
        b.refuse(f"%{v.name} is computed from data; it has to be constant")
    return [float(e) for e in array.ravel()]


# ---- extents -------------------------------------------------------------------------------------------------------
def _plan(b: Lowering, X: Value, at: Sequence[int], scales: list[float] | None, sizes: Value | None,
          roi: list[float] | None, policy: str) -> list[_Axis]:
    n, shape = len(at), b.shape(X)
    regions = [(roi[i], roi[n + i]) for i in range(n)] if roi is not None and len(roi) == 2 * n else [(0.0, 1.0)] * n
    if scales is not None:
        if len(scales) != n or any(not s > 0 or not math.isfinite(s) for s in scales):
            b.refuse(f"scales {scales} for axes {list(at)}")
        return [_Axis(a, shape[a], _scaled(shape[a], s), b.scalar(s, F64), s, r)
                for a, s, r in zip(at, scales, regions, strict=True)]
    wanted = b.dims_of(sizes, "the sizes") if sizes is not None else []
    if len(wanted) != n:
        b.refuse(f"{len(wanted)} sizes for axes {list(at)}")
    if policy != "stretch":
        return _keeping_aspect(b, [shape[a] for a in at], at, wanted, regions, policy)
    return [_axis_to(b, a, shape[a], d, r) for a, d, r in zip(at, wanted, regions, strict=True)]


def _scaled(extent: DimLike, scale: float) -> DimLike:
    """floor(extent * scale), where a scale such as 0.7 in f32 stands for 7/10."""
    exact = Fraction(scale)
    simple = exact.limit_denominator(4096)
    f = simple if np.float32(float(simple)) == np.float32(scale) else exact
    return floordiv(extent * f.numerator, f.denominator)


def _axis_to(b: Lowering, index: int, extent: DimLike, out: DimLike, roi: tuple[float, float]) -> _Axis:
    if isinstance(extent, int) and isinstance(out, int):
        if extent == 0:
            b.refuse(f"axis {index} has no elements")
        return _Axis(index, extent, out, b.scalar(out / extent, F64), out / extent, roi)
    scale = b.map("div", b.cast(b.dim(out), F64), b.cast(b.dim(extent), F64))
    return _Axis(index, extent, out, scale, 1.0 if out == extent else None, roi)


def _keeping_aspect(b: Lowering, extents: Sequence[DimLike], at: Sequence[int], wanted: Sequence[DimLike],
                    regions: Sequence[tuple[float, float]], policy: str) -> list[_Axis]:
    """One scale for all axes: the least ("not_larger") or the greatest ("not_smaller") of theirs."""
    have, want = ([d for d in dims if isinstance(d, int)] for dims in (extents, wanted))
    if len(have) != len(at) or len(want) != len(at) or 0 in have or policy not in ("not_larger", "not_smaller"):
        b.refuse(f"keep_aspect_ratio_policy '{policy}' from {list(map(str, extents))} to {list(map(str, wanted))}")
    scale = (min if policy == "not_larger" else max)(Fraction(w, h) for w, h in zip(want, have, strict=True))
    ratio = float(scale)
    return [_Axis(a, h, math.floor(scale * h + Fraction(1, 2)), b.scalar(ratio, F64), ratio, r)
            for a, h, r in zip(at, have, regions, strict=True)]


# ---- where an output position comes from ---------------------------------------------------------------------------
def _source(b: Lowering, axis: _Axis, transform: str) -> Value:
    """Input coordinates (f64) of the output positions, by ONNX's formulas for Resize."""
    def number(v: float) -> Value:
        return b.scalar(v, F64)

    y = b.cast(b.iota(axis.out), F64)
    extent = b.cast(b.dim(axis.extent), F64)
    width = b.map("mul", axis.scale, extent)
    one_wide = b.map("eq", width, number(1))
    if transform == "asymmetric":
        return b.map("div", y, axis.scale)
    if transform in ("align_corners", "tf_crop_and_resize"):
        low, high = axis.roi if transform == "tf_crop_and_resize" else (0.0, 1.0)
        last = b.map("sub", extent, number(1))
        step = b.map("div", b.map("mul", last, number(high - low)), b.map("sub", width, number(1)))
        middle = number(0) if transform == "align_corners" else b.map("mul", last, number((high - low) / 2))
        inner = b.map("select", one_wide, middle, b.map("mul", y, step))
        return b.map("add", inner, b.map("mul", last, number(low)))
    centred = b.map("sub", b.map("div", b.map("add", y, number(0.5)), axis.scale), number(0.5))
    if transform == "pytorch_half_pixel":
        return b.map("select", one_wide, number(-0.5), centred)
    if transform == "half_pixel_symmetric":
        missing = b.map("sub", number(1), b.map("div", b.cast(b.dim(axis.out), F64), width))
        return b.map("add", centred, b.map("mul", b.map("mul", extent, number(0.5)), missing))
    return centred


def _beyond(b: Lowering, axis: _Axis, source: Value, rank: int, others: Value | None) -> Value:
    """Where the source lies outside the input, on this axis or on others before."""
    last = b.cast(b.dim(axis.extent - 1), F64)
    out = b.map("or", b.map("lt", source, b.scalar(0, F64)), b.map("gt", source, last))
    out = b.reshape(out, (axis.out, *[1] * (rank - axis.index - 1)))
    return out if others is None else b.map("or", others, out)


def _inside(b: Lowering, position: Value, extent: DimLike) -> Value:
    """Positions (f64) as indices, those outside moved to the nearest edge."""
    low, high = b.scalar(0, F64), b.cast(b.dim(extent - 1), F64)
    return b.cast(b.map("max", b.map("min", position, high), low), I64)


def _nearest(b: Lowering, x: Value, axis: _Axis, source: Value, nearest_mode: str) -> Value:
    half = b.scalar(0.5, F64)
    position = {"floor": lambda: b.map("floor", source), "ceil": lambda: b.map("ceil", source),
                "round_prefer_floor": lambda: b.map("ceil", b.map("sub", source, half)),
                "round_prefer_ceil": lambda: b.map("floor", b.map("add", source, half))}[nearest_mode]()
    return b.value("t.gather", x, _inside(b, position, axis.extent), axis=axis.index)


# ---- weighted sums -------------------------------------------------------------------------------------------------
def _filtered(b: Lowering, x: Value, axis: _Axis, source: Value, how: _Filter) -> Value:
    shrink = 1.0
    if how.antialias:
        if axis.ratio is None:
            b.refuse("antialiasing needs a scale that is known before a run")
        shrink = min(axis.ratio, 1.0)
    half = math.ceil(how.reach / shrink)
    base = b.reshape(b.map("floor", source), (axis.out, 1))
    share = b.map("sub", b.reshape(source, (axis.out, 1)), base)
    tap = b.map("add", b.cast(b.reshape(b.iota(2 * half), (1, 2 * half)), F64), b.scalar(1 - half, F64))
    position = b.map("add", base, tap)
    distance = b.map("mul", b.map("abs", b.map("sub", tap, share)), b.scalar(shrink, F64))
    weight = tap_weight(b, distance, how.mode, how.coefficient)
    if how.exclude_outside:
        last = b.cast(b.dim(axis.extent - 1), F64)
        out = b.map("or", b.map("lt", position, b.scalar(0, F64)), b.map("gt", position, last))
        weight = b.map("select", out, b.scalar(0, F64), weight)
    if how.exclude_outside or how.antialias:
        weight = b.map("div", weight, b.reduce(weight, "add", [1]))
    taken = b.value("t.gather", x, _inside(b, position, axis.extent), axis=axis.index)
    behind = b.rank(x) - axis.index - 1
    spread = b.reshape(b.cast(weight, b.dtype(x)), (axis.out, 2 * half, *[1] * behind))
    return b.reduce(b.map("mul", taken, spread), "add", [axis.index + 1], keepdims=False)


def tap_weight(b: Lowering, distance: Value, mode: str, a: float) -> Value:
    """The filter at a distance: a tent ("linear"), or the cubic convolution of Keys with coefficient a ("cubic")."""
    def number(v: float) -> Value:
        return b.scalar(v, distance)

    if mode == "linear":
        return b.map("max", b.map("sub", number(1), distance), number(0))
    near = _polynomial(b, distance, (a + 2, -(a + 3), 0, 1))
    far = _polynomial(b, distance, (a, -5 * a, 8 * a, -4 * a))
    outer = b.map("select", b.map("lt", distance, number(2)), far, number(0))
    return b.map("select", b.map("le", distance, number(1)), near, outer)


def _polynomial(b: Lowering, x: Value, coefficients: Sequence[float]) -> Value:
    """By Horner's rule, the highest power first."""
    total = b.scalar(coefficients[0], x)
    for c in coefficients[1:]:
        total = b.map("add", b.map("mul", total, x), b.scalar(c, x))
    return total
