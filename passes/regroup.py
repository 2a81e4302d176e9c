"""Rules for norms over groups of channels, as part of `sink-transposes`.

Their statistics are taken of a view that splits the channels into groups and joins each group with all positions:
[N, C, H, W] as [N, G, C/G*H*W]. No transpose passes such a view, so that data with channels last would be reordered in
front of it and behind. Here the view moves towards the results instead, to its inverse: what is computed element by
element is computed of the channels, and a reduction goes over positions first and over the channels of a group then.
What belongs to a group is spread over its channels while it is small.
"""

from __future__ import annotations

from typing import NamedTuple

from onnxc.ir.core import Value
from onnxc.ir.dims import Shape, product
from onnxc.ir.rewrite import Match, RuleSet, rule
from onnxc.ir.types import F32, F64
from onnxc.passes.canonicalize import on_others
from onnxc.passes.epilogues import is_elementwise

__all__ = ["REGROUP_RULES"]


class _View(NamedTuple):
    """`source`, of dims [*outer, C, *positions], seen as [*outer, groups, C/groups * positions]."""

    source: Value
    outer: int
    groups: int

    @property
    def channels(self) -> int:
        return int(self.source.dims[self.outer])  # type: ignore[arg-type]


def _view(m: Match, v: Value) -> _View | None:
    op = m.made_by(v, "t.reshape")
    if op is None:
        return None
    source, dims = op.operand(0), v.dims
    outer = len(dims) - 2
    if outer < 0 or len(source.dims) < outer + 2 or source.dims[:outer] != dims[:outer]:
        return None
    channels, groups = source.dims[outer], dims[outer]
    if not (isinstance(channels, int) and isinstance(groups, int)) or not 0 < groups < channels or channels % groups:
        return None
    if dims[-1] != channels // groups * product(source.dims[outer + 1:]):
        return None
    return _View(source, outer, groups)


@rule("reduce-groups", root="t.reduce")
def _reduce_groups(m: Match) -> Value | None:
    view = _view(m, m.op.operand(0))
    if view is None or m.op.attr("axes") != (view.outer + 1,) or m.op.result.tensor.dtype not in (F32, F64):
        return None         # sums of narrow floats would be rounded in between
    dims, kind, b = view.source.dims, m.op.attr("kind"), m.builder
    channels = b.value("t.reduce", view.source, kind=kind, axes=tuple(range(view.outer + 1, len(dims))))
    split = (*dims[:view.outer], view.groups, view.channels // view.groups)
    return b.value("t.reduce", b.value("t.reshape", channels, shape=split), kind=kind, axes=(view.outer + 1,))


@rule("elementwise-of-groups", root="*")
def _elementwise_of_groups(m: Match) -> Value | None:
    if not is_elementwise(m.op):
        return None
    view = next((w for w in (_view(m, v) for v in m.op.inputs if v.dims == m.op.result.dims) if w is not None), None)
    if view is None:
        return None
    inner = on_others(m, lambda v: _of_channels(m, v, view), "another operand has elements of its own")
    return None if inner is None else m.builder.value("t.reshape", inner, shape=m.op.result.dims)


def _of_channels(m: Match, v: Value, view: _View) -> Value | None:
    """An operand of what the view is part of, as an operand of what the view's source is part of."""
    own = _view(m, v)
    if own is not None and own.source.dims == view.source.dims and own.groups == view.groups:
        return own.source
    positions = (1,) * (len(view.source.dims) - view.outer - 1)
    if v.tensor.size == 1:
        return m.builder.value("t.reshape", v, shape=(1,) * len(v.dims[:-1]) + positions) if v.dims else v
    dims: Shape = (1,) * (view.outer + 2 - len(v.dims)) + v.dims
    if dims[-1] != 1:
        return None
    outer, share = dims[:view.outer], view.channels // view.groups
    if dims[view.outer] == 1:
        return m.builder.value("t.reshape", v, shape=(*outer, 1, *positions))
    wide = m.builder.value("t.broadcast", m.builder.value("t.reshape", v, shape=dims),
                           shape=(*outer, view.groups, share))
    return m.builder.value("t.reshape", wide, shape=(*outer, view.channels, *positions))


REGROUP_RULES = RuleSet.of(globals())
