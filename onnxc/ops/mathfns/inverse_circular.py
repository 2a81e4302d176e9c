"""asin, acos and atan: arguments brought near 0 by identities, then polynomials of least greatest relative error (Remez
exchange, coefficients rounded to the format)."""

from __future__ import annotations

import math

from onnxc.ir.types import F32, F64
from onnxc.ops.expander import Term, formula, select
from onnxc.ops.mathfns.floats import horner

__all__ = ["acos", "asin", "atan"]

# pi/2 as the sum of two numbers of the format
_HALF_PI = {F32: (1.5707963705062866, -4.371138828673793e-08), F64: (1.5707963267948966, 6.123233995736766e-17)}

# (asin s - s) / s**3 in s**2, for |s| <= 1/2
_ASIN = {
    F32: (0.16666659712791443, 0.07500506937503815, 0.04451632872223854, 0.03181326761841774, 0.014416512101888657,
          0.03754895552992821),
    F64: (0.16666666666666763, 0.07499999999970398, 0.04464285717501574, 0.03038194268741853, 0.02237221558774775,
          0.017351600787061664, 0.0139809602240592, 0.011397729488009779, 0.010787097486735094, 0.0036797658432832754,
          0.021774138887108642, -0.02109602032225832, 0.032690835540860004),
}

# (atan t - t) / t**3 in t**2: f32 for |t| <= 1, f64 for |t| <= tan(pi/8)
_ATAN = {
    F32: (-0.33333298563957214, 0.19998548924922943, -0.14264240860939026, 0.10952184349298477, -0.08403447270393372,
          0.057957544922828674, -0.03117779642343521, 0.010914577171206474, -0.0017936150543391705),
    F64: (-0.333333333333332, 0.19999999999953227, -0.14285714280165146, 0.11111110782104498, -0.0909089772419542,
          0.07692059703538075, -0.06663099084722879, 0.05847858603180001, -0.050391880082627176, 0.03806208856222527,
          -0.017904990183353394),
}


def _half_angle(x: Term) -> tuple[Term, Term]:
    """Whether |x| > 1/2, and there asin(sqrt((1 - |x|) / 2)), else asin |x|; NaN beyond 1."""
    a = abs(x)
    outer = a > 0.5
    square = select(outer, a.fma(-0.5, 0.5), a * a)
    s = select(outer, square.apply("sqrt"), a)
    return outer, (s * square).fma(horner(square, _ASIN[x.dtype]), s)


def _asin(x: Term) -> Term:
    """At most 3 ULP; NaN beyond 1."""
    high, low = _HALF_PI[x.dtype]
    outer, angle = _half_angle(x)
    size = select(outer, high - angle.fma(2.0, -low), angle)
    return size.apply("copysign", x)


def _acos(x: Term) -> Term:
    """At most 2 ULP; NaN beyond 1."""
    high, low = _HALF_PI[x.dtype]
    outer, angle = _half_angle(x)
    inner = high - (angle.apply("copysign", x) - low)
    twice = angle + angle
    return select(outer, select(x < 0.0, 2.0 * high - (twice - 2.0 * low), twice), inner)


def _atan32(a: Term) -> tuple[Term, Term, Term]:
    """t and pi/2 or 0, in two parts, with atan a = atan t + the rest."""
    large = a > 1.0
    high, low = _HALF_PI[a.dtype]
    t = select(large, -1.0, a) / select(large, a, 1.0)
    return t, select(large, a.const(high), 0.0), select(large, a.const(low), 0.0)


def _atan64(a: Term) -> tuple[Term, Term, Term]:
    """As `_atan32`, with pi/4 between."""
    large, middle = a > math.tan(3 * math.pi / 8), a > math.tan(math.pi / 8)
    high, low = _HALF_PI[a.dtype]
    above = select(large, -1.0, select(middle, a - 1.0, a))
    below = select(large, a, select(middle, a + 1.0, 1.0))
    turn = select(large, a.const(1.0), select(middle, a.const(0.5), 0.0))
    return above / below, turn * high, turn * low


def _atan(x: Term) -> Term:
    """At most 2 ULP."""
    t, high, low = (_atan32 if x.dtype == F32 else _atan64)(abs(x))
    square = t * t
    size = high + (t + (t * square).fma(horner(square, _ATAN[x.dtype]), low))
    return size.apply("copysign", x)


asin, acos, atan = formula(_asin), formula(_acos), formula(_atan)
