"""Einsum: sums over letters, one operand joined to the next by a contraction."""

from __future__ import annotations

from collections import Counter

from onnxc.ir.core import Value
from onnxc.ir.dims import DimLike
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.matmul import contract
from onnxc.lowerings.table import lowering

__all__: list[str] = []


class _Term:
    """A value whose axes are named by letters, each once."""

    def __init__(self, value: Value, letters: str) -> None:
        self.value, self.letters = value, letters


@lowering
def Einsum(b: Lowering, *Inputs: Value, equation: str) -> Value:
    left, arrow, out = equation.replace(" ", "").partition("->")
    specs = left.split(",")
    if len(specs) != len(Inputs) or not Inputs:
        b.refuse(f"equation '{equation}' for {len(Inputs)} inputs")
    spare = iter(c for c in "zyxwvutsrqponmlkjihgfedcbaZYXWVUTSRQPONMLKJIHGFEDCBA" if c not in equation)
    ranks = [b.rank(v) - len(s.replace("...", "")) for s, v in zip(specs, Inputs, strict=True)]
    if any(r < 0 or (r > 0 and "..." not in s) for s, r in zip(specs, ranks, strict=True)):
        b.refuse(f"equation '{equation}' does not fit inputs of types {', '.join(str(b.type(v)) for v in Inputs)}")
    dots = "".join(next(spare) for _ in range(max(ranks)))
    terms = [s.replace("...", dots[len(dots) - r:]) for s, r in zip(specs, ranks, strict=True)]
    target = out.replace("...", dots) if arrow else dots + _once(left.replace("...", "").replace(",", ""))
    _check(b, equation, terms, target)
    return _evaluate(b, [_diagonal(b, v, t) for v, t in zip(Inputs, terms, strict=True)], target)


def _once(letters: str) -> str:
    """The result of an equation that names none: the letters that stand once, in order of the alphabet."""
    return "".join(sorted(c for c, n in Counter(letters).items() if n == 1))


def _check(b: Lowering, equation: str, terms: list[str], target: str) -> None:
    letters = "".join(terms)
    if not all(c.isalpha() for c in letters + target) or len(set(target)) != len(target) or set(target) - set(letters):
        b.refuse(f"equation '{equation}' is not understood")


def _diagonal(b: Lowering, v: Value, letters: str) -> _Term:
    """Take the diagonal of axes that share a letter: everything else is nulled and summed."""
    for c in dict.fromkeys(letters):
        while letters.count(c) > 1:
            i = letters.index(c)
            j = letters.index(c, i + 1)
            b.guard("eq", b.shape(v)[i], b.shape(v)[j], f"the axes named {c} differ")
            rank = b.rank(v)
            same = b.map("eq", b.iota(b.shape(v)[i], rank, i), b.iota(b.shape(v)[j], rank, j))
            v = b.reduce(b.map("select", same, v, b.scalar(0, v)), "add", [j], keepdims=False)
            letters = letters[:j] + letters[j + 1:]
    return _Term(v, letters)


def _evaluate(b: Lowering, terms: list[_Term], target: str) -> Value:
    extent: dict[str, list[DimLike]] = {}
    for t in terms:
        for c, d in zip(t.letters, b.shape(t.value), strict=True):
            extent.setdefault(c, []).append(d)
    sizes = {c: b.joint_dim(dims) for c, dims in extent.items()}
    total = terms[0]
    for i, term in enumerate(terms[1:], 1):
        later = set(target).union(*(t.letters for t in terms[i + 1:]))
        left, right = _summed(b, total, later | set(term.letters)), _summed(b, term, later | set(total.letters))
        total = _join(b, left, right, later, sizes)
    total = _summed(b, total, set(target))
    out = b.transpose(total.value, [total.letters.index(c) for c in target])
    return b.broadcast_to(out, [sizes[c] for c in target])


def _summed(b: Lowering, term: _Term, wanted: set[str]) -> _Term:
    """Sum over the letters that nothing else wants."""
    gone = [i for i, c in enumerate(term.letters) if c not in wanted]
    if not gone:
        return term
    value = b.wide(lambda x: b.reduce(x, "add", gone, keepdims=False), term.value)
    return _Term(value, "".join(c for c in term.letters if c in wanted))


def _join(b: Lowering, left: _Term, right: _Term, later: set[str], sizes: dict[str, DimLike]) -> _Term:
    """The product of two terms, summed over the letters that nothing later wants."""
    shared = [c for c in left.letters if c in right.letters]
    lhs, rhs = (b.broadcast_to(t.value, [sizes[c] if c in shared else d
                                         for c, d in zip(t.letters, b.shape(t.value), strict=True)])
                for t in (left, right))
    rows, columns = ([c for c in t.letters if c not in shared] for t in (left, right))
    out = "".join([*(c for c in shared if c in later), *rows, *columns])
    return _Term(b.cast(contract(b, lhs, rhs, f"{left.letters},{right.letters}->{out}"), b.dtype(lhs)), out)
