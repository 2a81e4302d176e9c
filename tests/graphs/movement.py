"""Makers of ops that move elements: views, pads, windows, joins, gathers, and values out of nothing."""

from __future__ import annotations

import math
from typing import Any

from onnxc.ir.dims import Dim, DimLike, Shape, dim_max, dim_min, floordiv, sym
from onnxc.ir.types import BOOL, F32, I32, I64
from tests.graphs.grower import DTYPES, Grower, Node


class Movement(Grower):
    def transpose(self) -> None:
        n = self.node(lambda n: n.type.rank > 1)
        if n is not None:
            self.apply("t.transpose", [n], n.bound, n.err, perm=self.c.order(n.type.rank)[::-1])

    def reshape(self) -> None:
        n = self.node()
        if n is None:
            return
        factors = [f for d in n.dims for f in _factors(d)]
        if self.c.chance(25):
            factors = [factors[i] for i in self.c.order(len(factors))]
        shape: list[DimLike] = []
        for f in factors:
            if shape and self.c.chance(50):
                shape[-1] = shape[-1] * f
            else:
                shape.append(f)
        if len(shape) < 4 and self.c.chance(30):
            shape.insert(self.c.below(len(shape) + 1), 1)
        self.apply("t.reshape", [n], n.bound, n.err, shape=tuple(shape))

    def broadcast(self) -> None:
        n = self.node(lambda n: n.type.rank < 4)
        if n is None:
            return
        shape = [self.wider(d) for d in n.dims]
        if n.type.rank < 4 and self.c.chance(60):
            shape.insert(0, self.dim())
        self.apply("t.broadcast", [n], n.bound, n.err, shape=tuple(shape))

    def wider(self, d: DimLike) -> DimLike:
        """What a dim may be broadcast to: anything from 1, and another symbol where the sizes agree."""
        if d == 1:
            return self.dim() if self.c.chance(60) else 1
        other = self.dim() if self.c.chance(20) else d
        return other if all(a in (1, b) for a, b in zip(self.sizes(d), self.sizes(other), strict=True)) else d

    def slice(self) -> None:
        n = self.node(lambda n: n.type.rank > 0)
        if n is None:
            return
        parts = [self.stretch(d) for d in n.dims]
        for d, (start, size, step) in zip(n.dims, parts, strict=True):
            for extent, s, k in zip(self.sizes(d), self.sizes(start), self.sizes(size), strict=True):
                if k < 0 or (k > 0 and not (0 <= s < extent and 0 <= s + step * (k - 1) < extent)):
                    return
        self.apply("t.slice", [n], n.bound, n.err, **{key: tuple(p[i] for p in parts)
                                                      for i, key in enumerate(("starts", "sizes", "steps"))})

    def stretch(self, d: DimLike) -> tuple[DimLike, DimLike, int]:
        """Start, size and step along an axis; not always in range."""
        k, j = self.c.below(3), self.c.below(2)
        return self.c.pick(((0, d, 1), (k, d - k - j, 1), (d - 1, d, -1), (k, floordiv(d - k + 1, 2), 2), (j, 1, 1),
                            (d - 1, floordiv(d + 1, 2), -2), (dim_min(d, k), dim_max(d - k, 0), 1)))

    # ---- data movement ---------------------------------------------------------------------------------------------
    def pad(self) -> None:
        n = self.node(lambda n: n.type.rank > 0)
        if n is None:
            return
        mode = self.c.pick(("constant", "edge", "reflect", "wrap"))
        amounts = [(0, 0) if self.c.chance(40) else (self.c.pick((1, 0, 2, 5, -1)), self.c.pick((1, 0, 3, -1)))
                   for _ in n.dims]
        empty = any(p != (0, 0) and not self.always(d, 1) for d, p in zip(n.dims, amounts, strict=True))
        if mode != "constant" and empty:
            return
        value = self.like((), n.dtype) if mode == "constant" and self.c.chance(50) else None
        low, high = zip(*amounts, strict=True)
        self.apply("t.pad", [n, value] if value else [n], max(n.bound, value.bound if value else 0),
                   max(n.err, value.err if value else 0), mode=mode, low=low, high=high)

    def window(self) -> None:
        n = self.node(lambda n: 0 < n.type.rank < 4)
        if n is None:
            return
        first = self.c.below(n.type.rank)
        count = 1 + (first + 1 < n.type.rank and n.type.rank < 3 and self.c.chance(50))
        size, stride, dilation, low, high = (tuple(self.c.pick(options) for _ in range(count)) for options in
                                             ((2, 1, 3), (1, 2), (1, 2), (0, 1, 2), (0, 1)))
        out = tuple(floordiv(n.dims[first + i] + low[i] + high[i] - (size[i] - 1) * dilation[i] - 1, stride[i]) + 1
                    for i in range(count))
        fill: Any = self.c.pick((0, 1, 0, -1)) if n.dtype.is_signed else 0
        fill = -math.inf if n.dtype.is_float and self.c.chance(10) else bool(fill) if n.dtype == BOOL else fill
        self.apply("t.window", [n], max(n.bound, 1), n.err, axes=tuple(range(first, first + count)), size=size,
                   stride=stride, dilation=dilation, low=low, out=out, fill=fill)

    def concat(self) -> None:
        n = self.node(lambda n: n.type.rank > 0)
        if n is None:
            return
        axis = self.c.below(n.type.rank)
        parts = [n]
        for _ in range(self.c.pick((1, 2, 0, 6))):
            other = self.node(lambda m: m.dtype == n.dtype and _differ_at(m.dims, n.dims, axis)) if self.c.chance(50) \
                else self.like((*n.dims[:axis], self.dim(), *n.dims[axis + 1:]), n.dtype)
            if other is not None:
                parts.insert(self.c.below(len(parts) + 1), other)
        self.apply("t.concat", parts, max(p.bound for p in parts), max(p.err for p in parts), axis=axis)

    def positions(self, shape: Shape, extent: DimLike) -> Node | None:
        """Indices into an axis that is never empty: constant, an input, or computed."""
        dtype = self.c.pick((I64, I32))
        way = self.c.below(3)
        if way == 0:
            least = min(self.sizes(extent))
            found = self.constant(shape, dtype, -least, least - 1)
            if found is not None:
                return found
        if way == 1:
            n = self.node(lambda n: n.dtype == I64 and n.dims == shape)
            if n is not None:
                length = self.apply("t.dims", [], max(self.sizes(extent)), values=(extent,), vector=False)
                return self.apply("t.mod", [n, length], max(self.sizes(extent)))
        return self.argument(shape, dtype, extent)

    def gather(self) -> None:
        n = self.node(lambda n: any(self.always(d, 1) for d in n.dims))
        if n is None:
            return
        axis = self.c.pick([a for a, d in enumerate(n.dims) if self.always(d, 1)])
        i = self.positions(self.shape(most=1), n.dims[axis])
        if i is not None:
            self.apply("t.gather", [n, i], n.bound, n.err, axis=axis)

    def gather_elements(self) -> None:
        n = self.node(lambda n: any(self.always(d, 1) for d in n.dims))
        if n is None:
            return
        axis = self.c.pick([a for a, d in enumerate(n.dims) if self.always(d, 1)])
        shape = [1 if self.always(d, 1) and self.c.chance(20) else d for d in n.dims]
        shape[axis] = self.dim()
        i = self.positions(tuple(shape), n.dims[axis])
        if i is not None:
            self.apply("t.gather_elements", [n, i], n.bound, n.err, axis=axis)

    def gather_nd(self) -> None:
        n = self.node(lambda n: n.type.rank > 0 and all(self.always(d, 1) for d in n.dims))
        if n is None:
            return
        batch = self.c.below(min(2, n.type.rank))
        depth = 1 + self.c.below(min(2, n.type.rank - batch))
        lead = self.shape(most=1)
        i = self.positions((*n.dims[:batch], *lead, depth), dim_min(*n.dims[batch:batch + depth]))
        if i is not None:
            self.apply("t.gather_nd", [n, i], n.bound, n.err, batch=batch)

    def generated(self) -> None:
        """Values from nothing: positions, dims, numbers."""
        way = self.c.below(3)
        shape = self.shape()
        dtype = self.c.pick((I64, F32, I32))
        if way == 0 and shape:
            axis = self.c.below(len(shape))
            self.apply("t.iota", [], max(1, *self.sizes(shape[axis])), shape=shape, axis=axis, dtype=dtype)
        elif way == 1:
            self.apply("t.dims", [], max([1, *(n for d in shape for n in self.sizes(d))]), values=shape, vector=True)
        else:
            self.constant(shape, self.c.pick(DTYPES))


def _differ_at(a: Shape, b: Shape, axis: int) -> bool:
    """Whether two shapes are equal but for one axis."""
    return len(a) == len(b) and all(x == y for i, (x, y) in enumerate(zip(a, b, strict=True)) if i != axis)


def _factors(d: DimLike) -> list[DimLike]:
    """Dims whose product is `d`."""
    if isinstance(d, Dim):
        if len(d.terms) > 1:
            return [d]
        (mono, coef), = d.terms
        if not all(isinstance(a, str) for a in mono) or coef < 0:
            return [d]
        return [*(sym(str(a)) for a in mono), *([coef] if coef > 1 else [])]
    for p in (2, 3):
        if d > p and d % p == 0:
            return [p, *_factors(d // p)]
    return [d]
