"""Contractions as plain loops, where the engine's tiles would stay nearly empty: a point an element of the result, and
a fold over k for each."""

from __future__ import annotations

from typing import cast

from onnxc.codegen.accesses import Accesses, linear_in
from onnxc.codegen.llvm.contract_form import Axes, axes_of, bytes_of, clone_region, contraction_of, extent_of, store_of
from onnxc.codegen.llvm.contract_plan import single_load
from onnxc.codegen.llvm.narrow import narrow_operand
from onnxc.codegen.llvm.schedule_contract import TILE_TYPES
from onnxc.codegen.llvm.target import Target
from onnxc.codegen.llvm.weights import weight
from onnxc.ir.core import Block, Func, Op, Value
from onnxc.ir.dims import sym, symbols_of
from onnxc.ir.types import DType, Scalar

__all__ = ["generic_form", "micro_kernel_pays"]


# The greatest extents at which plain loops won, with 16 lanes of f32 on Zen 4 (engine : loops, GFLOP/s): depthwise 3x3
# 2 : 36-41, products of 4096 rows with two columns 20 : 25-44 and with three 30 : 19-38, of 1000x1000 with depth 2, 4
# and 8 39 : 78, 49 : 58 and 70 : 43, of two rows and of four with 512 unpacked columns that lie along k 25 : 40 and
# 40 : 37. A packed right operand makes one row 46 : 38.
_NARROWEST, _SHALLOWEST, _SHORTEST = 3, 5, 3
_CHEAP = 8


def micro_kernel_pays(func: Func, target: Target, constant: frozenset[int] = frozenset()) -> bool:
    """Whether a contraction in normal form goes through the engine.

    It does not where no tile holds the accumulator's type. Nor does it where tiles stay nearly empty and plain loops do
    not repeat costly regions nor widen constants that tiles take as they are: results of one or two columns; sums of up
    to four products, with the right operand contiguous along n; and one or two rows, where the right operand would be
    packed for them alone.
    """
    op = contraction_of(func)
    accumulate = cast(DType, op.attrs["accumulate"])
    if accumulate.name not in TILE_TYPES:
        return False
    if not all(_is_cheap(region) for region in op.regions[:2]) or _packs_narrow(func, constant):
        return True
    height, columns, depth = (extent_of(axes_of(op, g)) for g in ("m", "n", "k"))
    if isinstance(columns, int) and columns < _NARROWEST:
        return False
    types = bytes_of(op)
    load = single_load(op.regions[1], types[1] if types else accumulate)
    along = load is not None and _runs_along(func, load, axes_of(op, "n"))
    if isinstance(depth, int) and depth < _SHALLOWEST and along:
        return False
    if isinstance(height, int) and height < _SHORTEST:
        packed = load is not None and load.operand(0) in func.args and func.args.index(load.operand(0)) in constant
        return packed or (along and height > 1)
    return True


def _packs_narrow(func: Func, constant: frozenset[int]) -> bool:
    """Whether the right operand is narrow weights that are known when compiling."""
    if narrow_operand(func) is None:
        return False
    read = {op.operand(0) for op in contraction_of(func).regions[1].ops if op.name == "k.load"}
    return all(v in func.args and func.args.index(v) in constant for v in read)


def _is_cheap(region: Block) -> bool:
    """Whether a region may be computed again for every element of the result."""
    return not any(op.regions for op in region.ops) and sum(map(weight, region.ops)) <= _CHEAP


def _runs_along(func: Func, load: Op, axes: Axes) -> bool:
    linear = linear_in(Accesses(func).flat(load), axes[0][0])
    return linear is not None and linear.stride == 1


def generic_form(func: Func) -> Func:
    """The kernel as k.parallel over batch, m and n, in the order of the result's memory where that is plain, around a
    k.reduce over k."""
    op = contraction_of(func)
    accumulate = cast(DType, op.attrs["accumulate"])
    attrs = {k: v for k, v in func.attrs.items() if k != "normal"}
    copy = Func(func.name, [a.type for a in func.args], [a.name for a in func.args], (), "kernel", attrs)
    values: dict[Value, Value] = dict(zip(func.args, copy.args, strict=True))
    body = Block()
    values[op.regions[2].args[0]] = _sum(op, body, values, accumulate)
    clone_region(op.regions[2], body, values=values)
    outer = _in_memory_order(func, op, [*axes_of(op, "batch"), *axes_of(op, "m"), *axes_of(op, "n")])
    copy.body.append(_loop("k.parallel", outer, (), body, {}))
    return copy


def _sum(op: Op, body: Block, values: dict[Value, Value], accumulate: DType) -> Value:
    k = axes_of(op, "k")
    inner = Block() if k else body
    factors = [clone_region(op.regions[i], inner, values=values)[0] for i in (0, 1)]
    element = inner.append(Op("s.mul", factors, [Scalar(accumulate)])).result
    if not k:
        return element
    inner.append(Op("yield", [element]))
    return body.append(_loop("k.reduce", k, (Scalar(accumulate),), inner, {"kinds": ("add",)})).result


def _loop(name: str, axes: Axes, types: tuple[Scalar, ...], block: Block, attrs: dict) -> Op:
    return Op(
        name,
        (),
        types,
        {"axes": tuple(sym(n) for n, _ in axes), "extents": tuple(e for _, e in axes), **attrs},
        [block],
    )


def _in_memory_order(func: Func, op: Op, axes: Axes) -> Axes:
    """The axes, with the one along which the result is contiguous last."""
    store = store_of(op)
    if store is None:
        return axes
    flat = Accesses(func).flat(store)
    last = [a for a in axes if a[0] in symbols_of(flat) and getattr(linear_in(flat, a[0]), "stride", None) == 1][-1:]
    return [a for a in axes if a not in last] + last
