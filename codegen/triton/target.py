"""Triton source to cubin, for any NVIDIA architecture, on a machine without a GPU.

The source never touches the disk. Line numbers are left out of the cubin, so equal sources give equal bytes. Buffers
are promised to start at multiples of 16 bytes. Floats are not contracted behind the expansions' back: `tl.fma` and
`tl.dot` fuse where that is meant.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import linecache
import os
import pathlib
import re
import subprocess
import tempfile
import threading
import types
from collections.abc import Iterator
from typing import Any

from onnxc.codegen.triton.source import KernelSource
from onnxc.errors import EPFail, NotFound, RuntimeException

__all__ = ["CompiledKernel", "GpuTarget", "KernelTooLarge", "TritonCompileError", "TritonMissing", "Usage",
           "compile_kernel"]

#: Dynamic shared memory that one program may have, by compute capability.
_SHARED_LIMIT = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448, 100: 232_448, 103: 232_448, 120: 101_376}
_TOOL_TIMEOUT = 120             # seconds
_BUILDING = threading.Lock()


class TritonMissing(NotFound):
    """Triton, or a tool that it brings, is not installed."""


class TritonCompileError(RuntimeException):
    """Triton or ptxas refused a generated source: a defect of the emitter. `source` is the text."""

    source = ""


class KernelTooLarge(EPFail):
    """The kernel needs more shared memory than the architecture has; another schedule is needed."""


@dataclasses.dataclass(frozen=True, slots=True)
class GpuTarget:
    """An NVIDIA architecture by compute capability: 90 is sm_90."""

    capability: int

    @staticmethod
    def parse(text: str) -> GpuTarget:
        """`sm_90`, `90` or `9.0`; ValueError on the rest."""
        found = re.fullmatch(r"(?:sm_)?(\d+)\.?(\d)a?", text)
        if found is None:
            raise ValueError(f"'{text}' is no GPU architecture; write sm_90, for example")
        return GpuTarget(int(found[1] + found[2]))

    def __str__(self) -> str:
        return f"sm_{self.capability}"

    @property
    def shared_limit(self) -> int:
        """Bytes of shared memory that one program may have."""
        return _SHARED_LIMIT.get(self.capability, 49_152)


@dataclasses.dataclass(frozen=True, slots=True)
class Usage:
    """What a cubin takes of a multiprocessor: registers a thread, bytes of stack a thread, and spill instructions."""

    registers: int
    stack: int
    spills: int


@dataclasses.dataclass(frozen=True, slots=True)
class CompiledKernel:
    """A cubin and what a launch of it needs; the parameters are those of `source`, then two null pointers.

    `warps` counts those of a program as compiled, `shared` its bytes of dynamic shared memory.
    """

    source: KernelSource
    target: GpuTarget
    cubin: bytes
    ptx: str
    warps: int
    shared: int

    @property
    def usage(self) -> Usage:
        """Read from the machine code by the disassembler that Triton brings."""
        return _usage(self.cubin)

    def disassembly(self) -> str:
        """The machine code as text."""
        return _tool("nvdisasm", self.cubin, "-c")


@functools.cache
def _triton() -> Any:
    """The module; it is imported by the first build."""
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        raise TritonMissing("TRITON_INTERPRET is set: Triton then interprets and cannot compile; unset it")
    try:
        import triton
        import triton.backends.compiler
        import triton.compiler
    except ImportError as e:
        raise TritonMissing(f"compiling for NVIDIA GPUs needs Triton ({e}): pip install onnxc[gpu]") from e
    return triton


def compile_kernel(source: KernelSource, target: GpuTarget) -> CompiledKernel:
    """Compile a kernel; TritonMissing, TritonCompileError, or KernelTooLarge when its tiles do not fit."""
    triton = _triton()
    function = getattr(_load(source.text), source.name)
    signature, attributes = {}, {}
    multiples = dict(source.multiples)
    names = function.arg_names
    for i, (name, argument) in enumerate(zip(names, source.arguments, strict=True)):
        signature[name] = argument.type
        if argument.kind == "mem" or (argument.kind == "symbol" and multiples.get(argument.name, 1) % 16 == 0):
            attributes[(i,)] = [["tt.divisibility", 16]]
    options = {"num_warps": source.schedule.warps, "num_stages": source.schedule.stages, "enable_fp_fusion": False}
    machine = triton.backends.compiler.GPUTarget("cuda", target.capability, 32)
    try:
        with _private_build(triton):
            built = triton.compile(triton.compiler.ASTSource(function, signature, {}, attributes), machine, options)
    except Exception as e:
        error = TritonCompileError(f"kernel {source.name} for {target}: {e}")
        error.source = source.text
        raise error from e
    meta = built.metadata
    if meta.shared > target.shared_limit:
        raise KernelTooLarge(f"kernel {source.name} needs {meta.shared} bytes of shared memory, {target} has "
                             f"{target.shared_limit}: use smaller blocks or fewer stages")
    return CompiledKernel(source, target, built.asm["cubin"], built.asm["ptx"], meta.num_warps, meta.shared)


@contextlib.contextmanager
def _private_build(triton: Any) -> Iterator[None]:
    """Build without line numbers and in a folder that nobody shares: Triton's cache, which lies in the user's home,
    publishes an entry file by file, so readers can meet half of one. Its settings are the process's: one build at a
    time."""
    with _BUILDING, tempfile.TemporaryDirectory() as folder, triton.knobs.cache.scope(), \
            triton.knobs.compilation.scope():
        triton.knobs.cache.dir = folder
        triton.knobs.compilation.disable_line_info = True
        yield


def _load(text: str) -> types.ModuleType:
    """The source as a module; Triton reads its lines back through `linecache`."""
    name = f"<onnxc {hashlib.sha256(text.encode()).hexdigest()[:16]}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    module = types.ModuleType("onnxc_generated")
    module.__file__ = name
    exec(compile(text, name, "exec"), module.__dict__)
    return module


@functools.lru_cache(maxsize=64)
def _usage(cubin: bytes) -> Usage:
    resources = dict(re.findall(r"(REG|STACK):(\d+)", _tool("cuobjdump", cubin, "--dump-resource-usage")))
    code = _tool("nvdisasm", cubin, "-c")
    spills = len(re.findall(r"\b(?:LDL|STL)\b", code))
    return Usage(int(resources.get("REG", 0)), int(resources.get("STACK", 0)), spills)


def _tool(name: str, cubin: bytes, *options: str) -> str:
    """Run a tool that Triton brings on a cubin."""
    folder = pathlib.Path(_triton().__file__).parent / "backends" / "nvidia" / "bin"
    if not (folder / name).exists():
        raise TritonMissing(f"this Triton has no {name} in {folder}: reinstall with pip install onnxc[gpu]")
    with tempfile.TemporaryDirectory() as scratch:
        path = pathlib.Path(scratch) / "kernel.cubin"
        path.write_bytes(cubin)
        done = subprocess.run([str(folder / name), *options, str(path)], capture_output=True, text=True,
                              timeout=_TOOL_TIMEOUT, check=False)
    if done.returncode != 0:
        raise TritonCompileError(f"{name} refused a cubin: {done.stderr.strip()}")
    return done.stdout
