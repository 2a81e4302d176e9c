"""Mixtures of experts of the domain com.microsoft: experts one after the other, each of which sees the tokens routed to
it.

How many tokens an expert gets is a size out of data; one that gets none multiplies nothing. A few experts of constant
weights stand by themselves, so that their weights are packed as those of other products are; others are a loop.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from onnxc.ir.core import Value
from onnxc.ir.dims import Dim, DimLike, floordiv
from onnxc.ir.types import F32
from onnxc.lowerings.activation import Gelu, Softmax, Swish
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.contrib_matmul import unpacked
from onnxc.lowerings.matmul import INNER, contract
from onnxc.lowerings.order import order_key
from onnxc.lowerings.selection import kept_places
from onnxc.lowerings.table import lowering

__all__: list[str] = []


Expert = int | Dim
_APART = 32         # experts that may stand by themselves: more would be long programs


# ---- what an expert is made of -------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class _Layer:
    """Weights [experts, rows, width], in bytes or floats, with what they need to be floats; and a bias
    [experts, rows]."""

    weights: Value
    bias: Value | None
    bits: int = 0                       # of the codes that bytes hold; 0: the weights are floats
    scales: Value | None = None         # [experts, rows] or [experts, rows, blocks]
    zeros: Value | None = None          # packed like the weights; None: the middle of what codes can be

    def values(self) -> list[Value]:
        return [v for v in (self.weights, self.bias, self.scales, self.zeros) if v is not None]

    def of(self, values: Sequence[Value]) -> _Layer:
        """The same with other values, in the order of `values()`."""
        left = iter(values)
        own = [None if v is None else next(left) for v in (self.weights, self.bias, self.scales, self.zeros)]
        assert own[0] is not None                               # there always are weights
        return _Layer(own[0], own[1], self.bits, own[2], own[3])

    def applied(self, b: Lowering, x: Value, expert: Expert) -> Value:
        """[tokens, width] -> [tokens, rows], by one expert."""
        weights = self._codes(b, expert) if self.bits else b.cast(_row(b, self.weights, expert), F32)
        b.guard("eq", b.shape(x)[1], b.shape(weights)[1], INNER)
        out = contract(b, x, weights, "tk,nk->tn")
        return out if self.bias is None else b.map("add", out, b.cast(_row(b, self.bias, expert), F32))

    def _codes(self, b: Lowering, expert: Expert) -> Value:
        """The floats that the codes of one expert stand for."""
        assert self.scales is not None                          # where there are codes
        codes = b.cast(_unpacked_row(b, self.weights, self.bits, expert), F32)
        (rows, width), scale = b.shape(codes), b.cast(_row(b, self.scales, expert), F32)
        if b.rank(scale) == 1:
            scale = b.reshape(scale, (*b.shape(scale), 1))
        b.guard("eq", b.shape(scale)[0], rows, "there is not one scale for each row")
        blocks = b.shape(scale)[1]
        each = floordiv(width, blocks)
        b.guard("eq", each * blocks, width, "the weights are no whole number of blocks")
        zero = b.scalar(1 << (self.bits - 1), F32)
        if self.zeros is not None:
            points = b.cast(_unpacked_row(b, self.zeros, self.bits, expert), F32)
            own = (rows, blocks) if b.rank(points) == 2 else (rows,)        # what is packed ends with whole bytes
            zero = b.value("t.slice", points, starts=(0,) * len(own), sizes=own, steps=(1,) * len(own))
            zero = b.reshape(zero, (rows, blocks, 1))
        codes = b.reshape(codes, (rows, blocks, each))
        real = b.map("mul", b.map("sub", codes, zero), b.reshape(scale, (rows, blocks, 1)))
        return b.reshape(real, (rows, width))


def _row(b: Lowering, v: Value, expert: Expert) -> Value:
    """What a value holds of one expert."""
    array, shape = b.constant(v), b.shape(v)
    if array is not None and isinstance(expert, int):
        return b.const(array[expert])
    one = b.value("t.slice", v, starts=(expert, *(0,) * (len(shape) - 1)), sizes=(1, *shape[1:]),
                  steps=(1,) * len(shape))
    return b.reshape(one, shape[1:])


def _unpacked_row(b: Lowering, v: Value, bits: int, expert: Expert) -> Value:
    """Constants are unpacked when compiling: once for a loop, and one by one for experts that stand by themselves."""
    return unpacked(b, _row(b, v, expert), bits) if isinstance(expert, int) else _row(b, unpacked(b, v, bits), expert)


# ---- activations ---------------------------------------------------------------------------------------------------
Bent = Callable[[Lowering, Value, "Value | None"], Value]
_PLAIN: dict[str, Callable[..., Value]] = {
    "relu": lambda b, x: b.map("max", x, b.scalar(0, x)), "silu": Swish,
    "gelu": lambda b, x: Gelu(b, x, approximate="tanh"), "identity": lambda b, x: x,
}


def _activation(b: Lowering, name: str, alpha: float, beta: float, limit: float | None, fusion: int) -> Bent:
    """What becomes of the first layer, and of the third where there is one: its gate."""
    if name in _PLAIN:
        def plain(b: Lowering, x: Value, gate: Value | None) -> Value:
            out = _PLAIN[name](b, x)
            return out if gate is None else b.map("mul", out, gate)
        return plain
    if name != "swiglu" or fusion not in (0, 1, 2):
        b.refuse(f"the activation '{name}' (swiglu_fusion {fusion}) is none of {', '.join(_PLAIN)}, swiglu")

    def swiglu(b: Lowering, x: Value, gate: Value | None) -> Value:
        linear = gate
        if linear is None:
            x, linear = _halves(b, x, fusion)
        if limit is not None and math.isfinite(limit):
            most, least = b.scalar(limit, x), b.scalar(-limit, x)
            x, linear = b.map("min", x, most), b.map("max", b.map("min", linear, most), least)
        bent = b.map("mul", x, b.map("sigmoid", b.map("mul", x, b.scalar(alpha, x))))
        return b.map("mul", bent, b.map("add", linear, b.scalar(beta, x)))
    return swiglu


def _halves(b: Lowering, x: Value, fusion: int) -> tuple[Value, Value]:
    """Gate and linear part of what one layer gives: interleaved (1) or one behind the other (2)."""
    if not fusion:
        b.refuse("a swiglu that is not fused (swiglu_fusion 0) has no third layer")
    tokens, width = b.shape(x)
    half = floordiv(width, 2)
    b.guard("eq", half * 2, width, "the rows of the first layer are no pairs")
    parts = [b.value("t.slice", x, starts=(0, i if fusion == 1 else half * i), sizes=(tokens, half),
                     steps=(1, 2 if fusion == 1 else 1)) for i in (0, 1)]
    return parts[0], parts[1]


# ---- the loop ------------------------------------------------------------------------------------------------------
def _routed(b: Lowering, probs: Value, mix: Value | None, k: int, normalised: bool) -> Value:
    """The share of each expert in each token, [tokens, experts]; 0 for those that are not among its first `k`."""
    tokens, experts = b.shape(probs)
    b.at_most(k, experts, "more experts are asked for than there are")
    scores = b.widen(probs)
    chosen = b.value("t.topk", order_key(b, scores), axis=1, k=k)
    shares = Softmax(b, scores, axis=1) if mix is None else b.cast(mix, F32)
    taken = b.value("t.gather_elements", shares, chosen, axis=1)
    if normalised:
        taken = b.map("div", taken, b.reduce(taken, "add", [1]))
    nothing = b.broadcast_to(b.scalar(0, F32), (tokens, experts))
    return b.value("t.scatter_elements", nothing, chosen, taken, axis=1, reduction="none")


def _experts(b: Lowering, input: Value, shares: Value, layers: list[_Layer | None], bent: Bent) -> Value:
    """The sum of what each expert makes of a token, by the shares. `layers` are the first, second and third."""
    width = b.shape(input)[-1]
    count: DimLike = 1
    for d in b.shape(input)[:-1]:
        count = count * d
    tokens, experts = b.reshape(b.cast(input, F32), (count, width)), b.shape(shares)[1]
    b.guard("eq", b.shape(shares)[0], count, "there is not one row of routes for each token")
    given = [layer for layer in layers if layer is not None]
    for layer in given:
        b.guard("eq", b.shape(layer.weights)[0], experts, "there are not weights for each expert")
    sizes = [len(layer.values()) for layer in given]

    def added(inner: Lowering, i: Expert, total: Value, captured: Sequence[Value]) -> Value:
        """`total` with what expert `i` makes of its tokens."""
        x, of_all, values = captured[0], captured[1], captured[2:]
        own = iter([layer.of(values[sum(sizes[:j]):sum(sizes[:j + 1])]) for j, layer in enumerate(given)])
        first, second, third = (None if layer is None else next(own) for layer in layers)
        assert first is not None and second is not None         # both are required inputs
        share = inner.reshape(inner.value("t.slice", of_all, starts=(0, i), sizes=(count, 1), steps=(1, 1)), (count,))
        places = kept_places(inner, inner.map("ne", share, inner.scalar(0, share)))
        found = inner.shape(places)[0]
        picked = inner.value("t.gather", x, places, axis=0)
        gate = None if third is None else third.applied(inner, picked, i)
        out = second.applied(inner, bent(inner, first.applied(inner, picked, i), gate), i)
        weight = inner.reshape(inner.value("t.gather", share, places, axis=0), (found, 1))
        out = inner.reshape(inner.map("mul", out, weight), (found, width))
        return inner.value("t.scatter_nd", total, inner.reshape(places, (found, 1)), out, reduction="add")

    total = b.broadcast_to(b.scalar(0, F32), (count, width))
    values = [tokens, shares, *(v for layer in given for v in layer.values())]
    if isinstance(experts, int) and experts <= _APART and all(b.constant(v.weights) is not None for v in given):
        for i in range(experts):
            total = added(b, i, total, values)
    else:
        total = b.loop(experts, [total], values, lambda inner, i, carried, captured: (
            [added(inner, i, carried[0], captured)], []))[0]
    return b.cast(b.reshape(total, b.shape(input)), b.dtype(input))


# ---- the ops -------------------------------------------------------------------------------------------------------
@lowering("com.microsoft.MoE")
def MoE(b: Lowering, input: Value, router_probs: Value, fc1_experts_weights: Value, fc1_experts_bias: Value | None,
        fc2_experts_weights: Value, fc2_experts_bias: Value | None = None, fc3_experts_weights: Value | None = None,
        fc3_experts_bias: Value | None = None, *, activation_alpha: float = 1.0, activation_beta: float = 0.0,
        activation_type: str = "relu", k: int = 1, normalize_routing_weights: int = 0, swiglu_fusion: int = 0,
        swiglu_limit: float | None = None, use_sparse_mixer: int = 0) -> Value:
    layers = [None if w is None else _Layer(w, bias) for w, bias in (
        (fc1_experts_weights, fc1_experts_bias), (fc2_experts_weights, fc2_experts_bias),
        (fc3_experts_weights, fc3_experts_bias))]
    bent = _activation(b, activation_type, activation_alpha, activation_beta, swiglu_limit, swiglu_fusion)
    return _experts(b, input, _routed(b, router_probs, None, k, bool(normalize_routing_weights)), layers, bent)


@lowering("com.microsoft.QMoE")
def QMoE(b: Lowering, input: Value, router_probs: Value, fc1_experts_weights: Value, fc1_scales: Value | None,
         fc1_experts_bias: Value | None, fc2_experts_weights: Value, fc2_scales: Value | None,
         fc2_experts_bias: Value | None = None, fc3_experts_weights: Value | None = None,
         fc3_scales: Value | None = None, fc3_experts_bias: Value | None = None, fc1_zero_points: Value | None = None,
         fc2_zero_points: Value | None = None, fc3_zero_points: Value | None = None,
         router_weights: Value | None = None, fc1_global_scale: Value | None = None,
         fc2_global_scale: Value | None = None, fc1_act_scale: Value | None = None,
         fc2_act_scale: Value | None = None, fc1_act_block_scale: Value | None = None,
         fc2_act_block_scale: Value | None = None, *, accuracy_level: int = 0, activation_alpha: float = 1.0,
         activation_beta: float = 0.0, activation_type: str = "relu", block_size: int | None = None,
         expert_weight_bits: int = 4, fc1_expert_weight_bits: int | None = None,
         fc2_expert_weight_bits: int | None = None, fc3_expert_weight_bits: int | None = None, k: int = 1,
         normalize_routing_weights: int = 0, quant_type: str = "int", swiglu_fusion: int = 0,
         swiglu_limit: float | None = None, use_sparse_mixer: int = 0, weights_prepacked: int = -1) -> Value:
    if quant_type != "int" or weights_prepacked == 1:
        b.refuse(f"weights of quant_type '{quant_type}' (weights_prepacked {weights_prepacked}) are not supported yet; "
                 "integers in the plain layout are")
    layers: list[_Layer | None] = []
    for weights, bias, scales, zeros, bits in (
            (fc1_experts_weights, fc1_experts_bias, fc1_scales, fc1_zero_points, fc1_expert_weight_bits),
            (fc2_experts_weights, fc2_experts_bias, fc2_scales, fc2_zero_points, fc2_expert_weight_bits),
            (fc3_experts_weights, fc3_experts_bias, fc3_scales, fc3_zero_points, fc3_expert_weight_bits)):
        if weights is not None and scales is None:
            b.refuse("weights of integers are given without their scales")
        layers.append(None if weights is None else
                      _Layer(weights, bias, bits or expert_weight_bits, scales, zeros))
    bent = _activation(b, activation_type, activation_alpha, activation_beta, swiglu_limit, swiglu_fusion)
    # Shares are those among the chosen experts, unless they are given.
    shares = _routed(b, router_probs, router_weights, k, router_weights is None or bool(normalize_routing_weights))
    return _experts(b, input, shares, layers, bent)
