"""Kernel-level ops (`k.*`): what a kernel computes, per element; how is its Schedule's business.

A kernel is a Func of kind "kernel" whose arguments are `mem<...>` buffers (and whose shapes may hold symbolic dims,
which are parameters at run time). Loop axes are named by symbols; inside the region that introduces an axis the
symbol may stand in index expressions. A kernel body holds scalar ops (`s.*`), the loops below, loads and stores.

- `k.parallel {axes, extents} () {...}`: the outer points, all independent; one a kernel, directly in its body.
- `k.sweep {axes, extents} () {...}`: an inner loop nest run for its stores; its iterations are independent.
- `k.reduce {axes, extents, kinds} () {... yield(v...)}`: folds the yielded values over the axes; one result a kind.
  Kinds: add mul max min and or. max and min give NaN when any element is NaN. The order of folding is free. Kind
  "argmax" ("argmin"; "argmax_last", "argmin_last") folds two yielded values, a key and an i64 position, into the key
  that wins and its position (first, or last, among equals; a NaN wins over all), and counts for two results.
  Positions grow in the order of the axes; of no elements the position is 0.
- `k.scan {axis, extent, kind, exclusive} () {... yield(v)} (%acc) {...}`: prefix fold along one axis in order; the
  second region runs for each position with the running value (before its own element when exclusive).
- `k.iterate(%init...) {axis, extent, conditional} (%carried...) {... yield(next...)}`: a loop in order, whose region
  takes the operands in the first iteration and what it yielded in the one before in all others. Iterations see what
  earlier ones stored. With `conditional` the first value is a bool: the loop ends where it is false. It is run for its
  stores, or for its results, which are what is carried when it ends.
- `k.load(%mem, %i0, ...) {index, where, other}`: the element at `index`, one dim a memory dim, over axis symbols, dim
  symbols, and `$0`, `$1` ... for the i64 operands after the memory. `where` is a list of [expr, low, high]: the load
  happens only if low <= expr < high for all of them and gives `other` elsewhere. Indices are in range wherever it
  happens.
- `k.store(%mem, %value, %i0, ...) {index, where, combine}`: the same for a store; `$0` is the operand after the value.
  `combine` None replaces; "add", "mul", "max", "min" fold into what is there (atomically where points may meet).
- `k.index(%i0, ...) {expr}`: the value of an index expression as i64.
- `k.require(%cond) {message}`: records an error of the run unless the condition holds; the kernel goes on.
- `k.contract {batch, m, n, k, accumulate}`: sum over the k axes of lhs * rhs, for each point of batch, m and n. Each
  of the four is a list of [axis, extent]; `accumulate` is the element type of the sum. Three regions: lhs (sees
  batch, m, k) and rhs (sees batch, n, k) yield one element each; the epilogue (sees batch, m, n) takes the sum as its
  argument and stores. Directly in the kernel's body and alone there.
  `winograd` is a list of [m axis, k axis]: along these the sum is Winograd's (`codegen/winograd.py`). Such a k axis
  runs over the m' + 2 inputs of m' results, rhs yields transformed weights, and lhs is seen where m' divides the m
  axis.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from onnxc.ir.core import Op
from onnxc.ir.dims import Dim, sym, symbols_of
from onnxc.ir.registry import REQUIRED, TypeInferenceError, register
from onnxc.ir.types import I64, Mem, Scalar, Type

REDUCE_KINDS = ("add", "mul", "max", "min", "and", "or")
ARG_KINDS = ("argmax", "argmin", "argmax_last", "argmin_last")


def _element(types: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    mem = types[0]
    if not isinstance(mem, Mem):
        raise TypeInferenceError(f"k.load reads memory, not {mem}")
    if len(attrs["index"]) != len(mem.shape):
        raise TypeInferenceError(f"an index of {len(attrs['index'])} dims into {mem}")
    return [Scalar(mem.dtype)]


def _store(types: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    mem, value = types[0], types[1]
    if not isinstance(mem, Mem) or value != Scalar(mem.dtype):
        raise TypeInferenceError(f"k.store of {value} into {mem}")
    if len(attrs["index"]) != len(mem.shape):
        raise TypeInferenceError(f"an index of {len(attrs['index'])} dims into {mem}")
    return []


# ---- what regions take and yield -----------------------------------------------------------------------------------
def region_faults(op: Op, i: int, args: Sequence[Type], yields: int | Sequence[Type]) -> Iterator[str]:
    """Faults of a region that has to take `args` and to yield scalars of the given types (or just so many)."""
    region = op.regions[i]
    taken = [a.type for a in region.args]
    if taken != list(args):
        yield f"region {i} of {op.name} takes ({', '.join(map(str, args))}), not ({', '.join(map(str, taken))})"
    given = [v.type for v in region.last.inputs] if region.last is not None and region.last.name == "yield" else []
    fits = len(given) == yields and all(isinstance(t, Scalar) for t in given) if isinstance(yields, int) \
        else given == list(yields)
    if not fits:
        wanted = f"{yields} scalars" if isinstance(yields, int) else f"({', '.join(map(str, yields))})"
        yield f"region {i} of {op.name} yields ({', '.join(map(str, given))}), not {wanted}"


def axes_faults(op: Op, axes: Any, extents: Any) -> Iterator[str]:
    """Faults of a list of axes, which are single symbols, each with an extent."""
    if not isinstance(axes, tuple) or not isinstance(extents, tuple) or len(axes) != len(extents):
        yield f"{op.name} needs as many extents as axes"
        return
    for axis, extent in zip(axes, extents, strict=True):
        if not isinstance(axis, Dim) or axis != sym(next(iter(sorted(symbols_of(axis))))):
            yield f"{axis} cannot be an axis of {op.name}, only a symbol can"
        if not isinstance(extent, (int, Dim)) or isinstance(extent, bool):
            yield f"{extent!r} is no extent of an axis of {op.name}"


def _loop(op: Op) -> Iterator[str]:
    yield from axes_faults(op, op.attrs["axes"], op.attrs["extents"])
    yield from region_faults(op, 0, (), ())


def _reduce(op: Op) -> Iterator[str]:
    yield from axes_faults(op, op.attrs["axes"], op.attrs["extents"])
    kinds: Any = op.attrs["kinds"]
    unknown = [k for k in kinds if k not in REDUCE_KINDS + ARG_KINDS]
    results = sum(2 if k in ARG_KINDS else 1 for k in kinds)
    if unknown or results != len(op.results):
        yield f"{op.name} of kinds {list(kinds)} has {len(op.results)} results, not {results}" if not unknown \
            else f"{op.name} has no kind '{unknown[0]}'; there are {', '.join(REDUCE_KINDS + ARG_KINDS)}"
    yield from region_faults(op, 0, (), [r.type for r in op.results])


def _scan(op: Op) -> Iterator[str]:
    yield from axes_faults(op, (op.attrs["axis"],), (op.attrs["extent"],))
    yield from region_faults(op, 0, (), 1)
    last = op.regions[0].last
    yield from region_faults(op, 1, [v.type for v in last.inputs] if last is not None else (), ())


def _iterate(op: Op) -> Iterator[str]:
    yield from axes_faults(op, (op.attrs["axis"],), (op.attrs["extent"],))
    carried = [v.type for v in op.inputs]
    yield from region_faults(op, 0, carried, carried)
    given = [r.type for r in op.results]
    if given and given != carried:
        yield f"{op.name} gives ({', '.join(map(str, given))}), not ({', '.join(map(str, carried))})"


def _contract(op: Op) -> Iterator[str]:
    for key in ("batch", "m", "n", "k"):
        pairs: Any = op.attrs[key]
        if not all(isinstance(p, tuple) and len(p) == 2 for p in pairs):
            yield f"'{key}' of {op.name} is a list of [axis, extent]"
        else:
            yield from axes_faults(op, tuple(p[0] for p in pairs), tuple(p[1] for p in pairs))
    winograd: Any = op.attrs["winograd"]
    for row, tap in winograd:
        if not all(axis in [a for a, _ in op.attr(key)] for axis, key in ((row, "m"), (tap, "k"))):
            yield f"'winograd' of {op.name} pairs an axis of m with one of k, not {row} with {tap}"
    yield from region_faults(op, 0, (), 1)
    yield from region_faults(op, 1, (), 1)
    yield from region_faults(op, 2, [Scalar(op.attrs["accumulate"])], ())  # type: ignore[arg-type]


register("k.parallel", "", "", attrs={"axes": REQUIRED, "extents": REQUIRED}, traits="loop", regions=1, check=_loop,
         doc="the outer points of a kernel")
register("k.sweep", "", "", attrs={"axes": REQUIRED, "extents": REQUIRED}, traits="loop", regions=1, check=_loop,
         doc="an inner loop run for its stores")
register("k.reduce", "", "results*", attrs={"axes": REQUIRED, "extents": REQUIRED, "kinds": REQUIRED},
         traits="pure loop", regions=1, check=_reduce, doc="fold yielded values over axes")
register("k.scan", "", "", attrs={"axis": REQUIRED, "extent": REQUIRED, "kind": "add", "exclusive": False},
         traits="loop", regions=2, check=_scan, doc="prefix fold along an axis")
register("k.iterate", "inits*", "results*", attrs={"axis": REQUIRED, "extent": REQUIRED, "conditional": False},
         traits="loop", regions=1, check=_iterate,
         doc="a loop in order that carries values from one iteration to the next")
register("k.load", "mem, indices*", attrs={"index": REQUIRED, "where": (), "other": 0}, traits="read", infer=_element,
         doc="read one element")
register("k.store", "mem, value, indices*", "", attrs={"index": REQUIRED, "where": (), "combine": None},
         traits="write", infer=_store, doc="write one element")
register("k.index", "indices*", attrs={"expr": REQUIRED}, traits="pure", infer=lambda types, attrs: [Scalar(I64)],
         doc="an index expression as a value")
register("k.require", "condition", "", attrs={"message": REQUIRED}, traits="write", infer=lambda types, attrs: [],
         doc="record an error unless the condition holds")
register("k.contract", "", "",
         attrs={"batch": (), "m": REQUIRED, "n": REQUIRED, "k": REQUIRED, "accumulate": REQUIRED, "winograd": ()},
         traits="loop",
         regions=3, check=_contract, doc="sum of products with loads, epilogue and stores given as regions")
