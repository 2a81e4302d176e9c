"""The product of a sparse and a dense matrix of the domain com.microsoft."""

from __future__ import annotations

from onnxc.ir.core import Value
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.contrib_matmul import FusedMatMul
from onnxc.lowerings.index import Gather
from onnxc.lowerings.matmul import INNER
from onnxc.lowerings.scatter import ScatterND
from onnxc.lowerings.table import lowering

__all__: list[str] = []


@lowering("com.microsoft.SparseToDenseMatMul")
def SparseToDenseMatMul(b: Lowering, A: Value, B: Value, *, alpha: float = 1.0, transA: int = 0,
                        transB: int = 0) -> Value:
    """Of a sparse constant, which is dense by now; others are taken apart before (`passes/separate_sparse.py`)."""
    return FusedMatMul(b, A, B, alpha=alpha, transA=transA, transB=transB)


@lowering("ai.onnxc.SparseProduct")
def SparseProduct(b: Lowering, values: Value, places: Value, frame: Value, B: Value, *, alpha: float = 1.0,
                  transA: int = 0, transB: int = 0) -> Value:
    """On the parts of the sparse matrix: each value multiplies a row of the dense one, which is added to a row of the
    result. What the sparse matrix does not hold multiplies nothing, NaN included."""
    if b.rank(frame) != 3 or b.rank(B) != 2:
        b.refuse(f"a product takes matrices, not tensors of rank {b.rank(frame) - 1} and {b.rank(B)}")
    b.require_dtype(values, "float", "int", "uint")
    dense = b.transpose(B, (1, 0)) if transB else B
    (rows, inner), order = b.shape(frame)[:2], (1, 0) if transA else (0, 1)
    if transA:
        rows, inner = inner, rows
    b.guard("eq", inner, b.shape(dense)[0], INNER)
    count, width = b.shape(places)[0], b.shape(dense)[1]
    b.guard("eq", b.shape(values)[0], count, "there is not one place for each value")
    row, column = (b.value("t.slice", places, starts=(0, axis), sizes=(count, 1), steps=(1, 1))
                   for axis in order)
    picked = Gather(b, dense, b.reshape(column, (count,)))
    scaled = b.map("mul", b.value("t.reshape", values, shape=(count, 1)), picked)
    nothing = b.broadcast_to(b.scalar(0, values), (rows, width))
    product = ScatterND(b, nothing, row, scaled, reduction="add")
    return product if alpha == 1.0 else b.map("mul", product, b.scalar(alpha, values))
