"""From bytes or a path to IR: loading, limits, opset upgrade and import. The only folder that imports `onnx`."""

from __future__ import annotations

from onnxc.frontend.importer import import_model
from onnxc.frontend.limits import Limits
from onnxc.frontend.load import LoadedModel, load_model, loaded_proto

__all__ = ["Limits", "LoadedModel", "import_model", "load_model", "loaded_proto"]
