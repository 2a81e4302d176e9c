"""Loads, stores and recorded errors: addresses from index expressions, masks from block edges and from `where`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxc.codegen.accesses import recombine, row_major_strides
from onnxc.codegen.triton.context import Context
from onnxc.codegen.triton.dtypes import is_packed, literal, memory_type, triton_name
from onnxc.codegen.triton.folds import combine
from onnxc.codegen.triton.source import ERROR_LIMIT
from onnxc.codegen.triton.text import Dims, Val
from onnxc.ir.core import Op, Value
from onnxc.ir.dims import DimLike
from onnxc.ir.types import BOOL, I8, I32, I64, DType, Mem

__all__ = ["emit_index", "emit_load", "emit_require", "emit_store", "needs_order", "offset"]

_ATOMICS = {"add": ("i32", "u32", "i64", "u64", "f32", "f64", "f16"), "max": ("i32", "u32", "i64", "u64"),
            "min": ("i32", "u32", "i64", "u64")}


def needs_order(op: Op) -> bool:
    """Whether a store with `combine` needs its points run one after another: there is no atomic for it.

    Triton's own float max and min compare bit patterns, which loses NaN.
    """
    kind = op.attrs.get("combine")
    mem = op.operand(0).type
    return kind is not None and (not isinstance(mem, Mem) or mem.dtype.name not in _ATOMICS.get(str(kind), ()))


def _memory(ctx: Context, v: Value) -> tuple[str, Mem]:
    if v not in ctx.memory or not isinstance(v.type, Mem):
        raise ctx.unsupported(None, f"%{v.name} is not a memory argument")
    return ctx.memory[v], v.type


def offset(mem: Mem, index: Sequence[DimLike]) -> DimLike:
    """The row-major element offset of an index; what views through other shapes split is put together again."""
    total: DimLike = 0
    for at, stride in zip(index, row_major_strides(mem.shape), strict=True):
        total = total + at * stride
    return recombine(total)


def _attr_list(ctx: Context, op: Op, name: str) -> tuple[Any, ...]:
    value = op.attrs.get(name)
    if not isinstance(value, (tuple, list)):
        raise ctx.unsupported(op, f"attribute '{name}' is not a list")
    return tuple(value)


def _conditions(ctx: Context, op: Op, operands: Sequence[Val]) -> list[Val]:
    """The conditions of `where` that are not known to hold. Data is compared in 64 bits, before it is an offset."""
    out = []
    index, ctx.index = ctx.index, I64
    for expr, low, high in _attr_list(ctx, op, "where"):
        expr, low, high = (ctx.known(e) for e in (expr, low, high))
        for holds, left, right in ((ctx.nonneg(expr - low), low, expr), (ctx.less(expr, high), expr, high)):
            if not holds:
                a, b = ctx.dim(left, operands), ctx.dim(right, operands)
                sign = "<=" if right is expr else "<"
                out.append(_condition(ctx, f"{a.text} {sign} {b.text}", a, b))
    ctx.index = index
    return out


def _condition(ctx: Context, text: str, a: Val, b: Val) -> Val:
    if a.text.lstrip("-").isdigit() and b.text.lstrip("-").isdigit():      # Python would give a bool, not a tensor
        left, sign, right = text.split()
        return ctx.const(int(left) <= int(right) if sign == "<=" else int(left) < int(right), BOOL)
    return ctx.let(text, BOOL, a.dims | b.dims)


def _address(ctx: Context, mem: Value, index: Sequence[DimLike], operands: Sequence[Val], dims: Dims) -> Val:
    """The pointer at an index, varying along `dims` at least."""
    name, type = _memory(ctx, mem)
    parts = ctx.parts(offset(type, [ctx.known(i) for i in index]), operands)
    varies: Dims = frozenset().union(*(p.dims for p in parts))
    pointer = Val(" + ".join([name, *(p.text for p in parts)]), memory_type(type.dtype), varies)
    if dims <= varies:
        return pointer
    return Val(f"tl.broadcast_to({pointer.text}, {ctx.shape(varies | dims)})", pointer.dtype, varies | dims)


def emit_load(ctx: Context, op: Op) -> None:
    """Emit a `k.load` and bind its value."""
    mem, operands = op.operand(0), [ctx.get(v) for v in op.inputs[1:]]
    type = _memory(ctx, mem)[1]
    if is_packed(type.dtype):
        ctx.values[op.result] = _load_packed(ctx, op, mem, type, operands)
        return
    conditions = _conditions(ctx, op, operands)
    varies: Dims = frozenset().union(*(c.dims for c in conditions))
    pointer = _address(ctx, mem, _attr_list(ctx, op, "index"), operands, varies)
    stored = memory_type(type.dtype)
    value = _read(ctx, mem, pointer, conditions, literal(op.attrs["other"], stored), stored)
    if type.dtype == BOOL:
        value = ctx.let(f"{value.text} != 0", BOOL, value.dims)
    ctx.values[op.result] = value


def _read(ctx: Context, mem: Value, pointer: Val, conditions: Sequence[Val], other: str, dtype: DType) -> Val:
    """Load through a pointer, where the block is inside and the conditions hold."""
    if mem in ctx.dirty or (mem in ctx.written and ctx.writer.depth):
        ctx.writer.line("tl.debug_barrier()")               # other threads of the program stored what is read here
        ctx.dirty.clear()
    mask = ctx.both([*ctx.inside(pointer.dims), *conditions])
    guarded = f", mask={mask.text}, other={other}" if mask is not None else ""
    return ctx.let(f"tl.load({pointer.text}{guarded})", dtype, pointer.dims, share=mem not in ctx.written)


def _load_packed(ctx: Context, op: Op, mem: Value, type: Mem, operands: list[Val]) -> Val:
    """An element of less than a byte: the byte that holds it, then its bits, the first element lowest."""
    dtype = type.dtype
    if not dtype.is_integer:
        raise ctx.unsupported(op, f"loads of {dtype} have no Triton form")
    per_byte = 8 // dtype.bits
    at = ctx.dim(offset(type, [ctx.known(i) for i in _attr_list(ctx, op, "index")]), operands)
    byte = ctx.let(f"{at.text} // {per_byte}", ctx.index, at.dims)
    shift = ctx.let(f"({at.text} % {per_byte}) * {dtype.bits}", ctx.index, at.dims)
    conditions = _conditions(ctx, op, operands)
    varies: Dims = frozenset().union(at.dims, *(c.dims for c in conditions))
    pointer = ctx.spread(Val(f"{_memory(ctx, mem)[0]} + {byte.text}", I8, at.dims), varies)
    raw = _read(ctx, mem, pointer, conditions, "0", I8)
    bits = ctx.let(f"({raw.text}.to({triton_name(I32)}) >> {shift.text}.to({triton_name(I32)}))", I32, raw.dims)
    top = 32 - dtype.bits
    wide = f"(({bits.text} << {top}) >> {top})" if dtype.is_signed else f"({bits.text} & {(1 << dtype.bits) - 1})"
    value = ctx.let(f"{wide}.to({triton_name(I8)})", I8, raw.dims)
    mask = ctx.both(conditions)
    if mask is None or not op.attrs["other"]:
        return value
    return ctx.let(f"tl.where({mask.text}, {value.text}, {ctx.const(op.attrs['other'], I8).text})", I8, value.dims)


def emit_store(ctx: Context, op: Op) -> None:
    """Emit a `k.store`."""
    mem, value, operands = op.operand(0), ctx.get(op.operand(1)), [ctx.get(v) for v in op.inputs[2:]]
    type = _memory(ctx, mem)[1]
    if is_packed(type.dtype):
        raise ctx.unsupported(op, f"stores of {type.dtype}, whose elements share bytes, have no Triton form")
    conditions = _conditions(ctx, op, operands)
    kind = None if op.attrs.get("combine") is None else str(op.attrs["combine"])
    varies: Dims = frozenset().union(value.dims, *(c.dims for c in conditions))
    if kind is not None:
        varies |= frozenset(d for d, b in enumerate(ctx.blocks) if b > 1)   # every point counts, not every place
    pointer = _address(ctx, mem, _attr_list(ctx, op, "index"), operands, varies)
    outside = frozenset(d for d in range(len(ctx.blocks)) if ctx.blocks[d] > 1) - pointer.dims
    mask = ctx.both([*ctx.inside(pointer.dims), *conditions, *_running(ctx, outside)])
    if type.dtype == BOOL:
        value = ctx.let(f"{value.text}.to({triton_name(I8)})", I8, value.dims)
    if kind is not None and ctx.serial:
        _combine_serially(ctx, kind, pointer, value, mask)
    elif kind is not None:
        wide = ctx.spread(value, pointer.dims)
        guarded = f", mask={mask.text}" if mask is not None else ""
        ctx.writer.line(f'tl.atomic_{kind}({pointer.text}, {wide.text}{guarded}, sem="relaxed")')
    else:
        guarded = f", mask={mask.text}" if mask is not None else ""
        ctx.writer.line(f"tl.store({pointer.text}, {value.text}{guarded})")
    ctx.dirty.add(mem)


def _running(ctx: Context, dims: Dims) -> list[Val]:
    """Scalar conditions that the loops along `dims` run at all, for a store that does not vary along them."""
    out = []
    for axis, extent in ctx.extents.items():
        held = ctx.axes[axis]
        if isinstance(held, Val) and held.dims & dims and not (isinstance(extent, int) and extent > 0):
            size = ctx.dim(extent)
            out.append(ctx.let(f"{size.text} > 0", BOOL))
    return out


def _combine_serially(ctx: Context, kind: str, pointer: Val, value: Val, mask: Val | None) -> None:
    """Read, fold and write in one thread's order: the program runs its points one after another."""
    guarded = f", mask={mask.text}" if mask is not None else ""
    ctx.writer.line("tl.debug_barrier()")
    before = ctx.let(f"tl.load({pointer.text}{guarded})", value.dtype, pointer.dims, share=False)
    after = combine(ctx, kind, before, value)
    ctx.writer.line(f"tl.store({pointer.text}, {after.text}{guarded})")
    ctx.writer.line("tl.debug_barrier()")


def emit_index(ctx: Context, op: Op) -> None:
    """Emit a `k.index`: the expression's value in i64, whatever offsets are computed in."""
    index, ctx.index = ctx.index, I64
    v = ctx.dim(op.attrs["expr"], [ctx.get(o) for o in op.inputs])  # type: ignore[arg-type]
    ctx.index = index
    if v.text.lstrip("-").isdigit():
        ctx.values[op.result] = ctx.const(int(v.text), I64)
    else:
        ctx.values[op.result] = ctx.let(f"{v.text}.to({triton_name(I64)})", I64, v.dims)


def emit_require(ctx: Context, op: Op) -> None:
    """Emit a `k.require`: a lane that fails puts the message's code into the error word; the smallest code stays."""
    message = str(op.attrs["message"])
    if message not in ctx.errors:
        ctx.errors.append(message)
    code = ctx.errors.index(message)
    holds = ctx.get(op.operand(0))
    fails = ctx.let(f"{holds.text} == 0", BOOL, holds.dims)
    blocked = frozenset(d for d, b in enumerate(ctx.blocks) if b > 1)
    mask = ctx.both([fails, *ctx.inside(holds.dims), *_running(ctx, blocked - holds.dims)]) or fails
    any_lane = f"tl.max({mask.text}.to(tl.int32), axis=None)" if mask.dims else f"{mask.text}.to(tl.int32)"
    hit = ctx.let(any_lane, I32)
    word = ctx.let(f"{ERROR_LIMIT - code} - error_base", I32)
    ctx.writer.line(f'tl.atomic_max(error, {word.text}, mask={hit.text} > 0, sem="relaxed")')


