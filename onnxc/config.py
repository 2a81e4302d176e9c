"""The settings that come from the environment: one frozen record, read once from the `ONNXC_*` variables.

Options of one session or one compilation are arguments of those; here is what a developer or an operator sets from
outside. Each field carries the sentence that `onnxc env` prints. Nothing else in onnxc reads `ONNXC_*`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, NamedTuple

from onnxc.errors import InvalidArgument

__all__ = ["Config", "PassSwitch", "Setting", "config", "settings"]

PREFIX = "ONNXC_"


class PassSwitch(NamedTuple):
    """One entry of ONNXC_PASSES: a pass by its name in the pipeline table, to be run or to be left out."""

    name: str
    enabled: bool


def _integer(least: int, most: int | None = None) -> Callable[[str], int]:
    expected = f"an integer of at least {least}" if most is None else f"an integer from {least} to {most}"

    def parse(text: str) -> int:
        # int() alone would also take "1_0" and digits of other scripts. Eighteen digits fit into 64 bits.
        if not (text.isascii() and text.isdigit() and len(text) <= 18):
            raise ValueError(expected)
        value = int(text)
        if value < least or (most is not None and value > most):
            raise ValueError(expected)
        return value

    return parse


def _pass_switches(text: str) -> tuple[PassSwitch, ...]:
    switches: list[PassSwitch] = []
    for entry in text.split(","):
        sign, name = entry.strip()[:1], entry.strip()[1:].strip()
        if sign not in ("+", "-") or not name:
            raise ValueError(f"pass names with a sign, as in -fuse,+layout; '{entry.strip()}' is not one")
        if any(name == other.name for other in switches):
            raise ValueError(f"each pass once; '{name}' occurs twice")
        switches.append(PassSwitch(name, sign == "+"))
    return tuple(switches)


def _text(text: str) -> str:
    return text


def _path(text: str) -> str:
    return os.path.abspath(os.path.expanduser(text))


def _cache(text: str) -> str:
    return text if text in ("off", "ro") else _path(text)


def _bytes(text: str) -> int:
    unit = _UNITS.get(text[-1:].upper())
    return _integer(0)(text if unit is None else text[:-1].strip()) * (unit or 1)


_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def _setting(default: Any, parse: Callable[[str], Any], doc: str) -> Any:
    return field(default=default, metadata={"parse": parse, "doc": doc})


@dataclass(frozen=True)
class Config:
    """The settings. An empty or absent variable gives the default, a value that does not parse an InvalidArgument."""

    debug: int = _setting(
        0,
        _integer(0, 5),
        "What compilation prints on stderr: 0 nothing, 1 a summary and the host ops, 2 also timings, 3 also schedules, "
        "4 also generated source, 5 also every rewrite.",
    )
    dump: str | None = _setting(
        None, _path, "Folder for the text of the module after every stage and pass; created when missing."
    )
    verify: int = _setting(
        0,
        _integer(0, 2),
        "When the IR is verified: 0 once after import, 1 after every pass, 2 after every rewrite, with a print and "
        "parse of the whole module between passes.",
    )
    fuel: int | None = _setting(
        None, _integer(0), "Number of rewrites applied before rewriting stops; unset: no limit."
    )
    passes: tuple[PassSwitch, ...] = _setting(
        (), _pass_switches, "Passes left out (-name) or added (+name), separated by commas; the order does not change."
    )
    cache: str | None = _setting(
        None,
        _cache,
        "Compiled models on disk: 'off' neither reads nor writes, 'ro' only reads, any other text is the folder; "
        "unset: the user's cache folder.",
    )
    cache_size: int = _setting(
        8 << 30,
        _bytes,
        "Bytes that compiled models on disk may take, as 500M or 8G; the longest unused go first.",
    )
    tune: int = _setting(
        0,
        _integer(0),
        "Seconds that each compilation may spend on timing schedules of its kernels, whose winners are kept in the "
        "cache folder; 0: none.",
    )
    threads: int | None = _setting(
        None,
        _integer(1),
        "Threads of a session that names no number itself; unset: the CPUs that this process may use.",
    )
    compile_processes: int | None = _setting(
        None,
        _integer(1),
        "Processes that compile the kernels of one model; 1 begins no others; unset: the CPUs that this process may "
        "use, up to 4.",
    )
    target: str = _setting(
        "host", _text, "What CPU kernels are compiled for: 'host', or a target such as x86-64-v3 or aarch64-neon."
    )

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Config:
        """Reads the variables of `environ`.

        Raises InvalidArgument for a value that does not parse. Warns of ONNXC_ variables that no setting has, which are
        most often misspelt.
        """
        names = {PREFIX + f.name.upper(): f for f in fields(cls)}
        given = {f.name: (name, f.metadata["parse"]) for name, f in names.items() if environ.get(name)}
        values = {key: _parse(name, environ[name], parse) for key, (name, parse) in given.items()}
        for name in sorted(environ):
            if name.startswith(PREFIX) and name not in names:
                warnings.warn(f"{name} is not a setting of onnxc; there are {', '.join(names)}", stacklevel=2)
        return cls(**values)


def _parse(name: str, text: str, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(text.strip())
    except ValueError as expected:
        raise InvalidArgument(f"{name}={text!r}: expected {expected}. Change or unset the variable.") from None


@cache
def config() -> Config:
    """The settings of this process, read from its environment at the first call and the same ever after."""
    return Config.from_environ(os.environ)


class Setting(NamedTuple):
    """A setting as `onnxc env` shows it: its variable, the value in force, the default, and what it does."""

    variable: str
    value: Any
    default: Any
    doc: str


def settings(current: Config) -> list[Setting]:
    """Every setting of `current`, in the order of the fields."""
    return [
        Setting(PREFIX + f.name.upper(), getattr(current, f.name), f.default, f.metadata["doc"])
        for f in fields(current)
    ]
