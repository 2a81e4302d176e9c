"""The classes of Python under the path that ONNX Runtime's own have."""

from __future__ import annotations

from onnxc.model_compiler import ModelCompiler
from onnxc.runtime.adapters import AdapterFormat
from onnxc.runtime.devices import OrtDevice
from onnxc.runtime.enums import OrtDeviceVendorId
from onnxc.runtime.iobinding import IOBinding
from onnxc.runtime.ortvalue import OrtValue, copy_tensors
from onnxc.runtime.session import InferenceSession, Session
from onnxc.runtime.sparse import SparseTensor

__all__ = ["AdapterFormat", "IOBinding", "InferenceSession", "ModelCompiler", "OrtDevice", "OrtDeviceVendorId",
           "OrtValue", "Session", "SparseTensor", "copy_tensors"]
