"""Replaces an op by the function that its ONNX schema defines it with, for operators without a lowering."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, FunctionProto, NodeProto, TensorShapeProto, TypeProto, helper, numpy_helper

from onnxc import errors
from onnxc.frontend.external import ExternalFiles
from onnxc.frontend.functions import Function, Functions
from onnxc.frontend.graph import Viewer
from onnxc.frontend.limits import Limits
from onnxc.frontend.load import OPSETS
from onnxc.frontend.nodes import Importer, Scope
from onnxc.frontend.problems import Problems, printable
from onnxc.frontend.tensors import TensorReader
from onnxc.ir.core import Attr, Module, Op, Ref
from onnxc.ir.types import Map, Opt, Seq, Sparse, Tensor, Type

__all__ = ["expand", "function_body"]


def function_body(module: Module, op: Op) -> FunctionProto | None:
    """The function that the schema of an `onnx.*` op gives for its attributes and operand types; None without one.

    Its attribute references are to the op's attributes. Ops with regions have none here.
    """
    domain, _, kind = op.name.removeprefix("onnx.").rpartition(".")
    newest = OPSETS.get(domain, 0)
    if op.regions or not onnx.defs.has(kind, newest, domain):
        return None
    schema: Any = onnx.defs.get_schema(kind, newest, domain)      # the type stub lacks the functions
    if schema.has_function:
        return FunctionProto.FromString(schema.get_function_with_opset_version(max(schema.function_opset_versions)))
    if not schema.has_context_dependent_function:
        return None
    types = [b"" if v is None else type_proto(v.type).SerializeToString() for v in op.operands]
    node = _node(module, op, kind, domain).SerializeToString()
    newest = max(schema.context_dependent_function_opset_versions)
    body = schema.get_context_dependent_function_with_opset_version(newest, node, types)
    return FunctionProto.FromString(body) if body else None


def expand(module: Module, op: Op) -> Op | None:
    """Put the ops of the schema's function in place of `op`; the first of them, or None (and no change) without one."""
    body = function_body(module, op)
    if body is None or op.block is None:
        return None
    block, before = op.block, op.prev
    problems = Problems()
    limits = Limits()
    function = Function(body, Viewer(limits, problems), dict(OPSETS))
    operands = [*op.operands, *[None] * (len(function.body.inputs) - len(op.operands))]
    # Functions of other domains do not always say which ai.onnx they mean.
    scope = Scope(block, {**OPSETS, **function.opsets}, dict(zip(function.body.inputs, operands, strict=True)),
                  bindings=_bindings(module, op, function), prefix=f"{op.loc}/", before=op)
    reader = TensorReader(ExternalFiles(None), limits)
    importer = Importer(module, Functions((), {}, limits, problems), reader, problems)
    importer.nodes(function.body, scope)
    problems.raise_if_any()
    for formal, old in zip(function.body.outputs, op.results, strict=False):
        value = scope.values.get(formal)
        if value is None and old.uses:
            raise errors.NotImplemented(f"Output {old.index} of {op.name} node ({printable(op.loc)}) is used, but the "
                                        "function that defines the operator does not make it.")
        if value is not None:
            value.name = old.name if value.name == scope.prefix + formal else value.name
            old.replace_by(value)
    first = before.next if before is not None else block.first
    op.erase()
    return first


def _bindings(module: Module, op: Op, function: Function) -> dict[str, AttributeProto]:
    """The op's attributes, after the defaults of the schema and of the function."""
    domain, _, kind = op.name.removeprefix("onnx.").rpartition(".")
    declared = onnx.defs.get_schema(kind, OPSETS[domain], domain).attributes
    bindings = {n: a.default_value for n, a in declared.items() if a.default_value.name}
    bindings.update(function.defaults)
    bindings.update({a.name: a for a in _attribute_protos(module, op, declared)})
    return bindings


def _node(module: Module, op: Op, kind: str, domain: str) -> NodeProto:
    """The op as a node, with operands i0, i1, ... and results o0, o1, ..."""
    inputs = ["" if v is None else f"i{n}" for n, v in enumerate(op.operands)]
    outputs = [f"o{n}" if r.name or r.uses else "" for n, r in enumerate(op.results)]
    node = helper.make_node(kind, inputs, outputs, name=op.loc, domain=domain)
    node.attribute.extend(_attribute_protos(module, op, onnx.defs.get_schema(kind, OPSETS[domain], domain).attributes))
    return node


def _attribute_protos(module: Module, op: Op,
                      declared: Mapping[str, Any]) -> list[AttributeProto]:
    values = {n: module.constants[v.name] if isinstance(v, Ref) else v for n, v in op.attrs.items() if n in declared}
    return [_attribute(n, v, declared[n]) for n, v in values.items()]


def _attribute(name: str, value: Attr, declared: Any) -> AttributeProto:
    if isinstance(value, np.ndarray):
        return helper.make_attribute(name, numpy_helper.from_array(value))
    if isinstance(value, Type):
        return helper.make_attribute(name, type_proto(value))
    if isinstance(value, tuple):
        kind = AttributeProto.AttributeType.Value(declared.type.name)
        return helper.make_attribute(name, list(value), attr_type=kind)
    return helper.make_attribute(name, value)


def type_proto(t: Type) -> TypeProto:
    """A type as ONNX says it; symbolic dims by their text."""
    if isinstance(t, Seq):
        return helper.make_sequence_type_proto(type_proto(t.element))
    if isinstance(t, Opt):
        return helper.make_optional_type_proto(type_proto(t.element))
    if isinstance(t, Map):
        return helper.make_map_type_proto(t.key.onnx, type_proto(t.value))
    if isinstance(t, Sparse):
        return helper.make_sparse_tensor_type_proto(t.element.dtype.onnx, None)
    if not isinstance(t, Tensor):
        raise TypeError(f"a value of type {t} has no ONNX type")
    proto = helper.make_tensor_type_proto(t.dtype.onnx, None)
    if t.shape is not None:
        shape = TensorShapeProto()
        for d in t.shape:
            dim = shape.dim.add()
            if isinstance(d, int):
                dim.dim_value = d
            else:
                dim.dim_param = str(d)
        proto.tensor_type.shape.CopyFrom(shape)
    return proto
