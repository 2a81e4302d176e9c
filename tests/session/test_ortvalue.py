"""`OrtValue` and its kin. Every row here also holds for ONNX Runtime itself, except where `ours` stands."""

from __future__ import annotations

import gc
import importlib

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.session import models

X = np.arange(6, dtype=np.float32).reshape(2, 3)
PLAIN = [np.float32, np.float64, np.float16, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32,
         np.uint64, np.bool_]
NARROW = ["int4", "uint4", "int2", "uint2", "float4_e2m1fn"]
#: carrier, ONNX number, text: types that NumPy has not, a byte or more wide.
WIDE = [(ml_dtypes.bfloat16, TensorProto.BFLOAT16, "bfloat16"),
        (ml_dtypes.float8_e4m3fn, TensorProto.FLOAT8E4M3FN, "float8e4m3fn"),
        (ml_dtypes.float8_e4m3fnuz, TensorProto.FLOAT8E4M3FNUZ, "float8e4m3fnuz"),
        (ml_dtypes.float8_e5m2, TensorProto.FLOAT8E5M2, "float8e5m2"),
        (ml_dtypes.float8_e5m2fnuz, TensorProto.FLOAT8E5M2FNUZ, "float8e5m2fnuz")]


def module_of(engine, path):
    return importlib.import_module(f"{engine.name}.{path}")


def make(engine, array, *device):
    return engine.api.OrtValue.ortvalue_from_numpy(array, *device)


# ---- from arrays -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", PLAIN, ids=lambda t: t.__name__)
def test_what_a_value_says_of_itself(engine, dtype):
    array = np.ones((2, 3), dtype)
    value = make(engine, array)
    text = {"float32": "float", "float64": "double"}.get(array.dtype.name, array.dtype.name)
    assert (value.shape(), value.data_type(), value.device_name()) == ([2, 3], f"tensor({text})", "cpu")
    assert value.element_type() == {"float": 1, "double": 11, "bool": 9}.get(
        text, getattr(TensorProto, text.upper(), None))
    assert value.tensor_size_in_bytes() == array.nbytes
    assert (value.is_tensor(), value.is_sparse_tensor(), value.is_tensor_sequence(), value.has_value()) == (
        True, False, False, True)
    np.testing.assert_array_equal(value.numpy(), array)


def test_a_contiguous_array_is_shared_and_kept_alive(engine):
    array = X.copy()
    value = make(engine, array)
    assert value.data_ptr() == array.ctypes.data
    array[0, 0] = 7
    assert value.numpy()[0, 0] == 7
    value.numpy()[1, 1] = 8
    assert array[1, 1] == 8
    del array
    gc.collect()
    np.testing.assert_array_equal(value.numpy(), [[7, 1, 2], [3, 8, 5]])


def test_the_array_of_a_value_outlives_it(engine):
    value = make(engine, X * 3)
    array = value.numpy()
    del value
    gc.collect()
    np.testing.assert_array_equal(array, X * 3)


@pytest.mark.parametrize("form", [lambda a: a[:, ::2], lambda a: a.T, lambda a: a[::-1],
                                  lambda a: np.broadcast_to(a[:1], (4, 3))], ids=["step", "turned", "back", "wide"])
def test_other_layouts_are_copied(engine, form):
    array = form(X.copy())
    value = make(engine, array)
    assert value.data_ptr() != array.ctypes.data
    np.testing.assert_array_equal(value.numpy(), array)


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (1, 1, 1, 1, 1, 1)])
def test_scalars_and_nothing(engine, shape):
    value = make(engine, np.ones(shape, np.int64))
    assert value.shape() == list(shape)
    assert value.numpy().shape == shape
    assert value.tensor_size_in_bytes() == 8 * int(np.prod(shape))


@pytest.mark.parametrize("given", [[1.0], (1.0,), 1.0, None, np.array([1, None], object), np.array([b"a"])],
                         ids=["list", "tuple", "number", "none", "objects", "bytes"])
def test_what_makes_no_value(engine, given):
    with pytest.raises((RuntimeError, TypeError)):
        make(engine, given)


def test_the_array_has_no_name(engine):
    with pytest.raises(TypeError):
        engine.api.OrtValue.ortvalue_from_numpy(numpy_obj=X)


def test_a_list_is_named(ours):
    with pytest.raises(RuntimeError, match="from numpy arrays, not from <class 'list'>"):
        make(ours, [1.0])
    with pytest.raises(RuntimeError, match=r"datetime64\[s\] makes no OrtValue"):
        make(ours, np.zeros(2, "M8[s]"))


def test_other_byte_orders_are_read_as_what_they_say(ours):
    value = make(ours, X.astype(">f4"))
    assert value.data_type() == "tensor(float)"
    np.testing.assert_array_equal(value.numpy(), X)


def test_read_only_memory_stays_read_only(ours):
    array = X.copy()
    array.flags.writeable = False
    value = make(ours, array)
    assert not value.numpy().flags.writeable
    with pytest.raises(RuntimeError, match="must not be written"):
        value.update_inplace(X)


def test_texts_make_values(ours):
    value = make(ours, np.array(["a", "bc"]))
    assert (value.data_type(), value.shape(), value.element_type()) == ("tensor(string)", [2], 8)
    assert value.is_tensor()
    assert value.numpy().tolist() == ["a", "bc"]
    with pytest.raises(RuntimeError):
        value.data_ptr()


@pytest.mark.parametrize("device", [("cuda", 0), ("cuda", 1)])
def test_a_device_that_is_not_here(engine, device):
    with pytest.raises(RuntimeError, match="Can't allocate memory on the"):
        make(engine, X, *device)
    with pytest.raises(RuntimeError, match="Can't allocate memory on the"):
        engine.api.OrtValue.ortvalue_from_shape_and_type([2], np.float32, *device)


def test_a_device_that_never_was(engine):
    with pytest.raises(Exception, match="Unsupported device type: abacus") as refused:
        make(engine, X, "abacus")
    assert type(refused.value) is Exception


def test_a_value_is_made_of_a_value(engine):
    value = make(engine, X)
    assert value._ortvalue.shape() == [2, 3]
    assert value._get_c_value().data_ptr() == value.data_ptr()
    with pytest.raises(ValueError, match="Provided ortvalue"):
        engine.api.OrtValue(X)


# ---- other element types ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("carrier", "number", "text"), WIDE, ids=[w[2] for w in WIDE])
def test_bits_under_another_type(engine, carrier, number, text):
    bits = X.astype(carrier).view(np.dtype(f"u{np.dtype(carrier).itemsize}"))
    value = engine.api.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, number)
    assert (value.data_type(), value.element_type(), value.shape()) == (f"tensor({text})", number, [2, 3])
    assert value.data_ptr() == bits.ctypes.data
    with pytest.raises(RuntimeError, match="Items size in the incoming array"):
        engine.api.OrtValue.ortvalue_from_numpy_with_onnx_type(X.astype(np.float64), number)


@pytest.mark.parametrize(("carrier", "number", "text"), WIDE, ids=[w[2] for w in WIDE])
def test_arrays_of_ml_dtypes_are_shared(ours, carrier, number, text):
    array = X.astype(carrier)
    value = make(ours, array)
    assert (value.data_type(), value.data_ptr()) == (f"tensor({text})", array.ctypes.data)
    assert value.numpy().dtype == carrier
    value.update_inplace((X * 2).astype(carrier))
    np.testing.assert_array_equal(array, (X * 2).astype(carrier))
    value.update_inplace(X.astype(carrier).view(np.dtype(f"u{array.itemsize}")))
    np.testing.assert_array_equal(array, X.astype(carrier))


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("shape", [(), (3,), (2, 5), (0, 4)])
def test_narrow_elements_are_packed(ours, name, shape):
    array = np.asarray(np.arange(np.prod(shape)) % 2).astype(getattr(ml_dtypes, name)).reshape(shape)
    value = make(ours, array)
    assert value.tensor_size_in_bytes() == -(-array.size * (2 if name.endswith("2") else 4) // 8)
    assert (value.numpy().dtype, value.shape()) == (array.dtype, list(shape))
    np.testing.assert_array_equal(value.numpy(), array)
    value.update_inplace(np.zeros_like(array))
    np.testing.assert_array_equal(value.numpy(), np.zeros_like(array))


@pytest.mark.parametrize("element", [np.float32, "float32", np.dtype("float32"), TensorProto.FLOAT])
@pytest.mark.parametrize("shape", [[2, 3], (2, 3), np.array([2, 3]).tolist(), [0], []])
def test_memory_of_a_shape(engine, shape, element):
    value = engine.api.OrtValue.ortvalue_from_shape_and_type(shape, element)
    assert (value.shape(), value.data_type(), value.numpy().dtype) == (list(shape), "tensor(float)", np.float32)
    value.numpy()[...] = 5
    assert (value.numpy() == 5).all()


def test_memory_for_packed_elements(engine):
    value = engine.api.OrtValue.ortvalue_from_shape_and_type([3], TensorProto.INT4)
    assert (value.data_type(), value.tensor_size_in_bytes()) == ("tensor(int4)", 2)


@pytest.mark.parametrize(("shape", "element"), [([2, -1], np.float32), ([2], 99), ([2], str),
                                                ([2], TensorProto.STRING)])
def test_memory_that_cannot_be(engine, shape, element):
    with pytest.raises(RuntimeError):
        engine.api.OrtValue.ortvalue_from_shape_and_type(shape, element)


# ---- writing ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("data", [X + 1, (X + 1).T.copy().T, np.asfortranarray(X + 1), (X + 1).reshape(3, 2)],
                         ids=["plain", "turned", "fortran", "reshaped"])
def test_elements_are_written_where_they_are(engine, data):
    array = X.copy()
    value = make(engine, array)
    before = value.data_ptr()
    value.update_inplace(data)
    assert value.data_ptr() == before
    np.testing.assert_array_equal(array.reshape(-1), np.ascontiguousarray(data).reshape(-1))
    value.update_inplace(make(engine, X))
    np.testing.assert_array_equal(array, X)


def test_what_cannot_be_written(engine):
    value = make(engine, X.copy())
    with pytest.raises(RuntimeError, match="does not match the size of the OrtValue"):
        value.update_inplace(X[0])
    for other in ([1.0] * 6, None, "abcdef"):
        with pytest.raises(TypeError):
            value.update_inplace(other)


def test_other_elements_are_not_written(ours):
    """ONNX Runtime writes their bits."""
    value = make(ours, X.copy())
    with pytest.raises(RuntimeError, match="elements of int32 cannot be written to an OrtValue of type"):
        value.update_inplace(X.astype(np.int32))


# ---- protocols -------------------------------------------------------------------------------------------------------

def test_numpy_takes_values(engine):
    value = make(engine, X.copy())
    np.testing.assert_array_equal(np.asarray(value), X)
    assert np.shares_memory(np.asarray(value), value.numpy())
    assert np.asarray(value, dtype=np.float64).dtype == np.float64
    assert not np.shares_memory(np.array(value, copy=True), value.numpy())


def test_capsules_and_what_is_none(engine):
    value = engine.api.OrtValue.from_dlpack(X.copy().__dlpack__())
    np.testing.assert_array_equal(value.numpy(), X)
    for other in (5, "x", None):
        with pytest.raises(TypeError):
            engine.api.OrtValue.from_dlpack(other)
    with pytest.raises(RuntimeError):
        engine.api.OrtValue.from_dlpack(np.ones((3, 4)).T)


def test_a_capsule_is_taken_once(engine):
    capsule = X.copy().__dlpack__()
    engine.api.OrtValue.from_dlpack(capsule)
    with pytest.raises(TypeError):
        engine.api.OrtValue.from_dlpack(capsule)


def test_packed_elements_do_not_go_out(ours):
    with pytest.raises(BufferError, match="packed"):
        make(ours, np.ones(3, ml_dtypes.int4)).__dlpack__()


def test_the_inner_value_gives_a_capsule(engine):
    capsule = make(engine, X.copy())._ortvalue.to_dlpack()
    np.testing.assert_array_equal(engine.api.OrtValue.from_dlpack(capsule).numpy(), X)


# ---- values that are no tensors --------------------------------------------------------------------------------------

def test_a_sequence_tells_its_types_and_nothing_else(engine):
    session = engine.session(models.model([models.node("SequenceConstruct", "x x", "s")], [models.value("x", [2, 3])],
                                          [helper.make_tensor_sequence_value_info("s", models.FLOAT, None)]))
    (value,) = session.run_with_ort_values(None, {"x": make(engine, X)})
    assert (value.data_type(), value.element_type()) == ("seq(tensor(float))", TensorProto.FLOAT)
    assert (value.is_tensor(), value.is_sparse_tensor(), value.is_tensor_sequence(), value.has_value()) == (
        False, False, True, True)
    for ask in (value.shape, value.device_name, value.data_ptr, value.tensor_size_in_bytes, value.numpy,
                value.__dlpack__, value.__dlpack_device__, lambda: value.update_inplace(X)):
        with pytest.raises((RuntimeError, ValueError)):
            ask()


def absent(engine):
    """An optional without a value."""
    optional = helper.make_optional_type_proto(helper.make_tensor_type_proto(models.FLOAT, [2]))
    model = models.model([models.node("Identity", "x", "y")], [helper.make_value_info("x", optional)],
                         [helper.make_value_info("y", optional)])
    return engine.session(model).run_with_ort_values(None, {})[0]


def test_an_absent_optional_has_no_value(engine):
    assert absent(engine).has_value() is False


def test_an_absent_optional_has_no_elements_either(ours):
    """ONNX Runtime crashes where it is asked for them."""
    value = absent(ours)
    assert value.data_type() == "optional(tensor(float))"
    for ask in (value.numpy, value.shape, value.data_ptr, value.device_name, value.__dlpack__):
        with pytest.raises(RuntimeError, match=r"an OrtValue of type optional\(tensor\(float\)\)"):
            ask()


# ---- sparse tensors --------------------------------------------------------------------------------------------------

@pytest.fixture
def cpu(engine):
    return engine.api.OrtDevice.make("cpu", 0)


@pytest.mark.parametrize("indices", [np.array([1, 5]), np.array([[0, 1], [1, 2]])], ids=["linear", "pairs"])
def test_coordinates(engine, cpu, indices):
    sparse = engine.api.SparseTensor.sparse_coo_from_numpy([3, 3], X[0, :2], indices, cpu)
    assert (sparse.dense_shape(), sparse.data_type(), sparse.device_name()) == ([3, 3], "sparse_tensor(float)", "cpu")
    assert sparse.format().name == "ORT_SPARSE_COO"
    np.testing.assert_array_equal(sparse.values(), X[0, :2])
    np.testing.assert_array_equal(sparse.as_coo_view().indices(), indices)
    with pytest.raises(RuntimeError):
        sparse.as_csrc_view()
    with pytest.raises(RuntimeError):
        sparse.to_cuda(cpu)


def test_rows(engine, cpu):
    sparse = engine.api.SparseTensor.sparse_csr_from_numpy(
        np.array([3, 3]), X[0, :2].copy(), np.array([1, 2]), np.array([0, 1, 1, 2]), cpu)
    assert sparse.format().name == "ORT_SPARSE_CSRC"
    np.testing.assert_array_equal(sparse.as_csrc_view().inner(), [1, 2])
    np.testing.assert_array_equal(sparse.as_csrc_view().outer(), [0, 1, 1, 2])
    with pytest.raises(RuntimeError):
        sparse.as_coo_view()
    with pytest.raises(RuntimeError):
        sparse.as_blocksparse_view()


def test_sparse_values(engine, cpu):
    sparse = engine.api.SparseTensor.sparse_coo_from_numpy([3, 3], X[0, :2].copy(), np.array([1, 5]), cpu)
    value = engine.api.OrtValue.ort_value_from_sparse_tensor(sparse)
    assert (value.is_sparse_tensor(), value.is_tensor(), value.data_type()) == (True, False, "sparse_tensor(float)")
    assert (value.shape(), value.element_type(), value.device_name()) == ([3, 3], 1, "cpu")
    np.testing.assert_array_equal(value.as_sparse_tensor().values(), X[0, :2])
    for ask in (value.numpy, value.data_ptr, value.tensor_size_in_bytes):
        with pytest.raises(RuntimeError):
            ask()
    with pytest.raises(RuntimeError):
        make(engine, X).as_sparse_tensor()


def test_indices_that_are_not_as_many_as_the_values(engine, cpu):
    with pytest.raises(RuntimeError, match="Index size: 3 must be equal to or twice the values size: 2"):
        engine.api.SparseTensor.sparse_coo_from_numpy([3, 3], X[0, :2].copy(), np.array([1, 2, 3]), cpu)


def test_pairs_one_behind_the_other(engine, cpu):
    tensor = engine.api.SparseTensor.sparse_coo_from_numpy([3, 3], X[0, :2].copy(), np.array([0, 1, 2, 2]), cpu)
    np.testing.assert_array_equal(tensor.as_coo_view().indices(), [[0, 1], [2, 2]])


@pytest.mark.parametrize("bad", [[1.0], None, 1.0])
def test_what_is_no_array_has_no_bits(engine, bad):
    with pytest.raises(TypeError):
        engine.api.OrtValue.ortvalue_from_numpy_with_onnx_type(bad, 1)
    with pytest.raises(TypeError):
        engine.api.OrtDevice.make(bad, 0)


def test_an_element_type_that_onnx_has_not(engine):
    with pytest.raises(RuntimeError, match=r"Numpy_type 13 can't be converted to MLDataType\."):
        engine.api.OrtValue.ortvalue_from_numpy(np.ones(2, np.longdouble))


def test_indices_outside_and_blocks(ours):
    cpu, make = ours.api.OrtDevice.make("cpu", 0), ours.api.SparseTensor
    with pytest.raises(RuntimeError, match="outside of its shape"):
        make.sparse_coo_from_numpy([3, 3], X[0, :2], np.array([1, 9]), cpu)
    with pytest.raises(RuntimeError, match="go up from 0"):
        make.sparse_csr_from_numpy([3, 3], X[0, :2], np.array([1, 2]), np.array([0, 2, 1, 2]), cpu)
    for bad, message in ((np.zeros(1, "M8[s]"), "no such element type"), ([1.0], "an array of one axis")):
        with pytest.raises(RuntimeError, match=message):
            make.sparse_coo_from_numpy([4], bad, np.zeros(1, np.int64), cpu)
    with pytest.raises(RuntimeError, match=r"blocks of shape \[\]"):
        make.sparse_block_from_numpy([4, 4], np.ones(()), np.zeros((2, 1), np.int32), cpu)
    blocks = make.sparse_block_from_numpy([4, 4], np.ones((2, 2, 2), np.float32), np.array([[0, 1], [1, 0]]), cpu)
    np.testing.assert_array_equal(blocks.as_blocksparse_view().indices(), [[0, 1], [1, 0]])


def test_elements_of_another_type_are_numbers_in_this_machines_byte_order(ours):
    make = ours.api.OrtValue.ortvalue_from_numpy_with_onnx_type
    np.testing.assert_array_equal(make(X.astype(X.dtype.newbyteorder()), TensorProto.FLOAT).numpy(), X)
    for texts in (np.array(["a"]), np.zeros(1, "M8[s]")):
        with pytest.raises(RuntimeError, match="numpy array of numbers"):
            make(texts, TensorProto.FLOAT if texts.itemsize == 4 else TensorProto.DOUBLE)


def test_texts_are_appended_by_no_address(ours):
    api = ours.api
    with pytest.raises(RuntimeError, match="texts lie at no address"):
        api.OrtValueVector().push_back_batch([X], [X.ctypes.data], [str], [X.shape], [api.OrtDevice.make("cpu", 0)])


def test_a_capsule_may_be_of_a_copy(ours):
    value = ours.api.OrtValue.ortvalue_from_numpy(np.zeros(4, np.float32))
    copy, shared = np.from_dlpack(value, copy=True), np.from_dlpack(value)
    value.update_inplace(np.ones(4, np.float32))
    assert not copy.any() and shared.all()


# ---- devices, lists --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("name", "kind", "vendor"), [
    ("cpu", 0, 0), ("cuda", 1, 0x10DE), ("gpu", 1, 0), ("npu", 3, 0), ("dml", 1, 0x1414), ("cann", 3, 0x19E5),
    ("webgpu", 1, 0)])
def test_devices(engine, name, kind, vendor):
    device = engine.api.OrtDevice.make(name, 2)
    assert (device.device_type(), device.device_id(), device.device_vendor_id(), device.device_mem_type()) == (
        kind, 2, vendor, 0)
    assert engine.api.OrtDevice.make("gpu", 0, 7).device_vendor_id() == 7


def test_an_unknown_device(engine):
    with pytest.raises(Exception, match="Unsupported device type: CPU"):
        engine.api.OrtDevice.make("CPU", 0)


def test_memory_infos(engine):
    api = engine.api
    info = api.OrtMemoryInfo("Cpu", api.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, api.OrtMemType.DEFAULT)
    assert (info.name, info.device_id, int(info.device_mem_type), info.device_vendor_id) == ("Cpu", 0, 0, 0)
    assert (info.allocator_type, info.mem_type) == (api.OrtAllocatorType.ORT_ARENA_ALLOCATOR, api.OrtMemType.DEFAULT)
    with pytest.raises(TypeError):
        api.OrtMemoryInfo("Cpu", 1, 0, 0)


def test_arena_settings(engine):
    make = engine.api.OrtArenaCfg
    four, named = make(5, 0, 3, 4), make({"max_mem": 5, "max_power_of_two_extend_bytes": 8})
    assert (four.max_mem, four.arena_extend_strategy, four.initial_chunk_size_bytes, four.max_dead_bytes_per_chunk,
            four.initial_growth_chunk_size_bytes) == (5, 0, 3, 4, -1)
    assert (named.max_mem, named.arena_extend_strategy, named.max_power_of_two_extend_bytes) == (5, -1, 8)
    with pytest.raises(RuntimeError, match="Invalid OrtArenaCfg option: size"):
        make({"size": 1})
    with pytest.raises(TypeError):
        make(1)


def test_lists_grow_by_values_capsules_and_addresses(engine):
    values = module_of(engine, "capi.onnxruntime_pybind11_state").OrtValueVector()
    values.reserve(4)
    values.push_back(make(engine, X.copy())._ortvalue)
    values.push_back(X.copy().__dlpack__(), False)
    values.push_back(np.array([1, 0], np.uint8).__dlpack__(), True)
    device = engine.api.OrtDevice.make("cpu", 0)
    values.push_back_batch([X], [X.ctypes.data], [np.float32], [X.shape],
                           [device if engine.name == "onnxc" else device._get_c_device()])
    values.shrink_to_fit()
    assert (len(values), list(values.bool_tensor_indices())) == (4, [2])
    assert [values.element_type_at(i) for i in range(4)] == [1, 1, 9, 1]
    assert [value.shape() for value in values] == [[2, 3], [2, 3], [2], [2, 3]]
    for i in (0, 1, 3):
        np.testing.assert_array_equal(values[i].numpy(), X)
    assert type(values.dlpack_at(1)).__name__ == "PyCapsule"
    assert len(values.to_dlpacks(None)) == 4
    with pytest.raises(IndexError):
        values[4]


def test_a_sparse_tensor_is_fed_inside_of_a_value_only(engine, cpu):
    sparse = engine.api.SparseTensor.sparse_coo_from_numpy([2, 3], X[0, :2].copy(), np.array([1, 5]), cpu)
    with pytest.raises(RuntimeError, match="Unable to handle object of type"):
        engine.session(models.sums()).run(None, {"x": sparse, "y": X})


def test_lists_of_values(engine):
    session = engine.session(models.sums())
    binding = session.io_binding()
    binding.bind_cpu_input("x", X)
    binding.bind_cpu_input("y", X)
    binding.bind_output("z")
    session.run_with_iobinding(binding)
    values = binding.get_outputs_as_ortvaluevector()
    assert (len(values), values.element_type_at(0), list(values.bool_tensor_indices())) == (1, 1, [])
    np.testing.assert_array_equal(values[0].numpy(), X + X)
    capsules = values.to_dlpacks(lambda capsule: capsule)
    assert [type(c).__name__ for c in capsules] == ["PyCapsule"]
