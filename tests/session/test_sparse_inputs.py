"""Inputs that are sparse tensors: OrtValues hold them, native code reads the dense ones. Run on both engines."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.session import models

DENSE = np.array([[0, 1, 0, 0], [0, 0, 0, 0], [2, 0, 0, 3]], np.float32)
Y = np.arange(8, dtype=np.float32).reshape(4, 2)


def product(element=TensorProto.FLOAT, **attributes):
    """z = s @ y with a sparse s: [3, 4]."""
    made = helper.make_node("SparseToDenseMatMul", ["s", "y"], ["z"], "it", domain="com.microsoft", **attributes)
    kind = helper.make_sparse_tensor_type_proto(element, [3, 4])
    model = models.model([made], [helper.make_value_info("s", kind), models.value("y", [None, None], element)],
                         [models.value("z", None, element)])
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def sparse(engine, form="coo", dense=DENSE):
    """The dense tensor as an OrtValue of a sparse one."""
    make, cpu = engine.api.SparseTensor, engine.api.OrtDevice.make("cpu", 0)
    rows, columns = map(np.ascontiguousarray, np.nonzero(dense))
    values = dense[rows, columns]
    if form == "coo":
        tensor = make.sparse_coo_from_numpy(dense.shape, values, np.stack([rows, columns], 1), cpu)
    else:
        begins = np.searchsorted(rows, np.arange(len(dense) + 1))
        tensor = make.sparse_csr_from_numpy(dense.shape, values, columns, begins.astype(np.int64), cpu)
    return engine.api.OrtValue.ort_value_from_sparse_tensor(tensor)


@pytest.fixture(scope="module")
def session(engine):
    return engine.session(product())


@pytest.mark.parametrize("form", ["coo", "csr"])
def test_every_way_of_running(engine, session, form):
    s, y = sparse(engine, form), engine.api.OrtValue.ortvalue_from_numpy(Y)
    np.testing.assert_array_equal(session.run(None, {"s": s, "y": Y})[0], DENSE @ Y)
    np.testing.assert_array_equal(session.run_with_ort_values(None, {"s": s, "y": y})[0].numpy(), DENSE @ Y)
    binding = session.io_binding()
    binding.bind_ortvalue_input("s", s)
    binding.bind_cpu_input("y", Y)
    binding.bind_output("z")
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(binding.copy_outputs_to_cpu()[0], DENSE @ Y)


def test_what_is_said_of_it(session):
    assert [(i.type, i.shape) for i in session.get_inputs()] == [("sparse_tensor(float)", [3, 4]),
                                                                 ("tensor(float)", [None, None])]


def test_turned_and_scaled(engine):
    session = engine.session(product(transA=1, transB=1, alpha=2.0))
    y = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(session.run(None, {"s": sparse(engine), "y": y})[0], 2 * (DENSE.T @ y.T))


def test_nothing_but_zeros(engine, session):
    (z,) = session.run(None, {"s": sparse(engine, dense=np.zeros_like(DENSE)), "y": Y})
    np.testing.assert_array_equal(z, np.zeros((3, 2), np.float32))


@pytest.mark.parametrize(("dense", "text"), [
    (np.eye(3, 5, dtype=np.float32), "Got invalid dimensions for input: s for the following indices\n index: 1 Got: "),
    (DENSE.astype(np.float64), r"Actual: \(sparse_tensor\(double\)\) , expected: \(sparse_tensor\(float\)\)"),
], ids=["size", "type"])
def test_one_that_does_not_fit(engine, session, dense, text):
    with pytest.raises(engine.errors.InvalidArgument, match=text):
        session.run(None, {"s": sparse(engine, dense=dense), "y": Y})


def test_a_dense_one(engine, session):
    with pytest.raises(engine.errors.InvalidArgument, match="input with name: 's' expected to be of type"):
        session.run(None, {"s": DENSE, "y": Y})
    with pytest.raises(RuntimeError):
        session.run(None, {"s": DENSE.tolist(), "y": Y})


def test_linear_places_and_artifacts(ours, tmp_path):
    """ONNX Runtime's operator takes pairs of places only."""
    ours.api.compile(product().SerializeToString(), tmp_path / "m.onnxc")
    session = ours.api.InferenceSession(tmp_path / "m.onnxc")
    tensor = ours.api.SparseTensor.sparse_coo_from_numpy(
        [3, 4], np.array([1, 2, 3], np.float32), np.array([1, 8, 11]), ours.api.OrtDevice.make("cpu", 0))
    value = ours.api.OrtValue.ort_value_from_sparse_tensor(tensor)
    np.testing.assert_array_equal(session.run(None, {"s": value, "y": Y})[0], DENSE @ Y)


def test_outputs_are_dense(ours):
    model = product()
    model.graph.output[0].type.CopyFrom(helper.make_sparse_tensor_type_proto(TensorProto.FLOAT, [3, 2]))
    with pytest.raises(ours.errors.NotImplemented, match="sparse_tensor_type, which onnxc does not implement"):
        ours.session(model)
