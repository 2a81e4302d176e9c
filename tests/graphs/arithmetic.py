"""Makers of ops that compute: elementwise, folds and contractions, with how each carries bounds and errors on."""

from __future__ import annotations

import math

import numpy as np

from onnxc.ir.dims import product
from onnxc.ir.types import BOOL, F32, F64, I32, I64
from tests.graphs.grower import DTYPES, EPS, EXACT, Grower, Node


class Arithmetic(Grower):
    def unary(self) -> None:
        n = self.node()
        if n is None:
            return
        if n.dtype == BOOL:
            self.apply("t.not", [n], 1)
        elif n.dtype.is_float and self.c.chance(40):
            self.apply(self.c.pick(("t.tanh", "t.sigmoid", "t.erf")), [n], 1, 1.2 * n.err, exact=False)
        elif n.dtype.is_float and n.err == 0 and self.c.chance(30):
            self.apply(self.c.pick(("t.floor", "t.sign", "t.isnan", "t.round")), [n], n.bound)
        elif n.dtype.kind != "uint":
            self.apply(self.c.pick(("t.neg", "t.abs")), [n], n.bound, n.err)

    def binary(self) -> None:
        a = self.node()
        b = a and self.partner(a)
        if a is None or b is None:
            return
        if self.c.chance(20):
            a, b = b, a
        if a.dtype == BOOL:
            self.apply(self.c.pick(("t.and", "t.or", "t.xor")), [a, b], 1)
            return
        name = self.c.pick(("t.add", "t.mul", "t.sub", "t.max", "t.min"))
        if name == "t.mul":
            self.apply(name, [a, b], a.bound * b.bound, a.bound * b.err + b.bound * a.err + a.err * b.err)
        elif name in ("t.max", "t.min"):
            self.apply(name, [a, b], max(a.bound, b.bound), max(a.err, b.err))
        else:
            self.apply(name, [a, b], a.bound + b.bound, a.err + b.err)

    def with_number(self) -> None:
        """Ops with one number: division, remainder, power, and the neutral elements that rules look for."""
        n = self.node(lambda n: n.dtype != BOOL)
        if n is None:
            return
        value = self.c.pick((2, 1, 3, 4))
        c = Node(self.b.const(np.asarray(value, n.dtype.numpy)), value, 0.0)
        if n.dtype.is_float:
            if self.c.chance(30):
                self.apply("t.pow", [n, Node(self.b.const(np.asarray(2, n.dtype.numpy)), 2, 0)], n.bound**2,
                           2 * n.bound * n.err + n.err**2, exact=False)
            else:
                self.apply("t.div", [n, c], n.bound / value, n.err / value, exact=False)
        else:
            self.apply(self.c.pick(("t.mod", "t.div")), [n, c], max(n.bound, value))

    def compare(self) -> None:
        a = self.node(lambda n: n.err == 0 and n.dtype != BOOL)
        b = a and self.partner(a)
        if a is not None and b is not None and b.err == 0:
            self.apply(self.c.pick(("t.lt", "t.ge", "t.eq", "t.gt", "t.ne")), [a, b], 1)

    def select(self) -> None:
        a = self.node()
        b = a and self.partner(a)
        cond = a and self.partner(a, BOOL)
        if a is not None and b is not None and cond is not None:
            self.apply("t.select", [cond, a, b], max(a.bound, b.bound), max(a.err, b.err))

    def cast(self) -> None:
        n = self.node()
        if n is None:
            return
        to = self.c.pick(DTYPES)
        if to.is_float or (n.err == 0 and (n.dtype.kind != "float" or n.bound < 2.0**31)):
            bound = n.bound if to.is_float else 2.0**to.bits if n.bound >= 2.0**(to.bits - 1) else n.bound
            self.apply("t.cast", [n], bound, n.err, to=to)

    # ---- folds -----------------------------------------------------------------------------------------------------
    def reduce(self) -> None:
        n = self.node()
        if n is None:
            return
        axes = tuple(self.c.some(range(n.type.rank), 60))
        count = max(self.sizes(product(n.dims[a] for a in axes)))
        kinds = ("and", "or") if n.dtype == BOOL else ("add", "max", "min", "mul")
        kind = self.c.pick(kinds)
        if kind == "mul":
            exact = n.err == 0 and count * math.log2(max(n.bound, 1)) <= math.log2(EXACT.get(n.dtype.name, 1))
            if exact or not n.dtype.is_float:
                self.apply("t.reduce", [n], max(1.0, n.bound) ** count if exact else 2.0**63, kind=kind, axes=axes)
        elif kind == "add":
            bound = n.bound * max(count, 1)
            rounds = count * bound * EPS.get(n.dtype.name, 0) if n.err or bound > EXACT.get(n.dtype.name, 0) else 0.0
            self.apply("t.reduce", [n], bound, count * n.err + rounds, kind=kind, axes=axes)
        else:
            self.apply("t.reduce", [n], n.bound if n.dtype.is_float else 2.0**63, n.err, kind=kind, axes=axes)

    def against_fold(self) -> None:
        """A fold over some axes, kept as ones, and its operand: what softmax and norms are made of."""
        n = self.node(lambda n: n.dtype != BOOL and n.type.rank > 0)
        if n is None:
            return
        axes = tuple(self.c.some(range(n.type.rank), 60))
        bound = n.bound if n.dtype.is_float else 2.0**63
        r = self.apply("t.reduce", [n], bound, n.err, kind=self.c.pick(("max", "min")), axes=axes)
        shape = tuple(1 if i in axes else d for i, d in enumerate(n.dims))
        k = r and self.apply("t.reshape", [r], r.bound, r.err, shape=shape)
        if k is not None:
            self.apply(self.c.pick(("t.sub", "t.add", "t.max")), [n, k], n.bound + k.bound, n.err + k.err)

    def affine(self) -> None:
        """A scale and a shift by constants along one axis, or by one number: batch norms, biases, attention scales."""
        n = self.node(lambda n: n.dtype.is_float)
        if n is None:
            return
        for name in self.c.pick((("t.mul", "t.add"), ("t.mul",), ("t.add", "t.mul", "t.sub"), ("t.add", "t.add"))):
            shape = [1] * n.type.rank
            if shape and self.c.chance(70):
                axis = self.c.below(len(shape))
                d = n.dims[axis]
                shape[axis] = d if isinstance(d, int) else 1
            c = self.constant(tuple(shape), n.dtype)
            if c is None:
                return
            bound, err = (n.bound * c.bound, n.err * c.bound) if name == "t.mul" else (n.bound + c.bound, n.err)
            n = self.apply(name, [n, c], bound, err)
            if n is None:
                return

    def argreduce(self) -> None:
        n = self.node(lambda n: n.type.rank > 0 and n.err == 0)
        if n is not None:
            axis = self.c.below(n.type.rank)
            self.apply("t.argreduce", [n], max(1, *self.sizes(n.dims[axis])), kind=self.c.pick(("max", "min")),
                       axis=axis, last=self.c.chance(50))

    def scan(self) -> None:
        n = self.node(lambda n: n.type.rank > 0 and n.dtype != BOOL)
        if n is None:
            return
        axis = self.c.below(n.type.rank)
        count = max(self.sizes(n.dims[axis]))
        kind = self.c.pick(("add", "max", "min"))
        bound = n.bound * max(count, 1) if kind == "add" else n.bound if n.dtype.is_float else 2.0**63
        rounds = count * bound * EPS.get(n.dtype.name, 0) if n.err or bound > EXACT.get(n.dtype.name, 0) else 0.0
        self.apply("t.scan", [n], bound, max(1, count) * n.err + rounds, kind=kind, axis=axis,
                   exclusive=self.c.chance(30), reverse=self.c.chance(30))

    # ---- contractions ----------------------------------------------------------------------------------------------
    def contract(self) -> None:
        a = self.node(lambda n: n.dtype != BOOL and n.type.rank > 0)
        if a is None:
            return
        roles = [self.c.pick("kmkb") for _ in a.dims]
        letters = "abcdhi"[:a.type.rank]
        shared = [(c, d) for c, d, r in zip(letters, a.dims, roles, strict=True) if r in "kb"]
        new = [("efg"[i], self.dim()) for i in range(self.c.pick((1, 0, 2)))]
        right = shared + new
        right = [right[i] for i in self.c.order(len(right))]
        out = [c for c, r in zip(letters, roles, strict=True) if r in "mb"] + [c for c, _ in new]
        text = "".join(out[i] for i in self.c.order(len(out)))
        b = self.like(tuple(d for _, d in right), a.dtype)
        if b is None:
            return
        lhs, rhs, left, other = letters, "".join(c for c, _ in right), a, b
        if self.c.chance(40):
            lhs, rhs, left, other = rhs, lhs, b, a
        count = max(self.sizes(product(d for d, r in zip(a.dims, roles, strict=True) if r == "k")))
        self.contraction(left, other, f"{lhs},{rhs}->{text}", max(1, count))

    def contraction(self, a: Node, b: Node, spec: str, count: int) -> None:
        to = F64 if a.dtype == F64 else F32 if a.dtype.is_float else I64 if a.dtype == I64 else I32
        bound = a.bound * b.bound * count
        err = count * (a.bound * b.err + b.bound * a.err + a.err * b.err)
        rounds = count * bound * EPS.get(to.name, 0) if err or bound > EXACT.get(to.name, 0) else 0.0
        self.apply("t.contract", [a, b], bound, err + rounds, spec=spec, to=to)
