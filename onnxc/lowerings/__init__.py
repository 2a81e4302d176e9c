"""ONNX ops expressed in tensor ops, one file a family. A lowering sees every op at one opset version.

A lowering is a function named after its op whose parameters are the op's inputs and then its attributes, with the ONNX
names and defaults; inputs are Values (None when absent), attributes plain data. It gets a `Lowering` first, which makes
ops and answers questions about them, and gives one value, or a tuple of them for several outputs:

    @lowering
    def Clip(b, input, min=None, max=None): ...

A test compares every signature with the ONNX schema. What a lowering cannot express it refuses with `b.refuse(reason)`.
"""

from __future__ import annotations

from onnxc.lowerings.context import Lowering, Refused
from onnxc.lowerings.table import LOWERINGS, lowering, lowering_of

__all__ = ["LOWERINGS", "Lowering", "Refused", "lowering", "lowering_of"]
