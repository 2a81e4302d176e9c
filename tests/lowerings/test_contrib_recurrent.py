"""The LSTM of bytes against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.lowerings.contrib import Arrays, bytes_of, check, floats

STEPS, BATCH, WIDTH, H = 5, 2, 12, 8


def operands(directions: int = 1, kind: type = np.int8, zero: int = 0, by_row: bool = False, bias: bool = True,
             lengths: list[int] | None = None, states: bool = False, peepholes: bool = False) -> tuple[Arrays, Arrays]:
    d, rows = directions, 4 * H
    of = (d, rows) if by_row else (d,)

    def scale(seed: int) -> np.ndarray:
        return (np.abs(floats(*of, seed=seed)) + np.float32(0.5)) / np.float32(200)

    weights: Arrays = {"W": bytes_of(d, WIDTH, rows, dtype=kind, seed=1), "R": bytes_of(d, H, rows, dtype=kind, seed=2),
                       "B": floats(d, 2 * rows, seed=3) if bias else None}
    own: Arrays = {"P": floats(d, 3 * H, seed=7) if peepholes else None,
                   "W_scale": scale(8), "W_zero_point": np.full(of, zero, kind),
                   "R_scale": scale(9), "R_zero_point": np.full(of, zero, kind)}
    of_run: Arrays = {"sequence_lens": None if lengths is None else np.array(lengths, np.int32),
                      "initial_h": floats(d, BATCH, H, seed=5) if states else None,
                      "initial_c": floats(d, BATCH, H, seed=6) if states else None}
    return {"X": floats(STEPS, BATCH, WIDTH), **weights, **of_run, **own}, {**weights, **own}


@pytest.mark.parametrize(("form", "attrs"), [
    ({}, {}), ({"by_row": True, "bias": False}, {"direction": "reverse"}), ({"kind": np.uint8, "zero": 120}, {}),
    ({"zero": 3}, {"clip": 0.5, "input_forget": 1}),
    ({"by_row": True, "states": True, "peepholes": True}, {"direction": "bidirectional"}),
    ({"directions": 2}, {"direction": "bidirectional", "activations": ["Relu", "Tanh", "Softsign"] * 2})])
def test_lstm_of_bytes(form: dict[str, Any], attrs: dict[str, Any]) -> None:
    if attrs.get("direction") == "bidirectional":
        form = form | {"directions": 2}
    inputs, constants = operands(**form)
    check("DynamicQuantizeLSTM", inputs, constants, 3, hidden_size=H, **attrs)


def test_lstm_of_bytes_that_are_inputs() -> None:
    check("DynamicQuantizeLSTM", operands(zero=3, states=True)[0], {}, 3, static=True, hidden_size=H)


def test_lstm_of_bytes_within_lengths() -> None:
    """What a sequence that has ended adds to the range of a state's bytes is another thing in ONNX Runtime: states
    differ by a fraction of a byte."""
    inputs, constants = operands(lengths=[3, 5])
    check("DynamicQuantizeLSTM", inputs, constants, 3, tolerance=1 / 255, hidden_size=H)
