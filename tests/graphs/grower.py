"""What a growing graph is made of: nodes with bounds of size and error, sources of inputs, dims held against sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from onnxc.ir.builder import Builder
from onnxc.ir.core import Func, Module, Op, Value
from onnxc.ir.dims import DimLike, Shape, evaluate, product, sym, symbols_of
from onnxc.ir.registry import TypeInferenceError
from onnxc.ir.signature import ValueInfo, type_text
from onnxc.ir.types import BF16, BOOL, F16, F32, F64, I8, I32, I64, U8, DType, Tensor
from tests.graphs.choices import Choices

__all__ = ["DTYPES", "EPS", "EXACT", "Graph", "Grower", "Node", "Source"]

ELEMENTS = 600                        # of one value, at most: graphs are many, and the interpreters slow
DTYPES = (F32, F32, F32, F32, I64, BOOL, F16, I32, F64, BF16, U8, I8)
EXACT = {"f32": 2.0**24, "f64": 2.0**53, "f16": 2.0**11, "bf16": 2.0**8}      # integers up to this are exact
EPS = {"f32": 2.0**-23, "f64": 2.0**-52, "f16": 2.0**-10, "bf16": 2.0**-7}
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


class Grower:
    """A function under construction, and the ways to get operands for the next op."""

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
        _ = self.argument(self.shape(fresh=True), choices.pick(DTYPES)) or self.argument((2,), F32)

    # ---- dims ------------------------------------------------------------------------------------------------------
    def sizes(self, d: DimLike) -> list[int]:
        return [evaluate(d, b) for b in self.bindings]

    def always(self, d: DimLike, least: int = 0) -> bool:
        """Whether a dim is at least so much in all runs."""
        return all(n >= least for n in self.sizes(d))

    def fits(self, shape: Sequence[DimLike]) -> bool:
        small = len(shape) <= 6 and all(n <= ELEMENTS for n in self.sizes(product(shape)))
        return small and all(map(self.always, shape))

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
            rounds = not exact or err > 0 or bound > EXACT[t.dtype.name]
            return Node(op.result, bound, err + (4 * EPS[t.dtype.name] * bound if rounds else 0.0))
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

    # ---- the function ----------------------------------------------------------------------------------------------
    def finish(self) -> Graph:
        """Results: what nothing uses (some of it stays dead), a few others, and now and then one value twice."""
        last = self.nodes[-1]
        results = [last]
        for n in self.nodes[:-1]:
            if self.c.chance(5 if n.value.uses or n.value.op is None else 80):
                results.append(n)
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
    return all(x == y or 1 in (x, y) for x, y in zip(a[::-1], b[::-1], strict=False))
