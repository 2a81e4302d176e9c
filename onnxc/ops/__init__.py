"""The op tables: one declarative row an op, with its types, reference semantics and documentation."""

from __future__ import annotations

import importlib

__all__ = ["load_all"]

_TABLES = ("scalar", "elementwise", "tensor", "scatter", "order", "fold", "control", "selection", "trees", "group",
           "containers", "kernel", "attention", "program")


def load_all() -> None:
    """Register every row: needed before text is parsed or models are imported, as rows register when imported."""
    for name in _TABLES:
        importlib.import_module(f"onnxc.ops.{name}")
