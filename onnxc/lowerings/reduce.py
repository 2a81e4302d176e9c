"""Reductions along axes, positions of extremes, and running sums and products."""

from __future__ import annotations

from collections.abc import Callable

from onnxc.ir.core import Value
from onnxc.ir.types import BOOL, F64
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.table import lowering

__all__ = ["reduction_axes"]


def reduction_axes(b: Lowering, data: Value, axes: Value | None, noop: int) -> list[int]:
    """The axes to fold, normalised; none or an empty list means all of them, or nothing with `noop`."""
    given = b.ints_of(axes, "the list of axes")
    if not given:
        return [] if noop else list(range(b.rank(data)))
    out = [b.axis(a, data) for a in given]
    if len(set(out)) != len(out):
        b.refuse(f"axes {given} repeat for rank {b.rank(data)}")
    return sorted(out)


def _fold(b: Lowering, kind: str, data: Value, axes: Value | None, keepdims: int, noop: int,
          before: Callable[[Value], Value] | None = None, after: Callable[[Value], Value] | None = None) -> Value:
    """Fold `before(x)` over the axes and apply `after`, in the wide type, rounded once."""
    at = reduction_axes(b, data, axes, noop)

    def body(x: Value) -> Value:
        x = before(x) if before is not None else x
        x = b.reduce(x, kind, at, bool(keepdims))
        return after(x) if after is not None else x
    return b.wide(body, data)


def _through_float(b: Lowering, name: str) -> Callable[[Value], Value]:
    """A function of floats; integers go through f64 and back."""
    def apply(x: Value) -> Value:
        dtype = b.dtype(x)
        return b.map(name, x) if dtype.is_float else b.cast(b.map(name, b.cast(x, F64)), dtype)
    return apply


@lowering
def ReduceSum(b: Lowering, data: Value, axes: Value | None = None, *, keepdims: int = 1,
              noop_with_empty_axes: int = 0) -> Value:
    return _fold(b, "add", data, axes, keepdims, noop_with_empty_axes)


@lowering
def ReduceProd(b: Lowering, data: Value, axes: Value | None = None, *, keepdims: int = 1,
               noop_with_empty_axes: int = 0) -> Value:
    return _fold(b, "mul", data, axes, keepdims, noop_with_empty_axes)


@lowering
def ReduceMax(b: Lowering, data: Value, axes: Value | None = None, *, keepdims: int = 1,
              noop_with_empty_axes: int = 0) -> Value:
    kind = "or" if b.dtype(data) == BOOL else "max"
    at = reduction_axes(b, data, axes, noop_with_empty_axes)
    return b.reduce(data, kind, at, bool(keepdims))


@lowering
def ReduceMin(b: Lowering, data: Value, axes: Value | None = None, *, keepdims: int = 1,
              noop_with_empty_axes: int = 0) -> Value:
    kind = "and" if b.dtype(data) == BOOL else "min"
    at = reduction_axes(b, data, axes, noop_with_empty_axes)
    return b.reduce(data, kind, at, bool(keepdims))


@lowering
def ReduceMean(b: Lowering, data: Value, axes: Value | None = None, *, keepdims: int = 1,
               noop_with_empty_axes: int = 0) -> Value:
    at = reduction_axes(b, data, axes, noop_with_empty_axes)
    return b.wide(lambda x: b.mean(x, at, bool(keepdims)), data) if at else data


@lowering
def ReduceSumSquare(b: Lowering, data: Value, axes: Value | None = None, *, keepdims: int = 1,
                    noop_with_empty_axes: int = 0) -> Value:
    return _fold(b, "add", data, axes, keepdims, noop_with_empty_axes, before=lambda x: b.map("mul", x, x))


@lowering
def ReduceL1(b: Lowering, data: Value, axes: Value | None = None, *, keepdims: int = 1,
             noop_with_empty_axes: int = 0) -> Value:
    unsigned = b.dtype(data).kind == "uint"
    return _fold(b, "add", data, axes, keepdims, noop_with_empty_axes,
                 before=None if unsigned else lambda x: b.map("abs", x))


@lowering
def ReduceL2(b: Lowering, data: Value, axes: Value | None = None, *, keepdims: int = 1,
             noop_with_empty_axes: int = 0) -> Value:
    return _fold(b, "add", data, axes, keepdims, noop_with_empty_axes, before=lambda x: b.map("mul", x, x),
                 after=_through_float(b, "sqrt"))


@lowering
def ReduceLogSum(b: Lowering, data: Value, axes: Value | None = None, *, keepdims: int = 1,
                 noop_with_empty_axes: int = 0) -> Value:
    return _fold(b, "add", data, axes, keepdims, noop_with_empty_axes, after=_through_float(b, "log"))


@lowering
def ReduceLogSumExp(b: Lowering, data: Value, axes: Value | None = None, *, keepdims: int = 1,
                    noop_with_empty_axes: int = 0) -> Value:
    at = reduction_axes(b, data, axes, noop_with_empty_axes)
    if b.dtype(data).is_integer:
        return b.cast(_log_sum_exp(b, b.cast(data, F64), at, bool(keepdims)), b.dtype(data))
    return b.wide(lambda x: _log_sum_exp(b, x, at, bool(keepdims)), data)


def _log_sum_exp(b: Lowering, x: Value, axes: list[int], keepdims: bool) -> Value:
    """Shifted by the maximum, or by nothing where that is infinite: inf - inf would be NaN."""
    top = b.reduce(x, "max", axes)
    shift = b.map("select", b.map("isinf", top), b.scalar(0, x), top)
    total = b.map("add", b.map("log", b.reduce(b.map("exp", b.map("sub", x, shift)), "add", axes)), shift)
    return total if keepdims else b.reshape(total, tuple(d for i, d in enumerate(b.shape(x)) if i not in axes))


# ---- positions of extremes -----------------------------------------------------------------------------------------
def _position(b: Lowering, kind: str, data: Value, axis: int, keepdims: int, last: int) -> Value:
    at = b.axis(axis, data)
    out = b.value("t.argreduce", data, kind=kind, axis=at, last=bool(last))
    return b.reshape(out, tuple(1 if i == at else d for i, d in enumerate(b.shape(data)))) if keepdims else out


@lowering
def ArgMax(b: Lowering, data: Value, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Value:
    return _position(b, "max", data, axis, keepdims, select_last_index)


@lowering
def ArgMin(b: Lowering, data: Value, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Value:
    return _position(b, "min", data, axis, keepdims, select_last_index)


# ---- running folds -------------------------------------------------------------------------------------------------
def _running(b: Lowering, kind: str, x: Value, axis: Value, exclusive: int, reverse: int) -> Value:
    where = b.ints_of(axis, "the axis") or []
    if len(where) != 1:
        b.refuse(f"one axis is needed, not {where}")
    at = b.axis(where[0], x)
    how = {"kind": kind, "axis": at, "exclusive": bool(exclusive), "reverse": bool(reverse)}
    return b.wide(lambda v: b.value("t.scan", v, **how), x)


@lowering
def CumSum(b: Lowering, x: Value, axis: Value, *, exclusive: int = 0, reverse: int = 0) -> Value:
    return _running(b, "add", x, axis, exclusive, reverse)


@lowering
def CumProd(b: Lowering, x: Value, axis: Value, *, exclusive: int = 0, reverse: int = 0) -> Value:
    return _running(b, "mul", x, axis, exclusive, reverse)
