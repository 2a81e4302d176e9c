"""Ops of the domain com.microsoft: the signatures of ONNX Runtime's schemas, and its results, natively."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import numpy as np
import pytest

from onnxc.lowerings import LOWERINGS, lowering_of
from tests.lowerings.contrib import F32, Arrays, bytes_of, check, check_numbers, floats

lowering_of("onnx.Add")                        # loads the families
CONTRIB = sorted(name for name in LOWERINGS if name.startswith("com.microsoft."))
OF_ONNX = ["SimplifiedLayerNormalization"]      # of ONNX Runtime, in ONNX's domain


@functools.cache
def schemas() -> dict[str, Any]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state
    return {f"{s.domain}.{s.name}".lstrip("."): s for s in state.get_all_operator_schema()}


@pytest.mark.parametrize("name", [*CONTRIB, *OF_ONNX])
def test_inputs_and_attributes_are_those_of_the_schema(name: str) -> None:
    schema = schemas()[name]
    ours = list(inspect.signature(LOWERINGS[name]).parameters.values())[1:]
    inputs = [p for p in ours if p.kind is not p.KEYWORD_ONLY]
    assert [p.name for p in inputs] == [i.name for i in schema.inputs]
    for p, i in zip(inputs, schema.inputs, strict=True):
        kind = str(i.option).rpartition(".")[2]
        assert str(p.annotation).endswith("| None") == (kind == "Optional"), p.name
        assert p.default in (None, p.empty), p.name
        assert (p.kind is p.VAR_POSITIONAL) == (kind == "Variadic"), p.name
    attributes = {p.name: p for p in ours if p.kind is p.KEYWORD_ONLY}
    assert attributes.keys() == schema.attributes.keys()
    for key, p in attributes.items():
        assert (p.default is p.empty) == schema.attributes[key].required, key


@pytest.mark.parametrize(("k", "n", "block", "bits", "zero", "rank"), [
    (64, 5, 32, 4, None, 2), (70, 7, 16, 4, "packed", 3), (96, 8, 32, 4, "float", 1), (64, 6, 32, 8, "packed", 2),
    (64, 8, 32, 8, None, 2), (128, 8, 32, 2, None, 2), (150, 130, 32, 4, "packed", 2), (256, 70, 64, 8, "packed", 3)])
@pytest.mark.parametrize("constant", [True, False])
def test_weights_of_a_few_bits(k: int, n: int, block: int, bits: int, zero: str | None, rank: int,
                               constant: bool) -> None:
    """As constants, and as inputs of the model."""
    blocks = -(-k // block)
    points = {None: None, "packed": bytes_of(n, (blocks * bits + 7) // 8, seed=1), "float": np.abs(floats(n, blocks))}
    weights = {"B": bytes_of(n, blocks, block * bits // 8), "scales": np.abs(floats(n, blocks, seed=2)),
               "zero_points": points[zero]}
    a = {"A": floats(*(2, 3, k)[-rank:])}
    given = ({**a}, weights) if constant else ({**a, **weights}, {})
    check("MatMulNBits", *given, K=k, N=n, block_size=block, bits=bits)


@pytest.mark.parametrize(("trans_a", "trans_b", "batch_a", "batch_b"), [
    (0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (1, 1, 0, 0), (0, 0, 1, 0), (0, 1, 0, 1), (1, 1, 1, 1)])
def test_a_product_of_transposed_factors(trans_a: int, trans_b: int, batch_a: int, batch_b: int) -> None:
    def shape(m: int, k: int, transposed: int, moved: int) -> tuple[int, ...]:
        rows, columns = (k, m) if transposed else (m, k)
        return (rows, 2, 5, columns) if moved else (2, 5, rows, columns)

    factors = {"A": floats(*shape(3, 4, trans_a, batch_a)), "B": floats(*shape(4, 6, trans_b, batch_b), seed=1)}
    check("FusedMatMul", factors, alpha=0.5, transA=trans_a, transB=trans_b, transBatchA=batch_a, transBatchB=batch_b)


FOURS = {0: [0, 1 / 192, 2 / 3, 1, 1 / 3, 1 / 2, 1 / 6, 1 / 4],
         1: [-1, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0, 0.0795803, 0.1609302,
             0.24611230, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1]}


@pytest.mark.parametrize(("n", "k", "block"), [(8, 64, 16), (7, 48, 64), (5, 19, 32)])
@pytest.mark.parametrize("kind", [0, 1])
def test_weights_of_four_bits_that_stand_for_floats(kind: int, n: int, k: int, block: int) -> None:
    """ONNX Runtime reads beyond its operands where the weights are not transposed."""
    count = n * k
    weights = {"B": bytes_of((count + 1) // 2), "absmax": np.abs(floats(-(-count // block), seed=1))}
    attrs = {"K": k, "N": n, "block_size": block, "quant_type": kind}
    for constants in (weights, {}):
        check("MatMulBnb4", {"A": floats(2, 3, k, seed=2), **weights}, constants, **attrs)
    table = np.array(FOURS[kind] if kind else [*FOURS[0], *(-v for v in FOURS[0])])
    codes = np.stack([weights["B"] >> 4, weights["B"] & 15], -1).reshape(-1)[:count]
    real = (table[codes] * np.repeat(weights["absmax"], block)[:count]).reshape(n, k)
    a = floats(3, n, seed=2)
    check_numbers("MatMulBnb4", {"A": a, **weights}, weights, [(a @ real).astype(F32)], transB=0, **attrs)


def test_products_of_sixteen_bits() -> None:
    a, b = bytes_of(2, 3, 5, dtype=np.int16), bytes_of(5, 4, seed=1, dtype=np.int16)
    check("MatMulInteger16", {"A": a, "B": b})
    a, b = bytes_of(3, 5, dtype=np.uint16), bytes_of(5, 4, seed=1, dtype=np.uint16)
    check_numbers("MatMulInteger16", {"A": a, "B": b}, {}, [a.astype(np.uint32) @ b.astype(np.uint32)])


# ---- chains --------------------------------------------------------------------------------------------------------
X, W = floats(2, 3, 8), floats(8, seed=1)
ACTIVATIONS = {"Relu": (), "Tanh": (), "Sigmoid": (), "LeakyRelu": (0.3,), "HardSigmoid": (0.3, 0.4),
               "Clip": (-0.5, 0.7)}


@pytest.mark.parametrize(("op", "inputs", "attrs"), [
    ("Gelu", {"X": X}, {}), ("BiasGelu", {"A": X, "B": W}, {}), ("FastGelu", {"X": X}, {}),
    ("FastGelu", {"X": X, "bias": W}, {}), ("QuickGelu", {"X": X}, {}), ("QuickGelu", {"X": X}, {"alpha": 0.5})])
def test_activations(op: str, inputs: Arrays, attrs: dict[str, Any]) -> None:
    check(op, inputs, **attrs)


@pytest.mark.parametrize("bias", [W, None])
@pytest.mark.parametrize("skip", [floats(2, 3, 8, seed=2), floats(1, 3, 8, seed=2)])
def test_norms_of_sums(skip: np.ndarray, bias: np.ndarray | None) -> None:
    own = {"gamma": floats(8, seed=3)}
    check("SkipLayerNormalization", {"input": X, "skip": skip}, {**own, "beta": W, "bias": bias}, 1, epsilon=1e-5)
    check("SkipSimplifiedLayerNormalization", {"input": X, "skip": skip}, {**own, "bias": bias}, 1, epsilon=1e-5)


@pytest.mark.parametrize("kind", [F32, np.float16, np.float64])
def test_a_norm_that_stands_in_the_domain_of_onnx(kind: type) -> None:
    check("SimplifiedLayerNormalization", {"X": X.astype(kind), "scale": W.astype(kind)}, {}, 2, domain="",
          tolerance=1e-3 if kind is np.float16 else 1e-5)


@pytest.mark.parametrize("segments", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_embeddings(segments: bool, masked: bool) -> None:
    ids = np.array([[1, 4, 0], [2, 2, 3]], np.int32)
    tables = {"word_embedding": floats(5, 8), "position_embedding": floats(6, 8, seed=1),
              "segment_embedding": floats(2, 8, seed=2) if segments else None, "gamma": W, "beta": floats(8, seed=4)}
    kinds = np.array([[0, 1, 1], [0, 0, 0]], np.int32)
    inputs = {"input_ids": ids, "segment_ids": kinds if segments else None, **tables,
              "mask": np.array([[1, 1, 0], [1, 0, 0]], np.int32) if masked else None}
    check("EmbedLayerNormalization", inputs, tables, outputs=2, epsilon=1e-6)


@pytest.mark.parametrize("segments", [True, False])
@pytest.mark.parametrize("kind", [np.uint8, np.int8])
def test_embeddings_of_bytes(segments: bool, kind: type) -> None:
    kinds = np.array([[0, 1, 1], [0, 0, 0]], np.int32)
    tables = {"word": bytes_of(5, 8, dtype=kind), "position": bytes_of(6, 8, seed=1, dtype=kind),
              "segment": bytes_of(2, 8, seed=2, dtype=kind) if segments else None,
              "gamma": bytes_of(8, seed=3, dtype=kind), "beta": bytes_of(8, seed=4, dtype=kind)}
    inputs = {"input_ids": np.array([[1, 4, 0], [2, 2, 3]], np.int32), "segment_ids": kinds if segments else None,
              **tables, "mask": np.array([[1, 1, 0], [1, 0, 0]], np.int32) if segments else None}
    given = [segments or i != 2 for i in range(5)]
    own = {f"scale{i}": scalar(0.01 * (i + 1)) if g else None for i, g in enumerate(given)} | \
        {f"zero{i}": scalar(3 + i, kind) if g else None for i, g in enumerate(given)}
    check("QEmbedLayerNormalization", {**inputs, **own}, {**tables, **own}, outputs=2, epsilon=1e-6)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_products_with_an_activation(name: str) -> None:
    params = ACTIVATIONS[name]
    convolution = {"X": floats(1, 3, 7, 7), "W": floats(4, 3, 3, 3, seed=1), "B": floats(4, seed=2)}
    given = {"activation_params": list(params)} if params else {}
    check("FusedConv", convolution, {"W": convolution["W"]}, activation=name, pads=[1, 1, 1, 1], **given)
    named = dict(zip(("activation_alpha", "activation_beta"), params, strict=False))
    if name in ("Relu", "Tanh", "Sigmoid", "LeakyRelu", "HardSigmoid"):
        check("FusedGemm", {"A": floats(3, 4), "B": floats(5, 4, seed=1), "C": floats(5, seed=2)}, transB=1,
              activation=name, **named)


def test_a_sum_behind_a_convolution() -> None:
    weights = {"W": floats(4, 3, 1, 1, seed=1), "B": floats(4, seed=2)}
    inputs = {"X": floats(1, 3, 5, 5), **weights, "Z": floats(1, 4, 5, 5, seed=3)}
    check("FusedConv", inputs, weights, activation="Relu")


# ---- quantised -----------------------------------------------------------------------------------------------------
def scalar(value: float, dtype: type = np.float32) -> np.ndarray:
    return np.array(value, dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
def test_sums_and_products_of_bytes(op: str, dtype: type) -> None:
    """One step apart where ONNX Runtime rounds a product of other factors."""
    a, b = bytes_of(2, 3, 40, dtype=dtype), bytes_of(3, 40, seed=1, dtype=dtype)
    check(op, {"A": a, "A_scale": scalar(0.05), "A_zero_point": scalar(7, dtype), "B": b, "B_scale": scalar(0.02),
               "B_zero_point": scalar(5, dtype), "C_scale": scalar(0.1), "C_zero_point": scalar(9, dtype)}, tolerance=1)


@pytest.mark.parametrize(("op", "attrs"), [("QLinearLeakyRelu", {"alpha": 0.2}), ("QLinearSigmoid", {}),
                                           ("QLinearSoftmax", {"opset": 13, "axis": -1})])
def test_functions_of_bytes(op: str, attrs: dict[str, Any]) -> None:
    zero = "x_zero_point" if op == "QLinearSoftmax" else "X_zero_point"
    out = ("y_scale", "y_zero_point") if op == "QLinearSoftmax" else ("Y_scale", "Y_zero_point")
    inputs = {"X": bytes_of(4, 30)}
    constants = {"X_scale": scalar(0.03), zero: scalar(120, np.uint8),
                 out[0]: scalar(0.00390625 if "max" in op else 0.02),
                 out[1]: scalar(0 if "max" in op else 100, np.uint8)}
    check(op, inputs, constants, tolerance=1, **attrs)


def test_pools_parts_and_choices_of_bytes() -> None:
    x, y = bytes_of(1, 3, 6, 6), bytes_of(1, 3, 6, 6, seed=1)
    own = {"x_scale": scalar(0.03), "x_zero_point": scalar(100, np.uint8)}
    out = {"y_scale": scalar(0.02), "y_zero_point": scalar(90, np.uint8)}
    check("QLinearGlobalAveragePool", {"X": x, **own, **out}, tolerance=1, channels_last=0)
    check("QLinearAveragePool", {"X": x}, {**own, **out}, tolerance=1, kernel_shape=[3, 3], pads=[1, 1, 1, 1],
          strides=[2, 2])
    parts = {"a": x, "a_scale": scalar(0.03), "a_zero": scalar(100, np.uint8),
             "b": y, "b_scale": scalar(0.07), "b_zero": scalar(12, np.uint8)}
    joint = {"Y_scale": scalar(0.05), "Y_zero_point": scalar(3, np.uint8)}
    check("QLinearConcat", {}, {**joint, **parts}, tolerance=1, axis=1)
    result = {"z_scale": scalar(0.04), "z_zero_point": scalar(50, np.uint8)}
    check("QLinearWhere", {"condition": bytes_of(6, 6) > 128, "X": x}, {**own, "Y": y, **out, **result}, tolerance=1)


@pytest.mark.parametrize("kind", [np.uint8, np.int8])
@pytest.mark.parametrize("vector", [True, False])
def test_integer_products(kind: type, vector: bool) -> None:
    """Sums are exact integers; only scaling them rounds. Zero points and scales for all, or for each column."""
    n = (6,) if vector else ()
    a, weights = bytes_of(5, 12), bytes_of(12, 6, seed=1, dtype=kind)
    scale = np.full(n, 0.01, F32) * (1 + np.arange(6, dtype=F32) if vector else F32(1))
    scale = np.asarray(scale, F32)
    zero = np.asarray(bytes_of(*n, seed=2, dtype=kind) // 16 if vector else kind(3))
    check("MatMulIntegerToFloat", {"A": a}, {"B": weights, "a_scale": scalar(0.02), "b_scale": scale,
                                             "a_zero_point": scalar(111, np.uint8), "b_zero_point": zero,
                                             "bias": floats(6)})
    check("DynamicQuantizeMatMul", {"A": floats(5, 12)}, {"B": weights, "b_scale": scale, "b_zero_point": zero})
    gemm = {"a_scale": scalar(0.02), "a_zero_point": scalar(111, np.uint8), "B": weights, "b_scale": scale,
            "b_zero_point": zero, "C": np.arange(6, dtype=np.int32) * 100}
    check("QGemm", {"A": a}, {**gemm}, alpha=0.5)
    check("QGemm", {"A": a}, {**gemm, "y_scale": scalar(0.3), "y_zero_point": scalar(100, np.uint8)}, tolerance=1)


# ---- attention -----------------------------------------------------------------------------------------------------
def caches(positions: int, pairs: int) -> dict[str, np.ndarray]:
    angle = np.arange(positions)[:, None] / 10.0 ** np.arange(pairs)
    return {"cos_cache": np.cos(angle).astype(F32), "sin_cache": np.sin(angle).astype(F32)}


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize(("shape", "attrs", "pairs"), [
    ((2, 3, 16), {}, 4), ((2, 2, 3, 8), {}, 4), ((2, 3, 16), {"num_heads": 2, "rotary_embedding_dim": 4}, 2)])
@pytest.mark.parametrize("position", [np.array([2]), np.array([[0, 1, 5], [3, 4, 2]])])
def test_rotary_positions(position: np.ndarray, shape: tuple[int, ...], attrs: dict[str, int], pairs: int,
                          interleaved: int) -> None:
    """The last axis is static, as it is in models."""
    tables = caches(9, pairs)
    check("RotaryEmbedding", {"input": floats(*shape), "position_ids": position, **tables}, tables, static=True,
          interleaved=interleaved, **attrs)


MASKS = {"none": None, "lengths": np.array([5, 3], np.int32),
         "keys": np.array([[1, 1, 0, 1, 1], [1, 0, 1, 1, 0]], np.int32)}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("causal", [0, 1])
def test_heads_of_attention(mask: str, causal: int) -> None:
    inputs = {"query": floats(2, 5, 12), "key": floats(2, 5, 12, seed=1), "value": floats(2, 5, 12, seed=2),
              "bias": floats(36, seed=3), "key_padding_mask": MASKS[mask], "attention_bias": floats(1, 3, 5, 5, seed=4)}
    check("MultiHeadAttention", inputs, num_heads=3, unidirectional=causal, static=True)


def test_heads_with_a_past() -> None:
    inputs = {"query": floats(2, 3, 12), "key": floats(2, 3, 12, seed=1), "value": floats(2, 3, 12, seed=2),
              "bias": None, "key_padding_mask": None, "attention_bias": None, "past_key": floats(2, 3, 4, 4, seed=5),
              "past_value": floats(2, 3, 4, 4, seed=6)}
    check("MultiHeadAttention", inputs, outputs=3, num_heads=3, scale=0.3, static=True)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("causal", [0, 1])
def test_attention_with_its_projections(mask: str, causal: int) -> None:
    own = {"weights": floats(6, 36, seed=1) / 3, "bias": floats(36, seed=2)}
    check("Attention", {"input": floats(2, 5, 6), **own, "mask_index": MASKS[mask]}, own, num_heads=3,
          unidirectional=causal, static=True)
    if mask == "none":
        past = {"mask_index": None, "past": floats(2, 2, 3, 4, 4, seed=5)}
        inputs = {"input": floats(2, 5, 6), **own, **past}
        check("Attention", inputs, own, outputs=2, num_heads=3, unidirectional=causal, static=True)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("kind", "by_column", "zeros"), [(np.int8, True, True), (np.uint8, False, True),
                                                          (np.int8, False, False)])
def test_attention_with_projections_of_bytes(mask: str, kind: type, by_column: bool, zeros: bool) -> None:
    of = (36,) if by_column else ()
    own = {"weight": bytes_of(6, 36, dtype=kind, seed=1), "bias": floats(36, seed=2), "input_scale": scalar(0.02),
           "weight_scale": np.full(of, 0.01, F32)}
    zero = {"input_zero_point": scalar(5, np.uint8) if zeros else None,
            "weight_zero_point": np.full(of, 3, kind) if zeros else None}
    inputs = {"input": bytes_of(2, 5, 6), **own, "mask_index": MASKS[mask], **zero}
    check("QAttention", inputs, {**own, **zero}, num_heads=3, static=True, scale=0.3 if by_column else 0.0)
    if mask == "none":
        past = {"past": floats(2, 2, 3, 4, 4, seed=5)}
        check("QAttention", {**inputs, **past}, {**own, **zero}, 2, num_heads=3, unidirectional=1, static=True)


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize(("shape", "attrs", "sections"), [
    ((2, 2, 3, 8), {}, [1, 1, 2]), ((2, 3, 48), {"num_heads": 2, "rotary_embedding_dim": 16}, [4, 2, 2])])
@pytest.mark.parametrize("interleaved", [0, 1])
def test_rotary_positions_in_time_height_and_width(shape: tuple[int, ...], attrs: dict[str, int], sections: list[int],
                                                   layout: int, interleaved: int) -> None:
    tables = caches(9, sum(sections))
    place = np.random.default_rng(1).integers(0, 9, (3, 2, 3))
    check("MRotaryEmbedding", {"input": floats(*shape), "position_ids": place, **tables}, tables, static=True,
          mrope_section=sections, mrope_layout=layout, interleaved=interleaved, **attrs)


@pytest.mark.parametrize("mask", [None, np.array([[1, 1, 0, 1, 1], [1, 0, 1, 1, 1]], np.int32)])
def test_one_position_behind_a_cache_with_room(mask: np.ndarray | None) -> None:
    """What lies in the cache behind the new position is nobody's, and set to zero here so that it is equal."""
    room = np.arange(8).reshape(8, 1) < 4
    inputs = {"query": floats(2, 1, 12), "key": floats(2, 1, 12, seed=1), "value": floats(2, 1, 12, seed=2),
              "mask_index": mask, "attention_bias": None if mask is not None else floats(1, 3, 1, 5, seed=6),
              "past_key": floats(2, 3, 8, 4, seed=3) * room, "past_value": floats(2, 3, 8, 4, seed=4) * room,
              "past_sequence_length": np.array([4], np.int32), "beam_width": None, "cache_indirection": None,
              "bias": floats(36, seed=7)}
    check("DecoderMaskedMultiHeadAttention", inputs, {}, 3, num_heads=3, past_present_share_buffer=1, static=True)


def test_one_position_that_looks_at_others() -> None:
    inputs = {"query": floats(2, 1, 12), "key": floats(2, 3, 4, 4, seed=3), "value": floats(2, 3, 4, 4, seed=4)}
    check("DecoderMaskedMultiHeadAttention", inputs, num_heads=3, static=True, scale=0.4)


@pytest.mark.parametrize("rotary", [0, 1])
@pytest.mark.parametrize(("attrs", "packed"), [({}, False), ({}, True), ({"local_window_size": 2}, False),
                                               ({"softcap": 1.5}, False), ({"scale": 0.2}, False)])
@pytest.mark.parametrize("step", ["prompt", "decode", "room"])
def test_grouped_queries(step: str, attrs: dict[str, Any], packed: bool, rotary: int) -> None:
    """A prompt without a past; one position behind a cache that is full, or that has room for it."""
    length, held, total = {"prompt": (4, 0, 4), "decode": (1, 5, 6), "room": (1, 8, 6)}[step]
    tables = caches(16, 8)
    q, k, v = floats(2, length, 64), floats(2, length, 32, seed=1), floats(2, length, 32, seed=2)
    given = {"query": np.concatenate([q, k, v], -1), "key": None, "value": None} if packed else \
        {"query": q, "key": k, "value": v}
    own = {"total_sequence_length": np.array(total, np.int32), **(tables if rotary else {})}
    inputs = {**given, "past_key": floats(2, 2, held, 16, seed=3), "past_value": floats(2, 2, held, 16, seed=4),
              "seqlens_k": np.full(2, total - 1, np.int32), **own}
    check("GroupQueryAttention", inputs, own, 3, num_heads=4, kv_num_heads=2, do_rotary=rotary,
          static=True, **attrs)


@pytest.mark.parametrize(("bits", "zero"), [(4, True), (4, False), (8, True), (8, False)])
def test_rows_of_a_quantised_table(bits: int, zero: bool) -> None:
    blocks, block = 3, 16
    table = {"data": bytes_of(7, blocks * block * bits // 8)}
    own = {"scales": floats(7, blocks), "zero_points": bytes_of(7, (blocks * bits + 7) // 8, seed=2) if zero else None}
    check("GatherBlockQuantized", {**table, "indices": np.array([[0, 6], [3, -1]]), **own}, {**table, **own}, bits=bits,
          block_size=block, gather_axis=0, quantize_axis=1)
