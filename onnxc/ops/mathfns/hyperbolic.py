"""Hyperbolic functions and their inverses, made of the pieces of exp and of log1p."""

from __future__ import annotations

import math

from onnxc.ir.types import F32
from onnxc.ops.expander import Term, formula, select
from onnxc.ops.mathfns.exponential import beyond_exp, exp_reduced, is_tiny, quarter_expm1
from onnxc.ops.mathfns.floats import at_most, format_of, horner

__all__ = ["acosh", "asinh", "atanh", "cosh", "sinh", "tanh"]

# (tanh(x) - x) / x**3 in x**2 for |x| < 0.625: least greatest relative error, by Remez exchange
_TANH32 = (-0.3333328068256378, 0.13331441581249237, -0.05373971909284592, 0.020639104768633842, -0.005705008748918772)


def _sinh(x: Term) -> Term:
    """At most 3 ULP. With q = expm1(|x|) / 4: sinh |x| = 2q + 2q / (4q + 1), where nothing overflows early."""
    q = quarter_expm1(at_most(abs(x), beyond_exp(x.dtype)))
    twice = q + q
    # The divisor stays finite, so that infinities do not meet.
    size = twice + twice / at_most(q.fma(4.0, 1.0), 2.0**format_of(x).bias)
    return select(is_tiny(x), x, size.apply("copysign", x))


def _cosh(x: Term) -> Term:
    """At most 2 ULP. With q = exp(|x|) / 4: cosh x = 2q + 1 / (8q)."""
    value, power = exp_reduced(at_most(abs(x), beyond_exp(x.dtype)), -2)
    q = value * power
    return q.fma(2.0, 0.125 / q)


def _tanh32(x: Term) -> Term:
    """A polynomial below 0.6, and 1 - 2 / (exp(2|x|) + 1) above. (A rational function takes fewer steps, but its
    roundings add up to 5 ULP, and to more than 1.)"""
    a = abs(x)
    square = x * x
    inner = (square * x).fma(horner(square, _TANH32), x)
    value, power = exp_reduced(at_most(a + a, 20.0), 0)
    outer = 1.0 - 2.0 / value.fma(power, 1.0)
    return select(a < 0.6, inner, outer).apply("copysign", x)


def _tanh64(x: Term) -> Term:
    """With q = expm1(2|x|) / 4: q / (q + 1/2)."""
    q = quarter_expm1(at_most(abs(x), 20.0) * 2.0)
    return select(is_tiny(x), x, (q / (q + 0.5)).apply("copysign", x))


def _tanh(x: Term) -> Term:
    """At most 2 ULP for f32 and 3 ULP for f64, in [-1, 1], odd."""
    return _tanh32(x) if x.dtype == F32 else _tanh64(x)


def _asinh(x: Term) -> Term:
    """At most 2 ULP. log1p(a + a**2 / (1 + sqrt(a**2 + 1))) for a = |x|; where a + 1 is a, log1p(a) + ln 2."""
    a = abs(x)
    large = a > 2.0 ** (format_of(x).mantissa + 2)
    square = a * a
    argument = select(large, a, a + square / ((square + 1.0).apply("sqrt") + 1.0))
    size = argument.apply("log1p") + select(large, a.const(math.log(2)), 0.0)
    return size.apply("copysign", x)


def _acosh(x: Term) -> Term:
    """At most 3 ULP; NaN below 1. log1p(t + sqrt(2t + t**2)) for t = x - 1; for large x, log1p(t) + ln 2."""
    t = x - 1.0
    large = x > 2.0 ** (format_of(x).mantissa / 2 + 2)
    argument = select(large, t, t + t.fma(t, t + t).apply("sqrt"))
    value = argument.apply("log1p") + select(large, t.const(math.log(2)), 0.0)
    return select(x < 1.0, math.nan, value)


def _atanh(x: Term) -> Term:
    """At most 3 ULP; infinite at 1 and -1, NaN beyond. log1p(2a / (1 - a)) / 2 for a = |x|."""
    a = abs(x)
    size = ((a + a) / (1.0 - a)).apply("log1p") * 0.5
    return select(is_tiny(x), x, select(a > 1.0, math.nan, size).apply("copysign", x))


sinh, cosh, tanh = formula(_sinh), formula(_cosh), formula(_tanh)
asinh, acosh, atanh = formula(_asinh), formula(_acosh), formula(_atanh)
