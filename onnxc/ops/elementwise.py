"""Elementwise tensor ops: a `t.<name>` for every row of the scalar table, with numpy's broadcasting, and `t.cast`.

Broadcasting is what the types alone show: dims that are equal, a literal 1, or missing. Any other pair of dims is an
error here; whoever knows that it is right (and guards it at run time) makes it plain with `t.broadcast`.
Element types narrower than those that arithmetic is done in are computed in `DType.compute` and rounded back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxc.ir.dims import DimLike, Shape
from onnxc.ir.registry import REQUIRED, TypeInferenceError, register
from onnxc.ir.types import BOOL, Tensor, Type, dtype_named, dtype_of
from onnxc.ops.conversion import convert
from onnxc.ops.scalar import SCALARS, ScalarOp, result_dtype

__all__ = ["broadcast_shapes", "evaluate_row"]


def broadcast_shapes(*shapes: Shape) -> Shape:
    """The common shape under numpy's rule, where the dims show it; TypeInferenceError for any other pair of dims."""
    rank = max((len(s) for s in shapes), default=0)
    out: list[DimLike] = [1] * rank
    for shape in shapes:
        for i, dim in enumerate(shape, rank - len(shape)):
            if out[i] == 1:
                out[i] = dim
            elif dim != 1 and dim != out[i]:
                texts = " and ".join(f"[{', '.join(map(str, s))}]" for s in shapes)
                raise TypeInferenceError(f"shapes {texts} do not broadcast by themselves: axis {i - rank} is {out[i]} "
                                         f"and {dim}; use t.broadcast")
    return tuple(out)


def evaluate_row(row: ScalarOp, *arrays: np.ndarray) -> np.ndarray:
    """The row on arrays of any element types it takes, narrow ones computed in their compute type and rounded back."""
    last = dtype_of(np.asarray(arrays[-1]).dtype)
    if row.rule == "select" or last.compute == last.name:
        return np.asarray(row.numpy(*map(np.asarray, arrays)))
    compute = dtype_named(last.compute)
    result = np.asarray(row.numpy(*(convert(a, compute) for a in arrays)))
    return result if row.rule in ("compare", "logical") else convert(result, last)


def _infer(row: ScalarOp, types: Sequence[Any]) -> list[Type]:
    for i, t in enumerate(types):
        if not isinstance(t, Tensor) or t.shape is None:
            raise TypeInferenceError(f"operand {i} of t.{row.name} must be a tensor of known rank, not {t}")
    dtype = result_dtype(row, [t.dtype for t in types], narrow=True)
    return [Tensor(dtype, broadcast_shapes(*(t.dims for t in types)))]


def _register(row: ScalarOp) -> None:
    register(f"t.{row.name}", ", ".join(f"x{i}" for i in range(row.arity)),
             traits="pure elementwise" + " commutative" * row.commutative,
             infer=lambda types, attrs: _infer(row, types), ref=lambda attrs, *xs: evaluate_row(row, *xs), doc=row.doc)


def _infer_cast(types: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    if not isinstance(types[0], Tensor):
        raise TypeInferenceError(f"t.cast converts a tensor, not {types[0]}")
    return [Tensor(attrs["to"], types[0].shape)]


for _row in SCALARS.values():
    if not _row.unchecked:
        _register(_row)


def _infer_bitcast(types: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    t, to = types[0], attrs["to"]
    if not isinstance(t, Tensor) or t.dtype.bits != to.bits or to.bits < 8 or BOOL in (t.dtype, to):
        raise TypeInferenceError(f"t.bitcast of {t} to {to}: the widths must be equal and whole bytes, and bool has no "
                                 "bits to share")
    return [Tensor(to, t.shape)]


register("t.cast", "x", attrs={"to": REQUIRED, "saturate": True}, traits="pure elementwise", infer=_infer_cast,
         ref=lambda attrs, x: convert(x, attrs["to"], attrs["saturate"]), doc="convert elements (see s.cast)")
register("t.bitcast", "x", attrs={"to": REQUIRED}, traits="pure elementwise", infer=_infer_bitcast,
         ref=lambda attrs, x: np.ascontiguousarray(x).view(attrs["to"].numpy).reshape(np.shape(x)),
         doc="the same bits as another type of the same width; a signalling NaN of a type narrower than f32 comes out "
             "quiet")
