"""The pass `keep-bytes`: what moves between the layers of a quantised net is bytes, not the floats that they stand for.

A dequantisation with one positive scale keeps order and moves with its elements: the greatest of dequantised values is
the greatest byte dequantised, and what only places elements places bytes. A quantisation by the same scale and zero
point gives the bytes back: (s * n) / s rounds to n for every difference n of two bytes and every normal s.

Owns no arithmetic: what quantising and dequantising are made of stands in their lowerings.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from onnxc.ir.core import Module, Op, Value
from onnxc.ir.rewrite import Fuel, Match, RewriteLog, RuleSet, rewrite_graphs, rule
from onnxc.ir.types import F32, I8, I32, U8, DType
from onnxc.passes.canonicalize import dims, scalar_constant
from onnxc.passes.quant import Quantised, quantised

__all__ = ["keep_bytes"]

_LEAST_SCALE = float(np.finfo(np.float32).tiny)
_MOST_SCALE = float(np.finfo(np.float32).max) / 512


def keep_bytes(module: Module, fuel: Fuel, log: RewriteLog) -> None:
    """Apply the rules of this file to every graph function until none applies."""
    rewrite_graphs(module, _RULES, fuel, log)


@dataclasses.dataclass(frozen=True)
class _Scaled:
    """scale * (bytes - zero) by numbers that are known."""

    bytes: Value
    zero: int
    scale: float
    views: tuple[Op, ...]


def _scaled(m: Match, v: Value) -> _Scaled | None:
    found: Quantised | None = quantised(v)
    if found is None or found.scale is None or v.tensor.dtype != F32:
        return None
    scale = scalar_constant(m, found.scale)
    zero = 0.0 if found.zero is None else scalar_constant(m, found.zero)
    if scale is None or zero is None or not _LEAST_SCALE <= scale <= _MOST_SCALE:
        return None
    return _Scaled(found.bytes, int(zero), scale, found.views)


def _dequantised(m: Match, v: Value, like: _Scaled) -> Value:
    wide = m.builder.value("t.cast", v, to=I32)
    if like.zero:
        wide = m.builder.value("t.sub", wide, m.builder.const(np.array(like.zero, np.int32)))
    return m.builder.value("t.mul", m.builder.value("t.cast", wide, to=F32),
                           m.builder.const(np.array(like.scale, np.float32)))


def _least(dtype: DType) -> int:
    return -128 if dtype == I8 else 0


# ---- what keeps order, and what places elements --------------------------------------------------------------------
@rule("greatest-byte", root="t.reduce")
def _greatest_byte(m: Match) -> Value | None:
    if m.op.attr("kind") != "max":
        return None
    v = m.op.operand(0)
    x = _scaled(m, v)
    if x is None or not m.only_use(v):
        return None
    if any(not isinstance(dims(v)[a], int) or dims(v)[a] == 0 for a in m.op.attr("axes")):
        return m.no("there may be no element, of which -inf is the greatest")
    windows = [view for view in x.views if view.name == "t.window"]
    if not all(_reaches_in(view) for view in windows):
        return m.no("a window may lie in the padding as a whole")
    if any(view.attr("fill") != -np.inf for view in windows):
        return m.no("the padding of the windows is a number")
    data = x.bytes
    for view in x.views:
        fill = {"fill": _least(data.tensor.dtype)} if view.name == "t.window" else {}
        data = m.builder.value(view.name, data, **{**view.attrs, **fill})
    return _dequantised(m, m.builder.value("t.reduce", data, kind="max", axes=m.op.attr("axes")), x)


def _reaches_in(window: Op) -> bool:
    """Whether every window has an element of its operand in it."""
    keys = ("axes", "size", "stride", "dilation", "low", "out")
    for axis, size, stride, dilation, low, out in zip(*(window.attr(k) for k in keys), strict=True):
        extent = dims(window.operand(0))[axis]
        if not all(isinstance(d, int) for d in (extent, size, stride, dilation, low, out)):
            return False
        taps = np.arange(out)[:, None] * stride + np.arange(size) * dilation - low
        if not ((taps >= 0) & (taps < extent)).any(axis=1).all():
            return False
    return True


@rule("bytes-gathered", root=("t.gather", "t.slice"))
def _bytes_gathered(m: Match) -> Value | None:
    x = _scaled(m, m.op.operand(0))
    if x is None or x.views or not m.only_use(m.op.operand(0)):
        return None
    return _dequantised(m, m.builder.value(m.op.name, x.bytes, *m.op.inputs[1:], **m.op.attrs), x)


@rule("bytes-joined", root="t.concat")
def _bytes_joined(m: Match) -> Value | None:
    parts = [_scaled(m, v) for v in m.op.inputs]
    first = parts[0]
    if first is None:
        return None
    alike = [p for p in parts if p is not None and not p.views and p.zero == first.zero and p.scale == first.scale
             and p.bytes.tensor.dtype == first.bytes.tensor.dtype]
    if len(alike) < len(parts):
        return m.no("what is joined has other scales or zero points than its first part")
    return _dequantised(m, m.builder.value("t.concat", *(p.bytes for p in alike), axis=m.op.attr("axis")), first)


@rule("bytes-narrowed-first", root="t.cast")
def _bytes_narrowed_first(m: Match) -> Value | None:
    """A quantisation behind a concatenation moves in front of it: bytes are joined."""
    found = _quantisation(m, m.op)
    joined = None if found is None else m.made_by(found.x, "t.concat")
    if found is None or joined is None or not m.only_use(found.x) or len(found.x.uses) != 1:
        return None
    parts = []
    for part in joined.inputs:
        moved = {found.x: part}
        for op in found.ops:
            moved[op.result] = m.builder.value(op.name, *(moved.get(v, v) for v in op.inputs), **op.attrs)
        parts.append(moved[m.op.result])
    return m.builder.value("t.concat", *parts, axis=joined.attr("axis"))


# ---- there and back ------------------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class _Quantisation:
    """bytes = clamp(round(x / scale)) + zero, by the ops from x on."""

    x: Value
    scale: float
    zero: int
    ops: tuple[Op, ...]


def _quantisation(m: Match, cast: Op) -> _Quantisation | None:
    """What quantises to the bytes that `cast` gives; None where it is something else."""
    to = cast.result.tensor.dtype
    if to not in (U8, I8):
        return None
    ops, v, zero = [cast], cast.operand(0), 0.0
    moved = m.made_by(v, "t.add")
    if moved is not None and v.tensor.dtype == I32:
        found = scalar_constant(m, moved.operand(1))
        if found is None:
            return None
        zero, v = found, moved.operand(0)
        ops.append(moved)
    limits: dict[str, float] = {}
    for name in ("t.cast", "t.round", "t.min", "t.max", "t.div"):
        op = m.made_by(v, name)
        if op is None or not m.only_use(v):
            return None
        if name in ("t.min", "t.max", "t.div"):
            number = scalar_constant(m, op.operand(1))
            if number is None:
                return None
            limits[name] = number
        ops.append(op)
        v = op.operand(0)
    least = _least(to)
    if v.tensor.dtype != F32 or dims(v) != dims(cast.result):
        return None
    if (limits["t.max"], limits["t.min"]) != (least - zero, least + 255 - zero):
        return None
    return _Quantisation(v, limits["t.div"], int(zero), tuple(reversed(ops)))


@rule("quantised-again", root="t.cast")
def _quantised_again(m: Match) -> Value | None:
    found = _quantisation(m, m.op)
    x = None if found is None else _scaled(m, found.x)
    if found is None or x is None or x.bytes.tensor.dtype != m.op.result.tensor.dtype:
        return None
    if (x.scale, x.zero) != (found.scale, found.zero):
        return None
    data = x.bytes
    for view in x.views:
        if view.name == "t.window":
            return m.no("windows are padded with floats")
        data = m.builder.value(view.name, data, **view.attrs)
    return data


_RULES = RuleSet([_greatest_byte, _bytes_gathered, _bytes_joined, _bytes_narrowed_first, _quantised_again])
