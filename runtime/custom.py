"""The operators that the program which uses onnxc brought along, by "domain:name"."""

from __future__ import annotations

__all__ = ["CUSTOM_OPS"]

CUSTOM_OPS: set[str] = set()
"""What `onnxc.register_op` was told. While there are any, the compile cache is left alone: keys tell models and
settings apart, not functions."""
