"""What a session is opened from: the path or the bytes of a model, and which format they are in."""

from __future__ import annotations

import dataclasses
import enum
import os
import stat
from typing import Any

from onnxc.runtime.artifact import MAGIC, is_artifact

__all__ = ["Format", "Source"]

_HEAD = 8       # bytes up to the end of the identifier


class Format(enum.Enum):
    """How a model is written."""

    ONNX = "ONNX"
    ORT = "ORT"
    ARTIFACT = "artifact"


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

    def format(self, chosen: str) -> Format:
        """The format that the model is in; `chosen` is the entry session.load_model_format.

        Artifacts are told by content. For the others ONNX Runtime's rule holds: the entry decides; without one, the
        name of a file does ("m.ort"), and the identifier of bytes.
        """
        if is_artifact(self._start()):
            return Format.ARTIFACT
        if chosen:
            is_ort = chosen == "ORT"
        elif self.path is not None:
            is_ort = len(self.path) > len(".ort") and self.path.lower().endswith(".ort")
        else:
            is_ort = len(self.data or b"") > _HEAD and self._start()[4:_HEAD] == b"ORTM"
        return Format.ORT if is_ort else Format.ONNX

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
