"""Lists of providers and their options: what a session makes of them, and which are mistakes. Run on both engines where
they agree; ONNX Runtime tells of a mistake only where `enable_fallback` is off, and otherwise goes on with the CPU."""

from __future__ import annotations

import numpy as np
import pytest

from tests.session import models

X = np.arange(6, dtype=np.float32).reshape(2, 3)
FEED = {"x": X, "y": X}
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
ITEMS = r"'providers' values must be either strings or \(string, dict\) tuples"


def works(session) -> None:
    assert session.get_providers() == [CPU]
    np.testing.assert_array_equal(session.run(["z"], FEED)[0], X + X)


@pytest.mark.parametrize("providers", [None, [], (), [CPU], (CPU,), [(CPU, {})]], ids=str)
def test_the_cpu_is_the_default_and_may_be_named(engine, providers):
    works(engine.session(models.sums(), providers=providers))


def test_the_cpu_is_appended_where_it_is_missing(engine):
    with pytest.warns(UserWarning, match=f"Specified provider '{CUDA}' is not in available provider names.Available "
                                         "providers: '.*CPUExecutionProvider'"):
        works(engine.session(models.sums(), providers=[CUDA]))


def test_a_name_twice_counts_once(engine):
    with pytest.warns(UserWarning, match=f"Duplicate provider '{CPU}' encountered, ignoring."):
        works(engine.session(models.sums(), providers=[(CPU, {"a": "1"}), CPU]))


@pytest.mark.parametrize("arguments", [
    {"providers": [(CPU, {1: 2, "use": None})]}, {"providers": [CPU], "provider_options": [{1: 2, "use": None}]},
    {"providers": (CPU,), "provider_options": ({},)}, {"providers": None, "provider_options": [{"a": 1}]}], ids=str)
def test_options_of_the_cpu_are_any_and_kept_nowhere(engine, arguments):
    session = engine.session(models.sums(), **arguments)
    assert session.get_provider_options() == {CPU: {}}
    works(session)


@pytest.mark.parametrize(("arguments", "kind", "text"), [
    ({"providers": [(CPU, {})], "provider_options": [{}]}, ValueError,
     "Only string values for 'providers' are supported if 'provider_options' is given."),
    ({"providers": [CPU], "provider_options": [{}, {}]}, ValueError, "should be the same length"),
    ({"providers": [CPU], "provider_options": []}, ValueError, "should be the same length"),
    ({"providers": [], "provider_options": [{}]}, ValueError, "should be the same length"),
    ({"providers": [CPU], "provider_options": {"a": 1}}, ValueError, "'provider_options' should be a sequence"),
    ({"providers": [CPU], "provider_options": [1]}, ValueError, "'provider_options' .*dicts"),
    ({"providers": {CPU}}, ValueError, "'providers' should be a sequence."),
    ({"providers": {CPU: {}}}, ValueError, "'providers' should be a sequence."),
    ({"providers": [1]}, ValueError, ITEMS), ({"providers": [[CPU, {}]]}, ValueError, ITEMS),
    ({"providers": [(CPU, {}, 1)]}, ValueError, ITEMS), ({"providers": [(CPU, "a")]}, ValueError, ITEMS),
    ({"providers": ["X"]}, RuntimeError, "Unknown Provider Type: X"),
    ({"providers": [CPU.lower()]}, RuntimeError, "Unknown Provider Type: cpuexecutionprovider"),
    ({"providers": ["TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider"]}, ValueError,
     "Cannot enable both 'TensorrtExecutionProvider' and 'NvTensorRTRTXExecutionProvider' in the same session."),
], ids=lambda value: str(value) if isinstance(value, dict) else "")
@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
def test_mistakes(engine, arguments, kind, text):
    with pytest.raises(kind, match=text):
        engine.session(models.sums(), enable_fallback=0, **arguments)


def test_mistakes_are_errors_here_without_being_asked_for(ours, capsys):
    with pytest.raises(RuntimeError, match="Unknown Provider Type: X"):
        ours.session(models.sums(), providers=["X"])
    assert capsys.readouterr().out == ""


def test_a_model_that_does_not_load_is_not_tried_again(engine, capsys):
    with pytest.raises(engine.errors.InvalidProtobuf):
        engine.session(b"junk that is no model")
    assert "EP Error" not in capsys.readouterr().out


def test_every_option_of_cuda_that_callers_pass_is_accepted(engine):
    names = """device_id gpu_mem_limit arena_extend_strategy cudnn_conv_algo_search do_copy_in_default_stream
        cudnn_conv_use_max_workspace cudnn_conv1d_pad_to_nc1d enable_cuda_graph use_tf32 prefer_nhwc fuse_conv_bias
        sdpa_kernel enable_skip_layer_norm_strict_mode user_compute_stream has_user_compute_stream gpu_external_alloc
        gpu_external_free gpu_external_empty_cache use_ep_level_unified_stream tunable_op_enable
        tunable_op_tuning_enable tunable_op_max_tuning_duration_ms enable_cudnn""".split()
    with pytest.warns(UserWarning, match=CUDA):
        works(engine.session(models.sums(), providers=[(CUDA, dict.fromkeys(names, "0")), CPU]))


# ---- chosen anew -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("arguments", [(), (None, None), ([CPU],), ([CPU], [{"a": 1}]), ([(CPU, {})],)], ids=str)
def test_providers_are_set_anew(engine, arguments):
    session = engine.session(models.sums())
    assert session.set_providers(*arguments) is None
    works(session)


def test_bindings_from_before_are_of_no_use_then(engine):
    session = engine.session(models.sums())

    def bound():
        binding = session.io_binding()
        for name, value in FEED.items():
            binding.bind_cpu_input(name, value)
        binding.bind_output("z")
        return binding

    before = bound()
    assert session.run_with_iobinding(before) is None
    session.set_providers([CPU])
    with pytest.raises(ValueError, match=r"IOBinding must be used with the session that created it\."):
        session.run_with_iobinding(before)
    after = bound()
    session.run_with_iobinding(after)
    np.testing.assert_array_equal(after.copy_outputs_to_cpu()[0], X + X)


def test_bindings_outlive_a_list_that_is_refused(ours):
    session = ours.session(models.sums())
    binding = session.io_binding()
    for name, value in FEED.items():
        binding.bind_cpu_input(name, value)
    binding.bind_output("z")
    with pytest.raises(RuntimeError, match="Unknown Provider Type: X"):
        session.set_providers(["X"])
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(binding.copy_outputs_to_cpu()[0], X + X)
