"""Symbolic dimensions: integer expressions over named, non-negative symbols.

A dim is a Python `int` when it is known and a `Dim` otherwise; every operation returns an `int` whenever the
result is one, so `isinstance(d, int)` asks "is it static". A `Dim` is a canonical sum of products over atoms; an
atom is a symbol or an opaque call (floordiv, mod, min, max) of canonical arguments. Two dims are equal exactly when
their canonical forms are; `provably_*` may answer False for facts that hold but need deeper reasoning.

The same expressions index kernels: there the loop axes are symbols too, and `Bounds` says how far each one runs.
Division and modulo round towards minus infinity (Python's rule) and their divisors are positive.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Union

__all__ = ["Bounds", "Call", "Dim", "DimLike", "Shape", "calls_of", "ceildiv", "dim_joint", "dim_max", "dim_min",
           "evaluate", "floordiv", "linear_parts", "mod", "parse_dim", "product", "provably_less", "provably_nonneg",
           "recombine", "simplify", "substitute", "sym", "symbols_of", "weight"]

DimLike = Union[int, "Dim"]
Shape = tuple[DimLike, ...]
Atom = Union[str, "Call"]
Monomial = tuple[Atom, ...]          # sorted, with repetition; () is the constant term
_FUNCTIONS = ("floordiv", "mod", "min", "max")


class Call:
    """An opaque application of one of `_FUNCTIONS` to dims; compared by value."""

    __slots__ = ("_hash", "_text", "args", "fn")

    def __init__(self, fn: str, args: tuple[DimLike, ...]) -> None:
        self.fn, self.args = fn, args
        self._hash = hash((fn, args))
        self._text: str | None = None

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Call) and self._hash == other._hash
                                 and (self.fn, self.args) == (other.fn, other.args))

    def __str__(self) -> str:
        if self._text is None:
            self._text = self._render()
        return self._text

    def _render(self) -> str:
        if self.fn in ("min", "max"):
            return f"{self.fn}({', '.join(map(str, self.args))})"
        sign = "//" if self.fn == "floordiv" else "%"
        return f"({_operand(self.args[0])} {sign} {_operand(self.args[1])})"


def _operand(d: DimLike) -> str:
    text = str(d)
    return text if re.fullmatch(r"\w+|\([^()]*\)", text) else f"({text})"


def _atom_key(atom: Atom) -> tuple[int, str]:
    return (0, atom) if isinstance(atom, str) else (1, str(atom))


class Dim:
    """A canonical integer polynomial over atoms that is not a constant. Immutable; build it with arithmetic."""

    __slots__ = ("_hash", "_text", "terms")
    terms: tuple[tuple[Monomial, int], ...]

    def __init__(self, terms: tuple[tuple[Monomial, int], ...]) -> None:
        self.terms = terms
        self._hash = hash(terms)
        self._text: str | None = None

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Dim) and self._hash == other._hash and self.terms == other.terms)

    def __repr__(self) -> str:
        return f"Dim({self})"

    def __str__(self) -> str:
        if self._text is None:
            self._text = _render(self.terms)
        return self._text

    def __bool__(self) -> bool:
        raise TypeError(f"the truth of the symbolic dimension {self} is not known; compare or use provably_* instead")

    def __add__(self, other: DimLike) -> DimLike:
        return _combine(self, other, 1)

    __radd__ = __add__

    def __sub__(self, other: DimLike) -> DimLike:
        return _combine(self, other, -1)

    def __rsub__(self, other: DimLike) -> DimLike:
        return _combine(self * -1, other, 1)

    def __neg__(self) -> DimLike:
        return self * -1

    def __mul__(self, other: DimLike) -> DimLike:
        if not isinstance(other, (Dim, int)):
            return NotImplemented
        out: dict[Monomial, int] = {}
        for ma, ca in self.terms:
            for mb, cb in _terms(other):
                key = tuple(sorted(ma + mb, key=_atom_key))
                out[key] = out.get(key, 0) + ca * cb
        return _make(out)

    __rmul__ = __mul__

    def __floordiv__(self, other: DimLike) -> DimLike:
        return floordiv(self, other)

    def __rfloordiv__(self, other: DimLike) -> DimLike:
        return floordiv(other, self)

    def __mod__(self, other: DimLike) -> DimLike:
        return mod(self, other)

    def __rmod__(self, other: DimLike) -> DimLike:
        return mod(other, self)


def _terms(d: DimLike) -> tuple[tuple[Monomial, int], ...]:
    if isinstance(d, Dim):
        return d.terms
    return (((), int(d)),) if d else ()


def _make(terms: Mapping[Monomial, int]) -> DimLike:
    kept = [(m, c) for m, c in terms.items() if c]
    if not kept:
        return 0
    if len(kept) == 1:
        return kept[0][1] if kept[0][0] == () else Dim((kept[0],))
    kept.sort(key=lambda t: (not t[0], len(t[0]), tuple(map(_atom_key, t[0]))))
    return Dim(tuple(kept))


def _combine(a: DimLike, b: DimLike, sign: int) -> DimLike:
    if not isinstance(b, (Dim, int)):
        return NotImplemented
    out = dict(_terms(a))
    for m, c in _terms(b):
        out[m] = out.get(m, 0) + sign * c
    return _make(out)


def _render(terms: tuple[tuple[Monomial, int], ...]) -> str:
    parts: list[str] = []
    for mono, coef in terms:
        factors = [str(a) for a in mono]
        if not factors or abs(coef) != 1:
            factors.append(str(abs(coef)))
        parts.append(("- " if coef < 0 else "+ ") + "*".join(factors))
    text = " ".join(parts)
    return text[2:] if text.startswith("+ ") else "-" + text[2:]


def sym(name: str) -> Dim:
    """The symbol `name` (an identifier; it stands for a non-negative integer)."""
    if not re.fullmatch(r"[$A-Za-z_][\w.$]*", name):
        raise ValueError(f"'{name}' cannot name a dimension: use letters, digits, '_', '.' and '$'")
    return Dim((((name,), 1),))


def product(dims: Iterable[DimLike]) -> DimLike:
    """The product of `dims`; 1 for none (the element count of a shape)."""
    total: DimLike = 1
    for d in dims:
        total = total * d
    return total


def _divide_monomial(mono: Monomial, divisor: Monomial) -> Monomial | None:
    rest = list(mono)
    for atom in divisor:
        if atom not in rest:
            return None
        rest.remove(atom)
    return tuple(rest)


def _split(d: DimLike, n: DimLike) -> tuple[DimLike, DimLike]:
    """`(q, r)` with d == q*n + r, taking into q every term that n divides exactly (n a constant or one term)."""
    divisor = _terms(n)
    if len(divisor) != 1:
        return (1, 0) if d == n else (0, d)
    dm, dc = divisor[0]
    q: dict[Monomial, int] = {}
    r: dict[Monomial, int] = {}
    for mono, coef in _terms(d):
        rest = _divide_monomial(mono, dm)
        whole, left = divmod(coef, dc) if rest is not None else (0, coef)
        if rest is not None and whole:
            q[rest] = whole
        if left:
            r[mono] = left
    return _make(q), _make(r)


def floordiv(a: DimLike, n: DimLike) -> DimLike:
    """floor(a / n) for n > 0."""
    if isinstance(a, int) and isinstance(n, int):
        return a // n
    if n == 1 or a == 0:
        return a
    q, r = _split(a, n)
    if r == 0:
        return q
    if isinstance(n, int) and isinstance(r, int) and 0 <= r < n:
        return q
    return q + Dim((((Call("floordiv", (r, n)),), 1),))


def mod(a: DimLike, n: DimLike) -> DimLike:
    """a - n * floor(a / n) for n > 0."""
    if isinstance(a, int) and isinstance(n, int):
        return a % n
    if n == 1 or a == 0:
        return 0
    _, r = _split(a, n)
    if isinstance(r, int) and (r == 0 or (isinstance(n, int) and 0 <= r < n)):
        return r
    return Dim((((Call("mod", (r, n)),), 1),))


def ceildiv(a: DimLike, n: DimLike) -> DimLike:
    """ceil(a / n) for n > 0."""
    return floordiv(a + n - 1, n)


def _extremum(fn: str, args: Iterable[DimLike]) -> DimLike:
    pick = min if fn == "min" else max
    flat: list[DimLike] = []
    for a in args:
        if isinstance(a, Dim) and len(a.terms) == 1 and a.terms[0][1] == 1 and len(a.terms[0][0]) == 1 \
                and isinstance(a.terms[0][0][0], Call) and a.terms[0][0][0].fn == fn:
            flat.extend(a.terms[0][0][0].args)
        else:
            flat.append(a)
    consts = [a for a in flat if isinstance(a, int)]
    candidates: list[DimLike] = [*sorted({a for a in flat if isinstance(a, Dim)}, key=str)]
    if consts:
        candidates.append(pick(consts))
    keep: list[DimLike] = []
    for a in candidates:
        if not any(_dominates(fn, b, a) for b in keep):
            keep = [b for b in keep if not _dominates(fn, a, b)] + [a]
    if len(keep) == 1:
        return keep[0]
    return Dim((((Call(fn, tuple(keep)),), 1),))


def _dominates(fn: str, a: DimLike, b: DimLike) -> bool:
    """Whether `a` always is the min (max) of the two."""
    return provably_nonneg(b - a if fn == "min" else a - b) or _absorbs(fn, a, b)


def _absorbs(fn: str, a: DimLike, b: DimLike) -> bool:
    """Whether `b` is a max (min) of `a` and others: min(a, max(a, c)) is a, and max(a, min(a, c)) too."""
    if not isinstance(b, Dim) or len(b.terms) != 1 or b.terms[0][1] != 1 or len(b.terms[0][0]) != 1:
        return False
    call = b.terms[0][0][0]
    return isinstance(call, Call) and call.fn == ("max" if fn == "min" else "min") and a in call.args


def dim_min(*args: DimLike) -> DimLike:
    """The smallest of `args`."""
    return _extremum("min", args)


def dim_max(*args: DimLike) -> DimLike:
    """The largest of `args`."""
    return _extremum("max", args)


def dim_joint(*args: DimLike) -> DimLike:
    """What sizes broadcast to that are equal or 1: the largest, but 0 where one of them is 0. Where one of them always
    is the largest, it is that one."""
    sizes = {size for a in args for size in _jointly(a)} - {1} or {1}
    largest = dim_max(*sizes)
    return largest if largest in sizes else largest * dim_min(1, *sizes)


def _jointly(d: DimLike) -> tuple[DimLike, ...]:
    """The sizes of which `d` is the joint one, as `dim_joint` writes it."""
    if isinstance(d, Dim) and len(d.terms) == 1 and d.terms[0][1] == 1:
        calls = {a.fn: a.args for a in d.terms[0][0] if isinstance(a, Call)}
        if len(d.terms[0][0]) == 2 and calls.keys() == {"min", "max"} and {*calls["min"]} == {*calls["max"], 1}:
            return calls["max"]
    return (d,)


def _atoms(d: DimLike) -> Iterator[Atom]:
    for mono, _ in _terms(d):
        yield from mono


def calls_of(dims: Iterable[DimLike]) -> Iterator[Call]:
    """The calls that stand in dims, those inside of other calls left out."""
    return (atom for d in dims for atom in _atoms(d) if isinstance(atom, Call))


def symbols_of(d: DimLike | Iterable[DimLike]) -> frozenset[str]:
    """The names of the symbols in a dim or in several."""
    if isinstance(d, int):
        return frozenset()
    if not isinstance(d, Dim):
        return frozenset().union(*map(symbols_of, d))
    return _symbols(d)


@functools.lru_cache(maxsize=1 << 16)
def _symbols(d: Dim) -> frozenset[str]:
    return frozenset().union(*map(_atom_symbols, _atoms(d)))


def _atom_symbols(atom: Atom) -> frozenset[str]:
    return frozenset((atom,)) if isinstance(atom, str) else symbols_of(atom.args)


def substitute(d: DimLike, mapping: Mapping[str, DimLike]) -> DimLike:
    """`d` with the named symbols replaced. What has none of them stays as it is: kernels index with sizes that are long
    chains of divisions, and substitute axes that do not occur in these."""
    if isinstance(d, int) or _symbols(d).isdisjoint(mapping):
        return d
    total: DimLike = 0
    for mono, coef in d.terms:
        same = tuple(a for a in mono if _atom_symbols(a).isdisjoint(mapping))
        part: DimLike = _make({same: coef})
        for atom in mono:
            if atom not in same:
                part = part * (mapping[atom] if isinstance(atom, str) else _substituted(atom, mapping))
        total = total + part
    return total


def _substituted(call: Call, mapping: Mapping[str, DimLike]) -> DimLike:
    args = [substitute(a, mapping) for a in call.args]
    if call.fn in ("min", "max"):
        return _extremum(call.fn, args)
    return floordiv(args[0], args[1]) if call.fn == "floordiv" else mod(args[0], args[1])


def linear_parts(d: DimLike, name: str) -> tuple[DimLike, DimLike] | None:
    """(stride, rest), neither with the symbol `name`, such that d == stride * name + rest; None when there are none:
    the symbol stands in a square, a division ..."""
    strides: dict[Monomial, int] = {}
    rest: dict[Monomial, int] = {}
    for mono, coef in _terms(d):
        others = tuple(a for a in mono if a != name)
        if len(mono) > len(others) + 1 or any(name in _atom_symbols(a) for a in others):
            return None
        (rest if len(mono) == len(others) else strides)[others] = coef
    return _make(strides), _make(rest)


def evaluate(d: DimLike, env: Mapping[str, int]) -> int:
    """The value of `d`; KeyError names a symbol that `env` lacks."""
    if isinstance(d, int):
        return d
    total = 0
    for mono, coef in d.terms:
        for atom in mono:
            coef *= env[atom] if isinstance(atom, str) else _value(atom, env)
        total += coef
    return total


def _value(call: Call, env: Mapping[str, int]) -> int:
    args = [evaluate(a, env) for a in call.args]
    if call.fn in ("min", "max"):
        return min(args) if call.fn == "min" else max(args)
    return args[0] // args[1] if call.fn == "floordiv" else args[0] % args[1]


class Bounds:
    """Inclusive upper limits of symbols, given as dims: `Bounds({"i": N - 1})`. From 0, or 1 for `positive`."""

    __slots__ = ("positive", "upper")

    def __init__(self, upper: Mapping[str, DimLike] | None = None, positive: Iterable[str] = ()) -> None:
        self.upper = dict(upper or {})
        self.positive = frozenset(positive)

    def eliminate(self, d: DimLike, lowest: bool) -> DimLike:
        """A bound of `d` from below (or above) in which no symbol with an upper limit is left, if one can be had."""
        for name in list(self.upper)[::-1]:
            if isinstance(d, int) or name not in _symbols(d):
                continue
            grows = _monotone(d, name, self.positive)
            if grows is None:
                continue
            d = substitute(d, {name: 0 if grows == lowest else self.upper[name]})
        return d


def _monotone(d: Dim, name: str, positive: frozenset[str]) -> bool | None:
    """True when d never falls as `name` grows, False when it never rises, None when that is not plain to see."""
    signs: set[bool | None] = set()
    for mono, coef in d.terms:
        for i, atom in enumerate(mono):
            if atom == name:
                grows: bool | None = True
            elif isinstance(atom, Call) and name in symbols_of(atom.args):
                grows = _call_monotone(atom, name, positive)
            else:
                continue
            others = mono[:i] + mono[i + 1:]
            if grows is None or not all(_is_nonneg(a, positive) for a in others):
                return None          # a factor below zero would turn the direction round
            signs.add((coef > 0) == grows)
    return signs.pop() if len(signs) == 1 else None


def _call_monotone(call: Call, name: str, positive: frozenset[str]) -> bool | None:
    if call.fn == "mod" or (call.fn == "floordiv" and name in symbols_of(call.args[1])):
        return None
    inner = {_monotone(a, name, positive) for a in call.args if isinstance(a, Dim) and name in _symbols(a)}
    return inner.pop() if len(inner) == 1 else None


def _is_nonneg(atom: Atom, positive: frozenset[str]) -> bool:
    low = _atom_range(atom, positive)[0]
    return low is not None and low >= 0


def _numeric_low(d: DimLike, positive: frozenset[str]) -> int | None:
    """A lower bound of d as a number, from symbols >= 0 (>= 1 if positive); None when there is none."""
    low = 0
    for mono, coef in _terms(d):
        if not mono:
            low += coef
            continue
        least, most = 1, 1
        bounded = True
        for atom in mono:
            lo, hi = _atom_range(atom, positive)
            if lo is None or lo < 0:
                return None
            least *= lo
            bounded = bounded and hi is not None
            most *= hi if hi is not None else 1
        if coef > 0:
            low += coef * least
        elif bounded:
            low += coef * most
        else:
            return None
    return low


@functools.lru_cache(maxsize=1 << 16)     # both ends ask for both ends of what is inside: without, 2**depth of calls
def _atom_range(atom: Atom, positive: frozenset[str]) -> tuple[int | None, int | None]:
    """Bounds of an atom from below and above as numbers, as far as there are any."""
    if isinstance(atom, str):
        return (1 if atom in positive else 0), None
    lows = [a if isinstance(a, int) else _numeric_low(a, positive) for a in atom.args]
    highs = [a if isinstance(a, int) else _numeric_high(a, positive) for a in atom.args]
    if atom.fn == "mod":
        return 0, (highs[1] - 1 if highs[1] is not None else None)
    if atom.fn == "floordiv":
        if isinstance(atom.args[1], int):
            n = atom.args[1]
            return (None if lows[0] is None else lows[0] // n), (None if highs[0] is None else highs[0] // n)
        return (0 if lows[0] is not None and lows[0] >= 0 else None), None
    if atom.fn == "min":
        known = [h for h in highs if h is not None]
        return (None if None in lows else min(lows)), (min(known) if known else None)  # type: ignore[type-var]
    known = [v for v in lows if v is not None]
    return (max(known) if known else None), (None if None in highs else max(highs))  # type: ignore[type-var]


def _numeric_high(d: DimLike, positive: frozenset[str]) -> int | None:
    low = _numeric_low(-d if isinstance(d, int) else d * -1, positive)
    return None if low is None else -low


def provably_nonneg(d: DimLike, bounds: Bounds | None = None) -> bool:
    """Whether d >= 0 for every value of its symbols within `bounds`."""
    if isinstance(d, int):
        return d >= 0
    positive = bounds.positive if bounds else frozenset()
    low = _numeric_low(d, positive)
    if low is not None and low >= 0:
        return True
    if bounds is None:
        return False
    # A loop that runs has extent >= 1, so inside it every symbol of an extent is positive.
    reduced = bounds.eliminate(d, lowest=True)
    low = _numeric_low(reduced, positive)
    return low is not None and low >= 0


def provably_less(a: DimLike, b: DimLike, bounds: Bounds | None = None) -> bool:
    """Whether a < b for every value of their symbols within `bounds`."""
    return provably_nonneg(b - a - 1, bounds)


def simplify(d: DimLike, bounds: Bounds) -> DimLike:
    """`d` with divisions, remainders, minima and maxima resolved where `bounds` decides them."""
    if isinstance(d, int):
        return d
    total: DimLike = 0
    for mono, coef in d.terms:
        part: DimLike = coef
        for atom in mono:
            part = part * (sym(atom) if isinstance(atom, str) else _simplify_call(atom, bounds))
        total = total + part
    return total


def _simplify_call(call: Call, bounds: Bounds) -> DimLike:
    args = [simplify(a, bounds) for a in call.args]
    if call.fn in ("floordiv", "mod"):
        whole, rest = _peel(args[0], args[1], bounds)
        if provably_nonneg(rest, bounds) and provably_less(rest, args[1], bounds):
            return whole if call.fn == "floordiv" else rest
        return floordiv(args[0], args[1]) if call.fn == "floordiv" else mod(args[0], args[1])
    for i, a in enumerate(args):
        others = args[:i] + args[i + 1:]
        if all(provably_nonneg(o - a if call.fn == "min" else a - o, bounds) for o in others):
            return a
    return dim_min(*args) if call.fn == "min" else dim_max(*args)


def _peel(a: DimLike, n: DimLike, bounds: Bounds) -> tuple[DimLike, DimLike]:
    """(q, r) with a == q*n + r, and r in [0, n) whenever that can be shown by taking multiples of n out of a."""
    q, r = _split(a, n)
    if not provably_nonneg(r, bounds) and provably_nonneg(r + n, bounds):
        return q - 1, r + n
    return q, r


def recombine(d: DimLike) -> DimLike:
    """`d` with c*n*(x // n) + c*(x % n) put back together as c*x: what views through other shapes leave behind."""
    if isinstance(d, int):
        return d
    for mono, coef in d.terms:
        for atom in mono:
            if not isinstance(atom, Call) or atom.fn != "mod":
                continue
            x, n = atom.args
            rest = product(Dim((((a,), 1),)) for a in mono if a is not atom) * coef
            apart = d - Dim((((atom,), 1),)) * rest
            for quotient in _quotients(x, n):
                folded = apart - quotient * n * rest + x * rest
                if weight(folded) < weight(d):
                    return recombine(folded)
    return d


def _quotients(x: DimLike, n: DimLike) -> Iterator[DimLike]:
    """The forms in which x // n may stand: as it is, and with two divisions in one."""
    yield Dim((((Call("floordiv", (x, n)),), 1),))
    if isinstance(x, Dim) and len(x.terms) == 1 and x.terms[0][1] == 1 and len(x.terms[0][0]) == 1:
        inner = x.terms[0][0][0]
        if isinstance(inner, Call) and inner.fn == "floordiv":
            yield floordiv(inner.args[0], inner.args[1] * n)


def weight(d: DimLike) -> int:
    """How many operations it takes to compute `d`, roughly."""
    return 0 if isinstance(d, int) else _weight(d)


@functools.lru_cache(maxsize=1 << 14)
def _weight(d: Dim) -> int:
    calls = (a for mono, _ in d.terms for a in mono if isinstance(a, Call))
    return sum(len(mono) for mono, _ in d.terms) + sum(weight(x) for call in calls for x in call.args)


# A dim is short; text from outside is held to that, because products of sums grow without bound.
_MAX_TOKENS, _MAX_NESTING, _MAX_TERMS, _MAX_ARGS = 1000, 64, 1000, 64
_TOKEN = re.compile(r"\s*(?:([0-9]+)|([$A-Za-z_][\w.$]*)|(//|[-+*%(),]))")


def parse_dim(text: str) -> DimLike:
    """Parse what `str(dim)` prints: integers, symbols, + - * // %, min(), max(), (). ValueError on the rest."""
    tokens: list[str] = []
    pos = 0
    text = text.rstrip()
    while pos < len(text):
        m = _TOKEN.match(text, pos)
        if not m:
            raise ValueError(f"'{text}' is not a dimension: unexpected '{text[pos:].strip()[:10]}'")
        tokens.append(m.group(0).strip())
        pos = m.end()
    depth = list(itertools.accumulate((t == "(") - (t == ")") for t in tokens))
    if len(tokens) > _MAX_TOKENS or max(depth, default=0) > _MAX_NESTING:
        raise ValueError(f"a dimension of {len(tokens)} tokens, {max(depth)} levels deep, is too large")
    value, rest = _parse_sum(tokens, 0)
    if rest != len(tokens):
        raise ValueError(f"'{text}' is not a dimension: unexpected '{tokens[rest]}'")
    return value


def _parse_sum(t: list[str], i: int) -> tuple[DimLike, int]:
    value, i = _parse_term(t, i)
    while i < len(t) and t[i] in "+-":
        right, j = _parse_term(t, i + 1)
        value = value + right if t[i] == "+" else value - right
        i = j
    return value, i


def _parse_term(t: list[str], i: int) -> tuple[DimLike, int]:
    value, i = _parse_factor(t, i)
    while i < len(t) and t[i] in ("*", "//", "%"):
        right, j = _parse_factor(t, i + 1)
        if t[i] != "*" and isinstance(right, int) and right <= 0:
            raise ValueError(f"a dimension is divided by {right}; divisors are positive")
        value = _times(value, right) if t[i] == "*" else floordiv(value, right) if t[i] == "//" else mod(value, right)
        i = j
    return value, i


def _times(a: DimLike, b: DimLike) -> DimLike:
    if len(_terms(a)) * len(_terms(b)) > _MAX_TERMS:
        raise ValueError(f"a dimension has more than {_MAX_TERMS} terms")
    return _in_range(a * b)


def _in_range(d: DimLike) -> DimLike:
    if any(abs(c) >= 1 << 63 for _, c in _terms(d)):
        raise ValueError("a number in a dimension does not fit into 64 bits")
    return d


def _parse_factor(t: list[str], i: int) -> tuple[DimLike, int]:
    if i >= len(t):
        raise ValueError("a dimension ends too early")
    if t[i] == "-":
        signs = sum(1 for _ in itertools.takewhile(lambda token: token == "-", t[i:]))
        value, i = _parse_factor(t, i + signs)
        return (-value if signs % 2 else value), i
    if t[i] == "(":
        value, i = _parse_sum(t, i + 1)
        return value, _expect(t, i, ")")
    if t[i].isdigit():
        if len(t[i]) > 20:
            raise ValueError("a number in a dimension does not fit into 64 bits")
        return _in_range(int(t[i])), i + 1
    if t[i] in ("min", "max") and i + 1 < len(t) and t[i + 1] == "(":
        return _parse_call(t, i)
    if re.match(r"[$A-Za-z_]", t[i]):
        return sym(t[i]), i + 1
    raise ValueError(f"a dimension cannot hold '{t[i]}' here")


def _parse_call(t: list[str], i: int) -> tuple[DimLike, int]:
    fn, args = t[i], []
    i += 1
    while True:
        value, i = _parse_sum(t, i + 1)
        args.append(value)
        if i >= len(t) or t[i] != ",":
            break
    if len(args) > _MAX_ARGS:
        raise ValueError(f"{fn} of {len(args)} dimensions; {_MAX_ARGS} are the most")
    return _extremum(fn, args), _expect(t, i, ")")


def _expect(t: list[str], i: int, token: str) -> int:
    if i >= len(t) or t[i] != token:
        raise ValueError(f"a dimension lacks '{token}'")
    return i + 1
