"""Features of `ai.onnx.ml`, held against ONNX Runtime; where it has no kernel for a type, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from onnxc.errors import InvalidArgument
from tests.lowerings.ml import agree, by_reference, natively, node_model

F32 = np.float32
X = np.array([[1, -2, 3], [0, 0, 0], [-1, -4, -2]], F32)
Q = np.random.default_rng(0).integers(-5, 110, (7, 9))
KEYS = np.random.default_rng(1).permutation(100)[:50]


@pytest.mark.parametrize("dtype", ["f4", "f8", "i8", "i4"])
def test_all_element_types(dtype: str) -> None:
    x = X.astype(dtype)
    agree("Scaler", [x], [F32], scale=[1.0, 2.0, 3.0], offset=[0.5, 0.0, 1.0])
    agree("Scaler", [x], [F32], scale=[3.0], offset=[0.5])
    agree("Normalizer", [x], [F32], norm="L2")
    agree("FeatureVectorizer", [x, x], [F32], inputdimensions=[2, 4])
    agree("ArrayFeatureExtractor", [x, np.array([[1, 2, 1]])], [x.dtype])


def test_natively() -> None:
    agree("Scaler", [X], [F32], native=True, scale=[1.0, 2.0, 3.0], offset=[0.5, 0.0, 1.0])
    agree("FeatureVectorizer", [X, X], [F32], native=True, inputdimensions=[2, 4])
    agree("OneHotEncoder", [X], [F32], native=True, cats_int64s=[1, 3, -2])
    agree("Normalizer", [X], [F32], native=True, norm="L1")


@pytest.mark.parametrize("norm", ["MAX", "L1", "L2"])
def test_norms(norm: str) -> None:
    """A row of zeros stays; MAX divides by the largest element, also by a negative one."""
    agree("Normalizer", [X], [F32], norm=norm)
    agree("Normalizer", [X[0]], [F32], norm=norm)


def test_imputed() -> None:
    nan = float("nan")
    agree("Imputer", [np.array([[nan, 1, nan]], F32)], [F32], imputed_value_floats=[7.0, 8.0, 9.0],
          replaced_value_float=nan)
    agree("Imputer", [X], [F32], imputed_value_floats=[7.0], replaced_value_float=1.0)
    agree("Imputer", [X.astype("i8")], [np.int64], imputed_value_int64s=[7, 3, 2], replaced_value_int64=1)
    for dtype in (np.float64, np.int32):            # ONNX Runtime has neither
        attrs: dict[str, Any] = {"imputed_value_floats": [7.0], "replaced_value_float": 1.0} \
            if dtype is np.float64 else {"imputed_value_int64s": [7], "replaced_value_int64": 1}
        (y,) = by_reference(node_model("Imputer", [X.astype(dtype)], [dtype], **attrs), [X.astype(dtype)])
        np.testing.assert_array_equal(y, np.where(X == 1, 7, X).astype(dtype), strict=True)


def test_binarized() -> None:
    agree("Binarizer", [X], [F32], threshold=1.0)
    for dtype in (np.float64, np.int64, np.int32):
        x = X.astype(dtype)
        (y,) = by_reference(node_model("Binarizer", [x], [dtype], threshold=0.5), [x])
        np.testing.assert_array_equal(y, (X > 0.5).astype(dtype), strict=True)


def test_vectors_and_cubes() -> None:
    agree("FeatureVectorizer", [X[0], X[1, :2]], [F32], inputdimensions=[3, 2])
    agree("FeatureVectorizer", [X.reshape(3, 3, 1), X], [F32], inputdimensions=[3, 3])
    agree("ArrayFeatureExtractor", [X[0], np.array([2, 0])], [F32])
    agree("ArrayFeatureExtractor", [X.reshape(3, 1, 3), np.array([2, 0])], [F32])


def test_one_hot() -> None:
    """Floats are cut to integers; of equal categories the last one counts."""
    for dtype in ("f4", "f8", "i8"):
        agree("OneHotEncoder", [X.astype(dtype)], [F32], cats_int64s=[1, 3, -2])
        agree("OneHotEncoder", [X.astype(dtype)], [F32], cats_int64s=list(range(-4, 20)), zeros=0)
    agree("OneHotEncoder", [np.array([[1.9, -1.5]], F32)], [F32], cats_int64s=[1, -1, 1])


def test_an_unknown_category_is_an_error_without_zeros() -> None:
    model = node_model("OneHotEncoder", [X], [F32], cats_int64s=[1, 3], zeros=0)
    with pytest.raises(InvalidArgument, match="out of range"):
        natively(model, [X])


# ---- tables ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("n", [1, 8, 9, 50])
def test_labels_of_numbers(n: int) -> None:
    keys, floats = KEYS[:n].tolist(), KEYS[:n].astype(float).tolist()
    values = [float(i) for i in range(n)]
    agree("LabelEncoder", [Q], [np.int64], native=n == 50, keys_int64s=keys, values_int64s=list(range(n)))
    agree("LabelEncoder", [Q], [F32], keys_int64s=keys, values_floats=values, default_float=2.5)
    agree("LabelEncoder", [Q.astype(F32)], [np.int64], keys_floats=floats, values_int64s=list(range(n)),
          default_int64=7)
    agree("LabelEncoder", [Q.astype(F32)], [F32], keys_floats=floats, values_floats=values)
    agree("LabelEncoder", [Q], [np.int64], keys_int64s=keys * 2, values_int64s=list(range(2 * n)))


@pytest.mark.parametrize(("key", "value"), [("f8", "f8"), ("i8", "i8")])
def test_labels_as_tensors(key: str, value: str) -> None:
    agree("LabelEncoder", [Q.astype(key)], [value], version=4, keys_tensor=numpy_helper.from_array(KEYS.astype(key)),
          values_tensor=numpy_helper.from_array(np.arange(50).astype(value)),
          default_tensor=numpy_helper.from_array(np.array([-3], value)))


def test_nan_is_a_key() -> None:
    x = np.array([1, np.nan, 3, -0.0], F32)
    agree("LabelEncoder", [x], [F32], version=4, keys_floats=[1.0, float("nan")], values_floats=[5.0, 6.0])
    agree("LabelEncoder", [x], [F32], version=4, keys_floats=[0.0], values_floats=[5.0])
