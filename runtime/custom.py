"""The operators that the program which uses onnxc brought along, by "domain:name", and those of them in Python."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

__all__ = ["CUSTOM_OPS", "PYTHON_OPS", "PythonOp"]

CUSTOM_OPS: set[str] = set()
"""What `onnxc.register_op` was told. While there are any, the compile cache is left alone: keys tell models and
settings apart, not functions."""


@dataclasses.dataclass(frozen=True)
class PythonOp:
    """An operator that is a function of arrays; `outputs` says what types its results have, as `register_op` takes
    it."""

    domain: str
    name: str
    fn: Callable[..., Any]
    outputs: Any = None


PYTHON_OPS: dict[str, PythonOp] = {}
"""Operators in Python by the name that host steps have: "com.example.Name"."""
