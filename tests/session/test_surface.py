"""The module itself: functions, enumerations, exceptions, paths that programs import from. Rows of the contract, run on
both engines where they agree."""

from __future__ import annotations

import importlib
import logging
import os
import pickle
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import onnxc
from tests.session import models

ROOT = Path(__file__).resolve().parents[2]
X = np.arange(6, dtype=np.float32).reshape(2, 3)


def module_of(engine, path: str):
    return importlib.import_module(f"{engine.name}.{path}")


# ---- functions -------------------------------------------------------------------------------------------------------

def test_versions(engine):
    api = engine.api
    assert api.get_version_string() == api.__version__ == api.version
    assert isinstance(api.get_build_info(), str)
    assert isinstance(api.__author__, str)
    assert api.cuda_version == ""
    assert api.package_name == engine.name


def test_functions_that_change_nothing(engine, capsys):
    api = engine.api
    assert api.preload_dlls(cuda=True, cudnn=False, msvc=True, directory=None) is None
    assert api.set_seed(3) is None
    with pytest.raises(TypeError):
        api.set_seed("3")
    assert api.has_collective_ops() is False
    assert api.set_default_logger_verbosity(0) is None
    with pytest.raises(TypeError):
        api.set_default_logger_verbosity("0")
    assert api.enable_telemetry_events() is None
    assert api.disable_telemetry_events() is None
    api.print_debug_info()
    assert engine.api.__version__ in capsys.readouterr().out


def test_providers_and_devices(engine):
    api = engine.api
    available, known = api.get_available_providers(), api.get_all_providers()
    assert available[-1] == known[-1] == "CPUExecutionProvider"
    assert set(available) <= set(known)
    assert len(known) == 21
    assert api.get_device() == "CPU"


@pytest.mark.parametrize(("severity", "level"), [(0, logging.DEBUG), (2, logging.WARNING), (4, logging.CRITICAL)])
def test_severities_are_levels_of_the_logger(ours, severity, level):
    logger = logging.getLogger("onnxc")
    before = logger.level
    try:
        assert ours.api.set_default_logger_severity(severity) is None
        assert logger.level == level
    finally:
        logger.setLevel(before)


def test_a_session_says_what_it_did_on_the_logger(ours, caplog):
    options = ours.api.SessionOptions()
    options.logid, options.log_severity_level = "mine", 1
    with caplog.at_level(logging.INFO, "onnxc"):
        ours.session(models.sums(), options)
    assert any(text.startswith("mine: ") and "kernels" in text for text in caplog.messages)
    caplog.clear()
    options.log_severity_level = 2
    with caplog.at_level(logging.INFO, "onnxc"):
        ours.session(models.sums(), options)
    assert not caplog.messages


# ---- enumerations ----------------------------------------------------------------------------------------------------

ENUMS = {
    "GraphOptimizationLevel": {"ORT_DISABLE_ALL": 0, "ORT_ENABLE_BASIC": 1, "ORT_ENABLE_EXTENDED": 2,
                               "ORT_ENABLE_LAYOUT": 3, "ORT_ENABLE_ALL": 99},
    "ExecutionMode": {"ORT_SEQUENTIAL": 0, "ORT_PARALLEL": 1},
    "ExecutionOrder": {"DEFAULT": 0, "PRIORITY_BASED": 1, "MEMORY_EFFICIENT": 2},
    "OrtAllocatorType": {"INVALID": -1, "ORT_DEVICE_ALLOCATOR": 0, "ORT_ARENA_ALLOCATOR": 1},
    "OrtMemType": {"CPU_INPUT": -2, "CPU_OUTPUT": -1, "CPU": -1, "DEFAULT": 0},
    "OrtSparseFormat": {"ORT_SPARSE_UNDEFINED": 0, "ORT_SPARSE_COO": 1, "ORT_SPARSE_CSRC": 2,
                        "ORT_SPARSE_BLOCK_SPARSE": 4},
    "OrtDeviceMemoryType": {"DEFAULT": 0, "HOST_ACCESSIBLE": 5},
    "OrtHardwareDeviceType": {"CPU": 0, "GPU": 1, "NPU": 2},
    "OrtMemoryInfoDeviceType": {"CPU": 0, "GPU": 1, "FPGA": 2, "NPU": 3},
    "OrtExecutionProviderDevicePolicy": {"DEFAULT": 0, "PREFER_CPU": 1, "PREFER_NPU": 2, "PREFER_GPU": 3,
                                         "MAX_PERFORMANCE": 4, "MAX_EFFICIENCY": 5, "MIN_OVERALL_POWER": 6},
    "OrtCompileApiFlags": {"NONE": 0, "ERROR_IF_NO_NODES_COMPILED": 1, "ERROR_IF_OUTPUT_FILE_EXISTS": 2},
    "OrtDeviceVendorId": {"NONE": 0, "AMD": 0x1002, "NVIDIA": 0x10DE, "ARM": 0x13B5, "MICROSOFT": 0x1414,
                          "HUAWEI": 0x19E5, "QUALCOMM": 0x5143, "INTEL": 0x8086},
}


@pytest.mark.parametrize("name", ENUMS)
def test_members_have_names_and_numbers(engine, name):
    kind = getattr(engine.api, name)
    for member, number in ENUMS[name].items():
        found = getattr(kind, member)
        assert int(found) == number == found.value
        assert found == kind(number)
        assert hash(found) == hash(kind(number))
        assert pickle.loads(pickle.dumps(found)) == found


def test_members_print_and_compare(engine):
    level = engine.api.GraphOptimizationLevel
    assert str(level.ORT_ENABLE_ALL) == "GraphOptimizationLevel.ORT_ENABLE_ALL"
    assert level.ORT_ENABLE_ALL == 99
    assert level.ORT_ENABLE_ALL.name == "ORT_ENABLE_ALL"
    assert level.ORT_ENABLE_ALL != level.ORT_ENABLE_BASIC
    assert int(level(7)) == 7
    assert "ORT" not in level(7).name


# ---- exceptions ------------------------------------------------------------------------------------------------------

CODES = {"Fail": "1 : FAIL", "InvalidArgument": "2 : INVALID_ARGUMENT", "NoSuchFile": "3 : NO_SUCHFILE",
         "InvalidProtobuf": "7 : INVALID_PROTOBUF", "NotImplemented": "9 : NOT_IMPLEMENTED",
         "InvalidGraph": "10 : INVALID_GRAPH"}
OTHERS = ["NoModel", "EngineError", "RuntimeException", "ModelLoaded", "EPFail", "ModelLoadCanceled",
          "ModelRequiresCompilation", "NotFound", "DeviceReset"]


@pytest.mark.parametrize("name", [*CODES, *OTHERS])
def test_exceptions_are_of_no_builtin_family(engine, name):
    kind = getattr(module_of(engine, "capi.onnxruntime_pybind11_state"), name)
    assert kind is getattr(module_of(engine, "capi._pybind_state"), name)
    assert issubclass(kind, Exception)
    assert not issubclass(kind, (RuntimeError, NotImplementedError, OSError))


def test_the_text_has_a_head_and_is_the_only_argument(engine):
    session = engine.session(models.sums())
    with pytest.raises(engine.errors.InvalidArgument) as caught:
        session.run(["q"], {"x": X, "y": X})
    assert caught.value.args == ("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Invalid output name:q",)


def unknown_op():
    return models.model([models.node("Foo", "x", "y")], [models.value("x", [1])], [models.value("y", [1])])


def unknown_domain():
    model = unknown_op()
    model.graph.node[0].domain = "my.dom"
    model.opset_import.add(domain="my.dom", version=1)
    return model


def ghost():
    return models.model([models.node("Add", "x ghost", "y")], [models.value("x", [1])], [models.value("y", [1])])


def defined_twice():
    return models.model([models.node("Neg", "x", "y", "a"), models.node("Abs", "x", "y", "b")],
                        [models.value("x", [1])], [models.value("y", [1])])


def named_twice():
    return models.model([models.node("Neg", "x", "h", "n"), models.node("Abs", "h", "y", "n")],
                        [models.value("x", [1])], [models.value("y", [1])])


def cyclic():
    return models.model([models.node("Add", "x b", "a", "p"), models.node("Neg", "a", "b", "q")],
                        [models.value("x", [1])], [models.value("a", [1])])


def unfinished():
    return models.model([models.node("Neg", "x", "y")], [models.value("x", [1])],
                        [models.value("y", [1]), models.value("q", [1])])


def listed_twice():
    return models.model([models.node("Neg", "x", "y")], [models.value("x", [1]), models.value("x", [1])],
                        [models.value("y", [1])])


def untyped():
    model = models.model([models.node("Neg", "x", "y")], [models.value("x", [1])], [models.value("y", [1])])
    model.graph.input[0].ClearField("type")
    return model


def wrong_type():
    return models.model([models.node("Sin", "x", "y")], [models.value("x", [1], 6)], [models.value("y", [1], 6)])


def future(**versions):
    model = models.sums()
    for key, value in versions.items():
        if key == "ir":
            model.ir_version = value
        else:
            model.opset_import[0].version = value
    return model


def no_opset():
    model = models.sums()
    del model.opset_import[:]
    return model


def contradiction():
    inputs = [models.value("x", [2, 3]), models.value("w", [4, 5])]
    return models.model([models.node("MatMul", "x w", "y", "n")], inputs, [models.value("y", None)])


def not_imported():
    model = unknown_op()
    model.graph.node[0].domain = "my.dom"
    return model


def one_node(op, inputs, outputs="y", **attributes):
    return models.model([models.node(op, inputs, outputs, "n", **attributes)], [models.value("x", [2, 3])],
                        [models.value("y", None)])


def mistyped_output():
    return models.model([models.node("Neg", "x", "y")], [models.value("x", [1])], [models.value("y", [1], 7)])


def other_domain(domain, version):
    model = models.sums()
    model.opset_import.add(domain=domain, version=version)
    return model


def left_out():
    """A required output without a name."""
    return models.model([helper.make_node("Neg", ["x"], [""], "n"), models.node("Abs", "x", "y")],
                        [models.value("x", [1])], [models.value("y", [1])])


LOADS = [(not_imported, "InvalidGraph", "No opset import for domain 'my.dom'"),
         (lambda: one_node("Add", "x"), "InvalidGraph", "n"),
         (lambda: one_node("Neg", "x x"), "InvalidGraph", "n"),
         (lambda: one_node("Neg", "x", sides=3), "InvalidGraph", "sides"),
         (lambda: one_node("Concat", "x x"), "InvalidGraph", "axis"),
         (lambda: one_node("Concat", "x x", axis="one"), "InvalidGraph", "axis"),
         (left_out, "InvalidGraph", r"n.* output 0"),
         (mistyped_output, "Fail", r"Type Error: Type \(tensor\(int64\)\) of output arg \(y\) of node \(neg_y\).* does "
                                   r"not match expected type \(tensor\(float\)\)"),
         (lambda: future(opset=0), "InvalidGraph", "(?i)opset|version|domain"),
         (lambda: other_domain("com.microsoft", 2), "Fail", "support for domain com.microsoft is till opset 1"),
         (lambda: other_domain("ai.onnx.ml", 6), "Fail", "support for domain ai.onnx.ml is till opset 5"),
         (unknown_op, "InvalidGraph", "This is an invalid model. .*Error No Op registered for Foo with domain_version "
                                      "of 17"),
         (unknown_domain, "Fail", r"Fatal error: my.dom:Foo\(-1\) is not a registered function/op"),
         (ghost, "InvalidArgument", "Node input 'ghost' is not a graph input, initializer, or output of a previous"),
         (defined_twice, "Fail", r"Duplicate definition of name \(y\)"),
         (named_twice, "Fail", r"two nodes with same node name \(n\)"),
         (cyclic, "Fail", "the graph is not acyclic"),
         (unfinished, "Fail", r"Graph output \(q\) does not exist in the graph"),
         (listed_twice, "Fail", r"Duplicate definition-site for \(x\)"),
         (untyped, "Fail", r"Model input \(x\) does not have type information"),
         (wrong_type, "InvalidGraph", r"Type 'tensor\(int32\)' of input parameter \(\w+\) of operator \(Sin\)"),
         (lambda: future(ir=99), "Fail", "Unsupported model IR version: 99, max supported IR version: "),
         (lambda: future(opset=99), "Fail", "support for domain ai.onnx is till opset"),
         (no_opset, "Fail", "Missing opset in the model"),
         (contradiction, "Fail", r"Node \(n\) Op \(MatMul\) \[ShapeInferenceError\] Incompatible dimensions")]


@pytest.mark.parametrize(("make", "kind", "text"), LOADS, ids=range(len(LOADS)))
def test_models_that_do_not_load(engine, make, kind, text):
    with pytest.raises(getattr(engine.errors, kind), match=text) as caught:
        engine.session(make())
    assert str(caught.value).startswith(f"[ONNXRuntimeError] : {CODES[kind]} : ")


def test_a_known_operator_that_cannot_be_compiled(ours):
    """ONNX Runtime says the same of element types that its kernels have not."""
    names = ["r", "t", "x", "g", "h"]
    nodes = [helper.make_node("Adagrad", names, ["y", "k"], "n", domain="ai.onnx.preview.training")]
    infos = [models.value("r", []), models.value("t", [], models.INT64), *(models.value(n, [2]) for n in names[2:])]
    model = models.model(nodes, infos, [models.value("y", [2]), models.value("k", [2])])
    model.opset_import.add(domain="ai.onnx.preview.training", version=1)
    with pytest.raises(ours.errors.NotImplemented, match="Could not find an implementation (?s:.*)Adagrad node 'n'"):
        ours.session(model)


@pytest.mark.parametrize(("data", "kind", "text"), [
    (b"", "InvalidArgument", "No graph was found in the protobuf."),
    (onnx.ModelProto(ir_version=8, opset_import=[helper.make_opsetid("", 17)]).SerializeToString(), "InvalidArgument",
     "No graph was found in the protobuf."),
    (b"junk that is no model", "InvalidProtobuf", "Failed to load model because protobuf parsing failed."),
    (models.sums().SerializeToString()[:-5], "InvalidProtobuf", "protobuf parsing failed")])
def test_bytes_that_do_not_load(engine, data, kind, text):
    with pytest.raises(getattr(engine.errors, kind), match=text):
        engine.session(data)


@pytest.mark.parametrize(("location", "text"), [
    ("none.bin", "External data path validation failed for initializer: w.*does not exist: .*none.bin"),
    ("../w.bin", "External data path escapes model directory"), ("/w.bin", "[Aa]bsolute"),
    ("short.bin", "are out of bounds or can not be read in full")])
def test_external_data_that_is_not_there(engine, tmp_path, location, text):
    model = models.overridable()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = 1
    for key, value in (("location", location), ("length", "12")):
        tensor.external_data.add(key=key, value=value)
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(12))
    (folder / "short.bin").write_bytes(bytes(8))
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(engine.errors.Fail, match=text):
        engine.api.InferenceSession(folder / "m.onnx", providers=["CPUExecutionProvider"])


def test_what_loads_all_the_same(engine):
    """Old opsets, every IR version so far, a declared shape that is wrong, a graph without outputs of its own."""
    for version in (6, 7):
        model = models.copies(models.FLOAT, [3])
        model.graph.node[0].op_type = "Neg"
        model.opset_import[0].version = version
        np.testing.assert_array_equal(engine.session(model).run(None, {"x": X[0]})[0], -X[0])
    for version in range(1, 6):
        model = models.copies(models.FLOAT, [3])
        model.opset_import[0].version = version
        np.testing.assert_array_equal(engine.session(model).run(None, {"x": X[0]})[0], X[0])
    for ir in (0, 1, 2, 3, 13):
        assert engine.session(future(ir=ir)).get_inputs()
    nothing = models.model([models.node("Neg", "x", "y")], [models.value("x", [3])], [])
    assert engine.session(nothing).get_outputs() == []


def test_metadata_takes_other_values_and_sessions_do_not(engine):
    session = engine.session(models.sums(producer_name="maker"))
    meta = session.get_modelmeta()
    meta.producer_name = "other"
    assert meta.producer_name == "other"
    assert not hasattr(meta, "ir_version")
    assert not hasattr(meta, "producer_version")


@pytest.mark.parametrize("name", ["tag", "run_tag"])
def test_run_options_have_no_tags(engine, name):
    assert not hasattr(engine.api.RunOptions(), name)


def test_a_severity_above_4_is_refused_when_a_session_is_made(engine):
    options = engine.api.SessionOptions()
    options.log_severity_level = 5
    with pytest.raises(RuntimeError):
        engine.session(models.sums(), options)


def test_files_that_do_not_load(engine, tmp_path):
    open_path = engine.api.InferenceSession
    missing = str(tmp_path / "none.onnx")
    with pytest.raises(engine.errors.NoSuchFile, match=f"Load model from {missing} failed:Load model {missing} failed. "
                                                       "File doesn't exist"):
        open_path(missing)
    with pytest.raises(engine.errors.InvalidProtobuf, match="failed:Protobuf parsing failed."):
        open_path(str(tmp_path))
    (tmp_path / "junk.onnx").write_bytes(b"junk that is no model")
    with pytest.raises(engine.errors.InvalidProtobuf, match="Load model from .* failed:Protobuf parsing failed."):
        open_path(str(tmp_path / "junk.onnx"))
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(engine.errors.InvalidArgument, match="No graph was found in the protobuf."):
        open_path(tmp_path / "empty.onnx")


@pytest.mark.parametrize("bad", [None, 3, [], {}, 1.5], ids=str)
def test_what_is_neither_a_path_nor_bytes(engine, bad):
    with pytest.raises(TypeError, match="Unable to load from type"):
        engine.api.InferenceSession(bad)


# ---- sessions as Python objects --------------------------------------------------------------------------------------

def test_sessions_can_be_subclassed_referenced_and_given_attributes(engine):
    class Mine(engine.api.InferenceSession):
        pass

    session = Mine(models.sums().SerializeToString(), providers=["CPUExecutionProvider"])
    session.tag = 3
    assert weakref.ref(session)() is session
    assert isinstance(session, module_of(engine, "capi.onnxruntime_inference_collection").InferenceSession)


def test_private_names_that_programs_read(engine, tmp_path):
    (tmp_path / "m.onnx").write_bytes(models.sums().SerializeToString())
    session = engine.api.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    assert session._providers == ["CPUExecutionProvider"]
    assert session._model_path == str(tmp_path / "m.onnx")
    assert list(session._provider_options) in ([], ["CPUExecutionProvider"])
    assert session._sess_options is not None
    assert session._sess is not None
    assert engine.session(models.sums())._model_path is None


def test_fallback_can_be_switched(engine):
    session = engine.session(models.sums(), enable_fallback=0)
    assert session.disable_fallback() is None
    assert session.enable_fallback() is None
    np.testing.assert_array_equal(session.run(["z"], {"x": X, "y": X})[0], X + X)


def test_set_providers_opens_the_session_anew(engine):
    session = engine.session(models.sums())
    assert session.set_providers(["CPUExecutionProvider"], [{"arena_extend_strategy": "kSameAsRequested"}]) is None
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert session.get_provider_options() == {"CPUExecutionProvider": {}}
    np.testing.assert_array_equal(session.run(["z"], {"x": X, "y": X})[0], X + X)


def test_a_failed_set_providers_leaves_the_session_working(ours):
    session = ours.session(models.sums())
    with pytest.raises(RuntimeError, match="Unknown Provider Type: X"):
        session.set_providers(["X"])
    assert [i.name for i in session.get_inputs()] == ["x", "y"]
    np.testing.assert_array_equal(session.run(["z"], {"x": X, "y": X})[0], X + X)


@pytest.mark.parametrize("options", [None, {"device_id": 0, "gpu_mem_limit": 1 << 30, "enable_cuda_graph": "1"}])
def test_cuda_on_a_machine_without_it_warns_and_runs_on_the_cpu(engine, options):
    cuda = "CUDAExecutionProvider" if options is None else ("CUDAExecutionProvider", options)
    with pytest.warns(UserWarning, match="'CUDAExecutionProvider' is not in available provider names"):
        session = engine.session(models.sums(), providers=[cuda, "CPUExecutionProvider"])
    assert session.get_providers() == ["CPUExecutionProvider"]
    np.testing.assert_array_equal(session.run(["z"], {"x": X, "y": X})[0], X + X)


def test_cuda_alone_without_falling_back_is_an_error(engine):
    options = engine.api.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    with pytest.warns(UserWarning), pytest.raises(engine.errors.Fail, match="default CPU EP"):
        engine.session(models.sums(), options, providers=["CUDAExecutionProvider"])


@pytest.mark.parametrize("bad", [{"CPUExecutionProvider"}, [1], [["CPUExecutionProvider", {}]], ["NoSuchProvider"],
                                 [("CPUExecutionProvider", {}, 1)], ["cpuexecutionprovider"]], ids=str)
def test_mistakes_in_lists_of_providers_are_errors_at_once(ours, bad):
    with pytest.raises((ValueError, RuntimeError)):
        ours.session(models.sums(), providers=bad)


def test_one_options_object_serves_many_sessions(engine):
    options = engine.api.SessionOptions()
    options.intra_op_num_threads = 1
    for _ in range(2):
        session = engine.session(models.sums(), options)
        np.testing.assert_array_equal(session.run(["z"], {"x": X, "y": X})[0], X + X)


@pytest.mark.parametrize(("attribute", "value"), [
    ("graph_optimization_level", "GraphOptimizationLevel.ORT_ENABLE_EXTENDED"), ("intra_op_num_threads", 3),
    ("intra_op_num_threads", -1), ("inter_op_num_threads", 2), ("execution_mode", "ExecutionMode.ORT_PARALLEL"),
    ("enable_cpu_mem_arena", False), ("enable_mem_pattern", False), ("enable_mem_reuse", False),
    ("log_severity_level", 3), ("log_verbosity_level", 1), ("logid", "me"), ("use_deterministic_compute", True),
    ("execution_order", "ExecutionOrder.PRIORITY_BASED")])
def test_every_option_is_kept_and_a_session_opens_with_it(engine, attribute, value):
    if isinstance(value, str) and "." in value:
        kind, member = value.split(".")
        value = getattr(getattr(engine.api, kind), member)
    options = engine.api.SessionOptions()
    setattr(options, attribute, value)
    assert getattr(options, attribute) == value
    session = engine.session(models.sums(), options)
    assert getattr(session.get_session_options(), attribute) == value
    np.testing.assert_array_equal(session.run(["z"], {"x": X, "y": X})[0], X + X)


def test_what_most_programs_set_before_they_open_a_model(engine, tmp_path):
    (tmp_path / "m.onnx").write_bytes(models.sums().SerializeToString())
    options = engine.api.SessionOptions()
    options.graph_optimization_level = engine.api.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads, options.inter_op_num_threads = 2, 1
    options.log_severity_level, options.enable_cpu_mem_arena = 3, False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = engine.api.InferenceSession(str(tmp_path / "m.onnx"), sess_options=options,
                                          providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(["z"], {session.get_inputs()[0].name: X, "y": X})[0], X + X)


# ---- the backend interface -------------------------------------------------------------------------------------------

def test_the_backend_says_what_it_runs(engine):
    backend = module_of(engine, "backend")
    assert backend.is_compatible(models.sums())
    assert backend.supports_device("CPU")
    assert not backend.supports_device("CUDA")
    with pytest.raises(RuntimeError, match="Incompatible device expected 'CUDA', got 'CPU'"):
        backend.prepare(models.sums(), "CUDA")


@pytest.mark.parametrize("form", [lambda m, s: m, lambda m, s: m.SerializeToString(), lambda m, s: s],
                         ids=["message", "bytes", "session"])
def test_the_backend_prepares_models(engine, form):
    backend, model = module_of(engine, "backend"), models.sums()
    z, w = backend.prepare(form(model, engine.session(model)), "CPU").run([X, X])
    np.testing.assert_array_equal(z, X + X)
    np.testing.assert_array_equal(w, -X - X)


def test_the_backend_runs_lists_and_single_arrays(engine, tmp_path):
    backend = module_of(engine, "backend")
    np.testing.assert_array_equal(backend.run(models.sums(), [X, X])[0], X + X)
    np.testing.assert_array_equal(backend.prepare(models.copies(models.FLOAT, [2, 3])).run(X)[0], X)
    (tmp_path / "m.onnx").write_bytes(models.sums().SerializeToString())
    rep = backend.prepare(str(tmp_path / "m.onnx"))
    with pytest.raises(RuntimeError, match="Model expect 2 inputs"):
        rep.run({"x": X, "y": X})


# ---- examples and import ---------------------------------------------------------------------------------------------

def test_examples(engine):
    datasets = module_of(engine, "datasets")
    session = engine.api.InferenceSession(datasets.get_example("mul_1.onnx"), providers=["CPUExecutionProvider"])
    x = np.ones((3, 2), np.float32)
    np.testing.assert_array_equal(session.run(None, {"X": x})[0], np.arange(1, 7, dtype=np.float32).reshape(3, 2))
    session = engine.api.InferenceSession(datasets.get_example("sigmoid.onnx"), providers=["CPUExecutionProvider"])
    assert session.run(["y"], {"x": np.zeros((3, 4, 5), np.float32)})[0].max() == 0.5
    assert datasets.get_example("logreg_iris.onnx").endswith("logreg_iris.onnx")
    with pytest.raises(FileNotFoundError, match="Unable to find example 'nope.onnx'"):
        datasets.get_example("nope.onnx")


def test_every_name_imports_in_a_fresh_process_and_prints_nothing():
    code = ("import onnxc\nfor name in set(onnxc.__all__) - {'register_op', 'unregister_op'}: getattr(onnxc, name)\n"
            "import onnxc.capi._pybind_state, onnxc.capi.onnxruntime_inference_collection, onnxc.datasets\n"
            "import sys\nassert not {'onnx', 'llvmlite', 'triton', 'torch'} & set(sys.modules), sys.modules.keys()\n")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120,
                          check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert set(onnxc.__all__) <= set(dir(onnxc))


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="counts threads as Linux does")
def test_an_import_writes_nothing_and_starts_nothing(tmp_path):
    """ONNX Runtime's wheels make a data base in the home folder, and a thread that reports what they do."""
    code = "import os, onnxc\nonnxc.InferenceSession\nprint(len(os.listdir('/proc/self/task')))"
    homes = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"), str(tmp_path))
    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")     # NumPy's
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120,
                          check=True, env={**os.environ, **homes, **threads})
    assert done.stdout == "1\n"
    assert list(tmp_path.iterdir()) == []


def test_the_package_says_that_it_is_annotated():
    assert (Path(onnxc.__file__).parent / "py.typed").is_file()
