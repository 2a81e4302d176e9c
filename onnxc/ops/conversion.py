"""What converting an element means, in numpy: the `ref` of `s.cast` and `t.cast`."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from onnxc.ir.types import BOOL, DType, dtype_of

__all__ = ["convert"]


def convert(x: np.ndarray, to: DType, saturate: bool = True) -> np.ndarray:
    """`x` as elements of type `to`.

    Float to integer truncates; a value that does not fit, or NaN, gives the least value of a type of 32 bits or more,
    and narrower types wrap from i32. Integers wrap. To bool is != 0. Floats round to nearest even, types narrower than
    f32 from f32. For the f8 types `saturate` says whether values out of range, infinities among them, give the greatest
    finite value or what the type has (inf or NaN); f4 always saturates.
    """
    x = np.asarray(x)
    source = dtype_of(x.dtype)
    with np.errstate(all="ignore"):
        if source == to:
            return x
        if source.bits < 8 or (source.is_float and source.bits < 32):
            x = x.astype(np.float32 if source.is_float else np.int32)
        if to == BOOL:
            return np.asarray(x != 0)
        if to.is_integer:
            return _narrow(_truncate(x, to), to) if source.is_float else _narrow(x, to)
        if to.is_float and to.bits < 32:
            return _round(x.astype(np.float32), to, saturate)
        return x.astype(to.numpy)


def _truncate(x: np.ndarray, to: DType) -> np.ndarray:
    """Floats as `to`, or as i32 when `to` is narrower."""
    carrier = np.dtype(np.int32) if to.bits < 32 else to.numpy
    least, most = int(np.iinfo(carrier).min), int(np.iinfo(carrier).max)
    whole = np.trunc(x.astype(np.float64))
    fits = (whole >= float(least)) & (whole < float(most + 1))
    return np.where(fits, np.where(fits, whole, 0.0).astype(carrier), carrier.type(least))


def _narrow(x: np.ndarray, to: DType) -> np.ndarray:
    if to.bits >= 8 or x.dtype == np.bool_:
        return x.astype(to.numpy)
    low = x.astype(np.int64) & ((1 << to.bits) - 1)
    if to.is_signed:
        low -= (low >> (to.bits - 1)) << to.bits
    return low.astype(np.int8).astype(to.numpy)


def _round(x: np.ndarray, to: DType, saturate: bool) -> np.ndarray:
    if to.bits == 4 or (to.bits == 8 and saturate):
        limits = ml_dtypes.finfo(to.numpy)
        x = np.clip(x, np.float32(limits.min), np.float32(limits.max))       # NaN stays
    return x.astype(to.numpy)
