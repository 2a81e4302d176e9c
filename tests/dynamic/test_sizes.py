"""Shapes whose dims are computed from data: Range, ConstantOfShape, Expand, Tile, Reshape, Slice, Split, TopK."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import pytest

import onnxc
from onnxc.errors import InvalidArgument
from tests.dynamic.check import check, model, node

F, I64 = np.float32, np.int64


def one(op: str, inputs: str, types: Mapping[str, tuple[type, Sequence[int | str]]], constants: Mapping[str,
    object] | None = None,
        **attributes: object) -> onnx.ModelProto:
    """y = op(inputs), and z = y + y, which needs memory of its own."""
    return model([node(op, inputs, "y", **attributes), node("Add", "y y", "z")], types, ["z", "y"], constants)


def ints(*values: int) -> np.ndarray:
    return np.array(values, I64)


def test_range() -> None:
    scalars = {k: (I64, []) for k in ("a", "b", "d")}
    m = one("Range", "a b d", scalars)
    check(m, [{"a": np.asarray(a), "b": np.asarray(b), "d": np.asarray(d)}
              for a, b, d in ((0, 7, 2), (0, 8, 2), (5, -4, -3), (3, 3, 1), (4, 0, 1), (-2, 70000, 1))])


def test_range_of_floats() -> None:
    m = one("Range", "a b d", {k: (F, []) for k in ("a", "b", "d")})
    check(m, [{"a": np.asarray(a, F), "b": np.asarray(b, F), "d": np.asarray(d, F)}
              for a, b, d in ((0, 1, 0.25), (1, 0, -0.3), (0, -1, 0.5))], tolerance=1e-6)


def test_constant_of_shape_expand_and_tile() -> None:
    value = onnx.numpy_helper.from_array(np.array([3], F))
    check(one("ConstantOfShape", "s", {"s": (I64, [2])}, value=value), [{"s": ints(2, 3)}, {"s": ints(0, 5)},
                                                                      {"s": ints(40, 50)}])
    x = np.arange(3, dtype=F)
    check(one("Expand", "x s", {"x": (F, [3]), "s": (I64, [2])}), [{"x": x, "s": ints(2, 3)}, {"x": x, "s": ints(4,
        1)}])
    check(one("Tile", "x s", {"x": (F, ["N"]), "s": (I64, [1])}), [{"x": x, "s": ints(4)}, {"x": x[:2], "s": ints(0)}])


@pytest.mark.parametrize("wanted", [(2, 6), (-1, 3), (0, -1), (12, 1), (4, 0)])
def test_reshape(wanted: tuple[int, int]) -> None:
    m = one("Reshape", "x s", {"x": (F, ["N", 3]), "s": (I64, [2])})
    check(m, [{"x": np.arange(12, dtype=F).reshape(4, 3), "s": ints(*wanted)}])


@pytest.mark.parametrize("step", [1, 2, -1, -3])
def test_slice(step: int) -> None:
    m = one("Slice", "x a b axes steps", {"x": (F, ["N", 2]), "a": (I64, [1]), "b": (I64, [1])}, {"axes": ints(0),
        "steps": ints(step)})
    x = np.arange(14, dtype=F).reshape(7, 2)
    check(m, [{"x": x[:n], "a": ints(a), "b": ints(b)} for n in (7, 1, 0) for a in (-9, -2, 0, 3, 9) for b in (-9, -1,
        0, 4, 99)])


def test_split_and_topk() -> None:
    m = model([node("Split", "x s", "a b", axis=0), node("Neg", "a", "c")], {"x": (F, ["N"]), "s": (I64, [2])}, ["c",
        "b"])
    check(m, [{"x": np.arange(5, dtype=F), "s": ints(k, 5 - k)} for k in (0, 2, 5)])
    m = model([node("TopK", "x k", "v i")], {"x": (F, ["N", 6]), "k": (I64, [1])}, ["v", "i"])
    x = np.random.default_rng(0).standard_normal((3, 6), F)
    check(m, [{"x": x, "k": ints(k)} for k in (1, 6, 4)])


def test_what_does_not_fit_is_an_error() -> None:
    session = onnxc.InferenceSession(one("Reshape", "x s", {"x": (F, [6]), "s": (I64, [2])}).SerializeToString())
    assert session.run(["y"], {"x": np.zeros(6, F), "s": ints(2, 3)})[0].shape == (2, 3)
    for wrong in (ints(2, 4), ints(-2, -3)):
        with pytest.raises(InvalidArgument, match="Reshape_y"):
            session.run(None, {"x": np.zeros(6, F), "s": wrong})
    session = onnxc.InferenceSession(one("ConstantOfShape", "s", {"s": (I64, [2])}).SerializeToString())
    for wrong in (ints(-1, 2), ints(1 << 40, 1 << 40), ints(1 << 30, 1 << 31)):
        with pytest.raises(InvalidArgument):
            session.run(None, {"s": wrong})
    assert session.run(None, {"s": ints(1, 2)})[1].tolist() == [[0, 0]]


def test_memory_from_the_heap_is_given_back() -> None:
    """Runs in several threads, each with sizes of its own, some of which fail in the middle."""
    m = model([node("Range", "zero n one", "r"), node("Gather", "r i", "g"), node("Add", "r g", "y")],
              {"n": (I64, []), "i": (I64, [])}, ["y"], {"zero": np.asarray(0), "one": np.asarray(1)})
    session = onnxc.InferenceSession(m.SerializeToString())
    wrong: list[int] = []

    def work(k: int) -> None:
        for n in range(k + 1, 4000, 257):
            try:
                y = session.run(None, {"n": np.asarray(n), "i": np.asarray(300)})[0]
            except InvalidArgument:
                if n > 300:
                    wrong.append(n)
                continue
            if n <= 300 or not np.array_equal(y, np.arange(n) + 300):
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
