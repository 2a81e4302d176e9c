"""Values known before a run: dims through arithmetic, constants of any type, and nothing that depends on data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxc.ir.builder import Builder
from onnxc.ir.core import Func, Module, Value
from onnxc.ir.dims import evaluate, sym
from onnxc.ir.types import BOOL, F32, I8, I32, I64, U8, Tensor
from onnxc.ops import load_all
from onnxc.ops.known import KnownValues

load_all()
N, M = sym("N"), sym("M")


@pytest.fixture
def b() -> Builder:
    module = Module()
    func = module.add(Func("main", [Tensor(I64, (2,))], ["x"]))
    return Builder(module, func.body)


def known(b: Builder, v: Value) -> Any:
    found = KnownValues(b.module).of(v)
    return None if found is None else found.tolist()


def dims(b: Builder, *values: Any) -> Value:
    return b.value("t.dims", values=values)


def test_arithmetic_of_dims(b: Builder) -> None:
    d = dims(b, N, M * 4, 6)
    for op, other, want in (("add", (1, 2, 3), [N + 1, M * 4 + 2, 9]), ("mul", (2, 3, 4), [N * 2, M * 12, 24]),
                            ("sub", (0, M, 1), [N, M * 3, 5]), ("div", (1, 4, 4), [N, M, 1]),
                            ("max", (0, 0, 9), [N, M * 4, 9]), ("min", (0, 0, 9), [0, 0, 6])):
        assert known(b, b.value(f"t.{op}", d, dims(b, *other))) == want, op


def test_division_truncates_and_by_zero_is_unknown(b: Builder) -> None:
    assert known(b, b.value("t.div", b.const(np.array([-7, 7])), b.const(np.array([2, -2])))) == [-3, -3]
    assert known(b, b.value("t.div", dims(b, N), b.const(np.array([0])))) is None
    (half,) = known(b, b.value("t.div", dims(b, N - 5), b.const(np.array([2]))))           # may be below zero
    assert [evaluate(half, {"N": n}) for n in (1, 2, 4, 5, 6, 8)] == [-2, -1, 0, 0, 0, 1]


def test_comparisons_hold_for_every_size_or_are_unknown(b: Builder) -> None:
    d = dims(b, N, M + 1)
    assert known(b, b.value("t.eq", d, b.const(np.array([-1, 0])))) == [False, False]
    assert known(b, b.value("t.ge", d, b.const(np.array([0, 1])))) == [True, True]
    assert known(b, b.value("t.lt", d, b.const(np.array([1, 1])))) is None
    chosen = b.value("t.select", b.value("t.eq", d, b.const(np.array([-1, -1]))), b.const(np.array([7, 7])), d)
    assert known(b, chosen) == [N, M + 1]


def test_moves_of_dims(b: Builder) -> None:
    d = dims(b, N, M, 3)
    picked = b.value("t.gather", d, b.const(np.array([-1, 0])), axis=0)
    assert known(b, picked) == [3, N]
    assert known(b, b.value("t.concat", d, picked, axis=0)) == [N, M, 3, 3, N]
    assert known(b, b.value("t.slice", d, starts=(2,), sizes=(3,), steps=(-1,))) == [3, M, N]
    assert known(b, b.value("t.reduce", d, kind="mul", axes=(0,))) == N * M * 3
    assert known(b, b.value("t.reshape", d, shape=(3, 1))) == [[N], [M], [3]]


def test_integers_wrap_in_their_type(b: Builder) -> None:
    top = b.const(np.array([2 ** 63 - 1]))
    assert known(b, b.value("t.add", top, b.const(np.array([1])))) == [-2 ** 63]
    assert known(b, b.value("t.cast", b.const(np.array([300, -1])), to=U8)) == [44, 255]
    assert known(b, b.value("t.cast", b.const(np.array([200])), to=I8)) == [-56]
    assert known(b, b.value("t.cast", dims(b, N), to=I32)) == [N]
    assert known(b, b.value("t.cast", dims(b, N), to=I8)) is None
    assert known(b, b.value("t.cast", dims(b, N + 1), to=BOOL)) == [True]


def test_constants_pass_through_floats(b: Builder) -> None:
    """Sizes computed from scales: floor(6 * 1.5)."""
    six = b.value("t.cast", dims(b, 6), to=F32)
    grown = b.value("t.floor", b.value("t.mul", six, b.const(np.array([1.5], np.float32))))
    assert known(b, b.value("t.cast", grown, to=I64)) == [9]
    array = KnownValues(b.module).array(grown)
    assert array is not None and array.dtype == np.float32 and array.tolist() == [9.0]
    symbolic = b.value("t.floor", b.value("t.cast", dims(b, N), to=F32))
    assert KnownValues(b.module).array(symbolic) is None


def test_data_and_large_tables_are_not_known(b: Builder) -> None:
    x = b.block.args[0]
    assert known(b, x) is None
    assert known(b, b.value("t.add", x, dims(b, N, M))) is None
    assert known(b, b.value("t.iota", shape=(5000,))) is None
    assert known(b, b.value("t.iota", shape=(2, 2), axis=1)) == [[0, 1], [0, 1]]


def test_an_index_out_of_range_is_left_to_the_run(b: Builder) -> None:
    assert known(b, b.value("t.gather", dims(b, N, M), b.const(np.array([5])), axis=0)) is None


def test_a_long_chain_does_not_recurse(b: Builder) -> None:
    v, one = dims(b, N), b.const(np.array([1]))
    for _ in range(20_000):
        v = b.value("t.add", v, one)
    assert known(b, v) == [N + 20_000]
