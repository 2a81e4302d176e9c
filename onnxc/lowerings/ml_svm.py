"""Support vector machines of `ai.onnx.ml`: kernels between samples and support vectors, and sums of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxc.ir.core import Value
from onnxc.ir.types import I64
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.matmul import contract
from onnxc.lowerings.ml_linear import linear_scores
from onnxc.lowerings.ml_probability import coupled
from onnxc.lowerings.ml_scores import add_row, labelled, samples, single, transform, two_classes
from onnxc.lowerings.table import lowering

__all__: list[str] = []

Floats = Sequence[float]
Ints = Sequence[int]


@lowering("ai.onnx.ml.SVMRegressor")
def SVMRegressor(b: Lowering, X: Value, *, coefficients: Floats | None = None, kernel_params: Floats | None = None,
                 kernel_type: str = "LINEAR", n_supports: int = 0, one_class: int = 0, post_transform: str = "NONE",
                 rho: Floats | None = None, support_vectors: Floats | None = None) -> Value:
    x, weights = samples(b, X), np.asarray(coefficients or (), np.float32)
    if n_supports:
        if len(weights) != n_supports:
            b.refuse(f"{len(weights)} coefficients for {n_supports} support vectors")
        kernels = _kernels(b, x, support_vectors, n_supports, kernel_type, kernel_params)
        scores = contract(b, kernels, b.const(weights[:, None]), "mk,kn->mn")
    else:
        scores = linear_scores(b, x, weights.tolist(), 1)
    scores = add_row(b, scores, (rho or (0.0,))[:1])
    if one_class:
        return b.map("select", b.map("gt", scores, b.scalar(0, scores)), b.scalar(1, scores), b.scalar(-1, scores))
    return single(b, scores, post_transform)


@lowering("ai.onnx.ml.SVMClassifier")
def SVMClassifier(b: Lowering, X: Value, *, classlabels_ints: Ints | None = None,
                  classlabels_strings: Sequence[str] | None = None, coefficients: Floats | None = None,
                  kernel_params: Floats | None = None, kernel_type: str = "LINEAR", post_transform: str = "NONE",
                  prob_a: Floats | None = None, prob_b: Floats | None = None, rho: Floats | None = None,
                  support_vectors: Floats | None = None,
                  vectors_per_class: Ints | None = None) -> tuple[Value, Value]:
    labels, weights = tuple(classlabels_ints or ()), np.asarray(coefficients or (), np.float32)
    x, rho = samples(b, X), rho or ()
    if not labels:
        b.refuse("no class labels are given")
    if not sum(vectors_per_class or ()):
        return _linear(b, x, labels, weights, rho, post_transform)
    sizes = list(vectors_per_class or ())
    pairs = list(itertools.combinations(range(len(labels)), 2))
    if len(sizes) != len(labels) or len(weights) != (len(labels) - 1) * sum(sizes) or len(rho) < len(pairs):
        b.refuse(f"{len(weights)} coefficients, {len(rho)} rho and {sum(sizes)} support vectors for {len(labels)} "
                 "classes")
    kernels = _kernels(b, x, support_vectors, sum(sizes), kernel_type, kernel_params)
    scores = contract(b, kernels, b.const(_pair_weights(weights, sizes, pairs)), "mk,kn->mn")
    scores = add_row(b, scores, rho[:len(pairs)])
    label = labelled(b, b.value("t.argreduce", _votes(b, scores, pairs, len(labels)), kind="max", axis=1), labels)
    if prob_a:
        if len(prob_a) < len(pairs) or len(prob_b or ()) != len(prob_a):
            b.refuse(f"{len(prob_a)} prob_a and {len(prob_b or ())} prob_b for {len(pairs)} pairs of classes")
        chances = coupled(b, scores, prob_a[:len(pairs)], (prob_b or ())[:len(pairs)], len(labels))
        return label, transform(b, chances, post_transform)
    if len(labels) == 2:
        return label, two_classes(b, scores, post_transform, complement=post_transform != "NONE")
    return label, transform(b, scores, post_transform)


def _linear(b: Lowering, x: Value, labels: Ints, weights: npt.NDArray[np.float32], rho: Floats,
            kind: str) -> tuple[Value, Value]:
    """Without support vectors: coefficients for each class."""
    scores = linear_scores(b, x, weights.tolist(), len(labels))
    scores = add_row(b, scores, [(rho or (0.0,))[0]] * len(labels))
    best = b.value("t.argreduce", scores, kind="max", axis=1)
    if len(labels) == 2:
        positive = bool((weights >= 0).all())
        top = b.reduce(scores, "max", [1], keepdims=False)
        sure = b.map("ge" if positive else "gt", top, b.scalar(0.5 if positive else 0, top))
        best = b.map("select", sure, b.scalar(1, I64), best)
    if len(labels) == 1:
        return labelled(b, best, labels), single(b, scores, kind)
    return labelled(b, best, labels), transform(b, scores, kind)


def _kernels(b: Lowering, x: Value, vectors: Floats | None, count: int, kind: str, params: Floats | None) -> Value:
    """The kernel of each sample [N, F] and support vector, [N, count]."""
    gamma, coef0, degree = [*(params or ()), 0.0, 0.0, 0.0][:3]
    flat = np.asarray(vectors or (), np.float32)
    if not count or len(flat) % count:
        b.refuse(f"{len(flat)} numbers for {count} support vectors")
    support = flat.reshape(count, -1)
    n, features = b.shape(x)
    b.guard("eq", features, support.shape[1], "a sample has not as many features as a support vector")
    if kind == "RBF":
        # Of differences: the difference of large squares would lose them.
        away = b.map("sub", b.reshape(x, (n, 1, features)), b.const(support[None], name="support_vectors"))
        total = b.reduce(b.map("mul", away, away), "add", [2], keepdims=False)
        return b.map("exp", b.map("mul", total, b.scalar(-gamma, total)))
    products = contract(b, x, b.const(np.ascontiguousarray(support.T), name="support_vectors"), "mk,kn->mn")
    if kind == "LINEAR":
        return products
    line = b.map("add", b.map("mul", products, b.scalar(gamma, products)), b.scalar(coef0, products))
    if kind == "POLY":
        return b.map("pow", line, b.scalar(degree, line))
    if kind == "SIGMOID":
        return b.map("tanh", line)
    return b.refuse(f"kernel_type '{kind}' is none of LINEAR, POLY, RBF, SIGMOID")


def _pair_weights(weights: npt.NDArray[np.float32], sizes: Ints, pairs: Sequence[tuple[int, int]],
                  ) -> npt.NDArray[np.float32]:
    """For each support vector and pair of classes, what the vector's kernel counts: vectors of class i have a row of
    coefficients for each other class."""
    rows = weights.reshape(len(sizes) - 1, sum(sizes))
    ends = np.cumsum([0, *sizes])
    out = np.zeros((sum(sizes), len(pairs)), np.float32)
    for p, (i, j) in enumerate(pairs):
        out[ends[i]:ends[i + 1], p] = rows[j - 1, ends[i]:ends[i + 1]]
        out[ends[j]:ends[j + 1], p] = rows[i, ends[j]:ends[j + 1]]
    return out


def _votes(b: Lowering, scores: Value, pairs: Sequence[tuple[int, int]], classes: int) -> Value:
    """How many pairs each class wins, up to what all lose alike, [N, classes]: the first of a pair has a score above
    0."""
    first, second = np.zeros((2, len(pairs), classes), np.float32)
    for p, (i, j) in enumerate(pairs):
        first[p, i] = second[p, j] = 1
    won = b.cast(b.map("gt", scores, b.scalar(0, scores)), b.dtype(scores))
    return add_row(b, contract(b, won, b.const(first - second), "mk,kn->mn"), second.sum(0))
