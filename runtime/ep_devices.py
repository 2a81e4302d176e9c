"""The devices that providers run on, under ONNX Runtime's names: here, the processor."""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import NoReturn

from onnxc import errors
from onnxc.runtime import cpu
from onnxc.runtime.devices import OrtMemoryInfo
from onnxc.runtime.enums import OrtDeviceMemoryType, OrtHardwareDeviceType
from onnxc.runtime.environment import get_version_string

__all__ = ["OrtEpDevice", "OrtHardwareDevice", "get_ep_devices", "register_execution_provider_library",
           "unregister_execution_provider_library"]

#: What Linux says of a processor's maker -> its name, and its number among those of PCI.
_MAKERS = {"GenuineIntel": ("Intel", 0x8086), "AuthenticAMD": ("AMD", 0x1022),
           "CPU implementer : 0x41": ("ARM", 0x13B5)}


@dataclasses.dataclass(frozen=True, slots=True)
class OrtHardwareDevice:
    """A processor: its kind, its maker (a name, and a number, 0 for one unknown) and its place among its kind."""

    type: OrtHardwareDeviceType
    vendor: str
    vendor_id: int
    device_id: int
    metadata: dict[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class OrtEpDevice:
    """A provider on a processor; `SessionOptions.add_provider_for_devices` takes a list of them."""

    ep_name: str
    ep_vendor: str
    ep_metadata: dict[str, str]
    ep_options: dict[str, str]
    device: OrtHardwareDevice

    def memory_info(self, memory_type: OrtDeviceMemoryType) -> OrtMemoryInfo | None:
        """The memory of the device's own; None: it works on the host's."""
        if not isinstance(memory_type, OrtDeviceMemoryType):
            raise TypeError(f"memory_info takes an OrtDeviceMemoryType, not {memory_type!r}")
        return None

    def create_sync_stream(self) -> NoReturn:
        """RuntimeError: work on the host is done when a run returns, so that there is no stream to wait for."""
        raise RuntimeError(f"{self.ep_name} does not use DEFAULT memory of a non-CPU device: it has no streams")


def get_ep_devices() -> list[OrtEpDevice]:
    """The devices that sessions can use here."""
    return [_cpu()]


def register_execution_provider_library(registration_name: str, library_path: str) -> NoReturn:
    """Raises NotImplemented: a library's devices are reached through ONNX Runtime's C API. Fail where there is no such
    library."""
    if not os.path.isfile(library_path):
        raise errors.Fail(f"Failed to load library {library_path} with error: there is no such file")
    raise errors.NotImplemented(f"The provider '{registration_name}' of {library_path} is machine code for ONNX "
                                "Runtime's C API, which compiled programs cannot call.")


def unregister_execution_provider_library(registration_name: str) -> NoReturn:
    """Raises Fail: no library is registered."""
    raise errors.Fail(f"Execution provider library: {registration_name} was not registered.")


@functools.cache
def _cpu() -> OrtEpDevice:
    return OrtEpDevice("CPUExecutionProvider", "onnxc", {"version": get_version_string()}, {}, _processor())


def _processor() -> OrtHardwareDevice:
    said = cpu.model()
    vendor, number = next((maker for sign, maker in _MAKERS.items() if sign in said), ("", 0))
    return OrtHardwareDevice(OrtHardwareDeviceType.CPU, vendor, number, 0, {})

