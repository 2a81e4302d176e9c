"""pow on floats: |x|**y = 2**(y log2 |x|), the logarithm and the product carried as sums of two floats.

With |x| = 2**k m and s = (m - 1) / (m + 1): log2 |x| = k + s (c + c/3 s**2 + c/5 s**4 + ...), c = 2 / ln 2. The first
two coefficients and s are pairs, so that the logarithm is good to about 36 bits for f32 and 65 for f64, as y log2 |x|
up to the greatest exponent needs it; the rest of the series is a polynomial of least greatest error (Remez exchange).
"""

from __future__ import annotations

import math

from onnxc.ir.types import F32, F64
from onnxc.ops.expander import Term, formula, select
from onnxc.ops.mathfns.exponential import exp2_of_sum
from onnxc.ops.mathfns.floats import Pair, exact_product, horner, quick_sum
from onnxc.ops.mathfns.logarithm import scaled_to_normal, split_exponent

__all__ = ["power"]

_FIRST = {F32: (2.885390043258667, 3.851926067000022e-08), F64: (2.8853900817779268, 4.0710547481862066e-17)}
_SECOND = {F32: (0.9617967009544373, -7.028461812552678e-09), F64: (0.9617966939259756, 5.0577616648125907e-17)}
_REST = {
    F32: (0.5770801901817322, 0.4118478298187256, 0.3378651440143585),
    F64: (0.5770780163555851, 0.4121985831113715, 0.3205988979076082, 0.26230819919977333, 0.22195223805535297,
          0.19240242821210027, 0.1684312479555305, 0.17297142839167973),
}


def _quotient(m: Term) -> Pair:
    """(m - 1) / (m + 1)."""
    f, (d, d_low) = m - 1.0, quick_sum(m.const(1.0), m)         # exact, as 1 and m are within a factor of 2
    inverse = 1.0 / d
    s = f * inverse
    rest = (-s).fma(d_low, (-s).fma(d, f))
    return s, rest * inverse


def _pair_product(a: Pair, b: Pair) -> Pair:
    high, low = exact_product(a[0], b[0])
    return high, a[0].fma(b[1], a[1].fma(b[0], low))


def _pair_sum(constant: tuple[float, float], x: Pair) -> Pair:
    """A constant plus a smaller pair."""
    high, low = quick_sum(x[0].const(constant[0]), x[0])
    return high, low + (x[1] + constant[1])


def _log2_pair(x: Term) -> Pair:
    """log2 of positive finite x."""
    normal, shift = scaled_to_normal(x)
    k, m = split_exponent(normal)
    s = _quotient(m)
    square = _pair_product(s, s)
    rest = square[0] * horner(square[0], _REST[x.dtype])
    second = _pair_sum(_SECOND[x.dtype], (rest, rest.const(0.0)))
    series = _pair_sum(_FIRST[x.dtype], _pair_product(square, second))
    high, low = _pair_product(s, series)
    total, error = quick_sum(k - shift, high)
    return total, error + low


def _size(a: Term, y: Term) -> Term:
    """a**y for a >= 0, but for the cases in which C's pow is 1 whatever the other operand is."""
    high, low = _log2_pair(a)
    high = select(a < math.inf, high, a)
    high = select(a.is_(0.0), -math.inf, high)
    exponent, rest = exact_product(y, high)
    return exp2_of_sum(exponent, y.fma(low, rest))


def _power(x: Term, y: Term) -> Term:
    """At most 1 ULP for f32 and 2 ULP for f64; the special cases of C's pow."""
    a, half = abs(x), y * 0.5
    whole = y.apply("trunc").is_(y)
    odd = whole & half.apply("trunc").apply("ne", half)
    size = _size(a, y)
    result = select(odd, size.apply("copysign", x), size)
    result = select((x < 0.0) & (a < math.inf) & ~whole, math.nan, result)
    one = x.is_(1.0) | y.is_(0.0) | (a.is_(1.0) & abs(y).is_(math.inf))
    return select(one, 1.0, result)


power = formula(_power)
