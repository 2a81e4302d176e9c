"""Ops of ONNX Runtime that stand for a chain of standard ones: activations, norms, products with tails."""

from __future__ import annotations

from collections.abc import Sequence

from onnxc.ir.core import Value
from onnxc.ir.types import I32
from onnxc.lowerings import activation, elementwise
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.conv import Conv
from onnxc.lowerings.matmul import Gemm
from onnxc.lowerings.norm import LayerNormalization, RMSNormalization, inverse_root
from onnxc.lowerings.table import lowering

__all__ = ["activated", "sequence_lengths"]


# ---- activations ---------------------------------------------------------------------------------------------------
@lowering("com.microsoft.Gelu")
def Gelu(b: Lowering, X: Value) -> Value:
    return activation.Gelu(b, X)


@lowering("com.microsoft.BiasGelu")
def BiasGelu(b: Lowering, A: Value, B: Value) -> Value:
    return activation.Gelu(b, b.map("add", A, B))


@lowering("com.microsoft.FastGelu")
def FastGelu(b: Lowering, X: Value, bias: Value | None = None) -> Value:
    return activation.Gelu(b, X if bias is None else b.map("add", X, bias), approximate="tanh")


@lowering("com.microsoft.QuickGelu")
def QuickGelu(b: Lowering, X: Value, *, alpha: float = 1.702) -> Value:
    return activation.Swish(b, X, alpha=alpha)


def activated(b: Lowering, v: Value, name: str, params: Sequence[float]) -> Value:
    """One of the functions that fused nodes name, with its parameters in order."""
    plain = {"": "", "Relu": "Relu", "Tanh": "tanh", "Sigmoid": "sigmoid"}
    given = list(params)
    if name == "Relu":
        return activation.Relu(b, v)
    if name in plain:
        return b.map(plain[name], v) if name else v
    if name == "LeakyRelu":
        return activation.LeakyRelu(b, v, alpha=given[0] if given else 0.01)
    if name == "HardSigmoid":
        alpha, beta = (given + [0.2, 0.5][len(given):])[:2]
        return activation.HardSigmoid(b, v, alpha=alpha, beta=beta)
    if name == "Clip" and len(given) == 2:
        return elementwise.Clip(b, v, b.scalar(given[0], v), b.scalar(given[1], v))
    return b.refuse(f"the activation '{name}' with parameters {given} is not known")


# ---- norms ---------------------------------------------------------------------------------------------------------
@lowering
def SimplifiedLayerNormalization(b: Lowering, X: Value, scale: Value, *, axis: int = -1, epsilon: float = 1e-5,
                                 stash_type: int = 1) -> tuple[Value, Value]:
    """Stands in ONNX's domain, whose operators it is none of."""
    out = RMSNormalization(b, X, scale, axis=axis, epsilon=epsilon, stash_type=stash_type)
    return b.cast(out, b.dtype(scale)), inverse_root(b, X, axis, epsilon, stash_type)


def _summed(b: Lowering, input: Value, skip: Value, bias: Value | None) -> Value:
    total = b.map("add", input, b.spread(skip, b.shape(input)))
    return total if bias is None else b.map("add", total, bias)


@lowering("com.microsoft.SkipLayerNormalization")
def SkipLayerNormalization(b: Lowering, input: Value, skip: Value, gamma: Value, beta: Value | None = None,
                           bias: Value | None = None, *, epsilon: float = 1e-12) -> tuple[Value, Value, Value, Value]:
    total = _summed(b, input, skip, bias)
    return (*LayerNormalization(b, total, gamma, beta, epsilon=epsilon), total)


@lowering("com.microsoft.SkipSimplifiedLayerNormalization")
def SkipSimplifiedLayerNormalization(b: Lowering, input: Value, skip: Value, gamma: Value, bias: Value | None = None, *,
                                     epsilon: float = 1e-12) -> tuple[Value | None, ...]:
    total = _summed(b, input, skip, bias)
    return RMSNormalization(b, total, gamma, epsilon=epsilon), None, None, total


@lowering("com.microsoft.EmbedLayerNormalization")
def EmbedLayerNormalization(b: Lowering, input_ids: Value, segment_ids: Value | None, word_embedding: Value,
                            position_embedding: Value, segment_embedding: Value | None, gamma: Value, beta: Value,
                            mask: Value | None = None, position_ids: Value | None = None, *, epsilon: float = 1e-12,
                            mask_index_type: int = 1) -> tuple[Value, Value, Value]:
    def rows(table: Value, ids: Value) -> Value:
        return b.value("t.gather", table, ids, axis=0)

    place = b.iota(b.shape(input_ids)[1], 2, 1) if position_ids is None else position_ids
    total = b.map("add", rows(word_embedding, input_ids), rows(position_embedding, place))
    if segment_ids is not None and segment_embedding is not None:
        total = b.map("add", total, rows(segment_embedding, segment_ids))
    out = LayerNormalization(b, total, gamma, beta, epsilon=epsilon)[0]
    return out, sequence_lengths(b, input_ids, mask, mask_index_type), total


def sequence_lengths(b: Lowering, input_ids: Value, mask: Value | None, kind: int = 1) -> Value:
    """How many positions of each sequence count; 0 without a mask."""
    if mask is None:
        return b.broadcast_to(b.scalar(0, I32), (b.shape(input_ids)[0],))
    if kind != 1:
        b.refuse(f"mask_index_type {kind}; 1, the length of each sequence, is known")
    return b.reduce(b.cast(mask, I32), "add", (1,), keepdims=False)


# ---- products with tails -------------------------------------------------------------------------------------------
@lowering("com.microsoft.FusedConv")
def FusedConv(b: Lowering, X: Value, W: Value, B: Value | None = None, Z: Value | None = None, *, activation: str = "",
              activation_params: Sequence[float] = (), auto_pad: str = "NOTSET", dilations: Sequence[int] | None = None,
              group: int = 1, kernel_shape: Sequence[int] | None = None, pads: Sequence[int] | None = None,
              strides: Sequence[int] | None = None) -> Value:
    out = Conv(b, X, W, B, auto_pad=auto_pad, dilations=dilations, group=group, kernel_shape=kernel_shape, pads=pads,
               strides=strides)
    return activated(b, out if Z is None else b.map("add", out, Z), activation, activation_params)


@lowering("com.microsoft.FusedGemm")
def FusedGemm(b: Lowering, A: Value, B: Value, C: Value | None = None, *, activation: str = "",
              activation_alpha: float | None = None, activation_beta: float | None = None,
              activation_gamma: float | None = None, alpha: float = 1.0, beta: float = 1.0, transA: int = 0,
              transB: int = 0) -> Value:
    params = [p for p in (activation_alpha, activation_beta, activation_gamma) if p is not None]
    return activated(b, Gemm(b, A, B, C, alpha=alpha, beta=beta, transA=transA, transB=transB), activation, params)
