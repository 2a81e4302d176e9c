"""What a row's `expand` is written with: the `Expander` that a backend gives it, and `Term`, which makes formulas.

An expansion is branch-free and works alike on one element and on a vector of them. It owns no arithmetic: every step
is a row of the scalar table, so that numpy, LLVM and Triton run the same formula.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from onnxc.ir.types import BOOL, DType

__all__ = ["Expander", "Term", "formula", "rarely", "select"]

_TESTS = frozenset(("eq", "ne", "lt", "le", "gt", "ge", "isnan", "isinf"))      # give bool


class Expander(Protocol):
    """What an `expand` function builds with: a backend's emitter, or numpy in tests. Values are the backend's own, and
    each must know its element type: an expansion mixes floats, the integers of their bits and bools, and the column
    of an op is chosen by the type of its operands."""

    @property
    def dtype(self) -> DType:
        """Element type of the operands of the row that is expanded."""

    def __call__(self, name: str, *args: Any) -> Any:
        """Apply the scalar op `name`."""

    def const(self, value: float | int | bool, dtype: DType | None = None) -> Any:
        """A constant of the operands' type (or of `dtype`), exactly `value` rounded to that type once."""

    def cast(self, value: Any, to: DType) -> Any:
        """Convert (see `s.cast`)."""

    def bitcast(self, value: Any, to: DType) -> Any:
        """Reinterpret the bits as a type of the same width."""


class Term:
    """A value of an expansion with its element type. Operators apply rows of the table; a Python number among the
    operands is a constant of the term's type. `~`, `&` and `|` are logical on bools and bitwise on integers."""

    __slots__ = ("dtype", "e", "value")

    def __init__(self, e: Expander, value: Any, dtype: DType) -> None:
        self.e, self.value, self.dtype = e, value, dtype

    def const(self, value: float | int | bool, dtype: DType | None = None) -> Term:
        """A constant of this term's type, or of `dtype`."""
        dtype = dtype or self.dtype
        return Term(self.e, self.e.const(value, dtype), dtype)

    def apply(self, name: str, *others: Term | float) -> Term:
        """Row `name` on this term and `others`, all of one type."""
        args = [self.value, *(o.value if isinstance(o, Term) else self.e.const(o, self.dtype) for o in others)]
        return Term(self.e, self.e(name, *args), BOOL if name in _TESTS else self.dtype)

    def cast(self, to: DType) -> Term:
        return Term(self.e, self.e.cast(self.value, to), to)

    def bitcast(self, to: DType) -> Term:
        return Term(self.e, self.e.bitcast(self.value, to), to)

    def fma(self, times: Term | float, plus: Term | float) -> Term:
        """self * times + plus, rounded once."""
        return self.apply("fma", times, plus)

    def is_(self, other: Term | float) -> Term:
        """Elements that are equal (`==` stays Python's)."""
        return self.apply("eq", other)

    def __add__(self, other: Term | float) -> Term:
        return self.apply("add", other)

    def __radd__(self, other: float) -> Term:
        return self.apply("add", other)

    def __sub__(self, other: Term | float) -> Term:
        return self.apply("sub", other)

    def __rsub__(self, other: float) -> Term:
        return self.const(other) - self

    def __mul__(self, other: Term | float) -> Term:
        return self.apply("mul", other)

    def __rmul__(self, other: float) -> Term:
        return self.apply("mul", other)

    def __truediv__(self, other: Term | float) -> Term:
        return self.apply("div", other)

    def __rtruediv__(self, other: float) -> Term:
        return self.const(other) / self

    def __neg__(self) -> Term:
        return self.apply("neg")

    def __abs__(self) -> Term:
        return self.apply("abs")

    def __lt__(self, other: Term | float) -> Term:
        return self.apply("lt", other)

    def __le__(self, other: Term | float) -> Term:
        return self.apply("le", other)

    def __gt__(self, other: Term | float) -> Term:
        return self.apply("gt", other)

    def __ge__(self, other: Term | float) -> Term:
        return self.apply("ge", other)

    def __and__(self, other: Term | int) -> Term:
        return self.apply("and" if self.dtype == BOOL else "bit_and", other)

    def __or__(self, other: Term | int) -> Term:
        return self.apply("or" if self.dtype == BOOL else "bit_or", other)

    def __xor__(self, other: Term | int) -> Term:
        return self.apply("xor" if self.dtype == BOOL else "bit_xor", other)

    def __invert__(self) -> Term:
        return self.apply("not" if self.dtype == BOOL else "bit_not")

    def __lshift__(self, amount: Term | int) -> Term:
        """Shift by an amount in [0, width)."""
        return self.apply("lshift", amount)

    def __rshift__(self, amount: Term | int) -> Term:
        """Shift by an amount in [0, width); copies of the sign come in for signed integers."""
        return self.apply("rshift", amount)


def select(condition: Term, then: Term | float, otherwise: Term | float) -> Term:
    """`then` where the condition holds and `otherwise` elsewhere; one of the two at least is a term."""
    like = then if isinstance(then, Term) else otherwise
    if not isinstance(like, Term):
        raise TypeError("select between two Python numbers: make one of them a term, which says the type")
    e = condition.e
    a, b = (x.value if isinstance(x, Term) else e.const(x, like.dtype) for x in (then, otherwise))
    return Term(e, e("select", condition.value, a, b), like.dtype)


def rarely(condition: Term, then: Callable[[], Sequence[Term]], otherwise: Sequence[Term]) -> list[Term]:
    """The values of `then` where the condition holds, which is seldom, and `otherwise` elsewhere.

    An expander that can branch has a method `rarely(condition, then, otherwise)` on its own values, which runs `then`
    only if the condition holds for some lane; for others this is a selection.
    """
    e = condition.e
    branch = getattr(e, "rarely", None)
    if branch is None:
        return [select(condition, a, b) for a, b in zip(then(), otherwise, strict=True)]
    values = branch(condition.value, lambda: [t.value for t in then()], [t.value for t in otherwise])
    return [Term(e, v, t.dtype) for v, t in zip(values, otherwise, strict=True)]


def formula(function: Callable[..., Term]) -> Callable[..., Any]:
    """Make an `expand` function, from the expander's values to one of them, of a function on terms."""

    @functools.wraps(function)
    def expand(e: Expander, *args: Any) -> Any:
        return function(*(Term(e, a, e.dtype) for a in args)).value

    return expand
