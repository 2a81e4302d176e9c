"""Grows random graphs of tensor ops that are valid for every size they will be run with.

A node carries a bound of its elements' size and of the error that rounding may have left in them. Data are small
integers, so most of arithmetic is exact and must come out equal; ops that jump (comparisons, positions, conversions
to integers) are applied to exact nodes only. Every dim is held against the bindings: no slice leaves its operand, no
index its axis.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from onnxc.ir.builder import Builder
from onnxc.ir.core import Func, Module, Op, Value
from onnxc.ir.dims import Dim, DimLike, Shape, dim_max, dim_min, evaluate, floordiv, product, sym, symbols_of
from onnxc.ir.registry import TypeInferenceError
from onnxc.ir.signature import ValueInfo, type_text
from onnxc.ir.types import BF16, BOOL, F16, F32, F64, I8, I32, I64, U8, DType, Tensor
from onnxc.ops import load_all
from tests.graphs.choices import Choices

__all__ = ["Graph", "Node", "Source", "grow"]

ELEMENTS = 600                        # of one value, at most: graphs are many, and the interpreters slow
_DTYPES = (F32, F32, F32, F32, I64, BOOL, F16, I32, F64, BF16, U8, I8)
_EXACT = {"f32": 2.0**24, "f64": 2.0**53, "f16": 2.0**11, "bf16": 2.0**8}      # integers up to this are exact
_EPS = {"f32": 2.0**-23, "f64": 2.0**-52, "f16": 2.0**-10, "bf16": 2.0**-7}
_MOST = {"f16": 3e4}                  # bounds beyond which a float could overflow; for wider types 1e30
N, M = sym("N"), sym("M")


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """A value, whose elements are at most `bound` in size and `err` from exact (NaN and infinities aside)."""

    value: Value
    bound: float
    err: float

    @property
    def type(self) -> Tensor:
        assert isinstance(self.value.type, Tensor)
        return self.value.type

    @property
    def dims(self) -> Shape:
        return self.type.dims

    @property
    def dtype(self) -> DType:
        return self.type.dtype


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """How an input is filled: integers up to `bound` in size, or positions along an axis of `extent` (also
    negative)."""

    type: Tensor
    bound: int
    extent: DimLike | None = None
    special: bool = False             # NaN and infinities among the elements

    def array(self, random: np.random.Generator, sizes: dict[str, int]) -> np.ndarray:
        shape = tuple(evaluate(d, sizes) for d in self.type.dims)
        most = self.bound if self.extent is None else evaluate(self.extent, sizes)
        low = 0 if self.type.dtype.kind in ("uint", "bool") else -most
        high = 2 if self.type.dtype == BOOL else most + (self.extent is None)
        out = random.integers(low, max(high, low + 1), shape).astype(self.type.dtype.numpy)
        if self.special:
            strange = random.choice(np.array([np.nan, np.inf, -np.inf]), shape).astype(out.dtype)
            out = np.where(random.random(shape) < 0.1, strange, out)
        return np.asarray(out)


@dataclasses.dataclass(slots=True)
class Graph:
    """A module, the sizes to run it with, how its inputs are filled, and how far each output may be from exact."""

    module: Module
    bindings: list[dict[str, int]]
    sources: list[Source]
    tolerances: list[float]

    def feeds(self, sizes: dict[str, int]) -> list[np.ndarray]:
        """Inputs for one binding; the same ones each time."""
        random = np.random.default_rng(len(self.sources))
        return [s.array(random, sizes) for s in self.sources]


def grow(choices: Choices, ops: int = 20) -> Graph:
    """A graph of up to `ops` ops."""
    load_all()
    grower = _Grower(choices)
    for _ in range(1 + choices.below(ops)):
        choices.pick(_MAKERS)(grower)
    return grower.finish()


class _Grower:
    def __init__(self, choices: Choices) -> None:
        self.c = choices
        self.module = Module()
        self.func = self.module.add(Func("main"))
        self.b = Builder(self.module, self.func.body)
        self.nodes: list[Node] = []
        self.sources: list[Source] = []
        sizes = (3, 2, 1, 5, 4, 3, 2, 7, 0)
        self.bindings = [{"N": choices.pick(sizes), "M": choices.pick(sizes)} for _ in range(2)]
        self.anchored: set[str] = set()            # symbols that some input has alone as a dim
        _ = self.argument(self.shape(fresh=True), choices.pick(_DTYPES)) or self.argument((2,), F32)

    # ---- dims ------------------------------------------------------------------------------------------------------
    def sizes(self, d: DimLike) -> list[int]:
        return [evaluate(d, b) for b in self.bindings]

    def always(self, d: DimLike, least: int = 0) -> bool:
        """Whether a dim is at least so much in all runs."""
        return all(n >= least for n in self.sizes(d))

    def fits(self, shape: Sequence[DimLike]) -> bool:
        return len(shape) <= 6 and all(map(self.always, shape)) and all(n <= ELEMENTS for n in self.sizes(product(shape)))

    def dim(self, fresh: bool = False) -> DimLike:
        """A dim; unless it is for an input, only of symbols that inputs give."""
        options: list[DimLike] = [2, 3, N, 1, 4, M, 5, N * 2, M + 1, 7]
        return 0 if self.c.chance(3) else self.c.pick([d for d in options if fresh or symbols_of(d) <= self.anchored])

    def shape(self, fresh: bool = False, most: int = 3) -> Shape:
        rank = self.c.pick((2, 1, 3, 0, 4)[:most + 2])
        return tuple(self.dim(fresh) for _ in range(rank))

    # ---- nodes -----------------------------------------------------------------------------------------------------
    def argument(self, shape: Shape, dtype: DType, extent: DimLike | None = None) -> Node | None:
        """A new input."""
        if not self.fits(shape):
            return None
        bound = 1 if dtype == BOOL else self.c.pick((2, 1, 3, 9))
        special = dtype.is_float and self.c.chance(5)
        type_ = Tensor(dtype, shape)
        self.anchored |= {str(d) for d in shape if d in (N, M)}
        self.sources.append(Source(type_, bound, extent, special))
        value = self.func.body.add_arg(type_, f"x{len(self.sources)}")
        top = bound if extent is None else max(self.sizes(extent))
        return self.keep(Node(value, float(top), 0.0))

    def keep(self, node: Node) -> Node:
        self.nodes.append(node)
        return node

    def constant(self, shape: Shape, dtype: DType, low: int = -3, high: int = 3) -> Node | None:
        """A constant of static shape."""
        if not all(isinstance(d, int) for d in shape) or not self.fits(shape):
            return None
        random = np.random.default_rng(self.c.below(4))
        low = 0 if dtype.kind in ("uint", "bool") else low
        array = random.integers(low, (2 if dtype == BOOL else high + 1), shape).astype(dtype.numpy)  # type: ignore[arg-type]
        return self.keep(Node(self.b.const(array), float(max(abs(low), abs(high))), 0.0))

    def apply(self, name: str, nodes: Sequence[Node | None], bound: float, err: float = 0.0, exact: bool = True,
              **attrs: Any) -> Node | None:
        """A new op, unless its types do not fit, its result is too large or could overflow. `exact`: integers give
        integers."""
        try:
            op = self.b.op(name, [None if n is None else n.value for n in nodes], attrs)
        except TypeInferenceError:
            return None
        t = op.result.type
        assert isinstance(t, Tensor)
        node = self.bounded(op, t, bound, err, exact)
        if node is None or not self.fits(t.dims):
            op.erase()
            return None
        return self.keep(node)

    def bounded(self, op: Op, t: Tensor, bound: float, err: float, exact: bool) -> Node | None:
        if t.dtype.is_float:
            if bound > _MOST.get(t.dtype.name, 1e30):
                return None
            rounds = not exact or err > 0 or bound > _EXACT[t.dtype.name]
            return Node(op.result, bound, err + (4 * _EPS[t.dtype.name] * bound if rounds else 0.0))
        return Node(op.result, min(bound, 2.0**t.dtype.bits) if t.dtype != BOOL else 1.0, 0.0)

    def node(self, test: Callable[[Node], bool] = lambda n: True) -> Node | None:
        """One of the nodes that pass a test, most often a late one."""
        found = [n for n in reversed(self.nodes) if test(n)]
        if not found:
            return None
        return found[0] if not self.c.chance(60) else self.c.pick(found)

    def like(self, shape: Shape, dtype: DType) -> Node | None:
        """A node of this type: there already, a constant, or a new input."""
        same = [n for n in reversed(self.nodes) if n.dtype == dtype and n.dims == shape]
        if same and self.c.chance(60):
            return self.c.pick(same)
        return (self.constant(shape, dtype) if self.c.chance(50) else None) or self.argument(shape, dtype)

    def partner(self, node: Node, dtype: DType | None = None) -> Node | None:
        """A node of the same element type (or `dtype`) that broadcasts with this one as it is."""
        dtype = dtype or node.dtype
        way = self.c.below(4)
        if way == 0:
            found = self.node(lambda n: n is not node and n.dtype == dtype and _broadcast(n.dims, node.dims))
            if found is not None:
                return found
        if way == 1:
            return self.like((), dtype)
        shape = tuple(1 if self.c.chance(30) else d for d in node.dims)
        return self.like(shape[self.c.below(len(shape) + 1):], dtype) if way == 2 else self.like(node.dims, dtype)

    # ---- elementwise -----------------------------------------------------------------------------------------------
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
        to = self.c.pick(_DTYPES)
        if to.is_float or (n.err == 0 and (n.dtype.kind != "float" or n.bound < 2.0**31)):
            bound = n.bound if to.is_float else 2.0**to.bits if n.bound >= 2.0**(to.bits - 1) else n.bound
            self.apply("t.cast", [n], bound, n.err, to=to)

    # ---- views -----------------------------------------------------------------------------------------------------
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
            exact = n.err == 0 and count * math.log2(max(n.bound, 1)) <= math.log2(_EXACT.get(n.dtype.name, 1))
            if exact or not n.dtype.is_float:
                self.apply("t.reduce", [n], max(1.0, n.bound) ** count if exact else 2.0**63, kind=kind, axes=axes)
        elif kind == "add":
            bound = n.bound * max(count, 1)
            rounds = count * bound * _EPS.get(n.dtype.name, 0) if n.err or bound > _EXACT.get(n.dtype.name, 0) else 0.0
            self.apply("t.reduce", [n], bound, count * n.err + rounds, kind=kind, axes=axes)
        else:
            self.apply("t.reduce", [n], n.bound if n.dtype.is_float else 2.0**63, n.err, kind=kind, axes=axes)

    def against_fold(self) -> None:
        """A fold over some axes, kept as ones, and its operand: what softmax and norms are made of."""
        n = self.node(lambda n: n.dtype != BOOL and n.type.rank > 0)
        if n is None:
            return
        axes = tuple(self.c.some(range(n.type.rank), 60))
        r = self.apply("t.reduce", [n], n.bound if n.dtype.is_float else 2.0**63, n.err, kind=self.c.pick(("max", "min")), axes=axes)
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
            mul = name == "t.mul"
            n = c and self.apply(name, [n, c], n.bound * c.bound if mul else n.bound + c.bound, n.err * (c.bound if mul else 1))
            if n is None:
                return

    def argreduce(self) -> None:
        n = self.node(lambda n: n.type.rank > 0 and n.err == 0)
        if n is not None:
            axis = self.c.below(n.type.rank)
            self.apply("t.argreduce", [n], max(1, *self.sizes(n.dims[axis])), kind=self.c.pick(("max", "min")), axis=axis,
                       last=self.c.chance(50))

    def scan(self) -> None:
        n = self.node(lambda n: n.type.rank > 0 and n.dtype != BOOL)
        if n is None:
            return
        axis = self.c.below(n.type.rank)
        count = max(self.sizes(n.dims[axis]))
        kind = self.c.pick(("add", "max", "min"))
        bound = n.bound * max(count, 1) if kind == "add" else n.bound if n.dtype.is_float else 2.0**63
        rounds = count * bound * _EPS.get(n.dtype.name, 0) if n.err or bound > _EXACT.get(n.dtype.name, 0) else 0.0
        self.apply("t.scan", [n], bound, max(1, count) * n.err + rounds, kind=kind, axis=axis, exclusive=self.c.chance(30),
                   reverse=self.c.chance(30))

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
        rounds = count * bound * _EPS.get(to.name, 0) if err or bound > _EXACT.get(to.name, 0) else 0.0
        self.apply("t.contract", [a, b], bound, err + rounds, spec=spec, to=to)

    # ---- data movement ---------------------------------------------------------------------------------------------
    def pad(self) -> None:
        n = self.node(lambda n: n.type.rank > 0)
        if n is None:
            return
        mode = self.c.pick(("constant", "edge", "reflect", "wrap"))
        amounts = [(0, 0) if self.c.chance(40) else (self.c.pick((1, 0, 2, 5, -1)), self.c.pick((1, 0, 3, -1)))
                   for _ in n.dims]
        if mode != "constant" and not all(self.always(d, 1) or p == (0, 0) for d, p in zip(n.dims, amounts, strict=True)):
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
        self.apply("t.window", [n], max(n.bound, 1), n.err, axes=tuple(range(first, first + count)), size=size, stride=stride,
                   dilation=dilation, low=low, out=out, fill=fill)

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
            self.constant(shape, self.c.pick(_DTYPES))

    # ---- the function ----------------------------------------------------------------------------------------------
    def finish(self) -> Graph:
        """Results: what nothing uses (some of it stays dead), a few others, and now and then one value twice."""
        last = self.nodes[-1]
        results = [last, *(n for n in self.nodes if n is not last and self.c.chance(5 if n.value.uses or not n.value.op else 80))]
        if self.c.chance(5):
            results.append(results[0])
        self.b.op("return", [n.value for n in results], types=())
        self.func.result_types = [n.type for n in results]
        self.module.meta["inputs"] = [_info(v.name, v.type) for v in self.func.args]
        self.module.meta["outputs"] = [_info(f"y{i}", n.type) for i, n in enumerate(results)]
        return Graph(self.module, self.bindings, self.sources, [n.err for n in results])


def _info(name: str, t: Any) -> ValueInfo:
    return ValueInfo(name, type_text(t), tuple(d if isinstance(d, int) else str(d) for d in t.dims))


def _broadcast(a: Shape, b: Shape) -> bool:
    """Whether two shapes broadcast as far as they show it."""
    return all(x == y or 1 in (x, y) for x, y in zip(a[::-1], b[::-1]))


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


_G = _Grower
_MAKERS: tuple[Callable[[_Grower], None], ...] = (
    _G.binary, _G.unary, _G.reduce, _G.reshape, _G.transpose, _G.broadcast, _G.contract, _G.slice, _G.cast, _G.select,
    _G.compare, _G.concat, _G.pad, _G.window, _G.gather, _G.scan, _G.argreduce, _G.gather_elements, _G.gather_nd,
    _G.generated, _G.with_number, _G.binary, _G.binary, _G.unary, _G.reduce, _G.transpose, _G.contract, _G.against_fold,
    _G.against_fold, _G.affine, _G.affine)
