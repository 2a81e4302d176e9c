"""What a session's options change about a model before it is compiled: dimensions that get a size, tensors that are
supplied or replaced, values that are asked for instead of the outputs.

Works on the loaded message, so that everything after it sees a model that says so itself.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, numpy_helper

from onnxc.errors import Fail, InvalidArgument
from onnxc.frontend.declared import element_type
from onnxc.frontend.load import LoadedModel
from onnxc.frontend.problems import printable
from onnxc.ir.types import STR, dtype_of

__all__ = ["Changes", "changed"]


@dataclasses.dataclass(frozen=True)
class Changes:
    """`dims` are sizes by a dimension's name, `denotations` by its denotation. `initializers` replace those of the same
    name, `external` the data of those whose data lies in files, and `files` such files by the names that the model
    gives them. `outputs` are the values to compute, None: the model's outputs. `apart` lets dimensions of one name have
    different sizes."""

    dims: Mapping[str, int] = dataclasses.field(default_factory=dict)
    denotations: Mapping[str, int] = dataclasses.field(default_factory=dict)
    initializers: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    external: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    files: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    outputs: tuple[str, ...] | None = None
    apart: bool = False


def changed(model: LoadedModel, changes: Changes) -> LoadedModel:
    """A loaded model with the changes made; the given one stays as it is.

    Unknown names of dimensions and of `initializers` are ignored. Raises InvalidArgument for outputs that no value is
    called by, for sizes below 0, and Fail for external data that is not the model's.
    """
    if changes == Changes():
        return model
    proto, blobs = ModelProto(), dict(model.blobs)
    proto.CopyFrom(model.proto)
    _set_dims(proto.graph, changes)
    position = {t.name: i for i, t in enumerate(proto.graph.initializer)}
    for name, array in changes.external.items():
        _check_external(proto.graph, position.get(name), name, array)
    # Large arrays of a session's options would else be its constants, and change with what their owner writes.
    own = {name: array.copy() for name, array in changes.initializers.items() if name in position}
    for name, array in {**changes.external, **own}.items():
        if name in position:
            _replace(proto.graph.initializer[position[name]], array, blobs, position[name])
    if changes.outputs is not None:
        _choose_outputs(proto.graph, changes.outputs)
    return dataclasses.replace(model, proto=proto, blobs=blobs, files={**model.files, **changes.files})


# ---- dimensions ------------------------------------------------------------------------------------------------------

def _set_dims(graph: GraphProto, changes: Changes) -> None:
    by_name = dict(changes.dims)
    for d in _dims(graph.input):
        if d.denotation in changes.denotations and d.WhichOneof("value") != "dim_value":
            size = _size(d.denotation, changes.denotations)
            if d.dim_param:
                by_name.setdefault(d.dim_param, size)
            d.dim_value = size
    for d in _dims((*graph.input, *graph.output, *graph.value_info)):
        if d.WhichOneof("value") == "dim_param" and d.dim_param in by_name:
            d.dim_value = _size(d.dim_param, by_name)
        elif changes.apart:
            d.ClearField("dim_param")


def _size(name: str, sizes: Mapping[str, int]) -> int:
    """The size that a dimension is given. Options may serve several models, so that others' names go unchecked."""
    if sizes[name] < 0:
        raise InvalidArgument(f"Dimension '{printable(name)}' is given the size {sizes[name]}; sizes are at least 0.")
    return sizes[name]


def _dims(values: Sequence[ValueInfoProto]) -> Iterator[TensorShapeProto.Dimension]:
    for value in values:
        t: TypeProto = value.type
        while (kind := t.WhichOneof("value")) in ("sequence_type", "optional_type"):
            t = getattr(t, kind).elem_type
        if kind == "tensor_type":
            yield from t.tensor_type.shape.dim


# ---- tensors ---------------------------------------------------------------------------------------------------------

def _check_external(graph: GraphProto, position: int | None, name: str, array: np.ndarray) -> None:
    shown = printable(name)
    if position is None:
        raise Fail(f"The model has no initializer '{shown}' that external data could be supplied for.")
    tensor = graph.initializer[position]
    if tensor.data_location != TensorProto.EXTERNAL:
        raise Fail(f"The data of initializer '{shown}' is in the model; external data replaces external data only. "
                   "Use add_initializer to replace it.")
    declared = element_type(tensor.data_type, f"Initializer '{shown}'")
    if tuple(tensor.dims) != array.shape or declared != dtype_of(array.dtype):
        raise Fail(f"The value for initializer '{shown}' is {dtype_of(array.dtype).onnx_text}{list(array.shape)}; the "
                   f"model declares {declared.onnx_text}{list(tensor.dims)}.")


def _replace(tensor: TensorProto, array: np.ndarray, blobs: dict[int, np.ndarray], position: int) -> None:
    dtype = dtype_of(array.dtype)
    blobs.pop(position, None)
    if dtype == STR or dtype.bits < 8:
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        return
    name, doc = tensor.name, tensor.doc_string
    tensor.Clear()
    tensor.name, tensor.doc_string, tensor.data_type = name, doc, dtype.onnx
    tensor.dims.extend(array.shape)
    blobs[position] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)


# ---- outputs ---------------------------------------------------------------------------------------------------------

def _choose_outputs(graph: GraphProto, names: Sequence[str]) -> None:
    declared = {v.name: v for v in (*graph.value_info, *graph.input, *graph.output)}
    known = {*declared, *(t.name for t in graph.initializer), *(t.values.name for t in graph.sparse_initializer),
             *(o for n in graph.node for o in n.output)} - {""}
    for name in names:
        if name not in known:
            close = ", ".join(map(printable, difflib.get_close_matches(name, known, 3)))
            raise InvalidArgument(f"Invalid output name:{name}. No value of the model's main graph is called so"
                                  f"{f'; there are {close}' if close else ''}.")
    chosen = [ValueInfoProto() for _ in names]
    for value, name in zip(chosen, names, strict=True):
        value.CopyFrom(declared.get(name) or ValueInfoProto(name=name))
    del graph.output[:]
    graph.output.extend(chosen)
