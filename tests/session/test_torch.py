"""Values and torch: tensors go both ways without a copy. Rows with `engine` also hold for ONNX Runtime itself."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from onnx import TensorProto

from tests.session import models

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def make(engine, array):
    return engine.api.OrtValue.ortvalue_from_numpy(array)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int8, np.int16, np.int32, np.int64,
                                   np.uint8, np.uint16, np.uint32, np.uint64], ids=lambda t: t.__name__)
def test_torch_takes_values_without_a_copy(engine, dtype):
    value = make(engine, np.ones((2, 3), dtype))
    assert value.__dlpack_device__() == (1, 0)
    tensor = torch.from_dlpack(value)
    assert (tensor.data_ptr(), tuple(tensor.shape)) == (value.data_ptr(), (2, 3))
    tensor[0, 0] = 0
    assert value.numpy()[0, 0] == 0
    del value
    gc.collect()
    assert tensor.sum().item() == 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.int8, torch.int16, torch.int32,
                                   torch.int64, torch.uint8, torch.bfloat16], ids=str)
def test_values_take_torch_without_a_copy(engine, dtype):
    tensor = torch.ones((2, 3)).to(dtype)
    value = engine.api.OrtValue.from_dlpack(tensor)
    assert (value.data_ptr(), value.shape()) == (tensor.data_ptr(), [2, 3])
    again = torch.from_dlpack(value)
    assert (again.dtype, again.data_ptr()) == (dtype, tensor.data_ptr())
    del tensor, value
    gc.collect()
    assert again.sum().item() == 6


def test_bool_goes_out_as_bytes_and_comes_back_as_bool(engine):
    value = make(engine, np.array([True, False]))
    assert torch.from_dlpack(value).dtype == torch.uint8
    assert engine.api.OrtValue.from_dlpack(value).data_type() == "tensor(bool)"
    assert engine.api.OrtValue.from_dlpack(value.__dlpack__()).data_type() == "tensor(uint8)"


@pytest.mark.parametrize("dtype", [torch.bool, torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_more_types_of_torch(ours, dtype):
    tensor = torch.tensor([0.0, 1.0]).to(dtype)
    value = ours.api.OrtValue.from_dlpack(tensor)
    assert value.data_ptr() == tensor.data_ptr()
    assert value.data_type() == {torch.bool: "tensor(bool)", torch.complex64: "tensor(complex64)",
                                 torch.float8_e4m3fn: "tensor(float8e4m3fn)",
                                 torch.float8_e5m2: "tensor(float8e5m2)"}[dtype]


def test_values_of_bfloat16_go_in_and_out(engine):
    """The way in and out of Python that ONNX Runtime has for them."""
    session = engine.session(models.model(
        [models.node("Cast", "x", "h", to=TensorProto.FLOAT), models.node("Add", "h h", "s"),
         models.node("Cast", "s", "y", to=TensorProto.BFLOAT16)],
        [models.value("x", ["N"], TensorProto.BFLOAT16)], [models.value("y", ["N"], TensorProto.BFLOAT16)]))
    x = torch.tensor([1.0, 2.5, -3.0], dtype=torch.bfloat16)
    (y,) = session.run_with_ort_values(None, {"x": engine.api.OrtValue.from_dlpack(x)})
    assert y.data_type() == "tensor(bfloat16)"
    assert torch.equal(torch.from_dlpack(y), x + x)


def test_shapes_and_addresses_of_tensors_are_bound(engine):
    session = engine.session(models.sums())
    binding, x, z = session.io_binding(), torch.from_numpy(X.copy()), torch.empty(2, 3)
    for name in "xy":
        binding.bind_input(name, "cpu", 0, np.float32, x.size(), x.data_ptr())
    binding.bind_output("z", "cpu", 0, np.float32, z.size(), z.data_ptr())
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(z.numpy(), X + X)


def test_vectors_give_tensors(engine):
    session = engine.session(models.sums())
    binding = session.io_binding()
    for name in "xy":
        binding.bind_cpu_input(name, X)
    binding.bind_output("z")
    session.run_with_iobinding(binding)
    (tensor,) = binding.get_outputs_as_ortvaluevector().to_dlpacks(torch.utils.dlpack.from_dlpack)
    np.testing.assert_array_equal(tensor.numpy(), X + X)
