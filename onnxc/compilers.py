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
from collections.abc import Sequence
from types import TracebackType
from typing import IO, Any

import onnxc
from onnxc.config import config
from onnxc.errors import RuntimeException
from onnxc.link import link_objects
from onnxc.runtime.threads import default_threads

__all__ = ["Compilers", "serve"]

_MOST = 4               # processes: the largest function is the limit of what more could gain
_WORTH = 40_000         # characters of LLVM text for each process; to begin one takes what about as many do
_CODE = ("import json, sys; sys.path[:] = json.loads(sys.stdin.buffer.readline()); "
         "from onnxc.compilers import serve; serve()")
_EXPORTED = ("onnxc_plan", "onnxc_run", "onnxc_pool_new", "onnxc_pool_free", "onnxc_pool_threads", "onnxc_pool_abandon",
             "onnxc_parallel_for")


class Compilers:
    """The helpers of one compilation, which end with it. `prepare` begins them early, `compile` uses them."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.helpers: list[_Helper] = []
        self.ended = False      # nobody waits for the result any more

    def __enter__(self) -> Compilers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.ended = True
        for helper in self.helpers:
            helper.close()

    def prepare(self, kernels: int) -> None:
        """Begins helpers for a program of so many kernels: they are ready when the kernels have been written."""
        wanted = min(_processes(), kernels // 8 + 1) - 1
        while len(self.helpers) < wanted and _can_help():
            try:
                self.helpers.append(_Helper(self.target))
            except OSError:
                return

    def compile(self, functions: Any, linked: Sequence[str]) -> bytes:
        """The object of a program whose functions are `functions` (`codegen.llvm.share.Functions`)."""
        from onnxc.codegen.llvm.parts import parts_of
        from onnxc.codegen.llvm.target import Target
        target = Target.parse(self.target)
        characters = sum(len(d.text) for d in functions.definitions)
        can_link = _can_link(target.triple)
        helpers = self.helpers if can_link else []
        first, *rest = parts_of(functions, 1 + min(len(helpers), characters // _WORTH))
        asked = list(zip(helpers, rest, strict=False))
        threads = [threading.Thread(target=helper.ask, args=(text,), daemon=True) for helper, text in asked]
        for thread in threads:
            thread.start()
        # What is the same in every program is compiled once in a process.
        shared = [_shared_object(self.target, text) for text in linked] if can_link else []
        objects = [target.compile(first, linked=() if can_link else linked), *shared]
        for thread, (helper, text) in zip(threads, asked, strict=True):
            thread.join()
            if self.ended:
                raise RuntimeException("the compilation was given up")
            objects.append(helper.answer or target.compile(text))
        return link_objects(objects, _EXPORTED)


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


def _can_link(triple: str) -> bool:
    return triple.startswith("x86_64") and "linux" in triple


class _Helper:
    """One process that compiles. `answer` is the object that it gave; None when it gave none."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.answer: bytes | None = None
        # A session of its own: Ctrl-C is for the process that waits, which ends its helpers.
        self.process = subprocess.Popen([sys.executable, "-I", "-S", "-c", _CODE], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
        with contextlib.suppress(OSError):
            self._send([*sys.path, os.path.dirname(os.path.dirname(os.path.abspath(onnxc.__file__)))])

    def ask(self, text: str) -> None:
        """Has `text` compiled; to be called in a thread, since it waits."""
        with contextlib.suppress(OSError, ValueError, AssertionError):
            data = text.encode()
            self._send({"target": self.target, "size": len(data)}, data)
            output = self.process.stdout
            assert output is not None
            size = int(json.loads(output.readline())["size"])
            answer = output.read(size)
            self.answer = answer if size and len(answer) == size else None

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
