"""What a compilation depends on, as one text: the key of the compile cache.

The model's content counts, not its name: bytes are hashed as they lie on disk, without parsing them. A model's external
files are known once it was compiled; from then on their content is part of the key.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import stat
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from onnxc.config import config
from onnxc.runtime import cpu
from onnxc.runtime.digest import BLOCK, file_blocks, tree_digest

__all__ = ["CacheKey", "Content", "content_of", "key_of", "sources_digest"]

_TICK = 0.02        # seconds; file systems stamp changes with a clock that moves in steps of up to 10 ms
_STARTED = time.time()
_PACKAGES = ("numpy", "ml_dtypes", "onnx", "llvmlite")      # they fold constants, read models, and emit code
_SOURCES = (".py", ".ll")


@dataclasses.dataclass(frozen=True)
class Content:
    """A digest of bytes, and what the file system said of the file that they are from (None: they are in memory)."""

    digest: str
    path: str | None = None
    identity: tuple[int, ...] | None = None

    def is_current(self) -> bool:
        """Whether the file still is the one that was read."""
        if self.path is None:
            return True
        try:
            return _identity(os.stat(self.path)) == self.identity
        except (OSError, ValueError):
            return False


@dataclasses.dataclass(frozen=True)
class CacheKey:
    """`text` tells compilations apart; `name` is its digest. `contents` are the files that it speaks of."""

    text: str
    contents: tuple[Content, ...]

    @property
    def name(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def content_of(source: str | bytes) -> Content | None:
    """The content of a model: bytes, or the file of that path. None for what is no regular file or cannot be read."""
    if isinstance(source, bytes):
        view = memoryview(source)
        return Content(tree_digest(len(view), lambda at: view[at:at + BLOCK]).hex())
    try:
        descriptor = os.open(source, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
                             | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError):
        return None
    try:
        return _file_content(descriptor, source)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _file_content(descriptor: int, path: str) -> Content | None:
    state = os.fstat(descriptor)
    if not stat.S_ISREG(state.st_mode) or not hasattr(os, "pread"):
        return None
    # What is written within one tick of the clock looks unchanged.
    time.sleep(max(0.0, min(_TICK, _TICK - (time.time() - max(state.st_mtime, state.st_ctime)))))
    before = _identity(os.fstat(descriptor))
    # Reading, not mapping: a file that someone truncates meanwhile would end the process.
    digest = tree_digest(state.st_size, file_blocks(descriptor))
    return Content(digest.hex(), path, before) if _identity(os.fstat(descriptor)) == before else None


def _identity(state: os.stat_result) -> tuple[int, ...]:
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


def key_of(model: Content, request: Mapping[str, Any], external: Sequence[tuple[str, Content]] = ()) -> CacheKey | None:
    """The key of a model compiled as `request` says; `external` are its other files, by their names in the model.

    None when onnxc's own files were changed while this process ran: what was loaded is then not what lies there.
    """
    sources, changed = sources_digest()
    if changed > _STARTED:
        return None
    settings = config()
    passes = [list(p) for p in settings.passes]
    facts = {
        "model": model.digest, "external": [[name, content.digest] for name, content in external], "request": request,
        "settings": [settings.target, settings.verify, settings.fuel, passes, settings.tune],
        "onnxc": sources, "packages": _versions(), "machine": _machine(),
    }
    text = json.dumps(facts, sort_keys=True, indent=0)
    return CacheKey(text, (model, *(content for _, content in external)))


def sources_digest() -> tuple[str, float]:
    """A digest of onnxc's own files, and when the newest of them was changed."""
    root = Path(__file__).resolve().parent
    files = tuple(sorted(found for folder in _package_folders(root) for found in _sources_in(str(folder), folder.name)))
    newest = max((state[3] for _, _, state in files), default=0) / 1e9
    # What was changed meanwhile may be again within one tick of the clock.
    return (_digest_of if newest <= _STARTED else _digest_of.__wrapped__)(files), newest


_Source = tuple[str, str, tuple[int, ...]]      # a name that is the same wherever the package lies, path, identity


def _sources_in(folder: str, name: str) -> Iterator[_Source]:
    with os.scandir(folder) as entries:
        for entry in entries:
            inner = f"{name}/{entry.name}"
            if entry.name.endswith(_SOURCES):
                yield inner, entry.path, _identity(os.stat(entry.path))
            elif entry.is_dir(follow_symlinks=False):
                yield from _sources_in(entry.path, inner)


@functools.lru_cache(maxsize=1)
def _digest_of(files: tuple[_Source, ...]) -> str:
    """Files are read again only when the file system says that one is another: each session asks."""
    digest = hashlib.sha256()
    for name, path, _ in files:
        content = Path(path).read_bytes()
        digest.update(f"{name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _package_folders(runtime: Path) -> list[Path]:
    """The package's folder and those that are links inside it, where this is a checkout."""
    package = Path(sys.modules["onnxc"].__path__[0]).resolve()
    linked = [entry.resolve() for entry in sorted(package.iterdir()) if entry.is_symlink() and entry.is_dir()]
    return [package, *linked] if runtime.parent != package else [package]


@functools.cache
def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = ""
    return found


@functools.cache
def _machine() -> dict[str, Any]:
    """The processor as code generation sees it: extensions, tuning model, and sizes of caches."""
    return {"architecture": cpu.architecture(), "system": cpu.system(), "extensions": sorted(cpu.host_extensions()),
            "model": cpu.model(), "caches": cpu.caches()}
