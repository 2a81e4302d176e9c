"""Index arithmetic of view ops: where an element of the result lies in the operand.

Each function maps an index of the result (dims over axis symbols) to an index of the operand, simplified under the
bounds of the axes. Conditions under which the operand has such an element come back as `where` triples [expr, low,
high].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxc.ir.dims import (
    Bounds,
    DimLike,
    Shape,
    dim_max,
    dim_min,
    floordiv,
    mod,
    product,
    provably_less,
    provably_nonneg,
    recombine,
    simplify,
)

__all__ = ["Index", "Where", "broadcast_index", "inside", "pad_index", "reshape_index", "slice_index", "window_index"]

Index = tuple[DimLike, ...]
Where = tuple[tuple[DimLike, DimLike, DimLike], ...]


def broadcast_index(index: Index, have: Shape, want: Shape) -> Index:
    """Operand index under numpy broadcasting of `have` to `want`. A dim that may be 1 or the wanted one is clamped."""
    tail = index[len(index) - len(have):]
    goal = want[len(want) - len(have):]
    return tuple(0 if d == 1 else i if d == e else dim_min(i, d - 1) for i, d, e in zip(tail, have, goal, strict=True))


def reshape_index(index: Index, old: Shape, new: Shape, bounds: Bounds, exists: bool = True) -> Index:
    """Index into shape `old` of the element at `index` of shape `new` (row-major order is kept).

    An element that exists shows that no dim is 0; where `exists` is False, dims that may be 0 are not divided by.
    """
    out: list[DimLike] = []
    for old_dims, new_dims, part in _matched_groups(old, new, index):
        if old_dims == new_dims:
            out.extend(part)
            continue
        flat: DimLike = 0
        for i, d in zip(part, new_dims, strict=True):
            flat = flat * d + i
        flat = recombine(flat)
        out.extend(_delinearise(flat, old_dims if exists else at_least_one(old_dims, bounds), bounds))
    return tuple(out)


def at_least_one(shape: Shape, bounds: Bounds) -> Shape:
    """The dims, with 1 for those that are 0: divisors of what is computed also where nothing is read."""
    return tuple(d if provably_less(0, d, bounds) else dim_max(d, 1) for d in shape)


def _delinearise(flat: DimLike, shape: Shape, bounds: Bounds) -> list[DimLike]:
    out: list[DimLike] = []
    big = [i for i, d in enumerate(shape) if d != 1]
    for i in range(len(shape)):
        if shape[i] == 1:
            out.append(0)
            continue
        inner = product(shape[i + 1:])
        value = floordiv(flat, inner)
        if i != big[0]:
            value = mod(value, shape[i])
        out.append(simplify(value, bounds))
    return out


def _matched_groups(old: Shape, new: Shape, index: Index) -> list[tuple[Shape, Shape, Index]]:
    """Split both shapes into runs of equal products, so that digits do not mix more than they have to."""
    groups: list[tuple[Shape, Shape, Index]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        step = _next_match(old[i:], new[j:])
        groups.append((old[i:i + step[0]], new[j:j + step[1]], index[j:j + step[1]]))
        i, j = i + step[0], j + step[1]
    return groups


def _next_match(old: Shape, new: Shape) -> tuple[int, int]:
    if old and new and old[0] == new[0]:
        return 1, 1
    products: dict[DimLike, int] = {}
    value: DimLike = 1
    for n, d in enumerate(new, 1):
        value = value * d
        products.setdefault(value, n)
    value = 1
    for n, d in enumerate(old, 1):
        value = value * d
        if value in products and not (value == 1 and (n < len(old) or products[value] < len(new))):
            return n, products[value]
    return len(old), len(new)


def slice_index(index: Index, attrs: dict[str, Any]) -> Index:
    """Operand index of t.slice."""
    return tuple(start + i * step for i, start, step in zip(index, attrs["starts"], attrs["steps"], strict=True))


def inside(conditions: Sequence[tuple[DimLike, DimLike, DimLike]], bounds: Bounds) -> Where:
    """The conditions low <= expr < high that do not hold anyway."""
    out = []
    for expr, low, high in conditions:
        at = simplify(expr, bounds)
        if provably_nonneg(at - low, bounds) and provably_less(at, high, bounds):
            continue
        out.append((at, low, high))
    return tuple(dict.fromkeys(out))


def window_index(index: Index, shape: Shape, attrs: dict[str, Any], bounds: Bounds) -> tuple[Index, Where]:
    """Operand index of t.window, and where it is inside the operand."""
    axes, n = attrs["axes"], len(attrs["axes"])
    first = axes[0]
    at: list[DimLike] = list(index[:first])
    conditions = []
    for i in range(n):
        expr = simplify(index[first + i] * attrs["stride"][i] + index[first + n + i] * attrs["dilation"][i]
                        - attrs["low"][i], bounds)
        at.append(expr)
        conditions.append((expr, 0, shape[first + i]))
    at.extend(index[first + 2 * n:])
    return tuple(at), inside(conditions, bounds)


def pad_index(index: Index, shape: Shape, attrs: dict[str, Any], bounds: Bounds) -> tuple[Index, Where]:
    """Operand index of t.pad, and where the operand has the element (everywhere but in mode "constant")."""
    at: list[DimLike] = []
    conditions = []
    for i, d, low, high in zip(index, shape, attrs["low"], attrs["high"], strict=True):
        expr = simplify(i - low, bounds)
        if low == 0 and high == 0:
            at.append(expr)
        elif attrs["mode"] == "constant":
            at.append(expr)
            conditions.append((expr, 0, d))
        else:
            at.append(simplify(_reflected(expr, at_least_one((d,), bounds)[0], attrs["mode"]), bounds))
    return tuple(at), inside(conditions, bounds)


def _reflected(position: DimLike, n: DimLike, mode: str) -> DimLike:
    """`ops.tensor.pad_source` as a dim expression; n >= 1."""
    if mode == "edge":
        return dim_max(dim_min(position, n - 1), 0)
    if mode == "wrap":
        return mod(position, n)
    period = dim_max(2 * (n - 1), 1)
    folded = mod(position, period)
    return dim_min(folded, period - folded, n - 1)
