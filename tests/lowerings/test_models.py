"""A trained network through frontend, lowering and the reference interpreter, against its float64 logits."""

from __future__ import annotations

import pathlib

import numpy as np

from onnxc.frontend import import_model, load_model
from onnxc.ir.interp import run_func
from onnxc.ir.verify import verify
from onnxc.lowerings.lower import lower

DIGITS = pathlib.Path(__file__).parents[2] / "examples" / "digits"


def test_the_digits_network_gives_its_reference_logits() -> None:
    module = import_model(load_model(DIGITS / "digits.onnx"))
    lower(module)
    verify(module)
    assert not any(op.name.startswith("onnx.") for op in module.walk())
    with np.load(DIGITS / "heldout.npz") as held, np.load(DIGITS / "reference.npz") as reference:
        images = held["images"][:64, None].astype(np.float32) / np.float32(16)
        logits, = run_func(module, module.main, [images])
        # Each logit, of up to 10, is a sum of some hundred products that the interpreter rounds to f32 once.
        np.testing.assert_allclose(logits, reference["logits"][:64], rtol=0, atol=1e-5)
