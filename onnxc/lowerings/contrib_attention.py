"""Attention ops of the domain com.microsoft, as products and softmax; heads in front of positions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxc.ir.core import Value
from onnxc.ir.dims import DimLike, dim_max, floordiv
from onnxc.ir.types import F32, I64
from onnxc.lowerings.activation import Softmax
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.contrib_quantize import MatMulIntegerToFloat
from onnxc.lowerings.contrib_rotary import at_positions, heads, merged, part, rotated, static
from onnxc.lowerings.matmul import MatMul, contract
from onnxc.lowerings.slicing import Concat
from onnxc.lowerings.table import lowering

__all__ = ["appended", "attend", "positions_before", "projections"]

_LOWEST = float(np.finfo(np.float32).min)


# ---- pieces --------------------------------------------------------------------------------------------------------
def attend(b: Lowering, q: Value, k: Value, v: Value, scale: float, biases: Sequence[Value],
            hidden: Value | None = None, softcap: float = 0.0) -> Value:
    """softmax(q k' * scale + biases) v for [batch, heads, positions, size]. Fewer heads of k and v serve several of q
    each. `biases` and `hidden`, true for pairs that are left out, broadcast to the scores."""
    batch, heads, length, size = b.shape(q)
    groups, total = b.shape(k)[1], b.shape(k)[2]
    each = floordiv(heads, groups)
    grouped = b.reshape(b.widen(q), (batch, groups, each, length, size))
    scores = contract(b, grouped, b.widen(k), "bhgsd,bhtd->bhgst")
    scores = b.map("mul", scores, b.scalar(scale or 1 / math.sqrt(static(b, size)), scores))
    scores = b.reshape(scores, (batch, heads, length, total))
    if softcap:
        cap = b.scalar(softcap, scores)
        scores = b.map("mul", b.map("tanh", b.map("div", scores, cap)), cap)
    for bias in biases:
        scores = b.map("add", scores, b.spread(b.widen(bias), b.shape(scores)))
    if hidden is not None:
        scores = b.map("select", hidden, b.scalar(_LOWEST, scores), scores)
    weights = b.reshape(Softmax(b, scores, axis=-1), (batch, groups, each, length, total))
    out = contract(b, weights, b.widen(v), "bhgst,bhtd->bhgsd")
    return merged(b, b.cast(b.reshape(out, (batch, heads, length, b.shape(v)[3])), b.dtype(q)))


def _later(b: Lowering, length: DimLike, total: DimLike) -> Value:
    """True where a key stands behind its query, [length, total]; the last query stands at the last key."""
    query = b.map("add", b.iota(length, 2, 0), b.dim(total - length))
    return b.map("gt", b.iota(total, 2, 1), query)


def _padding(b: Lowering, mask: Value, batch: DimLike, total: DimLike, value: float) -> Value:
    """A mask of keys, 1 where they count, as a bias: lengths [batch], [batch, keys] or [batch, queries, keys]."""
    rank = b.rank(mask)
    if rank == 1:
        b.guard("eq", b.shape(mask)[0], batch, "a mask of rank 1 has one length a batch; other forms are not known")
        counts = b.map("lt", b.iota(total, 2, 1), b.reshape(b.cast(mask, I64), (batch, 1)))
    elif rank in (2, 3):
        counts = b.map("ne", mask, b.scalar(0, mask))
    else:
        b.refuse(f"a mask of type {b.type(mask)}")
    bias = b.map("select", counts, b.scalar(0, F32), b.scalar(value, F32))
    shape = b.shape(bias)
    return b.reshape(bias, (shape[0], 1, 1, shape[1]) if len(shape) == 2 else (shape[0], 1, *shape[1:]))


# ---- attention -----------------------------------------------------------------------------------------------------
@lowering("com.microsoft.MultiHeadAttention")
def MultiHeadAttention(b: Lowering, query: Value, key: Value | None = None, value: Value | None = None,
                       bias: Value | None = None, key_padding_mask: Value | None = None,
                       attention_bias: Value | None = None, past_key: Value | None = None,
                       past_value: Value | None = None, past_sequence_length: Value | None = None,
                       cache_indirection: Value | None = None, *, num_heads: int, mask_filter_value: float = -10000.0,
                       scale: float = 0.0, unidirectional: int = 0) -> tuple[Value | None, ...]:
    if key is None or value is None or b.rank(query) != 3:
        b.refuse("packed queries, keys and values are not supported yet")
    if past_sequence_length is not None or cache_indirection is not None:
        b.refuse("a shared cache (past_sequence_length, cache_indirection) is not supported yet")
    parts = _with_bias(b, (query, key, value), bias)
    q, k, v = (x if b.rank(x) == 4 else heads(b, x, num_heads) for x in parts)
    if past_key is not None and past_value is not None:
        k, v = Concat(b, past_key, k, axis=2), Concat(b, past_value, v, axis=2)
    length, total = b.shape(q)[2], b.shape(k)[2]
    biases = [] if attention_bias is None else [attention_bias]
    if key_padding_mask is not None:
        biases.append(_padding(b, key_padding_mask, b.shape(q)[0], total, mask_filter_value))
    hidden = _later(b, length, total) if unidirectional else None
    return attend(b, q, k, v, scale, biases, hidden), k, v, None


@lowering("com.microsoft.Attention")
def Attention(b: Lowering, input: Value, weights: Value, bias: Value | None = None, mask_index: Value | None = None,
              past: Value | None = None, attention_bias: Value | None = None,
              past_sequence_length: Value | None = None, *, num_heads: int, do_rotary: int = 0,
              mask_filter_value: float = -10000.0, past_present_share_buffer: int = 0,
              qkv_hidden_sizes: Sequence[int] | None = None, rotary_embedding_dim: int = 0, scale: float = 0.0,
              unidirectional: int = 0) -> tuple[Value, Value]:
    if do_rotary or past_present_share_buffer or past_sequence_length is not None:
        b.refuse("rotary positions and shared caches are not supported yet")
    joint = MatMul(b, input, weights)
    if bias is not None:
        joint = b.map("add", joint, bias)
    return _of_projections(b, joint, qkv_hidden_sizes, num_heads, mask_index, past, attention_bias, scale,
                           mask_filter_value, unidirectional)


def _of_projections(b: Lowering, joint: Value, given: Sequence[int] | None, num_heads: int, mask: Value | None,
                    past: Value | None, bias: Value | None, scale: float, mask_value: float,
                    causal: int) -> tuple[Value, Value]:
    """Attention of queries, keys and values that lie one after the other, and the keys and values with the past's."""
    sizes: list[DimLike] = list(given or ()) or [floordiv(b.shape(joint)[-1], 3)] * 3
    q, k, v = (heads(b, part(b, joint, 2, sum(sizes[:i], 0), sizes[i]), num_heads) for i in range(3))
    if past is not None:
        before = [b.reshape(part(b, past, 0, i, 1), b.shape(past)[1:]) for i in (0, 1)]
        k, v = Concat(b, before[0], k, axis=2), Concat(b, before[1], v, axis=2)
    length, total = b.shape(q)[2], b.shape(k)[2]
    biases = [] if bias is None else [bias]
    if mask is not None:
        biases.append(_padding(b, mask, b.shape(q)[0], total, mask_value))
    out = attend(b, q, k, v, scale, biases, _later(b, length, total) if causal else None)
    present = b.value("t.concat", *(b.reshape(x, (1, *b.shape(x))) for x in (k, v)), axis=0) if b.wants(1) else None
    return out, present  # type: ignore[return-value]


@lowering("com.microsoft.QAttention")
def QAttention(b: Lowering, input: Value, weight: Value, bias: Value, input_scale: Value, weight_scale: Value,
               mask_index: Value | None = None, input_zero_point: Value | None = None,
               weight_zero_point: Value | None = None, past: Value | None = None, *, num_heads: int,
               do_rotary: int = 0, mask_filter_value: float = -10000.0, past_present_share_buffer: int = 0,
               scale: float = 0.0, unidirectional: int = 0) -> tuple[Value, Value]:
    """The projections are a product of bytes; attention is that of their floats."""
    if do_rotary or past_present_share_buffer:
        b.refuse("rotary positions and shared caches are not supported yet")
    joint = MatMulIntegerToFloat(b, input, weight, input_scale, weight_scale, input_zero_point, weight_zero_point, bias)
    return _of_projections(b, joint, None, num_heads, mask_index, past, None, scale, mask_filter_value, unidirectional)


@lowering("com.microsoft.DecoderMaskedMultiHeadAttention")
def DecoderMaskedMultiHeadAttention(
        b: Lowering, query: Value, key: Value | None = None, value: Value | None = None,
        mask_index: Value | None = None, attention_bias: Value | None = None, past_key: Value | None = None,
        past_value: Value | None = None, past_sequence_length: Value | None = None, beam_width: Value | None = None,
        cache_indirection: Value | None = None, bias: Value | None = None, *, num_heads: int,
        mask_filter_value: float = -10000.0, output_qk: int = 0, past_present_share_buffer: int = 0,
        scale: float = 0.0) -> tuple[Value | None, ...]:
    """MultiHeadAttention of one new position, whose operands stand in another order. A shared cache has room behind the
    `past_sequence_length` positions that count."""
    if cache_indirection is not None or output_qk:
        b.refuse("caches by beam, and the scores as an output, are not supported yet")
    b.guard("eq", b.shape(query)[1], 1, "there is more than one new position")
    if key is None or value is None:
        size = floordiv(b.shape(query)[2], 3)
        b.guard("eq", size * 3, b.shape(query)[2], "the packed queries, keys and values are not of one size")
        query, key, value = (part(b, query, 2, size * i, size) for i in range(3))
    if not past_present_share_buffer or past_key is None or past_value is None:
        return MultiHeadAttention(b, query, key, value, bias, mask_index, attention_bias, past_key, past_value,
                                  num_heads=num_heads, mask_filter_value=mask_filter_value, scale=scale)
    if past_sequence_length is None:
        b.refuse("a shared cache without past_sequence_length")
    batch, room = b.shape(query)[0], b.shape(past_key)[2]
    before = b.broadcast_to(b.reshape(b.cast(past_sequence_length, I64), (1, 1)), (batch, 1))
    q, k, v = (heads(b, x, num_heads) for x in _with_bias(b, (query, key, value), bias))
    k, v = (appended(b, old, new, before, room) for old, new in ((past_key, k), (past_value, v)))
    biases = [] if attention_bias is None else [_lengthened(b, attention_bias, room)]
    if mask_index is not None:
        biases.append(_padding(b, _lengthened(b, mask_index, room), batch, room, mask_filter_value))
    hidden = b.map("gt", b.iota(room, 4, 3), b.reshape(before, (batch, 1, 1, 1)))
    return attend(b, q, k, v, scale, biases, hidden), k, v, None


def _lengthened(b: Lowering, v: Value, size: DimLike) -> Value:
    """`v` with zeros behind, `size` along its last axis."""
    rank, room = b.rank(v), size - b.shape(v)[-1]
    b.at_most(b.shape(v)[-1], size, "a mask or bias is longer than the cache")
    return b.value("t.pad", v, low=(0,) * rank, high=(*(0,) * (rank - 1), room)) if room != 0 else v


def _with_bias(b: Lowering, parts: Sequence[Value], bias: Value | None) -> list[Value]:
    """Each part, [batch, positions, hidden] or by head already, with its stretch of the bias; not those by head."""
    out = list(parts)
    start: DimLike = 0
    for i, x in enumerate(parts if bias is not None else ()):
        size = b.shape(x)[-1]
        if b.rank(x) == 3 and bias is not None:
            out[i] = b.map("add", x, part(b, bias, 0, start, size))
        start = start + size
    return out


@lowering("com.microsoft.GroupQueryAttention")
def GroupQueryAttention(b: Lowering, query: Value, key: Value | None, value: Value | None, past_key: Value | None,
                        past_value: Value | None, seqlens_k: Value, total_sequence_length: Value,
                        cos_cache: Value | None = None, sin_cache: Value | None = None,
                        position_ids: Value | None = None, attention_bias: Value | None = None,
                        head_sink: Value | None = None, k_scale: Value | None = None, v_scale: Value | None = None,
                        q_norm_weight: Value | None = None, k_norm_weight: Value | None = None, *, num_heads: int,
                        kv_num_heads: int, causal: int = 1, do_rotary: int = 0, k_quant_type: str = "NONE",
                        kv_cache_bit_width: int = 0, local_window_size: int = -1, qk_norm_epsilon: float = 1e-6,
                        qk_output: int = 0, rotary_interleaved: int = 0, scale: float = 0.0,
                        sliding_window_cache: int = 0, smooth_softmax: int = 0, softcap: float = 0.0,
                        v_quant_type: str = "NONE") -> tuple[Value | None, ...]:
    """Each batch has filled its own part of the caches: its new keys follow that, and queries see what is before."""
    unknown = {"head_sink": head_sink, "k_scale": k_scale, "v_scale": v_scale, "q_norm_weight": q_norm_weight,
               "k_norm_weight": k_norm_weight}
    given = [n for n, v in unknown.items() if v is not None] + [n for n, on in (
        ("sliding_window_cache", sliding_window_cache), ("smooth_softmax", smooth_softmax > 0),
        ("qk_output", qk_output), ("causal = 0", not causal)) if on]
    if given:
        b.refuse(f"{', '.join(given)} not supported yet")
    q, k, v = projections(b, query, key, value, num_heads, kv_num_heads)
    batch, _, length, _ = b.shape(q)
    held = b.shape(past_key)[2] if past_key is not None else 0
    totals = b.dims_of(total_sequence_length, "the total sequence length")
    size = dim_max(held, totals[0])
    before = positions_before(b, seqlens_k, batch, length, totals[0])
    place = b.map("add", before, b.iota(length, 2, 1))                                  # [batch, length]
    if do_rotary and cos_cache is not None and sin_cache is not None:
        at = place if position_ids is None else position_ids
        cos, sin = at_positions(b, cos_cache, at), at_positions(b, sin_cache, at)
        q, k = (rotated(b, x, cos, sin, rotary_interleaved) for x in (q, k))
    k, v = (appended(b, old, new, before, size) for old, new in ((past_key, k), (past_value, v)))
    query_at, key_at = b.reshape(place, (batch, 1, length, 1)), b.iota(size, 4, 3)
    hidden = b.map("gt", key_at, query_at)
    if local_window_size >= 0:
        first = b.map("sub", query_at, b.scalar(local_window_size - 1, I64))
        hidden = b.map("or", hidden, b.map("lt", key_at, first))
    biases = [] if attention_bias is None else [attention_bias]
    return attend(b, q, k, v, scale, biases, hidden, softcap), k, v, None


def projections(b: Lowering, query: Value, key: Value | None, value: Value | None, count: int, groups: int) -> Any:
    """Queries, keys and values by head; without keys, all three lie in the query one after the other."""
    if key is not None and value is not None:
        return heads(b, query, count), heads(b, key, groups), heads(b, value, groups)
    size = floordiv(b.shape(query)[-1], count + 2 * groups)
    starts = (0, size * count, size * (count + groups))
    return tuple(heads(b, part(b, query, 2, start, size * n), n)
                 for start, n in zip(starts, (count, groups, groups), strict=True))


def positions_before(b: Lowering, seqlens_k: Value, batch: DimLike, length: DimLike, total: DimLike) -> Value:
    """How many positions of its cache each batch has filled, [batch, 1]: none when all positions are new."""
    own = b.map("sub", b.reshape(b.cast(seqlens_k, I64), (batch, 1)), b.dim(length - 1))
    return b.map("select", b.map("eq", b.dim(length), b.dim(total)), b.scalar(0, I64), own)


def appended(b: Lowering, old: Value | None, new: Value, before: Value, size: DimLike) -> Value:
    """The cache, of `size` positions, with the new ones behind the `before` that count, and zeros behind these."""
    batch, heads, length, width = b.shape(new)
    start = b.reshape(before, (batch, 1, 1, 1))
    cache = b.broadcast_to(b.scalar(0, new), (batch, heads, size, width))
    if old is not None:
        room = size - b.shape(old)[2]
        wide = b.value("t.pad", old, low=(0, 0, 0, 0), high=(0, 0, room, 0)) if room != 0 else old
        cache = b.map("select", b.map("lt", b.iota(size, 4, 2), start), wide, cache)
    at = b.broadcast_to(b.map("add", start, b.iota(length, 4, 2)), b.shape(new))
    return b.value("t.scatter_elements", cache, at, new, axis=2, reduction="none")
