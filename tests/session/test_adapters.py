"""Adapters: files of parameters for runs. Every row holds for ONNX Runtime itself, except where `ours` stands."""

from __future__ import annotations

import gc
import threading

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto

import onnxc
from tests.session import models

X = np.arange(6, dtype=np.float32).reshape(2, 3)
W = np.array([5, 6, 7], np.float32)


def value_of(engine, array):
    return engine.api.OrtValue.ortvalue_from_numpy(array)


def content_of(engine, **arrays):
    content = engine.api.AdapterFormat()
    content.set_parameters({name: value_of(engine, array) for name, array in arrays.items()})
    return content


@pytest.fixture
def path(engine, tmp_path):
    """An adapter that has w."""
    content_of(engine, w=W).export_adapter(str(tmp_path / "a.onnx_adapter"))
    return str(tmp_path / "a.onnx_adapter")


_LOADED = []        # ONNX Runtime's options do not keep their adapters alive


def with_adapter(engine, path):
    adapter, options = engine.api.LoraAdapter(), engine.api.RunOptions()
    _LOADED.append(adapter)
    assert adapter.Load(path) is None
    assert options.add_active_adapter(adapter) is None
    return options


def test_an_empty_adapter(engine):
    content = engine.api.AdapterFormat()
    assert (content.get_format_version(), content.get_adapter_version(), content.get_model_version()) == (1, 0, 0)
    assert content.get_parameters() == {}


def test_what_is_written_is_read(engine, tmp_path):
    arrays = {"a": X, "b": np.array([7], np.int64), "c": np.ones((1, 3), np.float16), "d": np.array([1, 2], np.uint8)}
    content = content_of(engine, **arrays)
    content.set_adapter_version(3)
    content.set_model_version(4)
    content.export_adapter(str(tmp_path / "a"))
    read = engine.api.AdapterFormat.read_adapter(str(tmp_path / "a"))
    assert (read.get_format_version(), read.get_adapter_version(), read.get_model_version()) == (1, 3, 4)
    assert read.get_parameters().keys() == arrays.keys()
    for name, value in read.get_parameters().items():
        assert value.numpy().dtype == arrays[name].dtype
        np.testing.assert_array_equal(value.numpy(), arrays[name])
    read.set_adapter_version(9)
    read.set_parameters({})
    assert (read.get_adapter_version(), read.get_parameters()) == (9, {})


def test_scalars_nothing_and_truths_are_parameters_too(ours, tmp_path):
    """ONNX Runtime writes them and does not read them."""
    content_of(ours, scalar=np.array(7, np.int64), nothing=np.zeros((0, 3), np.float16),
               truth=np.array([True, False])).export_adapter(tmp_path / "a")
    read = ours.api.AdapterFormat.read_adapter(tmp_path / "a").get_parameters()
    assert (read["scalar"].numpy().item(), read["nothing"].shape()) == (7, [0, 3])
    assert read["truth"].numpy().tolist() == [True, False]


def test_types_that_numpy_has_not(engine, tmp_path):
    bits = np.array([1, 2, 3], ml_dtypes.bfloat16).view(np.uint16)
    content = engine.api.AdapterFormat()
    content.set_parameters({"w": engine.api.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, TensorProto.BFLOAT16)})
    content.export_adapter(str(tmp_path / "a"))
    value = engine.api.AdapterFormat.read_adapter(str(tmp_path / "a")).get_parameters()["w"]
    assert (value.data_type(), value.shape(), value.tensor_size_in_bytes()) == ("tensor(bfloat16)", [3], 6)


def test_parameters_outlive_what_read_them(engine, path):
    value = engine.api.AdapterFormat.read_adapter(path).get_parameters()["w"]
    gc.collect()
    np.testing.assert_array_equal(value.numpy(), W)


@pytest.mark.parametrize("writer", ["onnxc", "onnxruntime"])
def test_each_engine_reads_the_others_file(tmp_path, writer):
    ort = pytest.importorskip("onnxruntime")
    one, other = (onnxc, ort) if writer == "onnxc" else (ort, onnxc)
    content = one.AdapterFormat()
    content.set_parameters({name: one.OrtValue.ortvalue_from_numpy(a) for name, a in (("x", X), ("i", np.arange(3)))})
    content.set_adapter_version(5)
    content.export_adapter(str(tmp_path / "a"))
    read = other.AdapterFormat.read_adapter(str(tmp_path / "a"))
    assert read.get_adapter_version() == 5
    found = read.get_parameters()
    np.testing.assert_array_equal(found["x"].numpy(), X)
    np.testing.assert_array_equal(found["i"].numpy(), np.arange(3))


def test_runs_take_the_parameters(engine, path):
    session, options = engine.session(models.overridable()), with_adapter(engine, path)
    np.testing.assert_array_equal(session.run(None, {"x": X}, options)[0], X * W)
    np.testing.assert_array_equal(session.run(None, {"x": X})[0], X * [1, 2, 3])
    other = np.zeros(3, np.float32)
    np.testing.assert_array_equal(session.run(None, {"x": X, "w": other}, options)[0], X * W)
    (y,) = session.run_with_ort_values(None, {"x": value_of(engine, X)}, options)
    np.testing.assert_array_equal(y.numpy(), X * W)


def test_an_adapter_without_parameters_changes_nothing(engine):
    options = engine.api.RunOptions()
    options.add_active_adapter(engine.api.LoraAdapter())
    session = engine.session(models.overridable())
    np.testing.assert_array_equal(session.run(None, {"x": X}, options)[0], X * [1, 2, 3])


def test_parameters_are_checked_like_what_is_fed(engine, path, tmp_path):
    with pytest.raises(engine.errors.InvalidArgument, match="Invalid input name: w"):
        engine.session(models.sums()).run(None, {"x": X, "y": X}, with_adapter(engine, path))
    content_of(engine, w=W[:2]).export_adapter(str(tmp_path / "short"))
    with pytest.raises(engine.errors.InvalidArgument, match="Got invalid dimensions for input: w"):
        engine.session(models.overridable()).run(None, {"x": X}, with_adapter(engine, str(tmp_path / "short")))


def test_what_is_no_adapter(engine, tmp_path):
    (tmp_path / "junk").write_bytes(b"junk" * 30)
    for read in (engine.api.AdapterFormat.read_adapter, engine.api.LoraAdapter().Load):
        with pytest.raises(RuntimeError, match="does not appear to be a valid lora parameter format"):
            read(str(tmp_path / "junk"))
        with pytest.raises(RuntimeError):
            read(str(tmp_path / "none"))
    with pytest.raises(RuntimeError):
        engine.api.AdapterFormat().export_adapter(str(tmp_path / "no" / "a"))
    with pytest.raises(AttributeError):
        engine.api.AdapterFormat().set_parameters({"w": W})
    with pytest.raises(TypeError):
        engine.api.RunOptions().add_active_adapter(3)


def test_every_byte_of_a_file_may_be_wrong(ours, tmp_path):
    content_of(ours, w=W).export_adapter(tmp_path / "a")
    data = (tmp_path / "a").read_bytes()
    for i in range(len(data)):
        for damaged in (data[:i], data[:i] + bytes([data[i] ^ 0xFF]) + data[i + 1:]):
            (tmp_path / "b").write_bytes(damaged)
            try:
                found = ours.api.AdapterFormat.read_adapter(tmp_path / "b").get_parameters()
                assert all(value.numpy().nbytes <= len(data) for value in found.values())
            except RuntimeError as error:
                assert "valid lora parameter format" in str(error) or "cannot be read" in str(error)


def test_runs_that_do_not_wait_take_them_and_bindings_say_that_they_do_not(ours, tmp_path):
    """ONNX Runtime ignores adapters in both."""
    content_of(ours, w=W).export_adapter(tmp_path / "a")
    session, options = ours.session(models.overridable()), with_adapter(ours, tmp_path / "a")
    done, found = threading.Event(), []
    session.run_async(None, {"x": X}, lambda *given: (found.append(given), done.set()), None, options)
    assert done.wait(30)
    np.testing.assert_array_equal(found[0][0][0], X * W)
    binding = session.io_binding()
    binding.bind_cpu_input("x", X)
    binding.bind_output("y")
    with pytest.raises(RuntimeError, match="bind them like inputs"):
        session.run_with_iobinding(binding, options)
