"""onnxc compiles ONNX models to kernels that it generates: LLVM machine code on CPUs, Triton kernels on NVIDIA GPUs.

This module is the public surface and nothing else: names are imported when they are first used. Importing it loads
neither `onnx`, `llvmlite`, `triton` nor `torch`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxc.compiling import compile
    from onnxc.custom import register_op, unregister_op
    from onnxc.model_compiler import ModelCompiler
    from onnxc.runtime.adapters import AdapterFormat, LoraAdapter
    from onnxc.runtime.artifact import open_artifact
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
        OrtDeviceVendorId,
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
        preload_dlls,
        print_debug_info,
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
    from onnxc.runtime.iobinding import IOBinding, SessionIOBinding
    from onnxc.runtime.log import set_default_logger_severity, set_default_logger_verbosity
    from onnxc.runtime.metadata import ModelMetadata, NodeArg
    from onnxc.runtime.options import RunOptions, SessionOptions
    from onnxc.runtime.ortvalue import OrtValue, OrtValueVector, copy_tensors
    from onnxc.runtime.providers import get_all_providers, get_available_providers, get_device
    from onnxc.runtime.report import OrtEpAssignedNode, OrtEpAssignedSubgraph
    from onnxc.runtime.session import InferenceSession
    from onnxc.runtime.sparse import SparseTensor
    from onnxc.shim import install_as_onnxruntime

__version__ = "0.1.0"
__author__ = "the onnxc authors"
version = __version__
package_name = "onnxc"
cuda_version = ""
import_capi_exception = None

_HOMES = {
    "onnxc.compiling": ("compile",),
    "onnxc.custom": ("register_op", "unregister_op"),
    "onnxc.model_compiler": ("ModelCompiler",),
    "onnxc.shim": ("install_as_onnxruntime",),
    "onnxc.runtime.adapters": ("AdapterFormat", "LoraAdapter"),
    "onnxc.runtime.artifact": ("open_artifact",),
    "onnxc.runtime.enums": (
        "ExecutionMode", "ExecutionOrder", "GraphOptimizationLevel", "OrtAllocatorType", "OrtCompileApiFlags",
        "OrtDeviceMemoryType", "OrtDeviceVendorId", "OrtExecutionProviderDevicePolicy", "OrtHardwareDeviceType",
        "OrtMemType", "OrtMemoryInfoDeviceType", "OrtSparseFormat"),
    "onnxc.runtime.devices": ("OrtArenaCfg", "OrtDevice", "OrtMemoryInfo", "create_and_register_allocator",
                              "create_and_register_allocator_v2"),
    "onnxc.runtime.ep_devices": ("OrtEpDevice", "OrtHardwareDevice", "get_ep_devices",
                                 "register_execution_provider_library", "unregister_execution_provider_library"),
    "onnxc.runtime.iobinding": ("IOBinding", "SessionIOBinding"),
    "onnxc.runtime.environment": (
        "disable_telemetry_events", "enable_telemetry_events", "get_build_info", "get_version_string",
        "has_collective_ops", "preload_dlls", "print_debug_info", "set_global_thread_pool_sizes", "set_seed"),
    "onnxc.runtime.log": ("set_default_logger_severity", "set_default_logger_verbosity"),
    "onnxc.runtime.metadata": ("ModelMetadata", "NodeArg"),
    "onnxc.runtime.options": ("RunOptions", "SessionOptions"),
    "onnxc.runtime.ortvalue": ("OrtValue", "OrtValueVector", "copy_tensors"),
    "onnxc.runtime.providers": ("get_all_providers", "get_available_providers", "get_device"),
    "onnxc.runtime.report": ("OrtEpAssignedNode", "OrtEpAssignedSubgraph"),
    "onnxc.runtime.session": ("InferenceSession",),
    "onnxc.runtime.sparse": ("SparseTensor",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AdapterFormat",
    "ExecutionMode",
    "ExecutionOrder",
    "GraphOptimizationLevel",
    "IOBinding",
    "InferenceSession",
    "LoraAdapter",
    "ModelCompiler",
    "ModelMetadata",
    "NodeArg",
    "OrtAllocatorType",
    "OrtArenaCfg",
    "OrtCompileApiFlags",
    "OrtDevice",
    "OrtDeviceMemoryType",
    "OrtDeviceVendorId",
    "OrtEpAssignedNode",
    "OrtEpAssignedSubgraph",
    "OrtEpDevice",
    "OrtExecutionProviderDevicePolicy",
    "OrtHardwareDevice",
    "OrtHardwareDeviceType",
    "OrtMemType",
    "OrtMemoryInfo",
    "OrtMemoryInfoDeviceType",
    "OrtSparseFormat",
    "OrtValue",
    "OrtValueVector",
    "RunOptions",
    "SessionIOBinding",
    "SessionOptions",
    "SparseTensor",
    "__version__",
    "compile",
    "copy_tensors",
    "create_and_register_allocator",
    "create_and_register_allocator_v2",
    "cuda_version",
    "disable_telemetry_events",
    "enable_telemetry_events",
    "get_all_providers",
    "get_available_providers",
    "get_build_info",
    "get_device",
    "get_ep_devices",
    "get_version_string",
    "has_collective_ops",
    "install_as_onnxruntime",
    "open_artifact",
    "package_name",
    "preload_dlls",
    "print_debug_info",
    "register_execution_provider_library",
    "register_op",
    "set_default_logger_severity",
    "set_default_logger_verbosity",
    "set_global_thread_pool_sizes",
    "set_seed",
    "unregister_execution_provider_library",
    "unregister_op",
    "version",
]


def __getattr__(name: str) -> Any:
    if name == "capi":      # where programs look for exceptions without importing it
        return import_module("onnxc.capi")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'onnxc' has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
