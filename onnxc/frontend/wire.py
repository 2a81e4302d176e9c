"""Reads a serialized ModelProto without copying its weights through the protobuf parser.

A model file is almost all `graph.initializer[i].raw_data`. `split` walks the message's top levels, reads every large
one of these straight into its own array, and gives the rest as a small message to parse. The rest is the same
message with those fields left out, so whatever is wrong in it is for the parser to find.

Wire format: https://protobuf.dev/programming-guides/encoding. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from onnxc.frontend.external import read_exactly

__all__ = ["BytesSource", "FileSource", "Source", "Truncated", "split"]

_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_RAW_DATA = 7, 5, 9
_LARGE = 1 << 14
_WINDOW = 1 << 18
_LONGEST_HEADER = 20


class Truncated(ValueError):
    """The message does not have the form that its lengths promise."""


class Source(Protocol):
    """Random access to the bytes of a message."""

    size: int

    def read(self, start: int, length: int) -> bytes:
        """Exactly `length` bytes."""

    def array(self, start: int, length: int) -> np.ndarray:
        """Exactly `length` bytes in a read-only array of their own."""


class BytesSource:
    """A message in memory."""

    def __init__(self, data: bytes) -> None:
        self.data, self.size = data, len(data)

    def read(self, start: int, length: int) -> bytes:
        return self.data[start:start + length]

    def array(self, start: int, length: int) -> np.ndarray:
        out = np.frombuffer(self.data, np.uint8, length, start).copy()
        out.flags.writeable = False
        return out


class FileSource:
    """A message in an open file, read through a window."""

    def __init__(self, fd: int, size: int) -> None:
        self.fd, self.size = fd, size
        self._start, self._window = 0, b""

    def read(self, start: int, length: int) -> bytes:
        if length > _WINDOW:
            return self.array(start, length).tobytes()
        at = start - self._start
        if at < 0 or at + length > len(self._window):
            self._start = start
            self._window = self.array(start, min(_WINDOW, self.size - start)).tobytes()
            at = 0
        return self._window[at:at + length]

    def array(self, start: int, length: int) -> np.ndarray:
        out = np.empty(length, np.uint8)
        if not read_exactly(self.fd, start, out):
            raise Truncated(f"the file ended while bytes {start} to {start + length} were read")
        out.flags.writeable = False
        return out


@dataclasses.dataclass(frozen=True, slots=True)
class _Field:
    number: int
    wire: int
    start: int      # of its tag
    body: int       # of its content
    end: int

    @property
    def length(self) -> int:
        return self.end - self.body


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise Truncated("a varint does not end")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def _encode_varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _fields(source: Source, start: int, end: int) -> Iterator[_Field]:
    at = start
    while at < end:
        head = source.read(at, min(_LONGEST_HEADER, end - at))
        tag, used = _varint(head, 0)
        wire = tag & 7
        if wire == 0:
            _, after = _varint(head, used)
            body, stop = at + used, at + after
        elif wire == 2:
            length, used = _varint(head, used)
            body = at + used
            stop = body + length
        elif wire in (1, 5):
            body = at + used
            stop = body + (8 if wire == 1 else 4)
        else:
            raise Truncated(f"wire type {wire} is not used by ONNX")
        if stop > end:
            raise Truncated("a field is longer than its message")
        yield _Field(tag >> 3, wire, at, body, stop)
        at = stop


class _Pieces:
    """A message put together from ranges of the source and from new bytes."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.parts: list[bytes | tuple[int, int]] = []

    def keep(self, start: int, end: int) -> None:
        last = self.parts[-1] if self.parts else None
        if isinstance(last, tuple) and last[1] == start:
            self.parts[-1] = (last[0], end)
        elif end > start:
            self.parts.append((start, end))

    def message(self, number: int, content: bytes) -> None:
        self.parts += [_encode_varint(number << 3 | 2), _encode_varint(len(content)), content]

    def join(self) -> bytes:
        return b"".join(p if isinstance(p, bytes) else self.source.read(p[0], p[1] - p[0]) for p in self.parts)


def split(source: Source) -> tuple[bytes, dict[int, np.ndarray]]:
    """The message without its large initializers' raw data, and that data by position in `graph.initializer`.

    Raises Truncated when the top levels are not well formed.
    """
    if source.size < _LARGE:
        return source.read(0, source.size), {}
    fields = list(_fields(source, 0, source.size))
    graphs = [f for f in fields if f.number == _MODEL_GRAPH]
    if len(graphs) != 1 or graphs[0].wire != 2:
        return source.read(0, source.size), {}      # parts of a field are merged: positions would not be these
    blobs: dict[int, np.ndarray] = {}
    model = _Pieces(source)
    for f in fields:
        if f is graphs[0]:
            model.message(_MODEL_GRAPH, _split_graph(source, f, blobs))
        else:
            model.keep(f.start, f.end)
    return model.join(), blobs


def _split_graph(source: Source, graph: _Field, blobs: dict[int, np.ndarray]) -> bytes:
    rest = _Pieces(source)
    position = 0
    for f in _fields(source, graph.body, graph.end):
        if f.number == _GRAPH_INITIALIZER and f.wire == 2:
            if f.length >= _LARGE:
                rest.message(_GRAPH_INITIALIZER, _split_tensor(source, f, blobs, position))
            else:
                rest.keep(f.start, f.end)
            position += 1
        else:
            rest.keep(f.start, f.end)
    return rest.join()


def _split_tensor(source: Source, tensor: _Field, blobs: dict[int, np.ndarray], position: int) -> bytes:
    fields = list(_fields(source, tensor.body, tensor.end)) if tensor.length >= _LARGE else []
    raw = [f for f in fields if f.number == _TENSOR_RAW_DATA]
    if len(raw) != 1 or raw[0].wire != 2 or raw[0].length < _LARGE:
        return source.read(tensor.body, tensor.length)
    blobs[position] = source.array(raw[0].body, raw[0].length)
    rest = _Pieces(source)
    rest.keep(tensor.body, raw[0].start)
    rest.keep(raw[0].end, tensor.end)
    return rest.join()
