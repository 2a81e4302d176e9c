"""Tables of the instruction-set extensions and tuning models that targets are described with.

Only extensions that code generation can select from plain LLVM IR are listed, under LLVM's names. A test compares the
tables with LLVM's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_X86_VECTOR: dict[str, tuple[str, ...]] = {
    "sse": (), "sse2": ("sse",), "sse3": ("sse2",), "ssse3": ("sse3",), "sse4.1": ("ssse3",),
    "sse4.2": ("sse4.1",), "sse4a": ("sse3",),
    "avx": ("sse4.2",), "avx2": ("avx",), "f16c": ("avx",), "fma": ("avx",), "fma4": ("avx", "sse4a"),
    "xop": ("fma4",), "gfni": ("sse2",),
    "avxvnni": ("avx2",), "avxvnniint8": ("avx2",), "avxvnniint16": ("avx2",), "avxifma": ("avx2",),
    "avxneconvert": ("avx2",),
    "avx512f": ("avx2", "f16c", "fma"), "avx512cd": ("avx512f",), "avx512dq": ("avx512f",),
    "avx512bw": ("avx512f",), "avx512vl": ("avx512f",), "avx512ifma": ("avx512f",),
    "avx512vbmi": ("avx512bw",), "avx512vbmi2": ("avx512bw",), "avx512vnni": ("avx512f",),
    "avx512bitalg": ("avx512bw",), "avx512vpopcntdq": ("avx512f",), "avx512bf16": ("avx512bw",),
    "avx512fp16": ("avx512bw", "avx512vl"), "avx512vp2intersect": ("avx512f",),
    "amx-tile": (), "amx-int8": ("amx-tile",), "amx-bf16": ("amx-tile",), "amx-fp16": ("amx-tile",),
}

_X86_SCALAR: dict[str, tuple[str, ...]] = {
    "crc32": (), "cx16": (), "sahf": (), "popcnt": (), "bmi": (), "bmi2": (), "lzcnt": (), "movbe": (), "tbm": (),
    "prfchw": (), "cmpccxadd": (),
    "egpr": (), "ndd": (), "ccmp": (), "cf": (), "nf": (), "zu": (), "ppx": (), "push2pop2": (),
}

_ARM: dict[str, tuple[str, ...]] = {
    "fp-armv8": (), "neon": ("fp-armv8",), "lse": (), "fullfp16": ("fp-armv8",), "fp16fml": ("fullfp16", "neon"),
    "dotprod": ("neon",), "i8mm": ("neon",), "bf16": ("neon",), "rdm": ("neon",), "complxnum": ("neon",),
    "jsconv": ("fp-armv8",), "rcpc": (), "sve": ("fullfp16",), "sve2": ("sve",), "sme": ("bf16", "fullfp16"),
}

EXTENSIONS: dict[str, dict[str, tuple[str, ...]]] = {"x86_64": {**_X86_VECTOR, **_X86_SCALAR}, "aarch64": _ARM}
"""Architecture -> extension -> the extensions that it needs directly."""

WIDE_VECTORS = frozenset({"avx512f", "avx512vl", "avx512bw", "avx512dq"})
"""What makes 64-byte registers useful for every element width and for masked tails."""

BASELINE: dict[str, frozenset[str]] = {
    "x86_64": frozenset({"sse", "sse2"}),
    "aarch64": frozenset({"fp-armv8", "neon"}),
}

_V2 = BASELINE["x86_64"] | {"sse3", "ssse3", "sse4.1", "sse4.2", "crc32", "cx16", "sahf", "popcnt"}
_V3 = _V2 | {"avx", "avx2", "f16c", "fma", "bmi", "bmi2", "lzcnt", "movbe"}
_V4 = _V3 | WIDE_VECTORS | {"avx512cd"}

_LEVEL_FEATURES: dict[str, dict[str, frozenset[str]]] = {
    "x86_64": {"x86-64": BASELINE["x86_64"], "x86-64-v2": _V2, "x86-64-v3": _V3, "x86-64-v4": _V4},
    "aarch64": {"generic": BASELINE["aarch64"]},
}

LEVELS: dict[str, tuple[str, str]] = {
    **{cpu: ("x86_64", cpu) for cpu in _LEVEL_FEATURES["x86_64"]},
    "aarch64-neon": ("aarch64", "generic"),
}
"""Short target names -> (architecture, LLVM cpu); the x86 levels are those of the System V psABI."""

CPUS: dict[str, tuple[str, ...]] = {
    "x86_64": (
        *_LEVEL_FEATURES["x86_64"], "core2", "penryn", "nehalem", "westmere", "sandybridge", "ivybridge", "haswell",
        "broadwell", "skylake", "skylake-avx512", "cascadelake", "cooperlake", "cannonlake", "icelake-client",
        "icelake-server", "rocketlake", "tigerlake", "sapphirerapids", "emeraldrapids", "graniterapids",
        "graniterapids-d", "diamondrapids", "alderlake", "raptorlake", "meteorlake", "arrowlake", "arrowlake-s",
        "lunarlake", "pantherlake", "goldmont", "goldmont-plus", "tremont", "gracemont", "sierraforest", "grandridge",
        "clearwaterforest", "btver2", "bdver1", "bdver2", "bdver3", "bdver4",
        "znver1", "znver2", "znver3", "znver4", "znver5",
    ),
    "aarch64": (
        *_LEVEL_FEATURES["aarch64"], "cortex-a53", "cortex-a55", "cortex-a57", "cortex-a72", "cortex-a76", "cortex-a78",
        "cortex-x1", "neoverse-n1", "neoverse-n2", "neoverse-v1", "neoverse-v2", "apple-m1", "apple-m2", "apple-m3",
        "apple-m4",
    ),
}
"""Tuning models that LLVM knows, the levels first. A host whose model is not listed is tuned as its level."""

CACHES: dict[str, tuple[int, int]] = {"x86_64": (32 << 10, 512 << 10), "aarch64": (64 << 10, 512 << 10)}
"""Architecture -> (L1 data, L2) bytes assumed where the machine is not at hand: sizes that common cores reach."""


def features_of(arch: str, cpu: str) -> frozenset[str]:
    """The extensions that naming `cpu` stands for: a level's, and the baseline for a tuning model."""
    return _LEVEL_FEATURES[arch].get(cpu, BASELINE[arch])


def closest_level(arch: str, features: frozenset[str]) -> str:
    """The highest level whose extensions are all in `features`."""
    return [cpu for cpu, needed in _LEVEL_FEATURES[arch].items() if needed <= features | BASELINE[arch]][-1]


def with_requirements(arch: str, features: Iterable[str]) -> frozenset[str]:
    """`features` and everything that they need."""
    closed: set[str] = set()
    pending = list(features)
    while pending:
        name = pending.pop()
        if name not in closed:
            closed.add(name)
            pending.extend(EXTENSIONS[arch][name])
    return frozenset(closed)


def split_flags(arch: str, text: str) -> tuple[str, list[tuple[str, str]]]:
    """"znver4+gfni-avx512f" -> ("znver4", [("+", "gfni"), ("-", "avx512f")]); unknown text stays with the cpu."""
    names = "|".join(re.escape(name) for name in sorted(EXTENSIONS[arch], key=len, reverse=True))
    match = re.fullmatch(rf"(.+?)((?:[+-](?:{names}))*)", text)
    if match is None:
        return text, []
    return match[1], [(sign, name) for sign, name in re.findall(rf"([+-])({names})(?=[+-]|$)", match[2])]


def apply_flags(arch: str, features: frozenset[str], flags: Iterable[tuple[str, str]]) -> frozenset[str]:
    """Adds or removes extensions in order, keeping the set closed under requirements."""
    for sign, name in flags:
        if sign == "+":
            features = with_requirements(arch, features | {name})
        else:
            features = frozenset(kept for kept in features if name not in with_requirements(arch, [kept]))
    return features
