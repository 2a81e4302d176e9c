"""Tree ensembles of `ai.onnx.ml`: what their attributes say as a forest, and what becomes of its scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxc.ir.core import Value
from onnxc.ir.types import F32, F64, I64, DType, dtype_named
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.ensemble import AGGREGATES, Ensemble
from onnxc.lowerings.forest import MEMBER, MODES, Forest, branches, members_as_tests
from onnxc.lowerings.ml_scores import TRANSFORMS, add_row, labelled, single, transform, two_classes
from onnxc.lowerings.table import lowering

__all__: list[str] = []

Ints = Sequence[int]
Floats = Sequence[float]


@lowering("ai.onnx.ml.TreeEnsembleRegressor")
def TreeEnsembleRegressor(
        b: Lowering, X: Value, *, aggregate_function: str = "SUM", base_values: Floats | None = None,
        base_values_as_tensor: Any = None, n_targets: int | None = None, nodes_falsenodeids: Ints | None = None,
        nodes_featureids: Ints | None = None, nodes_hitrates: Floats | None = None,
        nodes_hitrates_as_tensor: Any = None, nodes_missing_value_tracks_true: Ints | None = None,
        nodes_modes: Sequence[str] | None = None, nodes_nodeids: Ints | None = None,
        nodes_treeids: Ints | None = None, nodes_truenodeids: Ints | None = None, nodes_values: Floats | None = None,
        nodes_values_as_tensor: Any = None, post_transform: str = "NONE", target_ids: Ints | None = None,
        target_nodeids: Ints | None = None, target_treeids: Ints | None = None,
        target_weights: Floats | None = None, target_weights_as_tensor: Any = None) -> Value:
    nodes = _Nodes(b, nodes_treeids, nodes_nodeids, nodes_featureids, nodes_modes,
                   _floats(b, nodes_values, nodes_values_as_tensor), nodes_truenodeids, nodes_falsenodeids,
                   nodes_missing_value_tracks_true)
    forest = nodes.forest(target_treeids, target_nodeids, target_ids,
                          _floats(b, target_weights, target_weights_as_tensor))
    targets = _at_least_one(b, n_targets, "n_targets")
    scores = Ensemble(b, forest, targets, aggregate_function, _wide(b, X)).scores(X)
    base = _floats(b, base_values, base_values_as_tensor)
    if base.size not in (0, targets):
        b.refuse(f"{base.size} base values for {targets} targets")
    scores = add_row(b, scores, base) if base.size else scores
    return b.cast((single if targets == 1 else transform)(b, scores, post_transform), F32)


@lowering("ai.onnx.ml.TreeEnsembleClassifier")
def TreeEnsembleClassifier(
        b: Lowering, X: Value, *, base_values: Floats | None = None, base_values_as_tensor: Any = None,
        class_ids: Ints | None = None, class_nodeids: Ints | None = None, class_treeids: Ints | None = None,
        class_weights: Floats | None = None, class_weights_as_tensor: Any = None,
        classlabels_int64s: Ints | None = None, classlabels_strings: Sequence[str] | None = None,
        nodes_falsenodeids: Ints | None = None, nodes_featureids: Ints | None = None,
        nodes_hitrates: Floats | None = None, nodes_hitrates_as_tensor: Any = None,
        nodes_missing_value_tracks_true: Ints | None = None, nodes_modes: Sequence[str] | None = None,
        nodes_nodeids: Ints | None = None, nodes_treeids: Ints | None = None, nodes_truenodeids: Ints | None = None,
        nodes_values: Floats | None = None, nodes_values_as_tensor: Any = None,
        post_transform: str = "NONE") -> tuple[Value, Value]:
    nodes = _Nodes(b, nodes_treeids, nodes_nodeids, nodes_featureids, nodes_modes,
                   _floats(b, nodes_values, nodes_values_as_tensor), nodes_truenodeids, nodes_falsenodeids,
                   nodes_missing_value_tracks_true)
    forest = nodes.forest(class_treeids, class_nodeids, class_ids,
                          _floats(b, class_weights, class_weights_as_tensor))
    labels = tuple(classlabels_int64s or ())
    _at_least_one(b, len(labels), "the number of class labels")
    classes = _Classes(b, forest, labels, _floats(b, base_values, base_values_as_tensor), post_transform)
    label, scores = classes.of(X)
    return label, b.cast(scores, F32)


@lowering("ai.onnx.ml.TreeEnsemble")
def TreeEnsemble(b: Lowering, X: Value, *, aggregate_function: int = 1, leaf_targetids: Ints, leaf_weights: Any,
                 membership_values: Any = None, n_targets: int | None = None, nodes_falseleafs: Ints,
                 nodes_falsenodeids: Ints, nodes_featureids: Ints, nodes_hitrates: Any = None,
                 nodes_missing_value_tracks_true: Ints | None = None, nodes_modes: Any, nodes_splits: Any,
                 nodes_trueleafs: Ints, nodes_truenodeids: Ints, post_transform: int = 0,
                 tree_roots: Ints) -> Value:
    if not 0 <= aggregate_function < len(AGGREGATES) or not 0 <= post_transform < len(TRANSFORMS):
        b.refuse(f"aggregate_function {aggregate_function} and post_transform {post_transform}")
    dtype = b.dtype(X)
    splits, weights = (b.array(v).astype(_numpy(dtype)).ravel() for v in (nodes_splits, leaf_weights))
    modes = b.array(nodes_modes).astype(np.int64).ravel()
    count, leaves = len(nodes_featureids), len(leaf_targetids)
    sizes = {len(splits), len(modes), len(nodes_falseleafs), len(nodes_falsenodeids), len(nodes_trueleafs),
             len(nodes_truenodeids)}
    if sizes != {count} or len(weights) != leaves or not count:
        b.refuse(f"{count} nodes and {leaves} leaves have attributes of other lengths")
    if modes.min() < 0 or modes.max() > MEMBER:
        b.refuse(f"a node mode outside [0, {MEMBER}]")

    def child(ids: Ints, ends: Ints) -> npt.NDArray[np.int64]:
        at, leaf = np.asarray(ids, np.int64), np.asarray(ends) != 0
        _check_range(b, at, np.where(leaf, leaves, count), "a child")
        return np.where(leaf, at + count, at)

    def nodes(of: Any, fill: Any, dtype: Any) -> npt.NDArray[Any]:
        return np.concatenate([np.asarray(of, dtype), np.full(leaves, fill, dtype)])

    _check_range(b, np.asarray(tree_roots, np.int64), count, "a root")
    features = nodes(nodes_featureids, 0, np.int64)
    modes = nodes(modes, MODES.index("LEAF"), np.int64)
    parts = branches(modes, nodes(child(nodes_truenodeids, nodes_trueleafs), -1, np.int64),
                     nodes(child(nodes_falsenodeids, nodes_falseleafs), -1, np.int64),
                     nodes(nodes_missing_value_tracks_true or [0] * count, 0, np.int64) != 0)
    forest = Forest(features, nodes(splits, 0, splits.dtype), *parts, np.asarray(tree_roots, np.int64),
                    np.arange(count, count + leaves), np.asarray(leaf_targetids, np.int64), weights)
    forest = _with_members(b, forest, modes, membership_values)
    targets = _at_least_one(b, n_targets, "n_targets")
    scores = Ensemble(b, forest, targets, AGGREGATES[aggregate_function], _compute(dtype)).scores(X)
    kind = TRANSFORMS[post_transform]
    return b.cast((single if targets == 1 else transform)(b, scores, kind), dtype)


# ---- attributes ----------------------------------------------------------------------------------------------------
def _floats(b: Lowering, given: Floats | None, tensor: Any) -> npt.NDArray[np.floating]:
    """An attribute that is a list of floats or a tensor of doubles."""
    return np.asarray(given or (), np.float32) if tensor is None else b.array(tensor).ravel()


def _compute(dtype: DType) -> DType:
    return dtype_named(dtype.compute)


def _numpy(dtype: DType) -> Any:
    return _compute(dtype).numpy


def _wide(b: Lowering, X: Value) -> DType:
    """What splits are compared in: doubles for doubles, else floats."""
    return F64 if b.dtype(X) == F64 else F32


def _at_least_one(b: Lowering, count: int | None, what: str) -> int:
    if count is None or count < 1:
        b.refuse(f"{what} is {count}; expected at least 1")
    return count


def _check_range(b: Lowering, at: npt.NDArray[np.int64], size: Any, what: str) -> None:
    if ((at < 0) | (at >= size)).any():
        b.refuse(f"{what} that is no node or leaf")


def _with_members(b: Lowering, forest: Forest, modes: npt.NDArray[np.int64], values: Any) -> Forest:
    """The sets of the nodes that ask for membership, in order, each ended by a NaN."""
    asking = np.flatnonzero(modes == MEMBER)
    if not len(asking):
        return forest
    flat = b.array(values).ravel().astype(forest.split.dtype) if values is not None else np.empty(0, np.float32)
    ends = np.flatnonzero(np.isnan(flat))
    if len(ends) != len(asking):
        b.refuse(f"{len(ends)} sets of members for {len(asking)} nodes that ask for membership")
    starts = [0, *(int(e) + 1 for e in ends[:-1])]
    sets = {int(node): flat[s:e].tolist() for node, s, e in zip(asking, starts, ends, strict=True)}
    return members_as_tests(forest, sets)


class _Nodes:
    """The nodes of the older operators, which name them by the numbers of their tree and of their own."""

    def __init__(self, b: Lowering, trees: Ints | None, ids: Ints | None, features: Ints | None,
                 modes: Sequence[str] | None, values: npt.NDArray[np.floating], true: Ints | None, false: Ints | None,
                 missing: Ints | None) -> None:
        self.b, self.values = b, values
        self.trees, self.ids, self.features, self.true, self.false = (
            np.asarray(v or (), np.int64) for v in (trees, ids, features, true, false))
        known = {name: i for i, name in enumerate(MODES)}
        unknown = sorted(set(modes or ()) - known.keys() | ({"BRANCH_MEMBER"} & set(modes or ())))
        if unknown:
            b.refuse(f"the node mode '{unknown[0]}'")
        self.modes = np.array([known[m] for m in modes or ()], np.int64)
        sizes = {len(v) for v in (self.ids, self.features, self.modes, self.true, self.false, self.values)}
        if sizes != {len(self.trees)} or not len(self.trees):
            b.refuse(f"the attributes of nodes have the lengths {sorted(sizes | {len(self.trees)})}; expected one "
                     "length, not 0")
        given = np.asarray(missing or (), np.int64)[:len(self.trees)]
        self.missing = np.concatenate([given, np.zeros(len(self.trees) - len(given), np.int64)]) == 1
        self.order = np.lexsort((self.ids, self.trees))
        pairs = np.stack([self.trees, self.ids])[:, self.order]
        if (pairs[:, 1:] == pairs[:, :-1]).all(0).any():
            b.refuse("two nodes of one tree have the same number")
        self.names, self.starts = np.unique(self.trees[self.order], return_index=True)

    def find(self, trees: npt.NDArray[np.int64], ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The positions of nodes by tree and number."""
        tree = np.searchsorted(self.names, trees)
        sure = np.minimum(tree, len(self.names) - 1)
        span = int(self.ids.max() - self.ids.min()) + 1
        low = int(self.ids.min())
        keys = np.searchsorted(self.names, self.trees[self.order]) * span + self.ids[self.order] - low
        inside = (ids >= low) & (ids < low + span) & (self.names[sure] == trees)
        wanted = np.where(inside, sure * span + ids - low, keys[0])
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        if not inside.all() or (keys[at] != wanted).any():
            self.b.refuse("a node that is named as a child, or has weights, is not there")
        return self.order[at]

    def forest(self, trees: Ints | None, ids: Ints | None, targets: Ints | None,
               weights: npt.NDArray[np.floating]) -> Forest:
        """The forest with the weights of (tree, node, target) triples."""
        at, of, target = (np.asarray(v or (), np.int64) for v in (trees, ids, targets))
        if not len(at) == len(of) == len(target) == len(weights):
            self.b.refuse(f"{len(weights)} weights of {len(at)} trees, {len(of)} nodes and {len(target)} targets")
        inner = np.flatnonzero(self.modes != MODES.index("LEAF"))
        children = []
        for side in (self.true, self.false):
            found = np.full(len(self.trees), -1, np.int64)
            found[inner] = self.find(self.trees[inner], side[inner])
            children.append(found)
        test, nan_left, left, right = branches(self.modes, children[0], children[1], self.missing)
        leaves = self.find(at, of) if len(at) else at
        keep = left[leaves] < 0                     # what an inner node weighs is never asked for
        firsts = np.unique(self.trees, return_index=True)[1]
        return Forest(self.features, self.values, test, nan_left, left, right, np.sort(firsts), leaves[keep],
                      target[keep], weights[keep])


# ---- classes -------------------------------------------------------------------------------------------------------
class _Classes:
    """Labels and scores of classes. With two classes of which only one has weights, the other's score follows from its
    own."""

    def __init__(self, b: Lowering, forest: Forest, labels: Ints, base: npt.NDArray[np.floating], kind: str) -> None:
        self.b, self.forest, self.labels, self.base, self.kind = b, forest, labels, base, kind
        self.given = sorted(set(forest.targets.tolist()))
        if len(base) not in (0, 1, len(labels)):
            b.refuse(f"{len(base)} base values for {len(labels)} classes")

    def of(self, X: Value) -> tuple[Value, Value]:
        b, count = self.b, len(self.labels)
        ensemble = Ensemble(b, self.forest, count, "SUM", _wide(b, X))
        scores = ensemble.scores(X)
        if count == 1:
            scores = add_row(b, scores, self.base)
            positive = b.map("gt", scores, b.scalar(0, scores))
            return self.flat(positive), single(b, scores, self.kind)
        if count == 2 and len(self.given) == 1:
            return self.binary(scores, self.given[0])
        if len(self.base) == 1:
            self.base = np.append(self.base, np.zeros(count - 1, self.base.dtype))
        scores = add_row(b, scores, self.base) if len(self.base) else scores
        return self.best(scores, X, ensemble), transform(b, scores, self.kind)

    def best(self, scores: Value, X: Value, ensemble: Ensemble) -> Value:
        """The class of the largest score; where there are no base values, of those that have a weight."""
        b = self.b
        covered = ensemble.covered(X) if not len(self.base) else None
        if covered is not None:
            given = b.map("gt", covered, b.scalar(0, covered))
            scores = b.map("select", given, scores, b.scalar(-np.inf, scores))
        return labelled(b, b.value("t.argreduce", scores, kind="max", axis=1), self.labels)

    def binary(self, scores: Value, given: int) -> tuple[Value, Value]:
        b, n = self.b, self.b.shape(scores)[0]
        positive = bool((self.forest.weights >= 0).all())
        score = b.value("t.slice", scores, starts=(0, given), sizes=(n, 1), steps=(1, 1))
        if len(self.base) == 2:
            scores = add_row(b, scores, self.base)
            score = b.value("t.slice", scores, starts=(0, given), sizes=(n, 1), steps=(1, 1))
        elif given == 0:
            score = add_row(b, score, self.base) if len(self.base) else score
        label = labelled(b, self.flat(b.map("gt", score, b.scalar(0.5 if positive else 0, score))), self.labels)
        if given == 0 and len(self.base) < 2:
            return label, two_classes(b, score, self.kind, complement=positive)
        return label, transform(b, scores, self.kind)

    def flat(self, positive: Value) -> Value:
        """[N, 1] of bools as [N] of numbers of classes."""
        return self.b.reshape(self.b.cast(positive, I64), self.b.shape(positive)[:1])
