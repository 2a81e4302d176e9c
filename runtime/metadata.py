"""What a session says about its model: `NodeArg` for each input and output, `ModelMetadata` for the model's texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from onnxc.ir.signature import ValueInfo

__all__ = ["ModelMetadata", "NodeArg", "describe", "describe_model"]

#: What an absent model version is by ONNX Runtime's count; here it is 0.
_UNVERSIONED = (1 << 63) - 1


class NodeArg:
    """An input or output: its name, ONNX type text and declared shape. Made by sessions; read only."""

    __slots__ = ("_name", "_shape", "_type")
    _name: str
    _type: str
    _shape: tuple[int | str | None, ...]

    def __init__(self, *_: object, **__: object) -> None:
        _no_constructor(self)

    @property
    def name(self) -> str:
        return self._name

    @property
    def type(self) -> str:
        """As `tensor(float)`."""
        return self._type

    @property
    def shape(self) -> list[int | str | None]:
        """An int where fixed, the model's own text where symbolic, None where open; [] also for an unknown rank."""
        return list(self._shape)

    def __str__(self) -> str:
        return f"NodeArg(name={self._name!r}, type={self._type!r}, shape={self.shape})"


class ModelMetadata:
    """The model's own texts, empty where it has none, and its version, 0 where it has none."""

    producer_name: str
    graph_name: str
    domain: str
    description: str
    graph_description: str
    version: int
    custom_metadata_map: dict[str, str]

    def __init__(self, *_: object, **__: object) -> None:
        _no_constructor(self)


def _no_constructor(value: object) -> NoReturn:
    raise TypeError(f"{type(value).__module__}.{type(value).__name__}: No constructor defined! Sessions make them.")


def describe(info: ValueInfo, overrides: Mapping[str, int] | None = None) -> NodeArg:
    """The NodeArg of an input or output; dimensions named in `overrides` show their size."""
    arg = object.__new__(NodeArg)
    arg._name, arg._type = info.name, info.type_text
    named = overrides or {}
    arg._shape = tuple(named.get(d, d) if isinstance(d, str) else d for d in info.shape or ())
    return arg


def describe_model(texts: Mapping[str, Any]) -> ModelMetadata:
    """The ModelMetadata of what the importer found about a model."""
    meta = object.__new__(ModelMetadata)
    for name in ("producer_name", "graph_name", "domain", "description", "graph_description"):
        setattr(meta, name, str(texts.get(name, "")))
    version = texts.get("version", _UNVERSIONED)
    meta.version = 0 if version == _UNVERSIONED else int(version)
    meta.custom_metadata_map = dict(texts.get("custom_metadata_map", {}))
    return meta
