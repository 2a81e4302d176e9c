"""A path or bytes -> a parsed ModelProto whose versions onnxc supports. What is inside the graph is the importer's."""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Mapping

import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import ModelProto

from onnxc.errors import Fail, InvalidArgument, InvalidGraph, InvalidProtobuf, NoSuchFile
from onnxc.frontend.limits import Limits
from onnxc.frontend.problems import printable
from onnxc.frontend.wire import BytesSource, FileSource, Source, Truncated, split

__all__ = ["IR_VERSION", "OPSETS", "LoadedModel", "check_opsets", "load_model", "loaded_proto"]

IR_VERSION = 14
_ORT_IDENTIFIER = b"ORTM"

#: The newest version of every operator set that onnxc knows; models are brought up to these.
OPSETS: dict[str, int] = {
    "": 28,
    "ai.onnx.ml": 5,
    "ai.onnx.preview": 1,
    "ai.onnx.preview.training": 1,
    "ai.onnx.training": 1,
    "com.microsoft": 1,
    "com.microsoft.experimental": 1,
    "com.microsoft.nchwc": 1,
}


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model as read. `folder` is where its external data lies, None when it came as bytes.

    `blobs` holds raw data of large initializers by position in `proto.graph.initializer`, where it is left out;
    `files` the bytes of external files that are in memory, by their location.
    """

    proto: ModelProto
    folder: str | None = None
    path: str | None = None
    blobs: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)
    limits: Limits = dataclasses.field(default_factory=Limits)
    files: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


def load_model(path_or_bytes: str | bytes | os.PathLike, folder: str | os.PathLike | None = None,
               limits: Limits | None = None, ort_format: bool | None = None) -> LoadedModel:
    """Read and parse a model. `folder` overrides where external data is looked for; `ort_format` says whether the model
    is in ONNX Runtime's format (None: by its content).

    Raises TypeError for other types, NoSuchFile, InvalidProtobuf, InvalidArgument when there is no graph, and Fail
    when a version or a limit is exceeded.
    """
    limits = limits or Limits()
    where = os.fspath(folder) if folder is not None else None
    if isinstance(path_or_bytes, bytes):
        return _load_bytes(path_or_bytes, where, limits, ort_format)
    if not isinstance(path_or_bytes, (str, os.PathLike)) or not os.fspath(path_or_bytes):
        raise TypeError(f"Unable to load from type '{type(path_or_bytes)}': pass a path or the bytes of a model"
                        + ("; the path is empty" if isinstance(path_or_bytes, (str, os.PathLike)) else ""))
    path = os.fsdecode(path_or_bytes)
    proto, blobs = _parse_file(path, limits, ort_format)
    _check_versions(proto)
    return LoadedModel(proto, where or os.path.dirname(path) or ".", path, blobs, limits)


def loaded_proto(proto: ModelProto, folder: str | os.PathLike | None = None,
                 limits: Limits | None = None) -> LoadedModel:
    """A model that is a message already, checked as `load_model` does."""
    _check_versions(proto)
    return LoadedModel(proto, None if folder is None else os.fspath(folder), limits=limits or Limits())


def _load_bytes(data: bytes, folder: str | None, limits: Limits, ort_format: bool | None) -> LoadedModel:
    limits.require("model_bytes", len(data), "The size of the model")
    proto, blobs = _parse(BytesSource(data), "Failed to load model because protobuf parsing failed.", ort_format)
    _check_versions(proto)
    return LoadedModel(proto, folder, None, blobs, limits)


def _parse_file(path: str, limits: Limits, ort_format: bool | None) -> tuple[ModelProto, dict[int, np.ndarray]]:
    shown = printable(path, 1000)
    failed = f"Load model from {shown} failed:Protobuf parsing failed."
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise NoSuchFile(f"Load model from {shown} failed:Load model {shown} failed. File doesn't exist") from None
    except OSError as e:
        raise Fail(f"Load model from {shown} failed: the file cannot be opened ({e.strerror}).") from None
    try:
        st = os.fstat(fd)
        if stat.S_ISDIR(st.st_mode):
            raise InvalidProtobuf(f"{failed} It is a directory.")
        if stat.S_ISREG(st.st_mode):
            limits.require("model_bytes", st.st_size, f"The size of {shown}")
            return _parse(FileSource(fd, st.st_size), failed, ort_format)
        return _parse(BytesSource(_drain(fd, shown, limits)), failed, ort_format)
    except _NoGraph as e:
        raise InvalidArgument(f"Load model from {shown} failed:{e.message}") from None
    finally:
        os.close(fd)


def _drain(fd: int, shown: str, limits: Limits) -> bytes:
    """All that a pipe gives."""
    data = bytearray()
    while chunk := os.read(fd, 1 << 20):
        data += chunk
        limits.require("model_bytes", len(data), f"The size of {shown}")
    return bytes(data)


def _parse(source: Source, failed: str, ort_format: bool | None) -> tuple[ModelProto, dict[int, np.ndarray]]:
    try:
        if ort_format is None:
            ort_format = source.read(0, min(8, source.size))[4:] == _ORT_IDENTIFIER
        if ort_format:
            from onnxc.frontend.ort_format import parse_ort_format
            return parse_ort_format(source.array(0, source.size).data)
        message, blobs = split(source)
        proto = ModelProto.FromString(message)
    except (DecodeError, Truncated, OSError) as e:
        raise InvalidProtobuf(f"{failed} It is not an ONNX model, or it was cut short ({e}).") from None
    _check_graph(proto)
    return proto, blobs


class _NoGraph(InvalidArgument):
    """The model has no graph."""


def _check_graph(proto: ModelProto) -> None:
    if not proto.HasField("graph"):
        raise _NoGraph("No graph was found in the protobuf.")


def _check_versions(proto: ModelProto) -> None:
    _check_graph(proto)
    if not 0 <= proto.ir_version <= IR_VERSION:
        raise Fail(f"Unsupported model IR version: {proto.ir_version}, max supported IR version: {IR_VERSION}")
    if not proto.opset_import:
        raise Fail("Missing opset in the model. All ModelProtos MUST have at least one entry that specifies which "
                   "version of the ONNX OperatorSet is being imported.")
    check_opsets(proto.opset_import, "the model")


def check_opsets(imports: object, where: str) -> dict[str, int]:
    """The version of every imported domain ("" is ai.onnx); raises for a version that onnxc does not know."""
    versions: dict[str, int] = {}
    for entry in imports:  # type: ignore[attr-defined]
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        shown = printable(str(domain)) or "ai.onnx"
        most = OPSETS.get(domain)
        if most is not None and entry.version > most:
            raise Fail(f"Opset {entry.version} of domain {shown} is imported by {where}, but is not known. "
                       f"Current official support for domain {shown} is till opset {most}.")
        if entry.version < 1 and most is not None:
            raise InvalidGraph(f"Opset {entry.version} of domain {shown}, which {where} imports, does not exist: "
                               "versions start at 1.")
        if versions.setdefault(domain, entry.version) != entry.version:
            raise Fail(f"Domain {shown} is imported by {where} in two versions, {versions[domain]} and "
                       f"{entry.version}.")
    return versions
