"""What machine code is generated for, and the way from LLVM IR text to object bytes.

Owns the description of a CPU target (triple, tuning model, instruction-set extensions), the sizes that schedules read
from it, and the one place where LLVM verifies, optimises and emits a module. It knows nothing about kernels; loading
the object is `runtime/loader.py`.

LLVM is used under llvmlite's own process-wide lock, one context a compilation: compiling from several threads is safe
and happens one call at a time.
"""

from __future__ import annotations

import functools
import platform
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import llvmlite.binding as llvm
from llvmlite import ir

from onnxc.codegen.llvm import extensions
from onnxc.errors import InvalidArgument, RuntimeException

Module: TypeAlias = "str | ir.Module | llvm.ModuleRef"
"""LLVM assembly text, an llvmlite builder module, or a parsed module (which is copied, never changed)."""


class CompileError(RuntimeException):
    """LLVM refused a module, which is a defect of what generated it.

    `stage` is "parse", "link", "verify" or "emit", `detail` LLVM's message, `function` the function that it is about
    (None when unknown).
    """

    def __init__(self, stage: str, detail: str, function: str | None = None) -> None:
        place = f" in function @{function}" if function else ""
        super().__init__(f"LLVM could not {stage} the module{place}: {detail.strip()}")
        self.stage = stage
        self.detail = detail
        self.function = function


class TargetError(InvalidArgument):
    """A target text that names no target: what was read, what was wrong, what would be accepted."""


@dataclass(frozen=True)
class Pipeline:
    """How LLVM optimises a module. Its vectorisers are off unless asked for: kernels arrive vectorised."""

    level: int = 2
    loop_vectorize: bool = False
    slp_vectorize: bool = False

    def __post_init__(self) -> None:
        if self.level not in range(4):
            raise ValueError(f"optimisation level {self.level!r}: expected 0, 1, 2 or 3")

    def run(self, module: llvm.ModuleRef, machine: llvm.TargetMachine) -> None:
        """Optimises `module` in place for `machine`."""
        with llvm.create_pipeline_tuning_options(speed_level=self.level) as tuning:
            tuning.loop_vectorization = self.loop_vectorize
            tuning.slp_vectorization = self.slp_vectorize
            with llvm.create_pass_builder(machine, tuning) as builder, builder.getModulePassManager() as passes:
                passes.run(module, builder)


_OURS = Pipeline()


@dataclass(frozen=True)
class Target:
    """A CPU: `triple` (ABI and object format), `cpu` (LLVM's tuning model), `features` (all usable extensions).

    `features` alone decides which instructions may be selected: an extension that `cpu` would imply but that is absent
    from `features` is switched off. `Target.parse(str(target)) == target`.
    """

    triple: str
    cpu: str
    features: frozenset[str]

    def __post_init__(self) -> None:
        if self.arch not in extensions.EXTENSIONS:
            raise TargetError(f"target {self.triple!r}: architecture {self.arch!r} is not supported; "
                              f"supported are {', '.join(extensions.EXTENSIONS)}")
        if self.cpu not in extensions.CPUS[self.arch]:
            raise TargetError(f"target {self.triple}: unknown cpu {self.cpu!r}; "
                              f"known are {', '.join(extensions.CPUS[self.arch])}")
        unknown = self.features - extensions.EXTENSIONS[self.arch].keys()
        if unknown:
            raise TargetError(f"target {self.triple}/{self.cpu}: unknown feature {', '.join(sorted(unknown))}; "
                              f"known are {', '.join(sorted(extensions.EXTENSIONS[self.arch]))}")
        closed = extensions.with_requirements(self.arch, self.features | extensions.BASELINE[self.arch])
        object.__setattr__(self, "features", closed)

    @classmethod
    def host(cls) -> Target:
        """The machine this process runs on, with every extension its operating system enables."""
        return _host()

    @classmethod
    def parse(cls, text: str) -> Target:
        """Reads "host", a level ("x86-64-v2", "x86-64-v3", "x86-64-v4", "aarch64-neon"), or "triple/cpu+feat-feat".

        A level takes the host's operating system where the architecture is the host's, and Linux otherwise. Flags are
        applied left to right to the level's features, or to the architecture's baseline for any other cpu: `+feat`
        adds what `feat` needs, `-feat` removes what needs `feat`. Raises TargetError.
        """
        if text == "host":
            return cls.host()
        if text in extensions.LEVELS:
            arch, cpu = extensions.LEVELS[text]
            return cls(_triple_for(arch), cpu, extensions.features_of(arch, cpu))
        triple, slash, rest = text.partition("/")
        if not slash or not triple or not rest:
            raise TargetError(f"target {text!r} is none of host, {', '.join(extensions.LEVELS)}, or a text like "
                              f"x86_64-linux-gnu/x86-64-v3+avx512f-bmi2")
        arch = _arch(triple)
        if arch not in extensions.EXTENSIONS:
            return cls(triple, rest, frozenset())
        cpu, flags = extensions.split_flags(arch, rest)
        return cls(triple, cpu, extensions.apply_flags(arch, extensions.features_of(arch, cpu), flags))

    def __str__(self) -> str:
        base = extensions.features_of(self.arch, self.cpu)
        removed = "".join(f"-{name}" for name in sorted(base - self.features))
        added = "".join(f"+{name}" for name in sorted(self.features - base))
        return f"{self.triple}/{self.cpu}{removed}{added}"

    @property
    def name(self) -> str:
        """Short text for reports, such as "x86_64-linux-gnu/x86-64-v4"; `str` gives the exact one."""
        return f"{self.triple}/{self.cpu}"

    @property
    def arch(self) -> str:
        """"x86_64" or "aarch64"."""
        return _arch(self.triple)

    @property
    def isa(self) -> str:
        """The vector instruction set: "avx512", "avx2", "avx", "sse4", "sse2" or "neon"."""
        if self.arch == "aarch64":
            return "neon"
        if self.vector_bytes == 64:
            return "avx512"
        names = (("avx2", "avx2"), ("avx", "avx"), ("sse4.2", "sse4"))
        return next((short for feature, short in names if feature in self.features), "sse2")

    @property
    def vector_bytes(self) -> int:
        """Bytes of the widest vector register that schedules use."""
        if self.features >= extensions.WIDE_VECTORS:
            return 64
        return 32 if "avx" in self.features else 16

    @property
    def vector_registers(self) -> int:
        """How many vector registers the instruction set names."""
        return 32 if self.arch == "aarch64" or self.vector_bytes == 64 else 16

    def lanes(self, bits: int) -> int:
        """How many elements of `bits` bits one vector register holds."""
        if bits <= 0 or self.vector_bytes * 8 % bits:
            raise ValueError(f"a vector of {self.vector_bytes} bytes holds no whole number of {bits}-bit elements")
        return self.vector_bytes * 8 // bits

    @property
    def l1_bytes(self) -> int:
        """Bytes of one core's first-level data cache: read on the host, a common size for every other target."""
        return _cache_sizes()[0] if self == _host() else extensions.CACHES[self.arch][0]

    @property
    def l2_bytes(self) -> int:
        """Bytes of second-level cache that one core has; like `l1_bytes`."""
        return _cache_sizes()[1] if self == _host() else extensions.CACHES[self.arch][1]

    def machine(self) -> llvm.TargetMachine:
        """A new LLVM target machine: optimising, position independent, small code model, full-width vectors."""
        _initialize_llvm()
        return llvm.Target.from_triple(self.triple).create_target_machine(
            cpu=self.cpu, features=self._llvm_features(), opt=3, reloc="pic", codemodel="small")

    def compile(self, module: Module, *, linked: Sequence[str] = (), pipeline: Pipeline = _OURS) -> bytes:
        """Verifies and optimises `module` and returns relocatable object code; raises CompileError.

        `linked` are the texts of further modules that become part of this one. An intrinsic that the target cannot
        select ends the process inside LLVM, so emit only what `features` allows.
        """
        with self._optimized(module, linked, pipeline) as (optimized, machine), _errors("emit"):
            return bytes(machine.emit_object(optimized))

    def assembly(self, module: Module, *, linked: Sequence[str] = (), pipeline: Pipeline = _OURS) -> str:
        """The assembly text of what `compile` would emit, for inspection."""
        with self._optimized(module, linked, pipeline) as (optimized, machine), _errors("emit"):
            return str(machine.emit_assembly(optimized))

    def optimized_ir(self, module: Module, *, linked: Sequence[str] = (), pipeline: Pipeline = _OURS) -> str:
        """The LLVM text of `module` after the pipeline, before instruction selection."""
        with self._optimized(module, linked, pipeline) as (optimized, _):
            return str(optimized)

    def _llvm_features(self) -> str:
        """The exact extensions, absent ones first: switching one off takes with it those that LLVM derives from it."""
        absent = [f"-{name}" for name in sorted(extensions.EXTENSIONS[self.arch].keys() - self.features)]
        present = [f"+{name}" for name in sorted(self.features)]
        # Server cores' tuning models halve the vectors that LLVM forms by itself (memcpy, shuffles); ours are full.
        tuning = ["-prefer-256-bit", "-prefer-128-bit"] if self.vector_bytes == 64 else []
        return ",".join(absent + present + tuning)

    @contextmanager
    def _optimized(self, module: Module, linked: Sequence[str],
                   pipeline: Pipeline) -> Iterator[tuple[llvm.ModuleRef, llvm.TargetMachine]]:
        with self.machine() as machine, _parsed(module, linked) as parsed:
            _verify(parsed)
            parsed.triple = machine.triple
            parsed.data_layout = str(machine.target_data)
            pipeline.run(parsed, machine)
            yield parsed, machine


def _arch(triple: str) -> str:
    head = triple.partition("-")[0]
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(head, head)


def _triple_for(arch: str) -> str:
    host = _short_triple(llvm.get_process_triple())
    return host if _arch(host) == arch else f"{arch}-linux-gnu"


def _short_triple(triple: str) -> str:
    """Without the vendor where that says nothing: x86_64-unknown-linux-gnu is x86_64-linux-gnu."""
    return triple.replace("-unknown-", "-", 1)


@functools.cache
def _host() -> Target:
    triple = _short_triple(llvm.get_process_triple())
    arch = _arch(triple)
    if arch not in extensions.EXTENSIONS:
        raise TargetError(f"this machine ({triple}, {platform.machine()}) is not supported; "
                          f"supported are {', '.join(extensions.EXTENSIONS)}")
    enabled = frozenset(name for name, on in llvm.get_host_cpu_features().items() if on)
    features = enabled & extensions.EXTENSIONS[arch].keys()
    if "amx-tile" in features:
        from onnxc.runtime.cpu import may_use_tiles  # asked for where code that needs it is judged, too

        features = features if may_use_tiles() else extensions.apply_flags(arch, features, [("-", "amx-tile")])
    cpu = llvm.get_host_cpu_name()
    return Target(triple, cpu if cpu in extensions.CPUS[arch] else extensions.closest_level(arch, features), features)


@functools.cache
def _cache_sizes() -> tuple[int, int]:
    """Data or unified cache bytes (L1, L2) of the first CPU, from Linux's sysfs; common sizes where that is silent."""
    sizes = dict(enumerate(extensions.CACHES[_host().arch], start=1))
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index[0-9]*")):
        try:
            level = int((index / "level").read_text())
            size = re.fullmatch(r"(\d+)([KM]?)", (index / "size").read_text().strip())
            is_code = (index / "type").read_text().strip() == "Instruction"
        except (OSError, ValueError):
            continue
        if size and level in sizes and not is_code and int(size[1]) > 0:
            sizes[level] = int(size[1]) * {"": 1, "K": 1 << 10, "M": 1 << 20}[size[2]]
    return sizes[1], sizes[2]


@functools.cache
def _initialize_llvm() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


@contextmanager
def _parsed(module: Module, linked: Sequence[str]) -> Iterator[llvm.ModuleRef]:
    """One module in a context of its own, which is closed with it, whatever `module` is.

    Both are closed here, the module first. Left to the garbage collector, which may run their finalisers in any order
    when an exception's traceback holds them, the module would be destroyed after its context.
    """
    with llvm.create_context() as context, _parse(str(module), context) as whole:
        for text in linked:
            # Linking consumes the other module.
            with _parse(text, context) as part, _errors("link"):
                part.triple, part.data_layout = whole.triple, whole.data_layout
                whole.link_in(part)
        yield whole


def _parse(text: str, context: llvm.ContextRef) -> llvm.ModuleRef:
    if "\0" in text:
        raise CompileError("parse", "the text holds a NUL character")
    try:
        return llvm.parse_assembly(text, context=context)
    except RuntimeError as error:
        detail = str(error).removeprefix("LLVM IR parsing error\n")
        raise CompileError("parse", detail, _function_at(text, detail)) from error


def _verify(module: llvm.ModuleRef) -> None:
    try:
        module.verify()
    except RuntimeError as error:
        raise CompileError("verify", str(error), _function_quoted(module, str(error))) from error


@contextmanager
def _errors(stage: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise CompileError(stage, str(error)) from error


def _function_at(text: str, message: str) -> str | None:
    """The function around the line that a parse error points at."""
    place = re.search(r"<string>:(\d+):\d+:", message)
    if not place:
        return None
    above = "\n".join(text.splitlines()[:int(place[1])])
    names = re.findall(r'^define [^@]*@("(?:[^"\\]|\\.)*"|[-\w$.]+)', above, flags=re.MULTILINE)
    return names[-1].strip('"') if names else None


def _function_quoted(module: llvm.ModuleRef, message: str) -> str | None:
    """The one function whose body holds an instruction that the verifier's message quotes."""
    named = re.search(r"[Ii]n function:? '?@?([-\w$.]+)", message)
    if named:
        return named[1]
    quoted = [line.strip() for line in message.splitlines() if line.startswith("  ") and line.strip()]
    for function in module.functions:
        body = str(function)
        if any(line in body for line in quoted):
            return str(function.name)
    return None
