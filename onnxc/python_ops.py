"""What is said of operators in Python when a model is compiled: which calls they take, and what results they have."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from onnxc.errors import InvalidArgument, UnsupportedModel, UnsupportedNode
from onnxc.ir.dims import DimLike, sym
from onnxc.ir.types import ALL_DTYPES, Seq, Tensor, Type, dtype_of
from onnxc.runtime.custom import PythonOp

if TYPE_CHECKING:
    from onnxc.passes.split_host import HostNode

__all__ = ["ArrayType", "element_types", "promised_types"]

_BY_TEXT = {text: d for d in ALL_DTYPES for text in (d.onnx_text, f"tensor({d.onnx_text})")}


class ArrayType(NamedTuple):
    """What is known of an array before a run: its dtype, and its shape, in which sizes that only a run tells are names;
    None for a shape of unknown rank."""

    dtype: np.dtype
    shape: tuple[int | str, ...] | None


def element_types(outputs: Any) -> list[Tensor]:
    """The types that a list in `register_op` declares. Raises InvalidArgument for what declares none."""
    return [_declared(entry) for entry in outputs]


def _declared(entry: Any) -> Tensor:
    dtype, shape = entry if isinstance(entry, (tuple, list)) and len(entry) == 2 else (entry, None)
    try:
        element = _BY_TEXT[dtype] if isinstance(dtype, str) and dtype in _BY_TEXT else \
            dtype_of(object if np.dtype(dtype).kind in "UT" else dtype)
        return Tensor(element, None if shape is None else tuple(map(_dim, shape)))
    except (TypeError, KeyError, ValueError):
        raise InvalidArgument(f"{entry!r} does not say what an output is; expected a dtype, or a pair of a dtype and a "
                              "shape of numbers and names: (np.float32, ['N', 3])") from None


def _dim(size: Any) -> DimLike:
    if size is None or isinstance(size, str):
        return sym("open")
    if int(size) < 0:
        raise ValueError
    return int(size)


def promised_types(op: PythonOp, node: HostNode, types: Sequence[Type | None]) -> tuple[Tensor | None, ...]:
    """The types that an operator says the results of a node have, None where it says nothing. Raises UnsupportedModel
    for a node that the function cannot be called for."""
    _check_call(op, node)
    if op.outputs is None:
        return (None,) * len(node.outputs)
    said = op.outputs
    if callable(said):
        given = [None if number is None else _shown(t) for number, t in zip(node.inputs, types, strict=True)]
        try:
            said = said(*given, **node.attrs)
        except Exception as error:
            raise _refused(op, node, f"`outputs` fails: {type(error).__name__}: {error}") from error
    try:
        found = element_types([said] if isinstance(said, (ArrayType, str, type, np.dtype)) else said)
    except (InvalidArgument, TypeError) as error:
        raise _refused(op, node, f"`outputs` gives {said!r}: {error}") from error
    if len(found) < len(node.outputs):
        raise _refused(op, node, f"`outputs` speaks of {len(found)} results; the node has {len(node.outputs)}")
    for i, (t, declared) in enumerate(zip(found, node.types, strict=False)):
        if isinstance(declared, Seq) or (isinstance(declared, Tensor) and "str" in (t.dtype.kind, declared.dtype.kind)
                                         and t.dtype != declared.dtype):
            raise _refused(op, node, f"`outputs` says that result {i} is {t.dtype}, and the model takes it for "
                                     f"{declared}. Give `outputs` as a list, which is known when the model is read.")
    return tuple(found[:len(node.outputs)])


def _check_call(op: PythonOp, node: HostNode) -> None:
    try:
        signature = inspect.signature(op.fn)
    except (TypeError, ValueError):
        return      # functions of C have none
    try:
        signature.bind(*node.inputs, **node.attrs)
    except TypeError as error:
        raise _refused(op, node, f"the function cannot be called with its inputs and attributes: {error}") from None


def _refused(op: PythonOp, node: HostNode, reason: str) -> UnsupportedModel:
    return UnsupportedModel([UnsupportedNode(node.loc, op.name, op.domain, reason)])


def _shown(t: Type | None) -> Any:
    """What `outputs` is given for an input; None for what is no tensor."""
    if not isinstance(t, Tensor):
        return None
    shape = None if t.shape is None else tuple(d if isinstance(d, int) else str(d) for d in t.shape)
    return ArrayType(t.dtype.numpy, shape)
