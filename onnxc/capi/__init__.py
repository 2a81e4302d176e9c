"""The modules inside of ONNX Runtime that programs import from by path, with what they look for there."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_MODULES = ("_pybind_state", "onnxruntime_inference_collection", "onnxruntime_pybind11_state")


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'onnxc.capi' has no attribute {name!r}")
    return import_module(f"onnxc.capi.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
