"""Tree ensembles of `ai.onnx.ml`, held against ONNX Runtime; what it gets wrong, against sums of our own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from onnxc.errors import InvalidArgument, UnsupportedModel
from tests.lowerings.ml import agree, by_reference, natively, node_model, stumps

F32, I64 = np.float32, np.int64
X = np.array([[-2], [-0.3], [0.3], [2]], F32)
TRANSFORMS = ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO", "PROBIT"]
MODES = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"]
LOOSE = {"rtol": 2e-3, "atol": 1e-4}            # what PROBIT's ends make of the last bit of a sum


class Grown:
    """The attributes of random trees: splits are tenths, so that samples meet them; some branches end early."""

    def __init__(self, trees: int, depth: int, targets: int, kind: str, single: bool = True,
                 modes: Sequence[str] = MODES[:1], features: int = 5) -> None:
        self.rng = np.random.default_rng(trees * 100 + depth)
        self.depth, self.modes, self.features = depth, modes, features
        self.rows: list[list[Any]] = []
        self.weights: list[tuple[int, int, int, float]] = []
        for tree in range(trees):
            self.grow(tree, depth, len(self.rows), [tree % targets] if single else list(range(targets)))
        names = ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids",
                 "missing_value_tracks_true")
        self.attrs: dict[str, Any] = {f"nodes_{n}": [r[i] for r in self.rows] for i, n in enumerate(names)}
        for i, n in enumerate(("treeids", "nodeids", "ids", "weights")):
            self.attrs[f"{kind}_{n}"] = [w[i] for w in self.weights]
        self.attrs |= {"n_targets": targets} if kind == "target" else {"classlabels_int64s": list(range(targets))}

    def grow(self, tree: int, depth: int, first: int, targets: list[int]) -> int:
        at = len(self.rows)
        row = [tree, at - first, 0, "LEAF", 0.0, 0, 0, 0]
        self.rows.append(row)
        if depth == 0 or (depth < self.depth - 1 and self.rng.random() < 0.2):
            self.weights += [(tree, at - first, t, float(self.rng.normal())) for t in targets]
            return at - first
        row[2:5] = [int(self.rng.integers(self.features)), str(self.rng.choice(self.modes)),
                    float(np.round(self.rng.normal(), 1))]
        row[5], row[6] = (self.grow(tree, depth - 1, first, targets) for _ in range(2))
        row[7] = int(self.rng.random() < 0.5)
        return at - first


def samples(count: int, features: int = 5, nan: bool = False) -> np.ndarray:
    rng = np.random.default_rng(count)
    x = np.round(rng.normal(size=(count, features)), 1).astype(F32)
    if nan:
        x[rng.random(x.shape) < 0.2] = np.nan
    return x


# ---- walks -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("single", [True, False], ids=["one target a tree", "all targets"])
@pytest.mark.parametrize(("trees", "depth", "targets"), [(1, 1, 1), (3, 2, 1), (20, 6, 1), (20, 4, 3)])
def test_batches(trees: int, depth: int, targets: int, single: bool) -> None:
    """Whole blocks of samples, single ones, and both; few trees and many; one program for all batches."""
    attrs = Grown(trees, depth, targets, "target", single).attrs
    model = node_model("TreeEnsembleRegressor", [X], [F32], **attrs)
    import onnxc
    session = onnxc.InferenceSession(model.SerializeToString())
    for count in (0, 1, 5, 64, 130):
        x = samples(count)
        (want,) = by_reference(model, [x])
        np.testing.assert_allclose(session.run(None, {"x0": x})[0], want, 1e-5, 1e-5)
        if count:
            agree("TreeEnsembleRegressor", [x], [F32], atol=1e-5, **attrs)


@pytest.mark.parametrize("modes", [*([m] for m in MODES), MODES], ids=[*MODES, "all"])
def test_tests_and_missing_values(modes: Sequence[str]) -> None:
    """A NaN goes where the comparison sends it, or to the true branch where the node says so."""
    attrs = Grown(9, 3, 3, "class", False, modes).attrs
    plain = {k: v for k, v in attrs.items() if k != "nodes_missing_value_tracks_true"}
    for given in (attrs, plain):
        agree("TreeEnsembleClassifier", [samples(80, nan=True)], [I64, F32], native=given is attrs and modes == MODES,
              atol=1e-5, **given)


@pytest.mark.parametrize("dtype", ["f8", "i8", "i4"])
def test_other_types(dtype: str) -> None:
    agree("TreeEnsembleClassifier", [samples(80).astype(dtype)], [I64, F32], atol=1e-5,
          **Grown(9, 3, 3, "class").attrs)


def test_doubles_are_compared_as_doubles() -> None:
    """Splits between two floats."""
    attrs = stumps([[(0, 1)], [(0, 2)], [(0, 3)]], "target", n_targets=1)
    for key in ("nodes_values", "target_weights"):
        attrs[f"{key}_as_tensor"] = numpy_helper.from_array(np.array(attrs.pop(key)) + 1e-12)
    x = np.array([[-1 + 2e-12], [-1], [2e-12], [1e-13]])
    agree("TreeEnsembleRegressor", [x], [F32], **attrs)


def test_a_wide_and_a_deep_tree() -> None:
    """Features and nodes that need words of 64 bits together; a tree that is a list."""
    n = 400
    attrs = {"nodes_treeids": [0] * (2 * n + 1), "nodes_nodeids": list(range(2 * n + 1)), "n_targets": 1,
             "nodes_featureids": [(1 << 26) * (i == 3) + i % 7 for i in range(n)] + [0] * (n + 1),
             "nodes_modes": ["BRANCH_LT"] * n + ["LEAF"] * (n + 1),
             "nodes_values": [float(i) for i in range(n)] + [0.0] * (n + 1),
             "nodes_truenodeids": list(range(n, 2 * n)) + [0] * (n + 1),
             "nodes_falsenodeids": [*range(1, n), 2 * n] + [0] * (n + 1),
             "target_ids": [0] * (n + 1), "target_treeids": [0] * (n + 1), "target_nodeids": list(range(n, 2 * n + 1)),
             "target_weights": [float(i) for i in range(n + 1)]}
    narrow = attrs | {"nodes_featureids": [0] * (2 * n + 1)}
    x = np.array([[-1], [0], [17.5], [399], [1000]], F32)
    agree("TreeEnsembleRegressor", [x], [F32], native=True, **narrow)
    with pytest.raises(InvalidArgument, match="the trees test 67108868 features"):
        natively(node_model("TreeEnsembleRegressor", [x], [F32], **attrs), [x])


# ---- scores ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("aggregate", ["SUM", "AVERAGE", "MIN", "MAX"])
@pytest.mark.parametrize("targets", [1, 3])
def test_aggregates(aggregate: str, targets: int) -> None:
    for single in (True, False):
        attrs = Grown(7, 3, targets, "target", single).attrs
        for base, kind in (({}, "NONE"), ({"base_values": [0.5] * targets}, "LOGISTIC"), ({}, "SOFTMAX")):
            agree("TreeEnsembleRegressor", [samples(80)], [F32], atol=1e-5, aggregate_function=aggregate,
                  post_transform=kind, **attrs, **base)


@pytest.mark.parametrize("kind", TRANSFORMS)
@pytest.mark.parametrize("weights", [(0.2, 0.7, 0.9), (-0.2, 0.7, 0.9)], ids=["positive", "mixed"])
def test_two_classes_with_the_weights_of_one(weights: tuple[float, ...], kind: str) -> None:
    for given in (0, 1):
        attrs = stumps([[(given, w)] for w in weights], "class", classlabels_int64s=[10, 11], post_transform=kind)
        if given == 1 or kind != "PROBIT":      # of which ONNX Runtime fills one column
            agree("TreeEnsembleClassifier", [X], [I64, F32], **LOOSE, **attrs)
            agree("TreeEnsembleClassifier", [X], [I64, F32], **LOOSE, **attrs, base_values=[0.1])


@pytest.mark.parametrize("kind", TRANSFORMS)
def test_three_classes(kind: str) -> None:
    """The best class is one of those that have a weight, where there are no base values."""
    attrs = stumps([[(0, 0.2), (1, 0.8)], [(0, -0.7), (1, -0.3)], [(0, -0.9), (1, -0.1), (2, -0.05)]], "class",
                   classlabels_int64s=[10, 11, 12], post_transform=kind)
    agree("TreeEnsembleClassifier", [X], [I64, F32], native=kind == "SOFTMAX_ZERO", **LOOSE, **attrs)
    agree("TreeEnsembleClassifier", [X], [I64, F32], **LOOSE, **attrs, base_values=[0.1, 0.2, 0.3])


def test_one_class() -> None:
    attrs = stumps([[(0, 0.2)], [(0, 0.7)], [(0, -0.9)]], "class", classlabels_int64s=[10], base_values=[0.1])
    agree("TreeEnsembleClassifier", [X], [I64, F32], **attrs)


def test_two_classes_with_weights_each() -> None:
    """The label is that of the larger score. ONNX Runtime gives 1 where the second score is above 0, whatever the
    labels are."""
    attrs = stumps([[(0, 0.2), (1, 0.8)], [(0, 0.7), (1, 0.3)], [(0, 0.9), (1, 0.1)]], "class",
                   classlabels_int64s=[10, 11])
    label, scores = by_reference(node_model("TreeEnsembleClassifier", [X], [I64, F32], **attrs), [X])
    np.testing.assert_array_equal(label, [11, 10, 10, 10])
    np.testing.assert_allclose(scores, [[0.2, 0.8], [0.7, 0.3], [0.9, 0.1], [0.9, 0.1]], 1e-6)


# ---- TreeEnsemble ----------------------------------------------------------------------------------------------------

def ensemble(modes: Sequence[int], splits: Sequence[float], dtype: Any, **attrs: Any) -> dict[str, Any]:
    """One tree: node 0 has node 1 and leaf 2 for children, node 1 leaves 0 and 1, which weigh 1, 2 and 3."""
    return {"nodes_modes": numpy_helper.from_array(np.array(modes, np.uint8)), "nodes_featureids": [0, 0],
            "nodes_splits": numpy_helper.from_array(np.array(splits, dtype)), "nodes_truenodeids": [1, 0],
            "nodes_trueleafs": [0, 1], "nodes_falsenodeids": [2, 1], "nodes_falseleafs": [1, 1], "tree_roots": [0],
            "leaf_targetids": [0, 0, 0], "leaf_weights": numpy_helper.from_array(np.array([1, 2, 3], dtype)),
            "n_targets": 1, **attrs}


@pytest.mark.parametrize("dtype", [np.float16, F32, np.float64])
def test_trees_of_leaves_apart(dtype: Any) -> None:
    x = np.array([[-2], [-1], [-0.5], [0], [3], [np.nan]], dtype)
    attrs = ensemble([0, 1], [0.0, -1.0], dtype, nodes_missing_value_tracks_true=[1, 0])
    (y,) = by_reference(node_model("TreeEnsemble", [x], [dtype], 5, **attrs), [x])
    np.testing.assert_array_equal(y, np.array([[1], [2], [2], [2], [3], [2]], dtype), strict=True)
    if dtype is not np.float16:
        agree("TreeEnsemble", [x], [dtype], version=5, **attrs)


@pytest.mark.parametrize("count", [0, 1, 3, 50])
def test_sets_of_members(count: int) -> None:
    """Long sets are searched by halves."""
    members = np.random.default_rng(0).permutation(100)[:count].astype(F32)
    x = np.append(np.arange(-2, 101), np.nan).astype(F32)[:, None]
    attrs = ensemble([6, 0], [0.0, 40.0], F32,
                     membership_values=numpy_helper.from_array(np.append(members, F32(np.nan))))
    (y,) = by_reference(node_model("TreeEnsemble", [x], [F32], 5, **attrs), [x])
    np.testing.assert_array_equal(y[:, 0], np.where(~np.isin(x[:, 0], members), 3, np.where(x[:, 0] <= 40, 1, 2)))


def test_shared_nodes_do_not_multiply() -> None:
    """Each of sixty nodes has the next one for both children: 2^60 walks."""
    n = 60
    attrs = {"nodes_modes": numpy_helper.from_array(np.zeros(n, np.uint8)), "nodes_featureids": [0] * n,
             "nodes_splits": numpy_helper.from_array(np.zeros(n, F32)), "tree_roots": [0, 3],
             "nodes_truenodeids": [*range(1, n), 0], "nodes_falsenodeids": [*range(1, n), 0],
             "nodes_trueleafs": [0] * (n - 1) + [1], "nodes_falseleafs": [0] * (n - 1) + [1], "leaf_targetids": [0],
             "leaf_weights": numpy_helper.from_array(np.ones(1, F32)), "n_targets": 1}
    (y,) = by_reference(node_model("TreeEnsemble", [X], [F32], 5, **attrs), [X])
    np.testing.assert_array_equal(y, np.full((4, 1), 2, F32))


@pytest.mark.parametrize(("change", "reason"), [
    ({"nodes_truenodeids": [0, 0]}, "nodes that are below themselves"),
    ({"nodes_falsenodeids": [9, 1]}, "a child that is no node or leaf"),
    ({"leaf_targetids": [0, 0, 4]}, "a weight for a target outside"),
    ({"nodes_featureids": [0, -1]}, "a negative feature"),
    ({"tree_roots": [7]}, "a root that is no node or leaf"),
    ({"aggregate_function": 9}, "aggregate_function 9"),
])
def test_what_is_no_tree_is_refused(change: dict[str, Any], reason: str) -> None:
    model = node_model("TreeEnsemble", [X], [F32], 5, **(ensemble([0, 0], [0.0, 0.0], F32) | change))
    with pytest.raises(UnsupportedModel, match=reason):
        by_reference(model, [X])
