"""What a session is opened from: the path or the bytes of a model, and which format they are in."""

from __future__ import annotations

import dataclasses
import os
import stat
from typing import Any

from onnxc import errors
from onnxc.runtime.artifact import MAGIC, is_artifact

__all__ = ["Source"]


@dataclasses.dataclass(frozen=True)
class Source:
    """A model's path or its bytes; one of them is None."""

    path: str | None
    data: bytes | None

    @classmethod
    def of(cls, path_or_bytes: Any) -> Source:
        """TypeError for what is neither a path nor bytes, and for an empty path."""
        if isinstance(path_or_bytes, bytes):
            return cls(None, path_or_bytes)
        if isinstance(path_or_bytes, (bytearray, memoryview)):
            return cls(None, bytes(path_or_bytes))
        if isinstance(path_or_bytes, (str, os.PathLike)) and os.fspath(path_or_bytes):
            return cls(os.fsdecode(path_or_bytes), None)
        raise TypeError(f"Unable to load from type '{type(path_or_bytes)}': expected the path or the bytes of a model")

    @property
    def value(self) -> str | bytes:
        """The path or the bytes."""
        return self.data if self.path is None else self.path  # type: ignore[return-value]

    def is_artifact(self) -> bool:
        """Whether this is a compiled model. Raises NotImplemented for ONNX Runtime's own format."""
        start = self._start()
        if start[4:8] == b"ORTM":
            raise errors.NotImplemented("The model is in ONNX Runtime's own format, which onnxc does not read. Open "
                                        "the ONNX model that it was made from.")
        return is_artifact(start)

    def _start(self) -> bytes:
        """The first bytes, or none of a file that cannot be read twice or at all: the loader says what is wrong."""
        if self.path is None:
            return self.data or b""
        try:
            if not stat.S_ISREG(os.stat(self.path).st_mode):
                return b""
            with open(self.path, "rb") as file:
                return file.read(len(MAGIC))
        except (OSError, ValueError):
            return b""
