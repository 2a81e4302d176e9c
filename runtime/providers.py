"""Execution providers under ONNX Runtime's names: which there are, and what a caller's list of them means.

A name of ONNX Runtime's that has no device here is dropped with a warning, because programs name several and expect
that. Everything else that is wrong with a list is an error at once; ONNX Runtime prints a notice and goes on.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["check_provider", "chosen_providers", "get_all_providers", "get_available_providers", "get_device"]

_CPU = "CPUExecutionProvider"
_AVAILABLE = (_CPU,)
_KNOWN = tuple(f"{name}ExecutionProvider" for name in (
    "NvTensorRTRTX", "Tensorrt", "CUDA", "MIGraphX", "OpenVINO", "Dnnl", "VitisAI", "QNN", "Nnapi", "VSINPU", "Js",
    "CoreML", "ACL", "Dml", "Rknpu", "WebNN", "WebGpu", "Xnnpack", "CANN", "Azure", "CPU"))
_ONE_OF = ("TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider")
#: Names that earlier versions of ONNX Runtime had and programs still pass.
_FORMER = ("ROCMExecutionProvider", "ArmNNExecutionProvider", "TvmExecutionProvider", "SNPEExecutionProvider")


def get_available_providers() -> list[str]:
    """The providers that sessions can use here, the best first."""
    return list(_AVAILABLE)


def get_all_providers() -> list[str]:
    """The names that ONNX Runtime knows, in its order of preference."""
    return list(_KNOWN)


def get_device() -> str:
    """'CPU' or 'GPU', what sessions without named providers run on."""
    return "CPU"


def chosen_providers(providers: Any, options: Any) -> dict[str, dict[str, str]]:
    """The usable providers of a caller's lists, in order, with their options as text; the CPU comes last if not named.

    Options without providers mean nothing. Raises ValueError for lists of a wrong form or of providers that exclude
    each other, and RuntimeError for a name that no provider ever had. Warns of providers that are not available and of
    names given twice.
    """
    chosen: dict[str, dict[str, str]] = {}
    pairs = [] if providers is None else _pairs(providers, options)
    if {name for name, _ in pairs}.issuperset(_ONE_OF):
        raise ValueError("Cannot enable both '{}' and '{}' in the same session.".format(*_ONE_OF))
    for name, settings in pairs:
        check_provider(name)
        if name not in _AVAILABLE:
            warnings.warn(f"Specified provider '{name}' is not in available provider names."
                          f"Available providers: '{', '.join(_AVAILABLE)}'", stacklevel=4)
        elif name in chosen:
            warnings.warn(f"Duplicate provider '{name}' encountered, ignoring.", stacklevel=4)
        else:
            chosen[name] = {str(key): str(value) for key, value in settings.items()}
    chosen.setdefault(_CPU, {})
    return {name: {} if name == _CPU else settings for name, settings in chosen.items()}


def check_provider(name: str) -> str:
    """The name. Raises RuntimeError for one that no provider ever had."""
    if name not in _KNOWN and name not in _FORMER:
        raise RuntimeError(f"Unknown Provider Type: {name}; available are {', '.join(_AVAILABLE)}")
    return name


def _pairs(providers: Any, options: Any) -> list[tuple[str, Mapping[Any, Any]]]:
    if not isinstance(providers, Sequence) or isinstance(providers, (str, bytes)):
        raise ValueError(f"'providers' should be a sequence. It is {providers!r} of type {type(providers).__name__}; "
                         f"expected a list such as ['{_CPU}'].")
    if options is not None:
        return list(zip(_names_only(providers), _dicts(options, len(providers)), strict=True))
    return [_pair(item) for item in providers]


def _names_only(providers: Sequence[Any]) -> list[str]:
    if not all(isinstance(name, str) for name in providers):
        raise ValueError("Only string values for 'providers' are supported if 'provider_options' is given.")
    return list(providers)


def _dicts(options: Any, count: int) -> list[Mapping[Any, Any]]:
    if not isinstance(options, Sequence) or not all(isinstance(each, Mapping) for each in options):
        raise ValueError("'provider_options' should be a sequence of dicts.")
    if len(options) != count:
        raise ValueError("'providers' and 'provider_options' should be the same length if both are given; they have "
                         f"{count} and {len(options)} items.")
    return list(options)


def _pair(item: Any) -> tuple[str, Mapping[Any, Any]]:
    if isinstance(item, str):
        return item, {}
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str) and isinstance(item[1], Mapping):
        return item
    raise ValueError(f"'providers' values must be either strings or (string, dict) tuples; got {item!r}.")
