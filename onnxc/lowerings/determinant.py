"""Det and Inverse: elimination with the largest pivot of each column, all matrices of a batch together."""

from __future__ import annotations

from onnxc.ir.core import Value
from onnxc.ir.dims import Dim, DimLike, product
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.table import lowering

__all__: list[str] = []


@lowering
def Det(b: Lowering, X: Value) -> Value:
    matrices, count, m = _square(b, X)
    ones = b.broadcast_to(b.scalar(1, matrices), (count,))

    def eliminate(inner: Lowering, i: Dim, carried: list[Value], captured: list[Value]) -> tuple[list[Value],
                                                                                               list[Value]]:
        a, swapped = pivoted(inner, carried[0], i)
        found, row = carried[1], inner.iota(m)
        line = inner.value("t.slice", a, starts=(0, i, 0), sizes=(count, 1, m), steps=(1, 1, 1))
        pivot = inner.value("t.slice", a, starts=(0, i, i), sizes=(count, 1, 1), steps=(1, 1, 1))
        column = inner.value("t.slice", a, starts=(0, 0, i), sizes=(count, m, 1), steps=(1, 1, 1))
        below = inner.map("gt", inner.reshape(row, (m, 1)), inner.dim(i))
        below = inner.map("and", below, inner.map("ne", pivot, inner.scalar(0, pivot)))
        factor = inner.map("select", below, inner.map("div", column, pivot), inner.scalar(0, column))
        reduced = inner.map("sub", a, inner.map("mul", factor, line))
        sign = inner.map("select", swapped, inner.scalar(-1, found), inner.scalar(1, found))
        return [reduced, inner.map("mul", found, inner.map("mul", inner.reshape(pivot, (count,)), sign))], []

    _, found = b.loop(m, [matrices, ones], [], eliminate)
    return b.cast(b.reshape(found, b.shape(X)[:-2]), b.dtype(X))


def _square(b: Lowering, X: Value) -> tuple[Value, DimLike, DimLike]:
    """Square matrices as [count, m, m] in the type that sums are computed in, with these sizes."""
    if b.rank(X) < 2:
        b.refuse(f"an input of type {b.type(X)}; it has to be matrices")
    b.require_dtype(X, "float")
    *batch, m, columns = b.shape(X)
    b.guard("eq", m, columns, "the matrices are not square")
    count = product(batch)
    return b.reshape(b.widen(X), (count, m, m)), count, m


def pivoted(b: Lowering, a: Value, i: Dim) -> tuple[Value, Value]:
    """Matrices [count, m, n] with the row of the largest element of column `i`, from row `i` on, as row `i`; and
    whether that is another row, [count]."""
    count, m, n = b.shape(a)
    row = b.iota(m)
    column = b.reshape(b.value("t.slice", a, starts=(0, 0, i), sizes=(count, m, 1), steps=(1, 1, 1)), (count, m))
    later = b.map("ge", row, b.dim(i))
    size = b.map("select", later, b.map("abs", column), b.scalar(-1, column))
    chosen = b.value("t.argreduce", size, kind="max", axis=1, last=False)
    swapped = b.map("ne", chosen, b.dim(i))
    chosen = b.reshape(chosen, (count, 1))
    order = b.map("select", b.map("eq", row, b.dim(i)), chosen,
                  b.map("select", b.map("eq", row, chosen), b.dim(i), row))
    where = b.broadcast_to(b.reshape(order, (count, m, 1)), (count, m, n))
    return b.value("t.gather_elements", a, where, axis=1), swapped


@lowering("com.microsoft.Inverse")
def Inverse(b: Lowering, X: Value) -> Value:
    """What takes the matrix to the identity takes the identity to the inverse; a singular matrix gives infinities or
    NaN."""
    matrices, count, m = _square(b, X)
    diagonal = b.map("eq", b.iota(m, 2, 0), b.iota(m, 2, 1))
    one = b.map("select", diagonal, b.scalar(1, matrices), b.scalar(0, matrices))
    both = b.value("t.concat", matrices, b.broadcast_to(one, (count, m, m)), axis=2)

    def eliminate(inner: Lowering, i: Dim, carried: list[Value], captured: list[Value]) -> tuple[list[Value],
                                                                                               list[Value]]:
        a, _ = pivoted(inner, carried[0], i)
        line = inner.value("t.slice", a, starts=(0, i, 0), sizes=(count, 1, m * 2), steps=(1, 1, 1))
        pivot = inner.value("t.slice", a, starts=(0, i, i), sizes=(count, 1, 1), steps=(1, 1, 1))
        column = inner.value("t.slice", a, starts=(0, 0, i), sizes=(count, m, 1), steps=(1, 1, 1))
        line = inner.map("div", line, pivot)
        reduced = inner.map("sub", a, inner.map("mul", column, line))
        own = inner.map("eq", inner.iota(m, 3, 1), inner.dim(i))
        return [inner.map("select", own, line, reduced)], []

    out = b.loop(m, [both], [], eliminate)[0]
    out = b.value("t.slice", out, starts=(0, 0, m), sizes=(count, m, m), steps=(1, 1, 1))
    return b.cast(b.reshape(out, b.shape(X)), b.dtype(X))
