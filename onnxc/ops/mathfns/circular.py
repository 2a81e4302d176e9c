"""sin, cos and tan.

|x| = n pi/2 + r with an integer n, |r| <= pi/4. For moderate |x| the difference is taken with pi/2 as the sum of three
floats and fused steps (Cody and Waite). Beyond, it is multiplied by the bits of 2/pi that matter, in integers (Payne
and Hanek). sin(r) and cos(r) are polynomials of least greatest relative error (Remez exchange, coefficients rounded to
the format).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

from onnxc.ir.types import F32, F64, I64, U32, U64, DType
from onnxc.ops.expander import Term, formula, rarely, select
from onnxc.ops.mathfns.floats import Pair, format_of, horner, quick_sum, round_to_integer

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

# Up to here the nearest n is found, and three floats for pi/2 are enough.
_LIMIT = {F32: 2.0**17, F64: 2.0**45}

# 2/pi in words of 32 bits, after one word of zeros.
_TWO_OVER_PI = (
    0, 0xA2F9836E, 0x4E441529, 0xFC2757D1, 0xF534DDC0, 0xDB629599, 0x3C439041, 0xFE5163AB, 0xDEBBC561, 0xB7246E3A,
    0x424DD2E0, 0x06492EEA, 0x09D1921C, 0xFE1DEB1C, 0xB129A73E, 0xE88235F5, 0x2EBB4484, 0xE99C7026, 0xB45F7E41,
    0x3991D639, 0x835339F4, 0x9C845F8B, 0xBDF9283B, 0x1FF897FF, 0xDE05980F, 0xEF2F118B, 0x5A0A6D1F, 0x6D367ECF,
    0x27CB09B7, 0x4F463F66, 0x9E5FEA2D, 0x7527BAC7, 0xEBE5F17B, 0x3D0739F7, 0x8A5292EA, 0x6BFB5FB1, 0x1F8D5D08,
    0x56033046,
)


def _nearby(a: Term) -> Pair:
    """n, as an integer modulo a power of two, and r, for a in [0, limit]."""
    table = _TABLES[a.dtype]
    n, shifted = round_to_integer(a, table.two_over_pi)
    r = a
    for part in table.half_pi:
        r = n.fma(-part, r)
    return shifted.bitcast(format_of(a).bits), r


def _window(place: Term, count: int, most: int) -> list[Term]:
    """`count` words of the table from bit `place` on, which is at most `most`."""
    steps = [1 << i for i in reversed(range((most >> 5).bit_length()))]
    words = [place.const(w) for w in _TWO_OVER_PI[:(most >> 5) + count + 1]]
    for i, step in enumerate(steps):
        far = (place & (step << 5)).apply("ne", 0)
        reach = count + 1 + sum(steps[i + 1:])          # what the later steps can ask for
        words = [select(far, words[k + step], words[k]) if k + step < len(words) else words[k]
                 for k in range(min(reach, len(words)))]
    shift = place & 31
    return [(high << shift) | ((low >> 1) >> (31 - shift)) for high, low in itertools.pairwise(words)]


def _product(limbs: Sequence[Term], words: Sequence[Term]) -> list[Term]:
    """The product of two numbers in 32-bit digits, as many low ones as `words` has; `limbs` starts with the low digit,
    `words` and the result with the high one; all are u64."""
    products = {(j, i): limb * word for j, limb in enumerate(limbs) for i, word in enumerate(words)}
    digits = []
    carry = words[0].const(0)
    for k in reversed(range(len(words))):
        total = carry
        for j in range(len(limbs)):
            if (j, k + j) in products:
                total = total + (products[j, k + j] & 0xFFFFFFFF)
            if (j, k + j + 1) in products:
                total = total + (products[j, k + j + 1] >> 32)
        digits.append(total & 0xFFFFFFFF)
        carry = total >> 32
    return digits[::-1]


def _distant(a: Term) -> Pair:
    """n and r as in `_nearby`, for finite a > limit.

    a = m * 2**(exponent - mantissa). The window of 2/pi starts 2 bits before the binary point of a * (2/pi) for m = 1:
    what stands before it makes multiples of 4. It is three times as long as m, as a may be near a multiple of pi/2.
    """
    f = format_of(a)
    bits = a.bitcast(f.unsigned)
    size = f.bits.bits // 32
    place = (bits >> f.mantissa) - (f.bias + f.mantissa + 2 - 32)
    words = _window(place.cast(U32), 3 * size, f.bias - f.mantissa - 2 + 32)
    m = ((bits & f.mantissa_mask) | (f.mantissa_mask + 1)).cast(U64)
    digits = _product([m] if size == 1 else [m & 0xFFFFFFFF, m >> 32], [w.cast(U64) for w in words])
    turns = (digits[0] << 32) | digits[1]               # quarters of a turn, with 62 bits behind the point
    n = (turns + (1 << 61)) >> 62
    return n.cast(f.bits), _radians((turns - (n << 62)).bitcast(I64), digits[2:], a.dtype)


def _radians(rest: Term, more: Sequence[Term], to: DType) -> Term:
    """rest / 2**62 quarters of a turn in radians; `more` are further digits. In pieces, each of them exact or so much
    smaller than the one before that its rounding does not matter, even if the leading ones are 0."""
    cut = 40 if to == F32 else 32
    head = (rest + (1 << (cut - 1))) >> cut
    high, low = quick_sum(head.cast(to) * 2.0**cut, (rest - (head << cut)).cast(to))
    if to == F64:
        low = ((more[0] << 31) | (more[1] >> 1)).bitcast(I64).cast(to).fma(2.0**-63, low)
    scale, scale_low, _ = (part / 2.0**62 for part in _TABLES[to].half_pi)
    return high.fma(scale, high.fma(scale_low, low * scale))


def _reduced(a: Term) -> Pair:
    """n modulo 4 in its low bits and r, for a >= 0; r is NaN for infinities and NaN."""
    n, r = rarely(a > _LIMIT[a.dtype], lambda: _distant(a), _nearby(a))
    return n, r + (a - a)


def _sin_cos(r: Term) -> Pair:
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
    """At most 2 ULP."""
    n, r = _reduced(abs(x))
    f = format_of(x)
    value = _quarter(n, *_sin_cos(r))
    sign = x.bitcast(f.bits) & -(1 << (f.bits.bits - 1))
    return (value.bitcast(f.bits) ^ sign).bitcast(x.dtype)


def _cos(x: Term) -> Term:
    """At most 2 ULP."""
    n, r = _reduced(abs(x))
    return _quarter(n + 1, *_sin_cos(r))


def _tan(x: Term) -> Term:
    """At most 4 ULP."""
    n, r = _reduced(abs(x))
    sine, cosine = _sin_cos(r)
    odd = (n & 1).apply("ne", 0)
    size = select(odd, -cosine, sine) / select(odd, sine, cosine)
    f = format_of(x)
    sign = x.bitcast(f.bits) & -(1 << (f.bits.bits - 1))
    return (size.bitcast(f.bits) ^ sign).bitcast(x.dtype)


sin, cos, tan = formula(_sin), formula(_cos), formula(_tan)
