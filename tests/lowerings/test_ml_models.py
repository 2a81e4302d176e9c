"""Linear models and support vector machines of `ai.onnx.ml`, held against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

from onnxc.errors import UnsupportedModel
from tests.lowerings.ml import agree, by_reference, node_model

F32, I64 = np.float32, np.int64
X = np.array([[1, -2, 3], [0, 0, 0], [-1, -4, -2]], F32)
TRANSFORMS = ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO", "PROBIT"]
KERNELS = ["LINEAR", "POLY", "RBF", "SIGMOID"]
#: PROBIT is as steep as it gets near its ends, and an exponential multiplies the error of its argument.
LOOSE = {"rtol": 2e-3, "atol": 1e-4}


@pytest.mark.parametrize("kind", TRANSFORMS)
def test_linear(kind: str) -> None:
    for n in (1, 2):
        agree("LinearRegressor", [X], [F32], native=kind == "SOFTMAX_ZERO", **LOOSE, targets=n, post_transform=kind,
              coefficients=[0.1, 0.5, -1.0, 1.0, 0.2, 0.3][:3 * n], intercepts=[0.2, 0.3][:n])
    for n in (1, 2, 3):
        if n > 1 or kind != "PROBIT":           # which ONNX Runtime takes of memory that it has not written
            agree("LinearClassifier", [X], [I64, F32], **LOOSE, post_transform=kind, intercepts=[0.0, 0.5, 0.1][:n],
                  coefficients=[0.1, 0.5, -1, 1, 0.2, 0.3, 0.4, 0.6, 0.7][:3 * n],
                  classlabels_ints=[5, 6, 9][:max(n, 2)])


@pytest.mark.parametrize("dtype", ["f8", "i8", "i4"])
def test_other_types_are_computed_as_floats(dtype: str) -> None:
    agree("LinearClassifier", [X.astype(dtype)], [I64, F32], coefficients=[1.0, 0.5, -1.0] * 2, intercepts=[0.0, 0.5],
          classlabels_ints=[4, 2])
    model = node_model("LinearRegressor", [X.astype(dtype)], [F32], coefficients=[1.0, 2.0, 3.0])
    (y,) = by_reference(model, [X.astype(dtype)])
    np.testing.assert_array_equal(y, X @ np.array([[1], [2], [3]], F32), strict=True)


def test_a_vector_is_one_sample() -> None:
    agree("LinearRegressor", [X[0]], [F32], coefficients=[1.0, 2.0, 3.0])
    agree("LinearClassifier", [X[0]], [I64, F32], coefficients=[1.0, 2.0, 3.0], intercepts=[0.5],
          classlabels_ints=[0, 1])


@pytest.mark.parametrize("kernel", KERNELS)
def test_support_vector_regression(kernel: str) -> None:
    rng = np.random.default_rng(KERNELS.index(kernel))
    attrs = {"coefficients": rng.normal(size=7).tolist(), "support_vectors": rng.normal(size=21).tolist(),
             "kernel_params": [0.3, 0.5, 3.0], "kernel_type": kernel, "n_supports": 7, "rho": [0.5]}
    for more in ({}, {"one_class": 1}, {"post_transform": "LOGISTIC"}):
        agree("SVMRegressor", [X], [F32], **LOOSE, **attrs, **more)


@pytest.mark.parametrize("probable", [False, True], ids=["scores", "probabilities"])
@pytest.mark.parametrize("classes", [2, 3, 4])
def test_support_vector_classes(classes: int, probable: bool) -> None:
    """Probabilities are coupled in rounds, as many as ONNX Runtime makes."""
    rng = np.random.default_rng(classes)
    pairs, sizes = classes * (classes - 1) // 2, rng.integers(1, 4, classes)
    for kernel, kind in zip(KERNELS, TRANSFORMS, strict=False):
        attrs = {"coefficients": rng.normal(size=int(sizes.sum()) * (classes - 1)).tolist(), "kernel_type": kernel,
                 "support_vectors": rng.normal(size=3 * int(sizes.sum())).tolist(), "kernel_params": [0.3, 0.5, 3.0],
                 "rho": rng.normal(size=pairs).tolist(), "vectors_per_class": sizes.tolist(), "post_transform": kind,
                 "classlabels_ints": [3, 1, 7, 9][:classes]}
        if probable:
            attrs |= {"prob_a": rng.normal(size=pairs).tolist(), "prob_b": rng.normal(size=pairs).tolist()}
        agree("SVMClassifier", [rng.normal(size=(11, 3)).astype(F32)], [I64, F32],
              native=kernel == "RBF" and classes == 3, **LOOSE, **attrs)


@pytest.mark.parametrize("classes", [2, 3])
def test_linear_support_vector_classes(classes: int) -> None:
    rng = np.random.default_rng(0)
    for weights in (rng.normal(size=3 * classes), rng.random(3 * classes)):
        agree("SVMClassifier", [X], [I64, F32], **LOOSE, coefficients=weights.tolist(), rho=[0.1], kernel_type="LINEAR",
              kernel_params=[0.0, 0.0, 0.0], classlabels_ints=[3, 1, 7][:classes])


def test_what_does_not_fit_is_refused() -> None:
    model = node_model("LinearClassifier", [X], [I64, F32], coefficients=[1.0] * 6, intercepts=[0.0] * 2,
                       classlabels_ints=[1, 2, 3])
    with pytest.raises(UnsupportedModel, match="2 sets of coefficients for 3 class labels"):
        by_reference(model, [X])
