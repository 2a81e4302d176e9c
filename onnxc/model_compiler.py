"""`ModelCompiler`: compiled models as files and bytes, by ONNX Runtime's way of asking for them.

What it writes are artifacts. `InferenceSession` opens them under any name, because it tells them by their content.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from onnxc import errors
from onnxc.errors import Fail, InvalidArgument
from onnxc.runtime.artifact import save, saved_bytes
from onnxc.runtime.compiled import CompiledModel
from onnxc.runtime.enums import GraphOptimizationLevel, OrtCompileApiFlags
from onnxc.runtime.options import SessionOptions
from onnxc.runtime.programs import Programs
from onnxc.runtime.source import Source

__all__ = ["ModelCompiler"]


class ModelCompiler:
    """Compiles one model, when that is first asked for, as a session with the same options would."""

    def __init__(self, sess_options: SessionOptions, input_model_path_or_bytes: str | bytes | os.PathLike[str],
                 embed_compiled_data_into_model: bool = False,
                 external_initializers_file_path: str | os.PathLike[str] | None = None,
                 external_initializers_size_threshold: int = 1024, flags: int = OrtCompileApiFlags.NONE,
                 graph_optimization_level: GraphOptimizationLevel = GraphOptimizationLevel.ORT_DISABLE_ALL,
                 get_initializer_location_func: Callable[..., Any] | None = None) -> None:
        """`flags` are those of OrtCompileApiFlags. Accepted: `embed_compiled_data_into_model`, because an artifact is
        one file, and `graph_optimization_level`, of rewriting before what compiles; `sess_options` has the level that
        counts. NotImplemented for initializers outside of the artifact."""
        if not isinstance(sess_options, SessionOptions):
            raise TypeError(f"sess_options is of type {type(sess_options)}; expected onnxc.SessionOptions")
        if not isinstance(graph_optimization_level, GraphOptimizationLevel):
            raise TypeError(f"graph_optimization_level is {graph_optimization_level!r}; expected a "
                            "GraphOptimizationLevel")
        if isinstance(input_model_path_or_bytes, (str, bytes)) and not input_model_path_or_bytes:
            raise ValueError("Input model path or bytes are empty")
        if external_initializers_file_path or get_initializer_location_func is not None:
            raise errors.NotImplemented("The constants of a compiled model lie in its own file: leave out "
                                        "external_initializers_file_path and get_initializer_location_func.")
        self._source = Source.of(input_model_path_or_bytes)
        self._options, self._flags = sess_options.copy(), int(flags)
        self._compiled: CompiledModel | None = None

    def compile_to_file(self, output_model_path: str | os.PathLike[str] | None = None) -> None:
        """Writes the compiled model: to `m_ctx.onnx` for a model `m.onnx` when no path is given.

        Fail for a file that exists, under ERROR_IF_OUTPUT_FILE_EXISTS; InvalidArgument where nothing can be written.
        """
        if output_model_path is not None and not isinstance(output_model_path, (str, os.PathLike)):
            raise TypeError(f"Output model's filepath is of unexpected type '{type(output_model_path)}'")
        path = os.fspath(output_model_path) if output_model_path else self._beside_the_model()
        if self._flags & OrtCompileApiFlags.ERROR_IF_OUTPUT_FILE_EXISTS and os.path.exists(path):
            raise Fail(f"The compiled model is not written, since the file '{path}' exists already: remove it, or do "
                       "without ERROR_IF_OUTPUT_FILE_EXISTS.")
        try:
            save(self._program(), path)
        except OSError as error:
            raise InvalidArgument(f"The compiled model cannot be written to {path}: {error}") from None

    def compile_to_bytes(self) -> bytes:
        """The compiled model."""
        return saved_bytes(self._program())

    def compile_to_stream(self, write_function: Callable[[bytes], Any]) -> None:
        """Gives the compiled model to a function that writes it."""
        write_function(self.compile_to_bytes())

    def _program(self) -> CompiledModel:
        if self._compiled is None:
            self._options.check_load()
            self._compiled = Programs(self._source, self._options).plain.compiled
        if self._flags & OrtCompileApiFlags.ERROR_IF_NO_NODES_COMPILED and not self._compiled.kernels:
            raise Fail("Unable to compile any nodes: this model has nothing that a kernel does.")
        return self._compiled

    def _beside_the_model(self) -> str:
        if self._source.path is None:
            raise InvalidArgument("compile_to_file needs a path: the model was given as bytes, which have no name.")
        root, ending = os.path.splitext(self._source.path)
        return f"{root}_ctx{ending or '.onnx'}"
