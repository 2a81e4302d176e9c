"""The compile cache: compiled models on disk, one file each, found again by all that their compilation depends on.

The folder belongs to the user and to nobody else, or it is not used. An entry is an artifact that also holds the text
of its key; it appears under its name when it is complete, and is used only after its checksum and its key were checked.
Nothing here can make a session fail: what cannot be read is compiled again, what cannot be written is not kept. Locks
save work when two processes want the same entry; correctness does not rest on them.

Beside entries (`KEY.onnxc`) there are notes: the names of a model's external files by its content (`DIGEST.files`), and
what `onnxc.tuning` measured of a kernel by what it depends on (`DIGEST.tuned`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxc.config import config
from onnxc.errors import OnnxcError
from onnxc.runtime.artifact import beside, read_artifact, save
from onnxc.runtime.cache_key import CacheKey, Content, content_of, key_of
from onnxc.runtime.compiled import CompiledModel

__all__ = ["CompileCache", "Entry", "compile_through", "default_folder", "open_cache", "open_folder"]

_LOG = logging.getLogger("onnxc")
_ENTRY, _NOTE, _TUNED, _LOCK = ".onnxc", ".files", ".tuned", ".lock"
_HOUR = 3600.0
_PATIENCE = 600.0       # seconds to wait for another process that compiles the same
_SETTLED = 0.02         # seconds: see cache_key
_LONGEST_NOTE = 1 << 20


@dataclasses.dataclass(frozen=True)
class Entry:
    """A compiled model in the cache: its file, its bytes, and when it was used last (seconds since the epoch)."""

    path: Path
    size: int
    used: float


def default_folder() -> Path:
    """Where the cache lies for this user if nothing else is said."""
    import platformdirs
    return Path(platformdirs.user_cache_path("onnxc", appauthor=False))


def open_cache() -> CompileCache | None:
    """The cache as the settings have it; None when it is off or its folder cannot be trusted, which is logged."""
    setting, size = config().cache, config().cache_size
    if setting == "off":
        return None
    try:
        folder = default_folder() if setting in (None, "ro") else Path(str(setting))
    except (ImportError, RuntimeError) as error:
        _LOG.warning("no compile cache: %s", error)
        return None
    return open_folder(folder, size, writable=setting != "ro")


def open_folder(folder: Path, most_bytes: int, writable: bool = True) -> CompileCache | None:
    """A cache in `folder`, which is made when it is missing and the cache writable; None if it cannot be trusted."""
    try:
        if writable:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)
        doubt = _doubt(os.lstat(folder), stat.S_ISDIR)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        doubt = str(error)
    if doubt:
        _LOG.warning("the compile cache %s is not used: %s", folder, doubt)
        return None
    return CompileCache(folder, most_bytes, writable)


def _doubt(state: os.stat_result, kind: Callable[[int], bool]) -> str:
    """Why a file or folder cannot be trusted; "" when it can."""
    if not kind(state.st_mode):
        return "it is a link or of another kind than expected"
    if hasattr(os, "geteuid"):
        if state.st_uid != os.geteuid():
            return f"it belongs to user {state.st_uid}"
        if state.st_mode & 0o022:
            return f"others may write to it (mode {stat.S_IMODE(state.st_mode):o})"
    return ""


class CompileCache:
    """Entries in one folder that was found trustworthy. Any number of processes may use it at a time."""

    def __init__(self, folder: Path, most_bytes: int, writable: bool = True) -> None:
        self.folder, self.most_bytes, self.writable = folder, most_bytes, writable

    # ---- entries -----------------------------------------------------------------------------------------------------

    def load(self, key: CacheKey) -> CompiledModel | None:
        """The entry of `key`; None when there is none that can be used. One that is damaged goes away."""
        path = self.folder / (key.name + _ENTRY)
        try:
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
                                 | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
        except OSError:
            return None
        try:
            with os.fdopen(descriptor, "rb") as file:
                doubt = _doubt(os.fstat(descriptor), stat.S_ISREG)
                compiled = None if doubt else read_artifact(file, str(path), key.text)
        except (OnnxcError, OSError, ValueError) as error:
            doubt, compiled = str(error), None
        if compiled is None:
            _LOG.warning("a compiled model in the cache is not used: %s", doubt)
            self._remove(path)
        elif self.writable:
            _touch(path)
        return compiled

    def store(self, key: CacheKey, compiled: CompiledModel) -> bool:
        """Keeps a compiled model, unless only a run tells what parts of it are; whether that was possible. The longest
        unused entries make room."""
        if compiled.report.get("waits"):
            return False        # what the first run compiles would be compiled again by every process
        size = len(compiled.object_bytes) + len(compiled.text) + sum(c.nbytes for c in compiled.constants)
        if not self.writable or size > self.most_bytes or not all(c.is_current() for c in key.contents):
            return False
        try:
            if shutil.disk_usage(self.folder).free < 2 * size:
                return False
            save(compiled, self.folder / (key.name + _ENTRY), key=key.text)
        except OSError as error:
            _LOG.warning("a compiled model is not kept in the cache: %s", error)
            return False
        self.prune()
        return True

    def entries(self) -> list[Entry]:
        """What there is, the longest unused first."""
        return [e for e in self._files() if e.path.suffix == _ENTRY and not e.path.name.startswith(".")]

    def clear(self) -> int:
        """Removes everything that the cache has written; gives the number of entries. Open sessions keep theirs."""
        count = len(self.entries())
        for file in self._files():
            self._remove(file.path)
        return count

    def prune(self) -> None:
        """Removes the longest unused entries beyond the limit, and what interrupted writers left behind."""
        files, now = self._files(), time.time()
        total = sum(f.size for f in files)
        for file in files:
            left_over = file.path.name.startswith(".") and now - file.used > _HOUR
            unlocked = file.path.suffix == _LOCK and now - file.used > 24 * _HOUR
            is_old = total > self.most_bytes and file.path.suffix in (_ENTRY, _NOTE, _TUNED) and file is not files[-1]
            if left_over or unlocked or (is_old and not file.path.name.startswith(".")):
                self._remove(file.path)
                total -= file.size

    def _files(self, suffix: str = "") -> list[Entry]:
        """The cache's own files, with names that end so; others in the folder are left alone."""
        found = []
        with contextlib.suppress(OSError), os.scandir(self.folder) as listing:
            for item in listing:
                stem = item.name.lstrip(".")[:64]
                if item.name.endswith(suffix) and len(stem) == 64 and set(stem) <= set("0123456789abcdef"):
                    with contextlib.suppress(OSError):
                        state = item.stat(follow_symlinks=False)
                        found.append(Entry(Path(item.path), state.st_size, state.st_mtime))
        return sorted(found, key=lambda e: (e.used, e.path.name))

    def _remove(self, path: Path) -> None:
        if self.writable:
            with contextlib.suppress(OSError):
                path.unlink()

    # ---- external files ----------------------------------------------------------------------------------------------

    def external_files(self, model: Content) -> list[str]:
        """The names of a model's external files, if they were noted."""
        path = self.folder / (model.digest + _NOTE)
        names = _read_note(path)
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            return []
        if self.writable:
            _touch(path)
        return names

    def note_external_files(self, model: Content, names: Sequence[str]) -> None:
        """Notes the names for the next time."""
        self._write_note(self.folder / (model.digest + _NOTE), sorted(names))

    def _write_note(self, path: Path, content: Any) -> None:
        if self.writable:
            with contextlib.suppress(OSError), beside(str(path), private=True) as file:
                file.write(json.dumps(content).encode())

    # ---- what was measured of kernels --------------------------------------------------------------------------------

    def tuned(self, name: str) -> dict[str, Any]:
        """What was noted of the kernel with this digest; {} when nothing that can be read was."""
        found = _read_note(self.folder / (name + _TUNED))
        return found if isinstance(found, dict) else {}

    def note_tuned(self, name: str, facts: Mapping[str, Any]) -> None:
        """Notes facts, as values that JSON has, for later compilations."""
        self._write_note(self.folder / (name + _TUNED), dict(facts))

    def tuned_state(self) -> str:
        """A text that is another one once something was noted of a kernel; "" when nothing is."""
        notes = [f"{f.path.name} {f.used}" for f in self._files(_TUNED)]
        return hashlib.sha256("\n".join(sorted(notes)).encode()).hexdigest() if notes else ""

    # ---- one compilation for several who want it ---------------------------------------------------------------------

    @contextlib.contextmanager
    def turn(self, key: CacheKey) -> Iterator[None]:
        """Waits while another process or thread is in here with the same key; not for ever, and not where locks do not
        work."""
        with contextlib.ExitStack() as stack:
            if self.writable:
                with contextlib.suppress(ImportError, OSError, RuntimeError):
                    from filelock import FileLock
                    lock = FileLock(self.folder / (key.name + _LOCK), timeout=_PATIENCE, mode=0o600)
                    stack.enter_context(lock)
            yield


def _read_note(path: Path) -> Any:
    """What JSON has in a file; None for what cannot be read or trusted."""
    try:
        if _doubt(os.lstat(path), stat.S_ISREG):
            return None
        with open(path, "rb") as file:
            return json.loads(file.read(_LONGEST_NOTE))
    except (OSError, ValueError, RecursionError):
        return None


def _touch(path: Path) -> None:
    with contextlib.suppress(OSError):
        os.utime(path)


# ---- compiling through the cache -------------------------------------------------------------------------------------

def compile_through(cache: CompileCache, source: str | bytes, folder: str | None, request: Mapping[str, Any],
                    build: Callable[[], CompiledModel]) -> tuple[CompiledModel, bool]:
    """The compiled model and whether it came out of the cache; otherwise `build()` made it, and it is kept.

    `source` is the model's path or its bytes, `folder` where its external data lies if not beside it, `request` what
    else the caller asks of the compilation, as values that JSON has.
    """
    model = content_of(source)
    request = {**request, "tuned": cache.tuned_state()}
    key = None if model is None else _key(cache, model, source, folder, request)
    if model is None or key is None:
        return build(), False
    found = cache.load(key)
    if found is not None:
        return found, True
    with cache.turn(key):
        found = cache.load(key)
        if found is not None:
            return found, True
        began = time.time()
        compiled = build()
        names = compiled.report.get("external_files", ())
        if names:
            cache.note_external_files(model, names)
            key = _key_with(model, names, source, folder, request, began)
        if key is not None:
            cache.store(key, compiled)
    return compiled, False


def _key(cache: CompileCache, model: Content, source: str | bytes, folder: str | None,
         request: Mapping[str, Any]) -> CacheKey | None:
    names = cache.external_files(model)
    return (_key_with(model, names, source, folder, request) if names else None) or key_of(model, request)


def _key_with(model: Content, names: Sequence[str], source: str | bytes, folder: str | None, request: Mapping[str, Any],
              before: float | None = None) -> CacheKey | None:
    """The key of a model with external files; None when one of them is not as the compiler would have it, or was
    changed after `before`."""
    base = folder or (os.path.dirname(source) or "." if isinstance(source, str) else None)
    if base is None:
        return None
    homes = [base, *([os.path.dirname(os.path.realpath(source))] if isinstance(source, str) else [])]
    contents: list[tuple[str, Content]] = []
    for name in names:
        content = _external_content(homes, name)
        if content is None or (before is not None and _changed(content) > before - _SETTLED):
            return None
        contents.append((name, content))
    return key_of(model, request, contents)


def _external_content(homes: Sequence[str], name: str) -> Content | None:
    """The content of a file that lies below one of `homes`, of which the first is where it is looked for; others are
    for the compiler to refuse."""
    try:
        path = os.path.realpath(os.path.join(homes[0], name))
        if not any(os.path.commonpath([home, path]) == home for home in map(os.path.realpath, homes)):
            return None
        if os.lstat(path).st_nlink > 1:
            return None
    except (OSError, ValueError):
        return None
    return content_of(path)


def _changed(content: Content) -> float:
    """When the file of a content was changed last, in seconds since the epoch."""
    return 0.0 if content.identity is None else max(content.identity[3:]) / 1e9
