"""Matrix products of the domain com.microsoft: fused with their neighbours, or with weights of a few bits."""

from __future__ import annotations

import numpy as np

from onnxc.ir.core import Value
from onnxc.ir.dims import DimLike, ceildiv
from onnxc.ir.types import F32, I32, U8, U32, DType, dtype_named
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.matmul import INNER, MatMul, contract
from onnxc.lowerings.slicing import Concat
from onnxc.lowerings.table import lowering

__all__ = ["unpacked"]


# ---- weights of a few bits -----------------------------------------------------------------------------------------
def unpacked(b: Lowering, v: Value, bits: int) -> Value:
    """The elements in bytes of 8 // bits elements each, low bits first, along the last axis."""
    if bits not in (2, 4, 8) or b.dtype(v) != U8:
        b.refuse(f"{bits} bits in elements of {b.dtype(v)}; 2, 4 or 8 in u8 are known")
    if bits == 8:
        return v
    shape, each = b.shape(v), 8 // bits
    array, mask = b.constant(v), (1 << bits) - 1
    if array is not None:
        parts = np.stack([(array >> (bits * i)) & mask for i in range(each)], -1)
        narrow: DType = dtype_named(f"u{bits}")
        return b.const(parts.reshape(*array.shape[:-1], -1).astype(narrow.numpy))
    wide = b.reshape(b.cast(v, I32), (*shape, 1))
    shifts = b.const(np.array([1 << (bits * i) for i in range(each)], np.int32))
    one = b.map("mod", b.map("div", wide, shifts), b.scalar(mask + 1, I32))
    return b.cast(b.reshape(one, (*shape[:-1], shape[-1] * each)), U8)


def _per_block(b: Lowering, v: Value, rows: int, blocks: int, what: str) -> Value:
    """A parameter of one element a block, as [rows, blocks, 1]."""
    b.guard("eq", b.type(v).size, rows * blocks, f"there is not one {what} for each block")
    return b.reshape(v, (rows, blocks, 1))


@lowering("com.microsoft.MatMulNBits")
def MatMulNBits(b: Lowering, A: Value, B: Value, scales: Value, zero_points: Value | None = None,
                g_idx: Value | None = None, bias: Value | None = None, *, K: int, N: int, block_size: int,
                bits: int = 4, accuracy_level: int = 0, weight_prepacked: int = 0) -> Value:
    """A times the transposed weights [N, K], which are (B - zero point) * scale a block of `block_size` along K."""
    if g_idx is not None:
        b.refuse("groups that are given by g_idx are not supported yet")
    if weight_prepacked:
        b.refuse("weights in a device's own layout (weight_prepacked) are not known here")
    blocks = ceildiv(K, block_size)
    assert isinstance(blocks, int)                              # of ints
    b.guard("eq", b.type(B).size, N * blocks * (block_size * bits // 8), "the weights are not N * K elements in blocks")
    b.guard("eq", b.shape(A)[-1], K, INNER)
    q = unpacked(b, b.reshape(B, (N, blocks, block_size * bits // 8)), bits)
    zero = _zero_points(b, zero_points, N, blocks, bits)
    factor = b.cast(_per_block(b, scales, N, blocks, "scale"), F32)
    weights = b.reshape(b.map("mul", b.map("sub", b.cast(q, F32), zero), factor), (N, blocks * block_size))
    if blocks * block_size != K:
        weights = b.value("t.slice", weights, starts=(0, 0), sizes=(N, K), steps=(1, 1))
    letters = "abcdefgh"[:b.rank(A) - 1]
    out = contract(b, b.cast(A, F32), weights, f"{letters}k,nk->{letters}n")
    if bias is not None:
        out = b.map("add", out, b.cast(bias, F32))
    return b.cast(out, b.dtype(A))


def _zero_points(b: Lowering, v: Value | None, rows: int, blocks: int, bits: int) -> Value:
    """As [rows, blocks, 1] in f32. Those in bytes are packed, and each row starts with a byte of its own."""
    if v is None:
        return b.scalar(1 << (bits - 1), F32)
    if b.dtype(v).is_float:
        return b.cast(_per_block(b, v, rows, blocks, "zero point"), F32)
    width = (blocks * bits + 7) // 8
    b.guard("eq", b.type(v).size, rows * width, "there is not one zero point for each block")
    whole = unpacked(b, b.reshape(v, (rows, width)), bits)
    own = b.value("t.slice", whole, starts=(0, 0), sizes=(rows, blocks), steps=(1, 1))
    return b.reshape(b.cast(own, F32), (rows, blocks, 1))


_NORMAL_FLOATS = (-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
                  -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
                  0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023,
                  1.0)
_FLOATS = (0.0, 0.0052083334885537624, 0.6666666865348816, 1.0, 0.3333333432674408, 0.5, 0.1666666716337204, 0.25)
# What the codes of bitsandbytes stand for, by quant_type: floats of a sign and three bits, quantiles of normal ones.
_BNB_TABLES = {0: (*_FLOATS, *(-v for v in _FLOATS)), 1: _NORMAL_FLOATS}


@lowering("com.microsoft.MatMulBnb4")
def MatMulBnb4(b: Lowering, A: Value, B: Value, absmax: Value, *, K: int, N: int, block_size: int, quant_type: int,
               training_mode: int = 0, transB: int = 1) -> Value:
    """The weights [N, K] are codes, two in a byte and the first in its upper half, times one scale a block of the flat
    weights."""
    if quant_type not in _BNB_TABLES or block_size < 1:
        b.refuse(f"quant_type {quant_type} in blocks of {block_size}; 0 (FP4) and 1 (NF4) are known")
    count = N * K
    b.guard("eq", b.type(B).size, ceildiv(count, 2), "the weights are not N * K elements of 4 bits")
    b.guard("eq", b.type(absmax).size, ceildiv(count, block_size), "there is not one scale for each block")
    b.guard("eq", b.shape(A)[-1], K if transB else N, INNER)
    codes = b.cast(b.reshape(B, (b.type(B).size, 1)), I32)
    halves = [b.map("div", codes, b.scalar(16, I32)), b.map("mod", codes, b.scalar(16, I32))]
    flat = b.reshape(Concat(b, *halves, axis=1), (b.type(B).size * 2,))
    table = b.const(np.array(_BNB_TABLES[quant_type], np.float32))
    values = b.value("t.gather", table, _first_of(b, flat, count), axis=0)
    scale = _repeated(b, b.cast(b.reshape(absmax, (b.type(absmax).size,)), F32), block_size, count)
    weights = b.reshape(b.map("mul", values, scale), (N, K))
    letters = "abcdefgh"[:b.rank(A) - 1]
    return b.cast(contract(b, b.cast(A, F32), weights, f"{letters}k,{'nk' if transB else 'kn'}->{letters}n"),
                  b.dtype(A))


def _first_of(b: Lowering, v: Value, count: DimLike) -> Value:
    return v if b.shape(v) == (count,) else b.value("t.slice", v, starts=(0,), sizes=(count,), steps=(1,))


@lowering("com.microsoft.MatMulInteger16")
def MatMulInteger16(b: Lowering, A: Value, B: Value) -> Value:
    both_unsigned = not b.dtype(A).is_signed and not b.dtype(B).is_signed
    to = U32 if both_unsigned else I32
    return MatMul(b, b.cast(A, to), b.cast(B, to))


# ---- fused with neighbours -----------------------------------------------------------------------------------------
@lowering("com.microsoft.FusedMatMul")
def FusedMatMul(b: Lowering, A: Value, B: Value, *, alpha: float = 1.0, transA: int = 0, transB: int = 0,
                transBatchA: int = 0, transBatchB: int = 0) -> Value:
    left, right = _turned(b, A, transA, transBatchA), _turned(b, B, transB, transBatchB)
    out = MatMul(b, left, right)
    return out if alpha == 1.0 else b.map("mul", out, b.scalar(alpha, out))


def _turned(b: Lowering, v: Value, last: int, batch: int) -> Value:
    """`batch` moves the first axis in front of the last one, then `last` swaps the last two."""
    rank = b.rank(v)
    order = list(range(rank))
    if batch and rank > 2:
        order = [*order[1:-1], 0, rank - 1]
    if last and rank > 1:
        order[-2:] = order[:-3:-1]
    return b.transpose(v, order)


@lowering("com.microsoft.TransposeMatMul")
def TransposeMatMul(b: Lowering, A: Value, B: Value, *, alpha: float = 1.0, transA: int = 0, transB: int = 0) -> Value:
    return FusedMatMul(b, A, B, alpha=alpha, transA=transA, transB=transB)


# ---- rows of quantised tables --------------------------------------------------------------------------------------
@lowering("com.microsoft.GatherBlockQuantized")
def GatherBlockQuantized(b: Lowering, data: Value, indices: Value, scales: Value, zero_points: Value | None = None, *,
                         bits: int = 4, block_size: int = 128, gather_axis: int = 0, quantize_axis: int = 1) -> Value:
    """Rows of a table, dequantised a block along the last axis; elements in u8 are packed as MatMulNBits has them."""
    if b.axis(gather_axis, data) != 0 or b.axis(quantize_axis, data) != b.rank(data) - 1 or b.rank(data) < 2:
        b.refuse("only rows (gather_axis 0) that are quantised along the last axis are supported")
    in_bytes = b.dtype(data) == U8
    default = 1 << (bits - 1) if in_bytes else 0

    def rows(v: Value) -> Value:
        return b.value("t.gather", v, indices, axis=0)

    def elements(v: Value, count: DimLike) -> Value:
        whole = unpacked(b, v, bits) if in_bytes else v
        own = (*b.shape(whole)[:-1], count)
        return b.cast(b.value("t.slice", whole, starts=(0,) * len(own), sizes=own, steps=(1,) * len(own)), F32)

    count = b.shape(data)[-1] * (8 // bits if in_bytes else 1)
    factor = b.cast(rows(scales), F32)
    blocks = b.shape(factor)[-1]
    b.guard("eq", blocks, ceildiv(count, block_size), "there is not one scale for each block")
    zero = b.scalar(default, F32) if zero_points is None else elements(rows(zero_points), blocks)
    spread = [v if b.rank(v) == 0 else _repeated(b, v, block_size, count) for v in (zero, factor)]
    out = b.map("mul", b.map("sub", elements(rows(data), count), spread[0]), spread[1])
    return b.cast(out, b.dtype(scales))


def _repeated(b: Lowering, v: Value, block: int, count: DimLike) -> Value:
    """Each element of the last axis `block` times, the first `count` of them."""
    lead, blocks = b.shape(v)[:-1], b.shape(v)[-1]
    wide = b.broadcast_to(b.reshape(v, (*lead, blocks, 1)), (*lead, blocks, block))
    flat = b.reshape(wide, (*lead, blocks * block))
    sizes = (*lead, count)
    return b.value("t.slice", flat, starts=(0,) * len(sizes), sizes=sizes, steps=(1,) * len(sizes))
