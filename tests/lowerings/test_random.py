"""Random numbers: their distributions, that runs differ, and what seeds make the same."""

from __future__ import annotations

import math

import numpy as np
import pytest
from onnx import TensorProto, helper

import onnxc
from onnxc.driver import compile_model
from onnxc.errors import OnnxcError
from tests.session import models
from tests.session.models import FLOAT, INT64, node, value

N = 100_000
DOUBLE, FLOAT16 = TensorProto.DOUBLE, TensorProto.FLOAT16


def session(op, inputs="", kind=FLOAT, output=FLOAT, dims=("N",), constants=(), opset=17, **attributes):
    made = models.model([node(op, inputs, "y", "draw", **attributes)],
                        [value(n, list(dims), kind) for n in inputs.split() if n == "x"], [value("y", None, output)],
                        constants)
    made.graph.node[0].input[:] = inputs.split()
    made.opset_import[0].version = opset
    return onnxc.InferenceSession(made.SerializeToString())


def normal_share(x):
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


def check(found, share, tolerance=0.01):
    """The distribution of what was found against the share of numbers that should be below: Kolmogorov and Smirnov's
    distance, whose 1e-9 quantile for a hundred thousand numbers is 0.0104."""
    ordered = np.sort(found.ravel().astype(np.float64))
    below = np.array([share(x) for x in ordered[::50]])
    assert np.abs(below - np.arange(0, len(ordered), 50) / len(ordered)).max() < tolerance


@pytest.mark.parametrize("kind", [FLOAT, DOUBLE, FLOAT16])
def test_normal_numbers(kind):
    found = session("RandomNormalLike", "x", kind, kind, mean=3.0, scale=2.0)
    x = np.zeros(N, helper.tensor_dtype_to_np_dtype(kind))
    first, second = (found.run(None, {"x": x})[0] for _ in range(2))
    for y in (first, second):
        assert y.dtype == x.dtype
        check((y.astype(np.float64) - 3) / 2, normal_share)
    assert abs(np.corrcoef(first.astype(np.float64), second.astype(np.float64))[0, 1]) < 0.02
    assert abs(np.corrcoef(first[1:].astype(np.float64), first[:-1].astype(np.float64))[0, 1]) < 0.02


@pytest.mark.parametrize("kind", [FLOAT, DOUBLE, FLOAT16])
def test_uniform_numbers(kind):
    y, = session("RandomUniform", output=kind, dtype=kind, shape=[100, N // 100], low=-1.0, high=3.0).run(None, {})
    assert y.shape == (100, N // 100)
    assert -1 <= y.min() < -0.9
    assert 2.9 < y.max() <= 3
    check((y.astype(np.float64) + 1) / 4, lambda x: x)


def test_the_element_type_that_is_asked_for():
    y, = session("RandomUniformLike", "x", INT64, DOUBLE, dtype=DOUBLE).run(None, {"x": np.zeros(5, np.int64)})
    assert y.dtype == np.float64
    assert len(np.unique(y)) == 5
    assert session("RandomNormal", shape=[0, 3]).run(None, {})[0].shape == (0, 3)


def test_a_seed_makes_sessions_the_same_and_runs_different():
    one, other = (session("RandomNormal", shape=[8], seed=2.5) for _ in range(2))
    runs = [[s.run(None, {})[0] for _ in range(3)] for s in (one, other)]
    np.testing.assert_array_equal(*runs)
    assert len(np.unique(runs[0])) == 24
    assert not np.array_equal(runs[0][0], session("RandomNormal", shape=[8], seed=3.5).run(None, {})[0])


def test_the_seed_of_the_process():
    found = session("RandomNormal", shape=[8])
    runs = []
    for _ in range(2):
        onnxc.set_seed(7)
        runs.append([found.run(None, {})[0] for _ in range(2)])
    np.testing.assert_array_equal(*runs)
    assert not np.array_equal(runs[0][0], runs[0][1])


def test_two_nodes_draw_different_numbers():
    made = models.model([node("RandomNormal", "", "a", shape=[8]), node("RandomNormal", "", "b", shape=[8]),
                         node("Sub", "a b", "y")], [], [value("y", [8])])
    for n in made.graph.node[:2]:
        n.input[:] = []
    assert (onnxc.InferenceSession(made.SerializeToString()).run(None, {})[0] != 0).all()


@pytest.mark.parametrize("kind", [FLOAT, DOUBLE])
def test_bernoulli(kind):
    found = session("Bernoulli", "x", kind, kind)
    x = np.repeat([0, 0.25, 1], N).astype(helper.tensor_dtype_to_np_dtype(kind))
    y = found.run(None, {"x": x})[0].reshape(3, N)
    assert set(np.unique(y)) == {0, 1}
    assert (y[0] == 0).all()
    assert (y[2] == 1).all()
    assert abs(y[1].mean() - 0.25) < 6 * math.sqrt(0.25 * 0.75 / N)
    typed = session("Bernoulli", "x", kind, TensorProto.BOOL, dtype=TensorProto.BOOL)
    assert typed.run(None, {"x": x})[0].dtype == np.bool_


def test_multinomial():
    chances = np.array([[0.1, 0.2, 0.7], [0.5, 0, 0.5]])
    with np.errstate(divide="ignore"):
        x = (np.log(chances) + 3).astype(np.float32)
    y, = session("Multinomial", "x", FLOAT, INT64, (2, 3), dtype=INT64, sample_size=N).run(None, {"x": x})
    assert y.shape == (2, N)
    for row, chance in zip(y, chances, strict=True):
        found = np.bincount(row, minlength=3) / N
        assert np.abs(found - chance).max() < 6 * math.sqrt(0.25 / N)
        assert found[chance == 0].sum() == 0


@pytest.mark.parametrize("known", [True, False])
def test_dropout_in_training(known):
    constants = [helper.make_tensor("r", FLOAT, [], [0.25])]
    inputs = [value("x", ["N"])]
    if known:
        constants.append(helper.make_tensor("t", TensorProto.BOOL, [], [True]))
    else:
        inputs.append(value("t", [], TensorProto.BOOL))
    made = models.model([node("Dropout", "x r t", "y m")], inputs,
                        [value("y", ["N"]), value("m", ["N"], TensorProto.BOOL)], constants)
    found = onnxc.InferenceSession(made.SerializeToString())
    x = np.arange(1, N + 1, dtype=np.float32)
    y, m = found.run(None, {"x": x, **({} if known else {"t": np.array(True)})})
    np.testing.assert_allclose(y, np.where(m, x / np.float32(0.75), 0), rtol=1e-6)
    assert abs(m.mean() - 0.75) < 6 * math.sqrt(0.25 * 0.75 / N)
    if not known:
        y, m = found.run(None, {"x": x, "t": np.array(False)})
        np.testing.assert_array_equal(y, x)
        assert m.all()


def test_numbers_are_drawn_in_native_code_and_once_for_each_run():
    """As voices of VITS use them: what is before and behind the numbers is one segment."""
    made = models.model([node("Exp", "x", "e"), node("RandomNormalLike", "e", "r", "draw"), node("Mul", "e r", "y")],
                        [value("x", ["N"])], [value("y", ["N"])])
    compiled = compile_model(made.SerializeToString())
    assert compiled.report["host_ops"] == ["ai.onnxc.RandomSeed (draw)"]
    assert len(compiled.host.compiled()) == 1
    assert not compiled.report["waits"]


def test_inside_of_a_loop_each_iteration_draws_its_own():
    body = helper.make_graph([node("RandomNormalLike", "a", "r", "draw"), node("Identity", "c", "go")], "body",
                             [value("i", [], INT64), value("c", [], TensorProto.BOOL)],
                             [value("go", [], TensorProto.BOOL), value("r", [4])])
    loop = node("Loop", "n", "y", "loop", body=body)
    loop.input[:] = ["n", ""]
    made = models.model([loop], [value("n", [], INT64), value("a", [4])], [value("y", [None, 4])])
    y, = onnxc.InferenceSession(made.SerializeToString()).run(None, {"n": np.array(3), "a": np.zeros(4, np.float32)})
    assert len(np.unique(y)) == 12


def test_integers_are_no_random_numbers():
    with pytest.raises(OnnxcError):
        session("RandomNormalLike", "x", INT64, INT64)
