"""Matrix products: MatMul, Gemm."""

from __future__ import annotations

from onnxc.ir.core import Value
from onnxc.ir.types import F32, I32, U32, DType
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.table import lowering

_BATCH = "abcdefgh"
INNER = "Incompatible dimensions: the inner dims of a matrix product differ"


def contract(b: Lowering, lhs: Value, rhs: Value, spec: str) -> Value:
    """`t.contract`, in the element type that sums are kept in: whoever is done rounds it to that of the operands."""
    dtype = b.dtype(lhs)
    if b.dtype(rhs) != dtype:
        b.refuse(f"operands of element types {dtype} and {b.dtype(rhs)}")
    b.require_dtype(lhs, "float", "int", "uint")
    return b.value("t.contract", lhs, rhs, spec=spec, to=accumulator(dtype))


def accumulator(dtype: DType) -> DType:
    """The element type that sums of products of `dtype` are kept in: itself from 32 bits on, f32 or i32 below."""
    if dtype.bits >= 32:
        return dtype
    return F32 if dtype.is_float else I32 if dtype.kind == "int" else U32


@lowering
def MatMul(b: Lowering, A: Value, B: Value) -> Value:
    a_shape, b_shape = b.shape(A), b.shape(B)
    if not a_shape or not b_shape:
        b.refuse("a scalar has no matrix product")
    lhs = b.reshape(A, (1, *a_shape)) if len(a_shape) == 1 else A
    rhs = b.reshape(B, (*b_shape, 1)) if len(b_shape) == 1 else B
    b.guard("eq", b.shape(lhs)[-1], b.shape(rhs)[-2], INNER)
    out = b.cast(_batched(b, lhs, rhs), b.dtype(A))
    shape = list(b.shape(out))
    if len(b_shape) == 1:
        del shape[-1]
    if len(a_shape) == 1:
        del shape[-1 if len(b_shape) == 1 else -2]
    return b.reshape(out, shape)


def _batched(b: Lowering, lhs: Value, rhs: Value) -> Value:
    """Product over the last two axes; batch axes broadcast. An axis that only one side has repeats nothing: it is a row
    (or column) axis of that side."""
    x, y = b.shape(lhs)[:-2], b.shape(rhs)[:-2]
    if all(d == 1 for d in y):
        rhs = b.reshape(rhs, b.shape(rhs)[-2:])
        letters = _BATCH[:len(x)]
        out = contract(b, lhs, rhs, f"{letters}mk,kn->{letters}mn")
        missing = len(y) - len(x)
        return b.reshape(out, (*[1] * missing, *b.shape(out))) if missing > 0 else out
    rank = max(len(x), len(y))
    xs, ys = (1,) * (rank - len(x)) + x, (1,) * (rank - len(y)) + y
    lhs, rhs = b.reshape(lhs, (*xs, *b.shape(lhs)[-2:])), b.reshape(rhs, (*ys, *b.shape(rhs)[-2:]))
    target = b.joint_shape(xs, ys)
    lhs = b.broadcast_to(lhs, (*target, *b.shape(lhs)[-2:]))
    rhs = b.broadcast_to(rhs, (*target, *b.shape(rhs)[-2:]))
    letters = _BATCH[:rank]
    return contract(b, lhs, rhs, f"{letters}mk,{letters}kn->{letters}mn")


@lowering
def Gemm(b: Lowering, A: Value, B: Value, C: Value | None = None, *, alpha: float = 1.0, beta: float = 1.0,
         transA: int = 0, transB: int = 0) -> Value:
    for v in (A, B):
        if b.rank(v) != 2:
            b.refuse(f"a matrix has rank 2, not {b.rank(v)}")
    inner = b.shape(A)[0 if transA else 1], b.shape(B)[1 if transB else 0]
    b.guard("eq", *inner, INNER)
    out = contract(b, A, B, f"{'km' if transA else 'mk'},{'nk' if transB else 'kn'}->mn")
    if alpha != 1.0:
        out = b.map("mul", out, b.scalar(alpha, out))
    if C is not None and beta != 0.0:
        addend = b.cast(C, b.dtype(out))
        addend = addend if beta == 1.0 else b.map("mul", addend, b.scalar(beta, addend))
        out = b.map("add", out, b.spread(addend, b.shape(out)))
    return b.cast(out, b.dtype(A))
