"""The programs of one session's model: compiled, or taken from the cache or an artifact, when they are first needed.

A model has one program for each set of initializers that feeds override, and for each list of values that a caller asks
for instead of the model's outputs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from onnxc.errors import InvalidArgument, ModelRequiresCompilation, OnnxcError, RuntimeException
from onnxc.runtime.artifact import open_artifact
from onnxc.runtime.bind import Contradiction
from onnxc.runtime.compiled import CompiledModel, Signature
from onnxc.runtime.custom import CUSTOM_OPS
from onnxc.runtime.digest import BLOCK, tree_digest
from onnxc.runtime.forked import ChildSafeLock
from onnxc.runtime.hosted import HostedProgram
from onnxc.runtime.movable import Forms
from onnxc.runtime.options import GraphOptimizationLevel, SessionOptions
from onnxc.runtime.profiling import Profile
from onnxc.runtime.program import NativeProgram
from onnxc.runtime.source import Format, Source

__all__ = ["PLAIN", "Programs", "Variant"]

_FOLDER = "session.model_external_initializers_file_folder_path"


class Variant(NamedTuple):
    """Which program of a model: the initializers that are inputs in it, and the values that it gives, None for the
    model's outputs; whether dimensions that the model calls the same are `apart`, each with a size of its own."""

    overridden: tuple[str, ...]
    outputs: tuple[str, ...] | None
    apart: bool = False


PLAIN = Variant((), None)


class Programs:
    """Programs by variant; the one of the model as it is, `plain`, is made at once."""

    def __init__(self, source: Source, options: SessionOptions, disabled: tuple[str, ...] = (),
                 profile: Profile | None = None) -> None:
        """`disabled` names passes that shall not run; others' names are ignored."""
        self._source, self._options, self._profile = source, options, profile
        self._lock = ChildSafeLock()
        self._compilations, self._compile_seconds, self._cache = 0, 0.0, "off"
        self.forms = Forms()        # of what bindings bound so far
        file_format = source.format(options.entry("session.load_model_format"))
        self.is_artifact = file_format is Format.ARTIFACT
        self._request = {**_request(options, disabled), "ort_format": file_format is Format.ORT}
        compiled = open_artifact(source.value) if self.is_artifact else self._compile(PLAIN)
        self.signature: Signature = compiled.signature
        self.plain = self._load(compiled, PLAIN)
        self._all: dict[Variant, NativeProgram | HostedProgram] = {PLAIN: self.plain}

    def get(self, variant: Variant) -> NativeProgram | HostedProgram:
        """The program of a variant. Raises InvalidArgument for values that the model does not have."""
        return self._all.get(variant) or self._make(variant)

    def fitting(self, variant: Variant, shapes: tuple[tuple[int, ...], ...]) -> NativeProgram:
        """The program of a variant of a model without host steps, or the one that lets dimensions of one name differ,
        if these shapes of inputs need it."""
        program = self.get(variant)
        assert isinstance(program, NativeProgram)
        try:
            program.check(shapes)
            return program
        except Contradiction as error:
            return self.apart(variant, error, shapes)

    def apart(self, variant: Variant, error: Contradiction, shapes: tuple[tuple[int, ...], ...]) -> NativeProgram:
        """The program of a variant with its dimensions apart, which takes `shapes`. ONNX Runtime does not compare such
        dimensions, and models are about whose mean nothing by their names: sizes of 1 are broadcast, or never meet.

        Raises InvalidArgument for shapes that make no sense then either, and the `error` itself where nothing can be
        compiled.
        """
        if self.is_artifact or variant.apart:
            raise error
        self._options.log(logging.WARNING, "%s The model is compiled once more, with dimensions that may differ.",
                          error.message)
        try:
            program = self.get(variant._replace(apart=True))
        except OnnxcError as refusal:
            raise error from refusal
        if not isinstance(program, NativeProgram):
            raise error
        try:
            program.binding(shapes)
        except InvalidArgument as refusal:
            raise type(refusal)(f"{refusal.message} ({error.message})") from None
        return program

    def write_optimized(self) -> None:
        """Writes the model where the options say."""
        path = self._options.optimized_model_filepath
        if not path:
            return
        if self.is_artifact:
            raise ModelRequiresCompilation(f"This artifact cannot be written to {path} as a model: it was compiled. "
                                           "Copy its file.")
        from onnxc.optimized import write_optimized
        write_optimized(self.plain.compiled, self._source.value, self._compile_options(PLAIN), path,
                        self._options.entries())

    def _make(self, variant: Variant) -> NativeProgram | HostedProgram:
        with self._lock:
            if variant not in self._all:
                if self.is_artifact:
                    raise ModelRequiresCompilation(
                        f"The initializers {', '.join(variant.overridden)} are constants in this artifact. Open the "
                        "model itself to override them." if variant.overridden else
                        f"An artifact gives its outputs and not the list {', '.join(variant.outputs or ())}. Open the "
                        "model itself to look inside of it.")
                self._all[variant] = self._load(self._compile(variant), variant)
            return self._all[variant]

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

    def _load(self, compiled: CompiledModel, variant: Variant) -> NativeProgram | HostedProgram:
        o = self._options
        how: dict[str, Any] = {"threads": max(o.intra_op_num_threads, 0) or None, "spin_ns": o.spin_ns(),
                               "keep_memory": o.enable_cpu_mem_arena, "profile": self._profile, "log": o.log,
                               "processors": o.processors()}
        if compiled.host is None:
            return NativeProgram(compiled, variant.overridden, **how)
        again = None if self.is_artifact else lambda: self._build(variant)
        return HostedProgram(compiled, again, **how)

    def _compile(self, variant: Variant) -> CompiledModel:
        """A variant of the model compiled, or the same out of the cache."""
        from onnxc.runtime.cache import compile_through, open_cache  # which artifacts do without
        folder = self._options.entry(_FOLDER) or None
        cache = None if CUSTOM_OPS else open_cache()
        if cache is None:
            self._cache = "off"
            return self._build(variant)
        request = {**self._request, **variant._asdict(), "changes": _digests(self._options.model_changes())}
        compiled, hit = compile_through(cache, self._source.value, folder, request,
                                        lambda: self._build(variant))
        self._cache = "hit" if hit else "miss"
        if hit:
            self._options.log(logging.INFO, "taken from the cache: %d kernels", len(compiled.kernels))
        return compiled

    def _compile_options(self, variant: Variant) -> Any:
        from onnxc.driver import Changes, CompileOptions
        changes = Changes(**self._options.model_changes(), outputs=variant.outputs, apart=variant.apart)
        return CompileOptions.from_config(**self._request, overridden=variant.overridden, changes=changes,
                                          folder=self._options.entry(_FOLDER) or None)

    def _build(self, variant: Variant) -> CompiledModel:
        from onnxc.driver import compile_model
        start = time.perf_counter()
        options = self._compile_options(variant)
        try:
            hooks: list[Callable[[str, Any], None]] = [lambda *_: self._options.check_load()]
            if self._profile is not None:
                hooks.append(self._profile.stages())
            compiled = compile_model(self._source.value, options, hooks)
            for hook in hooks:
                hook("emit", None)
        except (OnnxcError, MemoryError):
            raise
        except Exception as error:
            raise RuntimeException(f"The compiler failed on this model, which is a defect of onnxc: "
                                   f"{type(error).__name__}: {error}") from error
        self._compilations += 1
        self._compile_seconds += time.perf_counter() - start
        self._options.log(logging.INFO, "compiled in %.2f s: %d kernels", self._compile_seconds, len(compiled.kernels))
        return compiled


def _request(options: SessionOptions, disabled: tuple[str, ...]) -> dict[str, Any]:
    """What all variants ask of the compiler, as arguments of its options and as JSON has it."""
    plain = options.graph_optimization_level == GraphOptimizationLevel.ORT_DISABLE_ALL
    return {"level": 0 if plain else 3, "disabled": (*options.disabled_passes(), *disabled),
            "flush_denormals": options.entry("session.set_denormal_as_zero") == "1"}


def _digests(changes: dict[str, Any]) -> dict[str, Any]:
    """The changes with digests for arrays: what the compile cache tells them apart by."""
    return {what: {name: _digest(v) if isinstance(v, np.ndarray) else v for name, v in parts.items()}
            for what, parts in changes.items()}


def _digest(array: np.ndarray) -> str:
    if array.dtype == object:
        return repr(array.tolist())
    view = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    return f"{array.dtype}{array.shape}{tree_digest(len(view), lambda at: view[at:at + BLOCK]).hex()}"
