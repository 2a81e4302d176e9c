"""Constant operands of kernels as arrays in the order in which they will be read, computed when compiling."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import cast

import numpy as np

from onnxc.codegen.accesses import Accesses, linear_in, where_of
from onnxc.codegen.interp import run_kernel
from onnxc.codegen.llvm.contract_form import Axes, bytes_of, clone_region, contraction_of, place_of
from onnxc.codegen.llvm.contract_plan import single_load
from onnxc.codegen.llvm.microkernel_bytes import GROUP, groups_of
from onnxc.codegen.schedule import Schedule
from onnxc.codegen.winograd import along, transforms
from onnxc.ir.core import Block, Func, Op, Value
from onnxc.ir.dims import DimLike, sym
from onnxc.ir.types import DType, Mem

__all__ = [
    "Operand",
    "aligned_copy",
    "alone",
    "in_groups",
    "in_panels",
    "in_rows",
    "in_winograd_panels",
    "strided_copy",
]

_ALIGNMENT = 64


@dataclasses.dataclass(frozen=True)
class Operand:
    """An operand of a contraction that constants alone make: region 0 or 1, the batch axes that it depends on, its own
    axes, k, all of known extent, and the arrays behind the arguments that it reads."""

    region: int
    batch: Axes
    own: Axes
    k: Axes
    arrays: dict[Value, np.ndarray]

    @property
    def order(self) -> list[Axes]:
        """Its axes as they will lie in memory: rows of k on the left, steps of k on the right."""
        return [self.own, self.k] if self.region == 0 else [self.k, self.own]

    @property
    def shape(self) -> list[int]:
        """One extent a batch axis, and one each for its own axes and for k together."""
        return [_size([axis]) for axis in self.batch] + [_size(axes) for axes in self.order]


def _size(axes: Axes) -> int:
    return math.prod(cast(int, extent) for _, extent in axes)


def in_rows(func: Func, operand: Operand) -> np.ndarray | None:
    """A left operand: [batch..., m, k]; None when computing it records an error, which has to happen in a run."""
    plain = _plain(func, operand)
    return None if plain is None else aligned_copy(plain)


def in_panels(func: Func, operand: Operand, columns: int) -> np.ndarray | None:
    """A right operand: [batch..., panels, k, columns], zero past the last column; None as for `in_rows`."""
    plain = _plain(func, operand)
    return None if plain is None else _panels(plain, columns)


def in_winograd_panels(
    func: Func, operand: Operand, columns: int, taps: Sequence[int], size: int
) -> np.ndarray | None:
    """A right operand as `in_panels`, of weights transformed along the k axes at the places `taps`."""
    plain = _plain(func, operand)
    if plain is None:
        return None
    *batch, _, n = plain.shape
    extents = [cast(int, extent) for _, extent in operand.k]
    weights = plain.astype(np.float64).reshape(*batch, *extents, n)
    for tap in taps:
        weights = along(transforms(size).weights, weights, len(batch) + tap)
    return _panels(weights.astype(plain.dtype).reshape(*batch, -1, n), columns)


def _panels(plain: np.ndarray, columns: int) -> np.ndarray:
    *batch, k, n = plain.shape
    panels = _zeros((*batch, -(-n // columns), k, columns), plain.dtype)
    for p in range(panels.shape[-3]):
        part = plain[..., p * columns : (p + 1) * columns]
        panels[..., p, :, : part.shape[-1]] = part
    return panels


def in_groups(func: Func, operand: Operand, columns: int, taps: int, dot: str) -> np.ndarray | None:
    """A right operand of bytes: [batch..., panels, taps, groups, columns, 4], zero past the last column and past the
    end of each tap's depth; None as for `in_rows`."""
    plain = _plain(func, operand)
    if plain is None:
        return None
    *batch, k, n = plain.shape
    depth = k // taps if taps else 0
    groups, width = cast(int, groups_of(depth, dot)), -(-n // columns)
    padded = np.zeros((*batch, taps, groups * GROUP, width * columns), plain.dtype)
    padded[..., :depth, :n] = plain.reshape(*batch, taps, depth, n)
    cut = padded.reshape(*batch, taps, groups, GROUP, width, columns)
    first = len(batch)
    order = (*range(first), *(first + i for i in (3, 0, 1, 4, 2)))
    return aligned_copy(cut.transpose(order))


def strided_copy(array: np.ndarray, flat: DimLike, axes: Axes) -> np.ndarray | None:
    """[axes...], contiguous, of the elements of `array` at `flat`; None when that is no view of the array."""
    extents, strides = [cast(int, extent) for _, extent in axes], []
    for name, _ in axes:
        linear = linear_in(flat, name)
        if linear is None or not isinstance(linear.stride, int) or linear.stride < 0:
            return None
        strides.append(linear.stride)
        flat = linear.rest
    if not isinstance(flat, int) or not 0 <= flat < array.size or 0 in extents:
        return None
    line = np.ascontiguousarray(array).reshape(-1)[flat:]
    if sum((e - 1) * s for e, s in zip(extents, strides, strict=True)) >= line.size:
        return None
    steps = [s * line.itemsize for s in strides]
    return aligned_copy(np.lib.stride_tricks.as_strided(line, extents, steps, writeable=False))


def _plain(func: Func, operand: Operand) -> np.ndarray | None:
    """The operand in its shape: a copy of one constant where it is a view of it, else by running its region. Bytes
    stay bytes."""
    op = contraction_of(func)
    accumulate = cast(DType, op.attrs["accumulate"])
    types = bytes_of(op) if Schedule.parse(str(func.attrs.get("schedule", ""))).dot else None
    dtype = types[operand.region] if types else accumulate
    load = single_load(op.regions[operand.region], dtype)
    if load is not None and not where_of(load):
        (array,) = operand.arrays.values()
        axes = [*operand.batch, *(axis for axes in operand.order for axis in axes)]
        copy = strided_copy(array, Accesses(func).flat(load), axes)
        if copy is not None:
            return copy.reshape(operand.shape)
    index = [*(sym(name) for name, _ in operand.batch), *map(place_of, operand.order)]
    kernel = alone(func, operand, operand.shape, index)
    out = np.zeros(operand.shape, accumulate.numpy)
    arrays = [np.ascontiguousarray(a).reshape(cast(Mem, v.type).shape) for v, a in operand.arrays.items()]
    return None if run_kernel(kernel, [*arrays, out], {}) else out.astype(dtype.numpy)


def alone(func: Func, operand: Operand, shape: Sequence[int], index: Sequence[DimLike]) -> Func:
    """The operand's region as a kernel that takes the arguments it reads and stores each element at `index`."""
    op = contraction_of(func)
    arguments = list(operand.arrays)
    types = [*(a.type for a in arguments), Mem(cast(DType, op.attrs["accumulate"]), tuple(shape))]
    kernel = Func("operand", types, [*(a.name for a in arguments), "out"], kind="kernel")
    body = Block()
    values: dict[Value, Value] = dict(zip(arguments, kernel.args[:-1], strict=True))
    (element,) = clone_region(op.regions[operand.region], body, values=values)
    place = {"index": tuple(index), "where": (), "combine": None}
    body.append(Op("k.store", [kernel.args[-1], element], [], place))
    axes = [*operand.batch, *operand.k, *operand.own]
    loop = {"axes": tuple(sym(name) for name, _ in axes), "extents": tuple(extent for _, extent in axes)}
    kernel.body.append(Op("k.parallel", (), (), loop, [body]))
    return kernel


def aligned_copy(array: np.ndarray) -> np.ndarray:
    copy = _zeros(array.shape, array.dtype)
    copy[...] = array
    return copy


def _zeros(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """Zeros at a multiple of a cache line."""
    size = math.prod(shape) * dtype.itemsize
    room = np.zeros(size + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    return room[start : start + size].view(dtype).reshape(tuple(shape))
