"""The message that an ONNX file holds -> ONNX Runtime's own model format, as `ort_format.py` reads it.

The format has no place for functions and Constant nodes, and says of every value its type, of every node the version
of its operator, its default attributes and who gives it what, and of every operator which arguments share a type. All
of this follows from the graph and the schemas, and is worked out here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
import onnx.inliner
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, helper, numpy_helper
from onnx.defs import OpSchema

from onnxc import errors
from onnxc.errors import InvalidArgument
from onnxc.frontend.flat_writer import FlatWriter, TooLarge

__all__ = ["ort_format_bytes"]

_IDENTIFIER, _VERSION = b"ORTM", "6"
_PROVIDER = "CPUExecutionProvider"
_NO_VERSION = (1 << 63) - 1
_ALIGN = 8                                  # of the data of tensors
_LAST_TYPE = TensorProto.FLOAT8E5M2FNUZ     # later ones have no number in the format
_VALUE, _PARAMETER = 1, 2                   # of DimensionValueType
_TENSOR, _SEQUENCE, _MAP = 1, 2, 3          # of TypeInfoValue
_A = AttributeProto
Types = Mapping[str, TypeProto]


def ort_format_bytes(model: ModelProto) -> bytes:
    """The model, whose weights are inside, in ONNX Runtime's format. Operators stay as they are, so that ONNX Runtime
    itself opens it where it has a kernel for each of them; it has none for some that it takes apart or casts around.

    Raises NotImplemented for what the format cannot hold: an operator without a schema, a value of an unknown or
    optional type, elements below a byte; and InvalidArgument for a model above 2 GiB.
    """
    plain = onnx.inliner.inline_local_functions(model) if model.functions else model
    try:
        proto = onnx.shape_inference.infer_shapes(plain, data_prop=True)
        return _Writer({_domain(o.domain): o.version for o in proto.opset_import}).model(proto)
    except (TooLarge, ValueError) as error:
        raise InvalidArgument(f"The model cannot be written in ONNX Runtime's format: {error}. It holds models below "
                              "2 GiB; choose a path that ends in \".onnx\".") from None


def _refuse(what: str) -> errors.NotImplemented:
    return errors.NotImplemented(f"{what}: ONNX Runtime's format has no place for it. Choose a path that ends in "
                                 "\".onnx\".")


@dataclasses.dataclass(frozen=True, slots=True)
class _Scope:
    """A graph whose Constant nodes became tensors, and the types of the values that it sees."""

    graph: GraphProto
    nodes: Sequence[NodeProto]
    constants: Sequence[TensorProto]
    types: Types


class _Writer(FlatWriter):
    """Writes the tables of one model."""

    def __init__(self, opsets: Mapping[str, int]) -> None:
        super().__init__()
        self._opsets = opsets
        self._operators: dict[tuple[str, str, int], OpSchema] = {}

    # ---- the model ---------------------------------------------------------------------------------------------------

    def model(self, proto: ModelProto) -> bytes:
        graph = self._graph(proto.graph, {})
        opsets = self.offsets([self.table((0, "at", self.text(domain)), (1, "i64", version))
                                for domain, version in self._opsets.items()])
        texts = [(slot, "at", self.text(text)) for slot, text in (
            (2, proto.producer_name), (3, proto.producer_version), (4, proto.domain), (6, proto.doc_string),
            (8, proto.graph.doc_string))]
        entries = self.offsets([self.table((0, "at", self.text(e.key)), (1, "at", self.text(e.value)))
                                 for e in proto.metadata_props])
        version = proto.model_version if proto.HasField("model_version") else _NO_VERSION
        model = self.table((0, "i64", proto.ir_version), (1, "at", opsets), (5, "i64", version), (7, "at", graph),
                            (9, "at", entries), *texts)
        kinds, number = self._kinds(), self.text(_VERSION)
        session = self.table((0, "at", number), (1, "at", model), (3, "at", kinds))
        return self.finish(session, _IDENTIFIER)

    def _kinds(self) -> int:
        """KernelTypeStrResolver: of each operator, which arguments have the type that a constraint is about, or, for
        those without a constraint, which argument has its name."""
        entries = []
        for (domain, name, version), schema in sorted(self._operators.items(), key=lambda i: _identity(*i[0])):
            constraints = {c.type_param_str for c in schema.type_constraints}
            users: dict[str, list[tuple[int, int]]] = {}
            for side, formals in enumerate((schema.inputs, schema.outputs)):
                for i, formal in enumerate(formals):
                    text = formal.type_str if formal.type_str in constraints else formal.name
                    users.setdefault(text, []).append((side, i))
            kinds = []
            for text, places in sorted(users.items()):
                arguments = self.offsets([self.table((0, "i8", side), (1, "u32", i)) for side, i in places])
                kinds.append(self.table((0, "at", self.text(text)), (1, "at", arguments)))
            vector, identity = self.offsets(kinds), self.text(_identity(domain, name, version))
            entries.append(self.table((0, "at", identity), (1, "at", vector)))
        return self.table((0, "at", self.offsets(entries)))

    # ---- graphs ------------------------------------------------------------------------------------------------------

    def _graph(self, graph: GraphProto, outer: Types) -> int:
        nodes = [n for n in graph.node if not _is_constant(n)]
        constants = [*graph.initializer, *(_constant(n) for n in graph.node if _is_constant(n))]
        scope = _Scope(graph, nodes, constants, {**outer, **_types(graph, constants)})
        written = self.offsets([self._node(node, i, scope) for i, node in enumerate(nodes)])
        arguments = self.offsets([self._value(name, scope.types) for name in _names(scope)])
        tensors = self.offsets([self._tensor(t) for t in constants])
        sparse = self.offsets([self._sparse(t) for t in graph.sparse_initializer])
        edges = self._edges(nodes)
        ends = [self.texts(v.name for v in values) for values in (graph.input, graph.output)]
        return self.table((0, "at", tensors), (1, "at", arguments), (2, "at", written), (3, "u32", len(nodes)),
                           (4, "at", edges), (5, "at", ends[0]), (6, "at", ends[1]), (7, "at", sparse))

    def _edges(self, nodes: Sequence[NodeProto]) -> int:
        """Who reads which result of whom; what subgraphs read stands behind a node's own inputs."""
        makers = {name: (i, slot) for i, n in enumerate(nodes) for slot, name in enumerate(n.output) if name}
        into: list[list[tuple[int, int, int]]] = [[] for _ in nodes]
        out: list[list[tuple[int, int, int]]] = [[] for _ in nodes]
        for i, node in enumerate(nodes):
            for place, name in enumerate([*node.input, *_implicit(node)]):
                if name in makers:
                    maker, slot = makers[name]
                    into[i].append((maker, slot, place))
                    out[maker].append((i, slot, place))
        return self.offsets([self.table((0, "u32", i), (1, "at", self._ends(into[i])), (2, "at", self._ends(out[i])))
                              for i in range(len(nodes))])

    def _ends(self, ends: Sequence[tuple[int, int, int]]) -> int:
        """A vector of structs: the node, the place among its results, and the place among what the other reads."""
        return self.structs(sorted(ends))

    def _node(self, node: NodeProto, index: int, scope: _Scope) -> int:
        domain = _domain(node.domain)
        schema = self._schema(node, domain)
        attributes = [self._attribute(a, scope.types) for a in _all_attributes(node, schema)]
        fields = [(slot, "at", self.text(text)) for slot, text in (
            (0, node.name), (1, node.doc_string), (2, domain), (5, node.op_type), (7, _PROVIDER))]
        fields += [(slot, "at", self.texts(names)) for slot, names in (
            (8, node.input), (9, node.output), (12, _implicit(node)))]
        fields += [(10, "at", self.offsets(attributes)),
                   (11, "at", self.numbers(_counts(len(node.input), schema), np.int32))]
        return self.table(*fields, (3, "i32", schema.since_version), (4, "u32", index))

    def _schema(self, node: NodeProto, domain: str) -> OpSchema:
        try:
            schema = onnx.defs.get_schema(node.op_type, self._opsets[domain], domain)
        except (KeyError, onnx.defs.SchemaError):
            raise _refuse(f"Node '{node.name}' of type {domain}:{node.op_type}, whose schema is not known") from None
        self._operators[domain, node.op_type, schema.since_version] = schema
        return schema

    def _attribute(self, proto: AttributeProto, types: Types) -> int:
        if proto.type not in _ATTRIBUTES:
            raise _refuse(f"Attribute '{proto.name}' of type {_A.AttributeType.Name(proto.type)}")
        slot, kind = _ATTRIBUTES[proto.type]
        values = {
            _A.FLOAT: lambda: proto.f, _A.INT: lambda: proto.i, _A.STRING: lambda: self.text(proto.s),
            _A.TENSOR: lambda: self._tensor(proto.t), _A.GRAPH: lambda: self._graph(proto.g, types),
            _A.FLOATS: lambda: self.numbers(proto.floats, np.float32),
            _A.INTS: lambda: self.numbers(proto.ints, np.int64), _A.STRINGS: lambda: self.texts(proto.strings),
            _A.TENSORS: lambda: self.offsets([self._tensor(t) for t in proto.tensors]),
            _A.GRAPHS: lambda: self.offsets([self._graph(g, types) for g in proto.graphs])}
        value, name, doc = values[proto.type](), self.text(proto.name), self.text(proto.doc_string)
        return self.table((0, "at", name), (1, "at", doc), (2, "i32", proto.type), (slot, kind, value))

    # ---- values ------------------------------------------------------------------------------------------------------

    def _tensor(self, tensor: TensorProto) -> int:
        if tensor.data_type > _LAST_TYPE:
            raise _refuse(f"Tensor '{tensor.name}' of elements {TensorProto.DataType.Name(tensor.data_type)}")
        if tensor.data_type == TensorProto.STRING:
            data = (5, "at", self.texts(tensor.string_data))
        else:
            raw = tensor.raw_data if tensor.HasField("raw_data") else numpy_helper.to_array(tensor).tobytes()
            data = (4, "at", self.array(np.frombuffer(raw, np.uint8), _ALIGN))
        name, doc, dims = self.text(tensor.name), self.text(tensor.doc_string), self.numbers(tensor.dims, np.int64)
        # Data lies inside, which an offset of -1 says; and -1 is what a missing field means.
        return self.table((0, "at", name), (1, "at", doc), (2, "at", dims), (3, "i32", tensor.data_type), data)

    def _sparse(self, tensor: onnx.SparseTensorProto) -> int:
        values, indices = self._tensor(tensor.values), self._tensor(tensor.indices)
        return self.table((0, "at", values), (1, "at", indices), (2, "at", self.numbers(tensor.dims, np.int64)))

    def _value(self, name: str, types: Types) -> int:
        if not name:        # what stands for an input that is left out
            return self.table((0, "at", self.text(name)))
        if name not in types:
            raise _refuse(f"The value '{name}', whose type is not known")
        kind = self._type(types[name], name)
        return self.table((0, "at", self.text(name)), (2, "at", kind))

    def _type(self, proto: TypeProto, name: str) -> int:
        which = proto.WhichOneof("value")
        if which == "tensor_type":
            number, value = _TENSOR, self._tensor_type(proto.tensor_type)
        elif which == "sequence_type":
            number, value = _SEQUENCE, self.table((0, "at", self._type(proto.sequence_type.elem_type, name)))
        elif which == "map_type":
            inner = self._type(proto.map_type.value_type, name)
            number, value = _MAP, self.table((0, "i32", proto.map_type.key_type), (1, "at", inner))
        else:
            raise _refuse(f"The value '{name}' of an {which or 'unknown'}")
        return self.table((0, "at", self.text(proto.denotation)), (1, "u8", number), (2, "at", value))

    def _tensor_type(self, proto: TypeProto.Tensor) -> int:
        if not proto.HasField("shape"):
            return self.table((0, "i32", proto.elem_type))
        dims = []
        for dim in proto.shape.dim:
            number = (0, "i8", _VALUE if dim.HasField("dim_value") else _PARAMETER if dim.dim_param else 0)
            value = self.table(number, (1, "i64", dim.dim_value), (2, "at", self.text(dim.dim_param)))
            dims.append(self.table((0, "at", value), (1, "at", self.text(dim.denotation))))
        shape = self.table((0, "at", self.offsets(dims)))
        return self.table((0, "i32", proto.elem_type), (1, "at", shape))


#: Kinds of attributes: the slot of the value and how it is written.
_ATTRIBUTES = {_A.FLOAT: (3, "f32"), _A.INT: (4, "i64"), _A.STRING: (5, "at"), _A.TENSOR: (6, "at"),
               _A.GRAPH: (7, "at"), _A.FLOATS: (8, "at"), _A.INTS: (9, "at"), _A.STRINGS: (10, "at"),
               _A.TENSORS: (11, "at"), _A.GRAPHS: (12, "at")}


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _identity(domain: str, name: str, version: int) -> str:
    return f"{domain}:{name}:{version}"


# ---- what follows from a graph ---------------------------------------------------------------------------------------

def _is_constant(node: NodeProto) -> bool:
    return node.op_type == "Constant" and node.domain in ("", "ai.onnx")


def _constant(node: NodeProto) -> TensorProto:
    """The tensor that a Constant node gives."""
    attribute, = node.attribute
    name, value = node.output[0], helper.get_attribute_value(attribute)
    if attribute.type == _A.TENSOR:
        tensor = TensorProto()
        tensor.CopyFrom(value)
        tensor.name = name
        return tensor
    if attribute.type in (_A.STRING, _A.STRINGS):
        texts = value if attribute.type == _A.STRINGS else [value]
        return helper.make_tensor(name, TensorProto.STRING, [len(texts)] if attribute.type == _A.STRINGS else [], texts)
    if attribute.type in (_A.INT, _A.INTS, _A.FLOAT, _A.FLOATS):
        dtype = np.int64 if attribute.type in (_A.INT, _A.INTS) else np.float32
        return numpy_helper.from_array(np.array(value, dtype), name)
    raise _refuse(f"The sparse constant '{name}'")


def _types(graph: GraphProto, constants: Iterable[TensorProto]) -> dict[str, TypeProto]:
    """Types of the values of a graph by name, as far as they are known."""
    found = {t.name: helper.make_tensor_type_proto(t.data_type, t.dims) for t in constants}
    for sparse in graph.sparse_initializer:
        found[sparse.values.name] = helper.make_tensor_type_proto(sparse.values.data_type, sparse.dims)
    found.update((v.name, v.type) for values in (graph.value_info, graph.output, graph.input) for v in values
                 if v.type.WhichOneof("value"))
    return found


def _names(scope: _Scope) -> list[str]:
    """Every value that a graph speaks of, once; that without a name stands for what is left out."""
    names = [v.name for v in scope.graph.input] + [t.name for t in scope.constants]
    names += [t.values.name for t in scope.graph.sparse_initializer]
    for node in scope.nodes:
        names += [*node.input, *_implicit(node), *node.output]
    return list(dict.fromkeys([*names, *(v.name for v in scope.graph.output)]))


def _implicit(node: NodeProto) -> list[str]:
    """The values around a node that its subgraphs read."""
    inner = [g for a in node.attribute for g in ([a.g] if a.type == _A.GRAPH else a.graphs)]
    return list(dict.fromkeys(name for graph in inner for name in _free(graph)))


def _free(graph: GraphProto) -> list[str]:
    """The values that a graph reads and does not have."""
    own = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    own |= {o for n in graph.node for o in n.output}
    own |= {t.values.name for t in graph.sparse_initializer}
    read = [name for n in graph.node for name in (*n.input, *_implicit(n))] + [v.name for v in graph.output]
    return [name for name in dict.fromkeys(read) if name and name not in own]


def _counts(given: int, schema: OpSchema) -> list[int]:
    """How many of a node's inputs belong to each one of its operator."""
    counts = []
    for formal in schema.inputs:
        several = formal.option == OpSchema.FormalParameterOption.Variadic
        counts.append(given if several else min(given, 1))
        given -= counts[-1]
    return counts


def _all_attributes(node: NodeProto, schema: OpSchema) -> list[AttributeProto]:
    """The attributes of a node, with the defaults of those that it leaves out."""
    given = {a.name for a in node.attribute}
    return [*node.attribute, *(a.default_value for name, a in schema.attributes.items()
                               if name not in given and a.default_value.type != _A.UNDEFINED)]
