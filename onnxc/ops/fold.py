"""Tensor ops that combine elements along axes: reductions, prefix folds, positions of extremes, and contractions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxc.ir.dims import DimLike
from onnxc.ir.registry import REQUIRED, register
from onnxc.ir.types import BOOL, F32, I64, DType, Tensor, Type, dtype_of
from onnxc.ops.kernel import REDUCE_KINDS
from onnxc.ops.tensor import fail, normal_axis, tensor_operand

__all__ = ["ContractSpec", "parse_spec"]


def _axes(axes: Sequence[int], rank: int, op: str) -> tuple[int, ...]:
    out = tuple(normal_axis(a, rank, op) for a in axes)
    if len(set(out)) != len(out):
        raise fail(f"{op}: axes {list(axes)} repeat")
    return out


def _reduce(types: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    t = tensor_operand(types, 0, "t.reduce")
    if attrs["kind"] not in REDUCE_KINDS:
        raise fail(f"t.reduce: kind '{attrs['kind']}' is none of {', '.join(REDUCE_KINDS)}")
    if attrs["kind"] in ("and", "or") and t.dtype != BOOL:
        raise fail(f"t.reduce {attrs['kind']} takes bool, not {t.dtype}")
    gone = _axes(attrs["axes"], t.rank, "t.reduce")
    return [Tensor(t.dtype, tuple(d for i, d in enumerate(t.dims) if i not in gone))]


def least(dtype: DType) -> Any:
    """The identity of max: -inf, or the least integer, or False."""
    if dtype.is_float:
        return -np.inf
    return False if dtype == BOOL else int(np.iinfo(dtype.numpy).min)


def greatest(dtype: DType) -> Any:
    """The identity of min."""
    if dtype.is_float:
        return np.inf
    return True if dtype == BOOL else int(np.iinfo(dtype.numpy).max)


def identity(kind: str, dtype: DType) -> Any:
    """The element that changes nothing under a reduction of `kind`."""
    return {"add": 0, "mul": 1, "and": True, "or": False}[kind] if kind in ("add", "mul", "and", "or") \
        else least(dtype) if kind == "max" else greatest(dtype)


_UFUNC = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum, "and": np.logical_and,
          "or": np.logical_or}


def _reduce_ref(attrs: dict[str, Any], x: np.ndarray) -> np.ndarray:
    dtype = dtype_of(x.dtype)
    wide = np.float64 if dtype.is_float else x.dtype
    start = np.asarray(identity(attrs["kind"], dtype), wide)
    with np.errstate(all="ignore"):
        out = _UFUNC[attrs["kind"]].reduce(x.astype(wide), axis=tuple(attrs["axes"]), initial=start)
        return np.asarray(out).astype(x.dtype)


register("t.reduce", "x", attrs={"kind": REQUIRED, "axes": REQUIRED}, traits="pure reduction", infer=_reduce,
         ref=_reduce_ref,
         doc="fold over axes, which go; over no elements the identity; max and min give NaN for any NaN")


def _arg(types: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    t = tensor_operand(types, 0, "t.argreduce")
    axis = normal_axis(attrs["axis"], t.rank, "t.argreduce")
    return [Tensor(I64, t.dims[:axis] + t.dims[axis + 1:])]


def _arg_ref(attrs: dict[str, Any], x: np.ndarray) -> np.ndarray:
    axis = attrs["axis"] % x.ndim
    if x.dtype.kind not in "biuf":
        x = x.astype(np.float32)
    pick = np.argmax if attrs["kind"] == "max" else np.argmin
    if not x.shape[axis]:
        return np.zeros(x.shape[:axis] + x.shape[axis + 1:], np.int64)
    if not attrs["last"]:
        return np.asarray(pick(x, axis), np.int64)
    return np.asarray(x.shape[axis] - 1 - pick(np.flip(x, axis), axis), np.int64)


register("t.argreduce", "x", attrs={"kind": REQUIRED, "axis": REQUIRED, "last": False}, traits="pure reduction",
         infer=_arg, ref=_arg_ref,
         doc="position of the max or min along an axis, first (or `last`) among equals; a NaN wins; 0 of no elements")


def _scan(types: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    t = tensor_operand(types, 0, "t.scan")
    normal_axis(attrs["axis"], t.rank, "t.scan")
    return [t]


def _scan_ref(attrs: dict[str, Any], x: np.ndarray) -> np.ndarray:
    axis, wide = attrs["axis"], (np.float64 if dtype_of(x.dtype).is_float else x.dtype)
    y = np.flip(x, axis) if attrs["reverse"] else x
    with np.errstate(all="ignore"):
        out = _UFUNC[attrs["kind"]].accumulate(y.astype(wide), axis)
    if attrs["exclusive"] and y.shape[axis]:
        head = np.full_like(np.take(out, [0], axis), identity(attrs["kind"], dtype_of(x.dtype)))
        out = np.concatenate([head, np.take(out, np.arange(out.shape[axis] - 1), axis)], axis)
    return (np.flip(out, axis) if attrs["reverse"] else out).astype(x.dtype)


register("t.scan", "x", attrs={"kind": "add", "axis": REQUIRED, "exclusive": False, "reverse": False},
         infer=_scan, ref=_scan_ref, doc="running fold along an axis")


class ContractSpec:
    """Axis letters of a contraction `lhs,rhs->out`: those in all three are batch, lhs and out rows (m), rhs and out
    columns (n), lhs and rhs are summed (k). Letters of one side only are not allowed."""

    __slots__ = ("batch", "k", "lhs", "m", "n", "out", "rhs")

    def __init__(self, lhs: str, rhs: str, out: str) -> None:
        self.lhs, self.rhs, self.out = lhs, rhs, out
        self.batch = "".join(c for c in out if c in lhs and c in rhs)
        self.m = "".join(c for c in out if c in lhs and c not in rhs)
        self.n = "".join(c for c in out if c in rhs and c not in lhs)
        self.k = "".join(c for c in lhs if c in rhs and c not in out)

    def sizes(self, lhs: Sequence[DimLike], rhs: Sequence[DimLike]) -> dict[str, DimLike]:
        """Extent of each letter."""
        return {**dict(zip(self.rhs, rhs, strict=True)), **dict(zip(self.lhs, lhs, strict=True))}


def parse_spec(spec: str) -> ContractSpec:
    """Read `"bmk,bkn->bmn"`."""
    ins, arrow, out = spec.partition("->")
    lhs, comma, rhs = ins.partition(",")
    known = set(out) <= set(lhs) | set(rhs) and set(lhs) | set(rhs) == set(out) | (set(lhs) & set(rhs))
    distinct = all(len(set(s)) == len(s) for s in (lhs, rhs, out))
    if not arrow or not comma or not known or not distinct:
        raise fail(f"t.contract: '{spec}' is not lhs,rhs->out with every letter in two places or three")
    return ContractSpec(lhs, rhs, out)


def _contract(types: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    spec = parse_spec(attrs["spec"])
    a, b = tensor_operand(types, 0, "t.contract"), tensor_operand(types, 1, "t.contract")
    if len(spec.lhs) != a.rank or len(spec.rhs) != b.rank:
        raise fail(f"t.contract '{attrs['spec']}' of {a} and {b}: ranks differ from the spec")
    right = dict(zip(spec.rhs, b.dims, strict=True))
    for letter, d in zip(spec.lhs, a.dims, strict=True):
        e = right.get(letter, d)
        if isinstance(d, int) and isinstance(e, int) and d != e:
            raise fail(f"t.contract '{attrs['spec']}' of {a} and {b}: axis {letter} is {d} and {e}")
    sizes = spec.sizes(a.dims, b.dims)
    return [Tensor(attrs["to"], tuple(sizes[c] for c in spec.out))]


def _contract_ref(attrs: dict[str, Any], a: np.ndarray, b: np.ndarray) -> np.ndarray:
    wide = np.float64 if attrs["to"].is_float else attrs["to"].numpy
    spec = parse_spec(attrs["spec"])
    return np.asarray(np.einsum(f"{spec.lhs},{spec.rhs}->{spec.out}", a.astype(wide), b.astype(wide),
                                optimize=bool(spec.k))).astype(attrs["to"].numpy)


register("t.contract", "lhs, rhs", attrs={"spec": REQUIRED, "to": F32}, traits="pure", infer=_contract,
         ref=_contract_ref,
         doc="sum of products, einsum-like: batch, row, column and summed axes by letter; `to` is the element type of "
             "the sum and result")
