"""Merging loop axes that run over memory as one: a kernel over [N, C, H, W] becomes one long loop where it can. Before
that, axes may be split where accesses divide them.

Axes a and b of one loop merge into ab = a*B + b (B the extent of b) when every access moves B times as far along a as
along b. The memory of the rewritten kernel is flat: one dim, indexed by one expression.
"""

from __future__ import annotations

import dataclasses
import itertools

from onnxc.codegen.accesses import Accesses, Condition, dims_of, kernel_symbols, linear_in, loop_axes
from onnxc.codegen.clone import clone_func
from onnxc.ir.core import Attr, Func, Op
from onnxc.ir.dims import Bounds, DimLike, calls_of, simplify, substitute, sym, symbols_of
from onnxc.ir.types import Mem

__all__ = ["collapse_axes", "merge_condition", "merge_index", "split_axes"]

_LOOPS = ("k.parallel", "k.sweep", "k.reduce")


def collapse_axes(func: Func) -> Func:
    """An equal kernel with as few axes as its accesses allow; `func` itself when nothing merges."""
    plan = _Plan(func)
    plan.run()
    return plan.rewritten() if plan.changed else func


def split_axes(func: Func) -> Func:
    """An equal kernel, with as few axes, in which no outer axis of known extent is divided in an access by what divides
    the extent: ab // B and ab % B become two axes a and b. `func` itself when there is no such axis."""
    if next((call for op in func.walk() for call in calls_of(dims_of(op))), None) is None:
        return func         # as most kernels are: they need no plan
    plan = _Plan(func)
    if not plan.split_all():
        return func
    plan.run()
    return plan.rewritten()


@dataclasses.dataclass
class _Indexed:
    """What an op makes of axes: the flat index of an access or the expression of a k.index, and its conditions."""

    index: DimLike
    where: list[Condition]


class _Plan:
    def __init__(self, func: Func) -> None:
        self.func, self.changed = func, False
        accesses = Accesses(func)
        self.loops = {op: loop_axes(op) for op in func.walk() if op.name in _LOOPS}
        self.scans = [extent for op in func.walk() if op.name in ("k.scan", "k.iterate") for _, extent in loop_axes(op)]
        self.ops: dict[Op, _Indexed] = {}
        for op in func.walk():
            if op.name in ("k.load", "k.store"):
                self.ops[op] = _Indexed(accesses.flat(op), list(op.attrs["where"]))  # type: ignore[arg-type]
            elif op.name == "k.index":
                self.ops[op] = _Indexed(op.attrs["expr"], [])  # type: ignore[arg-type]
        self.names = {*accesses.axes, *kernel_symbols(func)}

    def run(self) -> None:
        for loop in self.loops:
            self.drop_single(loop)
            while any(self.merge(loop, a, b) for a, b in itertools.permutations(self.loops[loop], 2)):
                pass

    def drop_single(self, loop: Op) -> None:
        """Axes of extent 1 are at 0; one stays where there is no other."""
        for name, extent in self.loops[loop]:
            if extent == 1 and len(self.loops[loop]) > 1:
                self.substitute({name: 0})
                self.loops[loop] = [x for x in self.loops[loop] if x[0] != name]
                self.changed = True

    def split_all(self) -> bool:
        """Splits outer axes; whether there were any to split."""
        waiting = [(loop, name) for loop in self.loops if loop.name == "k.parallel" for name, _ in self.loops[loop]]
        while waiting:
            loop, name = waiting.pop()
            extent = dict(self.loops[loop])[name]
            divisor = max((d for d in self.divisors(name) if isinstance(extent, int) and extent % d == 0), default=0)
            if divisor and isinstance(extent, int):
                waiting += [(loop, part) for part in self.split(loop, name, extent, divisor)]
        return self.changed

    def divisors(self, name: str) -> set[int]:
        """What an axis is divided by in accesses, numbers above 1 only."""
        found = [c.args[1] for x in self.ops.values() for d in (x.index, *(expr for expr, _, _ in x.where))
                 for c in calls_of([d]) if c.fn in ("floordiv", "mod") and c.args[0] == sym(name)]
        return {d for d in found if isinstance(d, int) and d > 1}

    def split(self, loop: Op, name: str, extent: int, divisor: int) -> tuple[str, str]:
        """The axis as two: how often the divisor fits, and what is left."""
        parts = []
        for stem in (f"{name}o", f"{name}i"):
            parts.append(self.fresh(stem))
            self.names.add(parts[-1])
        outer, inner = parts
        self.substitute({name: sym(outer) * divisor + sym(inner)})
        bounds = Bounds({outer: extent // divisor - 1, inner: divisor - 1})
        for x in self.ops.values():
            x.index = simplify(x.index, bounds)
            x.where = [(simplify(expr, bounds), low, high) for expr, low, high in x.where]
        sizes = [(outer, extent // divisor), (inner, divisor)]
        self.loops[loop] = [new for old in self.loops[loop] for new in (sizes if old[0] == name else [old])]
        self.changed = True
        return outer, inner

    def substitute(self, mapping: dict[str, DimLike]) -> None:
        for x in self.ops.values():
            x.index = substitute(x.index, mapping)
            x.where = [tuple(substitute(d, mapping) for d in c) for c in x.where]  # type: ignore[misc]

    def merge(self, loop: Op, outer: tuple[str, DimLike], inner: tuple[str, DimLike]) -> bool:
        """Merge two axes of a loop if every op allows it."""
        (a, _), (b, extent) = outer, inner
        if {a, b} & symbols_of([e for axes in self.loops.values() for _, e in axes] + self.scans):
            return False
        name = self.fresh(f"{a}{b}")
        after = {op: self.merged(x, a, b, extent, name) for op, x in self.ops.items()}
        if any(x is None for x in after.values()):
            return False
        self.ops = {op: x for op, x in after.items() if x is not None}
        axes = [x for x in self.loops[loop] if x[0] != a]
        self.loops[loop] = [(name, outer[1] * extent) if n == b else (n, e) for n, e in axes]
        self.names.add(name)
        self.changed = True
        return True

    def fresh(self, stem: str) -> str:
        while stem in self.names:
            stem += "_"
        return stem

    def merged(self, x: _Indexed, a: str, b: str, extent: DimLike, name: str) -> _Indexed | None:
        index = merge_index(x.index, a, b, extent, name)
        where = [merge_condition(c, a, b, extent, name) for c in x.where]
        if index is None or any(c is None for c in where):
            return None
        return _Indexed(index, [c for c in where if c is not None])

    def rewritten(self) -> Func:
        def attrs(op: Op) -> dict[str, Attr]:
            new = dict(op.attrs)
            if op in self.loops:
                new["axes"] = tuple(sym(n) for n, _ in self.loops[op])
                new["extents"] = tuple(e for _, e in self.loops[op])
            elif op in self.ops and op.name == "k.index":
                new["expr"] = self.ops[op].index
            elif op in self.ops:
                new["index"] = (self.ops[op].index,)
                new["where"] = tuple(tuple(c) for c in self.ops[op].where)
            return new

        copy = clone_func(self.func, attrs)
        for argument in copy.args:
            if isinstance(argument.type, Mem):
                argument.type = Mem(argument.type.dtype, (argument.type.size,))
        return copy


def merge_index(index: DimLike, a: str, b: str, extent: DimLike, name: str) -> DimLike | None:
    """`index` over the merged axis; None when it does not move `extent` times as far along a as along b."""
    along_a = linear_in(index, a)
    if along_a is None:
        return None
    along_b = linear_in(along_a.rest, b)
    if along_b is None or symbols_of(along_a.stride) & {a, b} or along_a.stride != along_b.stride * extent:
        return None
    return along_b.stride * sym(name) + along_b.rest


def merge_condition(c: Condition, a: str, b: str, extent: DimLike, name: str) -> Condition | None:
    """A condition over the merged axis; None when it does not hold for whole steps of a."""
    expr, low, high = c
    if {a, b} & symbols_of((low, high)):
        return None
    whole = merge_index(expr, a, b, extent, name)
    if whole is not None:
        return whole, low, high
    linear = linear_in(expr, a)
    if linear is None or linear.stride != 1 or b in symbols_of(expr):
        return None
    # low <= a + r < high is low*B <= a*B + b + r*B < high*B, because 0 <= b < B.
    return sym(name) + linear.rest * extent, low * extent, high * extent
