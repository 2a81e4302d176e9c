"""Right operands of contractions that are stored narrower than they are multiplied: (code - zero) * scale.

The codes are one to a (k, n); zero points and scales, where there are any, are shared by `block` steps of k. This file
finds that form in the region of an operand, and says where packed panels of it hold what: codes as
[panels, groups, columns, group], where a group is as many steps as fill 32 bits, so that one vector of 32-bit lanes
holds them for as many columns; scales and zero points as [panels, blocks, columns].
"""

from __future__ import annotations

import dataclasses
import math
from typing import cast

from onnxc.codegen.accesses import Accesses, linear_in
from onnxc.codegen.llvm.contract_form import axes_of, contraction_of
from onnxc.ir.core import Func, Op, Value
from onnxc.ir.dims import Bounds, Dim, DimLike, floordiv, mod, simplify, substitute, sym, symbols_of
from onnxc.ir.types import F32, I32, DType, Mem, Scalar, dtype_named

__all__ = ["Narrow", "code_index", "group_of", "narrow_operand", "parameter_index", "stored_type"]

_WORD = 32
_STORED = {"u2": "i2", "i2": "i2", "u4": "i4", "i4": "i4", "u8": "i8", "i8": "i8", "f16": "f16", "bf16": "bf16"}
_MANY_ROWS = 64         # of a product that always has more, reading floats of 16 bits saves nothing and widening costs


@dataclasses.dataclass(frozen=True)
class Narrow:
    """An operand (codes - zero) * scale: the load of the codes, and values of its region; no zero and no scale are 0
    and 1. `block` steps of k share them."""

    codes: Op
    zero: Value | None
    scale: Value | None
    block: int

    @property
    def dtype(self) -> DType:
        """The codes' type."""
        return cast(Mem, self.codes.operand(0).type).dtype


def stored_type(dtype: DType) -> DType:
    """The type that codes have in panels: signed, so that widening is one way and zero points are small; floats of 16
    bits are their own codes."""
    return dtype_named(_STORED[dtype.name])


def group_of(dtype: DType) -> int:
    """Steps of k whose codes lie together."""
    return _WORD // dtype.bits if dtype.bits < 8 else 1


def code_index(n: DimLike, k: DimLike, columns: int, group: int) -> tuple[DimLike, ...]:
    """Where packed codes [panels, groups, columns, group] hold the one for (k, n)."""
    return floordiv(n, columns), floordiv(k, group), mod(n, columns), mod(k, group)


def parameter_index(n: DimLike, k: DimLike, columns: int, block: int) -> tuple[DimLike, ...]:
    """Where packed scales or zero points [panels, blocks, columns] hold the one for (k, n)."""
    return floordiv(n, columns), floordiv(k, block), mod(n, columns)


def narrow_operand(func: Func) -> Narrow | None:
    """The right operand of a contraction in normal form, if it is of the form above with known extents."""
    op = contraction_of(func)
    k, n = axes_of(op, "k"), axes_of(op, "n")
    if op.attrs["accumulate"] != F32 or axes_of(op, "batch") or len(k) != 1 or len(n) != 1:
        return None
    (along, depth), (_, width) = k[0], n[0]
    region = op.regions[1]
    if not isinstance(depth, int) or not isinstance(width, int) or any(
            inner.regions or inner.name == "k.index" for inner in region.ops):
        return None
    found = _Reader(func, op, along, depth).narrow()
    return None if found is not None and found.dtype.is_float and not _takes_halves(found, op) else found


def _takes_halves(found: Narrow, op: Op) -> bool:
    """Whether floats of 16 bits are worth widening as they are read: plain ones, of products that may have few rows."""
    rows = math.prod(extent for _, extent in axes_of(op, "m") if isinstance(extent, int))
    return found.scale is None and found.zero is None and rows <= _MANY_ROWS


class _Reader:
    def __init__(self, func: Func, op: Op, along: str, depth: int) -> None:
        self.accesses, self.along, self.depth = Accesses(func), along, depth
        self.region = op.regions[1]
        self.loads = [inner for inner in self.region.ops if inner.name == "k.load"]

    def narrow(self) -> Narrow | None:
        if any(len(x.operands) != 1 or self.accesses.conditions(x) for x in self.loads):
            return None
        fine = [x for x in self.loads if self.shared(x) == 1]
        if len(fine) != 1 or cast(Mem, fine[0].operand(0).type).dtype.name not in _STORED:
            return None
        blocks = [n for n in (self.shared(x) for x in self.loads if x is not fine[0]) if n < self.depth]
        return self.match(fine[0], math.gcd(*blocks) if blocks else self.depth)

    def match(self, codes: Op, block: int) -> Narrow | None:
        """Scale and zero point around the codes, which nothing but casts may stand between."""
        varying = self.made_of(codes)
        v: Value | None = self.region.terminator.operand(0)
        scale = zero = None
        if v is not None and v.op is not None and v.op.name == "s.mul":
            v, scale = self.split(v.op, varying)
        if v is not None and v.op is not None and v.op.name == "s.cast" and v.type == Scalar(F32):
            v = self.uncast(v)
        # A difference in the codes' own type wraps around.
        if v is not None and v.op is not None and v.op.name == "s.sub" and v.op.operand(0) in varying and _is_wide(v):
            v, zero = self.split(v.op, varying)
        while v is not None and v is not codes.result:
            v = self.uncast(v)
        return None if v is None else Narrow(codes, zero, scale, block)

    def uncast(self, v: Value) -> Value | None:
        return v.op.operand(0) if v.op is not None and v.op.name == "s.cast" and _is_wide(v) else None

    def split(self, op: Op, varying: set[Value]) -> tuple[Value | None, Value | None]:
        """The operand that the codes are in, and the other one."""
        a, b = op.operand(0), op.operand(1)
        if (a in varying) == (b in varying):
            return None, None
        return (a, b) if a in varying else (b, a)

    def made_of(self, codes: Op) -> set[Value]:
        """The values of the region that are computed from the codes."""
        found: set[Value] = {codes.result}
        for op in self.region.ops:
            if any(v in found for v in op.inputs):
                found.update(op.results)
        return found

    def shared(self, load: Op) -> int:
        """How many neighbouring steps of k read one element; all of them where k does not matter."""
        flat = self.accesses.flat(load)
        if self.along not in symbols_of(flat):
            return self.depth
        step, inside = "block.", "inside."
        for size in sorted(_divisors(flat, self.along), reverse=True):
            bounds = Bounds({inside: size - 1})
            moved = simplify(substitute(flat, {self.along: sym(step) * size + sym(inside)}), bounds)
            if inside not in symbols_of(moved) and linear_in(moved, step) is not None:
                return size
        return 1


def _is_wide(v: Value) -> bool:
    return isinstance(v.type, Scalar) and v.type.dtype in (F32, I32)


def _divisors(d: DimLike, axis: str) -> set[int]:
    """The constants that expressions of `axis` are divided by somewhere in `d`."""
    found: set[int] = set()
    if isinstance(d, Dim):
        for atoms, _ in d.terms:
            for atom in atoms:
                if isinstance(atom, str):
                    continue
                numerator, *rest = atom.args
                found |= _divisors(numerator, axis)
                if atom.fn == "floordiv" and rest and isinstance(rest[0], int) and axis in symbols_of(numerator):
                    found.add(rest[0])
    return {size for size in found if size > 1}
