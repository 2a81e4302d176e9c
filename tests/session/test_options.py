"""Metadata, session options, run options, providers and enums, on both engines where they agree."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest

import onnxc
from onnxc.runtime.entries import ACCEPTED, RUN_ENTRIES, SESSION_ENTRIES
from onnxc.runtime.options import documented
from tests.session import models

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = ["graph_optimization_level", "intra_op_num_threads", "inter_op_num_threads", "execution_mode",
           "enable_cpu_mem_arena", "enable_mem_pattern", "enable_mem_reuse", "log_severity_level",
           "log_verbosity_level", "logid", "use_deterministic_compute", "use_per_session_threads", "enable_profiling",
           "profile_file_prefix", "optimized_model_filepath", "execution_order"]


# ---- metadata --------------------------------------------------------------------------------------------------------

def test_inputs_and_outputs_are_described_verbatim(engine):
    model = models.model(
        [models.node("Identity", "x", "y"), models.node("Identity", "s", "t")],
        [models.value("x", [2, "past + 1", None, 0]), models.value("s", [], models.INT64)],
        [models.value("y", [2, "past + 1", None, 0]), models.value("t", [], models.INT64)])
    session = engine.session(model)
    x, s = session.get_inputs()
    assert (x.name, x.type, x.shape) == ("x", "tensor(float)", [2, "past + 1", None, 0])
    assert (s.name, s.type, s.shape) == ("s", "tensor(int64)", [])
    assert str(x) == "NodeArg(name='x', type='tensor(float)', shape=[2, 'past + 1', None, 0])"
    assert [o.name for o in session.get_outputs()] == ["y", "t"]
    assert session.get_inputs() is session.get_inputs()
    assert session.get_outputs() is session.get_outputs()
    del session
    assert x.shape[0] == 2
    with pytest.raises(AttributeError):
        x.name = "other"
    with pytest.raises(TypeError, match="No constructor defined"):
        type(x)()


def test_an_outputs_missing_shape_is_inferred(engine):
    model = models.model([models.node("Transpose", "x", "y")], [models.value("x", [2, 3])], [models.value("y", None)])
    assert engine.session(model).get_outputs()[0].shape == [3, 2]


@pytest.mark.parametrize(("declared", "shown"), [
    ([None, 3], ["N", 3]), ([None, None], ["N", 3]), (["M", None], ["M", 3]), (None, ["N", 3]), (["N", 3], ["N", 3])])
def test_what_an_outputs_shape_leaves_open_is_inferred(engine, declared, shown):
    model = models.model([models.node("Neg", "x", "y")], [models.value("x", ["N", 3])], [models.value("y", declared)])
    assert engine.session(model).get_outputs()[0].shape == shown


def test_dims_without_a_name_of_the_model_stay_open(engine):
    model = models.model([models.node("Concat", "x y", "z", axis=0)],
                         [models.value("x", ["N", 3]), models.value("y", ["M", 3])], [models.value("z", [None, 3])])
    assert engine.session(model).get_outputs()[0].shape == [None, 3]


def test_the_models_texts(engine):
    model = models.sums(producer_name="maker", model_version=7, doc_string="what it does", domain="org.example")
    model.graph.doc_string = "how"
    entry = model.metadata_props.add()
    entry.key, entry.value = "names", "{0: 'cat'}"
    session = engine.session(model)
    meta = session.get_modelmeta()
    assert meta is session.get_modelmeta()
    assert (meta.producer_name, meta.version) == ("maker", 7)
    assert (meta.description, meta.domain) == ("what it does", "org.example")
    assert (meta.graph_name, meta.graph_description) == ("g", "how")
    assert meta.custom_metadata_map == {"names": "{0: 'cat'}"}
    with pytest.raises(TypeError, match="No constructor defined"):
        type(meta)()


# ---- session options -------------------------------------------------------------------------------------------------

def test_defaults(engine):
    options = engine.api.SessionOptions()
    found = {name: getattr(options, name) for name in OPTIONS}
    assert {name: int(v) if not isinstance(v, str) else v for name, v in found.items()} == {
        "graph_optimization_level": 99, "intra_op_num_threads": 0, "inter_op_num_threads": 0, "execution_mode": 0,
        "enable_cpu_mem_arena": 1, "enable_mem_pattern": 1, "enable_mem_reuse": 1, "log_severity_level": -1,
        "log_verbosity_level": 0, "logid": "", "use_deterministic_compute": 0, "use_per_session_threads": 1,
        "enable_profiling": 0, "profile_file_prefix": "onnxruntime_profile_", "optimized_model_filepath": "",
        "execution_order": 0}
    assert {type(v) for name, v in found.items() if name.startswith(("enable", "use"))} == {bool}
    assert (type(found["graph_optimization_level"]), type(found["execution_mode"]), type(found["execution_order"])) == (
        engine.api.GraphOptimizationLevel, engine.api.ExecutionMode, engine.api.ExecutionOrder)


@pytest.mark.parametrize(("name", "bad"), [
    ("graph_optimization_level", 99), ("execution_mode", "sequential"), ("intra_op_num_threads", 1.5),
    ("inter_op_num_threads", "2"), ("logid", 3), ("enable_mem_pattern", "yes"), ("log_severity_level", None),
    ("execution_mode", 1), ("execution_order", 0), ("log_severity_level", 1.0), ("log_verbosity_level", "1"),
    ("logid", None), ("profile_file_prefix", Path("p")), ("optimized_model_filepath", None), ("enable_profiling", []),
    ("intra_op_num_threads", 1 << 31), ("log_severity_level", -(1 << 40))])
def test_values_of_another_type_are_refused(engine, name, bad):
    options = engine.api.SessionOptions()
    with pytest.raises(TypeError):
        setattr(options, name, bad)
    assert getattr(options, name) == getattr(engine.api.SessionOptions(), name)


@pytest.mark.parametrize("name", ["enable_cpu_mem_arena", "enable_mem_pattern", "enable_mem_reuse", "enable_profiling",
                                  "use_deterministic_compute"])
@pytest.mark.parametrize("value", [0, 1, None, np.bool_(True), False])
def test_flags_take_numbers(engine, name, value):
    options = engine.api.SessionOptions()
    setattr(options, name, value)
    assert getattr(options, name) is bool(value)


@pytest.mark.parametrize("value", [np.int64(3), True, -2])
def test_numbers_take_what_is_one(engine, value):
    options = engine.api.SessionOptions()
    options.intra_op_num_threads = value
    assert options.intra_op_num_threads == int(value)


def test_unknown_attributes_and_constructor_arguments_are_refused(engine):
    for name in ("gpu_mem_limit", "arena_extend_strategy"):
        with pytest.raises(AttributeError):
            setattr(engine.api.SessionOptions(), name, 1)
    with pytest.raises(TypeError):
        engine.api.SessionOptions(intra_op_num_threads=1)
    with pytest.raises(TypeError):
        engine.api.SessionOptions(engine.api.SessionOptions())


def test_configuration_entries(engine):
    options = engine.api.SessionOptions()
    options.add_session_config_entry("some.key", "1")
    options.add_session_config_entry("some.key", "2")
    assert options.get_session_config_entry("some.key") == "2"
    with pytest.raises(RuntimeError, match="SessionOptions does not have configuration with key: other"):
        options.get_session_config_entry("other")
    for key, value in (("k", ""), ("k", "v" * 8192), ("k" * 1024, "v")):
        assert options.add_session_config_entry(key, value) is None
        assert options.get_session_config_entry(key) == value
    with pytest.raises(RuntimeError):
        options.add_session_config_entry("k", "v" * 8193)
    with pytest.raises(RuntimeError):
        options.add_session_config_entry("", "1")
    with pytest.raises(RuntimeError):
        options.add_session_config_entry("k" * 1025, "1")
    for key, value in (("key", 1), (1, "value")):
        with pytest.raises(TypeError):
            options.add_session_config_entry(key, value)


#: Entries that programs set, with values that ask for nothing special of a model of a sum.
ENTRIES = {
    "session.intra_op.allow_spinning": "0", "session.inter_op.allow_spinning": "0", "session.force_spinning_stop": "1",
    "session.intra_op.spin_duration_us": "10", "session.inter_op.spin_duration_us": "10",
    "session.intra_op.spin_backoff_max": "4", "session.inter_op.spin_backoff_max": "4",
    "session.dynamic_block_base": "4", "session.load_model_format": "ONNX",
    "session.save_model_format": "ONNX", "session.disable_prepacking": "1", "session.set_denormal_as_zero": "0",
    "session.use_ort_model_bytes_directly": "1", "session.use_ort_model_bytes_for_initializers": "0",
    "session.use_memory_mapped_ort_model": "1", "session.record_ep_graph_assignment_info": "1",
    "session.disable_aot_function_inlining": "1", "session.strict_shape_type_inference": "1",
    "session.allow_released_opsets_only": "1", "session.disable_quant_qdq": "1",
    "session.disable_qdq_constant_folding": "1", "session.disable_double_qdq_remover": "1",
    "session.enable_quant_qdq_cleanup": "1", "session.qdqisint8allowed": "1", "session.x64quantprecision": "1",
    "optimization.disable_specified_optimizers": "ConstantFolding", "optimization.enable_gelu_approximation": "1",
    "optimization.enable_cast_chain_elimination": "1", "session.graph_optimizations_loop_level": "1",
    "session.use_env_allocators": "0", "session.use_device_allocator_for_initializers": "1",
    "session.disable_cpu_ep_fallback": "0", "ep.context_enable": "0", "ep.context_embed_mode": "1",
    "ep.share_ep_contexts": "0", "session.disable_model_compile": "0", "no.such.key": "anything",
}


def test_entries_that_programs_set(engine):
    options = engine.api.SessionOptions()
    options.intra_op_num_threads = 2
    for key, value in ENTRIES.items():
        options.add_session_config_entry(key, value)
    session, x = engine.session(models.sums(), options), np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(session.run(["z"], {"x": x, "y": x})[0], x + x)
    assert {k: session.get_session_options().get_session_config_entry(k) for k in ENTRIES} == ENTRIES


def test_every_entry_has_a_row():
    assert set(ENTRIES) - set(SESSION_ENTRIES) == {"no.such.key"}


def test_every_entry_that_is_read_has_a_row_and_every_other_row_says_why_not():
    sources = [(ROOT / path).read_text() for path in ("runtime/programs.py", "runtime/session.py", "runtime/options.py",
                                                      "onnxc/optimized.py")]
    read = set(re.findall(r'"((?:session|optimization|memory|ep)\.[a-z_.]+)"', "\n".join(sources)))
    rows = {**SESSION_ENTRIES, **RUN_ENTRIES}
    assert read == {key for key, text in rows.items() if not text.startswith(ACCEPTED)}
    for of in (onnxc.SessionOptions, onnxc.RunOptions):
        assert {n for n in dir(of()) if not n.startswith("_") and not callable(getattr(of(), n))} - {
            "providers", "dimension_overrides", "shrinks"} == set(documented(of))


def test_entries_that_change_nothing_say_so(ours, caplog):
    options = ours.api.SessionOptions()
    with caplog.at_level(logging.INFO, "onnxc"):
        options.add_session_config_entry("session.set_denormal_as_zero", "0")
        assert not caplog.messages
        options.add_session_config_entry("no.such.key", "1")
        assert "no.such.key is kept and changes nothing" in caplog.text
        options.add_session_config_entry("no.such.key", "2")
        assert "was '1' and is now '2'" in caplog.text


def test_a_session_copies_its_options(engine):
    options = engine.api.SessionOptions()
    options.intra_op_num_threads = 1
    session = engine.session(models.sums(), options)
    options.intra_op_num_threads = 2
    assert session.get_session_options().intra_op_num_threads == 1
    assert session.get_session_options() is session.get_session_options()
    with pytest.raises((TypeError, AttributeError)):
        engine.session(models.sums(), {"intra_op_num_threads": 1})


def test_a_fixed_dimension_shows_and_is_checked(engine):
    options = engine.api.SessionOptions()
    options.add_free_dimension_override_by_name("N", 2)
    options.add_free_dimension_override_by_name("unknown", -5)
    session = engine.session(models.sums(), options)
    assert [i.shape for i in session.get_inputs()] == [[2, 3], [2, 3]]
    x = np.ones((2, 3), np.float32)
    assert session.run(["z"], {"x": x, "y": x})[0].sum() == 12
    with pytest.raises(engine.errors.InvalidArgument, match="index: 0 Got: 1 Expected: 2"):
        session.run(None, {"x": x[:1], "y": x})


def test_run_options(engine):
    options = engine.api.RunOptions()
    assert (options.terminate, options.log_severity_level, options.log_verbosity_level, options.logid) == \
        (False, -1, 0, "")
    assert options.only_execute_path_to_fetches is False
    options.logid = "call 7"
    assert options.logid == "call 7"
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    assert options.get_run_config_entry("memory.enable_memory_arena_shrinkage") == "cpu:0"
    with pytest.raises(RuntimeError, match="RunOptions does not have configuration with key: other"):
        options.get_run_config_entry("other")
    with pytest.raises(RuntimeError):
        options.add_run_config_entry("", "1")
    with pytest.raises(TypeError):
        options.add_run_config_entry("key", 1)
    for arguments, named in (((1,), {}), ((), {"terminate": True})):
        with pytest.raises(TypeError):
            engine.api.RunOptions(*arguments, **named)


@pytest.mark.parametrize(("name", "value", "bad"), [
    ("terminate", True, "yes"), ("log_severity_level", 3, 1.5), ("log_verbosity_level", 1, "1"), ("logid", "run", 1),
    ("only_execute_path_to_fetches", True, "no"), ("terminate", 0, [])])
def test_options_of_a_run_are_kept_and_typed(engine, name, value, bad):
    options = engine.api.RunOptions()
    setattr(options, name, value)
    assert getattr(options, name) == value
    with pytest.raises(TypeError):
        setattr(options, name, bad)
    assert getattr(options, name) == value


def test_one_object_serves_many_runs(engine):
    options, x = engine.api.RunOptions(), np.ones((2, 3), np.float32)
    options.log_severity_level, options.log_verbosity_level, options.logid = 4, 0, "mine"
    for key, value in (("disable_synchronize_execution_providers", "1"), ("no.such.key", "x")):
        options.add_run_config_entry(key, value)
    for model in (models.sums(), models.sums()):
        session = engine.session(model)
        for _ in range(2):
            np.testing.assert_array_equal(session.run(["z"], {"x": x, "y": x}, options)[0], x + x)


@pytest.mark.parametrize("number", ["-1", "0", "", "one", "1.5"])
def test_a_graphs_number_is_one(engine, number):
    session, x = engine.session(models.sums()), np.ones((2, 3), np.float32)
    binding, options = session.io_binding(), engine.api.RunOptions()
    for name in ("x", "y"):
        binding.bind_cpu_input(name, x)
    binding.bind_output("z")
    options.add_run_config_entry("gpu_graph_id", number)
    if number in ("one", "1.5"):
        with pytest.raises(ValueError, match=f"Run option 'gpu_graph_id' must be an integer, got '{number}'"):
            session.run_with_iobinding(binding, options)
    else:
        assert session.run_with_iobinding(binding, options) is None


def test_a_library_of_operators_that_is_not_there(engine):
    with pytest.raises(engine.errors.Fail, match="Failed to load library none/lib.so with error: "):
        engine.api.SessionOptions().register_custom_ops_library("none/lib.so")


# ---- module ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("bad", ["ORT_ENABLE_ALL", None, [1]])
def test_members_are_numbers(engine, bad):
    with pytest.raises(TypeError):
        engine.api.GraphOptimizationLevel(bad)


def test_a_name_is_a_plain_text(engine):
    options = engine.api.SessionOptions()
    options.logid = np.str_("mine")
    assert type(options.logid) is str
    with pytest.raises(TypeError):
        options.enable_mem_reuse = np.str_("yes")
    with pytest.raises(TypeError):
        options.add_initializer(1, engine.api.OrtValue.ortvalue_from_numpy(np.ones(1)))


def test_enums(engine):
    level, mode = engine.api.GraphOptimizationLevel, engine.api.ExecutionMode
    assert [int(getattr(level, f"ORT_{n}")) for n in ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_LAYOUT",
                                                      "ENABLE_ALL")] == [0, 1, 2, 3, 99]
    assert level(99) == level.ORT_ENABLE_ALL
    assert (mode.ORT_SEQUENTIAL.name, int(mode.ORT_PARALLEL)) == ("ORT_SEQUENTIAL", 1)


def test_devices(engine):
    assert engine.api.get_available_providers()[-1] == "CPUExecutionProvider"
    assert engine.api.get_device() in ("CPU", "GPU")
    assert engine.api.get_all_providers() == onnxc.get_all_providers()


def test_providers(engine):
    session = engine.session(models.sums(), providers=[("CPUExecutionProvider", {"arena_extend_strategy": 1})])
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert session.get_provider_options() == {"CPUExecutionProvider": {}}
    assert session.get_providers() is session.get_providers()
    assert engine.session(models.sums(), providers=[]).get_providers() == ["CPUExecutionProvider"]


def test_a_known_provider_that_is_absent_only_warns(engine):
    with pytest.warns(UserWarning, match="is not in available provider names"):
        session = engine.session(models.sums(), providers=["RknpuExecutionProvider", "CPUExecutionProvider"])
    assert session.get_providers() == ["CPUExecutionProvider"]
    with pytest.warns(UserWarning, match="Duplicate provider"):
        engine.session(models.sums(), providers=["CPUExecutionProvider"] * 2)
    session.set_providers(["CPUExecutionProvider"])
    assert session.run(["z"], {"x": np.ones((1, 3), np.float32), "y": np.ones((1, 3), np.float32)})[0].sum() == 6


def test_without_the_cpu_there_is_no_device(engine):
    options = engine.api.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    with pytest.raises(engine.errors.InvalidArgument, match="Conflicting session configuration"):
        engine.session(models.sums(), options)


def test_models_are_opened_by_path(engine, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(models.sums().SerializeToString())
    for form in (path, str(path)):
        session = engine.api.InferenceSession(form, providers=["CPUExecutionProvider"])
        assert os.fspath(session._model_path) == str(path)
    assert engine.session(models.sums())._model_path is None


def test_every_public_name_is_there():
    for name in onnxc.__all__:
        assert getattr(onnxc, name) is not None
    assert set(onnxc.__all__) <= set(dir(onnxc))
    with pytest.raises(AttributeError, match="nope"):
        _ = onnxc.nope


# ---- where threads run -----------------------------------------------------------------------------------------------

def opened_with_affinities(engine, threads: int, text: str):
    options = engine.api.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op_thread_affinities", text)
    return engine.session(models.sums(), options)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity") or not {0, 1} <= os.sched_getaffinity(0),
                    reason="needs two processors")
@pytest.mark.parametrize(("threads", "text", "expected"), [
    (2, "1", [{0}]), (2, "2;", [{1}]), (3, "1;1-2", [{0}, {0, 1}]), (3, "1,2;2", [{0, 1}, {1}])])
def test_threads_run_on_their_processors(engine, threads, text, expected):
    before = set(os.listdir("/proc/self/task"))
    session = opened_with_affinities(engine, threads, text)
    x = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(session.run(["z"], {"x": x, "y": x})[0], x + x)
    wanted = sorted(map(sorted, expected))
    deadline = time.monotonic() + 5         # ONNX Runtime's threads choose their processors when they come to it
    while processors_of_threads_since(before) != wanted and time.monotonic() < deadline:
        time.sleep(0.01)
    assert processors_of_threads_since(before) == wanted


def processors_of_threads_since(before: set[str]) -> list[list[int]]:
    found = []
    for thread in set(os.listdir("/proc/self/task")) - before:
        with contextlib.suppress(ProcessLookupError):       # one that helped to compile
            found.append(sorted(os.sched_getaffinity(int(thread))))
    return sorted(found)


@pytest.mark.parametrize("text", ["", "a", "0", "1;2"])
def test_affinities_that_name_no_groups_of_processors(engine, text, capfd):
    with pytest.raises(RuntimeError):
        opened_with_affinities(engine, 2, text)


def test_one_thread_has_no_affinities(engine):
    assert opened_with_affinities(engine, 1, "1").get_inputs()


def test_a_processor_that_is_not_there_is_warned_of(ours, caplog):
    options = ours.api.SessionOptions()
    options.intra_op_num_threads = 2
    options.add_session_config_entry("session.intra_op_thread_affinities", "60000")
    x = np.ones((2, 3), np.float32)
    session = ours.session(models.sums(), options)
    np.testing.assert_array_equal(session.run(["z"], {"x": x, "y": x})[0], x + x)
    assert "thread 1 cannot be bound to the processors [60000]" in caplog.text
