"""Unique, Det, MelWeightMatrix, counts of n-grams and conversions to powers of two, against NumPy, ONNX's own code and
ONNX Runtime."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import onnxc
from tests.session.models import FLOAT, INT64, model, node, value

RNG = np.random.default_rng(6)
STRING = TensorProto.STRING


def session(made, opset=22):
    made.opset_import[0].version = opset
    return onnxc.InferenceSession(made.SerializeToString())


# ---- Unique ----------------------------------------------------------------------------------------------------------

def unique(kind, rank, opset=22, **attributes):
    sizes = [f"D{i}" for i in range(rank)]
    return session(model([node("Unique", "x", "y i v c", **attributes)], [value("x", sizes, kind)],
                         [value("y", None, kind), *(value(n, [None], INT64) for n in "ivc")]), opset)


def expected(x, axis, is_sorted):
    y, first, inverse, counts = np.unique(x, True, True, True, axis=axis)
    inverse = inverse.reshape(-1)
    if not is_sorted:
        turn = np.argsort(first)
        rank = np.argsort(turn)
        y, first, counts, inverse = np.take(y, turn, axis or 0), first[turn], counts[turn], rank[inverse]
    return y, first, inverse, counts


@pytest.mark.parametrize("is_sorted", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int64, np.int8, np.uint64, np.bool_])
def test_elements(dtype, is_sorted):
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    found = unique(kind, 2, sorted=int(is_sorted))
    for shape in ((5, 7), (1, 1), (300, 3), (0, 4)):
        x = RNG.integers(0, 9, shape).astype(dtype)
        if np.dtype(dtype).kind == "f" and x.size:
            x.flat[0] = -np.inf
        for got, want in zip(found.run(None, {"x": x}), expected(x, None, is_sorted), strict=True):
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("is_sorted", [True, False])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_slices(axis, is_sorted):
    found = unique(FLOAT, 3, axis=axis, sorted=int(is_sorted))
    for shape in ((6, 5, 2), (1, 8, 3), (40, 2, 40)):
        x = RNG.integers(0, 2, shape).astype(np.float32)
        for got, want in zip(found.run(None, {"x": x}), expected(x, axis, is_sorted), strict=True):
            np.testing.assert_array_equal(got, want)


def test_not_a_number_is_one_value():
    x = np.array([np.nan, 2, np.nan, -0.0, 0.0, 1], np.float32)
    y, i, v, c = unique(FLOAT, 1).run(None, {"x": x})
    np.testing.assert_array_equal(y, np.array([0, 1, 2, np.nan], np.float32))
    assert (i.tolist(), v.tolist(), c.tolist()) == ([3, 5, 1, 0], [3, 2, 3, 0, 0, 1], [2, 1, 1, 2])


def test_small_floats_keep_their_type():
    x = np.array([2, 1, 2], ml_dtypes.bfloat16)
    y, *_ = unique(TensorProto.BFLOAT16, 1, opset=28).run(None, {"x": x})
    assert y.dtype == x.dtype
    assert y.astype(np.float32).tolist() == [1, 2]


@pytest.mark.parametrize("is_sorted", [True, False])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_texts(axis, is_sorted):
    x = np.array([["b", "a", "b"], ["c", "a", "c"], ["b", "a", "b"]], object)
    found = unique(STRING, 2, sorted=int(is_sorted), **({} if axis is None else {"axis": axis}))
    for got, want in zip(found.run(None, {"x": x}), expected(x.astype("U"), axis, is_sorted), strict=True):
        assert got.tolist() == want.tolist()


# ---- Det -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_determinants(dtype):
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    found = session(model([node("Det", "x", "y")], [value("x", ["B", "M", "M"], kind)], [value("y", ["B"], kind)]))
    for batch, m in ((3, 1), (4, 2), (2, 7), (0, 3), (2, 0)):
        x = RNG.standard_normal((batch, m, m)).astype(dtype)
        # Backward stable elimination: the error is some roundings of the product of the rows' lengths.
        bound = np.linalg.norm(x, axis=2).prod(1) * m * m * np.finfo(dtype).eps
        y, = found.run(None, {"x": x})
        assert y.dtype == dtype
        assert (np.abs(y - np.linalg.det(x.astype(np.float64))) <= bound).all()
    singular = np.array([[[0, 1, 2], [0, 3, 4], [0, 5, 6]], [[0, 0, 1], [0, 2, 0], [4, 0, 0]]], dtype)
    np.testing.assert_array_equal(found.run(None, {"x": singular})[0], [0, -8])


def test_one_matrix():
    found = session(model([node("Det", "x", "y")], [value("x", [2, 2])], [value("y", [])]))
    y, = found.run(None, {"x": np.array([[1, 2], [3, 4]], np.float32)})
    assert y.shape == ()
    np.testing.assert_allclose(y, -2, rtol=1e-6)


# ---- MelWeightMatrix -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("given", [(8, 16, 8192, 0.0, 4096.0), (80, 400, 16000, 20.0, 8000.0),
                                   (40, 512, 8000, 0, 4000)])
def test_triangles(given, known):
    ort = pytest.importorskip("onnxruntime")
    names, kinds = ["bins", "length", "rate", "low", "high"], [INT64] * 3 + [FLOAT] * 2
    constants = [helper.make_tensor(n, k, [], [v]) for n, k, v in zip(names, kinds, given, strict=True)]
    made = model([node("MelWeightMatrix", " ".join(names), "y")],
                 [] if known else [value(n, [], k) for n, k in zip(names, kinds, strict=True)], [value("y", None)],
                 constants if known else [])
    made.opset_import[0].version = 17
    feed = {} if known else {n: np.array(v, np.int64 if k == INT64 else np.float32)
                             for n, k, v in zip(names, kinds, given, strict=True)}
    theirs, = ort.InferenceSession(made.SerializeToString()).run(None, feed)
    np.testing.assert_allclose(session(made, 17).run(None, feed)[0], theirs, rtol=1e-6)


# ---- TfIdfVectorizer -------------------------------------------------------------------------------------------------

WORDS = ["a", "b", "c", "d"]
#: One n-gram of one word, three of two, one of three.
POOL, STARTS, COLUMNS = [2, 0, 1, 1, 1, 3, 2, 0, 1, 3], [0, 1, 7], [3, 0, 1, 5, 2]


@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
@pytest.mark.parametrize(("least", "most", "skip"), [(1, 1, 0), (1, 3, 2), (2, 2, 5), (2, 3, 0)])
@pytest.mark.parametrize("texts", [False, True], ids=["numbers", "texts"])
def test_counts_of_n_grams(texts, least, most, skip, mode):
    pool = {"pool_strings": [WORDS[i] for i in POOL]} if texts else {"pool_int64s": POOL}
    made = node("TfIdfVectorizer", "x", "y", mode=mode, min_gram_length=least, max_gram_length=most,
                max_skip_count=skip, ngram_counts=STARTS, ngram_indexes=COLUMNS,
                weights=[0.5, 2.0, 3.0, 0.25, 7.0, 9.0], **pool)
    m = model([made], [value("x", ["N", "C"], STRING if texts else INT64)], [value("y", [None, 6])])
    found, reference = session(m), ReferenceEvaluator(m)
    for shape in ((3, 12), (1, 2), (2, 1)):
        x = RNG.integers(0, 4, shape)
        x = np.array(WORDS, object)[x] if texts else x
        np.testing.assert_array_equal(found.run(None, {"x": x})[0], reference.run(None, {"x": x})[0])


def test_counts_of_one_row():
    made = node("TfIdfVectorizer", "x", "y", mode="TF", min_gram_length=1, max_gram_length=1, max_skip_count=0,
                ngram_counts=[0], ngram_indexes=[0, 1], pool_int64s=[5, 7])
    found = session(model([made], [value("x", ["C"], TensorProto.INT32)], [value("y", [2])]))
    assert found.run(None, {"x": np.array([7, 5, 7, 1], np.int32)})[0].tolist() == [1, 2]


# ---- conversions to powers of two ------------------------------------------------------------------------------------

@pytest.mark.parametrize("saturate", [0, 1])
@pytest.mark.parametrize("mode", ["up", "down", "nearest"])
def test_conversions_to_powers_of_two(mode, saturate):
    from onnx.numpy_helper import to_float8e8m0
    made = model([node("Cast", "x", "y", to=TensorProto.FLOAT8E8M0, round_mode=mode, saturate=saturate)],
                 [value("x", ["N"])], [value("y", ["N"], TensorProto.FLOAT8E8M0)])
    x = np.array([0, 1, 1.25, 1.5, 1.75, -3, 1e-45, 5.9e-39, 1.8e-38, 3e38, 1.7e38, 3.4e38, np.inf, -np.inf, np.nan],
                 np.float32)
    y, = session(made, 25).run(None, {"x": x})
    np.testing.assert_array_equal(y.view(np.uint8), to_float8e8m0(x, bool(saturate), mode).view(np.uint8))
