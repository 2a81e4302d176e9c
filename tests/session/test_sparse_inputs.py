"""Inputs that are sparse tensors: OrtValues hold them. Run on both engines."""

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
    with pytest.raises(ours.errors.Fail, match=r"Type \(sparse_tensor\(float\)\) of output arg \(z\)"):
        ours.session(model)


def of_places(engine, shape, values, places):
    tensor = engine.api.SparseTensor.sparse_coo_from_numpy(shape, np.asarray(values), np.asarray(places),
                                                           engine.api.OrtDevice.make("cpu", 0))
    return engine.api.OrtValue.ort_value_from_sparse_tensor(tensor)


def test_what_is_not_there_multiplies_nothing(engine, session):
    """Not even NaN and infinity."""
    y = Y.copy()
    y[2] = np.nan, np.inf
    np.testing.assert_array_equal(session.run(None, {"s": sparse(engine), "y": y})[0], DENSE @ Y)
    y[3, 0] = np.nan
    (z,) = session.run(None, {"s": sparse(engine), "y": y})
    assert np.isnan(z).tolist() == [[False, False], [False, False], [True, False]]


def test_a_place_may_come_twice(engine, session):
    s = of_places(engine, [3, 4], np.array([1, 2, 4], np.float32), np.array([[0, 1], [0, 1], [2, 0]]))
    expected = np.zeros((3, 2), np.float32)
    expected[0], expected[2] = 3 * Y[1], 4 * Y[0]
    np.testing.assert_array_equal(session.run(None, {"s": s, "y": Y})[0], expected)


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.int64, np.uint32, np.uint64], ids=lambda t: t.__name__)
def test_every_element_type(engine, dtype):
    session = engine.session(product(helper.np_dtype_to_tensor_dtype(np.dtype(dtype))))
    (z,) = session.run(None, {"s": sparse(engine, dense=DENSE.astype(dtype)), "y": Y.astype(dtype)})
    assert z.dtype == dtype
    np.testing.assert_array_equal(z, (DENSE @ Y).astype(dtype))


@pytest.mark.parametrize("shape", [("M", "K"), ("M", 4), None], ids=str)
def test_open_sizes(engine, shape):
    model = product()
    model.graph.input[0].type.CopyFrom(helper.make_sparse_tensor_type_proto(TensorProto.FLOAT, shape))
    session = engine.session(model)
    assert session.get_inputs()[0].shape == list(shape or ())
    for rows in (1, 3, 200):
        dense = np.zeros((rows, 4), np.float32)
        dense[rows // 2, 3], dense[0, 1] = 5, 2
        np.testing.assert_array_equal(session.run(None, {"s": sparse(engine, dense=dense), "y": Y})[0], dense @ Y)


def test_a_large_one_takes_no_more_memory_than_it_holds(ours):
    """All its elements would be 4 TiB."""
    model = product()
    model.graph.input[0].type.CopyFrom(helper.make_sparse_tensor_type_proto(TensorProto.FLOAT, ["M", "K"]))
    size = 1 << 20
    places = np.array([[0, size - 1], [size - 1, 0], [size - 1, 5]])
    y = np.arange(size, dtype=np.float32).reshape(-1, 1)
    (z,) = ours.session(model).run(None, {"s": of_places(ours, [size, size], np.ones(3, np.float32), places), "y": y})
    assert (z[0, 0], z[-1, 0], np.count_nonzero(z)) == (size - 1, 5, 2)


def test_sizes_that_differ_and_blocks(ours):
    model = product()
    model.graph.input[0].type.CopyFrom(helper.make_sparse_tensor_type_proto(TensorProto.FLOAT, ["M", "K"]))
    session = ours.session(model)
    with pytest.raises(ours.errors.InvalidArgument, match="inner dims of a matrix product differ"):
        session.run(None, {"s": sparse(ours), "y": Y[:3]})
    cpu = ours.api.OrtDevice.make("cpu", 0)
    blocks = ours.api.SparseTensor.sparse_block_from_numpy([4, 4], np.ones((2, 2, 2), np.float32),
                                                           np.array([[0, 1], [1, 0]]), cpu)
    with pytest.raises(ours.errors.InvalidArgument, match="tensor of blocks"):
        session.run(None, {"s": ours.api.OrtValue.ort_value_from_sparse_tensor(blocks), "y": Y})


def test_two_products_of_one(ours):
    """And a native operator behind them."""
    model = product()
    model.graph.node.append(helper.make_node("SparseToDenseMatMul", ["s", "y"], ["w"], "again", domain="com.microsoft",
                                             alpha=-2.0))
    model.graph.node.append(models.node("Add", "z w", "sum"))
    model.graph.output.append(models.value("sum", None))
    z, total = ours.session(model).run(None, {"s": sparse(ours), "y": Y})
    np.testing.assert_array_equal(total, -z)
