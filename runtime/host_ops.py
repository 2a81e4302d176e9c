"""Operators on texts, sequences, maps and optionals, which run in Python between the native parts of a program.

A tensor is an array, texts are an array of str objects, a sequence is a list, a map a dict, an optional its value or
None. `HOST_OPS` has a function for each operator: of the node's attributes and inputs (None where one is left out); it
gives the result, or a tuple of several.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxc.errors import InvalidArgument
from onnxc.ir.types import dtype_of_onnx
from onnxc.runtime.host_control import CONTROL_OPS
from onnxc.runtime.host_images import decode_image
from onnxc.runtime.host_sparse import sparse_parts
from onnxc.runtime.randomness import generator

__all__ = ["CONTAINER_OPS", "HOST_OPS", "ONLY_HOST_OPS", "STATEFUL_OPS"]

Array = npt.NDArray[Any]
Attrs = Mapping[str, Any]
HostOp = Callable[..., Any]

HOST_OPS: dict[str, HostOp] = dict(CONTROL_OPS)
#: Those with a state: of a node's attributes they make a function such as HOST_OPS has, one for each open program.
STATEFUL_OPS: dict[str, Callable[[Attrs], HostOp]] = {}
#: Those that a program needs no host for where the parts of the container are known when it is compiled.
CONTAINER_OPS = ("SequenceConstruct", "SequenceEmpty", "SequenceInsert", "SequenceErase", "SequenceAt",
                 "SequenceLength", "ConcatFromSequence", "SplitToSequence", "Optional", "OptionalHasElement",
                 "OptionalGetElement", "Identity")


#: Those that native code has no form of, whatever their inputs are.
ONLY_HOST_OPS = ("ai.onnxc.RandomSeed", "ImageDecoder")


def _host(fn: HostOp) -> HostOp:
    HOST_OPS[fn.__name__] = fn
    return fn


# ---- texts -----------------------------------------------------------------------------------------------------------

def _texts(values: Any, shape: tuple[int, ...]) -> Array:
    out = np.empty(len(values), object)
    out[:] = values
    return out.reshape(shape)


@_host
def StringConcat(attrs: Attrs, x: Array, y: Array) -> Array:
    left, right = np.broadcast_arrays(x, y)
    return _texts([a + b for a, b in zip(left.ravel(), right.ravel(), strict=True)], left.shape)


@_host
def StringSplit(attrs: Attrs, x: Array) -> tuple[Array, Array]:
    most = attrs.get("maxsplit")
    parts = [text.split(attrs.get("delimiter") or None, -1 if most is None else most) for text in x.ravel()]
    width = max(map(len, parts), default=0)
    padded = [part for found in parts for part in (*found, *[""] * (width - len(found)))]
    counts = np.array([len(found) for found in parts], np.int64).reshape(x.shape)
    return _texts(padded, (*x.shape, width)), counts


@_host
def RegexFullMatch(attrs: Attrs, x: Array) -> Array:
    pattern = _compiled(attrs.get("pattern", ""))
    return np.array([pattern.fullmatch(text) is not None for text in x.ravel()], np.bool_).reshape(x.shape)


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise InvalidArgument(f"RegexFullMatch: the pattern {pattern!r} is not valid: {error}") from None


@_host
def StringNormalizer(attrs: Attrs, x: Array) -> Array:
    if x.ndim not in (1, 2) or (x.ndim == 2 and x.shape[0] != 1):
        raise InvalidArgument(f"StringNormalizer: the input has the shape {list(x.shape)}; expected [C] or [1, C]")
    change = {"LOWER": str.lower, "UPPER": str.upper}.get(attrs.get("case_change_action", "NONE"), str)
    exact = bool(attrs.get("is_case_sensitive", 0))
    stop = {word if exact else word.lower() for word in attrs.get("stopwords", ())}
    kept = [change(word) for word in x.ravel() if (word if exact else word.lower()) not in stop] or [""]
    return _texts(kept, (len(kept),) if x.ndim == 1 else (1, len(kept)))


@_host
def TfIdfVectorizer(attrs: Attrs, x: Array) -> Array:
    """Of texts; numbers are counted in native code."""
    if x.ndim > 2:
        raise InvalidArgument(f"TfIdfVectorizer: the input has the shape {list(x.shape)}; expected [C] or [N, C]")
    columns, width = _pooled(attrs), max(attrs["ngram_indexes"]) + 1
    rows = x if x.ndim == 2 else x.reshape(1, -1)
    counts = np.zeros((len(rows), width), np.int64)
    for row, words in zip(counts, rows.tolist(), strict=True):
        for length in sorted({len(gram) for gram in columns}):
            for step in range(1, (attrs["max_skip_count"] if length > 1 else 0) + 2):
                for start in range(len(words) - (length - 1) * step):
                    for column in columns.get(tuple(words[start:start + (length - 1) * step + 1:step]), ()):
                        row[column] += 1
    found = (counts > 0 if attrs["mode"] == "IDF" else counts).astype(np.float32)
    if attrs["mode"] != "TF" and attrs.get("weights"):
        found *= np.array(attrs["weights"][:width], np.float32)
    return found if x.ndim == 2 else found[0]


def _pooled(attrs: Attrs) -> dict[tuple[str, ...], list[int]]:
    """The columns that count each n-gram of the pool, of those lengths that count."""
    pool, starts = attrs["pool_strings"], attrs["ngram_counts"]
    found: dict[tuple[str, ...], list[int]] = {}
    number = 0
    for i, (start, end) in enumerate(zip(starts, [*starts[1:], len(pool)], strict=True)):
        for at in range(start, end, i + 1):
            if attrs["min_gram_length"] <= i + 1 <= attrs["max_gram_length"]:
                found.setdefault(tuple(pool[at:at + i + 1]), []).append(attrs["ngram_indexes"][number])
            number += 1
    return found


@_host
def Unique(attrs: Attrs, x: Array) -> tuple[Array, Array, Array, Array]:
    """Of texts; numbers are told apart in native code."""
    axis = attrs.get("axis")
    rows = x.reshape(-1, 1) if axis is None else np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)
    places: dict[tuple[str, ...], list[int]] = {}
    for i, row in enumerate(map(tuple, rows.tolist())):
        places.setdefault(row, []).append(i)
    groups = [places[row] for row in (sorted(places) if attrs.get("sorted", 1) else places)]
    first = np.array([group[0] for group in groups], np.int64)
    inverse = np.empty(len(rows), np.int64)
    for number, group in enumerate(groups):
        inverse[group] = number
    values = np.take(x.reshape(-1) if axis is None else x, first, axis or 0)
    return values, first, inverse, np.array([len(group) for group in groups], np.int64)


@_host
def Equal(attrs: Attrs, a: Array, b: Array) -> Array:
    return np.asarray(np.equal(a, b), np.bool_)


@_host
def Cast(attrs: Attrs, x: Array) -> Array:
    to = dtype_of_onnx(attrs["to"])
    if to.kind == "str":
        return _texts([_as_text(v) for v in x.ravel()], x.shape)
    try:
        convert = float if to.is_float else int
        return np.array([convert(text) for text in x.ravel()]).astype(to.numpy).reshape(x.shape)
    except ValueError as error:
        raise InvalidArgument(f"Cast of texts to {to.onnx_text}: {error}") from None


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, np.bool_)):
        return str(int(value))
    if isinstance(value, (float, np.floating)):
        if not np.isfinite(value):
            return "NaN" if np.isnan(value) else ("INF" if value > 0 else "-INF")
        return f"{value:.{17 if isinstance(value, float) else 8}g}"
    return str(value)


@_host
def Concat(attrs: Attrs, *inputs: Array) -> Array:
    return np.concatenate(inputs, attrs["axis"])


@_host
def Gather(attrs: Attrs, data: Array, indices: Array) -> Array:
    axis = attrs.get("axis", 0)
    size = data.shape[axis]
    if ((indices < -size) | (indices >= size)).any():
        raise InvalidArgument(f"Gather: indices element out of data bounds, which are [{-size},{size - 1}]")
    return np.asarray(np.take(data, indices, axis))


@_host
def Reshape(attrs: Attrs, data: Array, shape: Array) -> Array:
    wanted = [data.shape[i] if d == 0 and not attrs.get("allowzero") else int(d) for i, d in enumerate(shape)]
    return data.reshape(wanted)


@_host
def Unsqueeze(attrs: Attrs, data: Array, axes: Array) -> Array:
    return np.expand_dims(data, tuple(int(a) for a in axes))


@_host
def Squeeze(attrs: Attrs, data: Array, axes: Array | None = None) -> Array:
    return np.squeeze(data, None if axes is None else tuple(int(a) for a in axes))


@_host
def Shape(attrs: Attrs, data: Array) -> Array:
    return np.array(data.shape[attrs.get("start", 0):attrs.get("end")], np.int64)


@_host
def Where(attrs: Attrs, condition: Array, x: Array, y: Array) -> Array:
    return np.asarray(np.where(condition, x, y), object)


# ---- sequences -------------------------------------------------------------------------------------------------------

def _place(sequence: list[Any], position: Array | None, end: int, op: str) -> int:
    if position is None:
        return end
    given = int(position.reshape(()))
    place = given + len(sequence) if given < 0 else given
    if not 0 <= place <= end:
        raise InvalidArgument(f"{op}: position {given} is outside of a sequence of {len(sequence)}")
    return place


@_host
def Identity(attrs: Attrs, value: Any) -> Any:
    return value


@_host
def SequenceConstruct(attrs: Attrs, *inputs: Array) -> list[Array]:
    return list(inputs)


@_host
def SequenceEmpty(attrs: Attrs) -> list[Array]:
    return []


@_host
def SequenceInsert(attrs: Attrs, sequence: list[Array], tensor: Array, position: Array | None = None) -> list[Array]:
    at = _place(sequence, position, len(sequence), "SequenceInsert")
    return [*sequence[:at], tensor, *sequence[at:]]


@_host
def SequenceErase(attrs: Attrs, sequence: list[Array], position: Array | None = None) -> list[Array]:
    at = _place(sequence, position, len(sequence) - 1, "SequenceErase")
    return sequence[:at] + sequence[at + 1:]


@_host
def SequenceAt(attrs: Attrs, sequence: list[Array], position: Array) -> Array:
    return sequence[_place(sequence, position, len(sequence) - 1, "SequenceAt")]


@_host
def SequenceLength(attrs: Attrs, sequence: list[Array]) -> Array:
    return np.array(len(sequence), np.int64)


@_host
def ConcatFromSequence(attrs: Attrs, sequence: list[Array]) -> Array:
    join = np.stack if attrs.get("new_axis", 0) else np.concatenate
    try:
        return np.asarray(join(sequence, attrs["axis"]))
    except (ValueError, np.exceptions.AxisError) as error:
        raise InvalidArgument(f"ConcatFromSequence: {error}") from None


@_host
def SplitToSequence(attrs: Attrs, data: Array, split: Array | None = None) -> list[Array]:
    axis = attrs.get("axis", 0)
    extent = data.shape[axis]
    sizes = [1] * extent if split is None else _sizes(split, extent)
    if sum(sizes) != extent or min(sizes, default=0) < 0:
        raise InvalidArgument(f"SplitToSequence: parts of {sizes} do not add up to {extent}")
    parts = np.split(data, np.cumsum(sizes)[:-1], axis) if sizes else []
    drop = split is None and not attrs.get("keepdims", 1)
    return [np.squeeze(part, axis) if drop else part for part in parts]


def _sizes(split: Array, extent: int) -> list[int]:
    if split.ndim:
        return [int(size) for size in split]
    size = int(split)
    if size <= 0:
        raise InvalidArgument(f"SplitToSequence: parts of size {size}")
    return [min(size, extent - at) for at in range(0, extent, size)]


# ---- optionals -------------------------------------------------------------------------------------------------------

@_host
def Optional(attrs: Attrs, value: Any = None) -> Any:
    return value


@_host
def OptionalHasElement(attrs: Attrs, value: Any = None) -> Array:
    return np.array(value is not None)


@_host
def OptionalGetElement(attrs: Attrs, value: Any) -> Any:
    if value is None:
        raise InvalidArgument("OptionalGetElement: the optional has no value")
    return value


# ---- random numbers, images ------------------------------------------------------------------------------------------

def _random_seed(attrs: Attrs) -> HostOp:
    """A number for each run, of the node's seed and how many came before; without one, of the process's generator."""
    given = attrs.get("seed")
    own = None if given is None else np.random.default_rng(int(np.float32(given).view(np.uint32)))

    def draw(attrs: Attrs) -> Array:
        return np.array((own or generator()).integers(0, 1 << 64, dtype=np.uint64))
    return draw


HOST_OPS["ImageDecoder"] = decode_image
HOST_OPS["ai.onnxc.SparseParts"] = sparse_parts
STATEFUL_OPS["ai.onnxc.RandomSeed"] = _random_seed


# ---- ai.onnx.ml ------------------------------------------------------------------------------------------------------

def _ml(fn: HostOp) -> HostOp:
    HOST_OPS[f"ai.onnx.ml.{fn.__name__}"] = fn
    return fn


@_ml
def ZipMap(attrs: Attrs, scores: Array) -> list[dict[Any, float]]:
    labels = attrs.get("classlabels_strings") or attrs.get("classlabels_int64s") or ()
    rows = scores.reshape(1, -1) if scores.ndim == 1 else scores
    if rows.ndim != 2 or rows.shape[1] != len(labels):
        raise InvalidArgument(f"ZipMap: scores of shape {list(scores.shape)} for {len(labels)} class labels")
    return [dict(zip(labels, row, strict=True)) for row in rows.tolist()]


@_ml
def CastMap(attrs: Attrs, given: dict[int, Any]) -> Array:
    if not given:
        raise InvalidArgument("CastMap: the map is empty")
    sparse = attrs.get("map_form", "DENSE") == "SPARSE"
    keys = list(range(attrs.get("max_map", 1))) if sparse else sorted(given)
    if sparse and (min(given) < 0 or max(given) >= len(keys)):
        raise InvalidArgument(f"CastMap: a key of the map is outside of [0, {len(keys)})")
    values = [given.get(key, 0.0) for key in keys]
    to = attrs.get("cast_to", "TO_FLOAT")
    if to == "TO_STRING":
        return _texts([v if isinstance(v, str) else f"{v:f}" for v in values], (1, len(values)))
    try:
        numbers = np.array([[float(v) for v in values]])
    except ValueError as error:
        raise InvalidArgument(f"CastMap: {error}") from None
    return numbers.astype(np.int64 if to == "TO_INT64" else np.float32)


@_ml
def CategoryMapper(attrs: Attrs, x: Array) -> Array:
    numbers, words = attrs.get("cats_int64s") or (), attrs.get("cats_strings") or ()
    if len(numbers) != len(words):
        raise InvalidArgument(f"CategoryMapper: {len(numbers)} numbers for {len(words)} texts")
    if x.dtype == np.int64:
        names = dict(zip(numbers, words, strict=True))
        return _texts([names.get(n, attrs.get("default_string", "_Unused")) for n in x.ravel().tolist()], x.shape)
    places = dict(zip(words, numbers, strict=True))
    found = [places.get(text, attrs.get("default_int64", -1)) for text in x.ravel().tolist()]
    return np.array(found, np.int64).reshape(x.shape)


@_ml
def ArrayFeatureExtractor(attrs: Attrs, data: Array, indices: Array) -> Array:
    rows, wanted = np.atleast_2d(data), indices.ravel()
    size = rows.shape[-1]
    if ((wanted < 0) | (wanted >= size)).any():
        raise InvalidArgument(f"ArrayFeatureExtractor: an index is outside of [0, {size})")
    return rows[..., wanted]


@_ml
def DictVectorizer(attrs: Attrs, given: dict[Any, Any]) -> Array:
    words = attrs.get("string_vocabulary") or attrs.get("int64_vocabulary") or ()
    whole = bool(given) and all(isinstance(v, int) for v in given.values())
    return np.array([[given.get(word, 0) for word in words]], np.int64 if whole else np.float32)


@_ml
def LabelEncoder(attrs: Attrs, x: Array) -> Array:
    keys, values = _table(attrs, "keys"), _table(attrs, "values")
    if len(keys) != len(values):
        raise InvalidArgument(f"LabelEncoder: {len(keys)} keys for {len(values)} values")
    table = dict(zip(reversed(keys), reversed(values), strict=True))        # of equal keys the first one counts
    texts = any(isinstance(v, str) for v in values)
    floats = any(isinstance(v, float) for v in values)
    name, otherwise = ("default_string", "_Unused") if texts else ("default_float", -0.0) if floats else \
        ("default_int64", -1)
    default = attrs["default_tensor"].ravel()[0] if "default_tensor" in attrs else attrs.get(name, otherwise)
    found = [table.get(key, default) for key in x.ravel().tolist()]
    if texts:
        return _texts(found, x.shape)
    return np.array(found, _element(attrs, np.float32 if floats else np.int64)).reshape(x.shape)


def _table(attrs: Attrs, which: str) -> list[Any]:
    for key, value in attrs.items():
        if key.startswith(f"{which}_"):
            return list(value.ravel().tolist() if isinstance(value, np.ndarray) else value)
    return []


def _element(attrs: Attrs, otherwise: Any) -> Any:
    given = attrs.get("values_tensor")
    return otherwise if given is None else given.dtype
