"""Imports nodes: operators with their subgraphs as regions, calls of functions inlined, Constant nodes as `t.const`."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from onnx import AttributeProto, TypeProto

from onnxc.errors import Fail, InvalidGraph
from onnxc.frontend.attributes import attribute_value
from onnxc.frontend.constants import INLINE_ELEMENTS, add_constant, constant_node, make_constant
from onnxc.frontend.declared import DimNames, type_of
from onnxc.frontend.functions import Function, Functions
from onnxc.frontend.graph import Graph, Node
from onnxc.frontend.opset import upgrade
from onnxc.frontend.problems import Problems, printable
from onnxc.frontend.result_types import region_arg_types, result_types, shapeless
from onnxc.frontend.schemas import Signature, bind_types, check_node
from onnxc.frontend.tensors import TensorReader
from onnxc.ir.core import Attr, Block, Module, Op, Ref, Value
from onnxc.ir.signature import type_text
from onnxc.ir.types import F32, Tensor, Type

__all__ = ["Importer", "Scope"]

_LONGEST_PREFIX = 200
#: The order of regions where an op has several.
_REGION_ORDER = {"then_branch": 0, "else_branch": 1}
_OWN_ATTRIBUTES = ("captured",)


@dataclasses.dataclass(slots=True)
class Scope:
    """Where nodes are imported to: values by name (None: an optional input that the caller left out) and a place.

    `opsets`, `bindings` (attributes of the function that is being inlined; None outside of one), `prefix` (of names
    made unique) and `depth` (of subgraphs and calls) belong to the body that is being imported.
    """

    block: Block
    opsets: Mapping[str, int]
    values: dict[str, Value | None] = dataclasses.field(default_factory=dict)
    types: Mapping[str, TypeProto] = dataclasses.field(default_factory=dict)
    bindings: Mapping[str, AttributeProto] | None = None
    prefix: str = ""
    depth: int = 0
    before: Op | None = None
    shapes: DimNames | None = None

    def insert(self, op: Op) -> Op:
        return self.block.insert(op, self.before)


class Importer:
    """Imports nodes into blocks of a module. Problems are collected, so that all of a graph is looked at."""

    def __init__(self, module: Module, functions: Functions, reader: TensorReader, problems: Problems) -> None:
        self.module, self.functions, self.reader, self.problems = module, functions, reader, problems
        #: Values whose element type could not be told; the one they have is a guess that nothing is checked against.
        self.guessed: set[Value] = set()

    def nodes(self, graph: Graph, scope: Scope) -> None:
        """Import all nodes of a graph, whose outside names `scope` knows."""
        for node in graph.nodes:
            self.node(node, scope)

    def node(self, node: Node, scope: Scope) -> None:
        """Import one node and define its outputs in `scope`."""
        callee = self.functions.called_by(node)
        if callee is not None:
            self._call(node, callee, scope)
            return
        node = self._bound(node, scope)
        signature = check_node(node, scope.opsets, self.problems.add)
        if signature is not None and node.op_type == "Constant" and not node.domain:
            label = scope.prefix + node.label
            array = constant_node(node, self.reader)
            constant = make_constant(self.module, scope.insert, array, scope.prefix + node.outputs[0], label)
            scope.values[node.outputs[0]] = constant
            return
        self._operator(node, signature, scope)

    def _operator(self, node: Node, signature: Signature | None, scope: Scope) -> None:
        reported = self.problems.reported
        label = scope.prefix + node.label
        name = f"onnx.{node.domain}.{node.op_type}" if node.domain else f"onnx.{node.op_type}"
        operands = [scope.values.get(i) if i else None for i in node.inputs]
        if signature is not None:
            self._check_left_out(node, signature, operands)
        known = [None if v is None or v in self.guessed else v.type for v in operands]
        bound = bind_types(node, signature, known, self.problems.add) if signature is not None else {}
        attrs = self._attributes(node)
        regions, captured = self._regions(name, node, operands, scope, attrs)
        yields = [[None if v in self.guessed else v.type for v in r.terminator.inputs] for r in regions]
        types = result_types(name, signature, bound, known, attrs, yields, len(node.outputs))
        self._check_regions(name, node, regions, len(captured))
        types = [self._declared(node, o, t, scope) for o, t in zip(node.outputs, types, strict=True)]
        self._share_large_tensors(attrs, label)
        guess = _guess(operands) if signature is not None else shapeless(_guess(operands))
        op = Op(name, [*operands, *captured], [t or guess or Tensor(F32, None) for t in types], attrs, regions, label,
                [scope.prefix + o if o else "" for o in node.outputs])
        self.guessed.update(r for r, t in zip(op.results, types, strict=True) if t is None)
        scope.insert(op)
        # A step relies on the form of the op: one that was complained about stays as it is.
        fits = signature is not None and self.problems.reported == reported
        results = upgrade(self.module, op, signature.since) if signature is not None and fits else op.results
        for o, r in zip(node.outputs, results, strict=True):
            if o:
                scope.values[o] = r

    def _attributes(self, node: Node) -> dict[str, Attr]:
        attrs: dict[str, Attr] = {}
        for name, a in node.attributes.items():
            if not name.isidentifier() or name in _OWN_ATTRIBUTES:
                self.problems.add(InvalidGraph, f"This is an invalid model. In {node.text}: '{printable(name)}' "
                                                "cannot name an attribute.")
                continue
            attrs[name] = attribute_value(a, self.reader, node.text)
        return attrs

    def _check_left_out(self, node: Node, signature: Signature, operands: Sequence[Value | None]) -> None:
        """A name may stand for nothing: an input of a function that the call left out. Not where one is required."""
        for i, (name, operand) in enumerate(zip(node.inputs, operands, strict=True)):
            formal = signature.input(i)
            if name and operand is None and not formal.optional and not formal.variadic:
                self.problems.add(InvalidGraph, f"This is an invalid model. In {node.text}: the required input {i} "
                                                f"({formal.name}) is '{printable(name)}', which the call leaves out.")

    def _share_large_tensors(self, attrs: dict[str, Attr], label: str) -> None:
        """Put large tensor attributes among the module's constants, as those of `t.const` are."""
        for name, a in attrs.items():
            if isinstance(a, np.ndarray) and a.size > INLINE_ELEMENTS:
                attrs[name] = Ref(add_constant(self.module, a, f"{label}.{name}"))

    def _declared(self, node: Node, output: str, found: Type | None, scope: Scope) -> Type | None:
        """The type of an output from what was found and what the model declares, which have to agree."""
        proto = scope.types.get(output)
        if proto is None:
            return found
        declared = type_of(proto, scope.shapes, self.reader.limits, f"'{printable(output)}'")
        if declared is None or found is None:
            return declared or found
        if type_text(declared) != type_text(found):
            self.problems.add(Fail, f"This is an invalid model. Type Error: Type ({type_text(declared)}) of output arg "
                                    f"({printable(output)}) of {node.text} does not match expected type "
                                    f"({type_text(found)}).")
        return declared

    def sparse_constants(self, graph: Graph, scope: Scope, used: Collection[str]) -> None:
        """Define the sparse initializers of a graph, made dense."""
        for name, proto in graph.sparse.items():
            if name in used and name not in scope.values:
                scope.values[name] = make_constant(self.module, scope.insert, self.reader.sparse(proto), name)

    # Subgraphs

    def _regions(self, name: str, node: Node, operands: Sequence[Value | None], scope: Scope,
                 attrs: dict[str, Attr]) -> tuple[list[Block], list[Value]]:
        """The regions of a node and the outer values that they capture. Outer constants are repeated inside instead."""
        if not node.subgraphs:
            return [], []
        self.reader.limits.require("nesting", scope.depth + 1, f"The nesting of subgraphs and calls at {node.text}")
        free = dict.fromkeys(f for g in node.subgraphs.values() for f in g.free)
        outer = {f: scope.values.get(f) for f in free}
        captured = [v for v in dict.fromkeys(outer.values()) if v is not None and not _is_constant(v)]
        regions: list[Block] = []
        for key in sorted(node.subgraphs, key=lambda k: (_REGION_ORDER.get(k, 2), k)):
            attrs[key] = len(regions)
            regions.append(self._region(name, node, node.subgraphs[key], operands, outer, captured, scope, attrs))
        attrs["captured"] = len(captured)
        return regions, captured

    def _region(self, name: str, node: Node, graph: Graph, operands: Sequence[Value | None],
                outer: Mapping[str, Value | None], captured: Sequence[Value], scope: Scope,
                attrs: Mapping[str, Attr]) -> Block:
        block = Block()
        inner = Scope(block, scope.opsets, {}, graph.types, scope.bindings, scope.prefix, scope.depth + 1)
        self._formal_inputs(name, node, graph, operands, inner, attrs)
        args = {v: block.add_arg(v.type, v.name) for v in captured}
        self.guessed.update(a for v, a in args.items() if v in self.guessed)
        for key, value in outer.items():
            if key in graph.free:
                inner.values[key] = _repeated(value, block) if value is not None and value not in args \
                    else None if value is None else args[value]
        used = {u for n in graph.nodes for u in n.used()}.union(graph.outputs)
        for key, (_, proto) in graph.initializers.items():
            if key in used and key not in inner.values:
                array = self.reader.read(proto, key)
                inner.values[key] = make_constant(self.module, inner.insert, array, scope.prefix + key)
        self.sparse_constants(graph, inner, used)
        self.nodes(graph, inner)
        block.append(Op("yield", [self._yielded(o, node, inner) for o in graph.outputs]))
        return block

    def _formal_inputs(self, name: str, node: Node, graph: Graph, operands: Sequence[Value | None], inner: Scope,
                       attrs: Mapping[str, Attr]) -> None:
        types = [None if v is None or v in self.guessed else v.type for v in operands]
        given = region_arg_types(name, types, attrs, len(graph.inputs))
        for i, t in zip(graph.inputs, given, strict=True):
            proto = graph.types.get(i)
            declared = None if proto is None else type_of(proto, None, self.reader.limits, f"'{printable(i)}'")
            if t is not None and declared is not None and type_text(t) != type_text(declared):
                self.problems.add(Fail, f"This is an invalid model. Type Error: Type ({type_text(declared)}) of "
                                        f"input ({printable(i)}) of subgraph ({printable(graph.name)}) of {node.text} "
                                        f"does not match expected type ({type_text(t)}).")
            value = inner.block.add_arg(t or declared or Tensor(F32, None), inner.prefix + i)
            if t is None and declared is None:
                self.guessed.add(value)
            inner.values[i] = value

    def _yielded(self, name: str, node: Node, inner: Scope) -> Value:
        value = inner.values.get(name)
        if value is None:
            raise InvalidGraph(f"This is an invalid model. Output '{printable(name)}' of a subgraph of {node.text} is "
                               "not defined.")
        return value

    def _check_regions(self, name: str, node: Node, regions: Sequence[Block], captured: int) -> None:
        """Hold the number of arguments and results of each region against what the op passes and takes."""
        for region in regions:
            takes, gives = len(region.args) - captured, len(region.terminator.operands)
            want = _region_form(name, node)
            if want is not None and (takes, gives) != want:
                self.problems.add(InvalidGraph, f"This is an invalid model. A subgraph of {node.text} has {takes} "
                                                f"inputs and {gives} outputs; it has to have {want[0]} and "
                                                f"{want[1]}.")

    # Functions

    def _call(self, node: Node, callee: Function, scope: Scope) -> None:
        """Import the body of a function in place of a node that calls it."""
        self.reader.limits.require("nesting", scope.depth + 1, f"The nesting of subgraphs and calls at {node.text}")
        body = callee.body
        bindings = dict(callee.defaults)
        for name, a in self._bound(node, scope).attributes.items():
            if name not in callee.attributes:
                    self.problems.add(InvalidGraph, f"This is an invalid model. In {node.text}: the function has no "
                                                f"attribute '{printable(name)}'.")
            bindings[name] = a
        if len(node.inputs) > len(body.inputs) or len(node.outputs) > len(body.outputs) or node.subgraphs:
            self._refuse_call(node, body, scope)
            return
        actual = [scope.values.get(i) if i else None for i in node.inputs]
        actual += [None] * (len(body.inputs) - len(actual))
        inner = Scope(scope.block, callee.opsets, dict(zip(body.inputs, actual, strict=True)), {}, bindings,
                      _shortened(f"{scope.prefix}{node.label}/"), scope.depth + 1, scope.before)
        self.nodes(body, inner)
        for formal, output in zip(body.outputs, node.outputs, strict=False):
            value = inner.values.get(formal)
            if output and formal in callee.unmade:
                self.problems.add(Fail, f"This is an invalid model. Error: output ({printable(output)}) of {node.text} "
                                        f"is output ({printable(formal)}) of a function, which nothing in it makes.")
            if output and value is not None:
                if value.name == inner.prefix + formal:
                    value.name = scope.prefix + output
                scope.values[output] = value

    def _bound(self, node: Node, scope: Scope) -> Node:
        """A node with the call's attributes in place of references to them; what the call does not give is dropped."""
        references = {n: a.ref_attr_name for n, a in node.attributes.items() if a.ref_attr_name}
        if not references:
            return node
        if scope.bindings is None:
            self.problems.add(InvalidGraph, f"This is an invalid model. {node.text} refers to attributes of a function "
                                            f"({', '.join(map(printable, map(str, references)))}), but is in none.")
        given = scope.bindings or {}
        attributes = {n: given[references[n]] if n in references else a for n, a in node.attributes.items()
                      if n not in references or references[n] in given}
        return dataclasses.replace(node, attributes=attributes)

    def _refuse_call(self, node: Node, body: Graph, scope: Scope) -> None:
        self.problems.add(InvalidGraph, f"This is an invalid model. {node.text} calls a function of {len(body.inputs)} "
                                        f"inputs and {len(body.outputs)} outputs with {len(node.inputs)} and "
                                        f"{len(node.outputs)}{', and with a graph' if node.subgraphs else ''}.")
        stand_in = Op("onnx.unresolved", (), [Tensor(F32, None)] * len(node.outputs))
        self.guessed.update(stand_in.results)
        scope.insert(stand_in)
        scope.values.update((o, r) for o, r in zip(node.outputs, stand_in.results, strict=True) if o)


def _guess(operands: Sequence[Value | None]) -> Type:
    """The type of results that no schema tells: most operators keep that of their first operand."""
    return next((v.type for v in operands if v is not None), Tensor(F32, None))


def _is_constant(value: Value) -> bool:
    return value.op is not None and value.op.name == "t.const"


def _repeated(constant: Value, block: Block) -> Value:
    """The same constant in another block; its elements are shared."""
    op = constant.op
    assert op is not None
    return block.append(Op("t.const", (), (constant.type,), op.attrs, (), op.loc, (constant.name,))).result


def _region_form(name: str, node: Node) -> tuple[int, int] | None:
    """How many inputs and outputs a region has to have; None where that is the lowering's to check."""
    if name == "onnx.If":
        return 0, len(node.outputs)
    if name == "onnx.Loop":
        carried = max(len(node.inputs) - 2, 0)
        return 2 + carried, 1 + max(len(node.outputs), carried)
    return None


def _shortened(prefix: str) -> str:
    """A prefix of names, cut: nested calls would make names grow without bound."""
    return prefix if len(prefix) <= _LONGEST_PREFIX else "..." + prefix[-_LONGEST_PREFIX:]
