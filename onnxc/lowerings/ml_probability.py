"""Probabilities of classes from those of pairs of classes, as libsvm couples them (Wu, Lin and Weng, 2004).

They are found step by step, and how far the steps go is part of what the result is: to a residual of 0.005 / classes,
of each sample by itself, and no further than 100 rounds.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from onnxc.ir.core import Block, Value
from onnxc.ir.types import BOOL, Tensor
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.ml_scores import add_row

__all__ = ["coupled"]

_ROUNDS = 100
_CLOSE = 0.005
_LEAST = 1e-7               # of a pair's probability


def coupled(b: Lowering, scores: Value, slopes: Sequence[float], offsets: Sequence[float], classes: int) -> Value:
    """The probability of each class, [N, classes], from the scores of pairs, [N, pairs], through a sigmoid for each."""
    line = add_row(b, b.map("mul", scores, b.const(np.asarray(slopes, np.float32))), offsets)
    first = b.map("sigmoid", b.map("neg", line))
    first = b.map("min", b.map("max", first, b.scalar(_LEAST, first)), b.scalar(1 - _LEAST, first))
    both = b.value("t.concat", first, b.map("sub", b.scalar(1, first), first), axis=1)
    places = np.zeros((classes, classes), np.int64)
    for p, (i, j) in enumerate(itertools.combinations(range(classes), 2)):
        places[i, j], places[j, i] = p, p + len(slopes)
    n = b.shape(scores)[0]
    r = b.reshape(b.value("t.gather", both, b.const(places.ravel()), axis=1, in_range=True), (n, classes, classes))
    return _solved(b, _form(b, r, classes), classes)


def _form(b: Lowering, r: Value, classes: int) -> Value:
    """The quadratic form that the probabilities make least: r[n, i, j] is the chance of i against j."""
    eye = np.eye(classes, dtype=np.float32)
    r = b.map("mul", r, b.const(1 - eye))
    crossed = b.map("neg", b.map("mul", r, b.transpose(r, (0, 2, 1))))
    return b.map("add", crossed, b.map("mul", b.reduce(b.map("mul", r, r), "add", [1]), b.const(eye)))


def _solved(b: Lowering, form: Value, classes: int) -> Value:
    n = b.shape(form)[0]
    start = b.broadcast_to(b.const(np.float32(1 / classes)), (n, classes))
    i = b.symbols.fresh("it", _ROUNDS - 1)
    ran = b.symbols.fresh("n", _ROUNDS)
    block = Block([b.type(start), b.type(form)], ["p", "form"])
    inner = b.inside(block)
    going, p = _round(inner, block.args[0], block.args[1], classes)
    inner.op("yield", [going, p], types=())
    attrs = {"symbol": str(i), "extent": _ROUNDS, "carried": 1, "conditional": True, "defines": (str(ran),),
             "bounds": (_ROUNDS,)}
    return b.op("t.loop", [b.scalar(True, BOOL), start, form], attrs, [Tensor(b.dtype(start), b.shape(start))],
                [block]).results[0]


def _round(b: Lowering, p: Value, form: Value, classes: int) -> tuple[Value, Value]:
    """Whether any sample is not there yet, and the next probabilities: each class in turn takes its best share."""
    n = b.shape(p)[0]
    slope = b.reduce(b.map("mul", form, b.reshape(p, (n, 1, classes))), "add", [2], keepdims=False)
    total = b.reduce(b.map("mul", p, slope), "add", [1])
    worst = b.reduce(b.map("abs", b.map("sub", slope, total)), "max", [1])
    going = b.map("ge", worst, b.scalar(_CLOSE / classes, worst))
    following = p
    for c in range(classes):
        rows = b.value("t.slice", form, starts=(0, c, 0), sizes=(n, 1, classes), steps=(1, 1, 1))
        row = b.reshape(rows, (n, classes))
        own, mine = (b.value("t.slice", v, starts=(0, c), sizes=(n, 1), steps=(1, 1)) for v in (row, slope))
        more = b.map("div", b.map("sub", total, mine), own)
        scale = b.map("add", more, b.scalar(1, more))
        hot = b.const(np.eye(classes, dtype=np.float32)[c])
        following = b.map("div", b.map("add", following, b.map("mul", more, hot)), scale)
        added = b.map("mul", more, b.map("add", b.map("mul", more, own), b.map("mul", mine, b.scalar(2, mine))))
        total = b.map("div", b.map("add", total, added), b.map("mul", scale, scale))
        slope = b.map("div", b.map("add", slope, b.map("mul", more, row)), scale)
    return b.reduce(b.cast(going, BOOL), "or", [0, 1], keepdims=False), b.map("select", going, following, p)
