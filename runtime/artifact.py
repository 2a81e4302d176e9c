"""Compiled models as files: `.onnxc`, one file, mapped and not unpacked, opened without the compiler.

    bytes 0..7     magic
    8..11          format version, u32 (numbers are little-endian)
    12..15         zero
    16..23         size of the file, u64
    24..31, 32..39 offset and size of the manifest, u64
    40..71         digest of everything else, bytes 0..39 and 72..end, as `runtime/digest.py` makes it
    from 128 on    constants, object code, program text and manifest, each starting at a multiple of 64

The manifest is JSON: what the program takes and gives, and where each part lies; for a program with host steps, these
and the same of each native segment. Operators in Python are there by name: they have to be registered where it is
opened. Equal models compiled with equal
options give equal bytes. A file is checked whole before any of it is used: damage, and code for another machine, are
typed errors.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import mmap
import os
import struct
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from onnxc import errors
from onnxc.errors import Fail, InvalidProtobuf, NoSuchFile, NotImplemented
from onnxc.ir.dims import Dim, DimLike, parse_dim
from onnxc.ir.signature import ValueInfo
from onnxc.ir.types import Tensor, dtype_named, dtype_of
from onnxc.runtime import cpu
from onnxc.runtime.artifact_host import PlanReader, PlanWriter
from onnxc.runtime.compiled import Cache, CompiledModel, Signature
from onnxc.runtime.digest import BLOCK, Read, TreeChecksum, file_blocks, tree_checksum
from onnxc.runtime.packing import pack

__all__ = ["MAGIC", "ArtifactError", "ArtifactTargetError", "beside", "is_artifact", "open_artifact", "read_artifact",
           "save", "saved_bytes"]

MAGIC = b"\x89ONNXC\r\n"
FORMAT = 5

_HEADER = struct.Struct("<8sII3Q")
_DIGEST_AT, _BODY_AT, _ALIGN = _HEADER.size, 128, 64
_DIGEST_END = _DIGEST_AT + 32
_REPORTED = ("kernels", "launches", "host_ops", "nodes")       # of the report; seconds would make equal models differ


class ArtifactError(InvalidProtobuf):
    """The file is no artifact, or is damaged: the text says where."""


class ArtifactTargetError(NotImplemented):
    """The artifact holds code for another machine; `missing` are the instruction-set extensions that this one lacks."""

    def __init__(self, message: str, missing: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.missing = missing


def is_artifact(start: bytes) -> bool:
    """Whether a file that starts with these (at least 8) bytes is an artifact."""
    return start[:len(MAGIC)] == MAGIC


# ---- writing ---------------------------------------------------------------------------------------------------------

def save(compiled: CompiledModel, path: str | os.PathLike[str], *, key: str | None = None) -> None:
    """Writes an artifact. It appears under its name when it is complete; an older file of that name is replaced.

    With a `key`, the text that `open_artifact` has to be given as well, the file is for its owner only.
    """
    _require_all(compiled)
    with beside(os.fspath(path), private=key is not None) as file:
        _write(file, compiled, key)


def saved_bytes(compiled: CompiledModel) -> bytes:
    """What `save` writes."""
    _require_all(compiled)
    file = io.BytesIO()
    _write(file, compiled, None)
    return file.getvalue()


def _require_all(compiled: CompiledModel) -> None:
    """NotImplemented where parts of the program are made when runs need them."""
    if compiled.report.get("waits"):
        raise errors.NotImplemented(f"A native part of the model is compiled when a run tells the ranks of "
                                    f"{', '.join(compiled.report['waits'])}, and an artifact is compiled before. "
                                    "Declare shapes for them in the model (value_info; of an operator in Python, "
                                    "`outputs` of onnxc.register_op).")


@contextlib.contextmanager
def beside(path: str, private: bool = False) -> Iterator[BinaryIO]:
    """A new file in the folder of `path` that takes its name when all went well, and is gone otherwise. Its name starts
    with a dot until then."""
    target = os.path.abspath(path)
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(target), prefix=f".{os.path.basename(target)[:100]}.")
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if not private:
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _write(file: BinaryIO, compiled: CompiledModel, key: str | None) -> None:
    writer = _Writer(file)
    manifest = {**_entry(writer, compiled), **({} if key is None else {"key": key})}
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    at, size = writer.add(text.encode("ascii"))
    writer.finish(at, size)


def _entry(writer: _Writer, compiled: CompiledModel) -> dict[str, Any]:
    """A program in the manifest; its parts go to the file."""
    constants = [_array(writer, pack(array, dtype_of(array.dtype))) for array in compiled.constants]
    parts = {"object": writer.add(compiled.object_bytes), "program": writer.add(compiled.text.encode())}
    entry = {**_described(compiled), "constants": constants, "parts": parts}
    if compiled.host is not None:
        plans = PlanWriter(lambda array: _array(writer, array), lambda part: _entry(writer, part))
        entry["host"] = plans.plan(compiled.host)
    return entry


def _array(writer: _Writer, array: np.ndarray) -> dict[str, Any]:
    plain = np.asarray(array, order="C")
    return {"dtype": str(dtype_of(plain.dtype)), "shape": list(plain.shape),
            "at": writer.add(plain.reshape(-1).view(np.uint8).data)}


class _Writer:
    """Puts parts one after another into a file, each aligned, and digests them on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest, self._end = file, TreeChecksum(), _DIGEST_END
        file.write(bytes(_DIGEST_END))
        self._put(bytes(_BODY_AT - _DIGEST_END))

    def _put(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._end += len(data)

    def add(self, data: bytes | memoryview) -> list[int]:
        """Appends a part; gives its offset and size."""
        self._put(bytes(-self._end % _ALIGN))
        at = self._end
        self._put(data)
        return [at, len(data)]

    def finish(self, manifest_at: int, manifest_size: int) -> None:
        """Writes the head, which the digest covers as well."""
        head = _HEADER.pack(MAGIC, FORMAT, 0, self._end, manifest_at, manifest_size)
        self._file.seek(0)
        self._file.write(head + self._digest.digest(head))


def _described(compiled: CompiledModel) -> dict[str, Any]:
    signature = compiled.signature
    return {
        "target": compiled.target, "features": sorted(compiled.features), "symbols": list(compiled.symbols),
        "run_symbols": [[name, str(most) if isinstance(most, Dim) else most] for name, most in compiled.run_symbols],
        "caches": [dataclasses.astuple(cache) for cache in compiled.caches],
        "inputs": [_type_to_json(t) for t in compiled.input_types],
        "outputs": [_type_to_json(t) for t in compiled.output_types],
        "errors": list(compiled.errors), "kernels": list(compiled.kernels), "steps": list(compiled.steps),
        "signature": {"inputs": [_info_to_json(i) for i in signature.inputs],
                      "outputs": [_info_to_json(i) for i in signature.outputs],
                      "overridable": [_info_to_json(i) for i in signature.overridable], "model": signature.model},
        "report": {key: compiled.report[key] for key in _REPORTED if key in compiled.report},
    }


def _type_to_json(t: Tensor) -> dict[str, Any]:
    return {"dtype": str(t.dtype), "dims": [d if isinstance(d, int) else str(d) for d in t.dims]}


def _info_to_json(info: ValueInfo) -> dict[str, Any]:
    return {"name": info.name, "type": info.type_text, "shape": None if info.shape is None else list(info.shape)}


# ---- reading ---------------------------------------------------------------------------------------------------------

def open_artifact(source: str | bytes | os.PathLike[str]) -> CompiledModel:
    """The compiled model in an artifact, by path or as bytes. Constants stay in the mapped file.

    Raises NoSuchFile, ArtifactError for anything that is not as `save` wrote it, Fail for a newer format, and
    ArtifactTargetError for code that this machine cannot run.
    """
    if isinstance(source, bytes):
        data = memoryview(source)
        return _Reader(data, "the bytes", lambda at: data[_DIGEST_END:][at:at + BLOCK]).read()
    shown = os.fsdecode(source)
    try:
        with open(source, "rb") as file:
            return read_artifact(file, shown)
    except FileNotFoundError:
        raise NoSuchFile(f"Load model from {shown} failed:Load model {shown} failed. File doesn't exist") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{shown} cannot be read: {error}") from None


def read_artifact(file: BinaryIO, shown: str, key: str | None = None) -> CompiledModel:
    """The compiled model in an open file, which is called `shown` in errors and has to have been saved with `key`."""
    size = os.fstat(file.fileno()).st_size
    data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
    return _Reader(memoryview(data), shown, file_blocks(file.fileno(), _DIGEST_END)).read(key)


class _Reader:
    """Checks and reads one artifact. The arrays it makes keep the memory that they lie in."""

    def __init__(self, data: memoryview, shown: str, blocks: Read) -> None:
        """`blocks` reads what the digest is of: of a file by another way than `data`, the memory that it is mapped to,
        in which so only what is used comes to lie."""
        self._data, self._shown, self._blocks = data, shown, blocks

    def read(self, key: str | None = None) -> CompiledModel:
        manifest = self._manifest()
        if key is not None and manifest.get("key") != key:
            raise self._damage("it was compiled from something else")
        try:
            self._check_machine(manifest)
            compiled = self._model(manifest)
            self._check_numbers(compiled, key)
            return compiled
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
            raise self._damage(f"its manifest is not as it was written ({type(error).__name__}: {error})") from None

    def _damage(self, what: str) -> ArtifactError:
        return ArtifactError(f"{self._shown} is not a compiled model that can be used: {what}. Compile the model "
                             "again.")

    def _manifest(self) -> Mapping[str, Any]:
        data = self._data
        if len(data) < _BODY_AT or not is_artifact(bytes(data[:len(MAGIC)])):
            raise self._damage(f"it has {len(data)} bytes and does not start as one, or ends in its head")
        _, version, _, size, at, length = _HEADER.unpack_from(data)
        if version != FORMAT:
            raise Fail(f"{self._shown} is a compiled model of format {version}; this version of onnxc reads format "
                       f"{FORMAT}. Compile the model again.")
        if size != len(data):
            raise self._damage(f"it has {len(data)} bytes and should have {size}")
        digest = tree_checksum(size - _DIGEST_END, self._blocks, bytes(data[:_DIGEST_AT]))
        if digest != bytes(data[_DIGEST_AT:_DIGEST_END]):
            raise self._damage("its content does not match its checksum")
        try:
            manifest = json.loads(bytes(self._part([at, length], "the manifest")))
        except (ValueError, RecursionError) as error:
            raise self._damage(f"its manifest is not JSON ({error})") from None
        if not isinstance(manifest, dict):
            raise self._damage("its manifest is not an object")
        return manifest

    def _part(self, place: Any, what: str) -> memoryview:
        """The bytes of a part, whose offset and size are checked."""
        if not (isinstance(place, list) and len(place) == 2 and all(type(n) is int for n in place)):
            raise self._damage(f"the place of {what} is {place!r}, not an offset and a size")
        at, size = place
        if at % _ALIGN or at < _BODY_AT or size < 0 or at + size > len(self._data):
            raise self._damage(f"{what} would lie at {at}..{at + size}, which is not inside it or not aligned")
        return self._data[at:at + size]

    def _check_machine(self, manifest: Mapping[str, Any]) -> None:
        target, features = _text(manifest["target"]), _texts(manifest["features"])
        triple = target.partition("/")[0]
        if triple.partition("-")[0] != cpu.architecture() or cpu.system() not in triple:
            raise ArtifactTargetError(f"{self._shown} is compiled for {target}; this machine is {cpu.architecture()} "
                                      f"with {cpu.system()}. Compile the model for it.")
        lacking = tuple(cpu.missing(features))
        if lacking:
            raise ArtifactTargetError(f"{self._shown} is compiled for {target}; this processor lacks "
                                      f"{', '.join(lacking)}. Compile the model with a target that does without, such "
                                      "as x86-64-v3.", lacking)

    def _model(self, manifest: Mapping[str, Any]) -> CompiledModel:
        parts = manifest["parts"]
        host = manifest.get("host")
        plans = PlanReader(lambda entry: self._constant(entry, "a value that is known"), self._model)
        return CompiledModel(
            object_bytes=bytes(self._part(parts["object"], "the object code")),
            constants=tuple(self._constant(entry, f"constant {i}") for i, entry in enumerate(manifest["constants"])),
            symbols=_texts(manifest["symbols"]),
            input_types=tuple(map(_type_from_json, manifest["inputs"])),
            output_types=tuple(map(_type_from_json, manifest["outputs"])),
            errors=_texts(manifest["errors"]), kernels=_texts(manifest["kernels"]), steps=_texts(manifest["steps"]),
            signature=_signature(manifest["signature"]), target=manifest["target"],
            features=_texts(manifest["features"]), text=bytes(self._part(parts["program"], "the program")).decode(),
            report=dict(manifest["report"]), run_symbols=tuple(map(_run_symbol, manifest["run_symbols"])),
            caches=tuple(map(_cache, manifest["caches"])), host=None if host is None else plans.plan(host))

    def _check_numbers(self, compiled: CompiledModel, key: str | None) -> None:
        """A program takes the inputs of its signature; in the cache, where the key says which, also initializers."""
        signature, inputs, outputs = compiled.signature, len(compiled.input_types), len(compiled.output_types)
        if compiled.host is not None:
            inputs, outputs = len(signature.inputs), len(compiled.host.outputs)
        most = len(signature.inputs) + (0 if key is None else len(signature.overridable))
        if not len(signature.inputs) <= inputs <= most or len(signature.outputs) != outputs:
            raise self._damage("its signature has other numbers of inputs or outputs than its program")

    def _constant(self, entry: Mapping[str, Any], what: str) -> np.ndarray:
        data = self._part(entry["at"], what)
        dtype = dtype_named(entry["dtype"]).numpy
        shape = _sizes(entry["shape"])
        if dtype.hasobject or int(np.prod(shape, dtype=object)) * dtype.itemsize != len(data):
            raise self._damage(f"{what} of type {entry['dtype']} and shape {list(shape)} does not have {len(data)} "
                               "bytes")
        return np.frombuffer(data, np.uint8).view(dtype).reshape(shape) if data else np.empty(shape, dtype)


def _cache(entry: Any) -> Cache:
    if not isinstance(entry, list) or [type(x) for x in entry] != [int, int, int, str, str] or min(entry[:3]) < 0:
        raise ValueError(f"{entry!r} does not describe a cache")
    return Cache(*entry)


def _signature(entry: Mapping[str, Any]) -> Signature:
    inputs, outputs, overridable = (tuple(map(_info_from_json, entry[k])) for k in ("inputs", "outputs", "overridable"))
    return Signature(inputs, outputs, overridable, dict(entry["model"]))


def _info_from_json(entry: Mapping[str, Any]) -> ValueInfo:
    shape = entry["shape"]
    for d in shape or ():
        if not (d is None or isinstance(d, str) or (type(d) is int and d >= 0)):
            raise ValueError(f"{d!r} is not a dimension")
    return ValueInfo(_text(entry["name"]), _text(entry["type"]), None if shape is None else tuple(shape))


def _type_from_json(entry: Mapping[str, Any]) -> Tensor:
    return Tensor(dtype_named(entry["dtype"]), tuple(_dim(d) for d in entry["dims"]))


def _dim(d: Any) -> DimLike:
    if isinstance(d, str):
        parsed = parse_dim(d)
        if isinstance(parsed, Dim):
            return parsed
    elif type(d) is int and d >= 0:
        return d
    raise ValueError(f"{d!r} is not a dimension")


def _run_symbol(entry: Any) -> tuple[str, DimLike | None]:
    name, bound = entry
    return _text(name), parse_dim(bound) if isinstance(bound, str) else None if bound is None else int(bound)


def _sizes(entry: Any) -> tuple[int, ...]:
    if not all(type(n) is int and n >= 0 for n in entry):
        raise ValueError(f"{entry!r} is not a shape")
    return tuple(entry)


def _text(entry: Any) -> str:
    if not isinstance(entry, str):
        raise TypeError(f"{entry!r} is not a text")
    return entry


def _texts(entry: Any) -> tuple[str, ...]:
    if not isinstance(entry, list):
        raise TypeError(f"{entry!r} is not a list of texts")
    return tuple(map(_text, entry))
