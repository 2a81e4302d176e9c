"""A loaded model -> a Module at level `onnx.*`: one op a node, at one opset, with functions inlined.

`@main` takes the graph's inputs and returns its outputs. Initializers and Constant nodes become `t.const`. Subgraphs
become isolated regions: attribute `then_branch = 0` gives the index of the region, and `captured = n` says that the
last n operands are outer values, which stand at the end of every region's arguments. Types hold what the schemas and
declarations tell: element types, and declared shapes as hints.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from onnxc.errors import Fail, InvalidArgument
from onnxc.frontend.constants import make_constant
from onnxc.frontend.declared import DimNames, type_of
from onnxc.frontend.external import ExternalFiles
from onnxc.frontend.functions import Functions
from onnxc.frontend.graph import Graph, Viewer, check_defined
from onnxc.frontend.load import LoadedModel, check_opsets
from onnxc.frontend.nodes import Importer, Scope
from onnxc.frontend.problems import Problems, printable
from onnxc.frontend.tensors import TensorReader
from onnxc.ir.core import Func, Module, Op, Value
from onnxc.ir.signature import ValueInfo, type_text
from onnxc.ir.types import F32, Tensor, Type

__all__ = ["import_model"]


def import_model(model: LoadedModel, overridden: Collection[str] = ()) -> Module:
    """Import a model. Initializers named in `overridden` (inputs as well) become arguments after the inputs.

    `meta` of the module holds "inputs", "outputs", "overridable" (lists of ValueInfo), "model" (the texts that describe
    it), "ir_version" and "opset" (versions as imported, by domain; "" is ai.onnx). Everything wrong with the model is
    listed in one typed error.
    """
    problems = Problems()
    opsets = check_opsets(model.proto.opset_import, "the model")
    main = Viewer(model.limits, problems).graph(model.proto.graph)
    check_defined(main, problems)
    functions = Functions(model.proto.functions, opsets, model.limits, problems)
    problems.raise_if_any()
    model.limits.require("nodes", functions.size_of(main), "The number of nodes after inlining functions")
    module = Module()
    reader = TensorReader(ExternalFiles(model.folder, model.files, model.path), model.limits)
    _describe(module, model, opsets)
    importer = Importer(module, functions, reader, problems)
    _Main(importer, model, main, opsets, frozenset(overridden)).run()
    problems.raise_if_any()
    return module


def _describe(module: Module, model: LoadedModel, opsets: dict[str, int]) -> None:
    p = model.proto
    module.meta["ir_version"] = int(p.ir_version)
    module.meta["opset"] = dict(opsets)
    module.meta["model"] = {
        "producer_name": _lenient(p.producer_name), "producer_version": _lenient(p.producer_version),
        "version": int(p.model_version) if p.HasField("model_version") else (1 << 63) - 1,
        "description": _lenient(p.doc_string), "domain": _lenient(p.domain), "graph_name": _lenient(p.graph.name),
        "graph_description": _lenient(p.graph.doc_string),
        "custom_metadata_map": {_lenient(e.key): _lenient(e.value) for e in p.metadata_props}}


def _lenient(text: str | bytes) -> str:
    return text.decode(errors="replace") if isinstance(text, bytes) else text


class _Main:
    """Imports the main graph as `@main`."""

    def __init__(self, importer: Importer, model: LoadedModel, graph: Graph, opsets: dict[str, int],
                 overridden: frozenset[str]) -> None:
        self.importer, self.model, self.graph, self.overridden = importer, model, graph, overridden
        self.module, self.problems = importer.module, importer.problems
        self.names = DimNames()
        self.func = Func("main")
        self.scope = Scope(self.func.body, opsets, types=graph.types, shapes=self.names)

    def run(self) -> None:
        self._reserve_names()
        self.module.add(self.func)
        self._inputs()
        self._constants()
        self.problems.raise_if_any()
        self.importer.nodes(self.graph, self.scope)
        self.problems.raise_if_any()
        results = [self._value(o) for o in self.graph.outputs]
        self.func.body.append(Op("return", results))
        self.func.result_types = [v.type for v in results]
        self.module.meta["outputs"] = [self._info(o, v.type if v not in self.importer.guessed else None)
                                       for o, v in zip(self.graph.outputs, results, strict=True)]

    def _value(self, name: str) -> Value:
        value = self.scope.values.get(name)
        if value is None:       # the output of a function that hands on an input which the call leaves out
            raise Fail(f"This is an invalid model. Error: Graph output ({printable(name)}) does not exist in the "
                       "graph.")
        return value

    def _reserve_names(self) -> None:
        for proto in self.graph.types.values():
            if proto.WhichOneof("value") == "tensor_type":
                self.names.reserve(proto.tensor_type.shape)
        arguments = [self.graph.types[name] for name in self.graph.inputs
                     if name in self.graph.types and (name in self.overridden or not self.graph.is_constant(name))]
        self.names.bind_to(t.tensor_type.shape for t in arguments if t.WhichOneof("value") == "tensor_type")

    def _inputs(self) -> None:
        self.module.meta["inputs"] = []
        self.module.meta["overridable"] = []
        overridable = self.model.proto.ir_version >= 4
        arguments: list[str] = []
        for name in self.graph.inputs:
            if not self.graph.is_constant(name):
                self._argument(name)
                self.module.meta["inputs"].append(self._info(name, None))
            elif overridable:
                self.module.meta["overridable"].append(self._info(name, self._constant_type(name)))
                if name in self.overridden:
                    arguments.append(name)
        if unknown := self.overridden.difference(arguments):
            names = ", ".join(sorted(map(printable, unknown)))
            raise InvalidArgument(f"The model has no overridable initializers of these names: {names}.")
        for name in arguments:
            self._argument(name)

    def _argument(self, name: str) -> None:
        proto = self.graph.types.get(name)
        what = f"graph input '{printable(name)}'"
        t = None if proto is None else type_of(proto, self.names, self.model.limits, what)
        if t is None:
            self.problems.add(Fail, f"This is an invalid model. Error: Model input ({printable(name)}) does not have "
                                    "type information.")
            t = Tensor(F32, None)
        self.scope.values[name] = self.func.body.add_arg(t, name)

    def _constant_type(self, name: str) -> Type | None:
        proto = self.graph.initializers.get(name)
        if proto is None:
            return None
        reader = self.importer.reader
        return Tensor(reader.element_type(proto[1].data_type, name), reader.shape(proto[1].dims, name))

    def _constants(self) -> None:
        used = {u for n in self.graph.nodes for u in n.used()}.union(self.graph.outputs)
        for name, (position, proto) in self.graph.initializers.items():
            if name in used and name not in self.overridden:
                array = self.importer.reader.read(proto, name, self.model.blobs.get(position))
                self.scope.values[name] = make_constant(self.module, self.scope.insert, array, name)
        self.importer.sparse_constants(self.graph, self.scope, used)

    def _info(self, name: str, known: Type | None) -> ValueInfo:
        """What the model declares about a value; the type that was found fills in where it says nothing."""
        proto = self.graph.types.get(name)
        t = None if proto is None else type_of(proto, None, self.model.limits, f"'{printable(name)}'")
        t = t or known
        shape: tuple[Any, ...] | None = None
        held = proto.optional_type.elem_type if proto is not None and proto.WhichOneof("value") == "optional_type" \
            else proto
        kind = None if held is None else held.WhichOneof("value")
        declared = getattr(held, kind) if kind in ("tensor_type", "sparse_tensor_type") else None
        if declared is not None and declared.HasField("shape"):
            shape = tuple(_verbatim(d) for d in declared.shape.dim)
        elif proto is None and isinstance(known, Tensor) and known.is_static:
            shape = known.dims
        return ValueInfo(name, "" if t is None else type_text(t), shape)


def _verbatim(d: Any) -> int | str | None:
    kind = d.WhichOneof("value")
    if kind == "dim_value":
        return int(d.dim_value) if d.dim_value >= 0 else None
    return (_lenient(d.dim_param) or None) if kind == "dim_param" else None
