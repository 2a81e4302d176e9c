"""Det: elimination with the largest pivot of each column, all matrices of a batch together."""

from __future__ import annotations

from onnxc.ir.core import Value
from onnxc.ir.dims import Dim, product
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.table import lowering

__all__: list[str] = []


@lowering
def Det(b: Lowering, X: Value) -> Value:
    if b.rank(X) < 2:
        b.refuse(f"an input of type {b.type(X)}; it has to be matrices")
    b.require_dtype(X, "float")
    *batch, m, columns = b.shape(X)
    b.guard("eq", m, columns, "the matrices are not square")
    count = product(batch)
    matrices = b.reshape(b.widen(X), (count, m, m))
    ones = b.broadcast_to(b.scalar(1, matrices), (count,))

    def eliminate(inner: Lowering, i: Dim, carried: list[Value], captured: list[Value]) -> tuple[list[Value],
                                                                                               list[Value]]:
        a, found = carried
        row = inner.iota(m)
        column = inner.reshape(inner.value("t.slice", a, starts=(0, 0, i), sizes=(count, m, 1), steps=(1, 1, 1)),
                               (count, m))
        later = inner.map("ge", row, inner.dim(i))
        size = inner.map("select", later, inner.map("abs", column), inner.scalar(-1, column))
        chosen = inner.value("t.argreduce", size, kind="max", axis=1, last=False)
        swapped = inner.map("ne", chosen, inner.dim(i))
        chosen = inner.reshape(chosen, (count, 1))
        order = inner.map("select", inner.map("eq", row, inner.dim(i)), chosen,
                          inner.map("select", inner.map("eq", row, chosen), inner.dim(i), row))
        where = inner.broadcast_to(inner.reshape(order, (count, m, 1)), (count, m, m))
        a = inner.value("t.gather_elements", a, where, axis=1)
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
    return b.cast(b.reshape(found, tuple(batch)), b.dtype(X))


