"""A model after the optimisations that ONNX itself has words for, written where `optimized_model_filepath` says.

Kernels and their fusions are no operators of ONNX; what they start from is. Values that follow from constants become
initializers, and nodes that change nothing or that nobody needs are left out. A path that ends in ".ort" gets ONNX
Runtime's own format (`onnxc.frontend.ort_writer`), and one that ends in ".onnxc" the compiled model instead.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from onnxc.driver import CompileOptions, compile_model, load_changed
from onnxc.errors import InvalidArgument, OnnxcError
from onnxc.frontend import LoadedModel
from onnxc.frontend.external import ExternalFiles
from onnxc.frontend.ort_writer import ort_format_bytes
from onnxc.frontend.tensors import TensorReader
from onnxc.ir.types import dtype_of
from onnxc.runtime.artifact import beside, save
from onnxc.runtime.compiled import CompiledModel
from onnxc.runtime.program import NativeProgram

__all__ = ["write_optimized"]

_LEAST = "session.optimized_model_external_initializers_min_size_in_bytes"
_LARGEST = 1 << 20          # bytes by which folding may make a model larger
_APART = 1 << 30            # bytes of weights from which on they lie in a file of their own
#: Their results are different each time, or stay narrow for a reason.
_KEPT = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial",
         "Dropout", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}


def write_optimized(compiled: CompiledModel, model: str | bytes, options: CompileOptions, path: str,
                    entries: Mapping[str, str]) -> None:
    """Writes `model`, of which `compiled` was made under `options`. `entries` are the session's configuration.

    Raises InvalidArgument where nothing can be written, and NotImplemented for what ONNX Runtime's format cannot hold.
    """
    chosen = entries.get("session.save_model_format", "")
    try:
        if path.lower().endswith(".onnxc"):
            save(compiled, path)
            return
        proto = optimized(load_changed(model, options), options)
        if chosen == "ORT" or (not chosen and path.lower().endswith(".ort")):
            with beside(path) as file:
                file.write(ort_format_bytes(proto))
            return
        _save(proto, path, entries)
    except OSError as error:
        raise InvalidArgument(f"The optimized model cannot be written to {path}: {error}") from None


def optimized(loaded: LoadedModel, options: CompileOptions) -> ModelProto:
    """The model with its weights inside, after what ONNX can say of its optimisation."""
    proto = ModelProto()
    proto.CopyFrom(loaded.proto)
    reader = TensorReader(ExternalFiles(loaded.folder, loaded.files, loaded.path), loaded.limits)
    for i, tensor in enumerate(proto.graph.initializer):
        if i in loaded.blobs or tensor.data_location == TensorProto.EXTERNAL:
            tensor.CopyFrom(numpy_helper.from_array(reader.read(tensor, tensor.name, loaded.blobs.get(i)), tensor.name))
    if options.level > 0:
        _fold(proto, options)
        _pass_by(proto.graph)
        _drop_unused(proto.graph)
    return proto


# ---- values that follow from constants -------------------------------------------------------------------------------

def _fold(proto: ModelProto, options: CompileOptions) -> None:
    graph = proto.graph
    known = {t.name for t in graph.initializer} - {v.name for v in graph.input}
    functions = {(f.domain, f.name) for f in proto.functions}
    nodes = _constant_nodes(graph, known, functions)
    if not nodes:
        return
    names = [o for n in nodes for o in n.output if o]
    part = ModelProto()
    part.CopyFrom(proto)
    for field in ("node", "input", "output", "value_info"):
        part.graph.ClearField(field)
    part.graph.node.extend(nodes)
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    try:
        program = compile_model(part.SerializeToString(), CompileOptions(target=options.target))
        values = NativeProgram(program, threads=1).run([])
    except (OnnxcError, MemoryError, ValueError):
        return          # what is folded is a convenience: the nodes stay
    folded = {name: v for name, v in zip(names, values, strict=True) if v.nbytes <= _LARGEST}
    for node in nodes:
        if all(o in folded for o in node.output if o):
            graph.node.remove(node)
            graph.initializer.extend(_tensor(folded[o], o) for o in node.output if o)


def _constant_nodes(graph: GraphProto, known: set[str], functions: set[tuple[str, str]]) -> list[NodeProto]:
    """Nodes all of whose inputs are constants, in the order of the graph, which is that of data flow."""
    found = []
    for node in graph.node:
        plain = node.op_type not in _KEPT and (node.domain, node.op_type) not in functions
        if plain and not any(a.HasField("g") or a.graphs for a in node.attribute) and all(
                name in known for name in node.input if name):
            found.append(node)
            known |= set(node.output)
    return found


def _tensor(array: np.ndarray, name: str) -> TensorProto:
    tensor = numpy_helper.from_array(array, name)
    tensor.data_type = dtype_of(array.dtype).onnx
    return tensor


# ---- nodes that change nothing, or that nobody needs -----------------------------------------------------------------

def _pass_by(graph: GraphProto) -> None:
    """Leaves out Identity nodes, except those that give an output of the graph."""
    outputs = {o.name for o in graph.output}
    source: dict[str, str] = {}
    for node in list(graph.node):
        if node.op_type == "Identity" and node.domain in ("", "ai.onnx") and node.output[0] not in outputs:
            source[node.output[0]] = source.get(node.input[0], node.input[0])
            graph.node.remove(node)
    _rename(graph, source)


def _rename(graph: GraphProto, source: Mapping[str, str]) -> None:
    """Replaces names of values where they are read, in subgraphs as well."""
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = source.get(name, name)
        for attribute in node.attribute:
            for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                _rename(inner, source)
                for output in inner.output:
                    output.name = source.get(output.name, output.name)


def _drop_unused(graph: GraphProto) -> None:
    needed = {o.name for o in graph.output}
    for node in reversed(list(graph.node)):
        if needed.intersection(node.output):
            needed |= _read(node)
        else:
            graph.node.remove(node)
    needed |= {v.name for v in graph.input}
    for tensor in [t for t in graph.initializer if t.name not in needed]:
        graph.initializer.remove(tensor)


def _read(node: NodeProto) -> set[str]:
    """Names that a node reads, those of its subgraphs among them."""
    names = set(node.input)
    for attribute in node.attribute:
        for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
            names |= {o.name for o in inner.output}
            for other in inner.node:
                names |= _read(other)
    return names


# ---- the file --------------------------------------------------------------------------------------------------------

def _save(proto: ModelProto, path: str, entries: Mapping[str, str]) -> None:
    apart = entries.get("session.optimized_model_external_initializers_file_name", "")
    least = entries.get(_LEAST, "") or "1024"
    if not (least.isascii() and least.isdigit()):
        raise InvalidArgument(f"{_LEAST} is {least!r}; expected a number of bytes.")
    if not apart and sum(len(t.raw_data) for t in proto.graph.initializer) < _APART:
        onnx.save_model(proto, path)
        return
    name = apart or os.path.basename(path) + ".data"
    onnx.save_model(proto, path, save_as_external_data=True, all_tensors_to_one_file=True, location=name,
                    size_threshold=int(least))
