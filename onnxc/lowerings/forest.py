"""Tree ensembles in one form: nodes that test a feature and have two children, and leaves with weights; and as the
vectors that `t.walk` goes through.

Nodes have numbers. A node may be the child of several; a record of it then stands beside each of its siblings, and all
records have the same children. So the vectors are as long as the nodes are many, whatever the shape of the graph.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxc.ops.trees import TESTS, Layout

__all__ = ["MEMBER", "MODES", "Forest", "Malformed", "Packed", "branches", "members_as_tests", "pack"]

Ints = npt.NDArray[np.int64]
MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "BRANCH_MEMBER", "LEAF")
MEMBER, LEAF = MODES.index("BRANCH_MEMBER"), MODES.index("LEAF")
_TEST = np.array([0, 1, 1, 0, 2, 2, 2])         # of TESTS, for each mode
_SWAPS = np.array([False, False, True, True, False, True, False])       # true where the test is false
_NAN_IS_TRUE = np.array([False] * 5 + [True, False])
_CHAIN = 4              # members of a set that are compared one after the other
_DEEPEST = 1 << 16      # steps of a walk


class Malformed(Exception):
    """The ensemble is not one of trees; the text says how."""


@dataclasses.dataclass
class Forest:
    """`left` and `right` are the children where a test holds and where it does not, -1 at leaves. Weight i is that of
    leaf `leaves[i]` for target `targets[i]`."""

    feature: Ints
    split: npt.NDArray[np.floating]
    test: Ints
    nan_left: npt.NDArray[np.bool_]
    left: Ints
    right: Ints
    roots: Ints
    leaves: Ints
    targets: Ints
    weights: npt.NDArray[np.floating]

    @property
    def inner(self) -> npt.NDArray[np.bool_]:
        return self.left >= 0


def branches(modes: Ints, true: Ints, false: Ints, missing: npt.NDArray[np.bool_],
             ) -> tuple[Ints, npt.NDArray[np.bool_], Ints, Ints]:
    """Modes (numbers in MODES) as (test, nan_left, left, right): each mode is a test with, for some, its children
    swapped. `missing`: where a NaN goes to the true branch, whatever the mode."""
    inner = modes != LEAF
    mode = np.where(inner, modes, 0)
    swaps = _SWAPS[mode]
    nan_left = (missing | _NAN_IS_TRUE[mode]) ^ swaps
    left, right = np.where(swaps, false, true), np.where(swaps, true, false)
    return np.where(inner, _TEST[mode], 0), nan_left & inner, np.where(inner, left, -1), np.where(inner, right, -1)


def members_as_tests(forest: Forest, sets: dict[int, Sequence[float]]) -> Forest:
    """Nodes that ask whether their feature is in a set, as nodes that halve the sorted set and then compare."""
    rows: dict[str, list[float]] = {"feature": [], "split": [], "test": [], "nan_left": [], "left": [], "right": []}
    first = len(forest.feature)

    def put(at: int, node: int, test: str, split: float, left: int, right: int) -> None:
        values = (forest.feature[node], split, TESTS.index(test), forest.nan_left[node], left, right)
        for key, value in zip(rows, values, strict=True):
            if at < first:
                getattr(forest, key)[at] = value
            else:
                rows[key][at - first] = value

    def fresh() -> int:
        for values in rows.values():
            values.append(0)
        return first + len(rows["feature"]) - 1

    def build(at: int, node: int, members: Sequence[float], true: int, false: int) -> None:
        if len(members) > _CHAIN:
            half = len(members) // 2
            left, right = fresh(), fresh()
            put(at, node, "le", members[half - 1], left, right)
            build(left, node, members[:half], true, false)
            build(right, node, members[half:], true, false)
            return
        for i, member in enumerate(members):
            following = false if i == len(members) - 1 else fresh()
            put(at, node, "eq", member, true, following)
            at = following

    for node, members in sets.items():
        build(node, node, sorted(set(members)) or [np.nan], int(forest.left[node]), int(forest.right[node]))
    joined = {key: np.concatenate([getattr(forest, key), np.asarray(values, getattr(forest, key).dtype)])
              for key, values in rows.items()}
    return dataclasses.replace(forest, **joined)


# ---- as vectors ------------------------------------------------------------------------------------------------------
@dataclasses.dataclass
class Packed:
    """The words of all records, the node that each is a record of, and the record of each root. A walk has at most
    `depth` steps, and every walk has `depth` if `level`."""

    layout: Layout
    words: npt.NDArray[np.integer]
    nodes: Ints
    roots: Ints
    depth: int
    level: bool


def pack(forest: Forest) -> Packed:
    """The records of a forest: for each tree its root, then pairs of children, those of upper levels first."""
    level, tree = _places(forest)
    inner = np.flatnonzero(forest.inner & (level >= 0))
    order = np.lexsort((level[inner], tree[inner]))
    parents = inner[order]
    trees = len(forest.roots)
    before = np.searchsorted(tree[parents], np.arange(trees))           # pairs in front of each root
    roots = np.arange(trees) + 2 * before
    pairs = 2 * np.arange(len(parents)) + tree[parents] + 1
    nodes = np.empty(trees + 2 * len(parents), np.int64)
    nodes[roots], nodes[pairs], nodes[pairs + 1] = forest.roots, forest.left[parents], forest.right[parents]
    place = np.zeros(len(forest.feature), np.int64)
    place[parents] = pairs
    away = np.where(forest.inner[nodes], place[nodes] - np.arange(len(nodes)), 0)
    layout, words = _words(forest, parents, nodes, away)
    ends = level[nodes[~forest.inner[nodes]]]
    once = len(nodes) == len(np.unique(nodes))          # where nodes have one parent, a level is that of each walk
    return Packed(layout, words, nodes, roots, int(ends.max(initial=0)), bool(once and len(set(ends.tolist())) == 1))


def _places(forest: Forest) -> tuple[Ints, Ints]:
    """For each node its level, the longest way there from a root (-1: there is none), and the last tree that it is
    in."""
    level = np.full(len(forest.feature), -1, np.int64)
    tree = np.zeros(len(forest.feature), np.int64)
    level[forest.roots] = 0
    np.maximum.at(tree, forest.roots, np.arange(len(forest.roots)))
    front = np.unique(forest.roots)
    steps = 0
    while len(front := front[forest.inner[front]]):
        steps += 1
        if steps > min(_DEEPEST, len(forest.feature)):
            raise Malformed("nodes that are below themselves" if steps > len(forest.feature) else
                            f"a tree of more than {_DEEPEST} levels")
        children = np.concatenate([forest.left[front], forest.right[front]])
        before = level[children], tree[children]
        np.maximum.at(level, children, np.tile(level[front] + 1, 2))
        np.maximum.at(tree, children, np.tile(tree[front], 2))
        front = np.unique(children[(level[children] != before[0]) | (tree[children] != before[1])])
    return level, tree


def _words(forest: Forest, parents: Ints, nodes: Ints, away: Ints) -> tuple[Layout, npt.NDArray[np.integer]]:
    used = np.unique(forest.test[parents]).tolist() or [0]
    sides = set(forest.nan_left[parents].tolist())
    missing = "either" if len(sides) > 1 else "left" if True in sides else "right"
    most = int(forest.feature[parents].max(initial=0))
    layout = Layout(max(1, most.bit_length()), tuple(TESTS[i] for i in used), missing)
    which = np.searchsorted(used, forest.test)
    head = forest.feature | which << layout.bits
    if missing == "either":
        head |= forest.nan_left.astype(np.int64) << layout.missing_at
    words = np.where(away > 0, head[nodes], 0) | away << layout.child_at
    return layout, words.astype(np.int32) if words.max(initial=0) < 1 << 31 else words
