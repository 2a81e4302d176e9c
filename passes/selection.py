"""Kernels of the ops that keep some elements: `t.compact` and `t.nms`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from onnxc.ir.core import Block, Op, Value
from onnxc.ir.dims import Dim, DimLike, sym
from onnxc.ir.types import BOOL, F32, I64, Mem, Scalar, Tensor
from onnxc.passes.indexing import Where
from onnxc.passes.kernel_builder import Demand

__all__ = ["compact_body", "nms_body"]


def compact_body(d: Demand, op: Op, out: Value) -> Op:
    """Each element whose mask holds is stored at its place."""
    size = _dims(op.operand(0))[0]
    axis = d.axis()
    d.open([axis], [size])
    mask, at, value = (d.at(v, (axis,)) for v in op.inputs)
    place, held = _symbol(d, at, axis), _symbol(d, d.cast(mask, I64), axis)
    d.store(out, value, (place,), ((held, 1, 2),))
    return _loop("k.parallel", axis, size, d.close())


def nms_body(d: Demand, op: Op, out: Value) -> Op:
    """For each batch and class: the scores still in the race stand in scratch; again and again the best one is
    chosen, and leaves with all that it overlaps, until none is left."""
    return _Nms(d, op, out).build()


def _dims(v: Value) -> tuple[DimLike, ...]:
    assert isinstance(v.type, Tensor)
    return v.dims


def _loop(name: str, axis: Dim, extent: DimLike, block: Block) -> Op:
    return Op(name, (), (), {"axes": (axis,), "extents": (extent,)}, [block])


def _symbol(d: Demand, value: Value, *axes: Dim) -> Dim:
    """A value of the kernel as a symbol of index expressions."""
    name = str(d.axis("v"))
    d.loaded[name] = (value, frozenset(map(str, axes)))
    return sym(name)


class _Nms:
    def __init__(self, d: Demand, op: Op, out: Value) -> None:
        self.d, self.op, self.out = d, op, out
        self.corners, self.scores, self.count, self.overlap, self.least = op.inputs
        self.batch, self.classes, self.boxes = _dims(self.scores)
        self.most: DimLike = op.attr("most")
        self.alive = d.func.body.add_arg(Mem(F32, (self.boxes,)), "alive")
        d.func.attrs["scratch"] = 1
        self.b, self.c = d.axis(), d.axis()

    def build(self) -> Op:
        d = self.d
        d.open([self.b, self.c], [self.batch, self.classes])
        self.sweep(self.boxes, self.enter)
        self.sweep(self.most, lambda s: d.store(self.out, d.const(-1, I64), (self.b, self.c, s)))
        self.rounds()
        return Op("k.parallel", (), (), {"axes": (self.b, self.c), "extents": (self.batch, self.classes)}, [d.close()])

    def sweep(self, extent: DimLike, body: Callable[[Dim], None]) -> None:
        d = self.d
        axis = d.axis()
        d.open([axis], [extent])
        body(axis)
        block = d.close()
        d.append(_loop("k.sweep", axis, extent, block))

    def enter(self, n: Dim) -> None:
        """Scores above the least one start in the race, at their value; all others at -inf, where they are out."""
        d = self.d
        score = d.at(self.scores, (self.b, self.c, n))
        kept = d.apply("gt", score, d.at(self.least, ()))
        d.store(self.alive, d.apply("select", kept, score, self.lowest()), (n,))

    def lowest(self) -> Value:
        return self.d.const(-math.inf, F32)

    def rounds(self) -> None:
        d = self.d
        goes_on = d.const(True, BOOL)
        region = Block([Scalar(BOOL)], ["goes_on"])
        s = d.axis()
        d.open([s], [self.most], region)
        score, at = self.best()
        found = d.apply("gt", score, self.lowest())
        ok = d.apply("and", found, d.apply("lt", d.index_value(s), d.at(self.count, ())))
        held, place = _symbol(d, d.cast(ok, I64), s), _symbol(d, at, s)
        d.store(self.out, at, (self.b, self.c, s), ((held, 1, 2),))
        corners = [self.corner(i, place, ((place, 0, self.boxes),)) for i in range(4)]
        self.sweep(self.boxes, lambda n: self.leave(n, at, corners))
        region.append(Op("yield", [ok]))
        d.close()
        d.append(Op("k.iterate", [goes_on], (), {"axis": s, "extent": self.most, "conditional": True}, [region]))

    def best(self) -> Sequence[Value]:
        """The best score in the race, and where it is."""
        d = self.d
        r = d.axis("r")
        d.open([r], [self.boxes])
        element = d.load(self.alive, (r,), (), 0.0)
        d.append(Op("yield", [element, d.index_value(r)]))
        attrs = {"axes": (r,), "extents": (self.boxes,), "kinds": ("argmax",)}
        return d.append(Op("k.reduce", (), [Scalar(F32), Scalar(I64)], attrs, [d.close()])).results

    def corner(self, i: int, n: DimLike, where: Where = ()) -> Value:
        return self.d.at(self.corners, (self.b, i, n), where)

    def leave(self, n: Dim, at: Value, best: Sequence[Value]) -> None:
        """Box n is out if it is the chosen one, or shares more with it than is allowed."""
        d, zero = self.d, self.d.const(0.0, F32)
        box = [self.corner(i, n) for i in range(4)]
        ends = [(d.apply("min", box[i + 2], best[i + 2]), d.apply("max", box[i], best[i])) for i in range(2)]
        sides = [d.apply("max", d.apply("sub", high, low), zero) for high, low in ends]
        shared = d.apply("mul", *sides)
        areas = [d.apply("mul", *(d.apply("sub", x[i + 2], x[i]) for i in range(2))) for x in (box, best)]
        union = d.apply("sub", d.apply("add", *areas), shared)
        out = d.apply("gt", d.apply("div", shared, union), d.at(self.overlap, ()))
        for positive in (shared, *areas, union):
            out = d.apply("and", out, d.apply("gt", positive, zero))
        out = d.apply("or", out, d.apply("eq", d.index_value(n), at))
        d.store(self.alive, d.apply("select", out, self.lowest(), d.load(self.alive, (n,), (), 0.0)), (n,))
