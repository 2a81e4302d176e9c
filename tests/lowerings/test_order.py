"""The largest and smallest elements, in each way of running, against stable sorting; bits as other types."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from onnxc.errors import InvalidArgument
from tests.lowerings.ways import Ways

NAN, INF = float("nan"), float("inf")
ONNX_NAMES = {"float32": "float", "float64": "double", "float16": "float16", "int64": "int64", "int32": "int32",
              "uint8": "uint8", "uint64": "uint64", "int8": "int8", "uint32": "uint32"}


def top(x: np.ndarray, k: int, axis: int, largest: bool) -> list[np.ndarray]:
    """By a stable sort of (rank of the value, position): numpy ranks NaN last."""
    _, rank = np.unique(x, return_inverse=True, equal_nan=True)
    rank = rank.reshape(x.shape)
    order = np.argsort(-rank if largest else rank, axis=axis, kind="stable")
    at = np.take(order, np.arange(k), axis)
    return [np.take_along_axis(x, at, axis), at]


def check_natively(ways: Ways, x: np.ndarray, wanted: list[np.ndarray]) -> None:
    """For rows that take long on numpy."""
    for found, want in zip(ways.natively(x), wanted, strict=True):
        np.testing.assert_array_equal(found, want)


@functools.cache
def model(k: int, axis: int, largest: int, dtype: str, rank: int = 2) -> Ways:
    t, dims = ONNX_NAMES[dtype], "ABCD"[:rank]
    out = ", ".join(f"O{c}" for c in dims)
    return Ways(f"({t}[{', '.join(dims)}] x) => ({t}[{out}] v, int64[{out}] i) "
                f"{{ v, i = TopK<axis = {axis}, largest = {largest}>(x, k) }}", k=np.array([k]))


@pytest.mark.parametrize("largest", [1, 0])
@pytest.mark.parametrize(("shape", "k", "axis"), [
    ((4, 37), 5, -1), ((37, 4), 5, 0), ((1, 1), 1, 1), ((3, 90), 90, 1), ((0, 7), 3, 1), ((5, 0), 0, 1),
    ((2, 70), 1, 1), ((100, 3), 2, -1)])
def test_against_a_stable_sort(shape: tuple[int, int], k: int, axis: int, largest: int) -> None:
    """Small integers as floats, so that many are equal; infinities, NaN, and zeros of both signs."""
    random = np.random.default_rng(1)
    x = random.integers(-6, 7, shape).astype(np.float32)
    for special in (NAN, INF, -INF, -0.0):
        x = np.where(random.random(shape) < 0.07, np.float32(special), x)
    model(k, axis, largest, "float32").check([x], top(x, k, axis, bool(largest)))


@pytest.mark.parametrize("largest", [1, 0])
@pytest.mark.parametrize(("shape", "k", "axis"), [
    ((2, 1000), 50, 1), ((2, 300), 300, 1), ((130, 3), 70, 0), ((2, 150, 2), 150, 1), ((3, 0), 0, 1), ((2, 65), 0, 1)])
def test_many_of_long_rows(shape: tuple[int, int], k: int, axis: int, largest: int) -> None:
    """Rows of different numbers, of few, of one, and rows that rise: all of it, or little, can be among the first."""
    random = np.random.default_rng(3)
    plain = random.standard_normal(shape).astype(np.float32)
    few = np.where(random.random(shape) < 0.1, np.float32(NAN), random.integers(-2, 2, shape).astype(np.float32))
    for x in (plain, few, np.full(shape, -1.5, np.float32), np.sort(plain, axis)):
        check_natively(model(k, axis, largest, "float32", len(shape)), x, top(x, k, axis, bool(largest)))


def test_a_million_of_which_the_last_are_the_largest() -> None:
    x = np.sort(np.random.default_rng(4).standard_normal((1, 1_000_000)).astype(np.float32))
    check_natively(model(100, 1, 1, "float32"), x, top(x, 100, 1, True))


@pytest.mark.parametrize("dtype", ["float64", "float16", "int64", "int32", "uint8", "int8", "uint32", "uint64"])
def test_element_types_of_every_bit_pattern(dtype: str) -> None:
    """Each digit of the keys decides somewhere."""
    x = np.random.default_rng(5).integers(0, 256, (2, 90 * np.dtype(dtype).itemsize), np.uint8).view(dtype)
    for largest in (1, 0):
        check_natively(model(60, 1, largest, dtype), x, top(x, 60, 1, bool(largest)))


@pytest.mark.parametrize("dtype", ["float64", "float16", "int64", "int32", "uint8", "int8", "uint32", "uint64"])
@pytest.mark.parametrize("largest", [1, 0])
def test_element_types_to_their_limits(dtype: str, largest: int) -> None:
    info = np.finfo(dtype) if dtype.startswith("float") else np.iinfo(dtype)
    x = np.array([[3, info.min, info.max, 0, info.min, 7, info.max, 1]], dtype)
    model(8, 1, largest, dtype).check([x], top(x, 8, 1, bool(largest)))


def test_of_rank_one() -> None:
    x = np.array([3, 1, 3, 2], np.float32)
    model(3, 0, 1, "float32", rank=1).check([x], [np.array([3, 3, 2], np.float32), np.array([0, 2, 3])])


def test_more_than_there_are_is_an_error() -> None:
    with pytest.raises(InvalidArgument, match="K is larger than axis 1"):
        model(5, -1, 1, "float32").natively(np.zeros((2, 4), np.float32))


def test_all_of_a_symbolic_axis() -> None:
    sort = Ways("(float[A, B] x) => (float[A, B] v, int64[A, B] i) "
                "{ s = Shape<start = 1>(x)  y = Neg(x)  v, i = TopK(y, s) }")
    for shape in ((3, 9), (1, 1), (2, 0)):
        x = np.random.default_rng(2).integers(-3, 3, shape).astype(np.float32)
        sort.check([x], top(-x, shape[1], 1, True))


@pytest.mark.parametrize(("source", "target", "number"), [("float32", "int32", 6), ("int64", "float64", 11),
                                                          ("float16", "int16", 5), ("uint32", "float32", 1)])
def test_bits_as_another_type(source: str, target: str, number: int) -> None:
    x = np.array([1, 0, 5, 100], source)
    names = {**ONNX_NAMES, "int16": "int16"}
    cast = Ways(f"({names[source]}[N] x) => ({names[target]}[N] y) {{ y = BitCast<to = {number}>(x) }}")
    cast.check([x], [x.view(target)])
