"""The programs of one session's model: compiled, or taken from the cache or an artifact, when they are first needed.

A model has one program for each set of initializers that feeds override.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

from onnxc.errors import ModelRequiresCompilation, OnnxcError, RuntimeException
from onnxc.runtime.artifact import open_artifact
from onnxc.runtime.cache import compile_through, open_cache
from onnxc.runtime.compiled import CompiledModel, Signature
from onnxc.runtime.custom import CUSTOM_OPS
from onnxc.runtime.options import GraphOptimizationLevel, SessionOptions
from onnxc.runtime.profiling import Profile
from onnxc.runtime.program import NativeProgram
from onnxc.runtime.source import Format, Source

__all__ = ["Programs"]

_FOLDER = "session.model_external_initializers_file_folder_path"


class Programs:
    """Programs by the initializers that are inputs in them; the one without any, `plain`, is made at once."""

    def __init__(self, source: Source, options: SessionOptions, profile: Profile | None = None) -> None:
        self._source, self._options, self._profile = source, options, profile
        self._lock = threading.Lock()
        self._compilations, self._compile_seconds, self._cache = 0, 0.0, "off"
        self._format = source.format(options.entry("session.load_model_format"))
        compiled = open_artifact(source.value) if self._format is Format.ARTIFACT else self._compile(())
        self.signature: Signature = compiled.signature
        self.plain = self._load(compiled, ())
        self._all: dict[tuple[str, ...], NativeProgram] = {(): self.plain}

    def get(self, overridden: tuple[str, ...]) -> NativeProgram:
        """The program in which the initializers `overridden` are inputs."""
        return self._all.get(overridden) or self._make(overridden)

    def _make(self, overridden: tuple[str, ...]) -> NativeProgram:
        with self._lock:
            if overridden not in self._all:
                if self._format is Format.ARTIFACT:
                    raise ModelRequiresCompilation(f"The initializers {', '.join(overridden)} are constants in this "
                                                   "artifact. Open the model itself to override them.")
                self._all[overridden] = self._load(self._compile(overridden), overridden)
            return self._all[overridden]

    def statistics(self) -> dict[str, Any]:
        """Counts so far; see `InferenceSession.statistics`."""
        with self._lock:
            programs = list(self._all.values())
            return {"compilations": self._compilations, "compile_seconds": self._compile_seconds, "cache": self._cache,
                    "kernels": sum(len(p.compiled.kernels) for p in programs),
                    "host_ops": sum(len(p.compiled.report.get("host_ops", ())) for p in programs),
                    "runs": sum(p.runs for p in programs)}

    def memory(self) -> dict[str, int]:
        """Bytes; see `InferenceSession.memory`."""
        with self._lock:
            parts = [p.memory() for p in self._all.values()]
        return {key: sum(part[key] for part in parts) for key in parts[0]}

    def release_memory(self) -> int:
        """Gives up the memory that no run uses now; how many bytes that were."""
        with self._lock:
            return sum(p.release_memory() for p in self._all.values())

    def _load(self, compiled: CompiledModel, overridden: tuple[str, ...]) -> NativeProgram:
        o = self._options
        return NativeProgram(compiled, overridden, threads=max(o.intra_op_num_threads, 0) or None, spin_ns=o.spin_ns(),
                             keep_memory=o.enable_cpu_mem_arena, profile=self._profile)

    def _compile(self, overridden: tuple[str, ...]) -> CompiledModel:
        """The model compiled with `overridden` as inputs, or the same out of the cache."""
        plain = self._options.graph_optimization_level == GraphOptimizationLevel.ORT_DISABLE_ALL
        request = {"level": 0 if plain else 3, "overridden": overridden, "ort_format": self._format is Format.ORT}
        folder = self._options.entry(_FOLDER) or None
        cache = None if CUSTOM_OPS else open_cache()
        if cache is None:
            self._cache = "off"
            return self._build(request, folder)
        compiled, hit = compile_through(cache, self._source.value, folder, request,
                                        lambda: self._build(request, folder))
        self._cache = "hit" if hit else "miss"
        if hit:
            self._options.log(logging.INFO, "taken from the cache: %d kernels", len(compiled.kernels))
        return compiled

    def _build(self, request: Mapping[str, Any], folder: str | None) -> CompiledModel:
        from onnxc.driver import CompileOptions, compile_model
        start = time.perf_counter()
        try:
            hooks = () if self._profile is None else (self._profile.stages(),)
            compiled = compile_model(self._source.value, CompileOptions.from_config(**request, folder=folder), hooks)
            if hooks:
                hooks[0]("emit", None)
        except (OnnxcError, MemoryError):
            raise
        except Exception as error:
            raise RuntimeException(f"The compiler failed on this model, which is a defect of onnxc: "
                                   f"{type(error).__name__}: {error}") from error
        self._compilations += 1
        self._compile_seconds += time.perf_counter() - start
        self._options.log(logging.INFO, "compiled in %.2f s: %d kernels", self._compile_seconds, len(compiled.kernels))
        return compiled
