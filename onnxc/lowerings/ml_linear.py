"""Linear models of `ai.onnx.ml`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxc.ir.core import Value
from onnxc.ir.types import I64
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.matmul import contract
from onnxc.lowerings.ml_scores import add_row, labelled, samples, single, transform, two_classes
from onnxc.lowerings.table import lowering

__all__ = ["linear_scores"]

Floats = Sequence[float]


def linear_scores(b: Lowering, x: Value, coefficients: Floats, targets: int) -> Value:
    """x [N, F] times coefficients [targets, F], as [N, targets]."""
    features = b.shape(x)[1]
    if targets < 1 or len(coefficients) % targets:
        b.refuse(f"{len(coefficients)} coefficients for {targets} targets")
    weights = np.asarray(coefficients, np.float32).reshape(targets, -1)
    b.guard("eq", features, weights.shape[1], "there is not one coefficient for each feature and target")
    return contract(b, x, b.const(np.ascontiguousarray(weights.T), name="coefficients"), "mk,kn->mn")


@lowering("ai.onnx.ml.LinearRegressor")
def LinearRegressor(b: Lowering, X: Value, *, coefficients: Floats | None = None, intercepts: Floats | None = None,
                    post_transform: str = "NONE", targets: int = 1) -> Value:
    if intercepts and len(intercepts) != targets:
        b.refuse(f"{len(intercepts)} intercepts for {targets} targets")
    scores = linear_scores(b, samples(b, X), coefficients or (), targets)
    scores = add_row(b, scores, intercepts or (0,))
    return (single if targets == 1 else transform)(b, scores, post_transform)


@lowering("ai.onnx.ml.LinearClassifier")
def LinearClassifier(b: Lowering, X: Value, *, classlabels_ints: Sequence[int] | None = None,
                     classlabels_strings: Sequence[str] | None = None, coefficients: Floats,
                     intercepts: Floats | None = None, multi_class: int = 0,
                     post_transform: str = "NONE") -> tuple[Value, Value]:
    labels = tuple(classlabels_ints or ())
    targets = len(intercepts) if intercepts else len(labels)
    if not labels or targets not in (len(labels), 1) or (targets == 1 and len(labels) != 2):
        b.refuse(f"{targets} sets of coefficients for {len(labels)} class labels")
    scores = add_row(b, linear_scores(b, samples(b, X), coefficients, targets), intercepts or (0,))
    if targets == 1:
        positive = b.cast(b.map("gt", scores, b.scalar(0, scores)), I64)
        label = labelled(b, b.reshape(positive, b.shape(scores)[:1]), labels)
        return label, two_classes(b, scores, post_transform, complement=True)
    best = b.value("t.argreduce", scores, kind="max", axis=1)
    return labelled(b, best, labels), transform(b, scores, post_transform)
