"""log, log2, log1p and softplus.

x = 2**k * (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)); log x = k ln 2 + f + tail(f). The tail is, for f32, a polynomial
that minimises the greatest relative error of log(1 + f), and for f64 one in s = f / (2 + f): log(1 + f) = f - f**2/2 +
s (f**2/2 + R(s**2)). Coefficients: Remez exchange, rounded to the format.
"""

from __future__ import annotations

import math

from onnxc.ir.types import F32, F64
from onnxc.ops.expander import Term, formula, select
from onnxc.ops.mathfns.exponential import LN2, exponential_of_negative, is_tiny
from onnxc.ops.mathfns.floats import Pair, format_of, horner, power_of_two

__all__ = ["log", "log1p", "log2", "scaled_to_normal", "softplus", "split_exponent"]

# log2(e) as the sum of two numbers of the format
_LOG2E = {F32: (1.4426950216293335, 1.925963033500011e-08), F64: (1.4426950408889634, 2.0355273740931033e-17)}

# (log(1 + f) - f + f**2 / 2) / f**3
_TAIL32 = (0.3333333134651184, -0.250008225440979, 0.20001226663589478, -0.16623352468013763, 0.14201761782169342,
           -0.13160230219364166, 0.12761595845222473, -0.07634426653385162)
# (log((1 + s) / (1 - s)) - 2s) / s**3, in s**2
_SERIES64 = (0.6666666666666734, 0.3999999999941389, 0.28571428742571975, 0.2222219855323995, 0.18183565417837005,
             0.15314021201224057, 0.14796257522936496)


def split_exponent(x: Term) -> Pair:
    """k and m with x = 2**k * m and m in [sqrt(1/2), sqrt(2)), for positive finite x; k is a float."""
    f = format_of(x)
    bits = x.bitcast(f.unsigned) + (f.one - f.sqrt_half)
    k = ((bits >> f.mantissa) + f.shifter_bits).bitcast(x.dtype) - (f.shifter + f.bias)
    m = ((bits & f.mantissa_mask) + f.sqrt_half).bitcast(x.dtype)
    return k, m


def _tail(f: Term) -> Term:
    """log(1 + f) - f."""
    square = f * f
    if f.dtype == F32:
        return square.fma(-0.5, horner(f, _TAIL32) * f * square)
    half = square * 0.5
    s = f / (f + 2.0)
    z = s * s
    return s * (horner(z, _SERIES64) * z + half) - half


def _sum(k: Term, f: Term) -> Term:
    """k ln 2 + log(1 + f)."""
    high, low = LN2[f.dtype]
    return k.fma(high, f + k.fma(low, _tail(f)))


def scaled_to_normal(x: Term) -> tuple[Term, Term]:
    """x, or x scaled where it is denormal, and what the scaling takes from the exponent."""
    f = format_of(x)
    small, shift = x < f.least_normal, f.mantissa + 2.0
    return select(small, x * 2.0**shift, x), select(small, x.const(shift), 0.0)


def _of_domain(x: Term, result: Term, pole: float) -> Term:
    """`result` above the pole; minus infinity at it, NaN below; infinity and NaN themselves."""
    above = select(x < math.inf, result, x)
    return select(x > pole, above, select(x.is_(pole), x.const(-math.inf), math.nan))


def _log(x: Term) -> Term:
    """At most 1 ULP."""
    normal, shift = scaled_to_normal(x)
    k, m = split_exponent(normal)
    return _of_domain(x, _sum(k - shift, m - 1.0), 0.0)


def _log2(x: Term) -> Term:
    """At most 1 ULP."""
    normal, shift = scaled_to_normal(x)
    k, m = split_exponent(normal)
    f = m - 1.0
    high, low = _LOG2E[x.dtype]
    return _of_domain(x, (k - shift) + f.fma(high, f.fma(low, _tail(f) * high)), 0.0)


def _log1p_finite(x: Term) -> Term:
    """log(1 + x) for finite x > -1 that are not tiny. The scale is 4 / 2**k, which is a normal number for every k."""
    f = format_of(x)
    k, _ = split_exponent(x + 1.0)
    scale = power_of_two((f.shifter + 2.0) - k)
    return _sum(k, (x * 0.25).fma(scale, scale.fma(0.25, -1.0)))


def _log1p(x: Term) -> Term:
    """At most 2 ULP."""
    return select(is_tiny(x), x, _of_domain(x, _log1p_finite(x), -1.0))


def _softplus(x: Term) -> Term:
    """At most 2 ULP: max(x, 0) + log1p(exp(-|x|))."""
    e = exponential_of_negative(-abs(x))
    return x.apply("max", 0.0) + select(is_tiny(e), e, _log1p_finite(e))


log, log2, log1p, softplus = formula(_log), formula(_log2), formula(_log1p), formula(_softplus)
