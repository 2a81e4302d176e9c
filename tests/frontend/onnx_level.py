"""Test helper: a module at level onnx.* written back as a ModelProto, so that other runtimes can execute it."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import AttributeProto, helper, numpy_helper

from onnxc.ir.core import Block, Module, Op, Ref, Value
from onnxc.ir.types import Opt, Seq, Tensor, Type

#: High enough for what the steps make, and low enough that ONNX Runtime has kernels for it.
TARGET_OPSET = 21


class _Writer:
    def __init__(self, module: Module) -> None:
        self.module = module
        self.names: dict[Value, str] = {}
        self.domains: set[str] = {""}

    def name(self, value: Value | None) -> str:
        if value is None:
            return ""
        return self.names.setdefault(value, f"v{len(self.names)}")

    def attribute(self, op: Op, key: str, value: object) -> AttributeProto:
        domain, _, kind = op.name.removeprefix("onnx.").rpartition(".")
        declared = onnx.defs.get_schema(kind, 28 if not domain else 5, domain).attributes[key].type.name
        if isinstance(value, Ref):
            value = self.module.constants[value.name]
        if declared == "GRAPH":
            return helper.make_attribute(key, self.graph(op.regions[value], len(op.operands) - op.attrs["captured"],
                                                         op.operands))
        if declared == "TENSOR":
            return helper.make_attribute(key, numpy_helper.from_array(value))
        if isinstance(value, tuple):
            return helper.make_attribute(key, list(value), attr_type=AttributeProto.AttributeType.Value(declared))
        return helper.make_attribute(key, value)

    def node(self, op: Op) -> onnx.NodeProto:
        outputs = [self.name(r) for r in op.results]
        if op.name == "t.const":
            ref = op.attrs["ref"]
            array = self.module.constants[ref.name] if isinstance(ref, Ref) else op.attrs["value"]
            return helper.make_node("Constant", [], outputs, value=numpy_helper.from_array(array))
        domain, _, kind = op.name.removeprefix("onnx.").rpartition(".")
        self.domains.add(domain)
        own = op.operands[:len(op.operands) - op.attrs.get("captured", 0)]
        node = helper.make_node(kind, [self.name(v) for v in own], outputs, domain=domain)
        node.attribute.extend(self.attribute(op, k, v) for k, v in op.attrs.items() if k != "captured")
        return node

    def graph(self, block: Block, formal: int = 0, outer: tuple = (), main: bool = False) -> onnx.GraphProto:
        captured = len(outer) - formal if not main else 0
        args = block.args[:len(block.args) - captured] if captured else block.args
        for arg, value in zip(block.args[len(args):], outer[formal:], strict=True):
            self.names[arg] = self.name(value)
        nodes = [self.node(op) for op in block.ops if op is not block.terminator]
        results = list(block.terminator.operands)
        return helper.make_graph(nodes, "g", [self.info(a) for a in args], [self.info(r) for r in results])

    def info(self, value: Value) -> onnx.ValueInfoProto:
        return helper.make_value_info(self.name(value), _type_proto(value.type))


def _type_proto(t: Type) -> onnx.TypeProto:
    if isinstance(t, Seq):
        return helper.make_sequence_type_proto(_type_proto(t.element))
    if isinstance(t, Opt):
        return helper.make_optional_type_proto(_type_proto(t.element))
    assert isinstance(t, Tensor)
    shape = None if t.shape is None else [d if isinstance(d, int) else str(d) for d in t.shape]
    return helper.make_tensor_type_proto(t.dtype.onnx, shape)


def to_model(module: Module, opset: int = TARGET_OPSET) -> onnx.ModelProto:
    """The module as a model; inputs are called v0, v1, ... in order."""
    writer = _Writer(module)
    for arg in module.main.args:
        writer.name(arg)
    graph = writer.graph(module.main.body, main=True)
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 3 if d == "ai.onnx.ml" else 1)
                                                 for d in sorted(writer.domains - {""}))]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def run_reference(model: onnx.ModelProto, feeds: list[np.ndarray]) -> list[np.ndarray]:
    """The outputs of a model in ONNX's reference evaluator."""
    from onnx.reference import ReferenceEvaluator
    names = [i.name for i in model.graph.input]
    return ReferenceEvaluator(model).run(None, dict(zip(names, feeds, strict=True)))


def run_onnx_runtime(model: onnx.ModelProto, feeds: list[np.ndarray]) -> list[np.ndarray]:
    """The outputs of a model in ONNX Runtime with optimisation off; `feeds` in the order of the inputs."""
    import onnxruntime as ort
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    return session.run(None, dict(zip(names, feeds, strict=True)))
