"""Sessions as Python objects: where their classes lie, what they are opened from, what may be done with them beside
runs. Run on both engines where they agree."""

from __future__ import annotations

import copy
import io
import logging
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.session import models
from tests.session.test_surface import module_of

ROOT = Path(__file__).resolve().parents[2]
X = np.arange(6, dtype=np.float32).reshape(2, 3)
FEED = {"x": X, "y": X}


@pytest.fixture(scope="module")
def sums(engine):
    return engine.session(models.sums())


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(models.sums().SerializeToString())
    return path


def check(session) -> None:
    np.testing.assert_array_equal(session.run(["z"], FEED)[0], X + X)


# ---- classes ---------------------------------------------------------------------------------------------------------

def test_a_session_is_a_session_and_no_function(engine, sums):
    assert [c.__name__ for c in engine.api.InferenceSession.__mro__] == ["InferenceSession", "Session", "object"]
    assert isinstance(sums, module_of(engine, "capi.onnxruntime_inference_collection").Session)
    assert not callable(sums)


@pytest.mark.parametrize("name", ["InferenceSession", "IOBinding", "OrtValue", "OrtDevice", "OrtDeviceVendorId",
                                  "SparseTensor", "copy_tensors"])
def test_classes_of_python_have_a_second_path(engine, name):
    assert getattr(module_of(engine, "capi.onnxruntime_inference_collection"), name) is getattr(engine.api, name)


@pytest.mark.parametrize("name", [
    "SessionOptions", "RunOptions", "NodeArg", "ModelMetadata", "GraphOptimizationLevel", "ExecutionMode",
    "ExecutionOrder", "OrtAllocatorType", "OrtMemType", "OrtSparseFormat", "OrtMemoryInfo", "SessionIOBinding",
    "get_available_providers", "get_all_providers", "get_device", "get_version_string", "get_build_info",
    "set_default_logger_severity", "set_default_logger_verbosity", "set_seed", "has_collective_ops"])
def test_compiled_names_have_a_second_path(engine, name):
    assert getattr(module_of(engine, "capi.onnxruntime_pybind11_state"), name) is getattr(engine.api, name)


def test_exceptions_are_found_without_an_import_of_their_own(engine):
    code = (f"import {engine.name} as ort\nC = ort.capi._pybind_state\nassert ort.import_capi_exception is None\n"
            "Fail = ort.capi.onnxruntime_pybind11_state.Fail\nassert Fail is C.Fail and issubclass(Fail, Exception)\n"
            "assert ort.capi.onnxruntime_inference_collection.InferenceSession is ort.InferenceSession\n")
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)


# ---- functions of the module -----------------------------------------------------------------------------------------

@pytest.fixture
def severity_is_restored(engine):
    logger = logging.getLogger("onnxc")
    before = logger.level
    yield
    logger.setLevel(before)
    if engine.name == "onnxruntime":
        engine.api.set_default_logger_severity(4)


@pytest.mark.parametrize("severity", range(5))
def test_every_severity_is_taken(engine, severity_is_restored, severity):
    assert engine.api.set_default_logger_severity(severity) is None


@pytest.mark.parametrize(("bad", "kind", "text"), [
    (-1, RuntimeError, "Invalid logging severity"), (5, RuntimeError, "Invalid logging severity"), ("3", TypeError, ""),
    (2.5, TypeError, ""), (None, TypeError, "")], ids=str)
def test_no_other_severity_is_taken(engine, bad, kind, text):
    before = logging.getLogger("onnxc").level
    with pytest.raises(kind, match=text):
        engine.api.set_default_logger_severity(bad)
    assert logging.getLogger("onnxc").level == before


def test_what_was_built_begins_with_a_word_that_programs_look_for(engine):
    assert engine.api.get_build_info().startswith("ORT Build Info: ")


def test_providers_are_lists_of_texts_of_the_callers_own(engine):
    for list_them in (engine.api.get_available_providers, engine.api.get_all_providers):
        found = list_them()
        assert type(found) is list
        assert {type(name) for name in found} == {str}
        found.clear()
        assert list_them()


# ---- what a session is opened from -----------------------------------------------------------------------------------

class PathOf:
    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return os.fspath(self.path)


@pytest.mark.parametrize("form", [str, Path, PathOf, lambda path: path.read_bytes()],
                         ids=["text", "path", "fspath", "bytes"])
def test_paths_of_every_form_and_bytes(engine, file, form):
    session = engine.api.InferenceSession(form(file), providers=["CPUExecutionProvider"])
    check(session)
    is_bytes = isinstance(form(file), bytes)
    assert session._model_path == (None if is_bytes else str(file))
    assert session._model_bytes == (file.read_bytes() if is_bytes else None)


@pytest.mark.parametrize("source", [io.BytesIO(b""), models.sums(), object(), ("m.onnx",)],
                         ids=lambda s: type(s).__name__)
def test_what_is_neither_is_named_by_its_type(engine, source):
    with pytest.raises(TypeError) as refused:
        engine.api.InferenceSession(source)
    assert str(refused.value).startswith(f"Unable to load from type '{type(source)}'")


def test_arguments_have_names(engine, file):
    check(engine.api.InferenceSession(path_or_bytes=file, sess_options=engine.api.SessionOptions(),
                                      providers=["CPUExecutionProvider"], provider_options=[{}], enable_fallback=1,
                                      disabled_optimizers={"ConstantFolding", "none"}, read_config_from_model=0))


@pytest.mark.parametrize("options", [{"intra_op_num_threads": 1}, [1], "options", 3])
def test_options_of_another_type(ours, options):
    """ONNX Runtime looks for an attribute of them first, and raises AttributeError."""
    with pytest.raises(TypeError, match=r"expected onnxc\.SessionOptions"):
        ours.session(models.sums(), options)


def test_the_sessions_options_are_a_copy(engine):
    options = engine.api.SessionOptions()
    options.logid = "mine"
    sessions = [engine.session(models.sums(), options) for _ in range(2)]
    kept = [s.get_session_options() for s in sessions]
    assert kept[0] is not options
    assert kept[0] is not kept[1]
    assert [type(k) for k in kept] == [type(options)] * 2
    assert [k.logid for k in kept] == ["mine"] * 2


# ---- what else sessions have -----------------------------------------------------------------------------------------

def test_names_of_attributes_that_programs_read(sums):
    assert sums._enable_fallback is True
    sums.disable_fallback()
    assert not sums._enable_fallback
    sums.enable_fallback()
    assert sums._enable_fallback
    assert sums._inputs_meta is sums.get_inputs()
    assert sums._outputs_meta is sums.get_outputs()
    assert sums._providers is sums.get_providers()
    assert sums._model_path is None
    assert type(sums._model_bytes) is bytes
    assert sums._sess_options is not None


def test_the_same_lists_and_objects_each_time(sums):
    for method in ("get_inputs", "get_outputs", "get_overridable_initializers", "get_modelmeta", "get_providers",
                   "get_session_options"):
        if method != "get_overridable_initializers":
            assert getattr(sums, method)() is getattr(sums, method)(), method
        assert getattr(sums, method)() is not None, method
    assert type(sums.get_provider_options()) is dict
    assert sums.io_binding() is not sums.io_binding()


def test_tuning_results_of_a_device_that_is_not_there(sums):
    results = [{"ep": "X", "results": {}, "validators": {}}]
    assert sums.set_tuning_results(results) is None
    with pytest.raises(RuntimeError):
        sums.set_tuning_results(results, error_on_invalid=True)


def test_memory_in_the_place_of_the_session(sums):
    value = sums.create_ortvalue_from_shape_and_type([2, 3], np.float32, "cpu")
    assert (value.shape(), value.data_type(), value.device_name()) == ([2, 3], "tensor(float)", "cpu")
    value.update_inplace(X)
    np.testing.assert_array_equal(sums.run_with_ort_values(["z"], {"x": value, "y": value})[0].numpy(), X + X)


# ---- copies and threads ----------------------------------------------------------------------------------------------

def test_a_shallow_copy_shares_what_runs(sums):
    other = copy.copy(sums)
    assert other is not sums
    assert other._sess is sums._sess
    check(other)


def test_a_subclass_that_pickles_itself(engine):
    """As insightface does: from the path, whatever the session itself can do."""
    class Own(engine.api.InferenceSession):
        def __init__(self, data, **arguments):
            super().__init__(data, **arguments)
            self.data = data

        def __getstate__(self):
            return {"data": self.data}

        def __setstate__(self, values):
            self.__init__(values["data"], providers=["CPUExecutionProvider"])

    other = copy.deepcopy(Own(models.sums().SerializeToString(), providers=["CPUExecutionProvider"]))
    assert type(other) is Own
    check(other)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))],
                         ids=["copy", "pickle"])
def test_what_goes_with_sessions_is_copied_and_pickled_as_well(ours, again):
    session, options, run = ours.session(models.sums()), ours.api.SessionOptions(), ours.api.RunOptions()
    options.intra_op_num_threads, run.logid, run.terminate = 3, "mine", True
    options.add_session_config_entry("k", "v")
    options.add_free_dimension_override_by_name("N", 2)
    options, run = again(options), again(run)
    assert (options.intra_op_num_threads, options.get_session_config_entry("k")) == (3, "v")
    assert ours.session(models.sums(), options).get_inputs()[0].shape == [2, 3]
    assert (run.logid, run.terminate) == ("mine", True)
    with pytest.raises(ours.errors.Fail):
        session.run(None, FEED, run)
    assert [str(i) for i in again(session.get_inputs())] == [str(i) for i in session.get_inputs()]
    assert again(session.get_modelmeta()).graph_name == "g"
    np.testing.assert_array_equal(again(ours.api.OrtValue.ortvalue_from_numpy(X)).numpy(), X)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted on Linux")
@pytest.mark.parametrize("threads", [1, 3])
def test_how_many_threads_a_session_has(engine, threads):
    """The caller's own is one of them."""
    code = (f"import os, time, numpy as np, {engine.name} as ort\nfrom tests.session import models\n"
            "options = ort.SessionOptions()\n"
            f"options.intra_op_num_threads, options.inter_op_num_threads = {threads}, 1\n"
            "count = lambda: len(os.listdir('/proc/self/task'))\nbefore = count()\n"
            "session = ort.InferenceSession(models.chain(2).SerializeToString(), options)\n"
            "session.run(None, {'x': np.ones((5000, 32), np.float32)})\n"
            "time.sleep(0.1)\nprint(count() - before)")        # what waited for signals meanwhile is gone then
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True,
                          timeout=120, env=environment)
    assert int(done.stdout) == threads - 1


def test_many_threads_run_one_session(engine):
    session = engine.session(models.chain(2))
    rng = np.random.default_rng(0)
    feeds = [rng.standard_normal((n, 32)).astype(np.float32) for n in (1, 7, 64, 3)]
    expected = [session.run(None, {"x": x})[0] for x in feeds]

    def work(i):
        return all(np.array_equal(session.run(None, {"x": feeds[j % 4]})[0], expected[j % 4]) for j in range(i, i + 25))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(8)))
