"""Values for inputs: right ones in every form that has them, and wrong ones."""

from __future__ import annotations

import collections
import ctypes
import decimal
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from tests.calls.world import Side
from tests.graphs.choices import Choices

__all__ = ["DTYPES", "ONNX", "Feed", "Given", "elements", "feed_for", "given_for", "shape_for"]

DTYPES = {"float": np.float32, "double": np.float64, "float16": np.float16, "bool": np.bool_, "int8": np.int8,
          "int16": np.int16, "int32": np.int32, "int64": np.int64, "uint8": np.uint8, "uint16": np.uint16,
          "uint32": np.uint32, "uint64": np.uint64}
NARROW = {"bfloat16": ml_dtypes.bfloat16, "float8e4m3fn": ml_dtypes.float8_e4m3fn, "float8e5m2": ml_dtypes.float8_e5m2,
          "int4": ml_dtypes.int4, "uint4": ml_dtypes.uint4}
#: ONNX's numbers of the element types.
ONNX = {"float": 1, "uint8": 2, "int8": 3, "uint16": 4, "int16": 5, "int32": 6, "int64": 7, "string": 8, "bool": 9,
        "float16": 10, "double": 11, "uint32": 12, "uint64": 13, "bfloat16": 16, "float8e4m3fn": 17, "float8e5m2": 19,
        "uint4": 21, "int4": 22}
TEXTS = ("a", "", "bc", "öß", "日本語", "a b", "x" * 40, "\n", "é")
SHARED_SIZES = (2, 1, 0, 3, 5)


class Given(NamedTuple):
    """A value: how to make it for a side, a text of it, and whether it is wrong for its input."""

    text: str
    make: Callable[[Side], Any]
    wrong: bool = False


class Feed(NamedTuple):
    """A feed for a run; `mistakes` of its values or names are wrong."""

    text: str
    make: Callable[[Side], Any]
    mistakes: int


def elements(choices: Choices, element: str, shape: Sequence[int]) -> np.ndarray:
    """A new array of this type; numbers are small and whole, but for some special ones."""
    shape = tuple(shape)
    count = int(np.prod(shape))
    if element == "string":
        return np.array([choices.pick(TEXTS) for _ in range(count)], object).reshape(shape)
    rng = np.random.default_rng(choices.below(1000))
    dtype = np.dtype(DTYPES.get(element) or NARROW[element])
    low, high = (0, 8) if element.startswith(("uint", "bool")) else (-8, 8)
    array = rng.integers(low, high, shape).astype(np.int64)
    out = np.asarray(array > 3 if element == "bool" else array.astype(dtype)).reshape(shape)
    if count and choices.chance(12) and element not in ("bool", "int4", "uint4"):
        flat = out.reshape(-1)
        special = np.array([np.nan, np.inf, -np.inf, -0.0]) if dtype.kind == "f" else \
            np.array([np.iinfo(dtype).min, np.iinfo(dtype).max]) if dtype.kind in "iu" else np.zeros(1)
        flat[: len(special)] = special[: count].astype(dtype)
    return out


def shape_for(choices: Choices, declared: Sequence[int | str | None], sizes: dict[str, int],
              any_rank: bool) -> list[int]:
    """Sizes that fit the declared ones; dims of one name are equal, but for a few."""
    if any_rank and choices.chance(80):
        declared = [None] * choices.below(4)
    out = []
    for d in declared:
        if isinstance(d, int):
            out.append(d)
        elif d is None or choices.chance(4):
            out.append(choices.pick(SHARED_SIZES))
        else:
            out.append(sizes.setdefault(d, choices.pick(SHARED_SIZES)))
    return out


# ---- forms of right values -------------------------------------------------------------------------------------------

class Derived(np.ndarray):
    """A subclass of ndarray."""


class Interface:
    """An object that NumPy can make an array of."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.array, dtype)


class Capsule:
    """An object that speaks DLPack only."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


def _read_only(a: np.ndarray) -> np.ndarray:
    b = a.copy()
    b.flags.writeable = False
    return b


def _unaligned(a: np.ndarray) -> np.ndarray:
    b = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    b[...] = a
    return b


def _strided(a: np.ndarray) -> np.ndarray:
    return np.repeat(a[..., None], 3, -1)[..., 1]


def _reversed(a: np.ndarray) -> np.ndarray:
    turn = (slice(None, None, -1),) * a.ndim
    return a[(*turn, ...)].copy()[(*turn, ...)]


_LAYOUTS: tuple[tuple[str, Callable[[np.ndarray], Any]], ...] = (
    ("", lambda a: a), ("fortran ", lambda a: np.array(a, order="F")), ("reversed ", _reversed), ("strided ", _strided),
    ("transposed ", lambda a: a.T.copy().T), ("read-only ", _read_only), ("unaligned ", _unaligned),
    ("derived ", lambda a: a.view(Derived)), ("masked ", lambda a: np.ma.masked_array(a, np.zeros(a.shape, bool))),
    ("broadcast ", lambda a: np.broadcast_to(a, a.shape)), ("slice of ", lambda a: np.stack([a, a])[1]),
    ("gap ", lambda a: np.concatenate([a, a], -1)[..., : a.shape[-1]] if a.ndim else a),
    ("matrix ", lambda a: np.asmatrix(a) if a.ndim == 2 else a),
)


def tensor(choices: Choices, element: str, shape: Sequence[int]) -> Given:
    """A right value for a tensor."""
    array = elements(choices, element, shape)
    text = f"{element}{list(shape)}"
    if element in NARROW:
        return _narrow(choices, array, element, text)
    kind = choices.below(100)
    if element == "string":
        return _texts(choices, array, text, kind)
    if kind < 70:
        name, layout = choices.pick(_LAYOUTS)
        return Given(f"{name}{text}", lambda side: layout(array.copy()))
    if kind < 80:
        if array.ndim > 1 and not array.size or not array.ndim:         # a list would not say the shape
            return Given(text, lambda side: array.copy())
        return Given(f"list of {text}", lambda side: array.tolist())
    if kind < 88:
        return Given(f"OrtValue of {text}", lambda side: side.api.OrtValue.ortvalue_from_numpy(array.copy()))
    if kind < 93 and array.ndim and array.size:
        return Given(f"list of arrays of {text}", lambda side: list(array.copy()))
    if kind < 97:       # ONNX Runtime takes the bytes for those of its own order
        return Given(f"swapped {text}", lambda side: array.astype(array.dtype.newbyteorder()) if side.is_ours
                     else array.copy())
    # which ONNX Runtime does not take
    wrap = choices.pick((Interface, Capsule)) if element != "bool" else Interface
    return Given(f"{wrap.__name__} of {text}", lambda side: wrap(array.copy()) if side.is_ours else array.copy())


def _texts(choices: Choices, array: np.ndarray, text: str, kind: int) -> Given:
    fixed = array.astype(np.str_)
    if kind < 40:
        return Given(f"object {text}", lambda side: array.copy())
    if kind < 65:
        return Given(f"strided U {text}", lambda side: _strided(fixed))
    if kind < 80:
        return Given(f"list of {text}", lambda side: array.tolist())
    if kind < 90:
        return Given(f"reversed {text}", lambda side: _reversed(array))
    # ONNX Runtime reads past the ends of S arrays, and has no texts of any length
    if kind < 95:
        return Given(f"S {text}", lambda side: np.char.encode(fixed, "utf-8") if side.is_ours else array.copy())
    return Given(f"T {text}", lambda side: array.astype(np.dtypes.StringDType()) if side.is_ours else array.copy())


def _narrow(choices: Choices, array: np.ndarray, element: str, text: str) -> Given:
    """A value that ONNX Runtime takes only as an OrtValue of the bits."""
    as_value = choices.chance(30) and "4" not in element[-1]

    def make(side: Side) -> Any:
        if side.is_ours and not as_value:
            return array.copy()
        if element in ("int4", "uint4"):
            return packed(side, array, element)
        bits = array.view(np.uint16 if element == "bfloat16" else np.uint8)
        return side.api.OrtValue.ortvalue_from_numpy_with_onnx_type(bits.copy(), ONNX[element])
    return Given(f"{'value of ' if as_value else ''}{text}", make)


def packed(side: Side, array: np.ndarray, element: str) -> Any:
    """An OrtValue of elements that share bytes."""
    made = side.api.OrtValue.ortvalue_from_shape_and_type(list(array.shape), ONNX[element])
    bits = array.astype(np.int8).reshape(-1).view(np.uint8) & 15
    bits = np.append(bits, np.zeros(bits.size % 2, np.uint8))
    data = (bits[0::2] | bits[1::2] << 4).astype(np.uint8)
    ctypes.memmove(made.data_ptr(), data.ctypes.data, data.nbytes)
    return made


# ---- wrong values ----------------------------------------------------------------------------------------------------

def _wrong_tensor(choices: Choices, element: str, shape: list[int], any_rank: bool) -> Given:
    kind = choices.below(100)
    if kind < 25:
        other = choices.pick([e for e in DTYPES if e != element])
        array = elements(choices, other, shape)
        return Given(f"wrong {other}{shape}", lambda side: array.copy(), True)
    if kind < 45 and not any_rank and shape:
        bad = choices.pick(([*shape, 1], shape[1:], [1, *shape], [], [1] * 9))
        if len(bad) != len(shape):
            given = tensor(choices, element, bad)
            return Given(f"wrong rank {given.text}", given.make, True)
    if kind < 60:
        bad = [d + choices.below(3) for d in shape]
        given = tensor(choices, element, bad)
        return Given(f"other sizes {given.text}", given.make, True)
    array = elements(choices, element, shape)
    name, make = choices.pick(_NO_TENSORS)
    return Given(f"wrong {name} of {element}{shape}", lambda side: make(side, array), True)


_NO_TENSORS: tuple[tuple[str, Callable[[Side, np.ndarray], Any]], ...] = (
    ("None", lambda side, a: None), ("tuple", lambda side, a: tuple(a.tolist()) if a.ndim else (1,)),
    ("int", lambda side, a: 3), ("float", lambda side, a: 1.5), ("numpy scalar", lambda side, a: np.float32(2)),
    ("bool", lambda side, a: True), ("str", lambda side, a: "abc"), ("bytes", lambda side, a: b"abc"),
    ("complex number", lambda side, a: 1j), ("decimal", lambda side, a: decimal.Decimal(1)),
    ("range", lambda side, a: range(3)), ("generator", lambda side, a: (i for i in (1, 2))),
    ("set", lambda side, a: {1}), ("dict", lambda side, a: {"a": 1.0}), ("ragged list", lambda side, a: [[1, 2], [3]]),
    ("list of dicts", lambda side, a: [{"a": 1.0}]), ("list of None", lambda side, a: [None]),
    ("list of texts", lambda side, a: [["a"]]), ("list of complex", lambda side, a: [1j]),
    ("list of tuples", lambda side, a: [tuple(row) for row in a.tolist()] if a.ndim > 1 else [(1,)]),
    ("array of objects", lambda side, a: a.astype(object)), ("array of texts", lambda side, a: a.astype(np.str_)),
    ("array of complex", lambda side, a: np.ones(a.shape, np.complex64)),
    ("array of long doubles", lambda side, a: np.ones(a.shape, np.longdouble)),
    ("array of times", lambda side, a: np.zeros(a.shape, "datetime64[s]")),
    ("array of durations", lambda side, a: np.zeros(a.shape, "timedelta64[s]")),
    ("records", lambda side, a: np.zeros(a.shape, [("a", np.float32), ("b", np.int32)])),
    ("memoryview", lambda side, a: memoryview(np.ones(3, np.float32))), ("bytearray", lambda side, a: bytearray(4)),
    ("type", lambda side, a: int), ("module", lambda side, a: np), ("function", lambda side, a: len),
    ("deque", lambda side, a: collections.deque([1.0])), ("object", lambda side, a: object()),
    ("OrtDevice", lambda side, a: side.api.OrtDevice.make("cpu", 0)),
    ("sparse tensor", lambda side, a: side.api.SparseTensor.sparse_coo_from_numpy(
        [2, 2], np.ones(1, np.float32), np.zeros(1, np.int64), side.api.OrtDevice.make("cpu", 0))),
    ("OrtValue of another type", lambda side, a: side.api.OrtValue.ortvalue_from_numpy(
        a.astype(np.int16) if a.dtype != np.int16 and a.dtype != object else np.ones(a.shape))),
)


# ---- values by type --------------------------------------------------------------------------------------------------

def given_for(choices: Choices, arg: Any, sizes: dict[str, int], wrong: bool) -> Given:
    """A value for an input, of which `arg` says name, type and shape."""
    kind, shape = arg.type, arg.shape
    if kind.startswith("optional("):
        if choices.chance(30):
            return Given("None", lambda side: None)
        return given_for(choices, types.SimpleNamespace(type=kind[9:-1], shape=["N", 3]), sizes, wrong)
    if kind.startswith("seq(tensor("):
        return _sequence(choices, kind[11:-2], wrong)
    if kind.startswith("map("):
        return _map(choices, wrong)
    element = kind[7:-1]
    any_rank = not shape and element == "float"
    fitting = shape_for(choices, shape, sizes, any_rank)
    if wrong:
        return _wrong_tensor(choices, element, fitting, any_rank or not shape)
    return tensor(choices, element, fitting)


def _sequence(choices: Choices, element: str, wrong: bool) -> Given:
    arrays = [elements(choices, element, [choices.pick(SHARED_SIZES), 3]) for _ in range(choices.below(4))]
    text = f"{[list(a.shape) for a in arrays]}"
    if wrong:
        name, make = choices.pick(_NO_SEQUENCES)
        return Given(f"wrong {name}", lambda side: make(arrays), True)
    name, layout = choices.pick(_LAYOUTS)
    return Given(f"list of {name}{text}", lambda side: [layout(a.copy()) for a in arrays])


_NO_SEQUENCES: tuple[tuple[str, Callable[[list[np.ndarray]], Any]], ...] = (
    ("tuple", tuple), ("array", lambda s: np.ones((2, 3), np.float32)), ("list of lists", lambda s: [[1.0, 2.0]]),
    ("list of numbers", lambda s: [1.0]), ("doubles", lambda s: [np.ones((1, 3))]), ("number", lambda s: 1.0),
    ("dict", lambda s: {"a": 1.0}), ("text", lambda s: "abc"), ("None in a list", lambda s: [None]),
    ("mixed list", lambda s: [np.ones((1, 3), np.float32), np.ones((1, 3))]), ("None", lambda s: None),
    ("generator", iter),
)


def _map(choices: Choices, wrong: bool) -> Given:
    if wrong:
        name, value = choices.pick(_NO_MAPS)
        return Given(f"wrong {name}", lambda side: value, True)
    keys = choices.some(["a", "b", "c", "d", ""])
    value = {k: choices.pick((1.0, 2, -0.5, True)) for k in keys}
    return Given(f"{value}", lambda side: dict(value))


_NO_MAPS: tuple[tuple[str, Any], ...] = (
    ("ints", {1: 1.0}), ("list of pairs", [("a", 1.0)]), ("texts", {"a": "b"}), ("list", [1.0]), ("None", None),
    ("array", np.ones(3, np.float32)), ("number", 1.0), ("mixed keys", {"a": 1.0, 2: 1.0}), ("no value", {"a": None}),
    ("empty list", []), ("list of dicts", [{"a": 1.0}]),
)

_MAPPINGS: tuple[tuple[str, Callable[[dict[str, Any]], Mapping[str, Any]]], ...] = (
    ("", dict), ("OrderedDict ", collections.OrderedDict), ("UserDict ", collections.UserDict),
    ("proxy ", types.MappingProxyType), ("ChainMap ", collections.ChainMap),
    ("numpy names ", lambda d: {np.str_(k): v for k, v in d.items()}),
    ("defaultdict ", lambda d: collections.defaultdict(list, d)),
)


def feed_for(choices: Choices, inputs: Sequence[Any], overridable: Sequence[Any]) -> Feed:
    """A feed: mostly a right one, at times with one mistake, seldom with more."""
    wish = (2 if choices.chance(15) else 1) if choices.chance(40) else 0
    sizes: dict[str, int] = {}
    args = [*inputs, *choices.some(overridable, 40)]
    wrong = {choices.below(len(args)) for _ in range(wish)} if args and choices.chance(75) else set()
    given = {arg.name: given_for(choices, arg, sizes, i in wrong) for i, arg in enumerate(args)}
    mistakes = sum(g.wrong for g in given.values())
    while mistakes < wish:
        mistakes += 1
        _mistake_of_names(choices, given)
    if choices.chance(20):
        given = dict(reversed(given.items()))
    name, mapping = choices.pick(_MAPPINGS) if choices.chance(25) else _MAPPINGS[0]
    text = f"{name}{{{', '.join(f'{k!r}: {g.text}' for k, g in given.items())}}}"
    return Feed(text, lambda side: mapping({k: g.make(side) for k, g in given.items()}), mistakes)


def _mistake_of_names(choices: Choices, given: dict[Any, Given]) -> None:
    kind = choices.below(4)
    if kind == 0 and given:
        del given[choices.pick(list(given))]
        return
    names = ("q", "", "X", 1, None, ("x",)) if kind == 1 else ("q",)
    one = np.ones(1, np.float32)
    value = choices.pick((Given("float[1]", lambda side: one), Given("None", lambda side: None),
                          Given("[1.0]", lambda side: [1.0])))
    given[choices.pick(names)] = value
