"""Narrow weights of a contraction as packed arrays, computed when compiling: see `narrow` for what lies where."""

from __future__ import annotations

from typing import cast

import numpy as np

from onnxc.codegen.accesses import Accesses
from onnxc.codegen.interp import run_kernel
from onnxc.codegen.llvm.contract_form import clone_region, contraction_of
from onnxc.codegen.llvm.narrow import Narrow, group_of, stored_type
from onnxc.codegen.llvm.prepack_arrays import Operand, aligned_copy, strided_copy
from onnxc.ir.core import Attr, Block, Func, Op, Value
from onnxc.ir.dims import ceildiv, sym
from onnxc.ir.types import DType, Mem, Scalar

__all__ = ["in_narrow_panels", "is_grouped"]


def is_grouped(narrow: Narrow, operand: Operand) -> bool:
    """Whether blocks begin where words do."""
    depth = operand.shape[0]
    return narrow.block >= depth or narrow.block % group_of(narrow.dtype) == 0


def in_narrow_panels(func: Func, operand: Operand, narrow: Narrow,
                     columns: int) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Codes [panels, groups, columns, group]; scales and zero points [panels, blocks, columns] in f32, None where they
    are 1 and 0."""
    depth, width = operand.shape
    blocks = cast(int, ceildiv(depth, narrow.block))
    dtype, stored = narrow.dtype, stored_type(narrow.dtype)
    if dtype.is_float:
        return aligned_copy(_in_panels(_codes(func, operand, narrow), columns, 1)), None, None
    middle = 0 if dtype.is_signed else 1 << (dtype.bits - 1)
    codes = _codes(func, operand, narrow).astype(np.int16) - middle
    scale, zero = (None if v is None else _shared(func, operand, v, narrow.block, blocks)
                   for v in (narrow.scale, narrow.zero))
    if middle or zero is not None:
        zero = (np.zeros((blocks, width), np.float32) if zero is None else zero) - np.float32(middle)
    group = group_of(dtype)
    packed = _in_panels(codes.astype(np.int8), columns, group).astype(stored.numpy)
    parameters = [None if v is None or (v == unit).all() else _in_panels(v, columns, 1)[..., 0]
                  for v, unit in ((scale, 1), (zero, 0))]
    return aligned_copy(packed), *(None if v is None else aligned_copy(v) for v in parameters)  # type: ignore


def _in_panels(matrix: np.ndarray, columns: int, group: int) -> np.ndarray:
    """[k, n] as [panels, groups, columns, group], zero past the ends."""
    k, n = matrix.shape
    groups, panels = -(-k // group), -(-n // columns)
    padded = np.zeros((groups * group, panels * columns), matrix.dtype)
    padded[:k, :n] = matrix
    return padded.reshape(groups, group, panels, columns).transpose(2, 0, 3, 1)


def _codes(func: Func, operand: Operand, narrow: Narrow) -> np.ndarray:
    """The codes, [k, n]."""
    array = operand.arrays[narrow.codes.operand(0)]
    copy = strided_copy(array, Accesses(func).flat(narrow.codes), [*operand.k, *operand.own])
    if copy is not None:
        return copy.reshape(operand.shape)
    return _evaluated(func, operand, narrow.codes.result, 1, operand.shape[0])


def _shared(func: Func, operand: Operand, value: Value, block: int, blocks: int) -> np.ndarray:
    """A value that blocks of k share, [blocks, n] in f32."""
    return _evaluated(func, operand, value, block, blocks).astype(np.float32)


def _evaluated(func: Func, operand: Operand, value: Value, step: int, count: int) -> np.ndarray:
    """A value of the operand's region at every `step`-th k, [count, n]."""
    (along, _), *_ = operand.k
    (column, width), *_ = operand.own
    dtype: DType = cast(Scalar, value.type).dtype
    arguments = list(operand.arrays)
    types = [*(a.type for a in arguments), Mem(dtype, (count, width))]
    kernel = Func("shared", types, [*(a.name for a in arguments), "out"], kind="kernel")
    values: dict[Value, Value] = dict(zip(arguments, kernel.args[:-1], strict=True))
    body = Block()
    clone_region(contraction_of(func).regions[1], body, {along: sym(along) * step}, values)
    index = {"index": (sym(along), sym(column)), "where": (), "combine": None}
    body.append(Op("k.store", [kernel.args[-1], values[value]], [], index))
    loop: dict[str, Attr] = {"axes": (sym(along), sym(column)), "extents": (count, width)}
    kernel.body.append(Op("k.parallel", (), (), loop, [body]))
    out = np.zeros((count, cast(int, width)), dtype.numpy)
    arrays = [np.ascontiguousarray(a).reshape(cast(Mem, v.type).shape) for v, a in operand.arrays.items()]
    run_kernel(kernel, [*arrays, out], {})
    return out
