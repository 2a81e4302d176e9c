"""The numpy column of the scalar table: the exact meaning of each op on arrays of one element type.

Nothing here warns. Functions without a closed form are computed in float64, which for f32 operands leaves the rounding
to f32 as the only error that matters.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

Function = Callable[..., Any]


def quiet(function: Function) -> Function:
    """`function` without numpy's warnings about the results that its table row defines."""

    @functools.wraps(function)
    def run(*args: Any) -> Any:
        with np.errstate(all="ignore"):
            return function(*args)

    return run


def wide(function: Function) -> Function:
    """A float function computed in float64 and rounded to the operands' type."""

    @functools.wraps(function)
    def run(*args: Any) -> Any:
        with np.errstate(all="ignore"):
            return np.asarray(function(*(np.asarray(a, np.float64) for a in args))).astype(np.asarray(args[0]).dtype)

    return run


# ---- integers ------------------------------------------------------------------------------------------------------
def _safe(divisor: np.ndarray) -> np.ndarray:
    return np.where(divisor == 0, np.ones_like(divisor), divisor)


@quiet
def divide(x: Any, y: Any) -> Any:
    """Floats: IEEE. Integers: truncated; x/0 is 0, and the least value / -1 wraps to itself."""
    if np.asarray(x).dtype.kind == "f":
        return np.divide(x, y)
    q = np.floor_divide(x, _safe(y))
    q = q + ((q * y != x) & ((x < 0) != (y < 0))).astype(q.dtype)
    return np.where(y == 0, np.zeros_like(q), q)


@quiet
def remainder(x: Any, y: Any) -> Any:
    """What truncated division leaves, with the sign of x (C's fmod and %); integers: 0 for y = 0."""
    if np.asarray(x).dtype.kind == "f":
        return np.fmod(x, y)
    return np.where(y == 0, np.zeros_like(x), x - divide(x, y) * y)


@quiet
def modulo(x: Any, y: Any) -> Any:
    """What floored division leaves, with the sign of y (Python's %); integers: 0 for y = 0."""
    if np.asarray(x).dtype.kind == "f":
        return np.mod(x, y)
    return np.where(y == 0, np.zeros_like(x), x - np.floor_divide(x, _safe(y)) * y)


@quiet
def shift_left(x: Any, n: Any) -> Any:
    width = np.asarray(x).dtype.itemsize * 8
    inside = (n >= 0) & (n < width)
    return np.where(inside, np.left_shift(x, np.where(inside, n, 0)), np.zeros_like(x))


@quiet
def shift_right(x: Any, n: Any) -> Any:
    width = np.asarray(x).dtype.itemsize * 8
    inside = (n >= 0) & (n < width)
    if np.asarray(x).dtype.kind == "i":
        return np.right_shift(x, np.where(inside, n, width - 1))
    return np.where(inside, np.right_shift(x, np.where(inside, n, 0)), np.zeros_like(x))


@quiet
def power(x: Any, y: Any) -> Any:
    """Floats: C's pow. Integers: modulo 2**width; a negative exponent gives the reciprocal truncated, 0 for x = 0."""
    if np.asarray(x).dtype.kind == "f":
        return wide(np.power)(x, y)
    result, base, exponent = np.ones_like(x + y), x, y
    for _ in range(np.asarray(x).dtype.itemsize * 8):
        result = np.where(exponent & 1 != 0, result * base, result)
        base, exponent = base * base, exponent >> 1
    if np.asarray(x).dtype.kind == "u":
        return result
    odd = np.where(y & 1 != 0, -1, 1).astype(result.dtype)
    reciprocal = np.where(x == 1, np.ones_like(result), np.where(x == -1, odd, np.zeros_like(result)))
    return np.where(y < 0, reciprocal, result)


# ---- floats --------------------------------------------------------------------------------------------------------
@quiet
def fused(x: Any, y: Any, z: Any) -> Any:
    """x * y + z rounded once. For f64 the product and the sum are carried in two doubles: exact but for denormal
    results, which may be rounded twice, and for ties that a third double would decide."""
    if np.asarray(x).dtype == np.float32:
        x, y, z = (np.asarray(a, np.float64) for a in (x, y, z))
        return _to_odd(*_two_sum(x * y, z)).astype(np.float32)
    plain = x * y + z
    (x, ex), (y, ey) = np.frexp(x), np.frexp(y)
    exponent = ex + ey
    product = x * y
    (xh, xl), (yh, yl) = _split(x), _split(y)
    low = ((xh * yh - product) + xh * yl + xl * yh) + xl * yl
    total, rest = _two_sum(product, np.ldexp(z, -exponent))
    exact = np.ldexp(total + (rest + low), exponent)
    return np.where(np.isfinite(exact) & np.isfinite(product) & (product != 0), exact, plain)


def _split(x: Any) -> tuple[Any, Any]:
    """The upper 26 bits of x and the rest."""
    scaled = x * 134217729.0
    high = scaled - (scaled - x)
    return high, x - high


def _two_sum(a: Any, b: Any) -> tuple[Any, Any]:
    """The rounded sum and its error."""
    total = a + b
    back = total - a
    return total, (a - (total - back)) + (b - back)


def _to_odd(total: np.ndarray, error: np.ndarray) -> np.ndarray:
    """The sum rounded to odd instead of to nearest, so that rounding it again to fewer bits is rounding once."""
    bits = np.asarray(total).view(np.int64)
    even = (bits & 1 == 0) & (error != 0) & np.isfinite(total)
    away = (error > 0) == (total > 0)
    return np.where(even, np.where(away, bits + 1, bits - 1), bits).view(np.float64)


@quiet
def sign(x: Any) -> Any:
    """-1, 0 or 1; NaN for NaN, and zeros keep their sign."""
    x = np.asarray(x)
    if x.dtype.kind == "f":
        return np.where(x > 0, 1, np.where(x < 0, -1, x)).astype(x.dtype)
    return np.sign(x)


rsqrt = wide(lambda x: 1 / np.sqrt(x))
reciprocal = quiet(lambda x: np.divide(np.ones_like(x), x))
erf = wide(np.vectorize(math.erf, otypes=[np.float64]))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1.0) / (1.0 + e)


sigmoid = wide(_sigmoid)
softplus = wide(lambda x: np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x))))
ldexp = quiet(lambda x, n: np.ldexp(x, np.clip(np.nan_to_num(n), -5000, 5000).astype(np.int32)))
