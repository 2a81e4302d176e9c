"""Scatters in each way of running: against plain loops, many updates of one element, bad indices, none."""

from __future__ import annotations

import functools
import itertools

import ml_dtypes
import numpy as np
import pytest

from onnxc.errors import InvalidArgument
from tests.lowerings.models import lowered
from tests.lowerings.ways import Ways

FOLD = {"none": lambda a, b: b, "add": lambda a, b: a + b, "mul": lambda a, b: a * b, "max": max, "min": min}
ONNX_NAMES = {"float32": "float", "float64": "double", "float16": "float16", "bfloat16": "bfloat16", "int64": "int64",
              "int32": "int32", "uint8": "uint8"}
NARROW = ("float16", "bfloat16")


def dtype_named(name: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, name) if name == "bfloat16" else name)


def scatter_elements(data: np.ndarray, at: np.ndarray, updates: np.ndarray, axis: int, reduction: str) -> np.ndarray:
    out = data.astype(np.float64 if data.dtype.name in NARROW else data.dtype)
    for place in np.ndindex(*at.shape):
        target = list(place)
        target[axis] = at[place]
        out[tuple(target)] = FOLD[reduction](out[tuple(target)], updates[place].astype(out.dtype))
    return out.astype(data.dtype)


def scatter_nd(data: np.ndarray, at: np.ndarray, updates: np.ndarray, reduction: str) -> np.ndarray:
    out = data.copy()
    for place in np.ndindex(*at.shape[:-1]):
        target = tuple(at[place])
        for inner in np.ndindex(*out.shape[len(target):]):
            out[(*target, *inner)] = FOLD[reduction](out[(*target, *inner)], updates[(*place, *inner)])
    return out


@functools.cache
def elements(reduction: str, axis: int, dtype: str, index: str = "int64") -> Ways:
    t = ONNX_NAMES[dtype]
    return Ways(f"({t}[A, B] x, {index}[C, D] i, {t}[C, D] u) => ({t}[A, B] y) "
                f'{{ y = ScatterElements<axis = {axis}, reduction = "{reduction}">(x, i, u) }}')


@pytest.mark.parametrize(("reduction", "axis"), list(itertools.product(FOLD, (0, -1))))
def test_elements_along_an_axis(reduction: str, axis: int) -> None:
    """With a reduction, indices repeat and every update counts; without one, an element has one update at most."""
    random = np.random.default_rng(1)
    for shape, count in (((5, 7), (4, 3)), ((1, 40), (1, 40)), ((33, 2), (20, 2)), ((3, 3), (0, 2)), ((0, 3), (0, 0))):
        count = count if reduction != "none" else tuple(map(min, shape, count))
        data, updates = (random.integers(-4, 5, s).astype(np.float32) for s in (shape, count))
        n = shape[axis]
        at = random.integers(-n, max(n, 1), count) if reduction != "none" else \
            np.array(np.broadcast_to(np.arange(count[axis]).reshape((-1, 1) if axis == 0 else (1, -1)), count)) - n
        elements(reduction, axis, "float32").check(
            [data, at, updates], [scatter_elements(data, at, updates, axis, reduction)])


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "int64", "uint8"])
def test_every_update_of_one_element_is_added(dtype: str) -> None:
    """Small floats are summed wide: 300 times 1 is 300, though in bf16 the sum would stay at 256."""
    data = np.zeros((1, 3), dtype_named(dtype))
    at, updates = np.full((1, 300), 1), np.ones((1, 300), data.dtype)
    wanted = data.copy()
    wanted[0, 1] = 300 % 256 if dtype == "uint8" else 300
    elements("add", 1, dtype, "int64").check([data, at, updates], [wanted])


def test_an_index_of_four_bytes() -> None:
    data, at = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([[2, -1]], np.int32)
    updates = np.array([[10, 20]], np.float32)
    elements("add", 1, "float32", "int32").check([data, at, updates], [scatter_elements(data, at, updates, 1, "add")])


def test_max_keeps_a_nan() -> None:
    data, at = np.zeros((1, 3), np.float32), np.array([[0, 0, 1]])
    updates = np.array([[np.nan, 5, 2]], np.float32)
    elements("max", 1, "float32").check([data, at, updates], [np.array([[np.nan, 2, 0]], np.float32)])


def test_the_data_may_be_computed_and_used_again() -> None:
    model = Ways("(float[N] x, int64[K] i, float[K] u) => (float[N] y, float[N] z) "
                 "{ a = Relu(x)  v = Neg(u)  j = Identity(i) "
                 'y = ScatterElements<axis = 0, reduction = "add">(a, j, v) '
                 "z = Add(y, a) }")
    x, u = np.array([-1, 2, 3, -4], np.float32), np.array([1, 2, 3], np.float32)
    y = np.array([0, 2 - 1 - 2, 3, 0 - 3], np.float32)
    model.check([x, np.array([1, 1, -1]), u], [y, y + np.maximum(x, 0)])


@pytest.mark.parametrize("bad", [3, -4, 2**40])
def test_an_index_out_of_range_is_an_error(bad: int) -> None:
    data, updates = np.zeros((2, 3), np.float32), np.ones((1, 2), np.float32)
    elements("add", 1, "float32").check_fails([data, np.array([[0, bad]]), updates], "out of range")


@pytest.mark.parametrize("reduction", FOLD)
def test_tuples(reduction: str) -> None:
    random = np.random.default_rng(2)
    model = Ways("(float[A, B, C] x, int64[K, 2] i, float[K, C] u) => (float[A, B, C] y) "
                 f'{{ y = ScatterND<reduction = "{reduction}">(x, i, u) }}')
    for a, b, c, k in ((3, 4, 5, 6), (1, 1, 19, 3), (2, 2, 0, 3), (2, 3, 4, 0)):
        data, updates = (random.integers(-4, 5, s).astype(np.float32) for s in ((a, b, c), (k, c)))
        flat = random.integers(0, a * b, k) if reduction != "none" else random.permutation(a * b)[:k]
        at = np.stack([flat // b - a, flat % b], -1)
        updates = updates[:len(flat)]
        model.check([data, at, updates], [scatter_nd(data, at, updates, reduction)])
    one = np.ones((1, 1), np.float32)
    model.check_fails([np.zeros((2, 2, 1), np.float32), np.array([[0, 2]]), one], "out of range")


def test_updates_that_do_not_fit_the_indices_are_an_error() -> None:
    model = Ways("(float[A] x, int64[K] i, float[L] u) => (float[A] y) { y = ScatterElements(x, i, u) }")
    data, at = np.zeros(3, np.float32), np.array([0, 2])
    model.check([data, at, np.ones(2, np.float32)], [np.array([1, 0, 1], np.float32)])
    with pytest.raises(InvalidArgument, match="does not fit the indices"):
        model.natively(data, at, np.ones(3, np.float32))


@pytest.mark.parametrize("mode", ["linear", "circular"])
def test_a_cache_is_written_behind_what_it_holds(mode: str) -> None:
    model = Ways("(float[B, H, S, D] cache, float[B, H, T, D] new, int64[B] at) => (float[B, H, S, D] y) "
                 f'{{ y = TensorScatter<mode = "{mode}">(cache, new, at) }}')
    random = np.random.default_rng(3)
    cache, new = random.random((2, 3, 8, 4), np.float32), random.random((2, 3, 3, 4), np.float32)
    start = np.array([5, 0]) if mode == "linear" else np.array([6, 1])
    wanted = cache.copy()
    for b, t in itertools.product(range(2), range(3)):
        wanted[b, :, (start[b] + t) % 8] = new[b, :, t]
    model.check([cache, new, start], [wanted])
    if mode == "linear":
        model.check_fails([cache, new, np.array([6, 0])], "out of range")


@pytest.mark.parametrize("put", ["ScatterElements(s, one, four)", "ScatterND(s, pair, four)"])
def test_shapes_are_followed_through_a_scatter(put: str) -> None:
    """What torch exports for `shape[1] = 4`: the other dims stay symbols."""
    model = lowered(f"(float[A, 1, B] x) => (float[A, 4, B] y) {{ s = Shape(x)  t = {put}  y = Expand(x, t) }}",
                    one=np.array([1]), pair=np.array([[1]]), four=np.array([4]))
    assert model.types == ["f32[A, 4, B]"]
    assert model(np.ones((2, 1, 3), np.float32)).shape == (2, 4, 3)
