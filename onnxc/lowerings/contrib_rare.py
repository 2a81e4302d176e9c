"""Ops of the domain com.microsoft that ONNX Runtime writes for GPUs, as the chains that they stand for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnxc.ir.core import Value
from onnxc.ir.dims import floordiv, product
from onnxc.ir.types import F32, I32, I64, U32
from onnxc.lowerings import quantize
from onnxc.lowerings.activation import Gelu, Softmax
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.contrib_fused import activated
from onnxc.lowerings.contrib_matmul import FusedMatMul
from onnxc.lowerings.contrib_rotary import heads, part
from onnxc.lowerings.fourier import DFT
from onnxc.lowerings.matmul import MatMul, contract
from onnxc.lowerings.norm import RMSNormalization
from onnxc.lowerings.table import lowering

__all__: list[str] = []


# ---- sums and activations ------------------------------------------------------------------------------------------
@lowering("com.microsoft.BiasAdd")
def BiasAdd(b: Lowering, X: Value, bias: Value, skip: Value) -> Value:
    return b.map("add", b.map("add", X, b.spread(bias, b.shape(X))), b.spread(skip, b.shape(X)))


@lowering("com.microsoft.BiasSplitGelu")
def BiasSplitGelu(b: Lowering, X: Value, bias: Value) -> Value:
    """The left half times the Gelu of the right one."""
    total = b.map("add", X, b.spread(bias, b.shape(X)))
    width, at = b.shape(total)[-1], b.rank(total) - 1
    half = floordiv(width, 2)
    b.guard("eq", half * 2, width, "the last axis has no two halves")
    return b.map("mul", part(b, total, at, 0, half), Gelu(b, part(b, total, at, half, half)))


@lowering("com.microsoft.GemmFastGelu")
def GemmFastGelu(b: Lowering, X: Value, W: Value, bias: Value | None = None) -> Value:
    out = MatMul(b, X, W)
    return Gelu(b, out if bias is None else b.map("add", out, bias), approximate="tanh")


@lowering("com.microsoft.FusedMatMulActivation")
def FusedMatMulActivation(b: Lowering, A: Value, B: Value, *, activation: str, activation_alpha: float | None = None,
                          activation_axis: int = 0, activation_beta: float | None = None,
                          activation_gamma: float | None = None, alpha: float = 1.0, transA: int = 0, transB: int = 0,
                          transBatchA: int = 0, transBatchB: int = 0) -> Value:
    out = FusedMatMul(b, A, B, alpha=alpha, transA=transA, transB=transB, transBatchA=transBatchA,
                      transBatchB=transBatchB)
    params = [p for p in (activation_alpha, activation_beta, activation_gamma) if p is not None]
    return activated(b, out, activation, params)


@lowering("com.microsoft.BiasSoftmax")
def BiasSoftmax(b: Lowering, data: Value, bias: Value, *, is_inner_broadcast: int, axis: int = 1) -> Value:
    """Over all axes from `axis` on. The bias has fewer batches than the data: it is repeated inside of them, along the
    last ones, or as a whole."""
    at, shape, own = b.axis(axis, data), b.shape(data), b.shape(bias)
    if is_inner_broadcast:
        lead = len(own) - (len(shape) - at)
        if lead < 0 or lead > at:
            b.refuse(f"a bias of type {b.type(bias)} for data of type {b.type(data)} and axis {axis}")
        bias = b.reshape(bias, (*own[:lead], *(1,) * (at - lead), *own[lead:]))
    total = b.reshape(b.map("add", data, b.spread(bias, shape)), (product(shape[:at]), product(shape[at:])))
    return b.reshape(Softmax(b, total, axis=1), shape)


@lowering("com.microsoft.BranchwiseRMSNorm")
def BranchwiseRMSNorm(b: Lowering, X: Value, scale: Value | None = None, *, epsilon: float = 1e-5,
                      num_branches: int = 0) -> Value:
    x = b.cast(X, F32)
    if num_branches:
        *lead, width = b.shape(X)
        each = floordiv(width, num_branches)
        b.guard("eq", each * num_branches, width, f"the last axis is no {num_branches} branches")
        x = b.reshape(x, (*lead, num_branches, each))
    if b.rank(x) < 2:
        b.refuse(f"an input of type {b.type(X)} has no branches")
    branches, each = b.shape(x)[-2:]
    out = RMSNormalization(b, x, b.scalar(1, F32), epsilon=epsilon)
    if scale is not None:
        factor = b.cast(scale, F32)
        if b.rank(scale) == 1 and b.shape(scale)[0] != each:
            factor = b.reshape(factor, (branches, each))
        out = b.map("mul", out, b.spread(factor, b.shape(x)))
    return b.cast(b.reshape(out, b.shape(X)), b.dtype(X))


# ---- positions -----------------------------------------------------------------------------------------------------
@lowering("com.microsoft.RelativePositionBias")
def RelativePositionBias(b: Lowering, bias_table: Value, query_length: Value, key_length: Value, *, max_distance: int,
                         is_bidirectional: int = 0) -> Value:
    """A row of the table [buckets, heads] by the distance between a query and a key: near ones have buckets of their
    own, far ones share them by the logarithm of the distance."""
    buckets, count = b.shape(bias_table)
    (queries,), (keys,) = b.dims_of(query_length, "the query length"), b.dims_of(key_length, "the key length")
    if not isinstance(buckets, int) or max_distance < 1:
        b.refuse(f"{buckets} buckets up to a distance of {max_distance}")
    behind = b.map("sub", b.iota(keys, 2, 1), b.iota(queries, 2, 0))
    half = buckets // 2 if is_bidirectional else buckets
    exact = half // 2
    zero = b.scalar(0, I64)
    if is_bidirectional:
        first = b.map("select", b.map("gt", behind, zero), b.scalar(half, I64), zero)
        distance = b.map("abs", behind)
    else:
        first, distance = zero, b.map("neg", b.map("min", behind, zero))
    near = b.cast(b.map("max", distance, b.scalar(1, I64)), F32)
    steps = b.map("mul", b.map("log", b.map("div", near, b.scalar(exact, F32))),
                  b.scalar((half - exact) / math.log(max_distance / exact), F32))
    far = b.map("min", b.map("add", b.cast(steps, I64), b.scalar(exact, I64)), b.scalar(half - 1, I64))
    where = b.map("add", first, b.map("select", b.map("lt", distance, b.scalar(exact, I64)), distance, far))
    rows = b.value("t.gather", bias_table, where, axis=0)
    return b.reshape(b.transpose(rows, (2, 0, 1)), (1, count, queries, keys))


@lowering("com.microsoft.GatedRelativePositionBias")
def GatedRelativePositionBias(b: Lowering, query_layer: Value, query_bias: Value, rel_pos: Value, weight: Value,
                              bias: Value, eco_a: Value, token_offset: Value | None = None, *,
                              num_heads: int) -> Value:
    if token_offset is not None:
        b.refuse("packed tokens (token_offset) are not supported yet")
    q = heads(b, b.map("add", query_layer, b.spread(query_bias, b.shape(query_layer))), num_heads)
    batch, _, length, _ = b.shape(q)
    gates = b.map("add", contract(b, b.widen(q), b.widen(weight), "bhsk,kd->bhsd"), b.widen(bias))
    half = floordiv(b.shape(weight)[1], 2)
    sums = b.reduce(b.reshape(gates, (batch, num_heads, length, 2, half)), "add", [4], keepdims=False)
    u, r = (b.map("sigmoid", part(b, sums, 3, i, 1)) for i in (0, 1))
    one, two = b.scalar(1, u), b.scalar(2, u)
    gate = b.map("add", b.map("mul", u, b.map("sub", b.map("mul", r, b.widen(eco_a)), one)), two)
    return b.cast(b.map("mul", gate, b.widen(rel_pos)), b.dtype(query_layer))


@lowering("com.microsoft.TorchEmbedding")
def TorchEmbedding(b: Lowering, weight: Value, indices: Value, padding_idx: Value | None = None,
                   scale_grad_by_freq: Value | None = None) -> Value:
    return b.value("t.gather", weight, indices, axis=0)


# ---- complex numbers -----------------------------------------------------------------------------------------------
def _complex_product(b: Lowering, A: Value, B: Value, conjugate: bool) -> Value:
    for v in (A, B):
        if not b.rank(v):
            b.refuse("a scalar has no real and imaginary part")
        b.guard("eq", b.shape(v)[-1], 2, "the last axis is not a real and an imaginary part")
    (x, y), (u, v) = ([part(b, w, b.rank(w) - 1, i, 1) for i in (0, 1)] for w in map(b.widen, (A, B)))
    real = b.map("add" if conjugate else "sub", b.map("mul", x, u), b.map("mul", y, v))
    imaginary = b.map("sub" if conjugate else "add", b.map("mul", y, u), b.map("mul", x, v))
    return b.cast(b.value("t.concat", real, imaginary, axis=b.rank(real) - 1), b.dtype(A))


@lowering("com.microsoft.ComplexMul")
def ComplexMul(b: Lowering, A: Value, B: Value) -> Value:
    return _complex_product(b, A, B, conjugate=False)


@lowering("com.microsoft.ComplexMulConj")
def ComplexMulConj(b: Lowering, A: Value, B: Value) -> Value:
    return _complex_product(b, A, B, conjugate=True)


def _require_plain(b: Lowering, normalized: int, onesided: int, signal_ndim: int) -> None:
    if normalized or not onesided or signal_ndim != 1:
        b.refuse(f"a transform over {signal_ndim} axes (normalized {normalized}, onesided {onesided}); one-sided ones "
                 "over the last axis without a factor are known")


@lowering("com.microsoft.Rfft")
def Rfft(b: Lowering, X: Value, *, normalized: int = 0, onesided: int = 1, signal_ndim: int = 1) -> Value:
    _require_plain(b, normalized, onesided, signal_ndim)
    rank = b.rank(X)
    return DFT(b, b.reshape(X, (*b.shape(X), 1)), None, b.const(np.array(rank - 1)), onesided=1)


@lowering("com.microsoft.Irfft")
def Irfft(b: Lowering, X: Value, *, signal_ndim: int, normalized: int = 0, onesided: int = 1) -> Value:
    """With the factor 1/n, so that it takes back what Rfft does."""
    _require_plain(b, normalized, onesided, signal_ndim)
    out = DFT(b, X, None, b.const(np.array(b.rank(X) - 2)), inverse=1, onesided=1)
    return b.reshape(out, b.shape(out)[:-1])


# ---- integers ------------------------------------------------------------------------------------------------------
@lowering("com.microsoft.MulInteger")
def MulInteger(b: Lowering, A: Value, A_zero_point: Value | None, B: Value, B_zero_point: Value | None = None) -> Value:
    def centred(v: Value, zero: Value | None) -> Value:
        wide = b.cast(v, I32)
        return wide if zero is None else b.map("sub", wide, b.cast(b.reshape(zero, ()), I32))

    return b.map("mul", centred(A, A_zero_point), centred(B, B_zero_point))


def _axes(b: Lowering, v: Value, axes: Sequence[int]) -> list[int]:
    return [b.axis(a, v) for a in axes] if axes else list(range(b.rank(v)))


@lowering("com.microsoft.ReduceSumInteger")
def ReduceSumInteger(b: Lowering, data: Value, *, axes: Sequence[int], keepdims: int) -> Value:
    wide = b.cast(data, I32 if b.dtype(data).is_signed else U32)
    return b.reduce(wide, "add", _axes(b, data, axes), bool(keepdims))


@lowering("com.microsoft.QLinearReduceMean")
def QLinearReduceMean(b: Lowering, data: Value, data_scale: Value, data_zero_point: Value | None, reduced_scale: Value,
                      reduced_zero_point: Value | None = None, *, axes: Sequence[int], keepdims: int) -> Value:
    real = quantize.DequantizeLinear(b, data, b.reshape(data_scale, ()),
                                     None if data_zero_point is None else b.reshape(data_zero_point, ()))
    mean = b.mean(real, _axes(b, data, axes), bool(keepdims))
    zero = b.scalar(0, data) if reduced_zero_point is None else b.reshape(reduced_zero_point, ())
    return quantize.QuantizeLinear(b, mean, b.reshape(reduced_scale, ()), zero)


# ---- tests ---------------------------------------------------------------------------------------------------------
@lowering("com.microsoft.IsAllFinite")
def IsAllFinite(b: Lowering, *input: Value, isinf_only: int = 0, isnan_only: int = 0) -> Value:
    if isinf_only and isnan_only:
        b.refuse("isinf_only and isnan_only exclude each other")
    found: Value = b.const(np.array(False))
    for v in input:
        wide = b.widen(v)
        nan = b.map("isnan", wide)
        infinite = b.map("eq", b.map("abs", wide), b.scalar(math.inf, wide))
        bad = nan if isnan_only else infinite if isinf_only else b.map("or", nan, infinite)
        found = b.map("or", found, b.reduce(bad, "or", list(range(b.rank(v))), keepdims=False))
    return b.map("not", found)
