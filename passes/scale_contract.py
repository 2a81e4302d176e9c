"""The pass `fold-scales`: a constant factor on the columns of a contraction becomes part of its constant operand.

So a batch normalisation behind a convolution or matrix product (a scale and a shift a channel) costs nothing: the scale
goes into the weights and the shift into the bias. The product of weight and scale is rounded once, as it is in every
engine that folds batch norms; results differ by rounding only.
"""

from __future__ import annotations

import numpy as np

from onnxc.ir.builder import constant_of
from onnxc.ir.core import Module, Op, Value
from onnxc.ir.rewrite import Fuel, Match, RewriteLog, RuleSet, rewrite_graphs, rule
from onnxc.ops.fold import parse_spec
from onnxc.passes.canonicalize import dims

__all__ = ["fold_scales", "is_constant"]


def fold_scales(module: Module, fuel: Fuel, log: RewriteLog) -> None:
    """Apply the rules of this file to every graph function until none applies."""
    rewrite_graphs(module, _RULES, fuel, log)


_MADE_OPS = 64          # ops that rules may have made of constants before they are folded; longer chains are a model's


def is_constant(module: Module, v: Value) -> bool:
    """Whether `v` depends on constants only; what rules made of constants is folded after them."""
    seen: set[Value] = {v}
    open_values = [v]
    while open_values:
        x = open_values.pop()
        if constant_of(module, x) is not None:
            continue
        if x.op is None or not x.op.inputs or len(seen) > _MADE_OPS:
            return False
        open_values.extend(i for i in x.op.inputs if i not in seen)
        seen.update(x.op.inputs)
    return True


def _contraction(m: Match, v: Value) -> Op | None:
    """The contraction with constant right operand that makes `v` and serves nothing else."""
    op = m.made_by(v, "t.contract")
    return op if op is not None and m.only_use(v) and is_constant(m.module, op.operand(1)) else None


@rule("scale-into-weights", root="t.mul")
def _scale_into_weights(m: Match) -> Value | None:
    product, scale = m.op.operand(0), m.op.operand(1)
    op = _contraction(m, product)
    if op is None or not is_constant(m.module, scale):
        return None
    if m.op.result.type != product.type or op.attr("to") != product.tensor.dtype:
        return m.no("the scale widens the product")
    if op.operand(1).tensor.dtype != scale.tensor.dtype:
        return m.no("the weights are of another element type than the product: scaled, they would be rounded again")
    spec = parse_spec(op.attr("spec"))
    shape = (1,) * (len(spec.out) - len(dims(scale))) + dims(scale)
    letters = dict(zip(spec.out, shape, strict=True))
    if any(d != 1 and c not in spec.rhs for c, d in letters.items()):
        return m.no("the scale is not one number a column")
    wide = m.builder.value("t.reshape", scale, shape=shape)
    order = [spec.out.index(c) for c in spec.rhs if c in spec.out]
    rest = [i for i in range(len(shape)) if i not in order]
    columns = m.builder.value("t.transpose", wide, perm=tuple(rest + order))
    target = tuple(letters.get(c, 1) for c in spec.rhs)
    factor = m.builder.value("t.reshape", columns, shape=target)
    weights = m.builder.value("t.mul", op.operand(1), factor)
    return m.builder.value("t.contract", op.operand(0), weights, spec=op.attr("spec"), to=op.attr("to"))


@rule("scale-through-bias", root="t.mul")
def _scale_through_bias(m: Match) -> Value | None:
    """(x + b) * s == x*s + b*s for constants b, s behind a contraction."""
    inner, scale = m.made_by(m.op.operand(0), "t.add"), m.op.operand(1)
    if inner is None or not is_constant(m.module, scale) or not m.only_use(m.op.operand(0)):
        return None
    x, bias = inner.operand(0), inner.operand(1)
    if not is_constant(m.module, bias) or _contraction(m, x) is None:
        return None
    return m.builder.value("t.add", m.builder.value("t.mul", x, scale), m.builder.value("t.mul", bias, scale))


@rule("bias-plus-bias", root=("t.add", "t.sub"))
def _bias_plus_bias(m: Match) -> Value | None:
    """(x + a) + b == x + (a + b) for constants a, b behind a contraction."""
    inner, second = m.made_by(m.op.operand(0), "t.add"), m.op.operand(1)
    if inner is None or not is_constant(m.module, second) or not m.only_use(m.op.operand(0)):
        return None
    x, first = inner.operand(0), inner.operand(1)
    scaled = m.made_by(x, "t.mul")
    product = scaled.operand(0) if scaled is not None and is_constant(m.module, scaled.operand(1)) else x
    if not is_constant(m.module, first) or m.made_by(product, "t.contract") is None:
        return None
    return m.builder.value("t.add", x, m.builder.value(m.op.name, first, second))


@rule("divide-as-scale", root="t.div")
def _divide_as_scale(m: Match) -> Value | None:
    """A contraction divided by a constant is scaled by its reciprocal, so that the scale can join the weights."""
    c = m.const(m.op.operand(1))
    op = _contraction(m, m.op.operand(0))
    if op is None or c is None or c.dtype.kind != "f":
        return None
    with np.errstate(all="ignore"):
        inverse = (1 / c).astype(c.dtype)
    if not np.all(np.isfinite(inverse) & (np.abs(inverse) >= np.finfo(c.dtype).tiny)):
        return m.no("a reciprocal is out of range, or has fewer bits than other numbers")
    return m.builder.value("t.mul", m.op.operand(0), m.builder.const(inverse))


@rule("scale-before-view", root="t.mul")
def _scale_before_view(m: Match) -> Value | None:
    """view(x) * s == view(x * s) for a scalar s: behind a contraction the scale reaches its weights (attention
    scales)."""
    scale, view = m.const(m.op.operand(1)), m.made_by(m.op.operand(0), "t.reshape", "t.transpose")
    if view is None or scale is None or scale.size != 1 or not m.only_use(m.op.operand(0)):
        return None
    if m.op.result.type != m.op.operand(0).type:
        return m.no("the scale broadcasts the product")
    x = view.operand(0)
    if not _leads_to_contraction(m, x):
        return m.no("the view is not of a contraction")
    number = m.builder.const(scale.reshape(()))
    return m.builder.value(view.name, m.builder.value("t.mul", x, number), **view.attrs)


def _leads_to_contraction(m: Match, v: Value) -> bool:
    """Whether `v` is a contraction, perhaps scaled, shifted and viewed, that serves nothing else."""
    while m.only_use(v):
        op = v.op
        if op is None or op.name == "t.contract":
            return op is not None
        if op.name in ("t.mul", "t.add") and not is_constant(m.module, op.operand(1)):
            return False
        if op.name not in ("t.mul", "t.add", "t.reshape", "t.transpose"):
            return False
        v = op.operand(0)
    return False


_RULES = RuleSet.of(globals())
