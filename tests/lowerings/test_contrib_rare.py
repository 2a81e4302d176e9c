"""Ops of the domain com.microsoft without a kernel for CPUs in ONNX Runtime, against NumPy on their definitions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.lowerings.contrib import F32, Arrays, bytes_of, check, check_numbers, floats

X, W, BIAS, SKIP = floats(2, 3, 8), floats(8, 5, seed=3), floats(8, seed=1), floats(2, 3, 8, seed=2)
DATA, LEFT, RIGHT = floats(2, 3, 4, 5), bytes_of(3, 4), bytes_of(3, 4, seed=1)
Z, Z2 = floats(2, 4, 6, seed=2) + 1j * floats(2, 4, 6, seed=3), floats(4, 6, seed=4) + 1j * floats(4, 6, seed=5)


def gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + np.vectorize(math.erf)(x / np.sqrt(2))) / 2


def fast_gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2


def softmax(v: np.ndarray) -> np.ndarray:
    raised = np.exp(v - v.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def parts(z: np.ndarray) -> np.ndarray:
    return np.stack([z.real, z.imag], -1).astype(F32)


SUM = X + BIAS
ALONG, AROUND = floats(2, 1, 1, 5, seed=1), floats(1, 1, 4, 5, seed=1)


@pytest.mark.parametrize(("op", "inputs", "wanted", "attrs"), [
    ("BiasAdd", {"X": X, "bias": BIAS, "skip": SKIP}, SUM + SKIP, {}),
    ("BiasSplitGelu", {"X": X, "bias": BIAS}, SUM[..., :4] * gelu(SUM[..., 4:]), {}),
    ("GemmFastGelu", {"X": X, "W": W, "bias": floats(5)}, fast_gelu(X @ W + floats(5)), {}),
    ("GemmFastGelu", {"X": X, "W": W}, fast_gelu(X @ W), {}),
    ("FusedMatMulActivation", {"A": X, "B": W}, np.maximum(X @ W / 2, 0), {"activation": "Relu", "alpha": 0.5}),
    ("BiasSoftmax", {"data": DATA, "bias": ALONG}, softmax(DATA + ALONG), {"axis": 3, "is_inner_broadcast": 1}),
    ("BiasSoftmax", {"data": DATA, "bias": AROUND}, softmax(DATA + AROUND), {"axis": 3, "is_inner_broadcast": 0}),
    ("ComplexMul", {"A": parts(Z), "B": parts(Z2)}, parts(Z * Z2), {}),
    ("ComplexMulConj", {"A": parts(Z), "B": parts(Z2)}, parts(Z * Z2.conj()), {}),
    ("Rfft", {"X": X}, parts(np.fft.rfft(X)), {}), ("Irfft", {"X": parts(np.fft.rfft(X))}, X, {"signal_ndim": 1}),
    ("TorchEmbedding", {"weight": W, "indices": np.array([[0, 3], [7, 1]])}, W[[[0, 3], [7, 1]]], {})])
def test_chains(op: str, inputs: Arrays, wanted: np.ndarray, attrs: dict[str, Any]) -> None:
    check_numbers(op, inputs, {}, [wanted.astype(F32)], static=True, **attrs)


@pytest.mark.parametrize("both", [0, 1])
def test_relative_positions_in_buckets(both: int) -> None:
    table, length, most = floats(32, 4), 40, 20
    behind = np.arange(length) - np.arange(length)[:, None]
    half = 16 if both else 32
    first = (behind > 0) * half if both else 0
    distance = np.abs(behind) if both else -np.minimum(behind, 0)
    exact = half // 2
    far = np.log(np.maximum(distance, 1) / exact) / np.log(most / exact) * (half - exact)
    bucket = first + np.where(distance < exact, distance, np.minimum(exact + far.astype(int), half - 1))
    lengths = {"query_length": np.array([length]), "key_length": np.array([length])}
    check_numbers("RelativePositionBias", {"bias_table": table}, lengths, [table[bucket].transpose(2, 0, 1)[None]],
                  static=True, max_distance=most, is_bidirectional=both)


def test_gated_relative_positions() -> None:
    batch, length, heads, size, width = 2, 5, 3, 4, 8
    q, bias, places = floats(batch, length, heads * size), floats(heads * size, seed=1), floats(1, heads, 5, 5, seed=2)
    weight, offset, factor = floats(size, width, seed=3), floats(width, seed=4), floats(1, heads, 1, 1, seed=5)
    by_head = (q + bias).reshape(batch, length, heads, size).transpose(0, 2, 1, 3)
    sums = (by_head @ weight + offset).reshape(batch, heads, length, 2, width // 2).sum(-1)
    gates = 1 / (1 + np.exp(-sums))
    wanted = (gates[..., :1] * (gates[..., 1:] * factor - 1) + 2) * places
    inputs = {"query_layer": q, "query_bias": bias, "rel_pos": places, "weight": weight, "bias": offset,
              "eco_a": factor}
    check_numbers("GatedRelativePositionBias", inputs, {}, [wanted.astype(F32)], static=True, num_heads=heads)


def test_integers() -> None:
    centred = (LEFT.astype(np.int32) - 3) * RIGHT
    check_numbers("MulInteger", {"A": LEFT, "az": np.array(3, np.uint8), "B": RIGHT}, {}, [centred])
    check_numbers("ReduceSumInteger", {"data": LEFT}, {}, [LEFT.sum(1, keepdims=True, dtype=np.uint32)], axes=[1],
                  keepdims=1)
    mean = ((LEFT - np.float64(5)) * 0.1).mean(1) / 0.05
    own = {"scale": np.array(0.1, F32), "zero": np.array(5, np.uint8), "to": np.array(0.05, F32),
           "at": np.array(9, np.uint8)}
    check_numbers("QLinearReduceMean", {"data": LEFT, **own}, own,
                  [np.clip(np.round(mean) + 9, 0, 255).astype(np.uint8)], tolerance=1, axes=[1], keepdims=0)


def test_whether_all_is_finite() -> None:
    infinite, none = {"a": X, "b": W * np.inf}, {"a": W * np.nan}
    for inputs, attrs, wanted in (({"a": X, "b": W}, {}, True), (infinite, {}, False), (none, {}, False),
                                  (none, {"isinf_only": 1}, True), (infinite, {"isnan_only": 1}, True)):
        check_numbers("IsAllFinite", inputs, {}, [np.array(wanted)], **attrs)


def test_norms_of_branches() -> None:
    for inputs, attrs in (({"X": X}, {}), ({"X": X, "scale": BIAS}, {"num_branches": 2}),
                          ({"X": X, "scale": floats(3, 8)}, {}), ({"X": X, "scale": floats(24)}, {})):
        check("BranchwiseRMSNorm", inputs, static=True, **attrs)


def test_transposed_convolutions_with_pads_as_an_input() -> None:
    own = {"W": floats(2, 3, 3, 3, seed=1), "Pads": np.array([1, 0, 1, 1]), "B": floats(3)}
    check("ConvTransposeWithDynamicPads", {"X": floats(1, 2, 4, 5), **own}, own, strides=[2, 2],
          output_padding=[1, 0])
