"""Exceptions, options, enumerations and functions under the path that ONNX Runtime's compiled module has."""

from __future__ import annotations

from typing import Any

from onnxc.errors import (
    DeviceReset,
    EngineError,
    EPFail,
    Fail,
    InvalidArgument,
    InvalidGraph,
    InvalidProtobuf,
    ModelLoadCanceled,
    ModelLoaded,
    ModelRequiresCompilation,
    NoModel,
    NoSuchFile,
    NotFound,
    NotImplemented,
    RuntimeException,
)
from onnxc.runtime.adapters import LoraAdapter
from onnxc.runtime.devices import (
    OrtArenaCfg,
    OrtDevice,
    OrtMemoryInfo,
    create_and_register_allocator,
    create_and_register_allocator_v2,
)
from onnxc.runtime.enums import (
    ExecutionMode,
    ExecutionOrder,
    GraphOptimizationLevel,
    OrtAllocatorType,
    OrtCompileApiFlags,
    OrtDeviceMemoryType,
    OrtExecutionProviderDevicePolicy,
    OrtHardwareDeviceType,
    OrtMemoryInfoDeviceType,
    OrtMemType,
    OrtSparseFormat,
)
from onnxc.runtime.environment import (
    disable_telemetry_events,
    enable_telemetry_events,
    get_build_info,
    get_version_string,
    has_collective_ops,
    set_global_thread_pool_sizes,
    set_seed,
)
from onnxc.runtime.ep_devices import (
    OrtEpDevice,
    OrtHardwareDevice,
    get_ep_devices,
    register_execution_provider_library,
    unregister_execution_provider_library,
)
from onnxc.runtime.iobinding import SessionIOBinding
from onnxc.runtime.log import set_default_logger_severity, set_default_logger_verbosity
from onnxc.runtime.metadata import ModelMetadata, NodeArg
from onnxc.runtime.options import RunOptions, SessionOptions
from onnxc.runtime.ortvalue import OrtValue, OrtValueVector, copy_tensors
from onnxc.runtime.providers import get_all_providers, get_available_providers, get_device
from onnxc.runtime.report import OrtEpAssignedNode, OrtEpAssignedSubgraph
from onnxc.runtime.sparse import SparseTensor

__all__ = [
    "DeviceReset", "EPFail", "EngineError", "ExecutionMode", "ExecutionOrder", "Fail", "GraphOptimizationLevel",
    "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "LoraAdapter", "ModelLoadCanceled", "ModelLoaded",
    "ModelMetadata", "ModelRequiresCompilation", "NoModel", "NoSuchFile", "NodeArg", "NotFound", "NotImplemented",
    "OrtAllocatorType", "OrtArenaCfg", "OrtCompileApiFlags", "OrtDevice", "OrtDeviceMemoryType",
    "OrtEpAssignedNode", "OrtEpAssignedSubgraph", "OrtEpDevice", "OrtExecutionProviderDevicePolicy",
    "OrtHardwareDevice", "OrtHardwareDeviceType", "OrtMemType", "OrtMemoryInfo", "OrtMemoryInfoDeviceType",
    "OrtSparseFormat", "OrtValue", "OrtValueVector", "RunOptions", "RuntimeException", "SessionIOBinding",
    "SessionOptions", "SparseTensor", "copy_tensors", "create_and_register_allocator",
    "create_and_register_allocator_v2", "disable_telemetry_events", "enable_telemetry_events", "get_all_providers",
    "get_available_providers", "get_build_info", "get_device", "get_ep_devices", "get_version_string",
    "has_collective_ops", "register_execution_provider_library", "set_default_logger_severity",
    "set_default_logger_verbosity", "set_global_thread_pool_sizes", "set_seed",
    "unregister_execution_provider_library",
]


def __getattr__(name: str) -> Any:
    """Helpers that the pure Python parts of the real package look for here."""
    if not name.startswith("__"):
        from onnxc.shim.real import HELPERS, helper
        if name in HELPERS:
            return helper(name)
    raise AttributeError(f"module 'onnxc.capi.onnxruntime_pybind11_state' has no attribute {name!r}")
