"""RNN, GRU and LSTM on the program interpreter and natively, against the equations of ONNX in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import onnx
import pytest

from tests.dynamic.check import check, model, node

F = np.float32
# Sums in f32 over up to 40 products, through up to 12 steps of contracting functions.
TOLERANCE = 2e-5


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Sigmoid": sigmoid, "Tanh": np.tanh, "Relu": lambda x: np.maximum(x, 0), "Softsign": lambda x: x / (1 + abs(x)),
    "HardSigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1), "ScaledTanh": lambda x: 0.5 * np.tanh(0.25 * x)}


def cell(kind: str, x: np.ndarray, states: list[np.ndarray], w: np.ndarray, r: np.ndarray, wb: np.ndarray,
         rb: np.ndarray,
         acts: list[str], p: np.ndarray, flags: dict[str, int], clip: float) -> list[np.ndarray]:
    """One step of one direction for one batch."""
    f = [lambda v, a=a: ACTIVATIONS[a](np.clip(v, -clip, clip)) for a in acts]
    h = states[0]
    n = h.shape[1]
    wx, rh = x @ w.T + wb, h @ r.T + rb
    part = [slice(i * n, (i + 1) * n) for i in range(w.shape[0] // n)]
    if kind == "RNN":
        return [f[0](wx + rh)]
    if kind == "GRU":
        z, reset = f[0](wx[:, part[0]] + rh[:, part[0]]), f[0](wx[:, part[1]] + rh[:, part[1]])
        inner = reset * rh[:, part[2]] if flags.get("linear_before_reset") else (reset * h) @ r[part[2]].T + rb[part[2]]
        return [(1 - z) * f[1](wx[:, part[2]] + inner) + z * h]
    c = states[1]
    i = f[0](wx[:, part[0]] + rh[:, part[0]] + p[part[0]] * c)
    forget = 1 - i if flags.get("input_forget") else f[0](wx[:, part[2]] + rh[:, part[2]] + p[part[2]] * c)
    new = forget * c + i * f[1](wx[:, part[3]] + rh[:, part[3]])
    o = f[0](wx[:, part[1]] + rh[:, part[1]] + p[part[1]] * new)
    return [o * f[2](new), new]


def expected(kind: str, feeds: dict[str, np.ndarray], direction: str, acts: list[str], flags: dict[str, int],
             clip: float) -> list[np.ndarray]:
    wide = {k: v.astype(np.float64) if v.dtype == F else v for k, v in feeds.items()}
    layout = flags.get("layout", 0)
    x = wide["X"].transpose(1, 0, 2) if layout else wide["X"]
    steps, batch, _ = x.shape
    n = wide["R"].shape[2]
    each = {"RNN": 1, "GRU": 2, "LSTM": 3}[kind]
    ys, lasts = [], []
    for d, back in enumerate({"forward": [0], "reverse": [1], "bidirectional": [0, 1]}[direction]):
        w, r = wide["W"][d], wide["R"][d]
        wb, rb = np.split(wide["B"][d], 2) if "B" in wide else (np.zeros(len(w)), np.zeros(len(w)))
        p = wide["P"][d] if "P" in wide else np.zeros(3 * n)
        lengths = wide.get("L", np.full(batch, steps))
        initial = [wide.get(k) for k in ("H", "C")][:1 + (kind == "LSTM")]
        initial = [np.zeros((len(wide["W"]), batch, n)) if v is None else v.transpose(1, 0, 2) if layout else v
                   for v in initial]
        y = np.zeros((steps, batch, n))
        last = [v[d].copy() for v in initial]
        for b in range(batch):
            states = [v[d, b:b + 1] for v in initial]
            for t in (range(lengths[b] - 1, -1, -1) if back else range(lengths[b])):
                states = cell(kind, x[t, b:b + 1], states, w, r, wb, rb, acts[d * each:(d + 1) * each], p, flags, clip)
                y[t, b] = states[0][0]
            for v, s in zip(last, states, strict=True):
                v[b] = s[0]
        ys.append(y)
        lasts.append(last)
    out = [np.stack(ys, 1), *(np.stack(v) for v in zip(*lasts, strict=True))]
    if layout:
        out = [out[0].transpose(2, 0, 1, 3), *(v.transpose(1, 0, 2) for v in out[1:])]
    return [v.astype(F) for v in out]


GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
DEFAULTS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}


def recurrent(kind: str, direction: str, given: str, hidden: int, width: int, sizes: list[tuple[int, int]], seed: int,
              acts: list[str] | None = None, clip: float | None = None, **flags: int,
              ) -> tuple[onnx.ModelProto, list[dict[str, np.ndarray]], list[list[np.ndarray]]]:
    """A model of one op with constant weights; `given` are the optional operands: B, L (lengths), H, C, P."""
    rng = np.random.default_rng(seed)
    d, rows = 2 if direction == "bidirectional" else 1, GATES[kind] * hidden
    weights = {"W": rng.uniform(-1, 1, (d, rows, width)), "R": rng.uniform(-1, 1, (d, rows, hidden)) / hidden,
               "B": rng.uniform(-1, 1, (d, 2 * rows)), "P": rng.uniform(-1, 1, (d, 3 * hidden))}
    weights = {k: v.astype(F) for k, v in weights.items() if k in "WR" or k in given}
    layout = flags.get("layout", 0)
    inputs = {"X": (F, ["N", "T", width] if layout else ["T", "N", width]), "L": (np.int32, ["N"]),
              **{k: (F, ["N", d, hidden] if layout else [d, "N", hidden]) for k in "HC"}}
    names = [k if k in "XWR" or k in given else "_" for k in "XWRBLHCP"[:8 if kind == "LSTM" else 6]]
    outputs = "Y Yh Yc" if kind == "LSTM" else "Y Yh"
    attributes = {"direction": direction, "hidden_size": hidden, **flags, **({"activations": acts} if acts else {}),
                  **({"clip": clip} if clip else {})}
    m = model([node(kind, " ".join(names), outputs, **attributes)], {k: t for k, t in inputs.items() if k == "X"
                                                                     or k in given},
              outputs.split(), weights)
    feeds, right = [], []
    for steps, batch in sizes:
        feed = {"X": rng.standard_normal((batch, steps, width) if layout else (steps, batch, width), F)}
        if "L" in given:
            feed["L"] = rng.integers(0, steps + 1, batch).astype(np.int32)
        for k in "HC":
            if k in given:
                feed[k] = rng.uniform(-1, 1, (batch, d, hidden) if layout else (d, batch, hidden)).astype(F)
        feeds.append(feed)
        right.append(expected(kind, {**weights, **feed}, direction, acts or DEFAULTS[kind] * d, flags, clip or np.inf))
    return m, feeds, right


CASES = [
    ("RNN", "bidirectional", "BLH", 5, {}), ("GRU", "bidirectional", "BLH", 16, {"linear_before_reset": 1}),
    ("GRU", "reverse", "B", 7, {"linear_before_reset": 0}), ("GRU", "forward", "", 33, {"layout": 1}),
    ("LSTM", "bidirectional", "BLHCP", 6, {}), ("LSTM", "reverse", "BH", 20, {"layout": 1}),
    ("LSTM", "forward", "P", 3, {"input_forget": 1}),
]


@pytest.mark.parametrize(("kind", "direction", "given", "hidden", "flags"), CASES)
def test_recurrent_ops(kind: str, direction: str, given: str, hidden: int, flags: dict[str, int]) -> None:
    m, feeds, right = recurrent(kind, direction, given, hidden, 9, [(4, 2), (1, 1), (12, 3), (0, 2)], 7, **flags)
    check(m, feeds, right, TOLERANCE)


@pytest.mark.parametrize("acts", [["Relu", "Softsign"], ["HardSigmoid", "ScaledTanh"]])
def test_activations_and_clipping(acts: list[str]) -> None:
    pairs = list(itertools.chain(acts, ["Sigmoid", "Tanh"]))             # another pair for the other direction
    # The parameters belong to the activations that take them.
    m, feeds, right = recurrent("GRU", "bidirectional", "BH", 4, 3, [(5, 2)], 3, pairs, 0.4)
    if "ScaledTanh" in acts:
        for attribute, values in (("activation_alpha", [0.2, 0.5]), ("activation_beta", [0.5, 0.25])):
            m.graph.node[0].attribute.append(onnx.helper.make_attribute(attribute, values))
    check(m, feeds, right, TOLERANCE)


def test_weights_may_be_inputs() -> None:
    m, feeds, right = recurrent("GRU", "forward", "B", 8, 5, [(6, 2)], 11, linear_before_reset=1)
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in m.graph.initializer}
    m.graph.input.extend(onnx.helper.make_tensor_value_info(k, onnx.TensorProto.FLOAT, v.shape) for k,
                         v in weights.items())
    del m.graph.initializer[:]
    check(m, [{**f, **weights} for f in feeds], right, TOLERANCE)
