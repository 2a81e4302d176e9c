"""Winograd's transforms of small blocks of vectors, as straight-line code.

A matrix is known when compiling, so that zeros cost nothing and ones no product. Two rows that differ in the signs of
some columns only, as those of the points p and -p do, share the sums of either kind of column; two such columns share
the sum and the difference of what they multiply.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from llvmlite import ir

from onnxc.codegen.llvm.microkernel import multiply_add

__all__ = ["along_all"]

Terms = list[tuple[float, ir.Value]]


def along_all(b: ir.IRBuilder, matrix: np.ndarray, block: Sequence[ir.Value], axes: int) -> list[ir.Value]:
    """`matrix` applied along each of the `axes` axes of a block of vectors; blocks are listed row-major."""
    values: np.ndarray = np.empty((matrix.shape[1],) * axes, object)
    values.reshape(-1)[:] = list(block)
    for axis in range(axes):
        lines = np.moveaxis(values, axis, -1)
        out = np.empty((*lines.shape[:-1], matrix.shape[0]), object)
        for place in np.ndindex(lines.shape[:-1]):
            out[place][:] = _apply(b, matrix, list(lines[place]))
        values = np.moveaxis(out, -1, axis)
    return list(values.reshape(-1))


def _apply(b: ir.IRBuilder, matrix: np.ndarray, inputs: Sequence[ir.Value]) -> list[ir.Value]:
    folded, values = _fold_columns(b, matrix, inputs)
    out: list[ir.Value | None] = [None] * len(folded)
    for i, row in enumerate(folded):
        twin = next((j for j in range(i + 1, len(folded)) if out[i] is None and _are_twins(row, folded[j])), None)
        if twin is not None:
            even = _combine(b, _terms((row + folded[twin]) / 2, values))
            odd = _combine(b, _terms((row - folded[twin]) / 2, values))
            out[i], out[twin] = b.fadd(even, odd), b.fsub(even, odd)
        elif out[i] is None:
            out[i] = _combine(b, _terms(row, values))
    return [value for value in out if value is not None]


def _fold_columns(
    b: ir.IRBuilder, matrix: np.ndarray, inputs: Sequence[ir.Value]
) -> tuple[np.ndarray, list[ir.Value]]:
    """The matrix and its inputs with twin columns replaced by two that multiply the inputs' sum and difference."""
    folded, values = matrix.copy(), list(inputs)
    free = set(range(matrix.shape[1]))
    for i in range(matrix.shape[1]):
        twin = next((j for j in sorted(free) if j > i and _are_twins(matrix[:, i], matrix[:, j])), None)
        if i not in free or twin is None:
            continue
        free -= {i, twin}
        same = matrix[:, i] == matrix[:, twin]
        folded[:, i], folded[:, twin] = matrix[:, i] * same, matrix[:, i] * ~same
        values[i], values[twin] = b.fadd(inputs[i], inputs[twin]), b.fsub(inputs[i], inputs[twin])
    return folded, values


def _are_twins(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether two rows differ in some signs only, and hold more than one number of either kind between them."""
    same, opposite = (x == y) & (x != 0), (x == -y) & (x != 0)
    return bool(np.all(abs(x) == abs(y)) and same.any() and opposite.any() and same.sum() + opposite.sum() > 2)


def _terms(coefficients: np.ndarray, values: Sequence[ir.Value]) -> Terms:
    return [(float(c), v) for c, v in zip(coefficients, values, strict=True) if c]


def _combine(b: ir.IRBuilder, terms: Terms) -> ir.Value:
    """The sum of products: plain terms first, so that one of them starts the sum without a product."""
    (first, total), *rest = sorted(terms, key=lambda term: (term[0] != 1, abs(term[0]) != 1))
    if first != 1:
        total = b.fneg(total) if first == -1 else b.fmul(_constant(total, first), total)
    for c, value in rest:
        if abs(c) == 1:
            total = b.fadd(total, value) if c == 1 else b.fsub(total, value)
        else:
            total = multiply_add(b, _constant(value, c), value, total)
    return total


def _constant(like: ir.Value, c: float) -> ir.Constant:
    return ir.Constant(like.type, [ir.Constant(like.type.element, c)] * like.type.count)
