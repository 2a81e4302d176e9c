"""Mixtures of experts against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import onnxc
from tests.lowerings.contrib import F32, Arrays, bytes_of, check, check_numbers, floats, model

TOKENS, WIDTH, INNER, EXPERTS = 6, 32, 48, 4
SWIGLU = {"activation_type": "swiglu", "swiglu_fusion": 1, "activation_alpha": 1.702, "activation_beta": 1.0,
          "swiglu_limit": 1.0}
ROUTES = floats(TOKENS, EXPERTS, seed=1)


def floats_of(fused: bool, bias: bool = True) -> Arrays:
    rows = INNER * (1 + fused)
    return {"fc1": floats(EXPERTS, rows, WIDTH, seed=2), "b1": floats(EXPERTS, rows, seed=3) if bias else None,
            "fc2": floats(EXPERTS, WIDTH, INNER, seed=4), "b2": floats(EXPERTS, WIDTH, seed=5) if bias else None}


@pytest.mark.parametrize(("attrs", "shape", "constant"), [
    ({"k": 1}, (TOKENS, WIDTH), True), ({"k": 2, "activation_type": "gelu"}, (2, 3, WIDTH), False),
    ({"k": 2, "normalize_routing_weights": 1, **SWIGLU}, (TOKENS, WIDTH), False),
    ({"k": EXPERTS, "activation_type": "silu"}, (1, TOKENS, WIDTH), False),
    ({"activation_type": "identity"}, (0, WIDTH), True)])
def test_experts(attrs: dict[str, Any], shape: tuple[int, ...], constant: bool) -> None:
    weights = floats_of("swiglu_fusion" in attrs, bias=constant)
    routes = ROUTES[:int(np.prod(shape[:-1]))]
    inputs = {"input": floats(*shape), "router_probs": routes, **weights}
    if routes.size:
        check("MoE", inputs, weights if constant else {}, **attrs)
    else:
        check_numbers("MoE", inputs, weights if constant else {}, [inputs["input"]], **attrs)


def test_experts_with_a_gate_of_their_own() -> None:
    """swiglu as two layers, which ONNX Runtime has no kernel for CPUs for: the same as the fused one."""
    fused = floats_of(True)
    weights = {"fc1": fused["fc1"][:, ::2].copy(), "b1": fused["b1"][:, ::2].copy(), "fc2": fused["fc2"],
               "b2": fused["b2"], "fc3": fused["fc1"][:, 1::2].copy(), "b3": fused["b1"][:, 1::2].copy()}
    own = {"input": floats(TOKENS, WIDTH), "router_probs": ROUTES}
    attrs = {"k": 2, **SWIGLU}
    wanted = onnxc.InferenceSession(model("MoE", {**own, **fused}, fused, **attrs).SerializeToString()).run(None, own)
    check_numbers("MoE", {**own, **weights}, weights, wanted, **{**attrs, "swiglu_fusion": 0})
    behind = {"fc1": np.concatenate([weights["fc1"], weights["fc3"]], 1),
              "b1": np.concatenate([weights["b1"], weights["b3"]], 1), "fc2": fused["fc2"], "b2": fused["b2"]}
    check_numbers("MoE", {**own, **behind}, behind, wanted, **{**attrs, "swiglu_fusion": 2})


RELU = {"activation_type": "relu", "normalize_routing_weights": 1}


@pytest.mark.parametrize(("bits", "block", "zeros", "constant", "near", "attrs"), [
    (4, None, False, True, 1e-5, SWIGLU), (4, 16, True, True, 1e-5, RELU), (2, 16, True, False, 1e-5, SWIGLU),
    (4, None, True, False, 1e-5, RELU), (8, None, False, True, 1e-5, RELU),
    (8, 16, True, False, 2e-2, SWIGLU)])        # there ONNX Runtime makes bytes of what it multiplies
def test_experts_of_a_few_bits(bits: int, block: int | None, zeros: bool, constant: bool, near: float,
                               attrs: dict[str, Any]) -> None:
    rows, each = INNER * (1 + ("swiglu_fusion" in attrs)), 8 // bits

    def scales(n: int, width: int, seed: int) -> np.ndarray:
        of = (EXPERTS, n) if block is None else (EXPERTS, n, width // block)
        return (np.abs(floats(*of, seed=seed)) * 4 ** (2 - bits / 2) / 60).astype(F32)

    def points(n: int, width: int, seed: int) -> np.ndarray | None:
        of = (EXPERTS, -(-n // each)) if block is None else (EXPERTS, n, -(-width // block // each))
        return bytes_of(*of, seed=seed) if zeros else None

    weights = {"fc1": bytes_of(EXPERTS, rows, WIDTH // each, seed=2), "s1": scales(rows, WIDTH, 3),
               "b1": floats(EXPERTS, rows, seed=4), "fc2": bytes_of(EXPERTS, WIDTH, INNER // each, seed=5),
               "s2": scales(WIDTH, INNER, 6), "b2": floats(EXPERTS, WIDTH, seed=7)}
    none = dict.fromkeys(("fc3", "s3", "b3"))
    point = {"z1": points(rows, WIDTH, 8), "z2": points(WIDTH, INNER, 9), "z3": None}
    mix = {"mix": np.abs(floats(TOKENS, EXPERTS, seed=10)) if "swiglu_fusion" in attrs else None}
    inputs = {"input": floats(TOKENS, WIDTH), "router_probs": ROUTES, **weights, **none, **point, **mix}
    constants = {k: v for k, v in {**weights, **point}.items() if v is not None and constant}
    of_blocks = {} if block is None else {"block_size": block}
    check("QMoE", inputs, constants, tolerance=near, static=True, k=2, expert_weight_bits=bits, **of_blocks, **attrs)
