"""Scalar ops (`s.*`) as LLVM values: elements or vectors of elements, from the table in `onnxc.ops.scalar`.

In registers an f32, f64 or integer is itself, a bool is an i1, and every type that arithmetic is not done in (f16,
bf16, f8, sub-byte) is an integer holding its bits (sub-byte integers: its value, extended to i8).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from onnxc.codegen.llvm.abi import I1, KernelError
from onnxc.codegen.llvm.casts import cast_value
from onnxc.codegen.llvm.dims import constant, widen
from onnxc.codegen.llvm.intrinsics import intrinsic
from onnxc.codegen.llvm.machine import machine_op
from onnxc.codegen.llvm.registers import Element, const, register_type, with_lanes
from onnxc.codegen.llvm.target import Target
from onnxc.ir.types import DType
from onnxc.ops.scalar import SCALARS, ScalarOp, column, result_dtype

__all__ = ["Scalars"]

_SIGNS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


@dataclasses.dataclass(frozen=True)
class Scalars:
    """Emits scalar ops at `builder`. `contract` lets LLVM fuse a multiplication and an addition into one rounding."""

    builder: ir.IRBuilder
    target: Target

    def apply(self, name: str, args: Sequence[Element], contract: bool = True) -> Element:
        """The scalar op `name` of the table; scalars are broadcast to the lanes of vectors."""
        row = SCALARS.get(name)
        if row is None:
            raise KernelError(f"s.{name} is no row of the scalar table")
        out = result_dtype(row, [a.dtype for a in args])
        operand = args[-1].dtype
        machine = machine_op(name, args[0].value.type, self.target)
        if machine is not None:
            return Element(machine(self.builder, *widen(self.builder, [a.value for a in args])), out)
        text = column(row.llvm, operand)
        if text is not None:
            return Element(self._column(row, text, args, contract), out)
        if row.expand is None:
            raise KernelError(f"s.{name} of {operand} has neither an LLVM column nor an expansion")
        return row.expand(_Expansion(self, operand), *args)

    def cast(self, value: Element, to: DType, saturate: bool = True) -> Element:
        """`s.cast`."""
        return cast_value(self.builder, self.target, value, to, saturate)

    def bitcast(self, value: Element, to: DType) -> Element:
        """The same bits as a type of the same width."""
        type = with_lanes(register_type(to), value.lanes)
        return Element(value.value if value.value.type == type else self.builder.bitcast(value.value, type), to)

    def select(self, condition: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
        """Lanes of `a` where `condition`, of `b` elsewhere; a scalar condition chooses whole vectors."""
        if isinstance(condition.type, ir.VectorType):
            condition, a, b = widen(self.builder, [condition, a, b])
        else:
            a, b = widen(self.builder, [a, b])
        return self.builder.select(condition, a, b)

    def _column(self, row: ScalarOp, text: str, args: Sequence[Element], contract: bool) -> ir.Value:
        if row.rule == "select":
            return self.select(*(a.value for a in args))
        values = widen(self.builder, [a.value for a in args])
        word, _, predicate = text.partition(" ")
        if word == "fcmp":
            return self._fcmp(predicate, *values)
        if word == "icmp":
            return self._icmp(predicate, *values)
        if word.startswith("@"):
            return self._intrinsic(word[1:], values)
        flags = {"flags": ("contract",)} if contract and word in ("fadd", "fsub", "fmul") else {}
        return getattr(self.builder, {"and": "and_", "or": "or_"}.get(word, word))(*values, **flags)

    def _fcmp(self, predicate: str, a: ir.Value, b: ir.Value) -> ir.Value:
        if predicate in ("uno", "ord"):
            return (self.builder.fcmp_unordered if predicate == "uno" else self.builder.fcmp_ordered)(predicate, a, b)
        compare = self.builder.fcmp_ordered if predicate[0] == "o" else self.builder.fcmp_unordered
        return compare(_SIGNS[predicate[1:]], a, b)

    def _icmp(self, predicate: str, a: ir.Value, b: ir.Value) -> ir.Value:
        compare = self.builder.icmp_signed if predicate[0] == "s" else self.builder.icmp_unsigned
        return compare(_SIGNS[predicate if predicate in _SIGNS else predicate[1:]], a, b)

    def _intrinsic(self, name: str, values: Sequence[ir.Value]) -> ir.Value:
        type = values[0].type
        args = list(values)
        if name == "llvm.fma" and not self.target.features & {"fma", "fma4", "neon"}:
            return self._fused(*values)
        if name in ("llvm.abs", "llvm.ctlz", "llvm.cttz"):
            args.append(ir.Constant(I1, 0))
        return self.builder.call(intrinsic(self.builder.module, name, [type], type, [a.type for a in args]), args)

    def _fused(self, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
        """x*y + z where the target has no such instruction (LLVM would call libm for each element): for f32 in f64,
        where the product is exact; for f64 with the errors of product and sum added back."""
        b = self.builder
        lanes = x.type.count if isinstance(x.type, ir.VectorType) else 1
        if x.type == with_lanes(ir.FloatType(), lanes):
            x, y, z = (b.fpext(v, with_lanes(ir.DoubleType(), lanes)) for v in (x, y, z))
            return b.fptrunc(b.fadd(b.fmul(x, y), z), with_lanes(ir.FloatType(), lanes))
        product = b.fmul(x, y)
        total = b.fadd(product, z)
        back = b.fsub(total, product)
        lost = b.fadd(b.fsub(product, b.fsub(total, back)), b.fsub(z, back))
        exact = b.fadd(total, b.fadd(lost, self._product_error(x, y, product)))
        finite = b.fcmp_ordered("ord", b.fsub(exact, exact), exact)         # infinities and NaN are right already
        return b.select(finite, exact, total)

    def _product_error(self, x: ir.Value, y: ir.Value, product: ir.Value) -> ir.Value:
        """x*y - product, by splitting the factors into halves whose products are exact (Dekker)."""
        b = self.builder
        (x1, x0), (y1, y0) = self._halves(x), self._halves(y)
        error = b.fsub(b.fmul(x1, y1), product)
        error = b.fadd(b.fadd(error, b.fmul(x1, y0)), b.fmul(x0, y1))
        return b.fadd(error, b.fmul(x0, y0))

    def _halves(self, x: ir.Value) -> tuple[ir.Value, ir.Value]:
        """An f64 as its leading 26 bits and the rest."""
        b = self.builder
        bits = with_lanes(ir.IntType(64), x.type.count if isinstance(x.type, ir.VectorType) else 1)
        head = b.bitcast(b.and_(b.bitcast(x, bits), constant(-1 << 27, bits)), x.type)
        return head, b.fsub(x, head)


class _Expansion:
    """The `Expander` of the scalar table over LLVM values."""

    def __init__(self, scalars: Scalars, dtype: DType) -> None:
        self.scalars, self.dtype = scalars, dtype

    def __call__(self, name: str, *args: Any) -> Element:
        return self.scalars.apply(name, args, contract=False)

    def const(self, value: float | int | bool, dtype: DType | None = None) -> Element:
        return const(value, dtype or self.dtype)

    def cast(self, value: Element, to: DType) -> Element:
        return self.scalars.cast(value, to)

    def bitcast(self, value: Element, to: DType) -> Element:
        return self.scalars.bitcast(value, to)

    def rarely(self, condition: Element, then: Callable[[], Sequence[Element]],
               otherwise: Sequence[Element]) -> list[Element]:
        """`then` where the condition holds; its code is skipped where no lane needs it."""
        b = self.scalars.builder
        some, *defaults = widen(b, [condition.value, *(o.value for o in otherwise)])
        before = b.block
        if isinstance(some.type, ir.VectorType):
            some = b.call(intrinsic(b.module, "llvm.vector.reduce.or", [some.type], I1, [some.type]), [some])
        with b.if_then(some, likely=False):
            chosen = [self.scalars.select(condition.value, a.value, d)
                      for a, d in zip(then(), defaults, strict=True)]
            inside = b.block
        merged = []
        for value, default, like in zip(chosen, defaults, otherwise, strict=True):
            phi = b.phi(default.type)
            phi.add_incoming(value, inside)
            phi.add_incoming(default, before)
            merged.append(Element(phi, like.dtype))
        return merged
