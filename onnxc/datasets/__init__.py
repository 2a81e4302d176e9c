"""Small example models, under the names that ONNX Runtime's examples have."""

from __future__ import annotations

from pathlib import Path

__all__ = ["get_example"]


def get_example(name: str) -> str:
    """The path of an example. Raises FileNotFoundError for another name.

    `mul_1.onnx` multiplies by a constant, `sigmoid.onnx` is that function, and `logreg_iris.onnx` tells flowers apart.
    """
    path = Path(__file__).parent / name
    if Path(name).name != name or path.suffix != ".onnx" or not path.is_file():
        raise FileNotFoundError(f"Unable to find example '{name}'")
    return str(path)
