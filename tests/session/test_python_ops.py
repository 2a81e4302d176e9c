"""Operators in Python: host steps between native segments."""

from __future__ import annotations

import traceback

import numpy as np
import pytest
from onnx import TensorProto, helper

import onnxc
from onnxc import errors
from tests.session import models
from tests.session.models import node, value

DOMAIN = "com.example"
X = np.array([[3, 1, 2], [6, 5, 4]], np.float32)


@pytest.fixture
def register():
    names = []

    def add(name, fn, **more):
        onnxc.register_op(DOMAIN, name, fn, **more)
        names.append(name)

    yield add
    for name in names:
        onnxc.unregister_op(DOMAIN, name)


def own(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs.split(), outputs.split(), f"my_{op}", domain=DOMAIN, **attributes)


def session(nodes, inputs, outputs, constants=()):
    return onnxc.InferenceSession(made(nodes, inputs, outputs, constants).SerializeToString())


def made(nodes, inputs, outputs, constants=()):
    model = models.model(nodes, inputs, outputs, constants)
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return model


def around(op="Median", **attributes):
    """y = exp(op(-x))."""
    return session([node("Neg", "x", "h"), own(op, "h", "m", **attributes), node("Exp", "m", "y")],
                   [value("x", ["N", 3])], [value("y", None)])


def median(x, *, axis=-1):
    return np.median(x, axis).astype(x.dtype)


def test_a_function_runs_between_native_segments(register):
    register("Median", median)
    found = around(axis=1)
    np.testing.assert_allclose(found.run(None, {"x": X})[0], np.exp(np.array([-2, -5], np.float32)), rtol=1e-6)
    np.testing.assert_allclose(around(axis=0).run(None, {"x": X})[0], np.exp(-np.median(X, 0)), rtol=1e-6)
    assert found.report()["host_ops"] == ["com.example.Median (my_Median)"]
    assert found.statistics()["cache"] == "off"


def test_a_result_in_the_other_byte_order_is_what_it_says(register):
    register("Swapped", lambda x: x.astype(x.dtype.newbyteorder()))
    s = session([own("Swapped", "x", "h"), node("Add", "h h", "y")], [value("x", ["N", 3])], [value("y", ["N", 3])])
    np.testing.assert_array_equal(s.run(None, {"x": X})[0], X + X)


def test_what_is_behind_is_compiled_before_the_first_run_where_outputs_are_declared(register):
    seen = []

    def outputs(x, axis=-1):
        seen.append(x)
        return [(x.dtype, x.shape[:1])]

    register("Median", median, outputs=outputs)
    assert around(axis=1).statistics()["kernels"] == 2
    assert seen == [(np.float32, ("N", 3))]


def test_and_in_the_first_run_where_they_are_not(register):
    register("Median", median)
    found = around(axis=1)
    assert found.statistics()["kernels"] == 1
    for x in (X, X[:1]):
        np.testing.assert_allclose(found.run(None, {"x": x})[0], np.exp(-np.median(x, 1)), rtol=1e-6)


def test_element_types_and_ranks_may_vary_from_run_to_run(register):
    """One function, whose result is what the moment wants: what is behind is compiled for each form, once."""
    register("Any", lambda x: x.astype(np.float64) if len(x) == 1 else x.astype(np.int32)[0])
    found = session([own("Any", "x", "m"), node("Add", "m m", "t"), node("Cast", "t", "y", to=TensorProto.FLOAT)],
                    [value("x", ["N", 3])], [value("y", None)])
    for _ in range(2):
        np.testing.assert_array_equal(found.run(None, {"x": X[:1]})[0], 2 * X[:1])
        np.testing.assert_array_equal(found.run(None, {"x": X})[0], 2 * X[0])


def test_declared_sizes_are_sizes_of_native_code(register):
    """A convolution behind the operator: its channels are known, height and width are not."""
    register("Decode", lambda x, *, channels: np.tile(x, (channels, 1, 1))[None],
             outputs=lambda x, channels: [(x.dtype, (1, channels, *x.shape))])
    weights = np.arange(2 * 3 * 3 * 3, dtype=np.float32).reshape(2, 3, 3, 3)
    found = session([own("Decode", "x", "h", channels=3), node("Conv", "h w", "y")],
                    [value("x", ["H", "W"])], [value("y", [1, 2, None, None])],
                    [helper.make_tensor("w", TensorProto.FLOAT, weights.shape, weights.ravel())])
    x = np.arange(20, dtype=np.float32).reshape(4, 5)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3))
    np.testing.assert_array_equal(found.run(None, {"x": x})[0][0], np.einsum("ijab,ocab->oij", windows, weights))


def test_several_outputs_inputs_left_out_and_texts(register):
    def words(x, y=None, *, suffix):
        assert y is None
        return np.array([f"{v:g}{suffix}" for v in x]), np.array(len(x))

    register("Words", words, outputs=[str, (np.int64, [])])
    found = session([own("Words", "x", "t n", suffix="!"), node("Neg", "n", "m")], [value("x", ["N"])],
                    [value("t", ["N"], TensorProto.STRING), value("m", [], TensorProto.INT64)])
    t, m = found.run(None, {"x": np.array([1, 2.5], np.float32)})
    assert t.tolist() == ["1!", "2.5!"]
    assert m == -2


def test_tensors_and_lists_are_attributes(register):
    register("Look", lambda x, *, table, names: table[x] + len(names), outputs=["float"])
    table = helper.make_tensor("", TensorProto.FLOAT, [2], [10, 20])
    found = session([own("Look", "x", "y", table=table, names=["a", "b"])], [value("x", ["N"], TensorProto.INT64)],
                    [value("y", ["N"])])
    np.testing.assert_array_equal(found.run(None, {"x": np.array([1, 0])})[0], np.array([22, 12], np.float32))


def test_inside_of_a_loop(register):
    register("Twice", lambda x: 2 * x)
    body = helper.make_graph([own("Twice", "a", "b"), node("Add", "b one", "d"), node("Identity", "c", "go")], "body",
                             [value("i", [], TensorProto.INT64), value("c", [], TensorProto.BOOL), value("a", [3])],
                             [value("go", [], TensorProto.BOOL), value("d", [3])],
                             [helper.make_tensor("one", TensorProto.FLOAT, [], [1.0])])
    loop = node("Loop", "n", "y", "loop", body=body)
    loop.input[:] = ["n", "", "x"]
    found = session([loop], [value("n", [], TensorProto.INT64), value("x", [3])], [value("y", [3])])
    np.testing.assert_array_equal(found.run(None, {"n": np.array(3), "x": X[0]})[0], 8 * X[0] + 7)
    assert len(found.report()["host_ops"]) == 2


def test_inputs_are_not_written_and_results_are_the_callers(register):
    def same(x):
        with pytest.raises(ValueError, match="read-only"):
            x[0] = 1
        return x

    register("Same", same)
    found = session([own("Same", "x", "y")], [value("x", ["N", 3])], [value("y", ["N", 3])])
    y, = found.run(None, {"x": X})
    y += 1
    assert X[0, 0] == 3


def test_an_exception_arrives_with_its_traceback(register):
    def fails(x):
        raise KeyError("nothing here")

    register("Fails", fails)
    with pytest.raises(errors.RuntimeException, match=r"running com.example.Fails node. Name:'my_Fails'.*nothing "
                                                      "here") as caught:
        around("Fails").run(None, {"x": X})
    assert isinstance(caught.value.__cause__, KeyError)
    assert traceback.extract_tb(caught.value.__cause__.__traceback__)[-1].name == "fails"


@pytest.mark.parametrize(("fn", "outputs", "message"), [
    (lambda x: x.astype(np.float64), [np.float32], r"result 0 is of type f64\[2, 3\]; .* to give f32 of any shape"),
    (lambda x: x, [(np.float32, ["N", 4])], r"f32\[2, 3\]; .* to give f32 \['any', 4\]"),
    (lambda x: (), None, "gives 0 results; the node has 1 outputs"),
    (lambda x: np.array([object()]), None, "object, which ONNX has no type for"),
    (lambda x: np.array(["a"]), None, "texts would enter native code"),
    (lambda x: np.array(["2020-01-01"], "datetime64[D]"), None, "datetime64.*ONNX has no type for"),
], ids=["type", "shape", "too few", "objects", "texts", "dates"])
def test_results_that_are_not_what_they_should_be(register, fn, outputs, message):
    register("Wrong", fn, outputs=outputs)
    with pytest.raises(errors.OnnxcError, match=message):
        around("Wrong").run(None, {"x": X})


def test_an_output_of_the_model_that_is_of_another_type(register):
    register("Wide", lambda x: x.astype(np.float64))
    found = session([own("Wide", "x", "y")], [value("x", ["N", 3])], [value("y", ["N", 3])])
    with pytest.raises(errors.InvalidArgument, match=r"Output 'y' is an array of float64; the model declares tensor"):
        found.run(None, {"x": X})


@pytest.mark.parametrize(("fn", "outputs", "message"), [
    (lambda x: x, None, "cannot be called.*unexpected keyword argument 'axis'"),
    (lambda x, y, *, axis: x, None, "cannot be called.*missing a required argument: 'y'"),
    (median, lambda x, axis: x.no_such, "`outputs` fails: AttributeError"),
    (median, lambda x, axis: [], "speaks of 0 results; the node has 1"),
    (median, lambda x, axis: ["no type"], "'no type' does not say what an output is"),
    (median, lambda x, axis: [str], "takes it for f32.*as a list"),
], ids=["attribute", "input", "fails", "none", "no type", "texts"])
def test_what_cannot_be_called_is_refused_when_the_model_is_opened(register, fn, outputs, message):
    register("Median", fn, outputs=outputs)
    with pytest.raises(errors.UnsupportedModel, match=f"my_Median.*{message}"):
        around(axis=1)


def test_what_register_op_refuses(register):
    register("Median", median)
    with pytest.raises(errors.InvalidArgument, match="has a meaning already"):
        onnxc.register_op(DOMAIN, "Median", median)
    with pytest.raises(errors.InvalidArgument, match="does not say what an output is"):
        onnxc.register_op(DOMAIN, "Other", median, outputs=[(np.float32, [-1])])
    for given in ({}, {"fn": median, "lowering": median}, {"fn": 3}, {"lowering": median, "outputs": [np.float32]}):
        with pytest.raises(TypeError):
            onnxc.register_op(DOMAIN, "Other", **given)


def test_a_session_keeps_its_functions():
    onnxc.register_op(DOMAIN, "Median", median)
    found = around(axis=1)
    onnxc.unregister_op(DOMAIN, "Median")
    np.testing.assert_allclose(found.run(None, {"x": X})[0], np.exp(-np.median(X, 1)), rtol=1e-6)


def test_an_artifact_opens_where_the_operator_is_registered(tmp_path):
    path = tmp_path / "m.onnxc"
    model = made([own("Median", "x", "m", axis=1), node("Exp", "m", "y")], [value("x", ["N", 3])], [value("y", ["N"])])
    onnxc.register_op(DOMAIN, "Median", median, outputs=lambda x, axis: [(x.dtype, x.shape[:1])])
    try:
        onnxc.compile(model.SerializeToString(), path)
        found, = onnxc.InferenceSession(path).run(None, {"x": X})
        np.testing.assert_allclose(found, np.exp(np.median(X, 1)), rtol=1e-6)
    finally:
        onnxc.unregister_op(DOMAIN, "Median")
    with pytest.raises(errors.NotImplemented, match=r"'my_Median'.*onnxc.register_op\('com.example', 'Median', func"):
        onnxc.InferenceSession(path)


def test_an_artifact_needs_to_know_what_an_operator_gives(register, tmp_path):
    register("Median", median)
    model = made([own("Median", "x", "m", axis=1), node("Exp", "m", "y")], [value("x", ["N", 3])], [value("y", ["N"])])
    with pytest.raises(errors.NotImplemented, match="the ranks of m.*`outputs` of onnxc.register_op"):
        onnxc.compile(model.SerializeToString(), tmp_path / "m.onnxc")


@pytest.mark.parametrize(("result", "said"), [
    (None, "of type NoneType"), ([X], "of type list"), ({"a": 1.0}, "of type dict"),
    (X.astype(np.float64), "an array of float64")], ids=["none", "list", "dict", "doubles"])
def test_an_output_of_the_model_is_what_the_model_declares(register, result, said):
    register("Odd", lambda x: result)
    found = session([own("Odd", "x", "y")], [value("x", ["N", 3])], [value("y", ["N", 3])])
    with pytest.raises(errors.InvalidArgument, match=rf"Output 'y' is {said}; the model declares tensor\(float\)"):
        found.run(None, {"x": X})
