"""Discrete Fourier transforms as contractions with tables of cosines and sines.

A table has as many elements as the square of the length, which is fine for the frame lengths of audio models and no
substitute for a fast transform of long signals.
"""

from __future__ import annotations

import numpy as np

from onnxc.ir.core import Value
from onnxc.ir.dims import DimLike, floordiv
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.matmul import contract
from onnxc.lowerings.table import lowering

__all__: list[str] = []

_LONGEST = 8192
_LETTERS = "abdefghij"


@lowering
def DFT(b: Lowering, input: Value, dft_length: Value | None = None, axis: Value | None = None, *, inverse: int = 0,
        onesided: int = 0) -> Value:
    where = b.ints_of(axis, "the axis") or [-2]
    at = b.axis(where[0], input)
    if at == b.rank(input) - 1:
        b.refuse("the last axis holds the real and the imaginary part and cannot be transformed")
    given = b.ints_of(dft_length, "the length of the transform")
    half = bool(onesided and inverse)                # the input is the lower half of the spectrum of a real signal
    length = given[0] if given else (b.shape(input)[at] - 1) * 2 if half else b.shape(input)[at]
    if not isinstance(length, int) or not 0 < length <= _LONGEST:
        b.refuse(f"a transform of length {length}; it has to be constant, from 1 to {_LONGEST}")
    taken = length // 2 + 1 if half else length
    return b.wide(lambda x: _transform(b, _resized(b, x, at, taken), at, length, bool(inverse), bool(onesided)), input)


def _resized(b: Lowering, x: Value, axis: int, length: int) -> Value:
    """Cut or padded with zeros to `length` along `axis`."""
    extent = b.shape(x)[axis]
    if extent == length:
        return x
    rank = b.rank(x)
    return b.value("t.pad", x, None, low=(0,) * rank, mode="constant",
                   high=tuple(length - extent if i == axis else 0 for i in range(rank)))


def _transform(b: Lowering, x: Value, axis: int, length: int, inverse: bool, onesided: bool) -> Value:
    """[..., length, ..., 1 or 2] -> [..., frequencies, ..., 2].

    The one-sided inverse takes length // 2 + 1 frequencies and gives real elements, [..., length, ..., 1].
    """
    parts = b.shape(x)[-1]
    if parts not in (1, 2):
        b.refuse(f"the last axis is {parts}; it holds the real part, or the real and the imaginary part")
    count = length // 2 + 1 if onesided and not inverse else length
    table = _table(length, count, -1 if not inverse else 1, inverse)
    if onesided and inverse:
        table = _from_half(length)
    table = table[:, :parts, :, :1 if onesided and inverse else 2]
    letters = _LETTERS[:b.rank(x) - 1]
    source = letters[axis]
    spec = f"{letters}r,{source}rkc->{letters.replace(source, 'k')}c"
    return contract(b, x, b.const(table.astype(b.dtype(x).numpy), name="dft"), spec)


def _table(length: int, count: int, sign: int, scaled: bool) -> np.ndarray:
    """[source position, source part, frequency, result part]: multiplication by exp(sign * 2 pi i * n k / length)."""
    angle = sign * 2 * np.pi * (np.outer(np.arange(length), np.arange(count)) % length) / length
    cosine, sine = np.cos(angle), np.sin(angle)
    table = np.stack([np.stack([cosine, sine], -1), np.stack([-sine, cosine], -1)], 1)
    return table / length if scaled else table


def _from_half(length: int) -> np.ndarray:
    """The inverse of a spectrum whose upper half is the conjugate of the lower: [frequency, part, position, 1]."""
    full = _table(length, length, 1, True)[:, :, :, :1]
    half = full[:length // 2 + 1].copy()
    for k in range(1, (length + 1) // 2):
        half[k] += full[length - k] * np.array([1, -1]).reshape(2, 1, 1)
    return half


@lowering
def STFT(b: Lowering, signal: Value, frame_step: Value, window: Value | None = None,
         frame_length: Value | None = None, *, onesided: int = 1) -> Value:
    step = (b.ints_of(frame_step, "the step of frames") or [0])[0]
    given = b.ints_of(frame_length, "the length of frames")
    length: DimLike = given[0] if given else b.shape(window)[0] if window is not None else 0
    if step < 1 or not isinstance(length, int) or not 0 < length <= _LONGEST:
        b.refuse(f"frames of length {length} every {step}")
    x = signal if b.rank(signal) == 3 else b.reshape(signal, (*b.shape(signal), 1))
    frames = b.extent(floordiv(b.shape(x)[1] - length, step) + 1, "the number of frames")
    view = b.value("t.window", b.widen(x), axes=(1,), size=(length,), stride=(step,), dilation=(1,), low=(0,),
                   out=(frames,), fill=0.0)
    if window is not None:
        b.guard("eq", b.shape(window)[0], length, "the window is not as long as a frame")
        view = b.map("mul", view, b.reshape(b.widen(window), (length, 1)))
    return b.cast(_transform(b, view, 2, length, False, bool(onesided)), b.dtype(signal))
