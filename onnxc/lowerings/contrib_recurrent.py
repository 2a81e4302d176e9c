"""The LSTM of the domain com.microsoft whose weights are bytes: inputs and states become bytes before each product."""

from __future__ import annotations

from collections.abc import Sequence

from onnxc.ir.core import Value
from onnxc.ir.types import F32, I32
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.matmul import contract
from onnxc.lowerings.quantize import dynamic_bytes
from onnxc.lowerings.recurrent import Rows, lstm
from onnxc.lowerings.table import lowering

__all__: list[str] = []


class _ByteRows(Rows):
    """(byte - zero point) * scale: bytes [D, rows, n], scales and zero points [D, 1, rows or 1], and the sums of the
    rows without their zero points [D, 1, rows], which a left operand's zero point multiplies."""

    def times(self, b: Lowering, v: Value, spec: str) -> Value:
        """What stands for `v` are bytes between the least and the most of its direction."""
        q, scale, zero = dynamic_bytes(b, v, list(range(1, b.rank(v))))
        rows, row_scale, row_zero, sums = self.values
        total = contract(b, b.cast(q, I32), _centred(b, rows, row_zero), spec)
        directions = b.shape(v)[0]
        scale, zero = (b.reshape(p, (directions, 1, 1)) for p in (scale, zero))
        total = b.map("sub", total, b.map("mul", b.cast(zero, I32), sums))
        return b.map("mul", b.cast(total, F32), b.map("mul", scale, row_scale))


def _centred(b: Lowering, rows: Value, zero: Value) -> Value:
    return b.map("sub", b.cast(rows, I32), b.transpose(b.cast(zero, I32), (0, 2, 1)))


def _byte_rows(b: Lowering, weights: Value, scale: Value, zero: Value) -> _ByteRows:
    if b.rank(weights) != 3:
        b.refuse("W and R must have three axes")
    directions, _, count = b.shape(weights)
    array = b.constant(weights)
    rows = b.transpose(weights, (0, 2, 1)) if array is None else b.const(array.transpose(0, 2, 1).copy())
    each = []
    for what, v in (("scale", scale), ("zero point", zero)):
        width = 1 if b.rank(v) < 2 else b.shape(v)[1]
        b.guard("broadcast", width, count, f"there is not one {what} for each row of the weights")
        b.guard("eq", b.type(v).size, directions * width, f"there is not one {what} for each direction")
        array = b.constant(v)
        shape = (directions, 1, width)
        each.append(b.reshape(v, shape) if array is None else b.const(array.reshape(shape)))
    sums = b.reduce(_centred(b, rows, each[1]), "add", (2,), keepdims=False)
    return _ByteRows(rows, *each, b.reshape(sums, (directions, 1, count)))


@lowering("com.microsoft.DynamicQuantizeLSTM")
def DynamicQuantizeLSTM(b: Lowering, X: Value, W: Value, R: Value, B: Value | None, sequence_lens: Value | None,
                        initial_h: Value | None, initial_c: Value | None, P: Value | None, W_scale: Value,
                        W_zero_point: Value, R_scale: Value, R_zero_point: Value, *,
                        activation_alpha: Sequence[float] | None = None,
                        activation_beta: Sequence[float] | None = None, activations: Sequence[str] | None = None,
                        clip: float | None = None, direction: str = "forward", hidden_size: int | None = None,
                        input_forget: int = 0) -> tuple[Value | None, ...]:
    weights = _byte_rows(b, W, W_scale, W_zero_point), _byte_rows(b, R, R_scale, R_zero_point)
    return lstm(b, X, weights, B, sequence_lens, initial_h, initial_c, P, activation_alpha, activation_beta,
                activations, clip, direction, hidden_size, input_forget, layout=0)
