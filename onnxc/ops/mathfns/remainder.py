"""What division of floats leaves: fmod and modulo, exact for every pair of operands.

The quotient is taken off in pieces of as many bits as a float has: a remainder r - q y with an integer q that is r / y
rounded is a float, so that each step is exact. One step does for quotients below 2**mantissa; the others are rare.
"""

from __future__ import annotations

import math

from onnxc.ops.expander import Term, formula, rarely, select
from onnxc.ops.mathfns.floats import format_of

__all__ = ["modulo", "remainder"]


def _step(r: Term, y: Term) -> Term:
    """r modulo y, for 0 <= r < y * 2**mantissa; r itself where y has overflowed."""
    q = (r / y).apply("trunc")
    rest = (-q).fma(y, r)
    rest = select(rest < 0.0, rest + y, rest)           # r / y was rounded up to an integer
    return select(y < math.inf, rest, r)


def _steps(r: Term, y: Term) -> Term:
    """r modulo y * 2**mantissa, for r >= 0 and y > 0."""
    f = format_of(r)
    for n in range(-(-2 * (f.bias + f.mantissa) // f.mantissa), 0, -1):
        multiple, exponent = y, n * f.mantissa
        while exponent > 0:                             # in steps, as 2**exponent may be too great
            multiple, exponent = multiple * 2.0 ** min(exponent, f.bias), exponent - f.bias
        r = _step(r, multiple)
    return r


def _size(x: Term, y: Term) -> Term:
    """fmod(|x|, |y|)."""
    r, y = abs(x), abs(y)
    far = (r >= y * 2.0 ** format_of(x).mantissa) & (r < math.inf) & (y > 0.0)
    [near] = rarely(far, lambda: [_steps(r, y)], [r])
    result = _step(near, y)
    return select((r < math.inf) & (y.is_(y)), result, math.nan)


def _remainder(x: Term, y: Term) -> Term:
    """Exact, with the sign of x; NaN for y = 0 and for infinite x."""
    return _size(x, y).apply("copysign", x)


def _modulo(x: Term, y: Term) -> Term:
    """The remainder plus y where the signs differ (rounded once), with the sign of y."""
    rest = _remainder(x, y)
    zero = rest.is_(0.0)
    rest = select(~zero & ((rest < 0.0) ^ (y < 0.0)), rest + y, rest)
    return select(zero, rest.apply("copysign", y), rest)


remainder, modulo = formula(_remainder), formula(_modulo)
