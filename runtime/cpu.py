"""What the processor of this machine is and can do, asked without a compiler, under LLVM's names for extensions.

Only a judge of compiled code: code for extensions that the machine lacks must be refused before it runs, and code that
was tuned for another processor is not taken for this one's.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import sys
from collections.abc import Iterable
from pathlib import Path

__all__ = ["architecture", "caches", "extensions_in", "host_extensions", "may_use_tiles", "missing", "model", "system"]

# LLVM's names where Linux has others; all further names are Linux's with '_' left out.
_X86 = {"sse3": "pni", "sse4.1": "sse4_1", "sse4.2": "sse4_2", "crc32": "sse4_2", "bmi": "bmi1", "lzcnt": "abm",
        "sahf": "lahf_lm", "prfchw": "3dnowprefetch", "avxvnni": "avx_vnni", "avxvnniint8": "avx_vnni_int8",
        "avxvnniint16": "avx_vnni_int16", "avxifma": "avx_ifma", "avxneconvert": "avx_ne_convert",
        "avx512vbmi2": "avx512_vbmi2", "avx512vnni": "avx512_vnni", "avx512bitalg": "avx512_bitalg",
        "avx512vpopcntdq": "avx512_vpopcntdq", "avx512bf16": "avx512_bf16", "avx512fp16": "avx512_fp16",
        "avx512vp2intersect": "avx512_vp2intersect", "amx-tile": "amx_tile", "amx-int8": "amx_int8",
        "amx-bf16": "amx_bf16", "amx-fp16": "amx_fp16"}
_ARM = {"fp-armv8": "fp", "neon": "asimd", "lse": "atomics", "fullfp16": "asimdhp", "fp16fml": "asimdfhm",
        "dotprod": "asimddp", "rdm": "asimdrdm", "complxnum": "fcma", "jsconv": "jscvt", "rcpc": "lrcpc"}
_NAMING = ("vendor_id", "cpu family", "model", "model name", "stepping", "CPU implementer", "CPU architecture",
           "CPU variant", "CPU part", "CPU revision")
_TILES = frozenset(name for linux in ("amx-tile", "amx-int8", "amx-bf16", "amx-fp16")
                   for name in (linux, linux.replace("-", "_")))
_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18
_BASELINE = {"x86_64": frozenset({"sse", "sse2"}), "aarch64": frozenset({"fp-armv8", "neon"})}


def architecture() -> str:
    """The machine's architecture as targets spell it: "x86_64", "aarch64", or what the platform says."""
    machine = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)


def system() -> str:
    """The operating system as target triples spell it: "linux", "darwin", "windows", or what Python says."""
    return {"win32": "windows"}.get(sys.platform, sys.platform)


def extensions_in(cpuinfo: str, arch: str) -> frozenset[str]:
    """The extensions that every processor of a /proc/cpuinfo text has, under the names of LLVM and of Linux."""
    lines = [line.partition(":")[2].split() for line in cpuinfo.splitlines()
             if line.partition(":")[0].strip() in ("flags", "Features")]
    common = frozenset.intersection(*map(frozenset, lines)) if lines else frozenset()
    renamed = {llvm for llvm, linux in (_X86 if arch == "x86_64" else _ARM).items() if linux in common}
    return common | renamed | _BASELINE.get(arch, frozenset())


@functools.cache
def host_extensions() -> frozenset[str]:
    """The extensions of this machine that this process may use; where it does not list them, those that its
    architecture always has."""
    found = extensions_in(_cpuinfo(), architecture())
    return found if "amx-tile" not in found or may_use_tiles() else found - _TILES


@functools.cache
def may_use_tiles() -> bool:
    """Whether the operating system lets this process, with its threads and the children it forks, use the registers of
    the matrix unit: Linux has to be asked, once, before their first use."""
    if architecture() != "x86_64" or system() != "linux":
        return False
    process = ctypes.CDLL(None)
    return int(process.syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA)) == 0


@functools.cache
def model() -> str:
    """What tells this machine's kind of processor from others: the lines of /proc/cpuinfo that name it."""
    named = {line.strip() for line in _cpuinfo().splitlines() if line.partition(":")[0].strip() in _NAMING}
    return "; ".join(sorted(" ".join(line.split()) for line in named)) or platform.processor()


def caches() -> list[str]:
    """Level, kind and size of each cache of the first processor, where the system tells."""
    found = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index[0-9]*")):
        try:
            found.append(" ".join((index / name).read_text().strip() for name in ("level", "type", "size")))
        except OSError:
            continue
    return found


@functools.cache
def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return ""


def missing(needed: Iterable[str]) -> list[str]:
    """The extensions of `needed` that this machine lacks."""
    return sorted(set(needed) - host_extensions())
