"""Features of `ai.onnx.ml`: scaling, imputing, choosing and encoding columns. Texts are the host's business."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxc.ir.core import Value
from onnxc.ir.dims import product
from onnxc.ir.types import F32, F64, I64, DType
from onnxc.lowerings.context import Lowering
from onnxc.lowerings.ml_scores import samples
from onnxc.lowerings.table import lowering

__all__: list[str] = []

Floats = Sequence[float]
Ints = Sequence[int]


def _wide(dtype: DType) -> DType:
    """What features are computed in: doubles for doubles, else floats."""
    return F64 if dtype == F64 else F32


def _row(b: Lowering, X: Value, values: Sequence[Any], dtype: DType, what: str) -> Value:
    """One value for all features or one for each, along the last axis."""
    if b.rank(X) == 0 and len(values) != 1:
        b.refuse(f"{what} has {len(values)} values for a scalar")
    if len(values) != 1:
        b.guard("eq", b.shape(X)[-1], len(values), f"{what} has neither one value nor one for each feature")
    return b.const(np.asarray(values).astype(dtype.numpy).reshape(() if len(values) == 1 else -1))


@lowering("ai.onnx.ml.Scaler")
def Scaler(b: Lowering, X: Value, *, offset: Floats | None = None, scale: Floats | None = None) -> Value:
    wide = _wide(b.dtype(X))
    out = b.cast(X, wide)
    if offset:
        out = b.map("sub", out, _row(b, X, offset, wide, "offset"))
    if scale:
        out = b.map("mul", out, _row(b, X, scale, wide, "scale"))
    return b.cast(out, F32)


@lowering("ai.onnx.ml.Normalizer")
def Normalizer(b: Lowering, X: Value, *, norm: str = "MAX") -> Value:
    x = samples(b, X, _wide(b.dtype(X)))
    if norm == "MAX":
        size = b.reduce(x, "max", [1])
    elif norm == "L1":
        size = b.reduce(b.map("abs", x), "add", [1])
    elif norm == "L2":
        size = b.map("sqrt", b.reduce(b.map("mul", x, x), "add", [1]))
    else:
        b.refuse(f"norm '{norm}' is none of MAX, L1, L2")
    one, zero = b.scalar(1, size), b.scalar(0, size)
    out = b.map("div", x, b.map("select", b.map("eq", size, zero), one, size))
    return b.cast(b.reshape(out, b.shape(X)), F32)


@lowering("ai.onnx.ml.Binarizer")
def Binarizer(b: Lowering, X: Value, *, threshold: float = 0.0) -> Value:
    above = b.map("gt", b.cast(X, _wide(b.dtype(X))), b.scalar(threshold, _wide(b.dtype(X))))
    return b.cast(above, b.dtype(X))


@lowering("ai.onnx.ml.Imputer")
def Imputer(b: Lowering, X: Value, *, imputed_value_floats: Floats | None = None,
            imputed_value_int64s: Ints | None = None, replaced_value_float: float = 0.0,
            replaced_value_int64: int = 0) -> Value:
    dtype = b.dtype(X)
    values: Sequence[Any] | None = imputed_value_floats if dtype.is_float else imputed_value_int64s
    replaced: Any = replaced_value_float if dtype.is_float else replaced_value_int64
    if not values:
        b.refuse(f"no imputed values for an input of {dtype}")
    if isinstance(replaced, float) and np.isnan(replaced):
        hit = b.map("ne", X, X)
    else:
        hit = b.map("eq", X, b.scalar(replaced, X))
    return b.map("select", hit, _row(b, X, values, dtype, "the imputed values"), X)


@lowering("ai.onnx.ml.FeatureVectorizer")
def FeatureVectorizer(b: Lowering, *X: Value, inputdimensions: Ints | None = None) -> Value:
    """Each input's features, cut to its dimension or filled with zeros up to it."""
    if inputdimensions is not None and len(inputdimensions) != len(X):
        b.refuse(f"{len(inputdimensions)} dimensions for {len(X)} inputs")
    parts = [_features(b, v, None if inputdimensions is None else inputdimensions[i]) for i, v in enumerate(X)]
    for part in parts[1:]:
        b.guard("eq", b.shape(parts[0])[0], b.shape(part)[0], "inputs have different numbers of samples")
    return parts[0] if len(parts) == 1 else b.value("t.concat", *parts, axis=1)


def _features(b: Lowering, X: Value, width: int | None) -> Value:
    shape = b.shape(X)
    count, have = (shape[0], product(shape[1:])) if len(shape) > 1 else (1, product(shape))
    flat = b.cast(b.reshape(X, (count, have)), F32)
    return flat if width in (None, have) else b.value("t.pad", flat, low=(0, 0), high=(0, width - have))


@lowering("ai.onnx.ml.ArrayFeatureExtractor")
def ArrayFeatureExtractor(b: Lowering, X: Value, Y: Value) -> Value:
    x = X if b.rank(X) > 1 else b.reshape(X, (1, b.type(X).size))
    index = b.reshape(Y, (b.type(Y).size,))
    return b.value("t.gather", x, index, axis=b.rank(x) - 1)


@lowering("ai.onnx.ml.OneHotEncoder")
def OneHotEncoder(b: Lowering, X: Value, *, cats_int64s: Ints | None = None, cats_strings: Sequence[str] | None = None,
                  zeros: int = 1) -> Value:
    """Of equal categories the last one counts. Without `zeros` an unknown category is an error of the run: its place,
    behind all others, is out of range."""
    place = {category: i for i, category in enumerate(cats_int64s or ())}
    if not place:
        b.refuse("no categories are given")
    n = len(cats_int64s or ())
    keys = np.array(sorted(place), np.int64)
    at = _looked_up(b, b.cast(X, I64), keys, np.array([place[k] for k in keys.tolist()], np.int64), n)
    if zeros:
        shape = b.shape(at)
        return b.cast(b.map("eq", b.reshape(at, (*shape, 1)), b.iota(n)), F32)
    return b.value("t.gather", b.const(np.eye(n, dtype=np.float32)), at, axis=0)


# ---- tables ----------------------------------------------------------------------------------------------------------
@lowering("ai.onnx.ml.LabelEncoder")
def LabelEncoder(b: Lowering, X: Value, *, default_float: float = -0.0, default_int64: int = -1,
                 default_string: str = "_Unused", default_tensor: Any = None, keys_floats: Floats | None = None,
                 keys_int64s: Ints | None = None, keys_strings: Any = None, keys_tensor: Any = None,
                 values_floats: Floats | None = None, values_int64s: Ints | None = None, values_strings: Any = None,
                 values_tensor: Any = None) -> Value:
    keys = _given(b, keys_tensor, keys_floats, keys_int64s)
    values = _given(b, values_tensor, values_floats, values_int64s)
    if keys is None or values is None or len(keys) != len(values):
        b.refuse("keys and values are not two tables of one length")
    if default_tensor is not None:
        default: Any = b.array(default_tensor).ravel()[0]
    else:
        default = default_float if values.dtype.kind == "f" else default_int64
    keys = keys.astype(b.dtype(X).numpy)
    nan = np.isnan(keys) if keys.dtype.kind == "f" else np.zeros(len(keys), bool)
    order = np.flatnonzero(~nan)
    unique, first = np.unique(keys[order], return_index=True)             # of equal keys the first one counts
    out = _looked_up(b, X, unique, values[order][first], default)
    if nan.any():
        out = b.map("select", b.map("ne", X, X), b.scalar(values[np.argmax(nan)], out), out)
    return out


def _given(b: Lowering, tensor: Any, floats: Floats | None, ints: Ints | None) -> npt.NDArray[Any] | None:
    if tensor is not None:
        return b.array(tensor).ravel()
    if floats is not None:
        return np.asarray(floats, np.float32)
    return None if ints is None else np.asarray(ints, np.int64)


_COMPARED = 8               # keys up to which each is compared with


def _looked_up(b: Lowering, x: Value, keys: npt.NDArray[Any], values: npt.NDArray[Any], default: Any) -> Value:
    """The value of each element's key, `default` where it is none. `keys` are sorted and different."""
    out = b.broadcast_to(b.const(np.asarray(default, values.dtype)), b.shape(x))
    if len(keys) <= _COMPARED:
        for key, value in zip(keys, values, strict=True):
            out = b.map("select", b.map("eq", x, b.scalar(key, x)), b.scalar(value, out), out)
        return out
    table = b.const(keys)
    at = b.broadcast_to(b.scalar(0, I64), b.shape(x))
    step = 1 << (len(keys) - 1).bit_length()
    while step := step // 2:            # `at` becomes the last key that is at most x, or stays 0
        ahead = b.map("min", b.map("add", at, b.scalar(step, I64)), b.scalar(len(keys) - 1, I64))
        reached = b.map("le", b.value("t.gather", table, ahead, axis=0, in_range=True), x)
        at = b.map("select", reached, ahead, at)
    hit = b.map("eq", b.value("t.gather", table, at, axis=0, in_range=True), x)
    return b.map("select", hit, b.value("t.gather", b.const(values), at, axis=0, in_range=True), out)
