"""What models of `ai.onnx.ml` share: samples as rows of floats, post transforms of scores, and labels of classes.

Where the specification is silent, scores are what ONNX Runtime gives: converters are written against it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnxc.ir.core import Value
from onnxc.ir.types import F32, DType
from onnxc.lowerings.context import Lowering

__all__ = ["TRANSFORMS", "add_row", "labelled", "samples", "single", "transform", "two_classes"]

TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
_SIGNS = np.array([-1, 1])
_ZERO = 1e-7                # scores that SOFTMAX_ZERO takes for zero
_ERFINV = 0.147             # the constant of Winitzki's inverse of erf, which PROBIT is defined by in practice


def samples(b: Lowering, X: Value, dtype: DType = F32) -> Value:
    """A model's input as [N, F] in the type of its arithmetic; a vector is one sample."""
    b.require_dtype(X, "float", "int", "uint")
    if b.rank(X) not in (1, 2):
        b.refuse(f"an input of rank {b.rank(X)}; expected [N, F], or [F] for one sample")
    return b.cast(X if b.rank(X) == 2 else b.reshape(X, (1, *b.shape(X))), dtype)


def add_row(b: Lowering, scores: Value, row: Sequence[float] | np.ndarray) -> Value:
    """Scores [N, C] with a number added to each column."""
    values = np.asarray(row, b.dtype(scores).numpy)
    return b.map("add", scores, b.const(values)) if values.any() else scores


def transform(b: Lowering, scores: Value, kind: str) -> Value:
    """The post transform of scores [N, C], C at least 2."""
    _check(b, kind)
    if kind == "LOGISTIC":
        return b.map("sigmoid", scores)
    if kind == "PROBIT":
        return _probit(b, scores)
    return scores if kind == "NONE" else _softmax(b, scores, kind == "SOFTMAX_ZERO")


def single(b: Lowering, scores: Value, kind: str) -> Value:
    """The post transform of one score a sample, [N, 1]: of all that there are only PROBIT changes it."""
    _check(b, kind)
    return _probit(b, scores) if kind == "PROBIT" else scores


def two_classes(b: Lowering, scores: Value, kind: str, complement: bool) -> Value:
    """The scores [N, 2] of both classes from that of the second, [N, 1]: the first class has 1 - s with `complement`,
    else -s."""
    _check(b, kind)
    if kind == "PROBIT":
        scores = _probit(b, scores)
    pair = b.map("mul", scores, b.const(_SIGNS.astype(b.dtype(scores).numpy)))
    if kind == "LOGISTIC":
        return b.map("sigmoid", pair)
    return add_row(b, pair, [1, 0]) if complement and kind != "PROBIT" else pair


def labelled(b: Lowering, index: Value, labels: Sequence[int]) -> Value:
    """The labels of classes by their number."""
    if list(labels) == list(range(len(labels))):
        return index
    return b.value("t.gather", b.const(np.asarray(labels, np.int64)), index, axis=0, in_range=True)


def _check(b: Lowering, kind: str) -> None:
    if kind not in TRANSFORMS:
        b.refuse(f"the post transform '{kind}' is none of {', '.join(TRANSFORMS)}")


def _softmax(b: Lowering, scores: Value, keep_zeros: bool) -> Value:
    """Over each row; with `keep_zeros` scores of about 0 are left out and stay about 0."""
    top = b.reduce(scores, "max", [1])
    raised = b.map("exp", b.map("sub", scores, top))
    if not keep_zeros:
        return b.map("div", raised, b.reduce(raised, "add", [1]))
    counts = b.map("gt", b.map("abs", scores), b.scalar(_ZERO, scores))
    total = b.reduce(b.map("select", counts, raised, b.scalar(0, scores)), "add", [1])
    small = b.map("mul", scores, b.map("exp", b.map("neg", top)))
    return b.map("div", b.map("select", counts, raised, small), total)


def _probit(b: Lowering, p: Value) -> Value:
    """sqrt(2) * erfinv(2p - 1)."""
    def scalar(value: float) -> Value:
        return b.scalar(value, p)
    x = b.map("sub", b.map("mul", p, scalar(2)), scalar(1))
    log = b.map("log", b.map("mul", b.map("sub", scalar(1), x), b.map("add", x, scalar(1))))
    v = b.map("add", b.map("mul", log, scalar(0.5)), scalar(2 / (3.14159 * _ERFINV)))
    inner = b.map("sqrt", b.map("sub", b.map("mul", v, v), b.map("mul", log, scalar(1 / _ERFINV))))
    size = b.map("mul", b.map("sqrt", b.map("sub", inner, v)), scalar(math.sqrt(2)))
    return b.map("select", b.map("lt", x, scalar(0)), b.map("neg", size), size)
