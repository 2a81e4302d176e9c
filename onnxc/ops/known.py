"""Values that are known before a run: integer tensors whose elements are dims, and small results of constants.

ONNX computes shapes with tensor ops (Shape, Gather, Concat, Add ...). `KnownValues` follows such a computation over t.*
ops and gives its result as an object array of ints, bools and Dims, or None where it depends on data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from onnxc.ir.builder import constant_of
from onnxc.ir.core import Module, Op, Value
from onnxc.ir.dims import Dim, dim_max, dim_min, floordiv, mod, provably_less, provably_nonneg
from onnxc.ir.registry import lookup
from onnxc.ir.types import BOOL, DType, Tensor

__all__ = ["KnownValues"]

_LIMIT = 4096        # elements; shape vectors are short, and data that is longer is not shape arithmetic


class _Undecided(Exception):
    """A comparison or division whose outcome depends on the value of a symbol."""


def _less(a: Any, b: Any) -> bool:
    if provably_less(a, b):
        return True
    if provably_nonneg(a - b):
        return False
    raise _Undecided


def _equal(a: Any, b: Any) -> bool:
    if not (isinstance(a, Dim) or isinstance(b, Dim)):
        return bool(a == b)
    d = a - b
    if isinstance(d, int):
        return d == 0
    if provably_less(0, d) or provably_less(d, 0):
        return False
    raise _Undecided


def _divide(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int):
        if b == 0:
            raise _Undecided
        q = abs(a) // abs(b)
        return q if (a >= 0) == (b >= 0) else -q
    if not provably_less(0, b):
        raise _Undecided
    down = floordiv(a, b)
    if provably_nonneg(a) or down * b == a:
        return down
    # Rounded towards zero: what is below zero is rounded up.
    up = 0 if provably_nonneg(a + b - 1) else floordiv(dim_max(-a, 0), b)
    return floordiv(dim_max(a, 0), b) - up


def _modulo(a: Any, b: Any) -> Any:
    if isinstance(b, int) and b == 0 or not (isinstance(b, int) and b > 0 or provably_less(0, b)):
        raise _Undecided
    return mod(a, b)


def _truth(a: Any) -> bool:
    if isinstance(a, Dim):
        raise _Undecided
    return bool(a)


def _is_not_zero(a: Any) -> bool:
    return not _equal(a, 0)


def _number(a: Any) -> Any:
    return a if isinstance(a, Dim) else int(a)


def _sign(a: Any) -> int:
    if _equal(a, 0):
        return 0
    return 1 if _less(0, a) else -1


_ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "t.add": lambda a, b: a + b, "t.sub": lambda a, b: a - b, "t.mul": lambda a, b: a * b, "t.neg": lambda a: -a,
    "t.div": _divide, "t.mod": _modulo, "t.min": dim_min, "t.max": dim_max,
    "t.abs": lambda a: a if _less(-1, a) else -a, "t.sign": _sign,
    "t.eq": _equal, "t.ne": lambda a, b: not _equal(a, b), "t.lt": _less, "t.ge": lambda a, b: not _less(a, b),
    "t.gt": lambda a, b: _less(b, a), "t.le": lambda a, b: not _less(b, a),
    "t.and": lambda a, b: _truth(a) and _truth(b), "t.or": lambda a, b: _truth(a) or _truth(b),
    "t.not": lambda a: not _truth(a),
    "t.select": lambda c, a, b: a if _truth(c) else b,
}


def _objects(values: Any, shape: tuple[int, ...]) -> np.ndarray:
    out = np.empty(shape, object)
    for i, v in enumerate(np.asarray(values, object).ravel()):
        out.flat[i] = v.item() if isinstance(v, np.generic) else v
    return out


def _is_integral(dtype: DType) -> bool:
    return dtype.is_integer or dtype == BOOL


def _fit(values: np.ndarray, dtype: DType) -> np.ndarray:
    """`values` as elements of `dtype`: integers wrap. A dim is taken to fit into 32 bits and more."""
    if dtype == BOOL:
        return values
    if dtype.bits < 32 and _has_symbols(values.flat):
        raise _Undecided
    half, span = (1 << dtype.bits - 1 if dtype.is_signed else 0), 1 << dtype.bits
    return _objects([v if isinstance(v, Dim) else (int(v) + half) % span - half for v in values.flat], values.shape)


def _has_symbols(attr: Any) -> bool:
    return isinstance(attr, Dim) or (not isinstance(attr, (str, bytes, np.ndarray)) and isinstance(attr, Iterable)
                                     and any(map(_has_symbols, attr)))


def _meaning(name: str) -> Callable[..., Any]:
    """The `ref` of an op that is known to have one."""
    row = lookup(name)
    if row is None or row.ref is None:
        raise _Undecided
    return row.ref


class KnownValues:
    """Answers `of(value)` and `array(value)` with memory; make a new one when the IR under it changes.

    Shape arithmetic is followed with dims as elements. Everything else is computed from constants by the meaning that
    its row in the registry gives it, as long as it is small.
    """

    def __init__(self, module: Module) -> None:
        self.module = module
        self._memo: dict[Value, np.ndarray | None] = {}

    def of(self, value: Value | None) -> np.ndarray | None:
        """The elements of an integer or bool tensor as an object array, or None when they are not known."""
        found = self._find(value)
        return found if found is not None and found.dtype == object else None

    def array(self, value: Value | None) -> np.ndarray | None:
        """The elements of a small tensor of any type that depends on constants only, or None."""
        found = self._find(value)
        if found is None or found.dtype != object:
            return found
        return None if _has_symbols(found.flat) else found.astype(value.type.dtype.numpy)  # type: ignore[union-attr]

    def _find(self, value: Value | None) -> np.ndarray | None:
        """Operands first and without recursion: chains of shape arithmetic may be long."""
        path = [] if value is None else [value]
        while path:
            top = path[-1]
            sources = self._sources(top) if top not in self._memo else ()
            missing = [v for v in sources or () if v not in self._memo]
            if missing:
                path += missing
                continue
            if top not in self._memo:
                self._memo[top] = None if sources is None else self._compute(top)
            path.pop()
        return None if value is None else self._memo[value]

    def _sources(self, value: Value) -> tuple[Value, ...] | None:
        """What a value is computed from; None when it cannot be known."""
        t, op = value.type, value.op
        if op is None or not isinstance(t, Tensor) or not t.is_static or int(t.size) > _LIMIT:  # type: ignore[arg-type]
            return None
        row = lookup(op.name)
        if row is None or row.ref is None or not row.has("pure") or len(op.results) != 1 or op.regions:
            return None
        return op.inputs

    def _compute(self, value: Value) -> np.ndarray | None:
        op, t = value.op, value.type
        assert op is not None and isinstance(t, Tensor)        # `_sources` asked for both
        if op.name == "t.const":
            found = constant_of(self.module, value)
            return _objects(found, found.shape) if found is not None and _is_integral(t.dtype) else found
        ins = [None if v is None else self._memo[v] for v in op.operands]
        if any(a is None and v is not None for v, a in zip(op.operands, ins, strict=True)):
            return None
        try:
            if _is_integral(t.dtype) and all(a is None or a.dtype == object for a in ins):
                return _fit(self._integral(op, ins, t), t.dtype)
            return self._by_meaning(op, t)
        except (_Undecided, TypeError, ValueError, IndexError):
            return None

    def _integral(self, op: Op, ins: list[Any], t: Tensor) -> np.ndarray:
        """The result of an op on dims."""
        shape = tuple(int(d) for d in t.dims)  # type: ignore[arg-type]
        if op.name == "t.dims":
            return _objects(op.attrs["values"], shape)
        if op.name in _ELEMENTWISE:
            return _objects(np.frompyfunc(_ELEMENTWISE[op.name], len(ins), 1)(*ins), shape)
        if op.name == "t.cast":
            return _objects(np.frompyfunc(_is_not_zero if t.dtype == BOOL else _number, 1, 1)(ins[0]), shape)
        if op.name in _STRUCTURAL:
            return _objects(_STRUCTURAL[op.name](op.attrs, *ins), shape)
        return self._by_meaning(op, t)

    def _by_meaning(self, op: Op, t: Tensor) -> np.ndarray:
        """The result of an op on arrays without symbols, by its row in the registry."""
        arrays = [self.array(v) for v in op.operands]
        missing = any(a is None and v is not None for v, a in zip(op.operands, arrays, strict=True))
        if missing or _has_symbols(op.attrs.values()):
            raise _Undecided
        found = np.asarray(_meaning(op.name)(op.attrs, *arrays))
        return _objects(found, found.shape) if _is_integral(t.dtype) else found


def _static(dims: Iterable[Any]) -> list[int]:
    return [_decided(d) for d in dims]


def _decided(d: Any) -> int:
    if isinstance(d, Dim):
        raise _Undecided
    return int(d)


def _known_slice(attrs: dict[str, Any], x: np.ndarray) -> np.ndarray:
    starts, sizes = _static(attrs["starts"]), _static(attrs["sizes"])
    for axis, (start, size, step) in enumerate(zip(starts, sizes, attrs["steps"], strict=True)):
        x = np.take(x, start + step * np.arange(size), axis)
    return x


def _known_gather(attrs: dict[str, Any], x: np.ndarray, i: np.ndarray) -> np.ndarray:
    at = np.array(_static(i.flat), np.int64).reshape(i.shape)
    return np.take(x, at, attrs["axis"])


def _known_scatter(name: str) -> Callable[..., Any]:
    def scatter(attrs: dict[str, Any], x: np.ndarray, i: np.ndarray, updates: np.ndarray) -> np.ndarray:
        if attrs["reduction"] != "none":
            raise _Undecided
        at = np.array(_static(i.flat), np.int64).reshape(i.shape)
        return np.asarray(_meaning(name)(attrs, x, at, updates))

    return scatter


def _known_reduce(attrs: dict[str, Any], x: np.ndarray) -> np.ndarray:
    start = {"add": 0, "mul": 1, "and": True, "or": False}.get(attrs["kind"])
    fn = {"add": lambda a, b: a + b, "mul": lambda a, b: a * b, "max": dim_max, "min": dim_min,
          "and": lambda a, b: _truth(a) and _truth(b), "or": lambda a, b: _truth(a) or _truth(b)}[attrs["kind"]]
    for axis in sorted(attrs["axes"], reverse=True):
        if start is None and x.shape[axis] == 0:
            raise _Undecided
        ufunc = np.frompyfunc(fn, 2, 1)
        x = ufunc.reduce(x, axis, initial=start) if start is not None else ufunc.reduce(x, axis)
        x = np.asarray(x, object)
    return x


_STRUCTURAL: dict[str, Callable[..., Any]] = {
    "t.reshape": lambda attrs, x: x.reshape(_static(attrs["shape"])),
    "t.broadcast": lambda attrs, x: np.broadcast_to(x, _static(attrs["shape"])),
    "t.transpose": lambda attrs, x: x.transpose(attrs["perm"]),
    "t.concat": lambda attrs, *xs: np.concatenate(xs, attrs["axis"]),
    "t.slice": _known_slice,
    "t.gather": _known_gather,
    "t.scatter_elements": _known_scatter("t.scatter_elements"),
    "t.scatter_nd": _known_scatter("t.scatter_nd"),
    "t.reduce": _known_reduce,
}
