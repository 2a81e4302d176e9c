"""AttributeProto -> IR attributes. Subgraphs are not attributes in the IR; the importer makes regions of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import AttributeProto

from onnxc import errors
from onnxc.errors import InvalidGraph
from onnxc.frontend.declared import type_of
from onnxc.frontend.problems import printable
from onnxc.frontend.tensors import TensorReader
from onnxc.ir.core import Attr

__all__ = ["attribute_value"]

_Reader = Callable[[AttributeProto, TensorReader, str], Attr]


def _string(s: bytes, reader: TensorReader, where: str) -> str | bytes:
    reader.limits.require("string_bytes", len(s), f"The length of a string in {where}")
    try:
        return s.decode()
    except UnicodeDecodeError:
        return s


def _tensor(a: AttributeProto, reader: TensorReader, where: str) -> np.ndarray:
    return reader.read(a.t, a.t.name or where)


_READERS: dict[int, _Reader] = {
    AttributeProto.FLOAT: lambda a, r, w: float(a.f),
    AttributeProto.INT: lambda a, r, w: int(a.i),
    AttributeProto.STRING: lambda a, r, w: _string(a.s, r, w),
    AttributeProto.TENSOR: _tensor,
    AttributeProto.SPARSE_TENSOR: lambda a, r, w: r.sparse(a.sparse_tensor),
    AttributeProto.TYPE_PROTO: lambda a, r, w: type_of(a.tp, None, r.limits, w),
    AttributeProto.FLOATS: lambda a, r, w: tuple(map(float, a.floats)),
    AttributeProto.INTS: lambda a, r, w: tuple(map(int, a.ints)),
    AttributeProto.STRINGS: lambda a, r, w: tuple(_string(s, r, w) for s in a.strings),
    AttributeProto.TENSORS: lambda a, r, w: tuple(r.read(t, t.name or w) for t in a.tensors),
    AttributeProto.SPARSE_TENSORS: lambda a, r, w: tuple(r.sparse(t) for t in a.sparse_tensors),
    AttributeProto.TYPE_PROTOS: lambda a, r, w: tuple(type_of(t, None, r.limits, w) for t in a.type_protos),
}


def attribute_value(a: AttributeProto, reader: TensorReader, where: str) -> Attr:
    """The value of an attribute; text that is not UTF-8 stays bytes. `where` names the node, for messages."""
    where = f"attribute '{printable(str(a.name))}' of {where}"
    read = _READERS.get(a.type)
    if read is not None:
        return read(a, reader, where)
    if a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
        raise errors.NotImplemented(f"{where} holds graphs in a form that onnxc does not implement (a list, or passed "
                                    "to a function).")
    raise InvalidGraph(f"{where} has type {a.type}, which is not an attribute type of ONNX.")
