"""The table of lowerings, filled by the family files when it is first asked."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, TypeVar, overload

__all__ = ["LOWERINGS", "lowering", "lowering_of"]

LowerFn = Callable[..., Any]
Fn = TypeVar("Fn", bound=LowerFn)
LOWERINGS: dict[str, LowerFn] = {}
_INFRASTRUCTURE = {"context", "lower", "table"}


@overload
def lowering(target: str) -> Callable[[Fn], Fn]: ...


@overload
def lowering(target: Fn) -> Fn: ...


def lowering(target: Any) -> Any:
    """Register a lowering: `@lowering` takes the op's name from the function, `@lowering("domain.Op")` says it."""
    if isinstance(target, str):
        return lambda fn: _add(target, fn)
    return _add(target.__name__, target)


def _add(name: str, fn: Fn) -> Fn:
    if name in LOWERINGS:
        raise ValueError(f"two lowerings of {name}: {LOWERINGS[name].__module__} and {fn.__module__}")
    LOWERINGS[name] = fn
    return fn


def lowering_of(op_name: str) -> LowerFn | None:
    """The lowering of `onnx.<name>`; None when there is none."""
    _load_families()
    return LOWERINGS.get(op_name.removeprefix("onnx."))


@functools.cache
def _load_families() -> None:
    package = importlib.import_module("onnxc.lowerings")
    for info in pkgutil.iter_modules(package.__path__):
        if info.name not in _INFRASTRUCTURE:
            importlib.import_module(f"onnxc.lowerings.{info.name}")
