"""Pooling of regions and convolutions at positions that data gives: RoiAlign, MaxRoiPool, DeformConv."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from onnxc.ir.core import Value
from onnxc.ir.dims import DimLike
from onnxc.ir.types import I64
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.conv import channels_first, windows
from onnxc.lowerings.data_sizes import read_dim
from onnxc.lowerings.matmul import contract
from onnxc.lowerings.table import lowering

__all__: list[str] = []

_LOWEST = -np.inf


@dataclasses.dataclass(frozen=True)
class _Taps:
    """Positions along one axis, and the weight of each. The last axis are the neighbours of a point."""

    index: Value
    weight: Value


def _neighbours(b: Lowering, point: Value, extent: DimLike, clamped: bool) -> _Taps:
    """The two positions around each point of an axis of `extent`, and their shares. A point may be clamped to the axis;
    otherwise positions beyond it have no share."""
    size = b.cast(b.dim(extent), b.dtype(point))
    last = b.map("sub", size, b.scalar(1, point))
    if clamped:
        point = b.map("min", b.map("max", point, b.scalar(0, point)), last)
    shape = (*b.shape(point), 1)
    low = b.reshape(b.map("floor", point), shape)
    second = b.const(np.array([0, 1], b.dtype(point).numpy))
    place = b.map("add", low, second)
    share = b.map("sub", b.reshape(point, shape), low)
    weight = b.map("abs", b.map("sub", b.map("sub", b.scalar(1, point), second), share))
    beyond = b.map("or", b.map("lt", place, b.scalar(0, point)), b.map("gt", place, last))
    within = b.map("max", b.map("min", place, last), b.scalar(0, point))
    index = b.map("max", b.cast(within, I64), b.scalar(0, I64))     # NaN converts to the least integer
    return _Taps(index, b.map("select", beyond, b.scalar(0, weight), weight))


def _rows(b: Lowering, image: Value) -> Value:
    """[N, C, H, W] as one row of channels for each position."""
    n, c, h, w = b.shape(image)
    return b.reshape(b.transpose(image, (0, 2, 3, 1)), (n * h * w, c))


def _laid(b: Lowering, v: Value, axes: Sequence[int], rank: int) -> Value:
    """The axes of a value at places of a shape of `rank` axes that are 1 elsewhere."""
    sizes = dict(zip(axes, b.shape(v), strict=True))
    return b.reshape(v, tuple(sizes.get(i, 1) for i in range(rank)))


def _column(b: Lowering, boxes: Value, i: int) -> Value:
    rows = b.shape(boxes)[0]
    return b.reshape(b.value("t.slice", boxes, starts=(0, i), sizes=(rows, 1), steps=(1, 1)), (rows,))


def _at(b: Lowering, image: Value, batch: Value, y: Value, x: Value) -> Value:
    """Positions of an image's rows."""
    _, _, h, w = b.shape(image)
    return b.map("add", b.map("mul", b.map("add", b.map("mul", batch, b.dim(h)), y), b.dim(w)), x)


def _check_boxes(b: Lowering, X: Value, rois: Value, columns: int) -> None:
    if b.rank(X) != 4 or b.rank(rois) != 2:
        b.refuse(f"regions of type {b.type(rois)} of an input of type {b.type(X)}")
    b.guard("eq", b.shape(rois)[1], columns, f"a region has not {columns} numbers")


# ---- CropAndResize -------------------------------------------------------------------------------------------------
@lowering("com.microsoft.CropAndResize")
def CropAndResize(b: Lowering, X: Value, rois: Value, batch_indices: Value, crop_size: Value, *,
                  extrapolation_value: float = 0.0, mode: str = "bilinear") -> Value:
    """Regions between corners that are shares of the image, sampled so that corners meet corners."""
    _check_boxes(b, X, rois, 4)
    if mode not in ("bilinear", "nearest"):
        b.refuse(f"the mode '{mode}' is neither bilinear nor nearest")
    size = b.dims_of(crop_size, "the size of crops")
    if len(size) != 2:
        b.refuse(f"the size of crops has {len(size)} elements, not two")
    count = b.shape(rois)[0]
    b.guard("eq", b.shape(batch_indices)[0], count, "there is not one batch index for each region")
    image, boxes = b.widen(X), b.widen(rois)
    points = [_crop_points(b, _column(b, boxes, i), _column(b, boxes, i + 2), out, extent)
              for i, (out, extent) in enumerate(zip(size, b.shape(X)[2:], strict=True))]
    taps, within = [], []
    for point, extent in zip(points, b.shape(X)[2:], strict=True):
        last = b.map("sub", b.cast(b.dim(extent), b.dtype(point)), b.scalar(1, point))
        within.append(b.map("and", b.map("ge", point, b.scalar(0, point)), b.map("le", point, last)))
        place = point if mode == "bilinear" else _half_away(b, point)
        taps.append(_neighbours(b, place, extent, clamped=True))
    # [region, y, x, neighbour y, neighbour x, channel]
    where = _at(b, X, _laid(b, b.cast(batch_indices, I64), (0,), 5), _laid(b, taps[0].index, (0, 1, 3), 5),
                _laid(b, taps[1].index, (0, 2, 4), 5))
    weight = b.map("mul", _laid(b, taps[0].weight, (0, 1, 3), 6), _laid(b, taps[1].weight, (0, 2, 4), 6))
    taken = b.map("mul", b.value("t.gather", _rows(b, image), where, axis=0), weight)
    out = b.reduce(taken, "add", [3, 4], keepdims=False)
    inside = b.map("and", _laid(b, within[0], (0, 1), 4), _laid(b, within[1], (0, 2), 4))
    out = b.map("select", inside, out, b.scalar(extrapolation_value, out))
    return b.cast(channels_first(b, out), b.dtype(X))


def _half_away(b: Lowering, point: Value) -> Value:
    """Rounded to the nearest position, halves away from 0; points are not negative where it matters."""
    return b.map("floor", b.map("add", point, b.scalar(0.5, point)))


def _crop_points(b: Lowering, start: Value, end: Value, size: DimLike, extent: DimLike) -> Value:
    """Where each region is sampled along an axis, [region, size]: from corner to corner, or in the middle once."""
    count = b.shape(start)[0]
    start, end = (b.reshape(v, (count, 1)) for v in (start, end))
    last = b.cast(b.dim(extent - 1), b.dtype(start))
    steps = b.cast(b.dim(size - 1), b.dtype(start))
    number = b.iota(size, 2, 1, b.dtype(start))
    step = b.map("div", b.map("mul", b.map("sub", end, start), last), steps)
    spread = b.map("add", b.map("mul", start, last), b.map("mul", number, step))
    middle = b.map("mul", b.map("mul", b.map("add", start, end), b.scalar(0.5, start)), last)
    return b.map("select", b.map("eq", steps, b.scalar(0, steps)), middle, spread)


# ---- RoiAlign ------------------------------------------------------------------------------------------------------
@lowering
def RoiAlign(b: Lowering, X: Value, rois: Value, batch_indices: Value, *,
             coordinate_transformation_mode: str = "half_pixel", mode: str = "avg", output_height: int = 1,
             output_width: int = 1, sampling_ratio: int = 0, spatial_scale: float = 1.0) -> Value:
    """Bilinear samples, averaged over each bin; in mode "max" the largest of the weighted neighbours of all samples."""
    _check_boxes(b, X, rois, 4)
    half = coordinate_transformation_mode == "half_pixel"
    if mode not in ("avg", "max") or not (half or coordinate_transformation_mode == "output_half_pixel"):
        b.refuse(f"the mode '{mode}' with coordinates of '{coordinate_transformation_mode}'")
    count, (h, w) = b.shape(rois)[0], b.shape(X)[2:]
    b.guard("eq", b.shape(batch_indices)[0], count, "there is not one batch index for each region")
    image, boxes = b.widen(X), b.widen(b.cast(rois, b.dtype(X)))
    ends = [b.map("sub", b.map("mul", _column(b, boxes, i), b.scalar(spatial_scale, boxes)),
                  b.scalar(0.5 if half else 0.0, boxes)) for i in range(4)]
    y = _Samples(b, ends[1], ends[3], output_height, h, sampling_ratio, not half)
    x = _Samples(b, ends[0], ends[2], output_width, w, sampling_ratio, not half)
    # [region, bin y, bin x, sample y, sample x, neighbour y, neighbour x, channel]
    rows, columns = (0, 1, 3, 5), (0, 2, 4, 6)
    where = _at(b, X, _laid(b, b.cast(batch_indices, I64), (0,), 7), _laid(b, y.taps.index, rows, 7),
                _laid(b, x.taps.index, columns, 7))
    weight = b.map("mul", _laid(b, y.taps.weight, rows, 8), _laid(b, x.taps.weight, columns, 8))
    taken = b.map("mul", b.value("t.gather", _rows(b, image), where, axis=0), weight)
    used = b.map("and", _laid(b, y.used, (0, 1, 3), 8), _laid(b, x.used, (0, 2, 4), 8))
    taken = b.map("select", used, taken, b.scalar(0.0 if mode == "avg" else _LOWEST, taken))
    out = b.reduce(taken, "add" if mode == "avg" else "max", [3, 4, 5, 6], keepdims=False)
    samples = b.map("mul", _laid(b, y.count, (0,), 4), _laid(b, x.count, (0,), 4))
    if mode == "avg":
        out = b.map("div", out, b.map("max", samples, b.scalar(1, samples)))
    else:
        out = b.map("select", b.map("eq", samples, b.scalar(0, samples)), b.scalar(0, out), out)
    return b.cast(channels_first(b, out), b.dtype(X))


class _Samples:
    """The samples of each bin along one axis, [region, bin, sample]: their neighbours, whether a region has so many,
    and how many each has."""

    def __init__(self, b: Lowering, start: Value, end: Value, bins: int, extent: DimLike, ratio: int,
                 at_least_one: bool) -> None:
        length = b.map("sub", end, start)
        if at_least_one:
            length = b.map("max", length, b.scalar(1, length))
        size, regions = b.map("div", length, b.scalar(bins, length)), b.shape(start)[0]
        most: DimLike = ratio
        if ratio > 0:
            self.count = b.broadcast_to(b.scalar(ratio, size), (regions,))
        else:
            self.count = b.map("max", b.map("ceil", size), b.scalar(0, size))
            largest = b.reduce(b.cast(self.count, I64), "max", [0], keepdims=False)
            most = read_dim(b, b.map("max", largest, b.scalar(0, I64)), "the number of samples of a bin")
        number = b.iota(most, dtype=b.dtype(size))
        share = b.map("div", _laid(b, size, (0,), 3), _laid(b, self.count, (0,), 3))
        within = b.map("mul", b.map("add", _laid(b, number, (2,), 3), b.scalar(0.5, number)), share)
        first = b.map("mul", _laid(b, b.iota(bins, dtype=b.dtype(size)), (1,), 3), _laid(b, size, (0,), 3))
        point = b.map("add", b.map("add", _laid(b, start, (0,), 3), first), within)
        taps = _neighbours(b, point, extent, clamped=True)
        limit = b.cast(b.dim(extent), b.dtype(point))
        outside = b.map("or", b.map("lt", point, b.scalar(-1, point)), b.map("gt", point, limit))
        outside = b.reshape(outside, (*b.shape(outside), 1))
        self.taps = _Taps(taps.index, b.map("select", outside, b.scalar(0, taps.weight), taps.weight))
        used = b.map("lt", _laid(b, number, (2,), 3), _laid(b, self.count, (0,), 3))
        self.used = b.broadcast_to(used, (regions, 1, most))


# ---- MaxRoiPool ----------------------------------------------------------------------------------------------------
@lowering
def MaxRoiPool(b: Lowering, X: Value, rois: Value, *, pooled_shape: Sequence[int], spatial_scale: float = 1.0) -> Value:
    """The largest element of each bin of whole positions; 0 for an empty one."""
    _check_boxes(b, X, rois, 5)
    if len(pooled_shape) != 2:
        b.refuse(f"a pooled shape of {list(pooled_shape)}; it has to be of two sizes")
    boxes = b.widen(rois)
    scaled = [b.map("mul", _column(b, boxes, i), b.scalar(spatial_scale, boxes)) for i in range(1, 5)]
    whole = [b.map("trunc", b.map("add", v, b.map("copysign", b.scalar(0.5, v), v))) for v in scaled]
    y = _Positions(b, whole[1], whole[3], pooled_shape[0], b.shape(X)[2])
    x = _Positions(b, whole[0], whole[2], pooled_shape[1], b.shape(X)[3])
    batch = _laid(b, b.cast(_column(b, boxes, 0), I64), (0,), 5)
    # [region, bin y, bin x, y, x, channel]
    where = _at(b, X, batch, _laid(b, y.index, (0, 1, 3), 5), _laid(b, x.index, (0, 2, 4), 5))
    used = b.map("and", _laid(b, y.used, (0, 1, 3), 6), _laid(b, x.used, (0, 2, 4), 6))
    taken = b.value("t.gather", _rows(b, b.widen(X)), where, axis=0)
    found = b.reduce(b.map("select", used, taken, b.scalar(_LOWEST, taken)), "max", [3, 4], keepdims=False)
    empty = b.map("or", _laid(b, y.empty, (0, 1), 4), _laid(b, x.empty, (0, 2), 4))
    return b.cast(channels_first(b, b.map("select", empty, b.scalar(0, found), found)), b.dtype(X))


class _Positions:
    """The positions of each bin along one axis, [region, bin, position], and whether a bin has so many."""

    def __init__(self, b: Lowering, first: Value, last: Value, bins: int, extent: DimLike) -> None:
        one = b.scalar(1, first)
        length = b.map("max", b.map("add", b.map("sub", last, first), one), one)
        size = _laid(b, b.map("div", length, b.scalar(bins, length)), (0,), 2)
        number, start = _laid(b, b.iota(bins, dtype=b.dtype(first)), (1,), 2), _laid(b, first, (0,), 2)
        limit = b.cast(b.dim(extent), b.dtype(first))

        def clamped(v: Value) -> Value:
            return b.cast(b.map("min", b.map("max", b.map("add", v, start), b.scalar(0, v)), limit), I64)

        low = clamped(b.map("floor", b.map("mul", number, size)))
        high = clamped(b.map("ceil", b.map("mul", b.map("add", number, one), size)))
        count = b.map("max", b.map("sub", high, low), b.scalar(0, I64))
        largest = b.map("max", b.reduce(count, "max", [0, 1], keepdims=False), b.scalar(0, I64))
        most = read_dim(b, largest, "the number of positions of a bin", extent)
        step = _laid(b, b.iota(most), (2,), 3)
        self.used = b.map("lt", step, _laid(b, count, (0, 1), 3))
        self.index = b.map("min", b.map("add", _laid(b, low, (0, 1), 3), step), b.dim(extent - 1))
        self.empty = b.map("eq", count, b.scalar(0, I64))


# ---- DeformConv ----------------------------------------------------------------------------------------------------
@lowering
def DeformConv(b: Lowering, X: Value, W: Value, offset: Value, B: Value | None = None, mask: Value | None = None, *,
               dilations: Sequence[int] | None = None, group: int = 1, kernel_shape: Sequence[int] | None = None,
               offset_group: int = 1, pads: Sequence[int] | None = None,
               strides: Sequence[int] | None = None) -> Value:
    """A convolution whose windows' positions are moved by offsets and read between pixels; zero beyond the input."""
    if b.rank(X) != 4 or b.rank(W) != 4:
        b.refuse(f"an input of type {b.type(X)} with weights of type {b.type(W)}; two spatial axes are supported")
    (n, channels, h, w), (outs, per_in, *size) = b.shape(X), b.shape(W)
    kernel = [d for d in size if isinstance(d, int)]
    if len(kernel) != 2 or not isinstance(channels, int) or not isinstance(outs, int) or channels % offset_group \
            or outs % group or per_in * group != channels:
        b.refuse(f"an input of type {b.type(X)} with weights of type {b.type(W)} in {group} groups, and {offset_group} "
                 "groups of offsets")
    frame = windows(b, (h, w), kernel, strides, dilations, pads, "NOTSET")
    taps = kernel[0] * kernel[1]
    grid = (n, *frame.out, taps, offset_group)
    moved = b.widen(offset)
    points = []
    for axis in range(2):
        share = _offsets(b, moved, offset_group, taps, frame.out, axis)
        place = b.iota(frame.out[axis], 5, 1 + axis)
        place = b.map("sub", b.map("mul", place, b.scalar(frame.stride[axis], I64)), b.dim(frame.low[axis]))
        inside = (np.arange(taps) // kernel[1], np.arange(taps) % kernel[1])[axis] * frame.dilation[axis]
        start = b.map("add", place, b.const(inside.reshape(taps, 1).astype(np.int64)))
        points.append(b.map("add", b.cast(start, b.dtype(share)), share))
    y, x = (_neighbours(b, b.broadcast_to(p, grid), d, clamped=False) for p, d in zip(points, (h, w), strict=True))
    # [batch, y, x, tap, offset group, neighbour y, neighbour x, channel of the group]
    every = tuple(range(5))
    batch = b.iota(n, 7, 0)
    where = _at(b, X, batch, _laid(b, y.index, (*every, 5), 7), _laid(b, x.index, (*every, 6), 7))
    of_group = b.map("add", b.map("mul", where, b.scalar(offset_group, I64)), b.iota(offset_group, 7, 4))
    image = b.reshape(_rows(b, b.widen(X)), (n * h * w * offset_group, channels // offset_group))
    weight = b.map("mul", _laid(b, y.weight, (*every, 5), 8), _laid(b, x.weight, (*every, 6), 8))
    taken = b.value("t.gather", image, of_group, axis=0)
    columns = b.reduce(b.map("mul", taken, b.cast(weight, b.dtype(taken))), "add", [5, 6], keepdims=False)
    if mask is not None:
        shown = b.reshape(b.widen(mask), (n, offset_group, taps, *frame.out))
        columns = b.map("mul", columns, _laid(b, b.transpose(shown, (0, 3, 4, 2, 1)), every, 6))
    columns = b.cast(b.reshape(columns, (n, *frame.out, taps, group, per_in)), b.dtype(X))
    weights = b.transpose(b.reshape(W, (group, outs // group, per_in, taps)), (3, 2, 0, 1))
    out = b.reshape(contract(b, columns, weights, "nstkgc,kcgo->nstgo"), (n, *frame.out, outs))
    if B is not None:
        out = b.map("add", out, b.cast(B, b.dtype(out)))
    return channels_first(b, b.cast(out, b.dtype(X)))


def _offsets(b: Lowering, offset: Value, groups: int, taps: int, out: Sequence[DimLike], axis: int) -> Value:
    """The offsets along one axis as [batch, y, x, tap, group]."""
    n = b.shape(offset)[0]
    each = b.reshape(offset, (n, groups, taps, 2, *out))
    part = b.value("t.slice", each, starts=(0, 0, 0, axis, 0, 0), sizes=(n, groups, taps, 1, *out), steps=(1,) * 6)
    return b.transpose(b.reshape(part, (n, groups, taps, *out)), (0, 3, 4, 2, 1))
