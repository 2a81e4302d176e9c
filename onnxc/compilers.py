"""LLVM's work in several processes: llvmlite holds one lock in a process, so that threads cannot share it.

A helper is a Python of its own that reads requests from a pipe, so that nothing of the program that compiles is run
again in it: it works in forked, daemonic and spawned processes and without a guarded main module. Where no helper can
be had, or one ends early, its part is compiled here; the result is the same, only later.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import IO

import onnxc
from onnxc.config import config
from onnxc.errors import RuntimeException
from onnxc.link import link_objects
from onnxc.runtime.threads import default_threads

__all__ = ["Compilers", "serve"]

_MOST = 4               # processes: the largest function is the limit of what more could gain
_CODE = ("import json, sys; sys.path[:] = json.loads(sys.stdin.buffer.readline()); "
         "from onnxc.compilers import serve; serve()")
_EXPORTED = ("onnxc_plan", "onnxc_run", "onnxc_pool_new", "onnxc_pool_free", "onnxc_pool_threads", "onnxc_pool_abandon",
             "onnxc_parallel_for")


class _Part:
    """A module to compile, and its object as soon as there is one."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.object: bytes | None = None


class Compilers:
    """The helpers of one compilation, which end with it. `prepare` begins them early, `begin` gives them parts of the
    program as they are written, and `finish` compiles the last one and whatever no helper has begun by then."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.helpers: list[_Helper] = []
        self._parts: list[_Part] = []
        self._waiting: deque[_Part] = deque()
        self._changed = threading.Condition()
        self._ended = False      # nobody waits for the result any more

    def __enter__(self) -> Compilers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        for helper in self.helpers:
            helper.close()

    def prepare(self, kernels: int) -> None:
        """Begins helpers for a program of so many kernels: they are ready when the first ones have been written."""
        wanted = min(_processes(), kernels // 8 + 1) - 1
        while len(self.helpers) < wanted and self.can_split and _can_help():
            try:
                helper = _Helper(self.target)
            except OSError:
                return
            self.helpers.append(helper)
            threading.Thread(target=self._serve, args=(helper,), daemon=True).start()

    @property
    def can_split(self) -> bool:
        """Whether objects can be made one here."""
        return _can_link(self.target)

    def begin(self, text: str) -> None:
        """Has a part compiled, in a helper if one has time for it before `finish` comes to it."""
        with self._changed:
            self._parts.append(_Part(text))
            self._waiting.append(self._parts[-1])
            self._changed.notify()

    def finish(self, text: str, linked: Sequence[str]) -> bytes:
        """The object of the program: of all parts, `text` being the last one, and the modules `linked`. Raises
        CompileError for what LLVM refuses."""
        from onnxc.codegen.llvm.target import Target
        target = Target.parse(self.target)
        if not self.can_split:
            return target.compile(text, linked=linked)
        # What is the same in every program is compiled once in a process.
        objects = [target.compile(text), *(_shared_object(self.target, part) for part in linked)]
        while (part := self._next_here()) is not None:
            part.object = target.compile(part.text)
        objects += [part.object for part in self._parts if part.object is not None]
        return link_objects(objects, _EXPORTED)

    def _next_here(self) -> _Part | None:
        """A part that nobody has begun; None when all are compiled, which is waited for."""
        with self._changed:
            while True:
                if self._ended:
                    raise RuntimeException("the compilation was given up")
                if self._waiting:
                    return self._waiting.popleft()
                if all(part.object is not None for part in self._parts):
                    return None
                self._changed.wait()

    def _serve(self, helper: _Helper) -> None:
        """Gives parts to a helper as long as it answers; what it leaves is compiled here."""
        while True:
            with self._changed:
                while not self._waiting and not self._ended:
                    self._changed.wait()
                if self._ended:
                    return
                part = self._waiting.popleft()
            answer = helper.ask(part.text)
            with self._changed:
                part.object = answer
                if answer is None:
                    self._waiting.append(part)
                self._changed.notify_all()
            if answer is None:
                return


@functools.lru_cache(maxsize=8)
def _shared_object(target: str, text: str) -> bytes:
    from onnxc.codegen.llvm.target import Target
    return Target.parse(target).compile(text)


def _processes() -> int:
    """How many processes may work on one model, this one included."""
    return config().compile_processes or min(default_threads(), _MOST)


def _can_help() -> bool:
    """Whether this process runs in an interpreter that can be begun again."""
    name = os.path.basename(sys.executable or "")
    return name.startswith("python") and not getattr(sys, "frozen", False)


@functools.lru_cache(maxsize=8)
def _can_link(target: str) -> bool:
    from onnxc.codegen.llvm.target import Target
    triple = Target.parse(target).triple
    return triple.startswith("x86_64") and "linux" in triple


class _Helper:
    """One process that compiles; `answers` counts the objects that it gave."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.answers = 0
        # A session of its own: Ctrl-C is for the process that waits, which ends its helpers.
        self.process = subprocess.Popen([sys.executable, "-I", "-S", "-c", _CODE], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
        with contextlib.suppress(OSError):
            self._send([*sys.path, os.path.dirname(os.path.dirname(os.path.abspath(onnxc.__file__)))])

    def ask(self, text: str) -> bytes | None:
        """The object of `text`, or None where the helper gives none; to be called in a thread, since it waits."""
        with contextlib.suppress(OSError, ValueError, AssertionError):
            data = text.encode()
            self._send({"target": self.target, "size": len(data)}, data)
            output = self.process.stdout
            assert output is not None
            size = int(json.loads(output.readline())["size"])
            answer = output.read(size)
            if size and len(answer) == size:
                self.answers += 1
                return answer
        return None

    def _send(self, head: object, body: bytes = b"") -> None:
        pipe = self.process.stdin
        assert pipe is not None
        pipe.write(json.dumps(head).encode() + b"\n" + body)
        pipe.flush()

    def close(self) -> None:
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        self.process.wait()


def serve() -> None:
    """What a helper does: compiles what it reads until there is no more. A part that does not compile has an answer of
    no bytes; whoever asked compiles it again and has the error."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)               # whatever prints does not print into an answer
    from onnxc.codegen.llvm.target import CompileError, Target
    Target.host().machine().close()
    while True:
        head = sys.stdin.buffer.readline()
        if not head:
            return
        request = json.loads(head)
        try:
            compiled = Target.parse(request["target"]).compile(_read(sys.stdin.buffer, request["size"]))
        except CompileError:
            compiled = b""
        answers.write(json.dumps({"size": len(compiled)}).encode() + b"\n" + compiled)
        answers.flush()


def _read(pipe: IO[bytes], size: int) -> str:
    data = pipe.read(size)
    if len(data) < size:
        raise SystemExit        # nobody waits for an answer any more
    return data.decode()
