"""Values that are known before a run: integer tensors whose elements are dims.

ONNX computes shapes with tensor ops (Shape, Gather, Concat, Add ...). `known` follows such a computation over t.* ops and
gives its result as an object array of ints, bools and Dims, or None where it depends on data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from onnxc.ir.builder import constant_of
from onnxc.ir.core import Module, Value
from onnxc.ir.dims import Dim, dim_max, dim_min, evaluate, floordiv, mod, provably_less, provably_nonneg, symbols_of
from onnxc.ir.types import BOOL, Tensor

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
    if isinstance(a, (bool, np.bool_)) or isinstance(b, (bool, np.bool_)) or not (isinstance(a, Dim) or isinstance(b, Dim)):
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
    if not (provably_nonneg(a) and provably_less(0, b)):
        exact = floordiv(a, b)
        if not (isinstance(b, int) and b > 0 and exact * b == a):
            raise _Undecided
        return exact
    return floordiv(a, b)


def _modulo(a: Any, b: Any) -> Any:
    if isinstance(b, int) and b == 0 or not (isinstance(b, int) and b > 0 or provably_less(0, b)):
        raise _Undecided
    return mod(a, b)


def _truth(a: Any) -> bool:
    if isinstance(a, Dim):
        raise _Undecided
    return bool(a)


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
    "t.and": lambda a, b: _truth(a) and _truth(b), "t.or": lambda a, b: _truth(a) or _truth(b), "t.not": lambda a: not _truth(a),
    "t.select": lambda c, a, b: a if _truth(c) else b,
}


def _objects(values: Any, shape: tuple[int, ...]) -> np.ndarray:
    out = np.empty(shape, object)
    for i, v in enumerate(np.asarray(values, object).ravel()):
        out.flat[i] = v.item() if isinstance(v, np.generic) else v
    return out


class KnownValues:
    """Answers `of(value)` with memory; forget a value (or make a new one) when the IR under it changes."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self._memo: dict[Value, np.ndarray | None] = {}

    def of(self, value: Value | None) -> np.ndarray | None:
        """The elements of an integer or bool tensor as an object array, or None when they are not known."""
        if value is None:
            return None
        if value not in self._memo:
            self._memo[value] = None
            self._memo[value] = self._compute(value)
        return self._memo[value]

    def _compute(self, value: Value) -> np.ndarray | None:
        t, op = value.type, value.op
        if op is None or not isinstance(t, Tensor) or not t.is_static or not (t.dtype.is_integer or t.dtype == BOOL):
            return None
        if int(t.size) > _LIMIT:  # type: ignore[arg-type]
            return None
        shape = tuple(int(d) for d in t.dims)  # type: ignore[arg-type]
        if op.name == "t.const":
            array = constant_of(self.module, value)
            return None if array is None else _objects(array, shape)
        if op.name == "t.dims":
            return _objects(op.attrs["values"], shape)
        if op.name in _STRUCTURAL or op.name in _ELEMENTWISE or op.name == "t.cast":
            return self._apply(op.name, op.attrs, [self.of(v) for v in op.operands], shape, value)
        return None

    def _apply(self, name: str, attrs: dict[str, Any], ins: list[np.ndarray | None], shape: tuple[int, ...],
               value: Value) -> np.ndarray | None:
        if name == "t.iota":
            return _objects(np.indices(shape)[attrs["axis"]], shape)
        if any(a is None for a in ins):
            return None
        try:
            if name in _ELEMENTWISE:
                fn = np.frompyfunc(_ELEMENTWISE[name], len(ins), 1)
                return _objects(fn(*ins), shape)
            if name == "t.cast":
                return self._cast(ins[0], value, shape)
            return _objects(_STRUCTURAL[name](attrs, *ins), shape)
        except (_Undecided, TypeError, IndexError):
            return None

    def _cast(self, x: Any, value: Value, shape: tuple[int, ...]) -> np.ndarray | None:
        source = value.op.operand(0).type.dtype  # type: ignore[union-attr]
        if not (source.is_integer or source == BOOL):
            return None
        if value.type.dtype == BOOL:  # type: ignore[attr-defined]
            return _objects(np.frompyfunc(lambda v: not _equal(v, 0), 1, 1)(x), shape)
        return _objects(np.frompyfunc(lambda v: v if isinstance(v, Dim) else int(v), 1, 1)(x), shape)


def _static(dims: Any) -> list[int]:
    return [evaluate(d, {}) if not symbols_of(d) else _raise() for d in dims]


def _raise() -> int:
    raise _Undecided


def _known_slice(attrs: dict[str, Any], x: np.ndarray) -> np.ndarray:
    for axis, (start, size, step) in enumerate(zip(_static(attrs["starts"]), _static(attrs["sizes"]), attrs["steps"])):
        x = np.take(x, start + step * np.arange(size), axis)
    return x


def _known_gather(attrs: dict[str, Any], x: np.ndarray, i: np.ndarray) -> np.ndarray:
    return np.take(x, np.vectorize(lambda v: v if isinstance(v, int) else _raise(), otypes=[np.int64])(i), attrs["axis"])


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
    "t.iota": lambda attrs: None,
    "t.reshape": lambda attrs, x: x.reshape(_static(attrs["shape"])),
    "t.broadcast": lambda attrs, x: np.broadcast_to(x, _static(attrs["shape"])),
    "t.transpose": lambda attrs, x: x.transpose(attrs["perm"]),
    "t.concat": lambda attrs, *xs: np.concatenate(xs, attrs["axis"]),
    "t.slice": _known_slice,
    "t.gather": _known_gather,
    "t.reduce": _known_reduce,
}
