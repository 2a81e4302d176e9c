"""Tokens and distances of the domain com.microsoft."""

from __future__ import annotations

from onnxc.ir.core import Value
from onnxc.ir.dims import dim_max
from onnxc.ir.types import I32, U32, U64
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.matmul import contract
from onnxc.lowerings.table import lowering

__all__: list[str] = []


@lowering("com.microsoft.NGramRepeatBlock")
def NGramRepeatBlock(b: Lowering, input_ids: Value, scores: Value, *, ngram_size: int) -> Value:
    """-inf for each token that would make the last tokens and itself n tokens that are there already."""
    if ngram_size < 1 or b.rank(input_ids) != 2 or b.rank(scores) != 2:
        b.refuse(f"n-grams of {ngram_size} in tokens of type {b.type(input_ids)} with scores of type {b.type(scores)}")
    batch, length = b.shape(input_ids)
    b.guard("eq", batch, b.shape(scores)[0], "tokens and scores are of different batches")
    count, before = dim_max(length - (ngram_size - 1), 0), ngram_size - 1
    grams = b.value("t.window", input_ids, axes=(1,), size=(ngram_size,), stride=(1,), dilation=(1,), low=(0,),
                    out=(count,), fill=0)
    token = b.reshape(b.value("t.slice", grams, starts=(0, 0, before), sizes=(batch, count, 1), steps=(1, 1, 1)),
                      (batch, count))
    least, most = b.scalar(float("-inf"), scores), b.scalar(float("inf"), scores)
    update = least
    if before:
        padded = b.value("t.pad", input_ids, None, low=(0, before), high=(0, 0), mode="constant")
        last = b.value("t.slice", padded, starts=(0, length), sizes=(batch, before), steps=(1, 1))
        own = b.value("t.slice", grams, starts=(0, 0, 0), sizes=(batch, count, before), steps=(1, 1, 1))
        same = b.reduce(b.map("eq", own, b.reshape(last, (batch, 1, before))), "and", [2], keepdims=False)
        update = b.map("select", same, least, most)
    update = b.broadcast_to(update, (batch, count))
    return b.value("t.scatter_elements", scores, token, update, axis=1, reduction="min")


@lowering("com.microsoft.CDist")
def CDist(b: Lowering, A: Value, B: Value, *, metric: str = "sqeuclidean") -> Value:
    if metric not in ("sqeuclidean", "euclidean"):
        b.refuse(f"the metric '{metric}' is neither sqeuclidean nor euclidean")
    if b.rank(A) != 2 or b.rank(B) != 2:
        b.refuse(f"vectors in values of type {b.type(A)} and {b.type(B)}; both have to be matrices")
    b.guard("eq", b.shape(A)[1], b.shape(B)[1], "the vectors are of different lengths")
    squares = [b.reduce(b.map("mul", v, v), "add", [1]) for v in (A, B)]
    total = b.map("add", squares[0], b.transpose(squares[1], (1, 0)))
    product = contract(b, A, B, "mk,nk->mn")
    out = b.map("sub", total, b.map("mul", product, b.scalar(2, product)))
    out = b.map("max", out, b.scalar(0, out))
    return b.map("sqrt", out) if metric == "euclidean" else out


@lowering("com.microsoft.WordConvEmbedding")
def WordConvEmbedding(b: Lowering, Sequence: Value, W: Value, B: Value, C: Value, *,
                      char_embedding_size: int | None = None, conv_window_size: int | None = None,
                      embedding_size: int | None = None) -> Value:
    """Of each word [words, characters] the largest of the filters over windows of its characters, those above 0; of a
    word without characters nothing."""
    if b.rank(Sequence) != 2 or b.rank(W) != 4:
        b.refuse(f"words of type {b.type(Sequence)} with filters of type {b.type(W)}")
    (words, longest), (filters, one, window, width) = b.shape(Sequence), b.shape(W)
    if not isinstance(window, int):
        b.refuse(f"windows of {window} characters; the size has to be constant")
    for what, have, want in (("channel of the filters", one, 1), ("window", conv_window_size or window, window),
                             ("filter", embedding_size or filters, filters),
                             ("element of a character", char_embedding_size or width, width)):
        b.guard("eq", have, want, f"there is not one {what} as the weights have it")
    b.guard("eq", b.shape(C)[1], width, "the characters are not as wide as the filters")
    b.at_most(window, longest, "a window is longer than the words")
    letters = b.value("t.gather", C, Sequence, axis=0)
    count = longest - (window - 1)
    view = b.value("t.window", letters, axes=(1,), size=(window,), stride=(1,), dilation=(1,), low=(0,), out=(count,),
                   fill=0.0)
    total = contract(b, view, b.reshape(W, (filters, window, width)), "wpke,oke->wpo")
    found = b.map("tanh", b.map("add", total, B))
    used = b.reduce(b.cast(b.map("gt", Sequence, b.scalar(0, Sequence)), I32), "add", [1])
    last = b.map("max", b.map("sub", used, b.scalar(window, I32)), b.scalar(0, I32))
    within = b.reshape(b.map("le", b.iota(count, 2, 1, I32), last), (words, count, 1))
    best = b.reduce(b.map("select", within, found, b.scalar(-2, found)), "max", [1], keepdims=False)
    return b.map("select", b.map("eq", used, b.scalar(0, I32)), b.scalar(0, best), best)


# ---- hashes --------------------------------------------------------------------------------------------------------
@lowering("com.microsoft.MurmurHash3")
def MurmurHash3(b: Lowering, X: Value, *, positive: int = 1, seed: int = 0) -> Value:
    """Of the bytes of each element: one word, or two of which the lower comes first."""
    b.require_dtype(X, "float", "int", "uint")
    bits = b.dtype(X).bits
    if bits not in (32, 64):
        b.refuse(f"elements of {b.dtype(X)}; those of 32 or 64 bits are known")
    value = b.broadcast_to(b.scalar(seed & 0xFFFFFFFF, U32), b.shape(X))
    for word in _words(b, X):
        mixed = b.map("mul", _turned(b, b.map("mul", word, b.scalar(0xCC9E2D51, U32)), 15), b.scalar(0x1B873593, U32))
        value = _turned(b, b.map("bit_xor", value, mixed), 13)
        value = b.map("add", b.map("mul", value, b.scalar(5, U32)), b.scalar(0xE6546B64, U32))
    value = b.map("bit_xor", value, b.scalar(bits // 8, U32))
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        value = b.map("bit_xor", value, b.map("shr", value, b.scalar(shift, U32)))
        value = b.map("mul", value, b.scalar(factor, U32))
    return value if positive else b.value("t.bitcast", value, to=I32)


def _words(b: Lowering, v: Value) -> list[Value]:
    if b.dtype(v).bits == 32:
        return [v if b.dtype(v) == U32 else b.value("t.bitcast", v, to=U32)]
    whole = v if b.dtype(v) == U64 else b.value("t.bitcast", v, to=U64)
    low = b.map("mod", whole, b.scalar(1 << 32, U64))
    return [b.cast(low, U32), b.cast(b.map("shr", whole, b.scalar(32, U64)), U32)]


def _turned(b: Lowering, v: Value, by: int) -> Value:
    """The bits of words turned left."""
    left, right = b.scalar(by, U32), b.scalar(32 - by, U32)
    return b.map("bit_or", b.map("shl", v, left), b.map("shr", v, right))
