"""Test helper: short ways to write small models."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import TensorProto, ValueInfoProto, helper

from onnxc.frontend import Limits, import_model, loaded_proto
from onnxc.ir.core import Module

FLOAT = TensorProto.FLOAT


def value(name: str, shape: Sequence[int | str | None] | None = ("N", 3), dtype: int = FLOAT) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def untyped(name: str) -> ValueInfoProto:
    return helper.make_empty_tensor_value_info(name)


def node(op: str, inputs: str, outputs: str, name: str = "", **attrs: object) -> onnx.NodeProto:
    """A node; inputs and outputs are separated by spaces, `_` stands for one that is left out."""
    split = [["" if n == "_" else n for n in text.split()] for text in (inputs, outputs)]
    return helper.make_node(op, *split, name=name or None, **attrs)


def graph(nodes: Sequence[onnx.NodeProto], inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto],
          initializers: Sequence[TensorProto] = (), name: str = "g", **more: object) -> onnx.GraphProto:
    return helper.make_graph(nodes, name, inputs, outputs, initializers, **more)


def model(g: onnx.GraphProto, opset: int = 21, ir_version: int = 10, functions: Sequence[onnx.FunctionProto] = (),
          **domains: int) -> onnx.ModelProto:
    """A model; further keyword arguments are versions of domains, with `_` for `.`."""
    imports = [helper.make_opsetid("", opset)]
    imports += [helper.make_opsetid(d.replace("_", "."), v) for d, v in domains.items()]
    return helper.make_model(g, opset_imports=imports, ir_version=ir_version, functions=functions)


def imported(m: onnx.ModelProto, limits: Limits | None = None, **options: object) -> Module:
    return import_model(loaded_proto(m, limits=limits), **options)  # type: ignore[arg-type]
