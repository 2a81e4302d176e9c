"""`InferenceSession`: a model ready to run, under ONNX Runtime's contract.

Opens models, which are compiled here, and artifacts, which are not; holds one program for each set of overridden
initializers that was fed. Feeds are checked in `runtime/feeds.py`, programs run in `runtime/program.py`.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from onnxc import errors
from onnxc.errors import Fail, InvalidArgument, ModelRequiresCompilation, OnnxcError, RuntimeException
from onnxc.runtime.artifact import MAGIC, is_artifact, open_artifact
from onnxc.runtime.cache import compile_through, open_cache
from onnxc.runtime.compiled import CompiledModel
from onnxc.runtime.feeds import Feeds, wanted_outputs
from onnxc.runtime.metadata import ModelMetadata, NodeArg, describe, describe_model
from onnxc.runtime.options import GraphOptimizationLevel, RunOptions, SessionOptions
from onnxc.runtime.program import NativeProgram
from onnxc.runtime.providers import chosen_providers

__all__ = ["InferenceSession", "set_default_logger_severity"]

_LOG = logging.getLogger("onnxc")
_SEVERITIES = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)
_CPU = "CPUExecutionProvider"
_FOLDER = "session.model_external_initializers_file_folder_path"


def set_default_logger_severity(severity: int) -> None:
    """Sets the level of the logger 'onnxc': 0 verbose, 1 info, 2 warning, 3 error, 4 fatal; RuntimeError for others."""
    if not isinstance(severity, int):
        raise TypeError(f"a severity is an int, not {severity!r}")
    if not 0 <= severity < len(_SEVERITIES):
        raise RuntimeError(f"Invalid logging severity {severity}; expected 0 to {len(_SEVERITIES) - 1}")
    _LOG.setLevel(_SEVERITIES[severity])


class InferenceSession:
    """A model that is ready to run. May run in many threads at once; a forked child may go on using it."""

    def __init__(self, path_or_bytes: str | bytes | os.PathLike[str], sess_options: SessionOptions | None = None,
                 providers: Any = None, provider_options: Any = None, **kwargs: Any) -> None:
        """Opens an ONNX model or an artifact, told apart by content, from a path or as bytes.

        `providers` names devices in order of preference. Keywords of ONNX Runtime that choose among its parts
        (`enable_fallback`, `disabled_optimizers`, `read_config_from_model`) are accepted; others are a TypeError.
        Raises the classes of `onnxc.errors`.
        """
        _check_keywords(kwargs)
        if sess_options and not isinstance(sess_options, SessionOptions):
            raise TypeError(f"sess_options is of type {type(sess_options)}; expected onnxc.SessionOptions")
        self._options = sess_options.copy() if sess_options else SessionOptions()
        if not -1 <= self._options.log_severity_level < len(_SEVERITIES):
            raise RuntimeError(f"Invalid logging severity {self._options.log_severity_level}; expected -1 to 4")
        self._model_path, self._model_bytes = _source(path_or_bytes)
        self._lock = threading.Lock()
        self._providers: list[str] = []
        self._provider_options: dict[str, dict[str, str]] = {}
        self.set_providers(providers, provider_options)
        self._check_device(providers)
        self._open()

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self._source, "options": self._options, "providers": list(self._provider_options.items())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        InferenceSession.__init__(self, state["model"], state["options"], state["providers"])

    # ---- running -----------------------------------------------------------------------------------------------------

    def run(self, output_names: Any, input_feed: Mapping[str, Any],
            run_options: RunOptions | None = None) -> list[npt.NDArray[Any]]:
        """The outputs called `output_names` (None: all, in the model's order) for the inputs in `input_feed`.

        Each output is a new array. Raises ValueError for missing inputs, RuntimeError for values that make no tensor,
        InvalidArgument for whatever else is wrong with feeds or names, Cancelled when `run_options` says so.
        """
        stop = 0
        if run_options is not None:
            stop = _stop_address(run_options)
        arrays, overridden = self._feeds.prepare(input_feed)
        wanted = wanted_outputs(output_names, self._positions)
        program = self._programs.get(overridden) or self._program(overridden)
        outputs = program.run(arrays, stop)
        return outputs if wanted is None else [outputs[i] for i in wanted]

    # ---- what the session is -----------------------------------------------------------------------------------------

    def get_inputs(self) -> list[NodeArg]:
        """The inputs that have to be fed, in the model's order."""
        return self._inputs_meta

    def get_outputs(self) -> list[NodeArg]:
        """The outputs in the model's order."""
        return self._outputs_meta

    def get_overridable_initializers(self) -> list[NodeArg]:
        """The constants that may be fed like inputs."""
        return self._overridable_meta

    def get_modelmeta(self) -> ModelMetadata:
        """The model's own texts."""
        return self._model_meta

    def get_providers(self) -> list[str]:
        """The devices in use, in order of preference."""
        return self._providers

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        """The options of each device."""
        return self._provider_options

    def set_providers(self, providers: Any = None, provider_options: Any = None) -> None:
        """Chooses devices anew. A list that is refused leaves the session as it was."""
        chosen = chosen_providers(providers, provider_options)
        self._providers, self._provider_options = list(chosen), chosen

    def get_session_options(self) -> SessionOptions:
        """The session's own copy of its options; changing it changes nothing."""
        return self._options

    def disable_fallback(self) -> None:
        """Accepted: runs never fall back to another device."""

    def enable_fallback(self) -> None:
        """Accepted: runs never fall back to another device."""

    def statistics(self) -> dict[str, Any]:
        """Counts so far: `compilations` and `compile_seconds`, `runs`, and `kernels` and `host_ops` of the programs;
        whether the compile `cache` had the model the last time that it was asked: "hit", "miss" or "off"."""
        with self._lock:
            programs = list(self._programs.values())
            return {"compilations": self._compilations, "compile_seconds": self._compile_seconds, "cache": self._cache,
                    "kernels": sum(len(p.compiled.kernels) for p in programs),
                    "host_ops": sum(len(p.compiled.report.get("host_ops", ())) for p in programs),
                    "runs": sum(p.runs for p in programs)}

    # ---- programs ----------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        self._compilations, self._compile_seconds, self._cache = 0, 0.0, "off"
        self._is_artifact = _holds_artifact(self._model_path, self._model_bytes)
        compiled = open_artifact(self._source) if self._is_artifact else self._compile(())
        signature, overrides = compiled.signature, self._options.dimension_overrides
        self._feeds = Feeds(signature.inputs, signature.overridable, overrides)
        self._positions = {info.name: i for i, info in reversed(list(enumerate(signature.outputs)))}
        self._inputs_meta = [describe(i, overrides) for i in signature.inputs]
        self._outputs_meta = [describe(o, overrides) for o in signature.outputs]
        self._overridable_meta = [describe(i, overrides) for i in signature.overridable]
        self._model_meta = describe_model(signature.model)
        self._programs: dict[tuple[str, ...], NativeProgram] = {(): self._load(compiled, ())}

    def _check_device(self, named: Any) -> None:
        if self._options.entry("session.disable_cpu_ep_fallback") != "1":
            return
        if any(_CPU in (item, item[0]) for item in named or ()):
            raise InvalidArgument(f"Conflicting session configuration: session.disable_cpu_ep_fallback is 1 and {_CPU} "
                                  "is named. Leave one of them out.")
        raise Fail("session.disable_cpu_ep_fallback is 1, and this model's nodes are assigned to the default CPU EP: "
                   "there is no other device.")

    @property
    def _source(self) -> str | bytes:
        return self._model_bytes if self._model_path is None else self._model_path  # type: ignore[return-value]

    def _program(self, overridden: tuple[str, ...]) -> NativeProgram:
        """The program in which the initializers `overridden` are inputs; compiled when it is first needed."""
        with self._lock:
            if overridden not in self._programs:
                if self._is_artifact:
                    raise ModelRequiresCompilation(f"The initializers {', '.join(overridden)} are constants in this "
                                                   "artifact. Open the model itself to override them.")
                self._programs[overridden] = self._load(self._compile(overridden), overridden)
            return self._programs[overridden]

    def _load(self, compiled: CompiledModel, overridden: tuple[str, ...]) -> NativeProgram:
        o = self._options
        return NativeProgram(compiled, overridden, threads=max(o.intra_op_num_threads, 0) or None, spin_ns=o.spin_ns(),
                             keep_memory=o.enable_cpu_mem_arena)

    def _compile(self, overridden: tuple[str, ...]) -> CompiledModel:
        """The model compiled with `overridden` as inputs, or the same out of the cache."""
        plain = self._options.graph_optimization_level == GraphOptimizationLevel.ORT_DISABLE_ALL
        request = {"level": 0 if plain else 3, "overridden": overridden}
        folder = self._options.entry(_FOLDER) or None
        cache = open_cache()
        if cache is None:
            self._cache = "off"
            return self._build(request, folder)
        compiled, hit = compile_through(cache, self._source, folder, request, lambda: self._build(request, folder))
        self._cache = "hit" if hit else "miss"
        if hit:
            self._log(logging.INFO, "taken from the cache: %d kernels", len(compiled.kernels))
        return compiled

    def _build(self, request: Mapping[str, Any], folder: str | None) -> CompiledModel:
        from onnxc.driver import CompileOptions, compile_model
        start = time.perf_counter()
        try:
            compiled = compile_model(self._source, CompileOptions.from_config(**request, folder=folder))
        except (OnnxcError, MemoryError):
            raise
        except Exception as error:
            raise RuntimeException(f"The compiler failed on this model, which is a defect of onnxc: "
                                   f"{type(error).__name__}: {error}") from error
        self._compilations += 1
        self._compile_seconds += time.perf_counter() - start
        self._log(logging.INFO, "compiled in %.2f s: %d kernels", self._compile_seconds, len(compiled.kernels))
        return compiled

    def _log(self, level: int, text: str, *values: object) -> None:
        severity = self._options.log_severity_level
        if severity < 0 or level >= _SEVERITIES[severity]:
            _LOG.log(level, (f"{self._options.logid}: " if self._options.logid else "") + text, *values)


def _stop_address(options: Any) -> int:
    if not isinstance(options, RunOptions):
        raise TypeError(f"run_options is of type {type(options)}; expected onnxc.RunOptions")
    return options.stop_address()


def _check_keywords(given: Mapping[str, Any]) -> None:
    unknown = sorted(set(given) - {"enable_fallback", "disabled_optimizers", "read_config_from_model"})
    if unknown:
        raise TypeError(f"InferenceSession() got unexpected keyword arguments: {', '.join(unknown)}")


def _source(path_or_bytes: Any) -> tuple[str | None, bytes | None]:
    """Path and bytes of a model, one of which is None."""
    if isinstance(path_or_bytes, bytes):
        return None, path_or_bytes
    if isinstance(path_or_bytes, (bytearray, memoryview)):
        return None, bytes(path_or_bytes)
    if isinstance(path_or_bytes, (str, os.PathLike)) and os.fspath(path_or_bytes):
        return os.fsdecode(path_or_bytes), None
    raise TypeError(f"Unable to load from type '{type(path_or_bytes)}': expected the path or the bytes of a model")


def _holds_artifact(path: str | None, data: bytes | None) -> bool:
    """Whether path or bytes hold an artifact. Raises NotImplemented for ONNX Runtime's own format."""
    start = data or b""
    if path is not None:
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                return False    # a pipe can be read once
            with open(path, "rb") as file:
                start = file.read(len(MAGIC))
        except (OSError, ValueError):
            return False        # the loader of models says what is wrong
    if start[4:8] == b"ORTM":
        raise errors.NotImplemented("The model is in ONNX Runtime's own format, which onnxc does not read. Open the "
                                    "ONNX model that it was made from.")
    return is_artifact(start)
