"""Another path to `onnxruntime_pybind11_state`, which programs import as `C`."""

from __future__ import annotations

from onnxc.capi.onnxruntime_pybind11_state import *  # noqa: F403
from onnxc.capi.onnxruntime_pybind11_state import __all__, __getattr__  # noqa: F401
