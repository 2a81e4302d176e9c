"""Builds one kernel by demand: the element of a value at an index, asked from the stores backwards.

`Demand.at(value, index)` emits what computes one element: view ops only change the index, elementwise ops apply a
scalar op, reductions open a loop, and values that live in memory are loaded. A result is kept per (value, index), and
every op is placed in the outermost loop that defines the axes it needs; so what two consumers share is computed once,
and what does not depend on an inner axis stands outside it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from onnxc.ir.core import Block, Func, Module, Op, Value
from onnxc.ir.dims import Bounds, Dim, DimLike, simplify, substitute, sym, symbols_of, weight
from onnxc.ir.registry import lookup
from onnxc.ir.types import BOOL, I64, DType, Scalar, dtype_named
from onnxc.passes.indexing import Index, Where, broadcast_index

__all__ = ["FORMS", "VIEWS", "Demand", "Form", "NotFusable", "Scope", "element_type"]

VIEWS = ("t.broadcast", "t.reshape", "t.transpose", "t.slice")


_HEAVIEST = 48          # operations in the index of one element: beyond that, copying what is read costs less
_PLACES = 2             # places of one loop at which a value is computed again rather than kept in memory


class NotFusable(Exception):
    """`value` cannot be computed inside this kernel; it has to be in memory."""

    def __init__(self, value: Value, reason: str) -> None:
        super().__init__(reason)
        self.value, self.reason = value, reason


def element_type(t: DType) -> DType:
    """The type that elements of `t` have inside kernels: narrow types are widened on load and rounded on store."""
    return dtype_named(t.compute)


@dataclasses.dataclass(slots=True)
class Scope:
    """A loop body under construction; `upper` holds the inclusive limits of the axes it introduces."""

    block: Block
    upper: dict[str, DimLike]
    memo: dict[Any, Value] = dataclasses.field(default_factory=dict)
    data_indices: dict[Any, tuple[Dim, Where]] = dataclasses.field(default_factory=dict)
    places: dict[Value, set[Index]] = dataclasses.field(default_factory=dict)     # where each value was computed


Form = Callable[["Demand", Op, Index, Where, Any], Value]
FORMS: dict[str, Form] = {}
"""How an element of a tensor op's result comes about: (demand, op, index, where, other) -> element (`passes.forms`)."""


class Demand:
    """One kernel under construction. `leaf(value)` gives the memory argument of a value that is in memory, else
    None."""

    def __init__(self, module: Module, func: Func, leaf: Callable[[Value], Value | None], taken: frozenset[str],
                 loc: str = "") -> None:
        self.module, self.func, self.leaf, self.loc = module, func, leaf, loc
        self.taken = taken                                           # dim symbols, which axes must not be called
        self.scopes = [Scope(func.body, {})]
        self.loaded: dict[str, tuple[Value, frozenset[str]]] = {}    # symbol -> i64 value, and the axes it depends on
        self.axes_made = 0
        self.bound: dict[Value, tuple[Index, Value]] = {}            # contraction results: index and accumulator
        self.outer: dict[Value, Value] = {}                          # arguments of regions: what they stand for
        self.fold_values: list[tuple[Value, frozenset[str]]] = []    # every reduction, and the symbols it depends on

    @property
    def folds(self) -> list[frozenset[str]]:
        """The axes that each reduction depends on."""
        return [frozenset(n for n in names if n not in self.taken) for _, names in self.fold_values]

    # ---- scopes ----------------------------------------------------------------------------------------------------
    def axis(self, stem: str = "i") -> Dim:
        """A fresh axis symbol."""
        name = f"{stem}{self.axes_made}"
        while name in self.taken:
            name = "_" + name
        self.axes_made += 1
        return sym(name)

    def open(self, axes: Sequence[DimLike], extents: Sequence[DimLike], block: Block | None = None) -> Scope:
        """Enter a loop body over `axes`."""
        upper = {str(a): e - 1 for a, e in zip(axes, extents, strict=True)}
        self.scopes.append(Scope(Block() if block is None else block, upper))
        return self.scopes[-1]

    def close(self) -> Block:
        return self.scopes.pop().block

    def bounds(self) -> Bounds:
        """What is known of the axes here; inside a loop every extent is at least 1."""
        upper: dict[str, DimLike] = {}
        for s in self.scopes:
            upper.update(s.upper)
        positive = {n for d in upper.values() for n in symbols_of(d) if isinstance(d, Dim) and d + 1 == sym(n)}
        return Bounds(upper, positive)

    def depends(self, parts: Sequence[Any]) -> frozenset[str]:
        """Axis symbols in index expressions, through loaded indices."""
        out: set[str] = set()
        for part in parts:
            for name in symbols_of(part):
                out |= self.loaded[name][1] if name in self.loaded else {name}
        return frozenset(out)

    def depth(self, axes: frozenset[str]) -> int:
        """The outermost scope in which all of `axes` are defined."""
        for d in range(len(self.scopes) - 1, 0, -1):
            if axes & self.scopes[d].upper.keys():
                return d
        return 1 if len(self.scopes) > 1 else 0

    # ---- emitting --------------------------------------------------------------------------------------------------
    def append(self, op: Op) -> Op:
        """Put an op at the end of the current scope."""
        return self.scopes[-1].block.append(op)

    def emit_op(self, name: str, operands: Sequence[Value], attrs: dict[str, Any] | None = None) -> Op:
        """An op at the current scope, its types inferred."""
        row = lookup(name)
        if row is None or row.infer is None:
            raise KeyError(f"{name} is not a kernel op")
        full = {**row.attrs, **(attrs or {})}
        return self.append(Op(name, operands, row.infer([v.type for v in operands], full), full, loc=self.loc))

    def emit(self, name: str, operands: Sequence[Value], attrs: dict[str, Any] | None = None) -> Value:
        """The result of an op at the current scope."""
        return self.emit_op(name, operands, attrs).result

    def apply(self, name: str, *operands: Value) -> Value:
        """The scalar op `s.<name>`."""
        return self.emit(f"s.{name}", operands)

    def const(self, value: Any, dtype: DType) -> Value:
        if isinstance(value, np.generic):
            value = value.item()
        value = bool(value) if dtype == BOOL else float(value) if dtype.is_float else int(value)
        return self.emit("s.const", (), {"value": value, "dtype": dtype})

    def cast(self, v: Value, to: DType, **attrs: Any) -> Value:
        return v if v.type == Scalar(to) else self.emit("s.cast", (v,), {"to": to, **attrs})

    def index_value(self, expr: DimLike) -> Value:
        """An index expression as an i64 value."""
        if isinstance(expr, int):
            return self.const(expr, I64)
        (expr,), operands = self._operands((expr,))
        if expr == sym("$0") and len(operands) == 1:
            return operands[0]
        return self.emit("k.index", operands, {"expr": expr})

    def _operands(self, exprs: Sequence[DimLike]) -> tuple[tuple[DimLike, ...], list[Value]]:
        """Index expressions with loaded symbols turned into `$n`, and the operands these stand for."""
        names = [n for n in dict.fromkeys(n for e in exprs for n in sorted(symbols_of(e))) if n in self.loaded]
        mapping: dict[str, DimLike] = {n: sym(f"${i}") for i, n in enumerate(names)}
        return tuple(substitute(e, mapping) for e in exprs), [self.loaded[n][0] for n in names]

    def _place(self, exprs: Sequence[DimLike], where: Where) -> tuple[tuple[DimLike, ...], Where, list[Value]]:
        flat = [*exprs, *(e for triple in where for e in triple)]
        out, operands = self._operands(flat)
        n = len(exprs)
        return out[:n], tuple((out[i], out[i + 1], out[i + 2]) for i in range(n, len(out), 3)), operands

    def load(self, mem: Value, index: Index, where: Where, other: Any) -> Value:
        at, conditions, operands = self._place(index, where)
        t = mem.mem
        v = self.emit("k.load", (mem, *operands), {"index": at, "where": conditions, "other": plain(other, t.dtype)})
        return self.cast(v, element_type(t.dtype))

    def store(self, mem: Value, value: Value, index: Index, where: Where = (), combine: str | None = None) -> None:
        at, conditions, operands = self._place(index, where)
        t = mem.mem
        # The value is the element already, widened: nothing is left to saturate but infinities, which have to stay.
        narrow = self.cast(value, t.dtype, **({"saturate": False} if t.dtype.is_float else {}))
        self.emit_op("k.store", (mem, narrow, *operands),
                  {"index": at, "where": conditions, "combine": combine})

    # ---- elements --------------------------------------------------------------------------------------------------
    def at(self, value: Value, index: Index, where: Where = (), other: Any = 0) -> Value:
        """The element of `value` at `index`, in its compute type. Where `where` fails the result is `other` if the
        value is in memory, and anything otherwise (the caller selects)."""
        bounds = self.bounds()
        index = tuple(simplify(i, bounds) for i in index)
        axes = self.depends([*index, *(e for t in where for e in t)])
        depth = self.depth(axes)
        key = (value, index, where, _key(other))
        for scope in self.scopes[:depth + 1]:
            if key in scope.memo:
                return scope.memo[key]
        inner = self.scopes[depth + 1:]
        del self.scopes[depth + 1:]
        self._check_effort(value, index)
        result = self._element(value, index, where, other)
        self.scopes[depth].memo[key] = result
        self.scopes.extend(inner)
        return result

    def _check_effort(self, value: Value, index: Index) -> None:
        """NotFusable where this kernel computes a value too often, or at an index that takes longer than a load."""
        op = value.op
        if op is None or not op.inputs or self.leaf(value) is not None or value in self.bound:
            return
        if sum(map(weight, index)) > _HEAVIEST:
            raise NotFusable(value, "views make its index too heavy")
        if op.name not in VIEWS:
            places = self.scopes[-1].places.setdefault(value, set())
            places.add(index)
            if len(places) > _PLACES:
                raise NotFusable(value, f"it is computed at more than {_PLACES} places of one loop")

    def _element(self, value: Value, index: Index, where: Where, other: Any) -> Value:
        if value.tensor.size == 0:
            return self.const(other, element_type(value.tensor.dtype))      # no element of it is ever read
        if value in self.bound:
            expected, result = self.bound[value]
            if index != expected:
                raise NotFusable(value, "the epilogue reads the product at another index than it is computed at")
            return result
        if value in self.outer:
            return self.at(self.outer[value], index, where, other)
        mem = self.leaf(value)
        if mem is not None:
            return self.load(mem, index, where, other)
        op = value.op
        if op is None:
            raise NotFusable(value, "a function argument is not in memory")
        form = FORMS.get(op.name)
        if form is not None:
            return form(self, op, index, where, other)
        row = lookup(op.name)
        if row is not None and row.has("elementwise"):
            return self._elementwise(op, index, where)
        raise NotFusable(value, f"{op.name} has no element-wise form")

    def _elementwise(self, op: Op, index: Index, where: Where) -> Value:
        shape = op.result.dims
        args = [self.at(v, broadcast_index(index, v.dims, shape), where) for v in op.inputs]
        name = op.name[2:]
        if name in ("div", "mod", "fmod") and op.operand(0).tensor.dtype.is_integer:
            self.require(self.apply("ne", args[1], self.const(0, element_of(args[1]))), where,
                         f"{op.loc or op.name}: division of an integer by zero")
        return self.apply(name, *args)

    def reads_memory(self, value: Value) -> bool:
        """Whether an element of `value` is one load, views aside."""
        while self.leaf(value) is None:
            if value.op is None or value.op.name not in VIEWS:
                return False
            value = value.op.operand(0)
        return True

    def condition(self, where: Where) -> Value | None:
        """All of the conditions as one bool value; None when there are none."""
        out: Value | None = None
        for expr, low, high in where:
            v = self.index_value(expr)
            tests = [self.apply("ge", v, self.index_value(low)), self.apply("lt", v, self.index_value(high))]
            for t in tests:
                out = t if out is None else self.apply("and", out, t)
        return out

    def require(self, ok: Value, where: Where, message: str) -> None:
        """Record `message` unless ok, at points where `where` holds."""
        guard = self.condition(where)
        if guard is not None:
            ok = self.apply("or", ok, self.apply("not", guard))
        op = Op("k.require", (ok,), (), {"message": message}, loc=self.loc)
        self.append(op)

    def masked(self, source: Value, index: Index, new: Where, where: Where, fill: Any) -> Value:
        """The element of `source`, or `fill` (a number, or a value of the same type) where `new` does not hold."""
        both = tuple(dict.fromkeys((*where, *new)))
        if not new:
            return self.at(source, index, where)
        if not isinstance(fill, Value) and self.reads_memory(source):
            return self.at(source, index, both, fill)
        v = self.at(source, index, both)
        ok = self.condition(new)
        if ok is None:
            return v
        return self.apply("select", ok, v, fill if isinstance(fill, Value) else self.const(fill, element_of(v)))

    def given_index(self, value: Value, axes: frozenset[str]) -> Dim:
        """A data index that is known to be in range, as a symbol. `axes` are those that the value depends on."""
        name = str(self.axis("v"))
        self.loaded[name] = (self.cast(value, I64), axes)
        return sym(name)

    def loaded_index(self, value: Value, extent: DimLike, where: Where, axes: frozenset[str],
                     message: str) -> tuple[Dim, Where]:
        """A data index as a symbol: negative counts from the end; out of range is an error of the run and reads no
        element."""
        v = self.cast(value, I64)
        size = self.index_value(extent)
        low = self.apply("ge", v, self.apply("neg", size))
        self.require(self.apply("and", low, self.apply("lt", v, size)), where, message)
        wrapped = self.apply("select", self.apply("lt", v, self.const(0, I64)), self.apply("add", v, size), v)
        at = self.given_index(wrapped, axes)
        return at, (*where, (at, 0, extent))

    # ---- reductions ------------------------------------------------------------------------------------------------
    def reduce(self, op: Op, axes: Sequence[int], index: Index, kinds: Sequence[str], where: Where,
               types: Sequence[DType]) -> list[Value]:
        """Fold the operand of `op` over `axes`; `index` is that of the result."""
        source = op.operand(0)
        shape = source.dims
        own = {a: self.axis("r") for a in axes}
        rest = iter(index)
        full = tuple(own[a] if a in own else next(rest) for a in range(len(shape)))
        extents = tuple(shape[a] for a in axes)
        if any(isinstance(i, Dim) and symbols_of(i) != {str(i)} for i in index):
            raise NotFusable(op.result, "a fold is read at a computed position")
        self.fold_values.append((op.result, self.depends([*index, *(e for t in where for e in t)])))
        self.open(list(own.values()), extents)
        element = self.cast(self.at(source, full, where), types[0])
        position = [self.index_value(full[axes[0]])] if kinds[0].startswith("arg") else []
        self.append(Op("yield", [element, *position]))
        block = self.close()
        op = Op("k.reduce", (), [Scalar(t) for t in types],
                {"axes": tuple(own.values()), "extents": extents, "kinds": tuple(kinds)}, [block], self.loc)
        self.append(op)
        return op.results


def element_of(v: Value) -> DType:
    """The element type of a value inside a kernel."""
    if not isinstance(v.type, Scalar):
        raise TypeError(f"{v!r} is no element")
    return v.type.dtype


def plain(value: Any, dtype: DType) -> Any:
    """A number as an attribute of a kernel op holds it."""
    if isinstance(value, np.generic):
        value = value.item()
    return bool(value) if dtype == BOOL else float(value) if dtype.is_float else int(value)


def _key(other: Any) -> Any:
    return repr(other) if isinstance(other, float) else other
