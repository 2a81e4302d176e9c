"""Index arithmetic of views against numpy: every element of a result lies where the functions say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxc.ir.dims import Bounds, Dim, DimLike, Shape, evaluate, sym
from onnxc.ir.registry import lookup
from onnxc.ops import load_all
from onnxc.passes.indexing import (
    Index,
    Where,
    broadcast_index,
    pad_index,
    reshape_index,
    slice_index,
    window_index,
)

load_all()
A, B = sym("A"), sym("B")


def check(x: np.ndarray, result: np.ndarray, sizes: dict[str, int], shape: Shape, fill: float,
          index_of: Callable[[Index, Bounds], tuple[Index, Where]]) -> None:
    """`index_of` maps axes of the result, whose dims are `shape`, to where its elements are in x."""
    axes: tuple[Dim, ...] = tuple(sym(f"i{k}") for k in range(len(shape)))
    positive = [str(d) for d in shape if isinstance(d, Dim) and d in (A, B)]
    bounds = Bounds({str(a): d - 1 for a, d in zip(axes, shape, strict=True)}, positive)
    at, where = index_of(axes, bounds)
    for point in np.ndindex(result.shape):
        env = {**sizes, **{str(a): p for a, p in zip(axes, point, strict=True)}}
        inside = all(evaluate(low, env) <= evaluate(e, env) < evaluate(high, env) for e, low, high in where)
        found = x[tuple(evaluate(d, env) for d in at)] if inside else fill
        assert found == result[point], f"{point}: {[str(d) for d in at]} where {where}"


def numbered(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(1, np.prod(shape, dtype=int) + 1).reshape(shape)


def meaning(name: str, x: np.ndarray, **attrs: object) -> np.ndarray:
    row = lookup(name)
    assert row is not None and row.ref is not None
    return row.ref(attrs, x)


@st.composite
def reshapes(draw: st.DrawFn) -> tuple[Shape, Shape]:
    """Two shapes of the same factors, symbols among them, perhaps in another order."""
    factors = draw(st.lists(st.sampled_from([2, 3, 1, A, B]), max_size=5))

    def grouped(items: list[DimLike]) -> Shape:
        out: list[DimLike] = []
        for d in items:
            if out and draw(st.booleans()):
                out[-1] = out[-1] * d
            else:
                out.append(d)
        return tuple(out)

    again = draw(st.permutations(factors)) if draw(st.booleans()) else factors
    return grouped(list(factors)), grouped(list(again))


@given(shapes=reshapes(), a=st.integers(1, 3), b=st.integers(1, 3), exists=st.booleans())
def test_reshape(shapes: tuple[Shape, Shape], a: int, b: int, exists: bool) -> None:
    old, new = shapes
    sizes = {"A": a, "B": b}
    x = numbered(tuple(evaluate(d, sizes) for d in old))
    result = x.reshape(tuple(evaluate(d, sizes) for d in new))
    check(x, result, sizes, new, 0, lambda i, bounds: (reshape_index(i, old, new, bounds, exists), ()))


def test_reshape_of_what_may_be_empty_divides_by_no_zero() -> None:
    index = reshape_index((sym("i"), sym("j")), (A, B), (B, A), Bounds({"i": 5, "j": 7}), exists=False)
    assert len([evaluate(d, {"A": 0, "B": 0, "i": 1, "j": 2}) for d in index]) == 2
    with pytest.raises(ZeroDivisionError):
        index = reshape_index((sym("i"), sym("j")), (A, B), (B, A), Bounds({"i": 5, "j": 7}))
        [evaluate(d, {"A": 0, "B": 0, "i": 1, "j": 2}) for d in index]


def test_a_reshape_there_and_back_leaves_the_index_alone() -> None:
    i, j, k = sym("i"), sym("j"), sym("k")
    bounds = Bounds({"i": A - 1, "j": 3, "k": 5}, ["A", "B"])
    middle = reshape_index((i, j, k), (A * 2, 12), (A, 4, 6), bounds)
    assert reshape_index(middle, (A, 4, 6), (A * 2, 12), bounds) == (i, j, k)


@given(have=st.lists(st.sampled_from([1, 3, A]), max_size=3), lead=st.lists(st.sampled_from([2, B]), max_size=2),
       a=st.integers(1, 3), widen=st.booleans())
def test_broadcast(have: list[DimLike], lead: list[DimLike], a: int, widen: bool) -> None:
    sizes = {"A": a, "B": 2, "C": 1 if widen else a}
    shape = tuple(d if d != A else sym("C") for d in have)            # a dim that is 1 or as wide as the result
    want = (*lead, *(2 if d == 1 else d for d in have))
    x = numbered(tuple(evaluate(d, sizes) for d in shape))
    result = np.broadcast_to(x, tuple(evaluate(d, sizes) for d in want))
    check(x, result, sizes, want, 0, lambda i, bounds: (broadcast_index(i, shape, want), ()))


@given(n=st.integers(1, 5), start=st.integers(0, 4), step=st.sampled_from([1, 2, -1, -2]), symbolic=st.booleans())
def test_slice(n: int, start: int, step: int, symbolic: bool) -> None:
    start = min(start, n - 1)
    size = (n - 1 - start) // step + 1 if step > 0 else start // -step + 1
    first: DimLike = A - (n - start) if symbolic else start
    attrs = {"starts": (first, 0), "sizes": (size, 2), "steps": (step, 1)}
    x = numbered((n, 2))
    result = meaning("t.slice", x, **{**attrs, "starts": (start, 0)})
    check(x, result, {"A": n}, (size, 2), 0, lambda i, bounds: (slice_index(i, attrs), ()))


@given(n=st.integers(1, 4), low=st.integers(-1, 9), high=st.integers(-1, 9), symbolic=st.booleans(),
       mode=st.sampled_from(["constant", "edge", "reflect", "wrap"]))
def test_pad(n: int, low: int, high: int, symbolic: bool, mode: str) -> None:
    if n + low + high < 0:
        return
    d: DimLike = A if symbolic else n
    x = numbered((n, 2))
    result = meaning("t.pad", x, low=(low, 0), high=(high, 0), mode=mode)
    attrs = {"low": (low, 0), "high": (high, 0), "mode": mode}
    check(x, result, {"A": n}, (d + low + high, 2), 0, lambda i, bounds: pad_index(i, (d, 2), attrs, bounds))


@pytest.mark.parametrize("mode", ["edge", "reflect", "wrap"])
def test_pad_is_numpys(mode: str) -> None:
    """Pads wider than what they repeat included."""
    for n in range(1, 5):
        for low in range(9):
            x = numbered((n,))
            np.testing.assert_array_equal(meaning("t.pad", x, low=(low,), high=(7,), mode=mode),
                                          np.pad(x, (low, 7), mode=mode))  # type: ignore[call-overload]


@pytest.mark.parametrize("mode", ["edge", "reflect", "wrap"])
def test_nothing_cannot_be_repeated(mode: str) -> None:
    with pytest.raises(ValueError, match="axis 0 has no elements to pad with"):
        meaning("t.pad", numbered((0, 2)), low=(1, 0), high=(0, 0), mode=mode)
    assert meaning("t.pad", numbered((0, 2)), low=(0, 1), high=(0, 0), mode=mode).shape == (0, 3)


@given(n=st.integers(1, 6), size=st.integers(1, 3), stride=st.integers(1, 3), dilation=st.integers(1, 3),
       low=st.integers(0, 3), out=st.integers(0, 4), symbolic=st.booleans())
def test_window(n: int, size: int, stride: int, dilation: int, low: int, out: int, symbolic: bool) -> None:
    d: DimLike = A if symbolic else n
    attrs = {"axes": (1,), "size": (size,), "stride": (stride,), "dilation": (dilation,), "low": (low,), "out": (out,),
             "fill": -1}
    x = numbered((2, n, 2))
    check(x, meaning("t.window", x, **attrs), {"A": n}, (2, out, size, 2), -1,
          lambda i, bounds: window_index(i, (2, d, 2), attrs, bounds))
