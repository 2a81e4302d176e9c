"""Tokens, hashes, distances, inverses and crops of the domain com.microsoft, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import onnxc
from tests.lowerings.contrib import F32, Arrays, check, check_numbers, fed, floats, model, ort


def check_equal(op: str, inputs: Arrays, **attrs: Any) -> None:
    """Bit for bit, infinities included."""
    text = model(op, inputs, {}, **attrs).SerializeToString()
    wanted, = ort.InferenceSession(text, providers=["CPUExecutionProvider"]).run(None, fed(inputs, None))
    found, = onnxc.InferenceSession(text).run(None, fed(inputs, None))
    np.testing.assert_array_equal(found, wanted, strict=True)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6, 7])
def test_blocked_n_grams(n: int) -> None:
    ids = np.array([[1, 2, 3, 1, 2], [4, 4, 4, 4, 4], [1, 2, 3, 4, 5]])
    check_equal("NGramRepeatBlock", {"input_ids": ids, "scores": floats(3, 8)}, ngram_size=n)


@pytest.mark.parametrize("values", [np.array([3, -5, 7], np.int32), np.array([3, 5, 7], np.uint32),
                                    np.array([[3, -5]]), np.array([3, 1 << 63], np.uint64), floats(3),
                                    floats(3).astype(np.float64), np.zeros((0, 2), F32)])
def test_hashes(values: np.ndarray) -> None:
    check_equal("MurmurHash3", {"X": values})
    check_equal("MurmurHash3", {"X": values}, positive=0, seed=42)


@pytest.mark.parametrize("kind", [F32, np.float64])
def test_distances(kind: type) -> None:
    vectors = {"A": floats(4, 6).astype(kind), "B": floats(5, 6, seed=1).astype(kind)}
    check("CDist", vectors)
    check("CDist", vectors, metric="euclidean")


@pytest.mark.parametrize("kind", [F32, np.float64, np.float16])
def test_inverses(kind: type) -> None:
    check("Inverse", {"X": (floats(2, 3, 5, 5) + np.eye(5, dtype=F32) * 2).astype(kind)},
          tolerance=1e-2 if kind is np.float16 else 1e-5)
    check("Inverse", {"X": np.array([[0, 1], [1, 0]], kind)})


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("size", [[3, 4], [1, 1], [5, 1]])
def test_crops(mode: str, size: list[int]) -> None:
    boxes = np.array([[0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9], [-0.2, 0.1, 1.2, 0.4], [0.8, 0.7, 0.1, 0.2]], F32)
    inputs = {"X": floats(2, 3, 7, 6), "rois": boxes, "batch_indices": np.array([0, 1, 1, 0], np.int32)}
    check("CropAndResize", inputs, {"crop_size": np.array(size, np.int32)}, mode=mode, extrapolation_value=0.5)


def test_words_by_their_characters() -> None:
    """Of a word without characters ONNX Runtime writes nothing to its result; here that is zeros."""
    words = np.array([[1, 2, 3, 0, 0], [4, 5, 0, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]], np.int32)
    own = {"W": floats(4, 1, 2, 3, seed=1), "B": floats(4, seed=2), "C": floats(6, 3, seed=3)}
    check("WordConvEmbedding", {"Sequence": words, **own}, own)
    check_numbers("WordConvEmbedding", {"Sequence": words[:2] * 0, **own}, own, [np.zeros((2, 4), F32)])
