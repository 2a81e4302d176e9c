"""Integer ops that machines leave undefined somewhere: guarded so that every operand gives what the table says."""

from __future__ import annotations

from onnxc.ops.expander import Term, formula, select

__all__ = ["divide", "modulo", "power", "remainder", "shift_left", "shift_right", "sign"]


def _guarded(x: Term, y: Term) -> tuple[Term, Term]:
    """Where x / y is not for the machine to compute, and the divisor to use there and elsewhere."""
    unsafe = y.is_(0) | y.is_(-1) if x.dtype.is_signed else y.is_(0)
    return unsafe, select(unsafe, 1, y)


def _divide(x: Term, y: Term) -> Term:
    unsafe, divisor = _guarded(x, y)
    quotient = x.apply("quot", divisor)
    return select(unsafe, select(y.is_(0), 0, 0 - x) if x.dtype.is_signed else 0, quotient)


def _remainder(x: Term, y: Term) -> Term:
    unsafe, divisor = _guarded(x, y)
    return select(unsafe, 0, x.apply("rem", divisor))


def _modulo(x: Term, y: Term) -> Term:
    rest = _remainder(x, y)
    if not x.dtype.is_signed:
        return rest
    return select((rest.apply("ne", 0)) & ((rest ^ y) < 0), rest + y, rest)


def _shift_left(x: Term, n: Term) -> Term:
    inside = _in_width(n)
    return select(inside, x << select(inside, n, 0), 0)


def _shift_right(x: Term, n: Term) -> Term:
    inside = _in_width(n)
    if x.dtype.is_signed:
        return x >> select(inside, n, x.dtype.bits - 1)
    return select(inside, x >> select(inside, n, 0), 0)


def _in_width(n: Term) -> Term:
    inside = n < n.dtype.bits
    return inside & (n >= 0) if n.dtype.is_signed else inside


def _power(x: Term, n: Term) -> Term:
    """Square and multiply over all bits of the exponent, modulo 2**width."""
    result, base = x.const(1), x
    for bit in range(x.dtype.bits):
        taken = (n & (1 << bit if bit < x.dtype.bits - 1 or not x.dtype.is_signed else -(1 << bit))).apply("ne", 0)
        result = select(taken, result * base, result)
        base = base * base
    if not x.dtype.is_signed:
        return result
    of_minus_one = select((n & 1).is_(0), n.const(1), -1)
    reciprocal = select(x.is_(1), x.const(1), select(x.is_(-1), of_minus_one, 0))
    return select(n < 0, reciprocal, result)


def _sign(x: Term) -> Term:
    positive = select(x > 0, x.const(1), 0)
    return select(x < 0, -1, positive) if x.dtype.is_signed else positive


divide, remainder, modulo = formula(_divide), formula(_remainder), formula(_modulo)
shift_left, shift_right = formula(_shift_left), formula(_shift_right)
power, sign = formula(_power), formula(_sign)
