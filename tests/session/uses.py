"""Every public name of onnxc, used as programs use it; checked with `mypy --strict` and never run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

import onnxc
import onnxc as ort
from onnxc.capi import _pybind_state as C
from onnxc.capi.onnxruntime_inference_collection import InferenceSession as Session
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
    has: bool = o.has_providers()
    o.set_load_cancellation_flag(has)
    return o


def session(path: Path, feed: Mapping[str, npt.NDArray[np.float32]]) -> list[npt.NDArray[np.float32]]:
    run = ort.RunOptions()
    run.terminate = False
    run.only_execute_path_to_fetches = True
    run.add_run_config_entry("k", "v")
    with ort.InferenceSession(path, options(), providers=["CPUExecutionProvider"]) as s:
        first: ort.NodeArg = s.get_inputs()[0]
        shape: list[int | str | None] = first.shape
        meta: ort.ModelMetadata = s.get_modelmeta()
        version: int = meta.version
        kept: dict[str, str] = meta.custom_metadata_map
        providers: list[str] = s.get_providers()
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
        return outputs


def values() -> None:
    value = ort.OrtValue.ortvalue_from_numpy(np.zeros(3, np.float32))
    device: ort.OrtDevice = ort.OrtDevice.make("cpu", 0)
    info = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_DEVICE_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    print(device, info, ort.SparseTensor, ort.OrtSparseFormat.ORT_SPARSE_COO)
    vector = ort.OrtValueVector()
    vector.push_back(value)
    ort.copy_tensors([value], [value])


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
