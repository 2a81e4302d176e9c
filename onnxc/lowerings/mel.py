"""MelWeightMatrix: triangles over the bins of a spectrum, evenly spaced on the mel scale."""

from __future__ import annotations

import math

from onnxc.ir.core import Value
from onnxc.ir.types import F32, F64, I64, dtype_of_onnx
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.data_sizes import sizes_of
from onnxc.lowerings.table import lowering

__all__: list[str] = []

_SCALE, _CORNER = 2595.0, 700.0     # mel = 2595 * log10(1 + hertz / 700)


@lowering
def MelWeightMatrix(b: Lowering, num_mel_bins: Value, dft_length: Value, sample_rate: Value, lower_edge_hertz: Value,
                    upper_edge_hertz: Value, *, output_datatype: int = F32.onnx) -> Value:
    (bands,), (length,) = sizes_of(b, num_mel_bins, "num_mel_bins"), sizes_of(b, dft_length, "dft_length")
    low, high = (_mel(b, b.cast(b.reshape(v, ()), F64)) for v in (lower_edge_hertz, upper_edge_hertz))
    step = b.map("div", b.map("sub", high, low), b.cast(b.dim(bands + 2), F64))
    mel = b.map("add", b.map("mul", b.iota(bands + 2, dtype=F64), step), low)
    power = b.map("expm1", b.map("mul", mel, b.scalar(math.log(10) / _SCALE, F64)))
    hertz = b.map("mul", power, b.scalar(_CORNER, F64))
    rate = b.cast(b.reshape(sample_rate, ()), F64)
    place = b.cast(b.map("floor", b.map("div", b.map("mul", hertz, b.cast(b.dim(length + 1), F64)), rate)), I64)
    left, centre, right = (b.value("t.slice", place, starts=(i,), sizes=(bands,), steps=(1,)) for i in range(3))
    bins = b.iota(length // 2 + 1, 2, 0)
    rise = _share(b, b.map("sub", bins, left), b.map("sub", centre, left))
    fall = _share(b, b.map("sub", right, bins), b.map("sub", right, centre))
    rising = b.map("and", b.map("ge", bins, left), b.map("lt", bins, centre))
    falling = b.map("and", b.map("ge", bins, centre), b.map("lt", bins, right))
    top = b.map("select", b.map("eq", bins, centre), b.scalar(1, F64), b.scalar(0, F64))
    out = b.map("select", rising, rise, b.map("select", falling, fall, top))
    return b.cast(out, dtype_of_onnx(output_datatype))


def _mel(b: Lowering, hertz: Value) -> Value:
    inner = b.map("log1p", b.map("div", hertz, b.scalar(_CORNER, F64)))
    return b.map("mul", inner, b.scalar(_SCALE / math.log(10), F64))


def _share(b: Lowering, part: Value, whole: Value) -> Value:
    """part / whole, where there is a whole."""
    return b.map("div", b.cast(part, F64), b.cast(b.map("max", whole, b.scalar(1, I64)), F64))
