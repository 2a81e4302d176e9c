"""`onnxc.compile`: from a model to an artifact in one call."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from onnxc.runtime.artifact import save
from onnxc.runtime.compiled import CompiledModel

__all__ = ["compile"]


def compile(model: str | bytes | os.PathLike[str], output: str | os.PathLike[str] | None = None, *,
            target: str | None = None, hooks: Sequence[Callable[[str, Any], None]] = ()) -> CompiledModel:
    """Compiles a model for `target` ("host", "x86-64-v3", ...; None: the setting ONNXC_TARGET).

    Writes the artifact `output` when one is named. Every hook is called with each stage's name and the module after it.
    Raises the classes of `onnxc.errors`.
    """
    from onnxc.driver import CompileOptions, compile_model
    options = CompileOptions.from_config(**({} if target is None else {"target": target}))
    compiled = compile_model(model, options, hooks)
    if output is not None:
        save(compiled, output)
    return compiled
