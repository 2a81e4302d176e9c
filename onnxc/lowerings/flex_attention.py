"""FlexAttention: attention whose scores and weights go through graphs of the model's."""

from __future__ import annotations

import math

from onnxc.ir.core import Block, Value
from onnxc.ir.dims import floordiv
from onnxc.ir.types import F32, F64, dtype_of_onnx
from onnxc.lowerings.activation import Softmax
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.matmul import contract
from onnxc.lowerings.regions import adopt
from onnxc.lowerings.table import lowering

__all__: list[str] = []


@lowering("ai.onnx.preview.FlexAttention")
def FlexAttention(b: Lowering, Q: Value, K: Value, V: Value, *, prob_mod: int | None = None, scale: float | None = None,
                  score_mod: int | None = None, softmax_precision: int | None = None) -> Value:
    for v in (Q, K, V):
        if b.rank(v) != 4:
            b.refuse(f"a value of type {b.type(v)}; expected [batch, heads, positions, size]")
    batch, heads, length, size = b.shape(Q)
    _, groups, total, _ = b.shape(K)
    each = floordiv(heads, groups)
    b.guard("eq", each * groups, heads, "the heads of Q are no multiple of those of K")
    precision = dtype_of_onnx(softmax_precision) if softmax_precision else F64 if b.dtype(Q) == F64 else F32
    grouped = b.reshape(b.widen(Q), (batch, groups, each, length, size))
    scores = contract(b, grouped, b.widen(K), "bhgsd,bhtd->bhgst")
    if scale is None and not isinstance(size, int):
        b.refuse(f"the size of a head is {size}; it has to be constant, or the attribute scale given")
    factor = scale if scale is not None else 1 / math.sqrt(size)  # type: ignore[arg-type]
    scores = b.map("mul", scores, b.scalar(factor, scores))
    scores = b.cast(b.reshape(scores, (batch, heads, length, total)), precision)
    weights = _through(b, prob_mod, Softmax(b, _through(b, score_mod, scores), axis=-1))
    weights = b.reshape(b.cast(weights, b.dtype(b.widen(V))), (batch, groups, each, length, total))
    out = b.reshape(contract(b, weights, b.widen(V), "bhgst,bhtd->bhgsd"), (batch, heads, length, b.shape(V)[3]))
    return b.cast(out, b.dtype(Q))


def _through(b: Lowering, place: int | None, v: Value) -> Value:
    """What the node's region makes of `v`, which keeps its type; `v` without a region."""
    if place is None:
        return v
    block = Block()
    out, = adopt(b.inside(block), b.node.regions[place], [v, *(c for c in b.captured if c is not None)])
    for op in block.ops:
        block.unlink(op)
        b.insert(op)
    if b.dtype(out) != b.dtype(v) or b.rank(out) != b.rank(v):
        b.refuse(f"a graph makes {b.type(out)} of {b.type(v)}; it has to keep the type")
    for made, given in zip(b.shape(out), b.shape(v), strict=True):
        b.guard("eq", made, given, "a graph changes the shape of scores or weights")
    return b.reshape(out, b.shape(v))
