"""Rotary positions of the domain com.microsoft, and the heads that they turn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxc.ir.core import Value
from onnxc.ir.dims import DimLike, floordiv
from onnxc.ir.types import I64
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.slicing import Concat
from onnxc.lowerings.table import lowering

__all__ = ["at_positions", "heads", "merged", "part", "rotated", "static"]


# ---- heads ---------------------------------------------------------------------------------------------------------
def heads(b: Lowering, v: Value, heads: int) -> Value:
    """[batch, positions, heads * size] as [batch, heads, positions, size]."""
    if b.rank(v) != 3:
        b.refuse(f"a value of type {b.type(v)}; expected [batch, positions, hidden]")
    batch, length, hidden = b.shape(v)
    size = floordiv(hidden, heads)
    b.guard("eq", size * heads, hidden, f"the hidden size is no multiple of {heads} heads")
    return b.transpose(b.reshape(v, (batch, length, heads, size)), (0, 2, 1, 3))


def merged(b: Lowering, v: Value) -> Value:
    """[batch, heads, positions, size] as [batch, positions, heads * size]."""
    batch, heads, length, size = b.shape(v)
    return b.reshape(b.transpose(v, (0, 2, 1, 3)), (batch, length, heads * size))


def part(b: Lowering, v: Value, axis: int, start: DimLike, size: DimLike) -> Value:
    starts: list[DimLike] = [0] * b.rank(v)
    sizes = list(b.shape(v))
    starts[axis], sizes[axis] = start, size
    return b.value("t.slice", v, starts=tuple(starts), sizes=tuple(sizes), steps=(1,) * b.rank(v))


def static(b: Lowering, d: DimLike) -> int:
    if not isinstance(d, int):
        b.refuse(f"the size of a head is {d}; it has to be constant")
    return d


# ---- rotations -----------------------------------------------------------------------------------------------------
def rotated(b: Lowering, x: Value, cos: Value, sin: Value, interleaved: int) -> Value:
    """[batch, heads, positions, size] with its first elements turned in pairs, by cos and sin
    [batch, positions, pairs]."""
    pairs, size = static(b, b.shape(cos)[-1]), static(b, b.shape(x)[-1])
    batch, heads, length, _ = b.shape(x)
    turned = part(b, x, 3, 0, 2 * pairs)
    pair_shape = (pairs, 2) if interleaved else (2, pairs)
    both = b.reshape(turned, (batch, heads, length, *pair_shape))
    axis = 4 if interleaved else 3
    flat = (batch, heads, length, pairs)
    first, second = (b.reshape(part(b, both, axis, i, 1), flat) for i in (0, 1))
    c, s = (b.cast(b.reshape(v, (b.shape(v)[0], 1, *b.shape(v)[1:])), b.dtype(x)) for v in (cos, sin))
    left = b.map("sub", b.map("mul", first, c), b.map("mul", second, s))
    right = b.map("add", b.map("mul", first, s), b.map("mul", second, c))
    one = (*flat, 1) if interleaved else (*flat[:3], 1, pairs)
    out = b.reshape(Concat(b, b.reshape(left, one), b.reshape(right, one), axis=axis), (*flat[:3], 2 * pairs))
    return out if size == 2 * pairs else Concat(b, out, part(b, x, 3, 2 * pairs, size - 2 * pairs), axis=3)


def at_positions(b: Lowering, cache: Value, positions: Value, pairs: int | None = None) -> Value:
    rows = b.value("t.gather", cache, positions, axis=0)
    return rows if pairs is None else part(b, rows, b.rank(rows) - 1, 0, pairs)


@lowering("com.microsoft.RotaryEmbedding")
def RotaryEmbedding(b: Lowering, input: Value, position_ids: Value, cos_cache: Value, sin_cache: Value, *,
                    interleaved: int = 0, is_packed_batching: int = 0, num_heads: int = 0,
                    rotary_embedding_dim: int = 0, scale: float = 1.0) -> Value:
    if is_packed_batching:
        b.refuse("packed batches are not supported yet")
    x = _by_head(b, input, cos_cache, num_heads, rotary_embedding_dim)
    batch, _, length, _ = b.shape(x)
    place = position_ids
    if b.rank(place) == 1:
        place = b.map("add", b.reshape(b.cast(place, I64), (1, 1)), b.iota(length, 2, 1))
        place = b.broadcast_to(place, (batch, length))
    pairs = rotary_embedding_dim // 2 or None
    cos, sin = at_positions(b, cos_cache, place, pairs), at_positions(b, sin_cache, place, pairs)
    return _as_given(b, rotated(b, x, cos, sin, interleaved), input, scale)


def _by_head(b: Lowering, input: Value, cos_cache: Value, num_heads: int, rotary_embedding_dim: int) -> Value:
    """The input of a rotation as [batch, heads, positions, size]."""
    if b.rank(input) == 4:
        return input
    if num_heads:
        return heads(b, input, num_heads)
    if rotary_embedding_dim:
        b.refuse("rotary_embedding_dim without num_heads")
    hidden, size = b.shape(input)[-1], 2 * static(b, b.shape(cos_cache)[-1])
    return heads(b, input, static(b, floordiv(hidden, size)))


def _as_given(b: Lowering, out: Value, input: Value, scale: float) -> Value:
    """What was rotated, in the shape of the input."""
    if scale != 1.0:
        out = b.map("mul", out, b.scalar(scale, out))
    return out if b.rank(input) == 4 else merged(b, out)


@lowering("com.microsoft.MRotaryEmbedding")
def MRotaryEmbedding(b: Lowering, input: Value, position_ids: Value, cos_cache: Value, sin_cache: Value, *,
                     mrope_section: Sequence[int], interleaved: int = 0, is_packed_batching: int = 0,
                     mrope_layout: int = 0, num_heads: int = 0, rotary_embedding_dim: int = 0,
                     scale: float = 1.0) -> Value:
    """Positions in time, height and width, each of which turns its own pairs."""
    if is_packed_batching:
        b.refuse("packed batches are not supported yet")
    x = _by_head(b, input, cos_cache, num_heads, rotary_embedding_dim)
    batch, _, length, _ = b.shape(x)
    pairs = rotary_embedding_dim // 2 or static(b, b.shape(cos_cache)[-1])
    if len(mrope_section) != 3 or min(mrope_section) < 0 or sum(mrope_section) != pairs or mrope_layout not in (0, 1):
        b.refuse(f"sections {list(mrope_section)} of layout {mrope_layout} for {pairs} pairs")
    if b.rank(position_ids) != 3:
        b.refuse(f"positions of type {b.type(position_ids)}; expected [3, batch, positions]")
    b.guard("eq", b.shape(position_ids)[0], 3, "there are not three streams of positions")
    stream = np.repeat(np.arange(3), mrope_section)
    if mrope_layout:
        stream = np.zeros(pairs, np.int64)
        for i in (1, 2):
            stream[i:mrope_section[i] * 3:3] = i
    place = b.broadcast_to(position_ids, (3, batch, length))
    cos, sin = (_of_streams(b, at_positions(b, cache, place, pairs), stream) for cache in (cos_cache, sin_cache))
    return _as_given(b, rotated(b, x, cos, sin, interleaved), input, scale)


def _of_streams(b: Lowering, rows: Value, stream: np.ndarray) -> Value:
    """Of rows [3, batch, positions, pairs] that of its own stream for each pair."""
    shape = b.shape(rows)
    where = b.broadcast_to(b.const(stream.astype(np.int64)), (1, *shape[1:]))
    return b.reshape(b.value("t.gather_elements", rows, where, axis=0), shape[1:])
