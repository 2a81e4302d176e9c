"""A small model for tests of the cache, with a weight that makes its content: in the file, or in one beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from tests.session import models

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def heavy(factor: float) -> onnx.ModelProto:
    """y = x * [factor, factor, factor], and rows of 8 MiB of zeros, so that writing the compiled model takes time."""
    p = np.zeros((1 << 20, 2), np.float32)
    return models.model(
        [models.node("Mul", "x w", "y"), models.node("Gather", "p i", "r")],
        [models.value("x", ["N", 3]), models.value("i", ["K"], models.INT64)],
        [models.value("y", ["N", 3]), models.value("r", ["K", 2])],
        [models.constant("w", np.full(3, factor, np.float32)), models.constant("p", p)])


def scaled(factor: float) -> onnx.ModelProto:
    """y = x * [factor, factor, factor]."""
    return models.model([models.node("Mul", "x w", "y")], [models.value("x", ["N", 3])], [models.value("y", ["N", 3])],
                        [models.constant("w", np.full(3, factor, np.float32))])


def scaled_by_file(folder: Path, factor: float, name: str = "w.bin") -> Path:
    """The same with the weight in a file of its own; the path of the model, whose bytes do not depend on `factor`."""
    model = scaled(0.0)
    (weights,) = model.graph.initializer
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    entry = weights.external_data.add()
    entry.key, entry.value = "location", name
    (folder / name).write_bytes(np.full(3, factor, np.float32).tobytes())
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path
