"""Structural equality of IR: what two modules, attributes or types have to share to be the same program.

Names of values do not count; names of functions, constants and dim symbols do, because other things refer to them.
A module's `meta` is no part of its text and is not compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from onnxc.ir.core import Attr, Block, Func, Module, Op, Value
from onnxc.ir.dims import DimLike, provably_nonneg
from onnxc.ir.printer import attr_text, quote_name
from onnxc.ir.types import Map, Mem, Opt, Seq, Sparse, Tensor, Type, dtype_of

__all__ = ["difference", "same_array", "same_attr", "same_type"]


def same_array(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal element type, shape and elements; NaN equals NaN, and 0.0 does not equal -0.0."""
    if a is b:
        return True
    if dtype_of(a.dtype) != dtype_of(b.dtype) or a.shape != b.shape:
        return False
    if dtype_of(a.dtype).kind == "str":
        return [str(v) for v in a.ravel()] == [str(v) for v in b.ravel()]
    return _same_elements(a, b)


def _same_elements(a: np.ndarray, b: np.ndarray) -> bool:
    if dtype_of(a.dtype).kind == "complex":
        return _same_elements(a.real, b.real) and _same_elements(a.imag, b.imag)
    native = [np.ascontiguousarray(x, x.dtype.newbyteorder("=")).ravel() for x in (a, b)]
    differs = (native[0].view(np.uint8) != native[1].view(np.uint8)).reshape(a.size, a.itemsize).any(axis=1)
    if not dtype_of(a.dtype).is_float:
        return not differs.any()
    with np.errstate(invalid="ignore"):         # signalling NaNs
        return all(bool(np.isnan(x[differs].astype(np.float64)).all()) for x in native)


def same_attr(a: Attr, b: Attr) -> bool:
    """Equal value and kind: 1, 1.0 and true are three values; NaN equals NaN."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and same_array(a, b)
    if isinstance(a, (tuple, list)) or isinstance(b, (tuple, list)):
        return isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)) and len(a) == len(b) \
            and all(map(same_attr, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return repr(float(a)) == repr(float(b))
    if isinstance(a, (int, np.integer)) and isinstance(b, (int, np.integer)):
        return isinstance(a, bool) == isinstance(b, bool) and int(a) == int(b)
    return type(a) is type(b) and a == b


def _same_dim(a: DimLike, b: DimLike) -> bool:
    return a == b or (provably_nonneg(a - b) and provably_nonneg(b - a))


def same_type(a: Type, b: Type) -> bool:
    """Equal types, where dims that are written differently may still be shown to be the same number."""
    if a == b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, (Tensor, Mem)) and isinstance(b, (Tensor, Mem)):
        return a.dtype == b.dtype and a.shape is not None and b.shape is not None \
            and len(a.shape) == len(b.shape) and all(map(_same_dim, a.shape, b.shape))
    if isinstance(a, (Seq, Opt, Sparse)) and isinstance(b, (Seq, Opt, Sparse)):
        return same_type(a.element, b.element)
    return isinstance(a, Map) and isinstance(b, Map) and a.key == b.key and same_type(a.value, b.value)


def difference(a: Module, b: Module) -> str | None:
    """The first difference of two modules in words; None when they are the same."""
    return next(_module(a, b), None)


# The functions below yield differences in order. No more than the first is asked for, so what stands after a `yield`
# may rely on there having been none.
def _module(a: Module, b: Module) -> Iterator[str]:
    yield from _names("constant", a.constants, b.constants)
    for name, array in a.constants.items():
        if not same_array(array, b.constants[name]):
            yield f"constant @{quote_name(name)} differs: {_array(array)} and {_array(b.constants[name])}"
    yield from _names("function", a.funcs, b.funcs)
    for name, func in a.funcs.items():
        for text in _func(func, b.funcs[name]):
            yield f"function @{quote_name(name)}: {text}"


def _array(array: np.ndarray) -> str:
    return attr_text(array) if array.size <= 8 else f"{dtype_of(array.dtype)}{list(array.shape)}"


def _names(kind: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[str]:
    for which, have, lack in (("first", a, b), ("second", b, a)):
        for name in have:
            if name not in lack:
                yield f"only the {which} has {kind} '{name}'"


def _func(a: Func, b: Func) -> Iterator[str]:
    if a.kind != b.kind:
        yield f"its kind is '{a.kind}' and '{b.kind}'"
    yield from _attrs(a.attrs, b.attrs)
    yield from _types("result", a.result_types, b.result_types)
    yield from _block(a.body, b.body, {})


def _types(what: str, a: Sequence[Type], b: Sequence[Type]) -> Iterator[str]:
    if len(a) != len(b):
        yield f"{len(a)} {what}s and {len(b)}"
    for i, (ta, tb) in enumerate(zip(a, b, strict=False)):
        if ta != tb:
            yield f"{what} {i} is {ta} and {tb}"


def _attrs(a: Mapping[str, Attr], b: Mapping[str, Attr]) -> Iterator[str]:
    yield from _names("attribute", a, b)
    for key, value in a.items():
        if not same_attr(value, b[key]):
            yield f"attribute '{key}' is {attr_text(value)} and {attr_text(b[key])}"


def _block(a: Block, b: Block, twin: dict[Value, Value]) -> Iterator[str]:
    """Differences of two blocks; `twin` maps the values of the first to those of the second and grows."""
    yield from _types("argument", [v.type for v in a.args], [v.type for v in b.args])
    twin.update(zip(a.args, b.args, strict=True))
    ops_a, ops_b = list(a.ops), list(b.ops)
    for i, (op_a, op_b) in enumerate(zip(ops_a, ops_b, strict=False)):
        for text in _op(op_a, op_b, twin):
            yield f"op {i} ({op_a.name}): {text}"
    if len(ops_a) != len(ops_b):
        longer = ops_a if len(ops_a) > len(ops_b) else ops_b
        extra = longer[min(len(ops_a), len(ops_b))]
        yield f"{len(ops_a)} ops and {len(ops_b)}; the first that has no partner is {extra.name}"


def _op(a: Op, b: Op, twin: dict[Value, Value]) -> Iterator[str]:
    if a.name != b.name:
        yield f"the other is {b.name}"
    if len(a.operands) != len(b.operands):
        yield f"{len(a.operands)} operands and {len(b.operands)}"
    for i, (va, vb) in enumerate(zip(a.operands, b.operands, strict=True)):
        if (None if va is None else twin.get(va)) is not vb:
            yield f"operand {i} is {va!r} and {vb!r}, which are not made in the same place"
    yield from _attrs(a.attrs, b.attrs)
    yield from _types("result", [r.type for r in a.results], [r.type for r in b.results])
    if a.loc != b.loc:
        yield f"its location is '{a.loc}' and '{b.loc}'"
    if len(a.regions) != len(b.regions):
        yield f"{len(a.regions)} regions and {len(b.regions)}"
    for i, (ra, rb) in enumerate(zip(a.regions, b.regions, strict=True)):
        for text in _block(ra, rb, twin):
            yield f"region {i}: {text}"
    twin.update(zip(a.results, b.results, strict=True))
