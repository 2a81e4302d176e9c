"""Steps on the module itself: its functions, enumerations and small objects."""

from __future__ import annotations

import copy
import importlib
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.calls.world import Side, World

__all__ = ["STEPS"]

_ENUMS = ("GraphOptimizationLevel", "ExecutionMode", "ExecutionOrder", "OrtAllocatorType", "OrtMemType",
          "OrtSparseFormat")
_NUMBERS = (0, 1, 2, 99, 7, -1, "ORT_ENABLE_ALL", 1.0, None)


def enums(w: World) -> None:
    name, number = w.choices.pick(_ENUMS), w.choices.pick(_NUMBERS)
    text, look = w.choices.pick((
        ("make", lambda e: e(number)), ("text", lambda e: str(e(number))), ("int", lambda e: int(e(number))),
        ("equal", lambda e: (e(number) == number, e(number) != number, e(number) == e(number))),
        ("hash", lambda e: {e(number): 1}[e(number)]), ("pickle", lambda e: pickle.loads(pickle.dumps(e(number)))),
        ("name", lambda e: e(number).name), ("members", lambda e: [(k, int(v)) for k, v in e.__members__.items()]),
        ("copy", lambda e: copy.deepcopy(e(number)) == e(number)), ("value", lambda e: e(number).value),
        ("index", lambda e: [0, 1, 2][e(number)]),
    ))
    w.both(f"enum {text}({name}, {number!r})", lambda s: look(getattr(s.api, name)))


def devices(w: World) -> None:
    name = w.choices.pick(("cpu", "cuda", "gpu", "npu", "dml", "cann", "webgpu", "CPU", "tpu", "", 1, None))
    index, vendor = w.choices.pick((0, 1, 3, -1, "a", 1.5)), w.choices.pick((None, -1, 0, 0x10DE))
    w.both(f"OrtDevice.make({name!r}, {index!r}, {vendor!r})",
           lambda s: s.api.OrtDevice.make(name, index) if vendor is None else s.api.OrtDevice.make(name, index, vendor))


def memory(w: World) -> None:
    text, call = w.choices.pick((
        ("OrtMemoryInfo", lambda s: s.api.OrtMemoryInfo("Cpu", s.api.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0,
                                                        s.api.OrtMemType.DEFAULT)),
        ("OrtMemoryInfo(1)", lambda s: s.api.OrtMemoryInfo(1, 2, 3, 4)),
        ("OrtArenaCfg", lambda s: s.api.OrtArenaCfg({"max_mem": 5, "initial_chunk_size_bytes": 7}).max_mem),
        ("OrtArenaCfg(unknown)", lambda s: s.api.OrtArenaCfg({"nope": 5})),
        ("OrtArenaCfg(4)", lambda s: s.api.OrtArenaCfg(1, 2, 3, 4).max_dead_bytes_per_chunk),
        ("OrtArenaCfg(1)", lambda s: s.api.OrtArenaCfg(1)),
    ))
    w.both(text, call)


def functions(w: World) -> None:
    text, call = w.choices.pick((
        ("get_device", lambda m: m.get_device()), ("get_all_providers", lambda m: m.get_all_providers()),
        ("version", lambda m: (type(m.get_version_string()), type(m.version), type(m.__version__))),
        ("set_seed", lambda m: m.set_seed(5)), ("set_seed(text)", lambda m: m.set_seed("a")),
        ("set_seed(float)", lambda m: m.set_seed(1.5)),
        ("has_collective_ops", lambda m: m.has_collective_ops()), ("preload_dlls", lambda m: m.preload_dlls()),
        ("preload_dlls(cuda)", lambda m: m.preload_dlls(cuda=False, cudnn=False, msvc=True, directory="")),
        ("disable_telemetry_events", lambda m: m.disable_telemetry_events()),
        ("get_build_info", lambda m: type(m.get_build_info())),
        ("set_default_logger_severity(text)", lambda m: m.set_default_logger_severity("a")),
        ("set_default_logger_severity(float)", lambda m: m.set_default_logger_severity(1.5)),
        ("set_default_logger_verbosity", lambda m: m.set_default_logger_verbosity(1)),
        ("set_default_logger_verbosity(text)", lambda m: m.set_default_logger_verbosity("a")),
        ("register_execution_provider_library", lambda m: m.register_execution_provider_library("a", "/nope.so")),
        ("copy_tensors(uneven)", lambda m: m.copy_tensors([m.OrtValue.ortvalue_from_numpy(np.ones(1))], [])),
        ("package", lambda m: (m.package_name, m.cuda_version, m.__author__) if m.__name__ == "onnxruntime" else
            ("onnxruntime", "", "Microsoft")),
        ("get_example(unknown)", lambda m: importlib.import_module(f"{m.__name__}.datasets").get_example("nope.onnx")),
    ))
    w.both(f"{text}()", lambda s: call(s.api))


def errors(w: World) -> None:
    """Exceptions made by callers."""
    name = w.choices.pick(("Fail", "InvalidArgument", "NoSuchFile", "NoModel", "EngineError", "RuntimeException",
                           "InvalidProtobuf", "ModelLoaded", "NotImplemented", "InvalidGraph", "EPFail"))
    text, look = w.choices.pick((
        ("raised", lambda e: str(e("text"))), ("bases", lambda e: issubclass(e, Exception)),
        ("no runtime error", lambda e: issubclass(e, (RuntimeError, NotImplementedError, OSError, ValueError))),
        ("args", lambda e: e("a", 1).args), ("none", lambda e: e().args),
        ("pickle", lambda e: str(pickle.loads(pickle.dumps(e("text"))))),
    ))
    w.both(f"errors {text}({name})", lambda s: look(getattr(s.errors, name)))


def backend(w: World) -> None:
    """The interface of ONNX for backends."""
    if (pair := w.some("session")) is None or pair.about.is_narrow:
        return
    from tests.calls.feeds import feed_for
    inputs = pair.ours.get_inputs()
    if not all(i.type.startswith("tensor(") and "string" not in i.type for i in inputs):
        return
    feed = feed_for(w.choices, inputs, [])
    if feed.mistakes:
        return
    how = w.choices.pick(("list", "prepare", "dict", "support", "short"))

    def call(s: Side) -> Any:
        module = importlib.import_module(f"{s.name}.backend")
        arrays = [np.asarray(getattr(v, "array", v)) if not hasattr(v, "data_type") else v.numpy()
                  for v in (feed.make(s)[i.name] for i in inputs)]
        if how == "support":
            return module.supports_device("CPU"), module.supports_device("CUDA"), module.supports_device("nope")
        made = module.prepare(pair.about.data, "CPU")
        given: Any = arrays if how != "dict" else {i.name: a for i, a in zip(inputs, arrays, strict=True)}
        return list(made.run(given if how != "short" else arrays[1:]))
    w.both(f"backend {how}({pair.about.name}, {feed.text})", call, None, pair.about.tolerance)


STEPS: Sequence[tuple[Callable[[World], None], int]] = (
    (enums, 3), (devices, 2), (memory, 1), (functions, 2), (errors, 1), (backend, 1),
)
