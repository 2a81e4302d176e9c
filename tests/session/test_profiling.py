"""Profiles: what both engines write, and what only onnxc says of its kernels."""

from __future__ import annotations

import gc
import itertools
import json
import logging
import os
import re
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxc
from onnxc.errors import Fail
from tests.session import models

X = np.ones((2, 3), np.float32)
FEED = {"x": X, "y": X}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def options_of(engine, **values):
    options = engine.api.SessionOptions()
    options.enable_profiling = True
    for name, value in values.items():
        setattr(options, name, value)
    return options


def profiled(engine, model: onnx.ModelProto, *feeds, threads: int = 1) -> list[dict]:
    session = engine.session(model, options_of(engine, intra_op_num_threads=threads))
    for feed in feeds:
        session.run(None, feed)
    return json.loads(Path(session.end_profiling()).read_text())


def named(events: list[dict], name: str) -> list[dict]:
    return [e for e in events if e["name"] == name]


# ---- the file --------------------------------------------------------------------------------------------------------

def test_a_session_without_a_profile(engine, folder):
    session = engine.session(models.sums())
    assert session.end_profiling() == ""
    assert session.get_profiling_start_time_ns() == 0
    assert not list(folder.iterdir())


@pytest.mark.parametrize("prefix", [None, "mine"])
def test_the_files_name(engine, folder, prefix):
    options = options_of(engine) if prefix is None else options_of(engine, profile_file_prefix=prefix)
    session = engine.session(models.sums(), options)
    (made,) = folder.iterdir()
    assert made.stat().st_size == 0
    assert session.get_profiling_start_time_ns() > 0
    path = session.end_profiling()
    assert path == made.name
    assert re.fullmatch(r"(onnxruntime_profile_|mine)_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_\d{3}\.json", path)
    assert session.end_profiling() == ""
    assert made.stat().st_size > 0


def test_the_end_of_the_session_ends_the_profile(engine, folder):
    session = engine.session(models.sums(), options_of(engine))
    session.run(None, FEED)
    del session
    gc.collect()
    (made,) = folder.iterdir()
    assert named(json.loads(made.read_text()), "model_run")


def test_events_are_complete_events_a_line_each(engine, folder):
    session = engine.session(models.sums(), options_of(engine))
    session.run(None, FEED)
    text = Path(session.end_profiling()).read_text()
    events = json.loads(text)
    assert len([line for line in text.splitlines() if line.startswith("{")]) == len(events)
    for event in events:
        assert set(event) == {"cat", "pid", "tid", "dur", "ts", "ph", "name", "args"}
        assert event["ph"] == "X"
        assert event["pid"] == os.getpid()
        assert {type(event[key]) for key in ("ts", "dur", "tid")} == {int}
        assert event["cat"] in ("Session", "Node")
        assert event["cat"] == "Node" or event["args"] == {}
    ends = [e["ts"] + e["dur"] for e in events if not e["name"].startswith("compile:")]
    assert ends == sorted(ends)
    assert [e["name"] for e in events if not e["name"].startswith("compile:")] == [
        "model_loading_array", "session_initialization", "add_z_kernel_time", "neg_w_kernel_time",
        "SequentialExecutor::Execute", "model_run"]


def test_events_of_a_thread_are_nested(engine):
    events = profiled(engine, models.chain(4), *[{"x": np.ones((5, 32), np.float32)}] * 3)
    for _, of_thread in itertools.groupby(sorted(events, key=lambda e: e["tid"]), lambda e: e["tid"]):
        spans = sorted(((e["ts"], e["ts"] + e["dur"]) for e in of_thread), key=lambda s: (s[0], -s[1]))
        for (a, b), (c, d) in itertools.combinations(spans, 2):
            assert c >= b or d <= b, f"{a}..{b} and {c}..{d} overlap"


def test_phases_of_the_session_and_of_each_run(engine, folder):
    events = profiled(engine, models.sums(), FEED, FEED)
    (loading,), (ready,) = named(events, "model_loading_array"), named(events, "session_initialization")
    runs, inside = named(events, "model_run"), named(events, "SequentialExecutor::Execute")
    assert len(runs) == len(inside) == 2
    assert loading["ts"] <= ready["ts"] <= runs[0]["ts"] <= inside[0]["ts"]
    path = folder / "m.onnx"
    path.write_bytes(models.sums().SerializeToString())
    session = engine.api.InferenceSession(str(path), options_of(engine), providers=["CPUExecutionProvider"])
    assert named(json.loads(Path(session.end_profiling()).read_text()), "model_loading_uri")


def test_a_node_says_what_it_read_and_wrote(engine):
    (event,) = named(profiled(engine, models.picks(), {"x": np.ones((4, 5), np.float32), "i": np.array([1, 2])}),
                     "pick_kernel_time")
    assert event["cat"] == "Node"
    arguments = event["args"]
    assert (arguments["op_name"], arguments["provider"]) == ("Gather", "CPUExecutionProvider")
    assert arguments["node_index"].isdigit()
    assert arguments["input_type_shape"] == [{"float": [4, 5]}, {"int64": [2]}]
    assert arguments["output_type_shape"] == [{"float": [2, 5]}]
    assert (arguments["activation_size"], arguments["parameter_size"], arguments["output_size"]) == ("96", "0", "40")


def test_constants_are_inputs_of_a_node(engine):
    weights = models.constant("c", np.ones(3, np.float32))
    model = models.model([models.node("Add", "x c", "y", "n")], [models.value("x", ["N", 3])],
                         [models.value("y", ["N", 3])], [weights])
    (event,) = named(profiled(engine, model, {"x": X}), "n_kernel_time")
    assert event["args"]["input_type_shape"] == [{"float": [2, 3]}, {"float": [3]}]
    assert (event["args"]["activation_size"], event["args"]["parameter_size"]) == ("24", "12")


def test_parallel_sessions_have_the_same_phases(engine):
    options = options_of(engine, execution_mode=engine.api.ExecutionMode.ORT_PARALLEL, inter_op_num_threads=2)
    session = engine.session(models.sums(), options)
    session.run(None, FEED)
    events = json.loads(Path(session.end_profiling()).read_text())
    assert len(named(events, "SequentialExecutor::Execute")) == len(named(events, "model_run")) == 1


def test_any_name_of_a_node_stands_in_the_file(engine):
    model = models.sums()
    model.graph.node[0].name = 'a"b\\c'
    assert named(profiled(engine, model, FEED), 'a"b\\c_kernel_time')


def test_nodes_without_a_name(engine):
    model = models.copies(models.FLOAT)
    model.graph.node[0].op_type = "Neg"
    model.graph.node[0].name = ""
    events = profiled(engine, model, {"x": X[0]})
    assert [e["name"] for e in events if e["cat"] == "Node"] == ["Neg_0_kernel_time"]


# ---- only here -------------------------------------------------------------------------------------------------------

def test_a_fused_kernel_names_its_nodes_and_its_work(ours):
    weights = np.ones((32, 8), np.float32)
    model = models.model([models.node("MatMul", "x w", "h", "fc"), models.node("Relu", "h", "y", "act")],
                         [models.value("x", ["N", 32])], [models.value("y", ["N", 8])], [models.constant("w", weights)])
    events = profiled(ours, model, {"x": np.ones((3, 32), np.float32)}, {"x": np.ones((5, 32), np.float32)})
    first, second = named(events, "fc+act_kernel_time")
    assert first["args"]["op_name"] == "MatMul+Relu"
    assert first["args"]["nodes"] == ["fc", "act"]
    assert "contract" in first["args"]["kernel"]
    assert first["args"]["threads"] == 1
    assert [e["args"]["flops"] for e in (first, second)] == [2 * n * 32 * 8 + n * 8 for n in (3, 5)]
    assert [e["args"]["output_type_shape"] for e in (first, second)] == [[{"float": [n, 8]}] for n in (3, 5)]
    assert first["args"]["bytes_written"] == 3 * 8 * 4
    assert first["args"]["bytes_read"] >= 3 * 32 * 4 + weights.nbytes
    assert first["args"]["nanoseconds"] > 0


def test_stages_of_the_compiler(ours):
    events = profiled(ours, models.sums())
    stages = [e["name"] for e in events if e["name"].startswith("compile:")]
    assert stages[0] == "compile:import"
    assert stages[-1] == "compile:emit"
    assert {"compile:lower", "compile:fuse", "compile:plan-memory"} <= set(stages)


def test_sizes_out_of_data(ours):
    model = models.model([models.node("NonZero", "x", "y", "find")], [models.value("x", ["N"])],
                         [models.value("y", [1, None], models.INT64)])
    events = profiled(ours, model, {"x": np.array([1, 0, 2], np.float32)})
    assert [e for e in events if e["cat"] == "Node" and e["args"]["nodes"] == ["find"]]


def test_an_artifact_is_profiled(ours, folder):
    onnxc.compile(models.sums().SerializeToString(), "m.onnxc")
    session = onnxc.InferenceSession("m.onnxc", options_of(ours))
    session.run(None, FEED)
    events = json.loads(Path(session.end_profiling()).read_text())
    assert named(events, "add_z_kernel_time")[0]["args"]["op_name"] == "Add"


def test_a_folder_that_is_not_there_is_an_error(ours):
    with pytest.raises(Fail, match="profile_file_prefix"):
        ours.session(models.sums(), options_of(ours, profile_file_prefix="nowhere/at/all"))


def test_the_start_is_on_the_monotonic_clock(ours):
    before = time.monotonic_ns()
    session = ours.session(models.sums(), options_of(ours))
    assert before <= session.get_profiling_start_time_ns() <= time.monotonic_ns()


def test_there_is_an_end_of_events(ours, monkeypatch, caplog):
    monkeypatch.setattr(sys.modules["onnxc.runtime.profiling"], "_MOST_EVENTS", 30)
    with caplog.at_level(logging.ERROR, "onnxc"):
        events = profiled(ours, models.sums(), *[FEED] * 20)
    assert 0 < len(events) <= 30
    assert caplog.text.count("later ones are left out") == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_leaves_the_profile_to_its_parent(ours):
    session = ours.session(models.sums(), options_of(ours))
    session.run(None, FEED)
    child = os.fork()
    if not child:
        session.run(None, FEED)
        os._exit(session.end_profiling() != "")
    assert os.waitpid(child, 0)[1] == 0
    assert len(named(json.loads(Path(session.end_profiling()).read_text()), "model_run")) == 1
