"""Ops of a few instructions: extremes, signs, rounding, tests, reciprocals; correctly rounded all but `rsqrt`."""

from __future__ import annotations

import math

from onnxc.ir.types import F32, I32, I64
from onnxc.ops.expander import Term, formula, select

__all__ = ["absolute", "ceil", "copysign", "floor", "inverse", "isinf", "isnan", "maximum", "minimum", "negate",
           "reciprocal", "round_even", "rsqrt", "sign", "trunc"]


def _maximum(x: Term, y: Term) -> Term:
    """NaN if either is. A constant goes second: the outer test then folds away and one machine maximum is left."""
    return select(y.apply("ne", y), y, select(y > x, y, x))


def _minimum(x: Term, y: Term) -> Term:
    return select(y.apply("ne", y), y, select(y < x, y, x))


def _negate(x: Term) -> Term:
    return 0 - x


def _absolute(x: Term) -> Term:
    return x.apply("max", 0 - x) if x.dtype.is_signed else x


def _sign(x: Term) -> Term:
    return select(x > 0, 1.0, select(x < 0, -1.0, x))


def _copysign(x: Term, y: Term) -> Term:
    bits, top = (I32, -2**31) if x.dtype == F32 else (I64, -2**63)
    return ((x.bitcast(bits) & ~top) | (y.bitcast(bits) & top)).bitcast(x.dtype)


def _nearest(size: Term) -> Term:
    """The integer next to a number that is not negative, half to even: adding 2**23 (2**52) leaves no bits for a
    fraction."""
    whole = 2.0**23 if size.dtype == F32 else 2.0**52
    return select(size < whole, (size + whole) - whole, size)


def _round_even(x: Term) -> Term:
    return _nearest(abs(x)).apply("copysign", x)


def _trunc(x: Term) -> Term:
    size = abs(x)
    near = _nearest(size)
    return select(near > size, near - 1.0, near).apply("copysign", x)


def _floor(x: Term) -> Term:
    near = _round_even(x)
    return select(near > x, near - 1.0, near)


def _ceil(x: Term) -> Term:
    near = _round_even(x)
    return select(near < x, near + 1.0, near).apply("copysign", x)


def _rsqrt(x: Term) -> Term:
    """At most 1.5 ULP: a correctly rounded root and quotient."""
    return 1.0 / x.apply("sqrt")


def _reciprocal(x: Term) -> Term:
    return 1.0 / x


def _isnan(x: Term) -> Term:
    return x.apply("ne", x)


def _isinf(x: Term) -> Term:
    return abs(x).is_(math.inf)


def _inverse(x: Term) -> Term:
    return x ^ (True if x.dtype.kind == "bool" else -1 if x.dtype.is_signed else 2**x.dtype.bits - 1)


maximum, minimum, sign, copysign = formula(_maximum), formula(_minimum), formula(_sign), formula(_copysign)
negate, absolute, inverse = formula(_negate), formula(_absolute), formula(_inverse)
trunc, floor, ceil, round_even = formula(_trunc), formula(_floor), formula(_ceil), formula(_round_even)
rsqrt, reciprocal = formula(_rsqrt), formula(_reciprocal)
isnan, isinf = formula(_isnan), formula(_isinf)
