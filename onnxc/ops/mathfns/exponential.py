"""exp, exp2, expm1 and sigmoid, and the pieces of them that other families are made of.

exp(x) = 2**n * exp(r) with n = round(x / ln 2) and r = x - n ln 2 in two steps, the first of them exact (Cody and
Waite); exp(r) is a polynomial that minimises the greatest relative error on [-ln 2 / 2, ln 2 / 2] (Remez exchange,
coefficients then rounded to the format).
"""

from __future__ import annotations

import dataclasses

from onnxc.ir.types import F32, F64, DType
from onnxc.ops.expander import Term, formula, select
from onnxc.ops.mathfns.floats import (
    Pair,
    at_least,
    at_most,
    format_of,
    horner,
    ldexp_by_two,
    power_of_two,
    round_to_integer,
)

__all__ = ["LN2", "beyond_exp", "exp", "exp2", "exp2_of_sum", "exp_reduced", "expm1", "exponential_of_negative",
           "is_tiny", "ldexp", "quarter_expm1", "sigmoid"]

_LOG2E = 1.4426950408889634
# ln 2 as the sum of two numbers of the format, the first so short that its products with exponents are exact
LN2 = {F32: (0.693145751953125, 1.428606765330187e-06), F64: (0.6931471804855391, 7.440617110012397e-11)}


@dataclasses.dataclass(frozen=True, slots=True)
class _Table:
    """`low`, `high`: beyond them exp gives 0 and infinity. `exp` and `expm1` hold (exp(r) - 1 - r) / r**2, `exp2` holds
    (2**r - 1) / r. `lift` moves the exponents of exp(low) ... 1 into the normal range."""

    low: float
    high: float
    lift: int
    exp: tuple[float, ...]
    exp2: tuple[float, ...]
    expm1: tuple[float, ...]


_TABLES = {
    F32: _Table(
        low=-104.0, high=89.0, lift=64,
        exp=(0.4999999403953552, 0.1666651964187622, 0.041668400168418884, 0.00836885068565607, 0.001381435664370656),
        exp2=(0.6931472420692444, 0.24022655189037323, 0.05550272762775421, 0.009617065079510212,
              0.0013417802983894944, 0.00015823388821445405),
        expm1=(0.5, 0.16666635870933533, 0.041666511446237564, 0.008341672830283642, 0.0013930564746260643,
               0.00014905474381521344)),
    F64: _Table(
        low=-746.0, high=710.0, lift=600,
        exp=(0.5000000000000011, 0.16666666666666408, 0.041666666666528136, 0.008333333333496928,
             0.0013888888944244445, 0.00019841269502826654, 2.4801492390686863e-05, 2.7557588284035376e-06,
             2.7630523239004494e-07, 2.4999915395522407e-08),
        exp2=(0.6931471805599453, 0.24022650695910175, 0.055504108664824574, 0.009618129107576465,
              0.0013333558145569111, 0.00015403530479615583, 1.5252734734366471e-05, 1.3215424111158216e-06,
              1.0177658673704501e-07, 7.075678748953616e-09, 4.518724898634517e-10),
        expm1=(0.5, 0.16666666666666677, 0.04166666666666671, 0.008333333333320182, 0.0013888888888841807,
               0.00019841269890206003, 2.4801587441828683e-05, 2.7557239755403642e-06, 2.755714839445264e-07,
               2.511069098231701e-08, 2.0960672677026798e-09)),
}


def _reduced(x: Term, lift: int = 0) -> tuple[Term, Term, Term]:
    """n, the shifted n + lift, and r = x - n ln 2."""
    high, low = LN2[x.dtype]
    n, shifted = round_to_integer(x, _LOG2E, lift)
    return n, shifted, n.fma(-low, n.fma(-high, x))


def _exp_of_small(r: Term) -> Term:
    return horner(r, (1.0, 1.0, *_TABLES[r.dtype].exp))


def _exp(x: Term) -> Term:
    """At most 1 ULP; 0, denormal and infinite results where they are the nearest."""
    table = _TABLES[x.dtype]
    n, _, r = _reduced(at_least(at_most(x, table.high), table.low))
    # Masks are -inf or near it. Processors take over ten times as long for a result that underflows as for 0 * 2**n.
    return select(x < table.low, 0.0, _exp_of_small(r)).apply("ldexp", n)


def exponential_of_negative(x: Term) -> Term:
    """exp(x) for x <= 0 (or NaN), at most 1 ULP and fewer steps."""
    table = _TABLES[x.dtype]
    value, power = exp_reduced(at_least(x, table.low), table.lift)
    return value * power * 2.0**-table.lift


def _exp2(x: Term) -> Term:
    """At most 1 ULP."""
    bias, mantissa = format_of(x).bias, format_of(x).mantissa
    x = at_least(at_most(x, bias + 2.0), -bias - mantissa - 2.0)
    n, _ = round_to_integer(x, 1.0)
    r = x - n
    return horner(r, (1.0, *_TABLES[x.dtype].exp2)).apply("ldexp", n)


def exp2_of_sum(x: Term, low: Term) -> Term:
    """2**(x + low), |low| far below |x|, at most 1 ULP. What `low` is does not matter where x is out of range."""
    f = format_of(x)
    high = f.bias + 2.0
    low = select(abs(x) < 2.0 * f.bias, low, 0.0)
    x = at_least(at_most(x, high), -high - f.mantissa)
    n, _ = round_to_integer(x, 1.0)
    return horner((x - n) + low, (1.0, *_TABLES[x.dtype].exp2)).apply("ldexp", n)


def exp_reduced(x: Term, lift: int) -> Pair:
    """exp(r) and 2**(n + lift), whose product is exp(x) * 2**lift; x is such that the power is a normal number."""
    _, shifted, r = _reduced(x, lift)
    return _exp_of_small(r), power_of_two(shifted)


def quarter_expm1(x: Term) -> Term:
    """(exp(x) - 1) / 4, at most 2 ULP unless tiny; |x| below twice the mantissa, or up to `beyond_exp`."""
    _, shifted, r = _reduced(x, -2)
    quarter = power_of_two(shifted)
    small = (r * r).fma(horner(r, _TABLES[x.dtype].expm1), r)
    return quarter.fma(small, quarter - 0.25)


def beyond_exp(dtype: DType) -> float:
    """A number a little above where exp / 2 overflows."""
    return _TABLES[dtype].high + 0.5


def is_tiny(x: Term) -> Term:
    """Whether scaling x by 1/4 could lose bits. Odd functions of slope 1 at 0 are then x, with the sign of zero."""
    return abs(x) < format_of(x).least_normal * 8.0


def _expm1(x: Term) -> Term:
    """At most 2 ULP."""
    least = -2.0 * format_of(x).mantissa
    value = quarter_expm1(at_least(at_most(x, beyond_exp(x.dtype)), least)) * 4.0
    return select(is_tiny(x), x, value)


def _sigmoid(x: Term) -> Term:
    """At most 2.5 ULP, in [0, 1]. With e = exp(-|x|): 1 / (1 + e), or e / (1 + e) where x < 0; nothing overflows."""
    e = exponential_of_negative(-abs(x))
    return select(x < 0.0, e, 1.0) / (e + 1.0)


ldexp = formula(ldexp_by_two)
exp, exp2, expm1, sigmoid = formula(_exp), formula(_exp2), formula(_expm1), formula(_sigmoid)
