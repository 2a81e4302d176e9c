"""Operators of one's own: lowerings that are registered compile like those that are there."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import onnxc
from onnxc.errors import Fail, InvalidArgument, NotImplemented, UnsupportedModel
from tests.session import models

DOMAIN = "com.example"
X = np.array([[-1, 0, 2]], np.float32)


def scaled(b, x, *, scale=1.0):
    return b.map("mul", b.map("max", x, b.scalar(0, x)), b.scalar(scale, x))


@pytest.fixture
def register():
    names = []

    def add(name, fn):
        onnxc.register_op(DOMAIN, name, lowering=fn)
        names.append(name)

    yield add
    for name in names:
        onnxc.unregister_op(DOMAIN, name)


def uses(op: str, inputs: str = "h", outputs: str = "y", **attributes) -> onnx.ModelProto:
    """y = op(-x)."""
    custom = helper.make_node(op, inputs.split(), outputs.split(), f"custom_{op}", domain=DOMAIN, **attributes)
    model = models.model([models.node("Neg", "x", "h"), custom], [models.value("x", ["N", 3])],
                         [models.value(name, ["N", 3]) for name in outputs.split()])
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return model


def session(model):
    return onnxc.InferenceSession(model.SerializeToString())


def test_a_lowering_is_compiled_and_fused(register):
    register("Scaled", scaled)
    found = session(uses("Scaled", scale=3.0))
    np.testing.assert_array_equal(found.run(None, {"x": X})[0], np.maximum(-X, 0) * 3)
    assert found.statistics()["kernels"] == 1
    assert found.statistics()["host_ops"] == 0
    np.testing.assert_array_equal(session(uses("Scaled")).run(None, {"x": X})[0], np.maximum(-X, 0))


def test_several_inputs_and_outputs(register):
    def both(b, x, y=None):
        return b.map("add", x, x if y is None else y), b.map("neg", x)

    register("Both", both)
    first, second = session(uses("Both", "h x", "y z")).run(None, {"x": X})
    np.testing.assert_array_equal(first, np.zeros_like(X))
    np.testing.assert_array_equal(second, X)
    np.testing.assert_array_equal(session(uses("Both", "h", "y z")).run(None, {"x": X})[0], -X - X)


def test_what_a_lowering_refuses_names_the_node(register):
    def never(b, x):
        b.refuse("it was asked to")

    register("Never", never)
    with pytest.raises(UnsupportedModel, match=r"custom_Never.*it was asked to"):
        session(uses("Never"))
    with pytest.raises(UnsupportedModel, match="attribute 'scale' is not known"):
        session(uses("Never", scale=1.0))


def test_an_artifact_has_the_operator_in_it(tmp_path):
    onnxc.register_op(DOMAIN, "Scaled", lowering=scaled)
    try:
        onnxc.compile(uses("Scaled", scale=2.0).SerializeToString(), tmp_path / "m.onnxc")
    finally:
        onnxc.unregister_op(DOMAIN, "Scaled")
    y, = onnxc.InferenceSession(tmp_path / "m.onnxc").run(None, {"x": X})
    np.testing.assert_array_equal(y, np.maximum(-X, 0) * 2)


def test_the_cache_is_left_alone_meanwhile(register, tmp_path, monkeypatch):
    from onnxc.runtime import cache
    monkeypatch.setattr(cache, "open_cache", lambda: cache.CompileCache(tmp_path, 1 << 30))
    register("Scaled", scaled)
    assert session(uses("Scaled")).statistics()["cache"] == "off"


def test_nothing_is_redefined(register):
    register("Scaled", scaled)
    with pytest.raises(InvalidArgument, match="has a meaning already"):
        onnxc.register_op(DOMAIN, "Scaled", lowering=scaled)
    with pytest.raises(InvalidArgument, match="has a meaning already"):
        onnxc.register_op("com.microsoft", "FastGelu", lowering=scaled)


@pytest.mark.parametrize(("domain", "name"), [("", "Relu"), ("ai.onnx", "Mine"), ("com example", "Mine"),
                                              (DOMAIN, "not a name"), (DOMAIN, "")])
def test_names_that_cannot_be(domain, name):
    with pytest.raises(InvalidArgument):
        onnxc.register_op(domain, name, lowering=scaled)


def test_other_types_are_refused():
    with pytest.raises(TypeError):
        onnxc.register_op(DOMAIN, "Mine", lowering="no function")
    with pytest.raises(TypeError):
        onnxc.register_op(None, "Mine", lowering=scaled)


def test_without_registration_the_operator_is_not_known():
    onnxc.register_op(DOMAIN, "Scaled", lowering=scaled)
    onnxc.unregister_op(DOMAIN, "Scaled")
    with pytest.raises(Fail, match="com.example:Scaled"):
        session(uses("Scaled"))
    with pytest.raises(InvalidArgument):
        onnxc.unregister_op(DOMAIN, "Scaled")


def test_libraries_of_another_runtime_are_refused(tmp_path):
    (tmp_path / "libcustom.so").touch()
    with pytest.raises(NotImplemented, match="register_op"):
        onnxc.SessionOptions().register_custom_ops_library(str(tmp_path / "libcustom.so"))


def test_the_example(capsys):
    path = Path(__file__).parents[1] / "examples" / "custom_op.py"
    try:
        runpy.run_path(str(path), run_name="__main__")
    finally:
        onnxc.unregister_op("com.example", "ScaledRelu")
    assert "[0. 0. 3. 6.]" in capsys.readouterr().out
