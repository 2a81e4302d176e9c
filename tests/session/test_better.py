"""Where onnxc does the sane thing and ONNX Runtime does not, and what only onnxc has."""

from __future__ import annotations

import math
import pickle

import ml_dtypes
import numpy as np
import onnx
import pytest

import onnxc
from onnxc.errors import InvalidArgument
from tests.session import models

X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture(scope="module")
def sums(ours):
    return ours.session(models.sums())


# ---- feeds -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("form", [iter, dict.fromkeys, np.array, lambda names: (n for n in names)])
def test_any_iterable_of_output_names(sums, form):
    w, z = sums.run(form(["w", "z"]), {"x": X, "y": X})
    np.testing.assert_array_equal(z, X + X)
    np.testing.assert_array_equal(w, -X - X)


def test_a_wrong_element_type_names_the_input(sums):
    with pytest.raises(InvalidArgument, match="for input: y"):
        sums.run(None, {"x": X, "y": X.astype(np.float64)})


@pytest.mark.parametrize("dtype", [">f4", "<f4"])
def test_arrays_in_either_byte_order_are_what_they_say(sums, dtype):
    z, _ = sums.run(None, {"x": X.astype(dtype), "y": X})
    np.testing.assert_array_equal(z, X + X)
    assert z.dtype.isnative


def test_none_for_an_input_counts_as_missing(sums):
    with pytest.raises(ValueError, match=r"\['y'\]"):
        sums.run(None, {"x": X, "y": None})


def test_texts_of_digits_are_no_numbers(sums):
    with pytest.raises(RuntimeError, match="input 'y'"):
        sums.run(None, {"x": X, "y": [["1", "2", "3"]]})


def test_a_scalar_input_takes_scalars_only(ours):
    session = ours.session(models.copies(models.FLOAT, []))
    with pytest.raises(InvalidArgument, match="Invalid rank for input: x Got: 1 Expected: 0"):
        session.run(None, {"x": np.zeros(1, np.float32)})


def test_dlpack_objects_are_read_in_place(sums):
    class Tensor:
        def __dlpack__(self, **options):
            return X.__dlpack__(**options)

        def __dlpack_device__(self):
            return X.__dlpack_device__()

    z, _ = sums.run(None, {"x": Tensor(), "y": X})
    np.testing.assert_array_equal(z, X + X)


NARROW = [("BFLOAT16", ml_dtypes.bfloat16), ("FLOAT8E4M3FN", ml_dtypes.float8_e4m3fn),
          ("FLOAT8E5M2", ml_dtypes.float8_e5m2)]


@pytest.mark.parametrize(("element", "dtype"), NARROW, ids=[name for name, _ in NARROW])
def test_arrays_of_ml_dtypes_go_in_and_out(ours, element, dtype):
    model = models.copies(getattr(onnx.TensorProto, element))
    model.opset_import[0].version = 21
    session = ours.session(model)
    x = np.array([0.0, 1.5, -2.0, np.inf, np.nan], np.float32).astype(dtype)
    (y,) = session.run(None, {"x": x})
    assert y.dtype == dtype
    np.testing.assert_array_equal(y.view(np.uint8), x.view(np.uint8))


@pytest.mark.parametrize("size", [0, 1, 3, 8])
@pytest.mark.parametrize(("element", "dtype"), [
    ("INT4", ml_dtypes.int4), ("UINT4", ml_dtypes.uint4), ("INT2", ml_dtypes.int2), ("UINT2", ml_dtypes.uint2)])
def test_arrays_of_parts_of_bytes_go_in_and_out(element, dtype, size):
    model = models.copies(getattr(onnx.TensorProto, element))
    model.opset_import[0].version = 25
    model.ir_version = 13
    x = (np.arange(size) % (2 if element.endswith("2") else 7)).astype(dtype)
    (y,) = onnxc.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    assert y.dtype == dtype
    np.testing.assert_array_equal(y.astype(np.int32), x.astype(np.int32))


# ---- dimensions ------------------------------------------------------------------------------------------------------

def test_inputs_that_contradict_each_other_are_both_named(sums):
    with pytest.raises(InvalidArgument, match="dimension 0 of input 'y' is 4, but dimension 0 of input 'x' is 2"):
        sums.run(None, {"x": X, "y": np.zeros((4, 3), np.float32)})


def test_an_artifact_is_for_equal_sizes(tmp_path):
    onnxc.compile(models.sums().SerializeToString(), tmp_path / "m.onnxc")
    session = onnxc.InferenceSession(tmp_path / "m.onnxc")
    with pytest.raises(InvalidArgument, match="the model calls both N, so they have to be equal"):
        session.run(None, {"x": X, "y": X[:1]})


def test_dimensions_that_are_expressions_are_solved(ours, tmp_path):
    """Sizes that no expression allows are taken like others that contradict each other: the operators decide."""
    model = models.model([models.node("Neg", "a", "y"), models.node("Neg", "b", "z")],
                         [models.value("a", ["past + 1"]), models.value("b", ["2*past"])],
                         [models.value("y", ["past + 1"]), models.value("z", [None])])
    session = ours.session(model)
    for past in (0, 1, 5):
        y, z = session.run(None, {"a": np.ones(past + 1, np.float32), "b": np.ones(2 * past, np.float32)})
        assert (y.shape, z.shape) == ((past + 1,), (2 * past,))
    for size in (0, 3):
        y, z = session.run(None, {"a": np.ones(size, np.float32), "b": np.ones(3, np.float32)})
        assert (y.shape, z.shape) == ((size,), (3,))
    onnxc.compile(model.SerializeToString(), tmp_path / "m.onnxc")
    artifact = onnxc.InferenceSession(tmp_path / "m.onnxc")
    with pytest.raises(InvalidArgument, match="dimension 0 of input 'a' is 0"):
        artifact.run(None, {"a": np.ones(0, np.float32), "b": np.ones(0, np.float32)})
    with pytest.raises(InvalidArgument, match=r"dimension 0 of input 'b' is 3, but dimension 0 of input 'a' is 3"):
        artifact.run(None, {"a": np.ones(3, np.float32), "b": np.ones(3, np.float32)})


def test_new_sizes_never_compile_again(ours):
    session = ours.session(models.sums())
    before = session.statistics()["compilations"]
    for rows in [*range(200), 0, 199, 3]:
        x = np.full((rows, 3), rows, np.float32)
        z, _ = session.run(None, {"x": x, "y": x})
        np.testing.assert_array_equal(z, x + x)
    counts = session.statistics()
    assert counts["compilations"] == before == 1
    assert counts["runs"] == 203
    assert counts["host_ops"] == 0
    assert counts["kernels"] >= 1
    assert counts["compile_seconds"] > 0


def test_an_output_too_large_for_memory_is_a_memory_error_and_the_session_lives(ours):
    session = ours.session(models.model(
        [models.node("Add", "a b", "y")], [models.value("a", ["N", 1]), models.value("b", [1, "M"])],
        [models.value("y", ["N", "M"])]))
    huge = np.broadcast_to(np.float32(1), (1 << 20, 1)), np.broadcast_to(np.float32(1), (1, 1 << 22))
    with pytest.raises(MemoryError, match="output 'y'"):
        session.run(None, {"a": huge[0], "b": huge[1]})
    (y,) = session.run(None, {"a": X[:, :1], "b": X[:1]})
    np.testing.assert_array_equal(y, X[:, :1] + X[:1])


# ---- sessions --------------------------------------------------------------------------------------------------------

def test_a_session_pickles(sums):
    again = pickle.loads(pickle.dumps(sums))
    np.testing.assert_array_equal(again.run(["z"], {"x": X, "y": X})[0], X + X)


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_bytes_of_every_kind(wrap):
    session = onnxc.InferenceSession(wrap(models.sums().SerializeToString()))
    assert [o.name for o in session.get_outputs()] == ["z", "w"]


@pytest.mark.parametrize("bad", [None, 3, [], {}, "", 1.5])
def test_other_sources_are_type_errors(bad):
    with pytest.raises(TypeError, match="Unable to load from type"):
        onnxc.InferenceSession(bad)


def test_unknown_keywords_are_refused():
    with pytest.raises(TypeError, match="wrong"):
        onnxc.InferenceSession(models.sums().SerializeToString(), wrong=1)


def test_subclasses_may_pickle_themselves_their_own_way():
    class Named(onnxc.InferenceSession):
        def __init__(self, data, **kwargs):
            super().__init__(data, **kwargs)
            self.data = data

        def __getstate__(self):
            return {"data": self.data}

        def __setstate__(self, state):
            self.__init__(state["data"])

    session = Named(models.sums().SerializeToString())
    copy = Named.__new__(Named)
    copy.__setstate__(session.__getstate__())
    assert copy.run(["z"], {"x": X, "y": X})[0].shape == (2, 3)


# ---- values that the model refuses -----------------------------------------------------------------------------------

@pytest.mark.parametrize("index", [3, -4, 1 << 40, -(1 << 63)])
def test_an_index_out_of_range_names_the_node_and_the_session_lives(ours, index):
    session = ours.session(models.picks())
    table = np.arange(6, dtype=np.float32).reshape(3, 2)
    with pytest.raises(InvalidArgument, match="while running Gather node. Name:'pick' Status Message: .*out of range"):
        session.run(None, {"x": table, "i": np.array([0, index])})
    (y,) = session.run(None, {"x": table, "i": np.array([-3, 2])})
    np.testing.assert_array_equal(y, table[[0, 2]])


# ---- devices and options ---------------------------------------------------------------------------------------------

def test_a_bare_provider_name_is_refused():
    with pytest.raises(ValueError, match="should be a sequence"):
        onnxc.InferenceSession(models.sums().SerializeToString(), providers="CPUExecutionProvider")


def test_provider_mistakes_are_errors_and_leave_a_session_alone(ours):
    session = ours.session(models.sums())
    for providers, options in [(["NoSuchExecutionProvider"], None), (["CPUExecutionProvider"], [{}, {}]), ([1], None),
                               ([("CPUExecutionProvider", {})], [{}]), ({"CPUExecutionProvider"}, None)]:
        with pytest.raises((ValueError, RuntimeError)):
            session.set_providers(providers, options)
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert session.run(["z"], {"x": X, "y": X})[0].shape == (2, 3)


@pytest.mark.parametrize("level", [onnxc.GraphOptimizationLevel.ORT_DISABLE_ALL,
                                   onnxc.GraphOptimizationLevel.ORT_ENABLE_ALL])
@pytest.mark.parametrize("threads", [1, 2, 0])
def test_every_level_and_number_of_threads_gives_the_same(level, threads):
    options = onnxc.SessionOptions()
    options.graph_optimization_level, options.intra_op_num_threads = level, threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = False
    session = onnxc.InferenceSession(models.softmaxes().SerializeToString(), options)
    x = np.random.default_rng(0).standard_normal((300, 40)).astype(np.float32)
    expected = x.astype(np.float64)
    for axis in (0, 1):
        expected = np.exp(expected) / np.exp(expected).sum(axis, keepdims=True)
    # Two sums of up to 300 float32 terms, each exact to about 300 * 2**-24 at worst and much better on average.
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, rtol=1e-5)


def test_a_model_without_a_version_has_version_0(sums):
    assert sums.get_modelmeta().version == 0


def test_severity_of_a_session_is_checked():
    options = onnxc.SessionOptions()
    options.log_severity_level = 5
    with pytest.raises(RuntimeError, match="Invalid logging severity"):
        onnxc.InferenceSession(models.sums().SerializeToString(), options)


def test_a_compiler_defect_is_typed_and_says_so(monkeypatch):
    import onnxc.driver

    def broken(*_, **__):
        raise AssertionError("two plus two")

    monkeypatch.setattr(onnxc.driver, "compile_model", broken)
    with pytest.raises(onnxc.errors.RuntimeException, match="defect of onnxc: AssertionError: two plus two"):
        onnxc.InferenceSession(models.sums().SerializeToString())


def test_infinity_and_nan_pass_through(sums):
    bad = np.array([[math.inf, -math.inf, math.nan]], np.float32)
    z, w = sums.run(None, {"x": bad, "y": np.ones((1, 3), np.float32)})
    np.testing.assert_array_equal(z, bad)
    np.testing.assert_array_equal(w, -bad)
