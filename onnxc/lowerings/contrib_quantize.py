"""Quantised ops of the domain com.microsoft: the standard op between a dequantisation and a quantisation, in f32."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnxc.ir.core import Value
from onnxc.ir.types import F32, I32, U8
from onnxc.lowerings import activation, quantize
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.contrib_fused import sequence_lengths
from onnxc.lowerings.matmul import contract
from onnxc.lowerings.norm import LayerNormalization
from onnxc.lowerings.pool import AveragePool, GlobalAveragePool
from onnxc.lowerings.slicing import Concat
from onnxc.lowerings.table import lowering

__all__ = ["MatMulIntegerToFloat"]


def _real(b: Lowering, x: Value, scale: Value, zero: Value | None) -> Value:
    return quantize.DequantizeLinear(b, x, b.reshape(scale, ()), None if zero is None else b.reshape(zero, ()))


def _quantised(b: Lowering, y: Value, scale: Value, zero: Value | None, like: Value) -> Value:
    """`y` in the element type of `like`; a zero point that is absent is 0."""
    point = b.scalar(0, b.dtype(like)) if zero is None else b.reshape(zero, ())
    return quantize.QuantizeLinear(b, y, b.reshape(scale, ()), point)


@lowering("com.microsoft.QuantizeLinear")
def QuantizeLinear(b: Lowering, x: Value, y_scale: Value, y_zero_point: Value | None = None, *, axis: int = 1) -> Value:
    return quantize.QuantizeLinear(b, x, y_scale, y_zero_point, axis=axis)


@lowering("com.microsoft.DequantizeLinear")
def DequantizeLinear(b: Lowering, x: Value, x_scale: Value, x_zero_point: Value | None = None, *,
                     axis: int = 1) -> Value:
    return quantize.DequantizeLinear(b, x, x_scale, x_zero_point, axis=axis)


# ---- elementwise ---------------------------------------------------------------------------------------------------
def _binary(name: str) -> Callable[..., Value]:
    def lower(b: Lowering, A: Value, A_scale: Value, A_zero_point: Value | None, B: Value, B_scale: Value,
              B_zero_point: Value | None, C_scale: Value, C_zero_point: Value | None = None) -> Value:
        out = b.map(name, _real(b, A, A_scale, A_zero_point), _real(b, B, B_scale, B_zero_point))
        return _quantised(b, out, C_scale, C_zero_point, A)

    return lower


lowering("com.microsoft.QLinearAdd")(_binary("add"))
lowering("com.microsoft.QLinearMul")(_binary("mul"))


@lowering("com.microsoft.QLinearLeakyRelu")
def QLinearLeakyRelu(b: Lowering, X: Value, X_scale: Value, X_zero_point: Value | None, Y_scale: Value,
                     Y_zero_point: Value | None = None, *, alpha: float = 0.01) -> Value:
    out = activation.LeakyRelu(b, _real(b, X, X_scale, X_zero_point), alpha=alpha)
    return _quantised(b, out, Y_scale, Y_zero_point, X)


@lowering("com.microsoft.QLinearSigmoid")
def QLinearSigmoid(b: Lowering, X: Value, X_scale: Value, X_zero_point: Value | None, Y_scale: Value,
                   Y_zero_point: Value | None = None) -> Value:
    return _quantised(b, b.map("sigmoid", _real(b, X, X_scale, X_zero_point)), Y_scale, Y_zero_point, X)


@lowering("com.microsoft.QLinearSoftmax")
def QLinearSoftmax(b: Lowering, X: Value, X_scale: Value, x_zero_point: Value | None, y_scale: Value,
                   y_zero_point: Value, *, opset: int, axis: int = -1) -> Value:
    if opset < 13 and b.axis(axis, X) != b.rank(X) - 1:
        b.refuse("a softmax over several axes (of an opset before 13) is not supported yet")
    return _quantised(b, activation.Softmax(b, _real(b, X, X_scale, x_zero_point), axis=axis), y_scale, y_zero_point, X)


@lowering("com.microsoft.QLinearWhere")
def QLinearWhere(b: Lowering, condition: Value, X: Value, x_scale: Value, x_zero_point: Value, Y: Value, y_scale: Value,
                 y_zero_point: Value, z_scale: Value, z_zero_point: Value) -> Value:
    out = b.map("select", condition, _real(b, X, x_scale, x_zero_point), _real(b, Y, y_scale, y_zero_point))
    return _quantised(b, out, z_scale, z_zero_point, X)


@lowering("com.microsoft.QLinearConcat")
def QLinearConcat(b: Lowering, Y_scale: Value, Y_zero_point: Value, *inputs: Value, axis: int) -> Value:
    """`inputs` are triples: a value, its scale and its zero point."""
    if not inputs or len(inputs) % 3:
        b.refuse(f"{len(inputs)} inputs; a value, a scale and a zero point have to be given for each part")
    parts = [_real(b, *inputs[i:i + 3]) for i in range(0, len(inputs), 3)]
    return _quantised(b, Concat(b, *parts, axis=axis), Y_scale, Y_zero_point, inputs[0])


# ---- pools ---------------------------------------------------------------------------------------------------------
@lowering("com.microsoft.QLinearGlobalAveragePool")
def QLinearGlobalAveragePool(b: Lowering, X: Value, x_scale: Value, x_zero_point: Value, y_scale: Value,
                             y_zero_point: Value, *, channels_last: int = 0) -> Value:
    if channels_last:
        b.refuse("channels last is not supported yet")
    return _quantised(b, GlobalAveragePool(b, _real(b, X, x_scale, x_zero_point)), y_scale, y_zero_point, X)


@lowering("com.microsoft.QLinearAveragePool")
def QLinearAveragePool(b: Lowering, X: Value, x_scale: Value, x_zero_point: Value | None, y_scale: Value,
                       y_zero_point: Value | None = None, *, kernel_shape: Sequence[int], auto_pad: str = "NOTSET",
                       ceil_mode: int = 0, channels_last: int = 0, count_include_pad: int = 0,
                       pads: Sequence[int] | None = None, strides: Sequence[int] | None = None) -> Value:
    if channels_last:
        b.refuse("channels last is not supported yet")
    out = AveragePool(b, _real(b, X, x_scale, x_zero_point), auto_pad=auto_pad, ceil_mode=ceil_mode,
                      count_include_pad=count_include_pad, kernel_shape=kernel_shape, pads=pads, strides=strides)
    return _quantised(b, out, y_scale, y_zero_point, X)


# ---- embeddings ----------------------------------------------------------------------------------------------------
@lowering("com.microsoft.QEmbedLayerNormalization")
def QEmbedLayerNormalization(b: Lowering, input_ids: Value, segment_ids: Value | None, word_embedding_quant: Value,
                             position_embedding_quant: Value, segment_embedding: Value | None, gamma_quant: Value,
                             beta_quant: Value, mask: Value | None, word_embedding_scale: Value,
                             position_embedding_scale: Value, segment_embedding_scale: Value | None,
                             gamma_scale: Value, beta_scale: Value, word_embedding_zero_point: Value,
                             position_embedding_zero_point: Value, segment_embedding_zero_point: Value | None,
                             gamma_zero_point: Value, beta_zero_point: Value, *,
                             epsilon: float = 1e-12) -> tuple[Value, Value]:
    """Rows are picked as bytes."""
    def rows(table: Value, ids: Value, scale: Value, zero: Value | None) -> Value:
        return _real(b, b.value("t.gather", table, ids, axis=0), scale, zero)

    place = b.iota(b.shape(input_ids)[1], 2, 1)
    total = b.map("add", rows(word_embedding_quant, input_ids, word_embedding_scale, word_embedding_zero_point),
                  rows(position_embedding_quant, place, position_embedding_scale, position_embedding_zero_point))
    if segment_ids is not None:
        if segment_embedding is None or segment_embedding_scale is None:
            b.refuse("segments are given without their table or its scale")
        total = b.map("add", total, rows(segment_embedding, segment_ids, segment_embedding_scale,
                                         segment_embedding_zero_point))
    gamma, beta = _real(b, gamma_quant, gamma_scale, gamma_zero_point), _real(b, beta_quant, beta_scale,
                                                                              beta_zero_point)
    return LayerNormalization(b, total, gamma, beta, epsilon=epsilon)[0], sequence_lengths(b, input_ids, mask)


# ---- products ------------------------------------------------------------------------------------------------------
@lowering("com.microsoft.MatMulIntegerToFloat")
def MatMulIntegerToFloat(b: Lowering, A: Value, B: Value, a_scale: Value, b_scale: Value,
                         a_zero_point: Value | None = None, b_zero_point: Value | None = None,
                         bias: Value | None = None) -> Value:
    total = b.cast(quantize.MatMulInteger(b, A, B, a_zero_point, b_zero_point), F32)
    factor = b.map("mul", b.cast(b.reshape(a_scale, ()), F32), b.cast(b_scale, F32))
    out = b.cast(b.map("mul", total, factor), b.dtype(a_scale))
    return out if bias is None else b.map("add", out, bias)


@lowering("com.microsoft.DynamicQuantizeMatMul")
def DynamicQuantizeMatMul(b: Lowering, A: Value, B: Value, b_scale: Value, b_zero_point: Value | None = None,
                          bias: Value | None = None) -> Value:
    q, scale, zero = quantize.DynamicQuantizeLinear(b, A)
    return MatMulIntegerToFloat(b, q, B, scale, b_scale, zero, b_zero_point, bias)


@lowering("com.microsoft.QGemm")
def QGemm(b: Lowering, A: Value, a_scale: Value, a_zero_point: Value, B: Value, b_scale: Value, b_zero_point: Value,
          C: Value | None = None, y_scale: Value | None = None, y_zero_point: Value | None = None, *,
          alpha: float = 1.0, transA: int = 0, transB: int = 0) -> Value:
    """C is in units of alpha * a_scale * b_scale; without y_scale the result is in f32."""
    def centred(v: Value, zero: Value, axis: int) -> Value:
        shape = () if b.type(zero).size == 1 else tuple(b.type(zero).size if i == axis else 1 for i in range(2))
        return b.map("sub", b.cast(v, I32), b.cast(b.reshape(zero, shape), I32))

    spec = f"{'km' if transA else 'mk'},{'nk' if transB else 'kn'}->mn"
    total = contract(b, centred(A, a_zero_point, 1), centred(B, b_zero_point, 0 if transB else 1), spec)
    if C is not None:
        total = b.map("add", total, b.spread(C, b.shape(total)))
    scale = b.reshape(b_scale, ()) if b.type(b_scale).size == 1 else b_scale
    factor = b.map("mul", b.map("mul", b.reshape(a_scale, ()), scale), b.scalar(alpha, F32))
    out = b.map("mul", b.cast(total, F32), factor)
    if y_scale is None:
        return out
    point = b.scalar(0, U8) if y_zero_point is None else b.reshape(y_zero_point, ())
    return quantize.QuantizeLinear(b, out, b.reshape(y_scale, ()), point)


@lowering("com.microsoft.QLinearConv")
def QLinearConv(b: Lowering, x: Value, x_scale: Value, x_zero_point: Value, w: Value, w_scale: Value,
                w_zero_point: Value, y_scale: Value, y_zero_point: Value, B: Value | None = None, *,
                auto_pad: str = "NOTSET", channels_last: int = 0,
                dilations: Sequence[int] | None = None, group: int = 1,
                kernel_shape: Sequence[int] | None = None, pads: Sequence[int] | None = None,
                strides: Sequence[int] | None = None) -> Value:
    rank = b.rank(x)
    inside = b.transpose(x, [0, rank - 1, *range(1, rank - 1)]) if channels_last else x
    out = quantize.QLinearConv(b, inside, x_scale, x_zero_point, w, w_scale, w_zero_point, y_scale, y_zero_point, B,
                               auto_pad=auto_pad, dilations=dilations, group=group, kernel_shape=kernel_shape,
                               pads=pads, strides=strides)
    return b.transpose(out, [0, *range(2, rank), 1]) if channels_last else out
