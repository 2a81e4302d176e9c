"""Scalar ops that a target has an instruction for which LLVM does not form by itself."""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from onnxc.codegen.llvm.dims import constant
from onnxc.codegen.llvm.target import Target

__all__ = ["machine_op"]

_I32 = ir.IntType(32)
_CURRENT_ROUNDING = 4
Emit = Callable[[ir.IRBuilder, ir.Value, ir.Value], ir.Value]


def machine_op(name: str, type: ir.Type, target: Target) -> Emit | None:
    """How to emit the row `name` on vectors of `type` with an instruction of its own; None where there is none."""
    if name != "ldexp" or not isinstance(type, ir.VectorType) or target.vector_bytes != 64:
        return None
    bits = {ir.FloatType(): 32, ir.DoubleType(): 64}.get(type.element)
    return _scale if bits is not None and type.count * bits % 512 == 0 else None


def _scale(b: ir.IRBuilder, x: ir.Value, n: ir.Value) -> ir.Value:
    """x * 2**n for whole n, rounded once: vscalef, register by register."""
    single = x.type.element == ir.FloatType()
    lanes = 16 if single else 8
    vector = ir.VectorType(x.type.element, lanes)
    mask = ir.IntType(lanes)
    name = f"llvm.x86.avx512.mask.scalef.{'ps' if single else 'pd'}.512"
    function = b.module.globals.get(name) or ir.Function(
        b.module, ir.FunctionType(vector, [vector, vector, vector, mask, _I32]), name)
    rounding = constant(_CURRENT_ROUNDING, _I32)
    parts = []
    for at in range(0, x.type.count, lanes):
        piece = [_slice(b, v, at, lanes) for v in (x, n)]
        parts.append(b.call(function, [*piece, ir.Constant(vector, None), constant(-1, mask), rounding]))
    return _joined(b, parts)


def _slice(b: ir.IRBuilder, v: ir.Value, at: int, lanes: int) -> ir.Value:
    if v.type.count == lanes:
        return v
    wanted = ir.Constant(ir.VectorType(_I32, lanes), [ir.Constant(_I32, at + i) for i in range(lanes)])
    return b.shuffle_vector(v, ir.Constant(v.type, ir.Undefined), wanted)


def _joined(b: ir.IRBuilder, parts: list[ir.Value]) -> ir.Value:
    while len(parts) > 1:
        lanes = 2 * parts[0].type.count
        order = ir.Constant(ir.VectorType(_I32, lanes), [ir.Constant(_I32, i) for i in range(lanes)])
        parts = [b.shuffle_vector(a, c, order) for a, c in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]
