"""Options of sessions and runs, under ONNX Runtime's names, with its types, defaults and refusals.

Each option says in its `doc` what it does here. Options of mechanisms that compiled programs do not have are kept and
change nothing; those are marked "accepted". An option whose absence would change what a program gets is not offered.
"""

from __future__ import annotations

import ctypes
import enum
import operator
from collections.abc import Callable
from typing import Any

from onnxc import errors
from onnxc.runtime.enums import ExecutionMode, ExecutionOrder, GraphOptimizationLevel
from onnxc.runtime.log import LOG, SEVERITIES

__all__ = ["RunOptions", "SessionOptions"]


class _Option:
    """A typed attribute: the value it starts with and what it does."""

    def __init__(self, accepts: Callable[[Any], Any], default: Any, doc: str) -> None:
        self._accepts, self._default, self.__doc__ = accepts, default, doc

    def __set_name__(self, owner: type, name: str) -> None:
        self._name, self._owner = name, owner.__name__

    def __get__(self, options: Any, owner: type | None = None) -> Any:
        return self if options is None else options._values.get(self._name, self._default)

    def __set__(self, options: Any, value: Any) -> None:
        try:
            options._values[self._name] = self._accepts(value)
        except TypeError:
            raise TypeError(f"{self._owner}.{self._name} = {value!r} of type {type(value).__name__}; expected a value "
                            f"like {self._default!r}") from None


def _flag(value: Any) -> bool:
    if type(value).__name__ not in ("bool", "bool_"):
        raise TypeError
    return bool(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _member(of: type[enum.IntEnum]) -> Callable[[Any], Any]:
    def accept(value: Any) -> Any:
        if not isinstance(value, of):
            raise TypeError
        return value
    return accept


_LONGEST_KEY, _LONGEST_VALUE = 1024, 8192


class _Entries:
    """Text entries by key, with ONNX Runtime's bounds; unknown keys are kept and change nothing."""

    def __init__(self, owner: str) -> None:
        self.owner, self.values = owner, dict[str, str]()

    def add(self, key: str, value: str) -> None:
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"a configuration entry of {self.owner} is two texts, not {key!r} and {value!r}")
        if not 0 < len(key) <= _LONGEST_KEY or len(value) > _LONGEST_VALUE:
            raise RuntimeError(f"{self.owner}: a configuration key of {len(key)} characters with a value of "
                               f"{len(value)}; keys have 1 to {_LONGEST_KEY}, values at most {_LONGEST_VALUE}")
        self.values[key] = value

    def get(self, key: str) -> str:
        if key not in self.values:
            raise RuntimeError(f"{self.owner} does not have configuration with key: {key}")
        return self.values[key]


class SessionOptions:
    """Options of a session, which copies them when it is made."""

    __slots__ = ("_entries", "_overrides", "_values")

    graph_optimization_level = _Option(_member(GraphOptimizationLevel), GraphOptimizationLevel.ORT_ENABLE_ALL,
                                       "ORT_DISABLE_ALL leaves out every pass that is not required.")
    intra_op_num_threads = _Option(operator.index, 0, "Threads of a run with the caller; below 1: ONNXC_THREADS, "
                                                      "else the processors that this process may use.")
    inter_op_num_threads = _Option(operator.index, 0, "Accepted: a program's steps run one after another.")
    execution_mode = _Option(_member(ExecutionMode), ExecutionMode.ORT_SEQUENTIAL, "Accepted: see ExecutionMode.")
    execution_order = _Option(_member(ExecutionOrder), ExecutionOrder.DEFAULT, "Accepted: see ExecutionOrder.")
    enable_cpu_mem_arena = _Option(_flag, True, "False gives memory back after every run instead of keeping it.")
    enable_mem_pattern = _Option(_flag, True, "Accepted: memory is planned by the compiler.")
    enable_mem_reuse = _Option(_flag, True, "Accepted: memory is planned by the compiler.")
    log_severity_level = _Option(operator.index, -1, "0 to 4: what this session says on the logger 'onnxc' "
                                                     "(verbose, info, warning, error, fatal); -1: all it lets by.")
    log_verbosity_level = _Option(operator.index, 0, "Accepted.")
    logid = _Option(_text, "", "Stands before this session's log lines.")
    enable_profiling = _Option(_flag, False, "Records a profile, which `end_profiling` or the session's end "
                                            "writes.")
    profile_file_prefix = _Option(_text, "onnxruntime_profile_", "Path and start of the profile's name; the time and "
                                                                 "'.json' follow.")
    use_deterministic_compute = _Option(_flag, False, "Accepted: results do not depend on the run.")
    use_per_session_threads = _Option(_flag, True, "Accepted: each session has its own threads.")

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._entries = _Entries("SessionOptions")
        self._overrides: dict[str, int] = {}

    def add_session_config_entry(self, key: str, value: str) -> None:
        """Sets a configuration entry.

        `session.intra_op.allow_spinning` ("0": idle threads sleep at once), `session.intra_op.spin_duration_us` and
        `session.model_external_initializers_file_folder_path` mean what they mean to ONNX Runtime; others are kept.
        """
        self._entries.add(key, value)

    def get_session_config_entry(self, key: str) -> str:
        """The entry's value; RuntimeError when there is none."""
        return self._entries.get(key)

    def add_free_dimension_override_by_name(self, name: str, size: int) -> None:
        """Fixes the dimension called `name`: inputs and outputs show the size, and other sizes are refused."""
        if not isinstance(name, str):
            raise TypeError(f"a dimension's name is a text, not {name!r}")
        self._overrides[name] = operator.index(size)

    def register_custom_ops_library(self, path: str) -> None:
        """Raises NotImplemented: a library's kernels are machine code for another runtime. Operators of your own are
        taken by `onnxc.register_op`."""
        raise errors.NotImplemented(
            f"The custom operators of {path} are kernels for ONNX Runtime's C API, which compiled programs cannot "
            "call. Give each operator to onnxc.register_op(domain, name, fn), as a function that builds it out of "
            "tensor ops.")

    def copy(self) -> SessionOptions:
        """Options that change independently."""
        other = SessionOptions()
        other._values.update(self._values)
        other._entries.values.update(self._entries.values)
        other._overrides.update(self._overrides)
        return other

    def entry(self, key: str, default: str = "") -> str:
        """The entry's value, or `default`."""
        return self._entries.values.get(key, default)

    @property
    def dimension_overrides(self) -> dict[str, int]:
        """Sizes by dimension name, as `add_free_dimension_override_by_name` set them."""
        return self._overrides

    def log(self, level: int, text: str, *values: object) -> None:
        """Says something on behalf of a session with these options."""
        if self.log_severity_level < 0 or level >= SEVERITIES[self.log_severity_level]:
            LOG.log(level, (f"{self.logid}: " if self.logid else "") + text, *values)

    def spin_ns(self) -> int:
        """How long idle threads spin; -1 for the default. Raises ValueError for a duration that is no number."""
        if self.entry("session.intra_op.allow_spinning", "1") == "0":
            return 0
        duration = self.entry("session.intra_op.spin_duration_us")
        if duration and not (duration.isascii() and duration.isdigit() and len(duration) < 16):
            raise ValueError(f"session.intra_op.spin_duration_us is {duration!r}; expected microseconds")
        return int(duration) * 1000 if duration else -1


class RunOptions:
    """Options of runs; one object may serve many, also at the same time."""

    __slots__ = ("_entries", "_stop", "_values")

    log_severity_level = _Option(operator.index, -1, "Accepted.")
    log_verbosity_level = _Option(operator.index, 0, "Accepted.")
    logid = _Option(_text, "", "Accepted.")
    only_execute_path_to_fetches = _Option(_flag, False, "Accepted: a compiled program computes all outputs.")

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._entries = _Entries("RunOptions")
        self._stop = ctypes.c_int32(0)

    @property
    def terminate(self) -> bool:
        """True stops the runs that use this object, also those under way, with `Cancelled`; set it back to reuse it."""
        return bool(self._stop.value)

    @terminate.setter
    def terminate(self, value: bool) -> None:
        if not isinstance(value, bool):
            raise TypeError(f"RunOptions.terminate = {value!r}; expected True or False")
        self._stop.value = int(value)

    def add_run_config_entry(self, key: str, value: str) -> None:
        """Keeps a configuration entry, which changes nothing."""
        self._entries.add(key, value)

    def get_run_config_entry(self, key: str) -> str:
        """The entry's value; RuntimeError when there is none."""
        return self._entries.get(key)

    def stop_address(self) -> int:
        """The address of the i32 word behind `terminate`, valid as long as this object."""
        return ctypes.addressof(self._stop)

