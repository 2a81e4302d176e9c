"""ONNX Runtime's own model format -> the message that an ONNX file holds.

A flatbuffer with the root table InferenceSession and the identifier ORTM. Slots below are those of the public schema
(onnxruntime/core/flatbuffers/schema/ort.fbs). What only ONNX Runtime needs (edges, kernel types, recorded rewrites) is
not read: the graph says the same. Data of large initializers stays in the file's bytes.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, TypeProto

from onnxc import errors
from onnxc.errors import Fail, InvalidArgument
from onnxc.frontend.ort_buffer import Damaged, Reader, Record

__all__ = ["parse_ort_format"]

_IDENTIFIER = b"ORTM"
_VERSIONS = ("5", "6")
_LARGE = 1 << 14
_NO_OFFSET = -1
_VALUE, _PARAMETER = 1, 2                   # of DimensionValueType
_TENSOR, _SEQUENCE, _MAP = 1, 2, 3          # of TypeInfoValue
_A = AttributeProto

Blobs = dict[int, np.ndarray]


def parse_ort_format(data: memoryview) -> tuple[ModelProto, Blobs]:
    """The model, and the raw data of its large initializers by position. Raises Fail for bytes that are no such model,
    or of a version that is not known."""
    try:
        return _model(Reader(data).root(_IDENTIFIER))
    except (Damaged, UnicodeDecodeError) as error:
        raise Fail(f"ORT model verification failed. The bytes are no model in ONNX Runtime's format, or were damaged "
                   f"({error}).") from None


def _model(session: Record) -> tuple[ModelProto, Blobs]:
    version = session.text(0).decode(errors="replace")
    if version not in _VERSIONS:
        raise Fail(f"The ORT format model version [{version[:20]!r}] is not supported; {' and '.join(_VERSIONS)} are. "
                   "Convert the ONNX model anew with onnxruntime.tools.convert_onnx_models_to_ort, or open the ONNX "
                   "model.")
    model = session.table(1)
    graph = model.table(7) if model is not None else None
    if model is None or graph is None:
        raise InvalidArgument("No graph was found in the ORT format model.")
    proto = ModelProto(ir_version=model.number(0, "i64"), producer_name=model.text(2).decode(),
                       producer_version=model.text(3).decode(), domain=model.text(4).decode(),
                       doc_string=model.text(6).decode())
    # Written for models without a version too, as the largest number.
    if 0 <= model.number(5, "i64") < (1 << 63) - 1:
        proto.model_version = model.number(5, "i64")
    for entry in model.tables(1):
        proto.opset_import.add(domain=entry.text(0).decode(), version=entry.number(1, "i64"))
    for entry in model.tables(9):
        proto.metadata_props.add(key=entry.text(0).decode(), value=entry.text(1).decode())
    blobs: Blobs = {}
    _graph(graph, proto.graph, blobs)
    proto.graph.doc_string = model.text(8).decode()
    return proto, blobs


def _graph(table: Record, proto: GraphProto, blobs: Blobs | None) -> None:
    """Fill in a graph; `blobs` takes large data, where the graph is the model's."""
    proto.SetInParent()
    for i, tensor in enumerate(table.tables(0)):
        _tensor(tensor, proto.initializer.add(), blobs, i)
    types = {name: kind for name, kind in map(_value, table.tables(1)) if kind is not None}
    proto.node.extend(map(_node, table.tables(2)))
    inputs, outputs = ([name.decode() for name in table.texts(slot)] for slot in (5, 6))
    for names, values in ((inputs, proto.input), (outputs, proto.output),
                          (types.keys() - {*inputs, *outputs, ""}, proto.value_info)):
        for name in sorted(names) if values is proto.value_info else names:
            value = values.add(name=name)
            if name in types:
                value.type.CopyFrom(types[name])
    for sparse in table.tables(7):
        _sparse(sparse, proto.sparse_initializer.add())


def _node(table: Record) -> NodeProto:
    return NodeProto(name=table.text(0).decode(), doc_string=table.text(1).decode(), domain=table.text(2).decode(),
                     op_type=table.text(5).decode(), input=_names(table.texts(8)), output=_names(table.texts(9)),
                     attribute=map(_attribute, table.tables(10)))


def _names(texts: Iterable[bytes]) -> list[str]:
    return [t.decode() for t in texts]


def _attribute(table: Record) -> AttributeProto:
    kind = table.number(2, "i32")
    proto = AttributeProto(name=table.text(0).decode(), doc_string=table.text(1).decode())
    if kind not in _ATTRIBUTE_SLOTS:
        raise errors.NotImplemented(f"Attribute {proto.name!r} of type {kind} in an ORT format model: onnxc does not "
                                    "read it.")
    proto.type = kind
    if kind == _A.FLOAT:
        proto.f = table.number(3, "f32")
    elif kind == _A.INT:
        proto.i = table.number(4, "i64")
    elif kind == _A.STRING:
        proto.s = table.text(5)
    elif kind == _A.TENSOR:
        _tensor(_required(table, 6), proto.t)
    elif kind == _A.GRAPH:
        _graph(_required(table, 7), proto.g, None)
    elif kind == _A.FLOATS:
        proto.floats.extend(_numbers(table, 8, "f32"))
    elif kind == _A.INTS:
        proto.ints.extend(_numbers(table, 9, "i64"))
    elif kind == _A.STRINGS:
        proto.strings.extend(table.texts(10))
    elif kind == _A.TENSORS:
        for tensor in table.tables(11):
            _tensor(tensor, proto.tensors.add())
    else:
        for graph in table.tables(12):
            _graph(graph, proto.graphs.add(), None)
    return proto


_ATTRIBUTE_SLOTS = frozenset({_A.FLOAT, _A.INT, _A.STRING, _A.TENSOR, _A.GRAPH, _A.FLOATS, _A.INTS, _A.STRINGS,
                              _A.TENSORS, _A.GRAPHS})


def _required(table: Record, slot: int) -> Record:
    found = table.table(slot)
    if found is None:
        raise Damaged(f"the table of field {slot} is missing")
    return found


def _numbers(table: Record, slot: int, kind: str) -> list[float]:
    found = table.numbers(slot, kind)
    table.reader.decode(found.nbytes)
    return found.tolist()


def _tensor(table: Record, proto: TensorProto, blobs: Blobs | None = None, position: int = 0) -> None:
    """Fill in a tensor; its data goes to `blobs` where it is large and there are such."""
    proto.SetInParent()
    proto.name, proto.doc_string = table.text(0).decode(), table.text(1).decode()
    proto.dims.extend(_numbers(table, 2, "i64"))
    proto.data_type = table.number(3, "i32")
    if table.number(6, "i64", _NO_OFFSET) != _NO_OFFSET:
        raise errors.NotImplemented(f"Tensor {proto.name[:200]!r} of an ORT format model has its data in another file, "
                                    "which onnxc does not read: open the ONNX model.")
    if proto.data_type == TensorProto.STRING:
        proto.string_data.extend(table.texts(5))
        return
    data = table.numbers(4, "u8")
    if blobs is not None and data.size >= _LARGE:
        blobs[position] = data
    else:
        table.reader.decode(data.size)
        proto.raw_data = data.tobytes()


def _sparse(table: Record, proto: SparseTensorProto) -> None:
    _tensor(_required(table, 0), proto.values)
    _tensor(_required(table, 1), proto.indices)
    proto.dims.extend(_numbers(table, 2, "i64"))


def _value(table: Record) -> tuple[str, TypeProto | None]:
    """Name and type of a value; nodes' arguments without a type have None."""
    info = table.table(2)
    name = table.text(0).decode()
    if info is None:
        return name, None
    proto = TypeProto()
    return name, proto if _type(info, proto) else None


def _type(table: Record, proto: TypeProto) -> bool:
    """Fill in a type; False where the table says none."""
    proto.denotation = table.text(0).decode()
    kind, value = table.number(1, "u8"), table.table(2)
    if value is None:
        return False
    if kind == _TENSOR:
        proto.tensor_type.elem_type = value.number(0, "i32")
        shape = value.table(1)
        if shape is not None:
            proto.tensor_type.shape.SetInParent()
            for dim in shape.tables(0):
                _dim(dim, proto.tensor_type.shape.dim.add())
    elif kind == _SEQUENCE:
        return _type(_required(value, 0), proto.sequence_type.elem_type)
    elif kind == _MAP:
        proto.map_type.key_type = value.number(0, "i32")
        return _type(_required(value, 1), proto.map_type.value_type)
    else:
        raise Damaged(f"there is no kind {kind} of types")
    return True


def _dim(table: Record, proto: object) -> None:
    value = table.table(0)
    proto.denotation = table.text(1).decode()  # type: ignore[attr-defined]
    kind = value.number(0, "i8") if value is not None else 0
    if kind == _VALUE:
        proto.dim_value = value.number(1, "i64")  # type: ignore[attr-defined, union-attr]
    elif kind == _PARAMETER:
        proto.dim_param = value.text(2).decode()  # type: ignore[attr-defined, union-attr]
