"""What the module `onnxruntime` consists of where it is onnxc."""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = ["ALIASES", "NAME", "VERSION", "fill"]

NAME = "onnxruntime"
VERSION = "1.31.1"
"""The release whose contract onnxc follows: programs compare it with those that they need."""

ALIASES = {"capi": "onnxc.capi", "datasets": "onnxc.datasets", "backend": "onnxc.backend"}
"""Subpackages of onnxruntime, and the packages of onnxc that are the same."""

_OWN = {"__version__": VERSION, "version": VERSION, "__author__": "Microsoft", "package_name": NAME,
        "get_version_string": lambda: VERSION}


def fill(module: ModuleType) -> None:
    """Gives the module onnxc's names, which it looks up when they are used."""
    onnxc = importlib.import_module("onnxc")

    def lookup(name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(f"module 'onnxruntime' has no attribute {name!r}")
        try:
            return getattr(onnxc, name)
        except AttributeError:
            raise AttributeError(f"module 'onnxruntime' (which is onnxc) has no attribute {name!r}") from None

    def names() -> list[str]:
        return sorted({*dir(onnxc), *_OWN})

    module.__doc__ = "onnxc, under ONNX Runtime's name."
    module.__dict__.update(_OWN, __getattr__=lookup, __dir__=names, __all__=[
        n for n in onnxc.__all__ if not n.startswith("__")])
