"""The enumerations of ONNX Runtime's API: same names, values and texts. As there, any number is taken."""

from __future__ import annotations

import enum
from typing import Any

__all__ = ["ExecutionMode", "ExecutionOrder", "GraphOptimizationLevel", "OrtAllocatorType", "OrtCompileApiFlags",
           "OrtDeviceMemoryType", "OrtDeviceVendorId", "OrtExecutionProviderDevicePolicy", "OrtHardwareDeviceType",
           "OrtMemType", "OrtMemoryInfoDeviceType", "OrtSparseFormat"]


class _Enum(enum.IntEnum):
    """An IntEnum whose members print as `Class.NAME`, and which takes any int: what has no name is called '???'."""

    @classmethod
    def _missing_(cls, value: Any) -> Any:
        if not isinstance(value, int):
            raise TypeError(f"{cls.__name__}({value!r}): its members are numbers")
        member = int.__new__(cls, value)
        member._name_, member._value_ = "???", value
        return member

    def __str__(self) -> str:
        return f"{type(self).__name__}.{self.name}"


class GraphOptimizationLevel(_Enum):
    """How much the compiler optimises. Levels from ORT_ENABLE_BASIC on are one: all passes run."""

    ORT_DISABLE_ALL = 0
    ORT_ENABLE_BASIC = 1
    ORT_ENABLE_EXTENDED = 2
    ORT_ENABLE_LAYOUT = 3
    ORT_ENABLE_ALL = 99


class ExecutionMode(_Enum):
    """Whether independent nodes may run side by side. A compiled program has one order; both run it."""

    ORT_SEQUENTIAL = 0
    ORT_PARALLEL = 1


class ExecutionOrder(_Enum):
    """In which order nodes run. The compiler chooses it; all mean that."""

    DEFAULT = 0
    PRIORITY_BASED = 1
    MEMORY_EFFICIENT = 2


class OrtAllocatorType(_Enum):
    """How an allocator gives memory."""

    INVALID = -1
    ORT_DEVICE_ALLOCATOR = 0
    ORT_ARENA_ALLOCATOR = 1


class OrtMemType(_Enum):
    """What memory is for, as its device sees it."""

    CPU_INPUT = -2
    CPU_OUTPUT = -1
    CPU = -1
    DEFAULT = 0


class OrtSparseFormat(_Enum):
    """How a sparse tensor is stored."""

    ORT_SPARSE_UNDEFINED = 0
    ORT_SPARSE_COO = 1
    ORT_SPARSE_CSRC = 2
    ORT_SPARSE_BLOCK_SPARSE = 4


class OrtDeviceMemoryType(_Enum):
    """Who can reach a device's memory."""

    DEFAULT = 0
    HOST_ACCESSIBLE = 5


class OrtHardwareDeviceType(_Enum):
    """Kinds of processors."""

    CPU = 0
    GPU = 1
    NPU = 2


class OrtMemoryInfoDeviceType(_Enum):
    """Kinds of processors as memory infos call them."""

    CPU = 0
    GPU = 1
    FPGA = 2
    NPU = 3


class OrtExecutionProviderDevicePolicy(_Enum):
    """What a choice among devices should prefer."""

    DEFAULT = 0
    PREFER_CPU = 1
    PREFER_NPU = 2
    PREFER_GPU = 3
    MAX_PERFORMANCE = 4
    MAX_EFFICIENCY = 5
    MIN_OVERALL_POWER = 6


class OrtCompileApiFlags(enum.IntFlag):
    """What a compilation refuses."""

    NONE = 0
    ERROR_IF_NO_NODES_COMPILED = 1
    ERROR_IF_OUTPUT_FILE_EXISTS = 2


class OrtDeviceVendorId(enum.IntEnum):
    """Vendors of devices, by their PCI numbers."""

    NONE = 0
    AMD = 0x1002
    NVIDIA = 0x10DE
    ARM = 0x13B5
    MICROSOFT = 0x1414
    HUAWEI = 0x19E5
    QUALCOMM = 0x5143
    INTEL = 0x8086
