"""What the real package's pure Python parts use of its compiled module, which onnxc has not: packing of weights for
`onnxruntime.quantization`, and shape inference for `onnxruntime.tools`. They come from that module itself, which is
loaded when one of them is asked for, and is nobody else's."""

from __future__ import annotations

import functools
import os
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, PathFinder
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from onnxc.shim.names import NAME

__all__ = ["HELPERS", "helper"]

HELPERS = frozenset({"get_shape_inference_function", "quantize_matmul_2bits", "quantize_matmul_4bits",
                     "quantize_matmul_8bits", "quantize_matmul_bnb4", "quantize_qdq_matmul_4bits"})
_MODULE = "onnxruntime_pybind11_state"


def helper(name: str) -> Any:
    """A function of the real compiled module. AttributeError where there is no such package."""
    module = _compiled()
    if module is None or not hasattr(module, name):
        raise AttributeError(f"onnxc has no {name}; it is a helper of {NAME}'s own tools, and comes from that package "
                             "where it is installed")
    return getattr(module, name)


@functools.cache
def _compiled() -> ModuleType | None:
    package = PathFinder.find_spec(NAME)
    folders = [] if package is None else list(package.submodule_search_locations or ())
    for path in (Path(folder, "capi", _MODULE + suffix) for folder in folders for suffix in EXTENSION_SUFFIXES):
        if path.is_file():
            os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
            spec = spec_from_file_location(_MODULE, path, loader=ExtensionFileLoader(_MODULE, str(path)))
            assert spec is not None and spec.loader is not None
            module = module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    return None
