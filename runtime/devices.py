"""Devices and their memory under ONNX Runtime's names and numbers. Describing a device needs no such device."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

from onnxc.runtime.enums import OrtAllocatorType, OrtDeviceMemoryType, OrtDeviceVendorId, OrtMemType

__all__ = ["OrtArenaCfg", "OrtDevice", "OrtMemoryInfo", "cpu_memory", "create_and_register_allocator",
           "create_and_register_allocator_v2", "require_cpu"]


#: name -> (type, maker)
_DEVICES = {"cpu": (0, 0), "cuda": (1, 0x10DE), "gpu": (1, 0), "npu": (3, 0), "dml": (1, 0x1414),
            "cann": (3, 0x19E5), "webgpu": (1, 0)}


class OrtDevice:
    """A device by type, index and maker."""

    __slots__ = ("_index", "_memory", "_type", "_vendor")

    def __init__(self, device_type: int, memory_type: int, vendor_id: int, device_id: int) -> None:
        self._type, self._memory = operator.index(device_type), operator.index(memory_type)
        self._vendor, self._index = operator.index(vendor_id), operator.index(device_id)

    @staticmethod
    def make(ort_device_name: str, device_id: int, vendor_id: int = -1) -> OrtDevice:
        """The device called cpu, cuda, gpu, npu, dml, cann or webgpu; a bare Exception for other names."""
        if not isinstance(ort_device_name, str):
            raise TypeError(f"a device's name is a text, not {ort_device_name!r}")
        if ort_device_name not in _DEVICES:
            # No narrower class: callers of ONNX Runtime find a bare Exception here.
            raise Exception(f"Unsupported device type: {ort_device_name}; expected one of {', '.join(_DEVICES)}")
        kind, vendor = _DEVICES[ort_device_name]
        return OrtDevice(kind, OrtDeviceMemoryType.DEFAULT, vendor if vendor_id < 0 else vendor_id, device_id)

    def device_id(self) -> int:
        return self._index

    def device_type(self) -> int:
        return self._type

    def device_vendor_id(self) -> int:
        return self._vendor

    def device_mem_type(self) -> int:
        return self._memory

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OrtDevice) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"OrtDevice(type={self._type}, id={self._index}, vendor={self._vendor:#x})"

    def _key(self) -> tuple[int, int, int, int]:
        return self._type, self._memory, self._vendor, self._index


class OrtMemoryInfo:
    """Which memory an allocator gives."""

    __slots__ = ("allocator_type", "device_id", "device_mem_type", "device_vendor_id", "mem_type", "name")

    def __init__(self, name: str, allocator_type: OrtAllocatorType, device_id: int, mem_type: OrtMemType) -> None:
        if not isinstance(name, str) or not isinstance(allocator_type, OrtAllocatorType) \
                or not isinstance(mem_type, OrtMemType):
            raise TypeError(f"OrtMemoryInfo({name!r}, {allocator_type!r}, {device_id!r}, {mem_type!r}); expected a "
                            "name, an OrtAllocatorType, an index and an OrtMemType")
        self.name, self.allocator_type, self.mem_type = name, allocator_type, mem_type
        self.device_id = operator.index(device_id)
        self.device_mem_type, self.device_vendor_id = OrtDeviceMemoryType.DEFAULT, OrtDeviceVendorId.NONE


class OrtArenaCfg:
    """How an allocator of ONNX Runtime is to grow: numbers, -1 for its own choice. Programs of onnxc know their memory
    before they run, so that nothing here follows from them."""

    __slots__ = ("arena_extend_strategy", "initial_chunk_size_bytes", "initial_growth_chunk_size_bytes",
                 "max_dead_bytes_per_chunk", "max_mem", "max_power_of_two_extend_bytes")
    arena_extend_strategy: int
    initial_chunk_size_bytes: int
    initial_growth_chunk_size_bytes: int
    max_dead_bytes_per_chunk: int
    max_mem: int
    max_power_of_two_extend_bytes: int

    def __init__(self, *amounts: Any) -> None:
        """From a dict of the attributes, or from `max_mem`, `arena_extend_strategy`, `initial_chunk_size_bytes` and
        `max_dead_bytes_per_chunk`. RuntimeError for another name in the dict."""
        if len(amounts) == 1 and isinstance(amounts[0], dict):
            given = amounts[0]
        elif len(amounts) == 4:
            given = dict(zip(("max_mem", "arena_extend_strategy", "initial_chunk_size_bytes",
                              "max_dead_bytes_per_chunk"), amounts, strict=True))
        else:
            raise TypeError(f"OrtArenaCfg takes a dict or four numbers, not {amounts!r}")
        for name in self.__slots__:
            setattr(self, name, -1)
        for name, amount in given.items():
            if name not in self.__slots__:
                raise RuntimeError(f"Invalid OrtArenaCfg option: {name}; expected one of {', '.join(self.__slots__)}")
            setattr(self, name, operator.index(amount))


def cpu_memory() -> OrtMemoryInfo:
    """A description of the memory that sessions read and write."""
    return OrtMemoryInfo("Cpu", OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, OrtMemType.DEFAULT)


def create_and_register_allocator(mem_info: OrtMemoryInfo, arena_cfg: OrtArenaCfg | None) -> None:
    """Accepted: programs know their memory before they run, and share no arena. RuntimeError for memory that is not
    the CPU's."""
    if not isinstance(mem_info, OrtMemoryInfo) or not (arena_cfg is None or isinstance(arena_cfg, OrtArenaCfg)):
        raise TypeError(f"an allocator takes an OrtMemoryInfo and an OrtArenaCfg or None, not {mem_info!r} and "
                        f"{arena_cfg!r}")
    if mem_info.name != "Cpu" or mem_info.device_id:
        raise RuntimeError(f"Only CPU devices are supported: there is no memory {mem_info.name}:{mem_info.device_id}")


def create_and_register_allocator_v2(provider_type: str, mem_info: OrtMemoryInfo, options: Mapping[str, str],
                                     arena_cfg: OrtArenaCfg | None) -> None:
    """`create_and_register_allocator` of a provider, which has to be the CPU's."""
    if provider_type != "CPUExecutionProvider":
        raise RuntimeError(f"{provider_type} is not implemented: only CPUExecutionProvider has allocators here")
    create_and_register_allocator(mem_info, arena_cfg)


def require_cpu(device_type: Any, device_id: Any = 0, vendor_id: Any = -1) -> None:
    """A bare Exception for a name that no device has, and RuntimeError for a device that is not here. An `OrtDevice`
    may stand for name and index."""
    if device_type == "cpu" and device_id == 0:
        return
    device = device_type if isinstance(device_type, OrtDevice) else OrtDevice.make(
        device_type, operator.index(device_id), operator.index(vendor_id))
    if device.device_type() or device.device_id():
        raise RuntimeError(f"Can't allocate memory on the device {device_type}:{device_id}: only the CPU, cpu:0, is "
                           "available")
