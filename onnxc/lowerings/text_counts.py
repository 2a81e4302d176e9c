"""TfIdfVectorizer on numbers: every n-gram of the pool is held against every place of a row. Texts are the host's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from onnxc.ir.core import Value
from onnxc.ir.dims import DimLike, dim_max
from onnxc.ir.types import BOOL, F32, I64
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.table import lowering

__all__: list[str] = []


@lowering
def TfIdfVectorizer(b: Lowering, X: Value, *, max_gram_length: int, max_skip_count: int, min_gram_length: int,
                    mode: str, ngram_counts: Sequence[int], ngram_indexes: Sequence[int],
                    pool_int64s: Sequence[int] | None = None, pool_strings: Sequence[bytes] | None = None,
                    weights: Sequence[float] | None = None) -> Value:
    if pool_int64s is None or mode not in ("TF", "IDF", "TFIDF") or b.rank(X) > 2:
        b.refuse(f"mode '{mode}' on an input of type {b.type(X)}, with a pool of {'texts' if pool_strings else 'ints'}")
    width = max(ngram_indexes) + 1
    rows, length = b.shape(X) if b.rank(X) == 2 else (1, b.type(X).size)
    words = b.cast(b.reshape(X, (rows, length)), I64)
    total = b.broadcast_to(b.scalar(0, I64), (rows, width))
    for grams, columns in _by_length(pool_int64s, ngram_counts, ngram_indexes, min_gram_length, max_gram_length):
        # A skip moves apart what has several words.
        for step in range(1, (max_skip_count if grams.shape[1] > 1 else 0) + 2):
            found = _found(b, words, grams, step)
            where = b.broadcast_to(b.const(columns.reshape(1, -1)), (rows, columns.size))
            total = b.value("t.scatter_elements", total, where, found, axis=1, reduction="add")
    counts = b.cast(total, F32)
    if mode == "IDF":
        counts = b.cast(b.map("gt", total, b.scalar(0, I64)), F32)
    if mode != "TF" and weights is not None:
        counts = b.map("mul", counts, b.const(np.array(weights[:width], np.float32)))
    return counts if b.rank(X) == 2 else b.reshape(counts, (width,))


def _by_length(pool: Sequence[int], starts: Sequence[int], columns: Sequence[int], least: int,
               most: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The n-grams of each length that counts, [n-gram, word], and the columns of the output that count them."""
    ends, number = [*starts[1:], len(pool)], 0
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        grams = np.array(pool[start:end], np.int64).reshape(-1, i + 1)
        if least <= i + 1 <= most and len(grams):
            yield grams, np.array(columns[number:number + len(grams)], np.int64)
        number += len(grams)


def _found(b: Lowering, words: Value, grams: np.ndarray, step: int) -> Value:
    """How often each n-gram stands in each row, with `step` from one word to the next."""
    rows, length = b.shape(words)
    places: DimLike = dim_max(length - (grams.shape[1] - 1) * step, 0)
    same: Value = b.scalar(True, BOOL)
    for j in range(grams.shape[1]):
        word = b.value("t.slice", words, starts=(0, j * step), sizes=(rows, places), steps=(1, 1))
        same = b.map("and", same, b.map("eq", b.reshape(word, (rows, places, 1)), b.const(grams[:, j])))
    return b.reduce(b.cast(same, I64), "add", [1], keepdims=False)
