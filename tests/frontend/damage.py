"""Damage to the bytes of models, and what reading them comes to."""

from __future__ import annotations

import random

from onnxc.errors import OnnxcError
from onnxc.frontend import import_model, load_model
from onnxc.ir.printer import print_module
from onnxc.ir.verify import verify

__all__ = ["cut", "flip", "outcome"]


def outcome(data: bytes, ort_format: bool | None = None) -> str:
    """Load and import; what comes out has to be valid IR. Anything but a typed error fails the test."""
    try:
        module = import_model(load_model(data, ort_format=ort_format))
    except OnnxcError as e:
        assert e.message.isprintable() or "\n" in e.message
        return type(e).__name__
    verify(module)
    print_module(module)
    return "loaded"


def flip(r: random.Random, data: bytearray) -> None:
    data[r.randrange(len(data))] ^= 1 << r.randrange(8)


def cut(r: random.Random, data: bytearray) -> None:
    del data[r.randrange(len(data)):]
