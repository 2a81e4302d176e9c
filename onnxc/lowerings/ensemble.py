"""The scores of a forest: a walk down every tree, what its leaf weighs for each target, and a fold over trees.

Whole blocks of samples walk side by side, all of a block through each tree; for what is left of a batch, or a single
sample, the walks through many trees go side by side. Where each tree has weights for one target only, its leaves hold
them, and walk and fold are one kernel; else walks end in memory and rows of weights are summed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from onnxc.ir.core import Value
from onnxc.ir.dims import DimLike, floordiv
from onnxc.ir.types import DType
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.forest import Forest, Malformed, Packed, pack
from onnxc.lowerings.ml_scores import samples

__all__ = ["AGGREGATES", "Ensemble"]

AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")
_FOLDS = {"SUM": "add", "AVERAGE": "add", "MIN": "min", "MAX": "max"}
_EMPTY = {"SUM": 0.0, "AVERAGE": 0.0, "MIN": np.inf, "MAX": -np.inf}
_BLOCK = 64             # samples that walk side by side
_FEW = 8                # trees below which a single sample does not walk them side by side


class Ensemble:
    """The scores of a forest, summed (or averaged, or ...) in `dtype`."""

    def __init__(self, b: Lowering, forest: Forest, targets: int, aggregate: str, dtype: DType) -> None:
        if aggregate not in _FOLDS:
            b.refuse(f"aggregate_function '{aggregate}' is none of {', '.join(_FOLDS)}")
        self.b, self.forest, self.targets, self.aggregate, self.dtype = b, forest, targets, aggregate, dtype
        if ((forest.targets < 0) | (forest.targets >= targets)).any():
            b.refuse(f"a weight for a target outside [0, {targets})")
        inner = forest.inner
        if (forest.feature[inner] < 0).any():
            b.refuse("a negative feature")
        try:
            self.packed: Packed = pack(forest)
        except Malformed as e:
            b.refuse(str(e))
        self.features = int(forest.feature[inner].max(initial=-1)) + 1
        # Behind all records stands one leaf more, which weighs nothing.
        self.words = b.const(np.append(self.packed.words, self.packed.words.dtype.type(0)), name="tree_words")

    def scores(self, X: Value) -> Value:
        """[N, targets]."""
        x = self.samples(X)
        own = self.single_targets()
        if own is not None:
            return self.finish(self.in_parts(x, lambda part, together: self.fused(part, own, together)))
        table, rows = self.table(self.forest.weights.astype(self.dtype.numpy), _EMPTY[self.aggregate])
        return self.finish(self.in_parts(x, lambda part, together: self.gathered(part, table, rows, together)))

    def covered(self, X: Value) -> Value | None:
        """Which targets any leaf of a sample has a weight for, [N, targets] of numbers above 0; None where all of them
        have one for every sample."""
        given, nodes = np.zeros((self.targets, len(self.forest.feature)), bool), self.packed.nodes
        given[self.forest.targets, self.forest.leaves] = True
        ends = np.append(self.packed.roots, len(nodes))
        leaf = ~self.forest.inner[nodes]
        missing = leaf[None] & ~given[:, nodes]
        count = np.concatenate([np.zeros((self.targets, 1), np.int64), np.cumsum(missing, 1)], 1)
        if (count[:, ends[1:]] == count[:, ends[:-1]]).any(1).all():
            return None
        table, rows = self.table(np.ones(len(self.forest.weights), self.dtype.numpy), 0.0)
        return self.in_parts(self.samples(X), lambda part, together: self.gathered(part, table, rows, together))

    def samples(self, X: Value) -> Value:
        x = samples(self.b, X, self.dtype)
        self.b.at_most(self.features, self.b.shape(x)[1], f"the trees test {self.features} features; there are not as "
                                                          "many")
        return x

    def finish(self, scores: Value) -> Value:
        b = self.b
        if self.aggregate == "AVERAGE":
            return b.map("div", scores, b.scalar(len(self.forest.roots), scores))
        if self.aggregate == "SUM":
            return scores
        none = b.map("eq", scores, b.scalar(_EMPTY[self.aggregate], scores))
        return b.map("select", none, b.scalar(0, scores), scores)

    # ---- parts of a batch -------------------------------------------------------------------------------------------
    def in_parts(self, x: Value, scores: Callable[[Value, bool], Value]) -> Value:
        """Whole blocks of samples, which walk together, and the rest, whose trees do."""
        b, (n, features) = self.b, self.b.shape(x)
        blocks: DimLike = n if len(self.forest.roots) < _FEW else floordiv(n, _BLOCK) * _BLOCK
        if blocks in (0, n):
            return scores(x, blocks == n)
        sizes = ((0, blocks), (blocks, n - blocks))
        parts = [b.value("t.slice", x, starts=(at, 0), sizes=(size, features), steps=(1, 1)) for at, size in sizes]
        return b.value("t.concat", *(scores(part, i == 0) for i, part in enumerate(parts)), axis=0)

    def walk(self, x: Value, roots: Value, splits: Value) -> Value:
        p = self.packed
        return self.b.value("t.walk", x, roots, self.words, splits, bits=p.layout.bits, tests=p.layout.tests,
                            missing=p.layout.missing, depth=p.depth, level=p.level)

    # ---- trees of one target ----------------------------------------------------------------------------------------
    def single_targets(self) -> npt.NDArray[np.int64] | None:
        """The target of each tree, where no tree has weights for several; None where one has."""
        trees = len(self.forest.roots)
        owner = np.full(len(self.forest.feature), -1, np.int64)
        tree = np.repeat(np.arange(trees), np.diff(np.append(self.packed.roots, len(self.packed.nodes))))
        owner[self.packed.nodes] = tree
        if (owner[self.packed.nodes] != tree).any():
            return None                                             # a node of several trees
        of = owner[self.forest.leaves]
        own = np.zeros(trees, np.int64)
        used = of >= 0
        own[of[used]] = self.forest.targets[used]
        most = np.bincount(own, minlength=self.targets).max()
        if (own[of[used]] != self.forest.targets[used]).any() or most * self.targets > 2 * trees + _FEW:
            return None
        return own

    def fused(self, x: Value, own: npt.NDArray[np.int64], together: bool) -> Value:
        """One kernel for walks and fold: leaves hold their weight in the place of a split."""
        b, packed = self.b, self.packed
        splits = self.leaf_values()
        counts = np.bincount(own, minlength=self.targets)
        roots = np.full((self.targets, counts.max()), -1, np.int64)
        for target, count in enumerate(counts):
            roots[target, :count] = packed.roots[own == target]
        roots[roots < 0] = len(splits) - 1
        n, features = b.shape(x)
        flat = b.const(splits, name="tree_splits")
        if together:
            walk = self.walk(b.reshape(x, (1, 1, n, features)), b.const(roots.T[:, :, None], name="tree_roots"), flat)
        else:
            walk = self.walk(b.reshape(x, (n, 1, 1, features)), b.const(roots[None], name="tree_roots"), flat)
        weights = b.value("t.gather", flat, walk, axis=0, in_range=True)
        folded = b.reduce(weights, _FOLDS[self.aggregate], [0 if together else 2], keepdims=False)
        return b.transpose(folded, (1, 0)) if together else folded

    def leaf_values(self) -> npt.NDArray[np.floating]:
        """The split of each record, or what a leaf weighs."""
        forest, nodes = self.forest, self.packed.nodes
        value = np.where(forest.inner, forest.split, 0).astype(self.dtype.numpy)
        empty = ~forest.inner
        empty[forest.leaves] = False
        value[empty] = _EMPTY[self.aggregate]
        if self.aggregate in ("SUM", "AVERAGE"):
            np.add.at(value, forest.leaves, forest.weights.astype(value.dtype))
        else:
            value[forest.leaves] = _EMPTY[self.aggregate]
            fold = np.minimum if self.aggregate == "MIN" else np.maximum
            fold.at(value, forest.leaves, forest.weights.astype(value.dtype))
        return np.append(value[nodes], np.asarray(_EMPTY[self.aggregate], value.dtype))

    # ---- trees of several targets -----------------------------------------------------------------------------------
    def table(self, weights: npt.NDArray[np.floating], empty: float) -> tuple[Value, Value]:
        """The different rows of weights that leaves have, [R, targets], and the row of each record."""
        forest, b = self.forest, self.b
        ids = np.flatnonzero(~forest.inner)
        at = np.zeros(len(forest.feature), np.int64)
        at[ids] = np.arange(len(ids))
        dense = np.full((len(ids), self.targets), empty, weights.dtype)
        fold = {"MIN": np.minimum, "MAX": np.maximum}.get(self.aggregate, np.add) if empty or weights.min() != 1 \
            else np.maximum
        fold.at(dense, (at[forest.leaves], forest.targets), weights)
        whole = np.ascontiguousarray(dense).view(np.dtype((np.void, dense.itemsize * self.targets))).ravel()
        _, first, row = np.unique(whole, return_index=True, return_inverse=True)
        rows = row[at[self.packed.nodes]].astype(np.int32)
        return b.const(dense[first], name="tree_weights"), b.const(rows, name="tree_rows")

    def gathered(self, x: Value, table: Value, rows: Value, together: bool) -> Value:
        """The rows of weights that the walks end at, folded over trees."""
        b = self.b
        n, features = b.shape(x)
        values = np.append(self.forest.split[self.packed.nodes], 0)
        splits = b.const(values.astype(self.dtype.numpy), name="tree_splits")
        trees = self.packed.roots
        if together and self.whole(n):
            size = floordiv(n, _BLOCK)
            walk = self.walk(b.reshape(x, (size, 1, _BLOCK, features)), b.const(trees[None, :, None]), splits)
            axis = 1
        elif together:
            walk, axis = self.walk(b.reshape(x, (1, n, features)), b.const(trees[:, None]), splits), 0
        else:
            walk, axis = self.walk(b.reshape(x, (n, 1, features)), b.const(trees[None]), splits), 1
        row = b.value("t.gather", rows, walk, axis=0, in_range=True)
        weights = b.value("t.gather", table, row, axis=0, in_range=True)
        folded = b.reduce(weights, _FOLDS[self.aggregate], [axis], keepdims=False)
        return b.reshape(folded, (n, self.targets))

    @staticmethod
    def whole(n: DimLike) -> bool:
        """Whether n samples are whole blocks."""
        return floordiv(n, _BLOCK) * _BLOCK == n
