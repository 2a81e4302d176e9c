"""External tensor data: opening a file that a model names, and nothing but such a file.

The location comes from an untrusted model. It has to be a relative path of plain components below the model's folder;
every component is opened from its parent's descriptor without following links, and what counts is the descriptor
that was opened, never the name. The bytes are read into memory: a mapping would turn a later truncation into SIGBUS.

A symbolic link gives a model nothing that it could not name without one as long as what it leads to lies below the
model's folder. The caches of model hubs keep files under their digests in one folder and links to them in another; a
model that is opened through such a link has its data beside the file that it leads to, which counts as its folder, too.
The target is opened by its own path below that folder, again without following links: one that is swapped in meanwhile
leads nowhere.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterable, Mapping

import numpy as np
from onnx import ModelProto, TensorProto

from onnxc.errors import Fail
from onnxc.frontend.problems import printable

__all__ = ["ExternalFiles", "external_locations", "read_exactly"]

_KEYS = ("location", "offset", "length", "checksum")
_NUMBER = re.compile(r"[0-9]{1,19}")


def read_exactly(fd: int, offset: int, out: np.ndarray) -> bool:
    """Fill the bytes of `out` from `offset` of an open file; False when the file ends before."""
    view = out.data.cast("B")
    done = 0
    while done < len(view):
        n = os.preadv(fd, [view[done:done + (1 << 30)]], offset + done)
        if n == 0:
            return False
        done += n
    return True


def external_locations(proto: ModelProto) -> list[str]:
    """The files that a model's tensors say they lie in, as they are written there, without checks."""
    graphs = [proto.graph]
    attributes = [a for f in proto.functions for n in f.node for a in n.attribute]
    tensors: list[TensorProto] = []
    while graphs or attributes:
        if graphs:
            graph = graphs.pop()
            attributes += [a for n in graph.node for a in n.attribute]
            tensors += graph.initializer
            tensors += [t for s in graph.sparse_initializer for t in (s.values, s.indices)]
            continue
        a = attributes.pop()
        graphs += [*a.graphs, *([a.g] if a.HasField("g") else [])]
        tensors += [*a.tensors, *([a.t] if a.HasField("t") else [])]
        sparse = [*a.sparse_tensors, *([a.sparse_tensor] if a.HasField("sparse_tensor") else [])]
        tensors += [t for s in sparse for t in (s.values, s.indices)]
    return sorted({e.value for t in tensors for e in t.external_data if e.key == "location"})


class ExternalFiles:
    """Reads external data of one model. `folder` None: the model came as bytes and there is none. `files` are the bytes
    of files that are in memory, by location, and are not looked for on disk. `model` is the model's path, if it has
    one."""

    def __init__(self, folder: str | None, files: Mapping[str, np.ndarray] | None = None,
                 model: str | None = None) -> None:
        self.folder, self.files = folder, files or {}
        self._homes = [os.path.realpath(p) for p in (folder, model and os.path.dirname(os.path.realpath(model))) if p]
        self._digests: dict[str, str] = {}

    def read(self, entries: Iterable[tuple[str, str]], nbytes: int, tensor: str) -> np.ndarray:
        """The `nbytes` bytes that a tensor's `external_data` entries describe; Fail when they cannot be had safely."""
        what = f"External data path validation failed for initializer: {printable(tensor)}."
        fields = _fields(entries, what)
        location, offset = fields["location"], _number(fields, "offset", 0, what)
        length = _number(fields, "length", nbytes, what)
        if length != nbytes:
            raise Fail(f"{what} 'length' is {length} but the tensor's dims and type take {nbytes} bytes.")
        if location in self.files:
            return self._in_memory(location, offset, nbytes, what)
        if self.folder is None:
            raise Fail(f'{what} The model was given as bytes, so there is no folder in which "{printable(location)}" '
                       "could be: it does not exist. Load the model from its path, or name the folder.")
        fd = _open(self.folder, self._homes, _components(location, what), what)
        try:
            return self._read(fd, location, offset, nbytes, fields.get("checksum"), what)
        finally:
            os.close(fd)

    def _in_memory(self, location: str, offset: int, nbytes: int, what: str) -> np.ndarray:
        data = self.files[location]
        if offset + nbytes > data.size:
            raise Fail(f'{what} Bytes {offset} to {offset + nbytes} of "{printable(location)}", which was given in '
                       f"memory with {data.size} bytes, are out of bounds or can not be read in full.")
        out = data[offset:offset + nbytes]
        out.flags.writeable = False
        return out

    def _read(self, fd: int, location: str, offset: int, nbytes: int, checksum: str | None, what: str) -> np.ndarray:
        size = _regular_size(fd, location, what)
        short = (f'{what} Bytes {offset} to {offset + nbytes} of "{printable(location)}", which has {size} bytes, '
                 "are out of bounds or can not be read in full.")
        if offset + nbytes > size:
            raise Fail(short)
        if checksum is not None:
            self._verify(fd, location, size, checksum, what)
        out = np.empty(nbytes, np.uint8)
        if not read_exactly(fd, offset, out):
            raise Fail(short)
        out.flags.writeable = False
        return out

    def _verify(self, fd: int, location: str, size: int, checksum: str, what: str) -> None:
        if location not in self._digests:
            digest = hashlib.sha1(usedforsecurity=False)
            for start in range(0, size, 1 << 24):
                digest.update(os.pread(fd, 1 << 24, start))
            self._digests[location] = digest.hexdigest()
        if self._digests[location] != checksum.lower():
            raise Fail(f'{what} The SHA-1 of "{printable(location)}" is {self._digests[location]}, not the declared '
                       f"{printable(checksum)}: the file is not the one that was saved with the model.")


def _fields(entries: Iterable[tuple[str, str]], what: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for key, value in entries:
        # ONNX Runtime records its own packed copies under these keys; they are hints for it alone.
        if key.startswith("prepacked_"):
            continue
        if key not in _KEYS:
            raise Fail(f"{what} Unknown entry '{printable(key)}'; known are {', '.join(_KEYS)}.")
        if key in fields:
            raise Fail(f"{what} The entry '{key}' is given twice.")
        fields[key] = value
    if "location" not in fields:
        raise Fail(f"{what} There is no 'location'.")
    return fields


def _number(fields: dict[str, str], key: str, default: int, what: str) -> int:
    if key not in fields:
        return default
    if not _NUMBER.fullmatch(fields[key]):
        raise Fail(f"{what} '{key}' is '{printable(fields[key])}', not a number of bytes.")
    return int(fields[key])


def _components(location: str, what: str) -> list[str]:
    parts = [p for p in location.split("/") if p != "."]
    shown = printable(location)
    if location.startswith(("/", "\\", "~")) or re.match(r"[A-Za-z]:", location):
        raise Fail(f'{what} External data path escapes model directory: "{shown}" is absolute.')
    if ".." in parts:
        raise Fail(f'{what} External data path escapes model directory: "{shown}" has a ".." component.')
    if "\\" in location or any(ord(c) < 32 or ord(c) == 127 for c in location):
        raise Fail(f'{what} "{shown}" has a backslash or a control character; separate components by "/".')
    if not parts or "" in parts:
        raise Fail(f'{what} "{shown}" has an empty component.')
    return parts


def _open(folder: str, homes: list[str], parts: list[str], what: str) -> int:
    """A descriptor of the file that `parts` name below `folder`, or that links there lead to below one of `homes`."""
    if os.open not in os.supports_dir_fd:
        raise Fail(f"{what} This platform cannot open a file relative to a folder, which reading external data needs.")
    name = printable("/".join(parts))
    try:
        try:
            return _open_below(folder, parts)
        except OSError as e:
            if e.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
            real = os.path.realpath(os.path.join(folder, *parts))
            home = next((h for h in homes if os.path.commonpath([h, real]) == h != real), None)
            if home is None:
                raise
            return _open_below(home, os.path.relpath(real, home).split(os.sep))
    except FileNotFoundError:
        raise Fail(f'{what} The external data file does not exist: "{name}" in "{printable(folder)}".') from None
    except (OSError, ValueError) as e:
        reason = getattr(e, "strerror", None) or str(e)
        raise Fail(f'{what} "{name}" cannot be opened below the model\'s folder ({reason}). '
                   "Symbolic links are not followed out of it: copy the file into the model's folder.") from None


def _open_below(folder: str, parts: list[str]) -> int:
    """A descriptor of a file, opened component by component without following a link below `folder`."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for i, part in enumerate(parts):
        # O_NONBLOCK: opening a pipe must not wait for its other end.
        kind = os.O_NONBLOCK if i == len(parts) - 1 else os.O_DIRECTORY
        try:
            below = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | kind, dir_fd=fd)
        finally:
            os.close(fd)
        fd = below
    return fd


def _regular_size(fd: int, location: str, what: str) -> int:
    st = os.fstat(fd)
    if not stat.S_ISREG(st.st_mode):
        raise Fail(f'{what} "{printable(location)}" is not a regular file.')
    if st.st_nlink > 1:
        raise Fail(f'{what} "{printable(location)}" has {st.st_nlink} hard links, so it may be a file from elsewhere: '
                   "copy it into the model's folder.")
    return st.st_size
