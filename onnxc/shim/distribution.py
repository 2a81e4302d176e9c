"""The distribution that programs find when they ask whether onnxruntime is installed, and which version."""

from __future__ import annotations

import os
from importlib.metadata import Distribution
from pathlib import Path

from onnxc.shim.names import NAME, VERSION

__all__ = ["ShimDistribution"]

_TEXTS = {
    "METADATA": f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {VERSION}\nSummary: onnxc under ONNX Runtime's name\n",
    "top_level.txt": f"{NAME}\n",
}


class ShimDistribution(Distribution):
    """Says that onnxruntime is there, and nothing about files."""

    def read_text(self, filename: str | os.PathLike[str]) -> str | None:
        return _TEXTS.get(os.fspath(filename))

    def locate_file(self, path: str | os.PathLike[str]) -> Path:
        return Path(__file__).resolve().parents[2] / path
