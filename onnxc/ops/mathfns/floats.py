"""What the expansions share: float formats, polynomials, exact sums and products, scaling by powers of two."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from onnxc.ir.types import F32, I32, I64, U32, U64, DType
from onnxc.ops.expander import Term, select

__all__ = ["Format", "Pair", "at_least", "at_most", "exact_product", "format_of", "horner", "ldexp_by_two",
           "power_of_two", "quick_sum", "round_to_integer"]


@dataclasses.dataclass(frozen=True, slots=True)
class Format:
    """An IEEE format: the integer types of its bits, `mantissa` explicit bits, exponent `bias`, sqrt(1/2) as bits."""

    bits: DType
    unsigned: DType
    mantissa: int
    bias: int
    sqrt_half: int

    @property
    def shifter(self) -> float:
        """Adding it rounds a number below 2**(mantissa - 1) to an integer, which then stands in the low bits."""
        return 1.5 * 2.0**self.mantissa

    @property
    def one(self) -> int:
        """The bits of 1.0."""
        return self.bias << self.mantissa

    @property
    def mantissa_mask(self) -> int:
        return (1 << self.mantissa) - 1

    @property
    def shifter_bits(self) -> int:
        """The bits of `shifter`."""
        return ((self.bias + self.mantissa) << self.mantissa) + (1 << (self.mantissa - 1))

    @property
    def least_normal(self) -> float:
        return 2.0 ** (1 - self.bias)


_SINGLE = Format(I32, U32, 23, 127, 0x3F3504F3)
_DOUBLE = Format(I64, U64, 52, 1023, 0x3FE6A09E667F3BCD)
Pair = tuple[Term, Term]        # a number as the sum of two floats, the second at most half an ULP of the first


def format_of(x: Term) -> Format:
    return _SINGLE if x.dtype == F32 else _DOUBLE


def horner(x: Term, coefficients: Sequence[float]) -> Term:
    """The polynomial with these coefficients, of the constant term first."""
    result = x.const(coefficients[-1])
    for c in reversed(coefficients[:-1]):
        result = result.fma(x, c)
    return result


def at_most(x: Term, limit: float) -> Term:
    """min(x, limit), NaN for NaN: one machine instruction in this form."""
    return select(x > limit, limit, x)


def at_least(x: Term, limit: float) -> Term:
    return select(x < limit, limit, x)


def round_to_integer(x: Term, times: float, lift: int = 0) -> Pair:
    """n = x * times rounded to an integer, and the shifted float whose low bits hold n + lift. |n + lift| is below
    2**(mantissa - 1)."""
    shifter = format_of(x).shifter + lift
    shifted = x.fma(times, shifter)
    return shifted - shifter, shifted


def power_of_two(shifted: Term) -> Term:
    """2**(n + lift) for what `round_to_integer` shifted; a normal number, n + lift in [1 - bias, bias]."""
    f = format_of(shifted)
    return ((shifted.bitcast(f.bits) << f.mantissa) + f.one).bitcast(shifted.dtype)


def ldexp_by_two(x: Term, n: Term) -> Term:
    """x * 2**n in two steps of half the exponent, so that only a denormal result is rounded; |n| < 2 * bias."""
    f = format_of(x)
    shifted = (n + f.shifter).bitcast(f.bits)
    whole = shifted << f.mantissa
    half = (shifted << (f.mantissa - 1)) & -(1 << f.mantissa)
    return x * (half + f.one).bitcast(x.dtype) * (whole - half + f.one).bitcast(x.dtype)


def quick_sum(a: Term, b: Term) -> Pair:
    """a + b and its rounding error, for |a| >= |b| or a = 0 (Dekker)."""
    total = a + b
    return total, b - (total - a)


def exact_product(a: Term, b: Term) -> Pair:
    """a * b and its rounding error."""
    product = a * b
    return product, a.fma(b, -product)
