"""Decision trees as one tensor op: `t.walk` goes down a tree from its root and says at which node it ends.

All trees are two vectors, one element a node: `splits`, what a feature is compared with, and `words`. A word holds,
from its low bits up, the feature (`bits` wide), which of `tests` compares it (as many bits as their number needs),
whether a NaN goes left (a bit, where `missing` is "either"), and how far behind the node its left child stands; the
right one is next to that. A leaf has no child: that distance is 0, and a walk stays there. What a leaf means stands in
other vectors, or in `splits` itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxc.ir.registry import REQUIRED, TypeInferenceError, register
from onnxc.ir.types import I32, I64, Tensor, Type
from onnxc.ops.tensor import fail, tensor_operand

__all__ = ["TESTS", "Layout"]

TESTS = ("le", "lt", "eq")
MISSING = ("left", "right", "either")
_COMPARE = {"le": np.less_equal, "lt": np.less, "eq": np.equal}


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the fields of a word lie."""

    bits: int
    tests: tuple[str, ...]
    missing: str

    @staticmethod
    def of(attrs: Mapping[str, Any]) -> Layout:
        return Layout(attrs["bits"], tuple(attrs["tests"]), attrs["missing"])

    @property
    def test_bits(self) -> int:
        return (len(self.tests) - 1).bit_length()

    @property
    def missing_at(self) -> int:
        """The place of the bit for NaN."""
        return self.bits + self.test_bits

    @property
    def child_at(self) -> int:
        """The lowest bit of the distance to the left child."""
        return self.missing_at + (self.missing == "either")


def _walk(types: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    x, roots, words, splits = (tensor_operand(types, i, "t.walk") for i in range(4))
    if x.rank < 1 or roots.dtype != I64 or words.dtype not in (I32, I64) or words.rank != 1 or splits.rank != 1 \
            or x.dtype != splits.dtype or not x.dtype.is_float or words.dims != splits.dims:
        raise fail(f"t.walk of {x} from roots {roots} through words {words} and splits {splits}: expected floats of "
                   "one type, roots of i64, and vectors of one length")
    unknown = [t for t in attrs["tests"] if t not in TESTS]
    if unknown or not attrs["tests"] or attrs["missing"] not in MISSING:
        raise fail(f"t.walk with the tests {list(attrs['tests'])} and missing \"{attrs['missing']}\"")
    return [Tensor(I64, _joint(x.dims[:-1], roots.dims))]


def _joint(a: Sequence[Any], b: Sequence[Any]) -> tuple[Any, ...]:
    if len(a) != len(b):
        raise TypeInferenceError(f"t.walk: {len(a)} axes of samples and {len(b)} of roots")
    if any(1 not in (d, e) and d != e for d, e in zip(a, b, strict=True)):
        raise TypeInferenceError("t.walk: samples and roots do not broadcast")
    return tuple(e if d == 1 else d for d, e in zip(a, b, strict=True))


def _walk_ref(attrs: dict[str, Any], x: np.ndarray, roots: np.ndarray, words: np.ndarray,
              splits: np.ndarray) -> np.ndarray:
    layout = Layout.of(attrs)
    shape = np.broadcast_shapes(x.shape[:-1], roots.shape)
    node = np.broadcast_to(roots, shape).copy()
    samples = np.broadcast_to(x, (*shape, x.shape[-1]))
    for _ in range(attrs["depth"]):
        word = words[node].astype(np.int64)
        feature = word & ((1 << layout.bits) - 1)
        value = np.take_along_axis(samples, feature[..., None], -1)[..., 0] if feature.size else splits[node]
        which = word >> layout.bits & ((1 << layout.test_bits) - 1)
        with np.errstate(invalid="ignore"):
            left = np.select([which == i for i in range(len(layout.tests))],
                             [_COMPARE[t](value, splits[node]) for t in layout.tests], False)
        if layout.missing != "right":
            left |= np.isnan(value) & (True if layout.missing == "left" else (word >> layout.missing_at & 1) == 1)
        away = word >> layout.child_at
        node = np.where(away == 0, node, node + away + ~left)
    return node


register("t.walk", "x, roots, words, splits",
         attrs={"bits": REQUIRED, "tests": ("le",), "missing": "right", "depth": REQUIRED, "level": False},
         infer=_walk, ref=_walk_ref,
         doc="the node (i64) at which the walk from each root ends, for each sample (the last axis of x holds its "
             "features); samples and roots broadcast. At a node the walk goes left where `feature test split` holds, "
             "and with a NaN where `missing` says so. No walk has more than `depth` steps; with `level` all have as "
             "many")
