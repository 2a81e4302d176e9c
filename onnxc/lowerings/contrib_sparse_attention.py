"""SparseAttention of the domain com.microsoft: grouped queries that see the blocks of keys which a layout names."""

from __future__ import annotations

from onnxc.ir.core import Value
from onnxc.ir.dims import DimLike
from onnxc.ir.types import I32, I64
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.contrib_attention import appended, attend, positions_before, projections
from onnxc.lowerings.contrib_rotary import at_positions, part, rotated
from onnxc.lowerings.table import lowering

__all__: list[str] = []


@lowering("com.microsoft.SparseAttention")
def SparseAttention(b: Lowering, query: Value, key: Value | None, value: Value | None, past_key: Value,
                    past_value: Value, block_row_indices: Value, block_col_indices: Value,
                    total_sequence_length: Value, key_total_sequence_lengths: Value, cos_cache: Value | None = None,
                    sin_cache: Value | None = None, *, kv_num_heads: int, num_heads: int, sparse_block_size: int,
                    do_rotary: int = 0, rotary_interleaved: int = 0, scale: float = 0.0) -> tuple[Value, ...]:
    if sparse_block_size < 1:
        b.refuse(f"blocks of {sparse_block_size} positions")
    q, k, v = projections(b, query, key, value, num_heads, kv_num_heads)
    batch, _, length, _ = b.shape(q)
    total = b.dims_of(total_sequence_length, "the total sequence length")[0]
    last = b.map("sub", b.cast(key_total_sequence_lengths, I64), b.scalar(1, I64))
    before = positions_before(b, last, batch, length, total)
    place = b.map("add", before, b.iota(length, 2, 1))                              # [batch, length]
    if do_rotary:
        if cos_cache is None or sin_cache is None:
            b.refuse("rotary positions without cos_cache and sin_cache")
        cos, sin = at_positions(b, cos_cache, place), at_positions(b, sin_cache, place)
        q, k = (rotated(b, x, cos, sin, rotary_interleaved) for x in (q, k))
    room = b.shape(past_key)[2]
    b.at_most(total, room, "the cache has too few positions")
    k, v = (appended(b, old, new, before, room) for old, new in ((past_key, k), (past_value, v)))
    query_at, key_at = b.reshape(place, (batch, 1, length, 1)), b.iota(total, 4, 3)
    seen = _seen(b, block_row_indices, block_col_indices, num_heads, query_at, key_at, sparse_block_size)
    hidden = b.map("or", b.map("gt", key_at, query_at), b.map("not", seen))
    near = [part(b, x, 2, 0, total) for x in (k, v)]
    return attend(b, q, near[0], near[1], scale, [], hidden), k, v


def _seen(b: Lowering, rows: Value, columns: Value, heads: int, query_at: Value, key_at: Value, block: int) -> Value:
    """Whether the layout of a head has the block of a query and a key; heads take the layouts in turn."""
    layouts, blocks = _blocks(b, rows, columns)
    size = b.scalar(block, I64)
    shape = b.common_shape(query_at, key_at, b.iota(heads, 4, 1))
    layout = b.map("mod", b.iota(heads, 4, 1), b.dim(layouts))
    where = [b.reshape(b.broadcast_to(v, shape), (*shape, 1)) for v in (
        layout, b.map("div", query_at, size), b.map("div", key_at, size))]
    found = b.value("t.gather_nd", blocks, b.value("t.concat", *where, axis=4), batch=0)
    return b.map("ne", found, b.scalar(0, found))


def _blocks(b: Lowering, rows: Value, columns: Value) -> tuple[DimLike, Value]:
    """How many layouts there are, and 1 for each block that they hold: [layouts, rows, columns]."""
    if b.rank(rows) != 2 or b.rank(columns) != 2:
        b.refuse(f"layouts of types {b.type(rows)} and {b.type(columns)}; both have to be matrices")
    (layouts, ends), entries = b.shape(rows), b.shape(columns)[1]
    blocks = ends - 1
    end = part(b, rows, 1, 1, blocks)
    passed = b.map("le", b.reshape(end, (layouts, 1, blocks)), b.iota(entries, 3, 1, I32))
    row = b.reduce(b.cast(passed, I64), "add", [2], keepdims=False)                # of each entry; `blocks` behind all
    used = b.map("lt", row, b.dim(blocks))
    zero, shape = b.scalar(0, I64), (layouts, entries)
    where = [b.reshape(b.broadcast_to(v, shape), (*shape, 1)) for v in (
        b.iota(layouts, 2, 0), b.map("select", used, row, zero), b.map("select", used, b.cast(columns, I64), zero))]
    nothing = b.broadcast_to(b.scalar(0, I32), (layouts, blocks, blocks))
    return layouts, b.value("t.scatter_nd", nothing, b.value("t.concat", *where, axis=2), b.cast(used, I32),
                            reduction="max")
