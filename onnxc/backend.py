"""The ONNX Backend interface: models and single nodes run through sessions.

    rep = onnxc.backend.prepare(model)
    outputs = rep.run([x, y])

`onnx.backend.test.BackendTest(onnxc.backend, __name__)` runs ONNX's own tests on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from onnx.backend.base import Backend, BackendRep
from onnx.checker import check_model

from onnxc.errors import InvalidArgument, UnsupportedModel
from onnxc.frontend.load import IR_VERSION, OPSETS
from onnxc.runtime.options import SessionOptions
from onnxc.runtime.session import InferenceSession

__all__ = ["OnnxcBackend", "OnnxcBackendRep", "SpecialisingRep", "is_compatible", "prepare", "run", "run_model",
           "run_node", "supports_device"]

_REFUSED = ("optimized_model_filepath", "profile_file_prefix", "enable_profiling")      # they write files
_MOST_SIZES = 64        # elements of an input that may be compiled in


class OnnxcBackendRep(BackendRep):
    """A model that is ready to run."""

    def __init__(self, session: InferenceSession) -> None:
        self.session = session

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """All outputs, for a list of inputs in the model's order, or one array for a model with one input. Inputs may
        be left out at the end where the model does not need them."""
        feed = _feed(inputs, [arg.name for arg in self.session.get_inputs()])
        return tuple(self.session.run(None, feed))


class SpecialisingRep(OnnxcBackendRep):
    """A model whose inputs decide what has to be known when it is compiled (axes, sizes, scales): it is compiled when
    it runs, once for each set of values of these."""

    def __init__(self, model: ModelProto, options: SessionOptions) -> None:
        self._model, self._options = model, options
        self._sessions: dict[Any, InferenceSession] = {}

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """As `OnnxcBackendRep.run`. Raises UnsupportedModel where constants do not help either."""
        constants = {tensor.name for tensor in self._model.graph.initializer}
        feed = _feed(inputs, [info.name for info in self._model.graph.input if info.name not in constants])
        fixed = {name: value for name, value in feed.items() if _is_size(value)}
        try:
            return self._run(feed, {name: v for name, v in fixed.items() if v.dtype.kind in "iu"})
        except UnsupportedModel:
            return self._run(feed, fixed)

    def _run(self, feed: Mapping[str, Any], fixed: Mapping[str, np.ndarray]) -> tuple[Any, ...]:
        key = tuple((name, value.dtype.str, value.shape, value.tobytes()) for name, value in sorted(fixed.items()))
        if key not in self._sessions:
            self._sessions[key] = _session(_with_constants(self._model, fixed).SerializeToString(), self._options)
        return tuple(self._sessions[key].run(None, {n: v for n, v in feed.items() if n not in fixed}))


def _feed(inputs: Any, names: Sequence[str]) -> dict[str, Any]:
    given = inputs if isinstance(inputs, (list, tuple)) else [inputs]
    values = [np.asarray(value) if isinstance(value, np.generic) else value for value in given]
    if isinstance(inputs, Mapping) or len(values) > len(names):
        found = "a mapping" if isinstance(inputs, Mapping) else f"{len(values)}"
        raise RuntimeError(f"Model expect {len(names)} inputs, in order; got {found}.")
    return dict(zip(names, values, strict=False))


def _may_be_size(info: ValueInfoProto) -> bool:
    return info.type.HasField("tensor_type") and len(info.type.tensor_type.shape.dim) <= 1


def _is_size(value: Any) -> bool:
    """Whether an input may stand for an axis, sizes or scales, rather than for data."""
    return isinstance(value, np.ndarray) and value.ndim <= 1 and value.size <= _MOST_SIZES \
        and value.dtype.kind in "iuf"


def _with_constants(model: ModelProto, fixed: Mapping[str, np.ndarray]) -> ModelProto:
    out = ModelProto()
    out.CopyFrom(model)
    kept = [info for info in model.graph.input if info.name not in fixed]
    del out.graph.input[:]
    out.graph.input.extend(kept)
    out.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in fixed.items())
    return out


def _prepared(model: ModelProto, options: SessionOptions) -> OnnxcBackendRep:
    try:
        return OnnxcBackendRep(_session(model.SerializeToString(), options))
    except UnsupportedModel:
        if not any(_may_be_size(info) for info in model.graph.input):
            raise
        return SpecialisingRep(model, options)


def _session(model: str | bytes, options: SessionOptions) -> InferenceSession:
    return InferenceSession(model, options, providers=["CPUExecutionProvider"])


class OnnxcBackend(Backend):
    """`onnx.backend.base.Backend` on sessions. Keyword arguments are attributes of SessionOptions."""

    @classmethod
    def is_compatible(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether models run on the device; whether this one compiles, `prepare` finds out."""
        return cls.supports_device(device)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether sessions run there: "CPU", with or without a number behind a colon."""
        return device.partition(":")[0].upper() == "CPU"

    @classmethod
    def prepare(cls, model: Any, device: str = "CPU", **kwargs: Any) -> OnnxcBackendRep:
        """A model (message, bytes, path or session) that is ready to run; a message is checked first."""
        if isinstance(model, OnnxcBackendRep):
            return model
        if not cls.supports_device(device or "CPU"):
            raise RuntimeError(f"Incompatible device expected '{device}', got 'CPU'")
        if isinstance(model, InferenceSession):
            return OnnxcBackendRep(model)
        options = _options(kwargs)
        if not isinstance(model, ModelProto):
            return OnnxcBackendRep(_session(model, options))
        check_model(model)
        return _prepared(model, options)

    @classmethod
    def run_model(cls, model: Any, inputs: Any, device: str = "CPU", **kwargs: Any) -> tuple[Any, ...]:
        """The outputs of a model for a list of inputs."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(cls, node: NodeProto, inputs: Any, device: str = "CPU",
                 outputs_info: Sequence[tuple[Any, Sequence[int]]] | None = None, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs of one node for its inputs, of which a dict gives those by name. `opset_version` is the version
        of the node's domain (else the newest); `outputs_info` declares types and shapes of outputs."""
        version = kwargs.pop("opset_version", OPSETS.get(node.domain, 1))
        names = [name for name in node.input if name]
        given = [inputs[name] for name in names] if isinstance(inputs, Mapping) else list(inputs)
        if len(given) != len(names):
            raise RuntimeError(f"The node has {len(names)} inputs; got {len(given)}.")
        arrays = {name: np.asarray(value) for name, value in zip(names, given, strict=True)}
        declared = [_value(name, array.dtype, array.shape) for name, array in arrays.items()]
        outputs = [name for name in node.output if name]
        infos = [_value(name, dtype, shape) for name, (dtype, shape) in zip(outputs, outputs_info, strict=True)] \
            if outputs_info else [helper.make_empty_tensor_value_info(name) for name in outputs]
        graph = helper.make_graph([node], "node", declared, infos)
        imports = [helper.make_opsetid(node.domain, version)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION)
        if not cls.supports_device(device):
            raise RuntimeError(f"Incompatible device expected '{device}', got 'CPU'")
        return _prepared(model, _options(kwargs)).run(list(arrays.values()))


def _value(name: str, dtype: Any, shape: Sequence[int]) -> ValueInfoProto:
    kind = np.dtype(dtype)
    element = TensorProto.STRING if kind.kind in "OUS" else helper.np_dtype_to_tensor_dtype(kind)
    return helper.make_tensor_value_info(name, element, list(shape))


def _options(given: Mapping[str, Any]) -> SessionOptions:
    options = SessionOptions()
    for name, value in given.items():
        if name in _REFUSED:
            raise InvalidArgument(f"SessionOptions attribute '{name}' is not permitted here: it writes files.")
        if hasattr(options, name):
            setattr(options, name, value)
    return options


is_compatible = OnnxcBackend.is_compatible
prepare = OnnxcBackend.prepare
run = OnnxcBackend.run_model
run_model = OnnxcBackend.run_model
run_node = OnnxcBackend.run_node
supports_device = OnnxcBackend.supports_device
