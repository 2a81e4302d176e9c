"""Folding values: one step between two values, all of a tile's dim at once, and running folds along a dim.

A kind has one row: its step as text, which is also the body of the device function that `tl.reduce` and
`tl.associative_scan` take. Triton's own sums and maxima are not used: they widen small integers and lose NaN.
Sums of floats are taken in the order of a tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxc.codegen.triton.context import Context
from onnxc.codegen.triton.dtypes import literal, triton_name
from onnxc.codegen.triton.text import Val
from onnxc.ir.types import BOOL, I64, DType

__all__ = ["arg_step", "combine", "filled", "fold_arg", "fold_dims", "no_position", "running", "start"]

_STEPS = {
    ("add", "float"): "({0} + {1})", ("add", "int"): "({0} + {1})", ("mul", "float"): "({0} * {1})",
    ("mul", "int"): "({0} * {1})",
    ("max", "float"): "tl.maximum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)", ("max", "int"): "tl.maximum({0}, {1})",
    ("min", "float"): "tl.minimum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)", ("min", "int"): "tl.minimum({0}, {1})",
    ("and", "int"): "({0} & {1})", ("or", "int"): "({0} | {1})",
    ("and", "bool"): "({0} & {1})", ("or", "bool"): "({0} | {1})",
    ("max", "bool"): "({0} | {1})", ("min", "bool"): "({0} & {1})",
}


def _step(ctx: Context, kind: str, dtype: DType) -> str:
    family = "int" if dtype.is_integer else dtype.kind
    step = _STEPS.get((kind, family))
    if step is None or (dtype.is_float and dtype.bits < 32):
        raise ctx.unsupported(None, f"there is no fold '{kind}' of {dtype}")
    return step


def start(kind: str, dtype: DType) -> Any:
    """The value that a fold of this kind begins with (of the "arg" kinds, the key's)."""
    if kind in ("add", "or"):
        return False if dtype == BOOL else 0
    if kind == "mul":
        return 1
    if kind == "and":
        return True if dtype == BOOL else -1 if dtype.is_signed else 2**dtype.bits - 1
    lowest = kind == "max" or kind.startswith("argmax")
    if dtype.is_float:
        return float("-inf") if lowest else float("inf")
    if dtype == BOOL:
        return not lowest
    if not dtype.is_signed:
        return 0 if lowest else 2**dtype.bits - 1
    return -(2 ** (dtype.bits - 1)) if lowest else 2 ** (dtype.bits - 1) - 1


def combine(ctx: Context, kind: str, a: Val, b: Val) -> Val:
    """One step of a fold."""
    return ctx.let(_step(ctx, kind, a.dtype).format(a.text, b.text), a.dtype, a.dims | b.dims)


def _helper(ctx: Context, kind: str, dtype: DType) -> str:
    """The device function of one step; its text is defined ahead of the kernel."""
    family = "int" if dtype.is_integer else dtype.kind
    name = f"fold_{kind}_{family}"
    ctx.helpers[name] = f"def {name}(a, b):\n    return {_step(ctx, kind, dtype).format('a', 'b')}\n"
    return name


def fold_dims(ctx: Context, kind: str, v: Val, dims: Sequence[int]) -> Val:
    """Fold `v` along dims of the tile; a scalar when it varies along no other."""
    if not dims:
        return v
    name = _helper(ctx, kind, v.dtype)
    if v.dims <= frozenset(dims):
        return ctx.let(f"tl.reduce({v.text}, None, {name})", v.dtype)
    for d in sorted(dims, reverse=True):
        v = ctx.let(f"tl.reduce({v.text}, {d}, {name}, keep_dims=True)", v.dtype, v.dims - {d})
    return v


def running(ctx: Context, kind: str, v: Val, dim: int) -> Val:
    """The folds of `v` from the start of a dim up to each position."""
    return ctx.let(f"tl.associative_scan({v.text}, {dim}, {_helper(ctx, kind, v.dtype)})", v.dtype, v.dims)


# ---- a key with its position -------------------------------------------------------------------------------------
def _better(kind: str, dtype: DType) -> str:
    """The condition, over ka, pa, kb, pb, that a goes before b: NaN first, then the key, then the position."""
    beyond = ">" if kind.startswith("argmax") else "<"
    nearer = ">" if kind.endswith("_last") else "<"
    if dtype.is_float:
        ahead = f"((ka {beyond} kb) | ((ka != ka) & (kb == kb)))"
        level = "((ka == kb) | ((ka != ka) & (kb != kb)))"
    else:
        ahead, level = f"(ka {beyond} kb)", "(ka == kb)"
    return f"{ahead} | ({level} & (pa {nearer} pb))"


def _arg_helper(ctx: Context, kind: str, dtype: DType) -> str:
    name = f"fold_{kind}_{dtype.kind}"
    ctx.helpers[name] = (f"def {name}(ka, pa, kb, pb):\n    first = {_better(kind, dtype)}\n"
                         f"    return tl.where(first, ka, kb), tl.where(first, pa, pb)\n")
    return name


def arg_step(ctx: Context, kind: str, a: tuple[Val, Val], b: tuple[Val, Val]) -> tuple[Val, Val]:
    """The better of two pairs of key and position."""
    name = _arg_helper(ctx, kind, a[0].dtype)
    dims = a[0].dims | a[1].dims | b[0].dims | b[1].dims
    both = ctx.writer.let(f"{name}({a[0].text}, {a[1].text}, {b[0].text}, {b[1].text})")
    return ctx.let(f"{both}[0]", a[0].dtype, dims), ctx.let(f"{both}[1]", I64, dims)


def fold_arg(ctx: Context, kind: str, pair: tuple[Val, Val], dims: Sequence[int]) -> tuple[Val, Val]:
    """Fold pairs, which vary along the same dims, along some of the tile's."""
    key, at = pair
    name = _arg_helper(ctx, kind, key.dtype)
    rest = key.dims - frozenset(dims)
    steps = sorted(dims, reverse=True) if rest else [None] if dims else []
    for d in steps:
        kept = rest | frozenset(x for x in dims if d is not None and x < d)
        tail = ", keep_dims=True" if d is not None else ""
        both = ctx.writer.let(f"tl.reduce(({key.text}, {at.text}), {d}, {name}{tail})")
        key, at = ctx.let(f"{both}[0]", key.dtype, kept), ctx.let(f"{both}[1]", I64, kept)
    return key, at


def no_position(kind: str) -> int:
    """The position of a pair that loses against every other."""
    return -(2**63) if kind.endswith("_last") else 2**63 - 1


def filled(ctx: Context, value: Any, dtype: DType, dims: frozenset[int]) -> str:
    """The text of a tensor of one value, varying along `dims`; a scalar for none."""
    if not dims:
        return f"tl.full((), {literal(value, dtype)}, {triton_name(dtype)})"
    return f"tl.full({ctx.shape(dims)}, {literal(value, dtype)}, {triton_name(dtype)})"


