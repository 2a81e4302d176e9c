"""Every public name of onnxc, used as programs use it; checked with `mypy --strict` and never run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

import onnxc
import onnxc as ort
from onnxc.capi import _pybind_state as C
from onnxc.capi.onnxruntime_inference_collection import Session
from onnxc.capi.onnxruntime_pybind11_state import Fail, InvalidArgument
from onnxc.datasets import get_example


def options() -> ort.SessionOptions:
    o = ort.SessionOptions()
    o.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    o.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    o.execution_order = ort.ExecutionOrder.DEFAULT
    o.intra_op_num_threads = 2
    o.enable_cpu_mem_arena = False
    o.logid = "mine"
    o.add_session_config_entry("session.intra_op.allow_spinning", "0")
    text: str = o.get_session_config_entry("session.intra_op.allow_spinning")
    o.add_free_dimension_override_by_name("N", len(text))
    o.add_free_dimension_override_by_denotation("DATA_BATCH", 1)
    value: ort.OrtValue = ort.OrtValue.ortvalue_from_numpy(np.zeros(3, np.float32))
    o.add_initializer("w", value)
    o.add_external_initializers(["v"], [value])
    o.add_external_initializers_from_files_in_memory(["f"], [b"abc"], [3])
    o.add_provider("CPUExecutionProvider", {})
    devices: list[ort.OrtEpDevice] = ort.get_ep_devices()
    o.add_provider_for_devices(devices, {})
    o.set_provider_selection_policy(ort.OrtExecutionProviderDevicePolicy.PREFER_GPU)
    processor: ort.OrtHardwareDevice = devices[0].device
    print(devices[0].memory_info(ort.OrtDeviceMemoryType.DEFAULT), processor.vendor)
    has: bool = o.has_providers()
    o.set_load_cancellation_flag(has)
    o.inter_op_num_threads = o.intra_op_num_threads + 1
    o.enable_mem_pattern = o.enable_mem_reuse = o.use_per_session_threads = True
    o.enable_profiling = o.use_deterministic_compute = False
    o.log_severity_level, o.log_verbosity_level = 3, 0
    o.profile_file_prefix = o.optimized_model_filepath = ""
    o.register_custom_ops_library("lib.so")
    ort.register_execution_provider_library("mine", "lib.so")
    ort.unregister_execution_provider_library("mine")
    return o


def session(path: Path, feed: Mapping[str, npt.NDArray[np.float32]]) -> list[npt.NDArray[np.float32]]:
    run = ort.RunOptions()
    run.terminate = False
    run.only_execute_path_to_fetches = True
    run.add_run_config_entry("k", "v")
    adapter, content = ort.LoraAdapter(), ort.AdapterFormat.read_adapter("a.onnx_adapter")
    adapter.Load("a.onnx_adapter")
    run.add_active_adapter(adapter)
    content.set_adapter_version(content.get_adapter_version() + content.get_format_version())
    content.set_model_version(content.get_model_version())
    content.set_parameters({**content.get_parameters(), **adapter.parameters()})
    content.export_adapter(path)
    with ort.InferenceSession(path, options(), providers=["CPUExecutionProvider"]) as s:
        first: ort.NodeArg = s.get_inputs()[0]
        shape: list[int | str | None] = first.shape
        meta: ort.ModelMetadata = s.get_modelmeta()
        version: int = meta.version
        kept: dict[str, str] = meta.custom_metadata_map
        providers: list[str] = s.get_providers()
        memory: list[ort.OrtMemoryInfo] = s.get_input_memory_infos() + s.get_output_memory_infos()
        reader: ort.OrtEpDevice = s.get_input_epdevices()[0]
        ort.create_and_register_allocator(memory[0], None)
        ort.create_and_register_allocator_v2(reader.ep_name, memory[0], {}, ort.OrtArenaCfg({"max_mem": 1}))
        ort.ModelCompiler(options(), path, flags=ort.OrtCompileApiFlags.NONE).compile_to_file(path.with_suffix(".ctx"))
        s.set_providers(providers)
        s.run_async(None, feed, lambda results, data, error: print(len(results), data, error), shape, run)
        try:
            outputs: list[npt.NDArray[np.float32]] = s.run(None, feed, run, taps=["h"])
        except (Fail, InvalidArgument, C.NoModel) as error:
            print(error.message, version, kept)
            raise
        binding: ort.IOBinding = s.io_binding()
        s.run_with_iobinding(binding)
        counts: dict[str, int] = s.memory()
        print(s.report(), s.statistics(), counts, s.end_profiling())
        about(s)
        return outputs


def about(s: ort.InferenceSession) -> None:
    arguments: list[ort.NodeArg] = [*s.get_inputs(), *s.get_outputs(), *s.get_overridable_initializers()]
    texts: list[str] = [text for a in arguments for text in (a.name, a.type)]
    meta = s.get_modelmeta()
    texts += [meta.producer_name, meta.description, meta.domain, meta.graph_name, meta.graph_description]
    chosen: dict[str, dict[str, str]] = s.get_provider_options()
    kept: ort.SessionOptions = s.get_session_options()
    parts: list[ort.OrtEpAssignedSubgraph] = s.get_provider_graph_assignment_info()
    placed: list[ort.OrtEpAssignedNode] = [node for part in parts for node in part.get_nodes()]
    nodes: list[str] = [n.op_type for n in placed]
    start: int = s.get_profiling_start_time_ns()
    s.set_tuning_results(s.get_tuning_results())
    s.set_ep_dynamic_options({"key": "value"})
    s.disable_fallback()
    s.enable_fallback()
    s.release_captured_graph()
    print(texts, chosen, kept.logid, nodes, start, s.release_memory())
    s.close()


def on_values(s: ort.InferenceSession, x: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
    run = ort.RunOptions()
    run.log_severity_level, run.log_verbosity_level, run.logid = 2, 0, "one"
    value = s.create_ortvalue_from_shape_and_type([2, 3], np.float32)
    results: list[ort.OrtValue] = s.run_with_ort_values(["y"], {"x": value}, run)
    feeds, fetches = ort.OrtValueVector([value]), ort.OrtValueVector()
    s.run_with_ortvaluevector(run, ["x"], feeds, ["y"], fetches, [])
    binding = s.io_binding()
    binding.bind_cpu_input("x", x)
    binding.bind_ortvalue_input("x", value)
    binding.bind_input(name="x", device_type="cpu", device_id=0, element_type=np.float32, shape=x.shape,
                       buffer_ptr=x.ctypes.data)
    binding.bind_output("y")
    binding.bind_ortvalue_output("y", results[0])
    binding.synchronize_inputs()
    s.run_with_iobinding(binding, run)
    binding.synchronize_outputs()
    print(binding.get_outputs()[0].shape(), len(binding.get_outputs_as_ortvaluevector()), run.get_run_config_entry("k"))
    copies: list[npt.NDArray[np.float32]] = binding.copy_outputs_to_cpu()
    same: ort.SessionIOBinding = binding
    same.synchronize_outputs()
    binding.clear_binding_inputs()
    binding.clear_binding_outputs()
    return copies


def values() -> None:
    value = ort.OrtValue.ortvalue_from_numpy(np.zeros(3, np.float32))
    device: ort.OrtDevice = ort.OrtDevice.make("cpu", 0)
    info = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_DEVICE_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    arena = ort.OrtArenaCfg({"max_mem": 1 << 20})
    print(arena.max_mem, arena.arena_extend_strategy, arena.initial_chunk_size_bytes, arena.max_dead_bytes_per_chunk,
          arena.initial_growth_chunk_size_bytes, arena.max_power_of_two_extend_bytes)
    print(device, info, ort.SparseTensor, ort.OrtSparseFormat.ORT_SPARSE_COO)
    vector = ort.OrtValueVector()
    vector.push_back(value)
    vector.push_back_batch([], [], [], [], [])
    vector.reserve(3)
    vector.shrink_to_fit()
    numbers: list[int] = [*vector.bool_tensor_indices(), vector.element_type_at(0), device.device_id(),
                          device.device_type(), device.device_vendor_id(), device.device_mem_type(), info.device_id,
                          info.device_vendor_id, value.element_type(), value.data_ptr(), value.tensor_size_in_bytes()]
    flags: list[bool] = [value.is_tensor(), value.is_sparse_tensor(), value.is_tensor_sequence(), value.has_value()]
    texts: list[str] = [value.data_type(), value.device_name(), info.name]
    kinds = (info.allocator_type, info.mem_type, info.device_mem_type)
    print(numbers, flags, texts, kinds, vector.dlpack_at(0), vector.to_dlpacks(), value.to_dlpack())
    made: list[ort.OrtValue] = [
        ort.OrtValue.from_dlpack(value), ort.OrtValue.ortvalue_from_shape_and_type([2], "float32", "cpu", 0),
        ort.OrtValue.ortvalue_from_numpy_with_onnx_type(np.zeros(3, np.uint16), 16)]
    made[1].update_inplace(made[0].numpy())
    sparse(device)
    ort.copy_tensors([value], [value])


def sparse(device: ort.OrtDevice) -> None:
    zeros = np.zeros(2, np.float32)
    places = np.array([0, 1])
    make = ort.SparseTensor
    made: list[ort.SparseTensor] = [make.sparse_coo_from_numpy([3, 3], zeros, places, device),
                                    make.sparse_csr_from_numpy([3, 3], zeros, places, np.array([0, 1, 1, 2]), device),
                                    make.sparse_block_from_numpy([4, 4], zeros, places, device)]
    shape: list[int] = made[0].dense_shape()
    texts: list[str] = [made[0].data_type(), made[0].device_name(), made[0].format().name]
    indices = [made[0].as_coo_view().indices(), made[1].as_csrc_view().inner(), made[1].as_csrc_view().outer(),
               made[2].as_blocksparse_view().indices()]
    value: ort.OrtValue = ort.OrtValue.ort_value_from_sparse_tensor(made[0])
    print(shape, texts, indices, value.as_sparse_tensor().values())
    made[0].to_cuda(device)


def module() -> None:
    names: list[str] = [*ort.get_available_providers(), *ort.get_all_providers(), ort.get_device()]
    texts: list[str] = [ort.__version__, ort.version, ort.package_name, ort.cuda_version, ort.get_version_string(),
                        ort.get_build_info(), get_example("mul_1.onnx")]
    ort.preload_dlls(cuda=True, cudnn=True)
    ort.set_seed(1)
    ort.set_default_logger_severity(3)
    ort.set_default_logger_verbosity(0)
    ort.set_global_thread_pool_sizes(1, 1)
    ort.disable_telemetry_events()
    ort.enable_telemetry_events()
    ort.print_debug_info()
    flags = ort.OrtCompileApiFlags.NONE | ort.OrtCompileApiFlags.ERROR_IF_OUTPUT_FILE_EXISTS
    kinds = [ort.OrtDeviceMemoryType.DEFAULT, ort.OrtDeviceVendorId.NVIDIA, ort.OrtHardwareDeviceType.GPU,
             ort.OrtMemoryInfoDeviceType.CPU, ort.OrtExecutionProviderDevicePolicy.PREFER_CPU]
    print(names, texts, ort.has_collective_ops(), flags, kinds, Session)


def operators() -> None:
    onnxc.register_op("my.domain", "Twice", lowering=lambda b, x: b.value("t.add", x, x))
    onnxc.unregister_op("my.domain", "Twice")


def shim() -> None:
    onnxc.install_as_onnxruntime()


def ahead_of_time(model: bytes, path: Path) -> None:
    compiled = onnxc.compile(model, path, target="x86-64-v3")
    again = onnxc.open_artifact(path)
    print(compiled.kernels, again.target)
