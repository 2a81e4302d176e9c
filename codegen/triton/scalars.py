"""Scalar ops in Triton's text, from the one scalar table: its Triton column, or its expansion.

Arithmetic is written between named, typed values, so that Triton's own promotion rules never decide a type.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxc.codegen.triton.context import Context
from onnxc.codegen.triton.dtypes import register_type, triton_name
from onnxc.codegen.triton.text import Dims, Val
from onnxc.ir.core import Op
from onnxc.ir.types import BOOL, F32, I8, I32, DType, Scalar
from onnxc.ops.scalar import SCALARS, ScalarOp, column, result_dtype

__all__ = ["cast", "emit_scalar"]


def emit_scalar(ctx: Context, op: Op) -> None:
    """Emit an `s.*` op and bind its result."""
    operands = [ctx.get(v) for v in op.inputs]
    wanted = op.result.type.dtype if isinstance(op.result.type, Scalar) else F32
    if op.name == "s.const":
        value = ctx.const(op.attrs["value"], register_type(wanted))
    elif op.name == "s.cast":
        value = cast(ctx, operands[0], wanted, bool(op.attrs.get("saturate", True)), op)
    elif op.name == "s.bitcast":
        value = _bitcast(ctx, operands[0], wanted)
    else:
        row = SCALARS.get(op.name.removeprefix("s."))
        if row is None:
            raise ctx.unsupported(op, "it is not in the scalar table")
        value = _apply(ctx, row, operands, op)
    ctx.values[op.result] = value


class _Expander:
    """Builds an expansion out of Triton text; what `onnxc.ops.scalar.Expander` promises. Its values are `Val`s."""

    def __init__(self, ctx: Context, dtype: DType, op: Op) -> None:
        self.ctx, self.dtype, self.op = ctx, dtype, op

    def __call__(self, name: str, *args: Val) -> Val:
        return _apply(self.ctx, SCALARS[name], args, self.op)

    def const(self, value: float | int | bool, dtype: DType | None = None) -> Val:
        return self.ctx.const(value, dtype or self.dtype)

    def cast(self, value: Val, to: DType) -> Val:
        return cast(self.ctx, value, to)

    def bitcast(self, value: Val, to: DType) -> Val:
        return _bitcast(self.ctx, value, to)


def _dims(values: Sequence[Val]) -> Dims:
    return frozenset().union(*(v.dims for v in values))


def _apply(ctx: Context, row: ScalarOp, operands: Sequence[Val], op: Op) -> Val:
    """One row of the table on values."""
    if len(operands) != row.arity:
        raise ctx.unsupported(op, f"{row.name} takes {row.arity} operands, not {len(operands)}")
    dtype = operands[-1].dtype
    form = column(row.triton, dtype)
    if form is not None:
        result = result_dtype(row, [v.dtype for v in operands])
        return ctx.let(form.format(*(v.text for v in operands)), result, _dims(operands))
    if row.expand is not None:
        return row.expand(_Expander(ctx, dtype, op), *operands)
    raise ctx.unsupported(op, f"{row.name} of {dtype} has no Triton form")


def _to(ctx: Context, v: Val, dtype: DType) -> Val:
    """Triton's own conversion."""
    return v if v.dtype == dtype else ctx.let(f"{v.text}.to({triton_name(dtype)})", dtype, v.dims)


def _bitcast(ctx: Context, v: Val, to: DType) -> Val:
    return v if v.dtype == to else ctx.let(f"{v.text}.to({triton_name(to)}, bitcast=True)", to, v.dims)


def cast(ctx: Context, v: Val, to: DType, saturate: bool = True, op: Op | None = None) -> Val:
    """`v` as an element of type `to`, by the rules of `s.cast`."""
    source = v.dtype
    if source == to:
        return v
    if to == BOOL:
        wide = _to(ctx, v, F32) if source.is_float and source.bits < 32 else v
        return ctx.let(f"{wide.text} != {ctx.const(0, wide.dtype).text}", BOOL, v.dims)
    if to.bits < 8 and to.is_integer:
        return _narrow(ctx, cast(ctx, v, I32), to)
    if source.is_float and to.is_integer:
        return _float_to_int(ctx, v, to)
    if source.is_float and to.is_float:
        return _float_to_float(ctx, v, to, saturate, op)
    if to.is_float and to.bits < 32:
        return _float_to_float(ctx, _to(ctx, v, F32), to, saturate, op)
    return _to(ctx, v, to)


def _float_to_float(ctx: Context, v: Val, to: DType, saturate: bool, op: Op | None) -> Val:
    """Nearest even. Types of 8 bits are reached from f32, and f32 from them; their conversion saturates."""
    if to.bits == 8 and not saturate:
        raise ctx.unsupported(op, f"a cast to {to} that does not saturate has no Triton form")
    small = v.dtype.bits < 32 and to.bits < 32 or 8 in (v.dtype.bits, to.bits) or {v.dtype.bits, to.bits} == {16, 64}
    if small and v.dtype.bits != 32 and to.bits != 32:
        v = _to(ctx, v, F32)
    return _to(ctx, v, to)


def _float_to_int(ctx: Context, v: Val, to: DType) -> Val:
    """Truncation; what is out of range, and NaN, gives the least value. Types below 32 bits wrap from i32."""
    wide = _to(ctx, v, F32) if v.dtype.bits < 32 else v
    target = to if to.bits >= 32 else I32
    low, high = (-2 ** (target.bits - 1), 2 ** (target.bits - 1)) if target.is_signed else (0, 2 ** target.bits)
    least, below = ctx.const(low, target), ctx.const(float(low), wide.dtype)
    above = ctx.const(float(high), wide.dtype)
    fits = ctx.let(f"({wide.text} >= {below.text}) & ({wide.text} < {above.text})", BOOL, v.dims)
    safe = ctx.let(f"tl.where({fits.text}, {wide.text}, {ctx.const(0.0, wide.dtype).text})", wide.dtype, v.dims)
    number = ctx.let(f"tl.where({fits.text}, {safe.text}.to({triton_name(target)}), {least.text})", target, v.dims)
    return _to(ctx, number, to)


def _narrow(ctx: Context, v: Val, to: DType) -> Val:
    """Wrap an i32 to an integer of less than a byte, held in `register_type`."""
    shift = ctx.const(32 - to.bits, I32)
    held = ctx.const((1 << to.bits) - 1, I32)
    text = f"({v.text} << {shift.text}) >> {shift.text}" if to.is_signed else f"{v.text} & {held.text}"
    return _to(ctx, ctx.let(text, I32, v.dims), I8)


