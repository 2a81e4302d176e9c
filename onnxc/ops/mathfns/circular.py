"""sin, cos and tan.

|x| = n pi/2 + r with an integer n, |r| <= pi/4. For moderate |x| the difference is taken with pi/2 as the sum of three
floats and fused steps (Cody and Waite). Beyond, f32 multiplies by the bits of 2/pi that matter, in integers (Payne and
Hanek); f64 has no such path: see `_LIMIT32`. sin(r) and cos(r) are polynomials of least greatest relative error (Remez
exchange, coefficients rounded to the format).
"""

from __future__ import annotations

import dataclasses
import itertools
import math

from onnxc.ir.types import F32, F64, I64, U32, U64
from onnxc.ops.expander import Term, formula, rarely, select
from onnxc.ops.mathfns.floats import at_least, at_most, format_of, horner, round_to_integer

__all__ = ["cos", "sin", "tan"]


@dataclasses.dataclass(frozen=True, slots=True)
class _Table:
    """`half_pi`: pi/2 as a sum; `sin` is (sin r - r) / r**3 and `cos` is (cos r - 1 + r**2 / 2) / r**4, in r**2."""

    two_over_pi: float
    half_pi: tuple[float, float, float]
    sin: tuple[float, ...]
    cos: tuple[float, ...]


_TABLES = {
    F32: _Table(
        0.6366197466850281, (1.5707963705062866, -4.371138828673793e-08, -1.7151245100058819e-15),
        (-0.16666653752326965, 0.008332137018442154, -0.0001951202575583011),
        (0.04166664555668831, -0.0013887283857911825, 2.4429458790109493e-05)),
    F64: _Table(
        0.6366197723675814, (1.5707963267948966, 6.123233995736766e-17, -1.497384905065873e-33),
        (-0.1666666666666663, 0.00833333333332154, -0.00019841269829110972, 2.755731345030113e-06,
         -2.505072024393789e-08, 1.5894595549989146e-10),
        (0.04166666666666659, -0.0013888888888872236, 2.48015872883269e-05, -2.7557314024418216e-07,
         2.0875679371143382e-09, -1.1357404362656271e-11)),
}

# Up to here the nearest n is found and three floats for pi/2 are enough. f64, which has no other path, loses accuracy
# step by step beyond 2**45 = 3.5e13, and all of it at 2**52, where neighbours are a radian apart; results stay bounded.
_LIMIT32 = 2.0**17

# 2/pi in words of 32 bits, after one word of zeros.
_TWO_OVER_PI = (0, 0xA2F9836E, 0x4E441529, 0xFC2757D1, 0xF534DDC0, 0xDB629599, 0x3C439041, 0xFE5163AB)


def _nearby(a: Term) -> tuple[Term, Term]:
    """n, as an integer modulo a power of two, and r, for moderate a >= 0."""
    table = _TABLES[a.dtype]
    n, shifted = round_to_integer(a, table.two_over_pi)
    r = a
    for part in table.half_pi:
        r = n.fma(-part, r)
    return shifted.bitcast(format_of(a).bits), r


def _window(exponent: Term) -> list[Term]:
    """The 96 bits of 2/pi from 2 bits before the binary point of m * 2**(exponent - 23) * (2/pi), as three
    words; exponent in [0, 128). Whatever stands before them makes multiples of 4."""
    place = exponent + 7                        # 32 bits of zeros, less 23 and 2
    words = [place.const(w) for w in _TWO_OVER_PI]
    for step in (4, 2, 1):
        far = (place & (step << 5)).apply("ne", 0)
        words = [select(far, words[i + step], w) if i + step < len(words) else w for i, w in enumerate(words)]
        words = words[:3 + step]              # what the later steps can reach
    shift = place & 31
    return [(high << shift) | ((low >> 1) >> (31 - shift)) for high, low in itertools.pairwise(words)]


def _distant(a: Term) -> tuple[Term, Term]:
    """n and r as in `_nearby`, for f32 in [1, infinity)."""
    bits = a.bitcast(U32)
    high, middle, low = (w.cast(U64) for w in _window((bits >> 23) - 127))
    mantissa = ((bits & 0x7FFFFF) | 0x800000).cast(U64)
    turns = ((mantissa * high) << 32) + mantissa * middle + ((mantissa * low) >> 32)    # quarters of a turn, 2.62 bits
    n = (turns + (1 << 61)) >> 62
    rest = (turns - (n << 62)).bitcast(I64).cast(F32)
    return n.cast(format_of(a).bits), rest * (math.pi / 2 / 2.0**62)


def _reduced(a: Term) -> tuple[Term, Term]:
    """n modulo 4 in its low bits and r, for a >= 0; r is NaN for infinities and NaN."""
    n, r = _nearby(a)
    if a.dtype == F32:
        n, r = rarely(a >= _LIMIT32, lambda: _distant(a), (n, r))
    else:
        r = at_least(at_most(r, 1.0), -1.0)
    return n, r + (a - a)


def _sin_cos(r: Term) -> tuple[Term, Term]:
    table = _TABLES[r.dtype]
    z = r * r
    sine = (r * z).fma(horner(z, table.sin), r)
    return sine, (z * z).fma(horner(z, table.cos), z.fma(-0.5, 1.0))


def _quarter(n: Term, sine: Term, cosine: Term) -> Term:
    """sin(n pi/2 + r) of sin r and cos r."""
    value = select((n & 1).apply("ne", 0), cosine, sine)
    f = format_of(value)
    flip = (n & 2) << (f.bits.bits - 2)
    return (value.bitcast(f.bits) ^ flip).bitcast(value.dtype)


def _sin(x: Term) -> Term:
    """At most 2 ULP up to 2**17 for f32 and 2**45 for f64, and 3 ULP for all other f32."""
    n, r = _reduced(abs(x))
    f = format_of(x)
    value = _quarter(n, *_sin_cos(r))
    sign = x.bitcast(f.bits) & -(1 << (f.bits.bits - 1))
    return (value.bitcast(f.bits) ^ sign).bitcast(x.dtype)


def _cos(x: Term) -> Term:
    """At most 2 ULP up to 2**17 for f32 and 2**45 for f64, and 3 ULP for all other f32."""
    n, r = _reduced(abs(x))
    return _quarter(n + 1, *_sin_cos(r))


def _tan(x: Term) -> Term:
    """At most 4 ULP up to 2**17 for f32 and 2**45 for f64, and 5 ULP for all other f32."""
    n, r = _reduced(abs(x))
    sine, cosine = _sin_cos(r)
    odd = (n & 1).apply("ne", 0)
    size = select(odd, -cosine, sine) / select(odd, sine, cosine)
    f = format_of(x)
    sign = x.bitcast(f.bits) & -(1 << (f.bits.bits - 1))
    return (size.bitcast(f.bits) ^ sign).bitcast(x.dtype)


sin, cos, tan = formula(_sin), formula(_cos), formula(_tan)
