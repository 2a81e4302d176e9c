"""Running Triton source without a GPU: the emitted text, program by program, on numpy arrays, every access checked.

What it finds is what a GPU would not say: accesses outside their buffer, misaligned ones, races between the programs of
a launch. The work is done by a process of its own (`interpreter`), which is kept for further launches; this side
imports no triton.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO, Any

import numpy as np

from onnxc.codegen.triton.source import KernelSource, error_code
from onnxc.errors import NotFound, RuntimeException
from onnxc.ir.dims import evaluate

__all__ = ["Simulator", "SimulatorError"]


class SimulatorError(RuntimeException):
    """The kernel broke a rule while it was simulated, or the simulation failed; the text says how."""


class Simulator:
    """A worker process that runs kernels; a context manager. One launch at a time."""

    def __init__(self) -> None:
        if importlib.util.find_spec("triton") is None:
            raise NotFound("simulating GPU kernels needs Triton: pip install onnxc[gpu]")
        environment = {**os.environ, "TRITON_INTERPRET": "1"}
        paths = [p for p in sys.path if p] + [os.getcwd()]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
        self._process = subprocess.Popen([sys.executable, "-m", "onnxc.codegen.triton.interpreter"],
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    def __enter__(self) -> Simulator:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self._stream(self._process.stdin).close()
        self._process.wait(30)
        self._stream(self._process.stdout).close()

    def launch(self, source: KernelSource, arrays: Sequence[np.ndarray], dims: Mapping[str, int]) -> list[str]:
        """Run a kernel on the arrays of its memory arguments, in place; the recorded error's message, if any.

        SimulatorError where a GPU would have read or written out of bounds, or in no certain order.
        """
        grid = evaluate(source.grid, dims)
        if grid == 0:
            return []
        word = np.zeros(1, np.int32)
        memory = iter([*arrays, word])
        specs: list[dict[str, Any]] = []
        buffers: list[np.ndarray] = []
        for a in source.arguments:
            if a.kind in ("mem", "error"):
                buffers.append(next(memory) if a.kind == "mem" else word)
                specs.append({"name": a.name, "type": a.type, "bytes": buffers[-1].nbytes})
            else:
                value = dims[a.name] if a.kind == "symbol" else 0
                specs.append({"name": a.name, "type": a.type, "value": value})
        request = {"text": source.text, "name": source.name, "grid": grid, "arguments": specs}
        self._exchange(source, request, buffers)
        code = error_code(int(word[0]))
        return [] if code is None else [source.errors[code]]

    def _exchange(self, source: KernelSource, request: dict[str, Any], buffers: list[np.ndarray]) -> None:
        try:
            to = self._stream(self._process.stdin)
            self._send(to, json.dumps(request).encode())
            for b in buffers:
                self._send(to, np.ascontiguousarray(b).tobytes())
            to.flush()
            answer = json.loads(self._receive())
            for b in buffers:
                b[...] = np.frombuffer(self._receive(), b.dtype).reshape(b.shape)
        except (OSError, EOFError) as e:
            raise SimulatorError(f"the simulator's process ended: {e}; its output says why") from e
        if answer["error"] is not None:
            raise SimulatorError(f"kernel {source.name}: {answer['error']}")

    @staticmethod
    def _stream(stream: IO[bytes] | None) -> IO[bytes]:
        if stream is None:
            raise SimulatorError("the simulator has no process")
        return stream

    @staticmethod
    def _send(to: IO[bytes], payload: bytes) -> None:
        to.write(struct.pack("<q", len(payload)) + payload)

    def _receive(self) -> bytes:
        stream = self._stream(self._process.stdout)
        head = stream.read(8)
        if len(head) < 8:
            raise EOFError("no answer")
        (size,) = struct.unpack("<q", head)
        return stream.read(size)
