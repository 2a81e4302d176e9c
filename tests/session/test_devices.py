"""Devices, the memory that sessions use, and allocators. Every row holds for ONNX Runtime itself."""

from __future__ import annotations

import numpy as np
import pytest

from tests.session import models

X = np.ones((2, 3), np.float32)


def test_the_processor_is_a_device(engine):
    *_, cpu = engine.api.get_ep_devices()
    assert cpu.ep_name == "CPUExecutionProvider"
    assert cpu.ep_vendor
    assert cpu.ep_metadata["version"] == engine.api.get_version_string()
    assert cpu.ep_options == {}
    hardware = cpu.device
    assert (hardware.type, hardware.device_id) == (engine.api.OrtHardwareDeviceType.CPU, 0)
    assert isinstance(hardware.vendor, str)
    assert isinstance(hardware.vendor_id, int)
    assert isinstance(hardware.metadata, dict)
    assert cpu.memory_info(engine.api.OrtDeviceMemoryType.DEFAULT) is None
    with pytest.raises(RuntimeError, match="does not use DEFAULT memory of a non-CPU device"):
        cpu.create_sync_stream()
    with pytest.raises(AttributeError):
        cpu.ep_name = "other"


def test_the_same_processor_has_the_same_maker():
    onnxc, ort = pytest.importorskip("onnxc"), pytest.importorskip("onnxruntime")
    ours, theirs = onnxc.get_ep_devices()[-1].device, ort.get_ep_devices()[-1].device
    if not ours.vendor:
        pytest.skip("a maker that is not known")
    assert (ours.vendor, ours.vendor_id) == (theirs.vendor, theirs.vendor_id)


def test_providers_are_added_by_device(engine):
    options = engine.api.SessionOptions()
    with pytest.raises(engine.errors.InvalidArgument, match="Must provide one or more OrtEpDevice instances"):
        options.add_provider_for_devices([], {})
    with pytest.raises(TypeError):
        options.add_provider_for_devices([3], {})
    options.add_provider_for_devices(engine.api.get_ep_devices(), {"a": "1"})
    assert options.has_providers()
    session = engine.session(models.sums(), options, providers=None)
    assert session.get_providers() == ["CPUExecutionProvider"]
    np.testing.assert_array_equal(session.run(["z"], {"x": X, "y": X})[0], X + X)


@pytest.mark.parametrize("policy", ["DEFAULT", "PREFER_GPU", "MIN_OVERALL_POWER"])
def test_every_policy_finds_the_processor(engine, policy):
    options = engine.api.SessionOptions()
    with pytest.raises(TypeError):
        options.set_provider_selection_policy("PREFER_GPU")
    options.set_provider_selection_policy(getattr(engine.api.OrtExecutionProviderDevicePolicy, policy))
    session = engine.session(models.sums(), options, providers=None)
    assert session.get_providers() == ["CPUExecutionProvider"]


def test_where_inputs_and_outputs_lie(engine):
    session = engine.session(models.picks())
    for infos, count in ((session.get_input_memory_infos(), 2), (session.get_output_memory_infos(), 1)):
        assert [(i.name, i.device_id, i.mem_type, i.allocator_type) for i in infos] == [
            ("Cpu", 0, engine.api.OrtMemType.DEFAULT, engine.api.OrtAllocatorType.ORT_ARENA_ALLOCATOR)] * count
    assert session.get_input_memory_infos() is session.get_input_memory_infos()
    assert [d.ep_name for d in session.get_input_epdevices()] == ["CPUExecutionProvider"] * 2


def test_allocators(engine):
    api = engine.api
    kinds = api.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, api.OrtMemType.DEFAULT
    memory, elsewhere = api.OrtMemoryInfo("Cpu", *kinds), api.OrtMemoryInfo("Cuda", *kinds)
    assert api.create_and_register_allocator(memory, None) is None
    assert api.create_and_register_allocator(memory, api.OrtArenaCfg({"max_mem": 1 << 30})) is None
    assert api.create_and_register_allocator_v2("CPUExecutionProvider", memory, {}, None) is None
    with pytest.raises(RuntimeError, match="Only CPU devices are supported"):
        api.create_and_register_allocator(elsewhere, None)
    with pytest.raises(RuntimeError, match="X is not implemented"):
        api.create_and_register_allocator_v2("X", memory, {}, None)
    with pytest.raises(TypeError):
        api.create_and_register_allocator("Cpu", None)
    options = api.SessionOptions()
    options.add_session_config_entry("session.use_env_allocators", "1")
    np.testing.assert_array_equal(engine.session(models.sums(), options).run(["z"], {"x": X, "y": X})[0], X + X)
    value = api.OrtValue.ortvalue_from_shape_and_type([2, 3], np.float32, memory_info=memory)
    assert value.shape() == [2, 3]


def test_libraries_of_providers(engine, ours):
    with pytest.raises(engine.errors.Fail, match="Failed to load library .*none/lib.so with error: "):
        engine.api.register_execution_provider_library("mine", "none/lib.so")
    with pytest.raises(engine.errors.Fail, match="Execution provider library: mine was not registered"):
        engine.api.unregister_execution_provider_library("mine")
    with pytest.raises(ours.errors.NotImplemented, match="'mine'"):
        ours.api.register_execution_provider_library("mine", __file__)
