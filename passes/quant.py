"""The passes `narrow-contracts` and `requantise`: contractions of dequantised values become contractions of the bytes
themselves, and what is done to their sums between two layers becomes one scale and one shift.

With a = s * (p - y) and b = t * (q - z) for bytes p, q, scales s, t and zero points y, z,

    sum a*b = s*t * (sum p*q - y * sum q - z * sum p + n*y*z)

where n is the number of products. The sums are integers and exact (modulo 2**32, as the sum of 32-bit products is);
sums of constants are folded; zero points of constants are taken off them where the result still fits a byte. Results
differ from those of dequantised floats by the rounding that those suffer.

Owns no kernel: how bytes are multiplied is the target's.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from onnxc.ir.core import Module, Op, Value
from onnxc.ir.dims import product
from onnxc.ir.registry import lookup
from onnxc.ir.rewrite import Fuel, Match, RewriteLog, RuleSet, rewrite_graphs, rule
from onnxc.ir.types import F32, I8, I32, U8
from onnxc.ops.fold import ContractSpec, parse_spec
from onnxc.passes.canonicalize import dims, scalar_constant
from onnxc.passes.fold import evaluated

__all__ = ["Quantised", "narrow_contracts", "quantised", "requantise"]

_VIEWS = ("t.transpose", "t.reshape", "t.window")
_LONGEST = 64       # ops that a scale or zero point may be computed from
_MOST_TERMS = ((1 << 31) - 1) // 255**2     # products of two bytes, zero points taken off, that 32 bits hold the sum of


def narrow_contracts(module: Module, fuel: Fuel, log: RewriteLog) -> None:
    """Contract bytes in place of what they were dequantised to, in every graph function."""
    rewrite_graphs(module, RuleSet([_contract_bytes]), fuel, log)


def requantise(module: Module, fuel: Fuel, log: RewriteLog) -> None:
    """Merge the scale of an integer contraction with the division of the quantisation behind it."""
    rewrite_graphs(module, RuleSet([_requantise]), fuel, log)


# ---- what an operand is made of ------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class Quantised:
    """scale * (bytes - zero) seen through views, which are the ops from the bytes outwards; no scale and no zero are 1
    and 0."""

    bytes: Value
    zero: Value | None
    scale: Value | None
    views: tuple[Op, ...]


def quantised(v: Value) -> Quantised | None:
    """How `v` is made of bytes; None when it is not."""
    views: list[Op] = []
    while v.op is not None and v.op.name in _VIEWS:
        views.insert(0, v.op)
        v = v.op.operand(0)
    scale = zero = None
    if v.tensor.dtype == F32:
        if v.op is None or v.op.name != "t.mul":
            return None
        cast, scale = v.op.operand(0), v.op.operand(1)
        if dims(cast) != dims(v) or cast.op is None or cast.op.name != "t.cast":
            return None
        v = cast.op.operand(0)
    if v.tensor.dtype == I32 and v.op is not None and v.op.name == "t.sub":
        wide, zero = v.op.operand(0), v.op.operand(1)
        if dims(wide) != dims(v):
            return None
        v = wide
    if v.tensor.dtype != I32 or v.op is None or v.op.name != "t.cast":
        return None
    narrow = v.op.operand(0)
    return Quantised(narrow, zero, scale, tuple(views)) if narrow.tensor.dtype in (U8, I8) else None


def _array(m: Match, v: Value | None) -> np.ndarray | None:
    """What `v` is, when it only depends on constants; folding comes later."""
    room = _LONGEST

    def of(v: Value) -> np.ndarray | None:
        nonlocal room
        known = m.const(v)
        if known is not None or v.op is None or room <= 0:
            return known
        room -= 1
        row = lookup(v.op.name)
        if row is None or not row.has("pure") or v.op.regions or not v.op.inputs:
            return None
        operands = [None if x is None else of(x) for x in v.op.operands]
        if any(o is None for o, x in zip(operands, v.op.operands, strict=True) if x is not None):
            return None
        return evaluated(v.op, operands)

    return None if v is None else of(v)


# ---- the rule ------------------------------------------------------------------------------------------------------
@rule("contract-bytes", root="t.contract")
def _contract_bytes(m: Match) -> Value | None:
    to, spec = m.op.attr("to"), parse_spec(m.op.attr("spec"))
    if to not in (F32, I32):
        return None
    found = [quantised(m.op.operand(i)) for i in (0, 1)]
    if found[0] is None or found[1] is None:
        return None
    sides: list[_Side] = []
    for q, letters in zip(found, (spec.lhs, spec.rhs), strict=True):
        side = _side(m, q, letters, spec) if q is not None else None
        if side is None:
            return None                 # the reason has been given
        sides.append(side)
    left, right = sides
    terms = product(spec.sizes(dims(left.bytes), dims(right.bytes))[c] for c in spec.k)
    if to == F32 and isinstance(terms, int) and terms > _MOST_TERMS:
        return m.no(f"a sum of {terms} products of bytes may be beyond 32 bits")
    total = m.builder.value("t.contract", left.bytes, right.bytes, spec=m.op.attr("spec"), to=I32)
    if left.zero is not None:
        total = m.builder.value("t.sub", total, m.builder.value("t.mul", right.sums(m), left.zero))
    if right.zero is not None:
        total = m.builder.value("t.sub", total, m.builder.value("t.mul", left.sums(m), right.zero))
    if left.zero is not None and right.zero is not None:
        number = m.builder.value("t.dims", values=(terms,), vector=False, dtype=I32)
        zeros = m.builder.value("t.mul", left.zero, right.zero)
        total = m.builder.value("t.add", total, m.builder.value("t.mul", zeros, number))
    if to == I32:
        return total
    if left.scale is None or right.scale is None:
        return m.no("an operand has no scale")
    scale = m.builder.value("t.mul", left.scale, right.scale)
    return m.builder.value("t.mul", m.builder.value("t.cast", total, to=F32), scale)


@dataclasses.dataclass(frozen=True)
class _Side:
    """One operand: its bytes as the contraction reads them; zero and scale as they broadcast to the result."""

    bytes: Value
    zero: Value | None
    scale: Value | None
    letters: str
    spec: ContractSpec

    def sums(self, m: Match) -> Value:
        """The bytes summed over what is contracted, as they broadcast to the result."""
        wide = m.builder.value("t.cast", self.bytes, to=I32)
        axes = tuple(i for i, c in enumerate(self.letters) if c in self.spec.k)
        return _along_result(m, m.builder.value("t.reduce", wide, kind="add", axes=axes) if axes else wide,
                             self.letters, self.spec)


def _along_result(m: Match, v: Value, letters: str, spec: ContractSpec) -> Value:
    """`v`, over an operand's letters that are not summed, laid out to broadcast to the result."""
    kept = [c for c in letters if c not in spec.k]
    order = sorted(range(len(kept)), key=lambda i: spec.out.index(kept[i]))
    if order != list(range(len(kept))):
        v = m.builder.value("t.transpose", v, perm=tuple(order))
    sizes = dict(zip((kept[i] for i in order), dims(v), strict=True))
    return m.builder.value("t.reshape", v, shape=tuple(sizes.get(c, 1) for c in spec.out))


def _side(m: Match, q: Quantised, letters: str, spec: ContractSpec) -> _Side | None:
    data, zero = _centred(m, q)
    known = _array(m, zero)
    if known is not None and not known.any():
        zero = known = None
    fill = 0
    if any(view.name == "t.window" and _is_padded(view) for view in q.views):
        if zero is not None and (known is None or known.size != 1):
            return m.no("the windows' padding is a zero point that is not one number known when compiling")
        if any(view.name == "t.window" and view.attr("fill") != 0 for view in q.views):
            return m.no("the windows are padded with something else than zero")
        fill = 0 if known is None else int(known.reshape(-1)[0])
        limits = np.iinfo(data.tensor.dtype.numpy)
        if not limits.min <= fill <= limits.max:
            return m.no(f"the zero point {fill} is no byte, which padding has to be")
    for view in q.views:
        attrs = {**view.attrs, "fill": fill} if view.name == "t.window" else view.attrs
        data = m.builder.value(view.name, data, **attrs)
    parameters: list[Value | None] = []
    for v in (zero, q.scale):
        spread = None if v is None else _spread(m, v, q, letters, spec)
        if v is not None and spread is None:
            return None
        parameters.append(spread)
    return _Side(data, parameters[0], parameters[1], letters, spec)


def _centred(m: Match, q: Quantised) -> tuple[Value, Value | None]:
    """The bytes and their zero point: of constants it is taken off where the result fits a byte."""
    data, zero = m.const(q.bytes), _array(m, q.zero)
    if data is None or zero is None or not zero.any() or not data.size:
        return q.bytes, q.zero
    moved = data.astype(np.int64) - zero
    for dtype in (np.int8, np.uint8):
        limits = np.iinfo(dtype)
        if limits.min <= moved.min() and moved.max() <= limits.max and moved.shape == data.shape:
            return m.builder.const(moved.astype(dtype)), None
    return q.bytes, q.zero


def _is_padded(window: Op) -> bool:
    """Whether some window may reach outside its operand."""
    x = dims(window.operand(0))
    keys = ("axes", "size", "stride", "dilation", "low", "out")
    for axis, size, stride, dilation, low, out in zip(*(window.attr(k) for k in keys), strict=True):
        last = (out - 1) * stride + (size - 1) * dilation - low
        inside = low <= 0 if isinstance(low, int) else False
        if not inside or not isinstance(last, int) or not isinstance(x[axis], int) or last >= x[axis]:
            return True
    return False


def _spread(m: Match, v: Value, q: Quantised, letters: str, spec: ContractSpec) -> Value | None:
    """A scale or zero point as it broadcasts to the result; None, with the reason, when it differs among the elements
    of one sum."""
    if v.tensor.size == 1:
        return m.builder.value("t.reshape", v, shape=())
    array, shape = _array(m, v), dims(q.bytes)
    if array is None:
        return m.no("a scale or zero point of several numbers is not constant")
    if not all(isinstance(d, int) and d > 0 for d in shape):
        return m.no("several scales or zero points for bytes of unknown extent")
    whole = np.broadcast_to(array, tuple(d for d in shape if isinstance(d, int)))
    for view in q.views:
        row = lookup(view.name)
        if view.name == "t.window" or row is None or row.ref is None:
            return m.no("several scales or zero points behind windows")
        whole = row.ref(dict(view.attrs), whole)
    summed = tuple(i for i, c in enumerate(letters) if c in spec.k)
    first = whole[tuple(slice(0, 1) if i in summed else slice(None) for i in range(whole.ndim))]
    if not np.array_equal(np.broadcast_to(first, whole.shape), whole):
        return m.no("the scale or zero point differs among the elements of one sum")
    kept = np.ascontiguousarray(first.squeeze(summed)).astype(v.tensor.dtype.numpy)
    return _along_result(m, m.builder.const(kept), letters, spec)


# ---- between two layers --------------------------------------------------------------------------------------------
@rule("requantise", root="t.div")
def _requantise(m: Match) -> Value | None:
    """A sum of scaled integers and constants, over c: the scales and the constants take the division."""
    divisor = scalar_constant(m, m.op.operand(1))
    if divisor is None or not divisor > 0 or m.op.result.type != m.op.operand(0).type or \
            m.op.result.tensor.dtype != F32:
        return None
    parts = _parts(m, m.op.operand(0))
    if parts is None or not any(v.op is not None and v.op.name == "t.mul" for v in parts):
        return None
    number = m.builder.const(np.array(divisor, np.float32))
    moved: dict[Value, Value] = {}
    for v in parts:                                     # operands come before what is made of them
        op = v.op
        if op is None or op.name == "t.const":
            moved[v] = m.builder.value("t.div", v, number)
        elif op.name == "t.mul":
            moved[v] = m.builder.value("t.mul", op.operand(0), m.builder.value("t.div", op.operand(1), number))
        else:
            moved[v] = m.builder.value(op.name, *(moved.get(x, x) for x in op.inputs))
    return moved[m.op.operand(0)]


def _parts(m: Match, v: Value) -> list[Value] | None:
    """The values that `v` is a sum of, and `v` itself last; None where one cannot take a division: the product of an
    integer and a constant can, a constant, and sums and ReLUs of such, which nothing else uses."""
    op = m.made_by(v)
    if op is None or op.name == "t.const":
        return None if m.const(v) is None else [v]
    if op.name == "t.mul":
        cast = m.made_by(op.operand(0), "t.cast")
        is_integer = cast is not None and cast.operand(0).tensor.dtype == I32
        return [v] if is_integer and m.const(op.operand(1)) is not None else None
    if not m.only_use(v):
        return None
    if op.name == "t.max":
        inner = _parts(m, op.operand(0)) if scalar_constant(m, op.operand(1)) == 0 else None
        return None if inner is None else [*inner, v]
    if op.name != "t.add":
        return None
    left = _parts(m, op.operand(0))
    right = None if left is None else _parts(m, op.operand(1))
    return None if left is None or right is None else [*left, *right, v]
