"""Options that change the model of a session: sizes of dimensions, supplied tensors, passes; and values on demand."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import onnx
import pytest

import onnxc
from tests.session import models

X = np.arange(6, dtype=np.float32).reshape(2, 3)
W = np.array([1, 2, 3], np.float32)
OTHER = np.array([5, 6, 7], np.float32)


def scaled() -> onnx.ModelProto:
    """y = x * w, where w = [1, 2, 3] is an initializer."""
    return models.model([models.node("Mul", "x w", "y")], [models.value("x", ["N", 3])], [models.value("y", ["N", 3])],
                        [models.constant("w", W)])


def external(location: str = "w.bin", nbytes: int = 12) -> onnx.ModelProto:
    """The same, with the data of w in a file."""
    model = scaled()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, text in (("location", location), ("length", str(nbytes))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, text
    return model


def value_of(engine, array):
    return engine.api.OrtValue.ortvalue_from_numpy(array)


def run(engine, model, options, **feed):
    return engine.session(model, options).run(None, feed or {"x": X})[0]


# ---- dimensions ------------------------------------------------------------------------------------------------------

def test_a_dimension_is_fixed_by_its_denotation(engine):
    model = models.sums()
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    options = engine.api.SessionOptions()
    options.add_free_dimension_override_by_denotation("DATA_BATCH", 2)
    options.add_free_dimension_override_by_denotation("unknown", 7)
    session = engine.session(model, options)
    assert [i.shape for i in session.get_inputs()] == [[2, 3], [2, 3]]
    np.testing.assert_array_equal(session.run(["z"], {"x": X, "y": X})[0], X + X)
    with pytest.raises(engine.errors.InvalidArgument, match="index: 0 Got: 1 Expected: 2"):
        session.run(None, {"x": X[:1], "y": X})


def test_fixed_dimensions_show_in_outputs(engine):
    options = engine.api.SessionOptions()
    options.add_free_dimension_override_by_name("N", 2)
    session = engine.session(models.sums(), options)
    assert [o.shape for o in session.get_outputs()] == [[2, 3], [2, 3]]


def test_a_program_for_fixed_dimensions_is_compiled_for_them(ours):
    options = ours.api.SessionOptions()
    options.add_free_dimension_override_by_name("N", 2)
    session = ours.session(models.sums(), options)
    assert session._plain.compiled.symbols == ()


def test_a_negative_size_is_refused(ours):
    options = ours.api.SessionOptions()
    options.add_free_dimension_override_by_name("N", -2)
    with pytest.raises(ours.errors.InvalidArgument, match="'N' is given the size -2"):
        ours.session(models.sums(), options)


# ---- tensors ---------------------------------------------------------------------------------------------------------

def test_an_initializer_is_replaced(engine):
    options = engine.api.SessionOptions()
    kept = value_of(engine, OTHER)
    options.add_initializer("w", kept)
    options.add_initializer("unknown", kept)
    np.testing.assert_array_equal(run(engine, scaled(), options), X * OTHER)


@pytest.mark.parametrize("shape", [(1, 3), (2, 3), (1,)])
def test_an_initializer_is_replaced_by_one_of_another_shape(engine, shape):
    options = engine.api.SessionOptions()
    kept = value_of(engine, np.full(shape, 5, np.float32))
    options.add_initializer("w", kept)
    np.testing.assert_array_equal(run(engine, scaled(), options), X * 5)


def test_an_initializer_may_be_given_once_and_as_an_ort_value_only(engine):
    options = engine.api.SessionOptions()
    kept = value_of(engine, OTHER)
    options.add_initializer("w", kept)
    with pytest.raises(RuntimeError, match="already been added"):
        options.add_initializer("w", kept)
    with pytest.raises(RuntimeError):
        options.add_initializer("v", OTHER)


def test_a_replaced_initializer_is_kept_alive_and_counts_in_the_cache(ours):
    model = scaled().SerializeToString()
    for scale in (5, 6):
        options = ours.api.SessionOptions()
        options.add_initializer("w", value_of(ours, np.full(3, scale, np.float32)))
        np.testing.assert_array_equal(run(ours, model, options), X * scale)


def test_a_replaced_initializer_is_read_when_the_session_is_made(ours):
    weights = np.ones((64, 4096), np.float32)       # large enough to be a constant where it lies
    model = models.model([models.node("Mul", "x w", "y")], [models.value("x", ["N", 4096])],
                         [models.value("y", ["N", 4096])], [models.constant("w", np.zeros_like(weights))])
    options = ours.api.SessionOptions()
    options.add_initializer("w", value_of(ours, weights))
    session = ours.session(model, options)
    weights[...] = 5
    np.testing.assert_array_equal(session.run(None, {"x": np.ones((64, 4096), np.float32)})[0], np.ones((64, 4096)))


def test_data_outside_of_the_model_is_supplied(engine):
    options = engine.api.SessionOptions()
    kept = value_of(engine, OTHER)
    options.add_external_initializers(["w"], [kept])
    np.testing.assert_array_equal(run(engine, external(), options), X * OTHER)


@pytest.mark.parametrize(("names", "array"), [(["q"], OTHER), (["w"], OTHER[:2]), (["w"], OTHER.astype(np.float64))])
def test_data_that_the_model_does_not_miss_is_refused(engine, names, array):
    options = engine.api.SessionOptions()
    kept = value_of(engine, array)
    options.add_external_initializers(names, [kept])
    with pytest.raises(engine.errors.Fail):
        engine.session(external(), options)


def test_data_inside_of_the_model_is_not_external(engine):
    options = engine.api.SessionOptions()
    kept = value_of(engine, OTHER)
    options.add_external_initializers(["w"], [kept])
    with pytest.raises(engine.errors.Fail):
        engine.session(scaled(), options)
    with pytest.raises(RuntimeError):
        options.add_external_initializers(["w", "v"], [kept])


def test_whole_files_are_supplied(engine):
    options = engine.api.SessionOptions()
    data = OTHER.tobytes()
    options.add_external_initializers_from_files_in_memory(["w.bin"], [data], [len(data)])
    np.testing.assert_array_equal(run(engine, external(), options), X * OTHER)


def test_files_that_are_too_short_or_others_are_refused(engine):
    data = OTHER.tobytes()
    for name, length in (("w.bin", 8), ("z.bin", 12)):
        options = engine.api.SessionOptions()
        options.add_external_initializers_from_files_in_memory([name], [data], [length])
        with pytest.raises(engine.errors.Fail):
            engine.session(external(), options)
    with pytest.raises(RuntimeError):
        engine.api.SessionOptions().add_external_initializers_from_files_in_memory(["w.bin"], [data], [])


@pytest.mark.parametrize("length", [-1, 13])
def test_a_file_in_memory_is_no_longer_than_its_buffer(ours, length):
    with pytest.raises(RuntimeError, match=f"'w.bin' is said to have {length} bytes, and its buffer has 12"):
        ours.api.SessionOptions().add_external_initializers_from_files_in_memory(["w.bin"], [OTHER.tobytes()], [length])


def test_data_for_an_initializer_of_no_onnx_type(ours):
    model = external()
    model.graph.initializer[0].data_type = 99
    options = ours.api.SessionOptions()
    options.add_external_initializers(["w"], [value_of(ours, OTHER)])
    with pytest.raises(ours.errors.InvalidGraph, match="'w' has element type 99"):
        ours.session(model, options)


def test_a_folder_of_external_data_for_a_model_of_bytes(engine, tmp_path):
    (tmp_path / "w.bin").write_bytes(OTHER.tobytes())
    options = engine.api.SessionOptions()
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(tmp_path))
    np.testing.assert_array_equal(run(engine, external(), options), X * OTHER)
    with pytest.raises(engine.errors.Fail):
        engine.session(external())


def test_loading_can_be_stopped(engine):
    options = engine.api.SessionOptions()
    options.set_load_cancellation_flag(True)
    with pytest.raises(engine.errors.ModelLoadCanceled):
        engine.session(scaled(), options)
    options.set_load_cancellation_flag(False)
    np.testing.assert_array_equal(run(engine, scaled(), options), X * W)


# ---- how it is compiled ----------------------------------------------------------------------------------------------

def test_denormals_are_zero_on_demand(ours):
    """A sum, and a product whose result is denormal. ONNX Runtime takes the switch of a process's first session."""
    tiny = np.full((2, 3), 1e-40, np.float32)
    model = models.model([models.node("Add", "x y", "s"), models.node("Mul", "x y", "p")],
                         [models.value("x", ["N", 3]), models.value("y", ["N", 3])],
                         [models.value("s", ["N", 3]), models.value("p", ["N", 3])])
    small = np.full((2, 3), 1e-20, np.float32)
    plain = ours.session(model)
    assert (plain.run(["s"], {"x": tiny, "y": tiny})[0] > 0).all()
    assert (plain.run(["p"], {"x": small, "y": small})[0] > 0).all()
    options = ours.api.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    flushed = ours.session(model, options)
    assert (flushed.run(["s"], {"x": tiny, "y": tiny})[0] == 0).all()
    assert (flushed.run(["p"], {"x": small, "y": small})[0] == 0).all()
    # The caller's own arithmetic is as it was.
    assert (tiny + tiny > 0).all()
    assert (plain.run(["s"], {"x": tiny, "y": tiny})[0] > 0).all()


def test_denormals_are_zero_on_every_thread(ours):
    options = ours.api.SessionOptions()
    options.intra_op_num_threads = 4
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    session = ours.session(models.sums(), options)
    tiny = np.full((200_000, 3), 1e-40, np.float32)
    assert not session.run(["z"], {"x": tiny, "y": tiny})[0].any()


@pytest.mark.parametrize(("key", "value"), [
    ("session.disable_prepacking", "1"), ("optimization.disable_specified_optimizers", "fold, cse,ConstantFolding"),
    ("session.intra_op.allow_spinning", "0"), ("session.inter_op.allow_spinning", "0"),
    ("session.force_spinning_stop", "1"), ("session.intra_op.spin_duration_us", "10")])
def test_configuration_entries_change_no_result(engine, key, value):
    options = engine.api.SessionOptions()
    options.add_session_config_entry(key, value)
    x = np.random.default_rng(0).standard_normal((7, 32)).astype(np.float32)
    expected = engine.session(models.chain(3)).run(None, {"x": x})[0]
    # Products in another order of addition: three of 32 terms, each within a few ulp of its largest term.
    np.testing.assert_allclose(run(engine, models.chain(3), options, x=x), expected, atol=1e-5)


def test_passes_are_left_out_by_name(ours):
    session = onnxc.InferenceSession(models.chain(3).SerializeToString(), disabled_optimizers=["pack", "GeluFusion"])
    x = np.random.default_rng(0).standard_normal((7, 32)).astype(np.float32)
    plain = ours.session(models.chain(3))
    np.testing.assert_allclose(session.run(None, {"x": x})[0], plain.run(None, {"x": x})[0], atol=1e-5)
    if session.statistics()["cache"] == "off":
        assert "pack" not in {p["name"] for p in session.report()["passes"]}
        assert "pack" in {p["name"] for p in plain.report()["passes"]}


def test_providers_of_the_options_count_when_no_others_are_named(engine):
    options = engine.api.SessionOptions()
    assert not options.has_providers()
    options.add_provider("CPUExecutionProvider", {})
    assert options.has_providers()
    with pytest.raises(RuntimeError, match="Unknown Provider Type: X"):
        options.add_provider("X", {})
    assert engine.session(scaled(), options, providers=None).get_providers() == ["CPUExecutionProvider"]
    with pytest.warns(UserWarning, match="has already been configured with providers"):
        engine.session(scaled(), options)


# ---- values on demand ------------------------------------------------------------------------------------------------

def test_taps_give_values_inside_of_the_model(ours):
    session = ours.session(models.softmaxes())
    x = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    y, h = session.run(None, {"x": x}, taps=["h"])
    e = np.exp(x.astype(np.float64))
    np.testing.assert_allclose(h, e / e.sum(0), rtol=1e-6)
    np.testing.assert_array_equal(y, session.run(None, {"x": x})[0])
    before = session.statistics()["compilations"]
    assert len(session.run(["y"], {"x": x}, taps=["h"])) == 2
    assert session.statistics()["compilations"] == before


def test_taps_of_inputs_initializers_and_outputs(ours):
    y, x, w, again = ours.session(scaled()).run(["y"], {"x": X}, taps=["x", "w", "y"])
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(w, W)
    np.testing.assert_array_equal(y, again)


def test_an_unknown_tap_names_those_that_are_like_it(ours):
    with pytest.raises(ours.errors.InvalidArgument, match="Invalid output name:z1.*there are z"):
        ours.session(models.sums()).run(None, {"x": X, "y": X}, taps=["z1"])


def test_one_name_is_no_list_of_taps(ours):
    with pytest.raises(TypeError, match="list of names"):
        ours.session(models.sums()).run(None, {"x": X, "y": X}, taps="z")


def test_an_artifact_has_no_taps(ours, tmp_path):
    onnxc.compile(models.sums().SerializeToString(), tmp_path / "m.onnxc")
    session = onnxc.InferenceSession(tmp_path / "m.onnxc")
    with pytest.raises(ours.errors.ModelRequiresCompilation, match="z"):
        session.run(None, {"x": X, "y": X}, taps=["z"])
    options = ours.api.RunOptions()
    options.only_execute_path_to_fetches = True
    np.testing.assert_array_equal(session.run(["w"], {"x": X, "y": X}, options)[0], -X - X)


def test_only_what_is_asked_for_is_computed(engine):
    session = engine.session(models.sums())
    options = engine.api.RunOptions()
    options.only_execute_path_to_fetches = True
    np.testing.assert_array_equal(session.run(["w"], {"x": X, "y": X}, options)[0], -X - X)
    w, z, w2 = session.run(["w", "z", "w"], {"x": X, "y": X}, options)
    np.testing.assert_array_equal(z, X + X)
    np.testing.assert_array_equal(w, w2)


def test_memory_is_given_back_after_each_run_without_an_arena(ours):
    for arena in (True, False):
        options = ours.api.SessionOptions()
        options.enable_cpu_mem_arena = arena
        session = ours.session(models.softmaxes(), options)
        session.run(None, {"x": np.ones((300, 300), np.float32)})
        assert (session.memory()["held"] > 0) is arena


def test_memory_is_given_back_after_a_run_that_says_so(engine):
    session = engine.session(models.softmaxes())
    options = engine.api.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    x = np.ones((300, 300), np.float32)
    assert session.run(None, {"x": x}, options)[0].shape == (300, 300)
    if engine.name == "onnxc":
        assert session.memory()["held"] == 0 < session.memory()["peak"]


# ---- what the session tells ------------------------------------------------------------------------------------------

def test_which_device_runs_which_nodes(engine):
    with pytest.raises(engine.errors.Fail, match="record_ep_graph_assignment_info"):
        engine.session(models.sums()).get_provider_graph_assignment_info()
    options = engine.api.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    found = engine.session(models.sums(), options).get_provider_graph_assignment_info()
    assert {part.ep_name for part in found} == {"CPUExecutionProvider"}
    assert [(n.name, n.domain, n.op_type) for part in found for n in part.get_nodes()] == [
        ("add_z", "", "Add"), ("neg_w", "", "Neg")]


def test_the_report_names_kernels_and_their_nodes(ours):
    report = ours.session(models.softmaxes()).report()
    assert {node for k in report["kernels"] for node in k["nodes"]} == {"softmax_h", "softmax_y"}
    assert all(k["name"] and k["launches"] == 1 for k in report["kernels"])
    assert report["host_ops"] == []
    assert report["placement"] == {"CPUExecutionProvider": ["softmax_h", "softmax_y"]}


def test_memory_is_counted(ours):
    session = ours.session(models.chain(3))
    session.run(None, {"x": np.ones((100, 32), np.float32)})
    memory = session.memory()
    assert memory["constants"] >= 32 * 32 * 4
    assert memory["code"] > 0
    assert memory["peak"] >= memory["held"] >= memory["planned"] > 0
    assert session.release_memory() == memory["held"]
    assert session.memory()["held"] == 0


def test_copies_of_a_session(ours):
    options = ours.api.SessionOptions()
    options.add_free_dimension_override_by_name("N", 2)
    session = ours.session(models.sums(), options)
    assert copy.copy(session)._programs is session._programs
    for other in (copy.deepcopy(session), pickle.loads(pickle.dumps(session))):
        assert other._programs is not session._programs
        assert other.get_inputs()[0].shape == [2, 3]
        np.testing.assert_array_equal(other.run(["z"], {"x": X, "y": X})[0], X + X)


def test_tuning_and_dynamic_options_are_accepted(engine):
    session = engine.session(models.sums())
    assert session.get_tuning_results() == []
    assert session.set_tuning_results([]) is None
    assert session.set_ep_dynamic_options({"a": "b"}) is None
    assert session.release_captured_graph() is None


# ---- the optimized model ---------------------------------------------------------------------------------------------

def roundabout() -> onnx.ModelProto:
    """y = x * (w + w) + 1, with an Identity, a Constant and a node that nobody needs."""
    return models.model(
        [models.node("Add", "w w", "w2"), models.node("Identity", "w2", "w3"), models.node("Mul", "x w3", "h"),
         models.node("Constant", "", "one", value=models.constant("", np.array([1], np.float32))),
         models.node("Add", "h one", "y"), models.node("Neg", "h", "unused")],
        [models.value("x", ["N", 3])], [models.value("y", ["N", 3])], [models.constant("w", W)])


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_BASIC"])
def test_the_optimized_model_is_written_and_does_the_same(engine, tmp_path, level):
    options = engine.api.SessionOptions()
    options.graph_optimization_level = getattr(engine.api.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    expected = run(engine, roundabout(), options)
    written = onnx.load(tmp_path / "optimized.onnx")
    onnx.checker.check_model(written)
    assert written.ir_version == roundabout().ir_version
    assert "" in {i.domain for i in written.opset_import}
    # ONNX Runtime keeps the node that nobody needs.
    assert [n.op_type for n in written.graph.node if n.op_type not in ("Identity", "Constant", "Neg")] == \
        (["Mul", "Add"] if level == "ORT_ENABLE_BASIC" else ["Add", "Mul", "Add"])
    np.testing.assert_array_equal(engine.session(written).run(None, {"x": X})[0], expected)
    np.testing.assert_array_equal(expected, X * (W + W) + 1)


def test_weights_of_the_optimized_model_may_lie_beside_it(engine, tmp_path):
    options = engine.api.SessionOptions()
    options.graph_optimization_level = engine.api.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights.bin")
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "100")
    x = np.ones((2, 32), np.float32)
    (expected,) = engine.session(models.chain(2), options).run(None, {"x": x})
    assert (tmp_path / "weights.bin").stat().st_size >= 32 * 32 * 4
    again = engine.api.InferenceSession(str(tmp_path / "optimized.onnx"), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(again.run(None, {"x": x})[0], expected, rtol=1e-6)


def test_the_optimized_model_of_one_that_is_opened_through_links(ours, tmp_path):
    """As the caches of model hubs keep them: files in one folder, links to them in another."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "links").mkdir()
    onnx.save_model(external(), tmp_path / "blobs" / "m.onnx")
    (tmp_path / "blobs" / "w.bin").write_bytes(OTHER.tobytes())
    for name in ("m.onnx", "w.bin"):
        (tmp_path / "links" / name).symlink_to(tmp_path / "blobs" / name)
    options = ours.api.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ours.api.InferenceSession(str(tmp_path / "links" / "m.onnx"), options)
    again = ours.api.InferenceSession(str(tmp_path / "optimized.onnx"))
    np.testing.assert_array_equal(again.run(None, {"x": X})[0], X * OTHER)


def test_the_least_size_of_weights_apart_is_a_number(ours, tmp_path):
    options = ours.api.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "m.onnx")
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "many")
    with pytest.raises(ours.errors.InvalidArgument, match="'many'; expected a number of bytes"):
        ours.session(scaled(), options)


def test_the_optimized_model_may_be_an_artifact(ours, tmp_path):
    options = ours.api.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "m.onnxc")
    expected = run(ours, roundabout(), options)
    again = onnxc.InferenceSession(tmp_path / "m.onnxc")
    np.testing.assert_array_equal(again.run(None, {"x": X})[0], expected)
    assert again.statistics()["compilations"] == 0


@pytest.mark.parametrize("name", ["none/m.onnx", "none/m.ort"])
def test_where_no_model_can_be_written(ours, tmp_path, name):
    options = ours.api.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / name)
    with pytest.raises(ours.errors.InvalidArgument, match=name):
        ours.session(scaled(), options)


def test_a_path_object_is_no_text(engine, tmp_path):
    with pytest.raises(TypeError):
        engine.api.SessionOptions().optimized_model_filepath = tmp_path / "m.onnx"
