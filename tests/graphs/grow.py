"""Grows random graphs of tensor ops that are valid for every size they will be run with.

A node carries a bound of its elements' size and of the error that rounding may have left in them. Data are small
integers, so most of arithmetic is exact and must come out equal; ops that jump (comparisons, positions, conversions
to integers) are applied to exact nodes only. Every dim is held against the bindings: no slice leaves its operand, no
index its axis.
"""

from __future__ import annotations

from collections.abc import Callable

from onnxc.ops import load_all
from tests.graphs.arithmetic import Arithmetic
from tests.graphs.choices import Choices
from tests.graphs.grower import Graph
from tests.graphs.movement import Movement

__all__ = ["Graph", "grow"]


class _Maker(Arithmetic, Movement):
    """All makers."""


def grow(choices: Choices, ops: int = 20) -> Graph:
    """A graph of up to `ops` ops."""
    load_all()
    grower = _Maker(choices)
    for _ in range(1 + choices.below(ops)):
        choices.pick(_MAKERS)(grower)
    return grower.finish()


_G = _Maker
_MAKERS: tuple[Callable[[_Maker], None], ...] = (
    _G.binary, _G.unary, _G.reduce, _G.reshape, _G.transpose, _G.broadcast, _G.contract, _G.slice, _G.cast, _G.select,
    _G.compare, _G.concat, _G.pad, _G.window, _G.gather, _G.scan, _G.argreduce, _G.gather_elements, _G.gather_nd,
    _G.generated, _G.with_number, _G.binary, _G.binary, _G.unary, _G.reduce, _G.transpose, _G.contract, _G.against_fold,
    _G.against_fold, _G.affine, _G.affine)
