"""Which values a contraction's kernel computes behind its sum: the chain of one-to-one ops up to the value it
stores."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnxc.ir.core import Op, Value
from onnxc.ir.dims import DimLike
from onnxc.ir.registry import lookup
from onnxc.ops.control import is_step

__all__ = ["PRODUCTS", "epilogue_ends", "is_elementwise", "narrow_source"]

PRODUCTS = ("t.contract", "t.attend")
"""Ops with kernels of their own shape, which take what follows as an epilogue."""

_LONGEST = 32           # ops of an epilogue: more is no longer small beside the sums
_WIDENING = 4           # ops that a dequantisation consists of
_FORK = 64              # ops within which an epilogue that forks has to join again


def is_elementwise(op: Op) -> bool:
    """Whether each element of the result takes one element of every operand."""
    row = lookup(op.name)
    return row is not None and row.has("elementwise")


def epilogue_ends(ops: Sequence[Op], is_stored: Callable[[Value], bool]) -> dict[Value, Value]:
    """For each contraction and attention among `ops` the last value of its chain; later ones choose first."""
    chains = _Chains(ops, is_stored)
    return {op.result: chains.end(op.result) for op in reversed(ops) if op.name in PRODUCTS}


class _Chains:
    """`claimed` are the values that belong to a chain already."""

    def __init__(self, ops: Sequence[Op], is_stored: Callable[[Value], bool]) -> None:
        self.is_stored = is_stored
        self.position = {op: i for i, op in enumerate(ops)}
        self.claimed: set[Value] = set()
        self.ends: set[Value] = set()

    def end(self, v: Value) -> Value:
        """The last value of the chain behind `v`."""
        for _ in range(_LONGEST):
            following = None if self.is_stored(v) or v in self.ends else self.step(v)
            if following is None:
                break
            v = following
            self.claimed.add(v)
        narrow = None if self.is_stored(v) else narrow_source(v)
        if narrow is not None and narrow in self.claimed and all(is_elementwise(u) for u in v.users):
            v = narrow                  # its users widen it again: half the memory or less, for one or two ops
        self.ends.add(v)
        return v

    def step(self, v: Value) -> Value | None:
        """The next value of the chain; where it forks, the value in which it joins again."""
        if len(v.uses) > 1:
            return self.join(v)
        user = v.uses[0][0] if v.uses else None
        if user is None or not user.results or is_step(user) or user.results[0] in self.claimed:
            return None
        # A pure reshape of a product costs nothing in memory; a transpose is done by its store.
        if keeps_shape(user, v) or (user.name == "t.transpose" and _is_better_stored(user)):
            return user.result
        return self.behind_reshape(user) if user.name == "t.reshape" else None

    def behind_reshape(self, reshape: Op) -> Value | None:
        """The next value of the chain behind a reshape, if elementwise ops follow: the rows of the product, which are
        those of a matrix for a layer, count as batch and position for what comes behind it. Columns stay columns, or
        become those of all groups of a grouped convolution."""
        v = reshape.result
        follows = bool(v.uses) and all(keeps_shape(u, v) for u in v.users)
        if not follows or self.is_stored(v) or not _keeps_columns(reshape):
            return None
        return self.step(v)

    def join(self, v: Value) -> Value | None:
        """The first value through which all goes that is computed from `v` (x * sigmoid(x)), by elementwise ops
        only."""
        open_uses = {v: len(v.uses)}
        ahead = set(v.users) if len(v.uses) <= _FORK else set()
        for _ in range(_FORK):
            op = min(ahead, key=lambda o: self.position.get(o, len(self.position)), default=None)
            if op is None or not keeps_shape(op, v) or op.result in self.claimed:
                return None
            ahead.discard(op)
            for x in op.inputs:
                if x in open_uses:
                    open_uses[x] -= 1
            if not any(open_uses.values()):
                return op.result
            if self.is_stored(op.result) or len(op.result.uses) > _FORK:
                return None
            open_uses[op.result] = len(op.result.uses)
            ahead.update(op.result.users)
        return None


def narrow_source(v: Value) -> Value | None:
    """The value of at most half the bits that `v` is widened from by cheap ops (a dequantisation); None without one."""
    widest = v.tensor.dtype.bits
    for _ in range(_WIDENING):
        op = v.op
        if op is None or op.name not in ("t.cast", "t.sub", "t.mul") or not keeps_shape(op, op.operand(0)) or any(
                x.tensor.size != 1 for x in op.inputs[1:]):
            return None
        v = op.operand(0)
        if v.tensor.dtype.bits * 2 <= widest:
            return v
    return None


def keeps_shape(op: Op, v: Value) -> bool:
    """Whether `op` gives one element for each of `v`."""
    return is_elementwise(op) and op.result.dims == v.dims


def _keeps_columns(reshape: Op) -> bool:
    """Whether neighbours in the last axis are neighbours in the last axis of the result, each position of which is one
    in whole axes of the operand."""
    before, (*_, columns) = reshape.operand(0).dims, (1, *reshape.result.dims)
    size: DimLike = 1
    for d in reversed(before):
        size = size * d
        if size == columns:
            return True
    return False


def _is_better_stored(transpose: Op) -> bool:
    """Whether a product is better stored transposed: when it is not read by a contraction, which can take either
    order of its rows, or when its rows stay rows."""
    perm = transpose.attr("perm")
    return perm[-1] == len(perm) - 1 or all(u.name not in ("t.contract", "t.reshape") for u in transpose.result.users)
