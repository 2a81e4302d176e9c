"""Options of sessions and runs, under ONNX Runtime's names, with its types, defaults and refusals.

Each option says in its `doc` what it does here, and `runtime/entries.py` says it of configuration entries; `onnxc env
--options` prints both. Options of mechanisms that compiled programs do not have are kept and change nothing; those are
marked "Accepted". An option whose absence would change what a program gets is not offered.
"""

from __future__ import annotations

import ctypes
import enum
import operator
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from onnxc import errors
from onnxc.config import config
from onnxc.errors import Fail, ModelLoadCanceled
from onnxc.runtime.adapters import LoraAdapter
from onnxc.runtime.entries import RUN_ENTRIES, SESSION_ENTRIES
from onnxc.runtime.enums import (
    ExecutionMode,
    ExecutionOrder,
    GraphOptimizationLevel,
    OrtExecutionProviderDevicePolicy,
)
from onnxc.runtime.log import LOG, check_severity, during_run, say
from onnxc.runtime.providers import check_provider
from onnxc.runtime.threads import affinities, default_threads

if TYPE_CHECKING:
    from onnxc.runtime.ep_devices import OrtEpDevice

__all__ = ["RunOptions", "SessionOptions", "documented"]

_NOT_OPTIONS = ("providers", "dimension_overrides", "shrinks")


Array = npt.NDArray[Any]


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
    # Numbers and None have it; texts and lists have not, but for NumPy's own texts.
    if not hasattr(type(value), "__bool__") or isinstance(value, (str, bytes)):
        raise TypeError
    return bool(value)


def _number(value: Any) -> int:
    number = operator.index(value)
    if not -1 << 31 <= number < 1 << 31:
        raise TypeError
    return number


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return str(value)


def _member(of: type[enum.IntEnum]) -> Callable[[Any], Any]:
    def accept(value: Any) -> Any:
        if not isinstance(value, of):
            raise TypeError
        return value
    return accept


def _elements(value: Any, refusal: type[Exception]) -> Array:
    """The elements of an OrtValue."""
    if isinstance(value, np.ndarray) or not callable(getattr(value, "numpy", None)):
        raise refusal(f"{type(value)} is no OrtValue; make one with OrtValue.ortvalue_from_numpy")
    return np.asarray(value.numpy())


_LONGEST_KEY, _LONGEST_VALUE = 1024, 8192


class _Entries:
    """Text entries by key, with ONNX Runtime's bounds; those that stand not in `known` are kept and change nothing."""

    def __init__(self, owner: str, known: Mapping[str, str]) -> None:
        self.owner, self.known, self.values = owner, known, dict[str, str]()

    def add(self, key: str, value: str) -> None:
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"a configuration entry of {self.owner} is two texts, not {key!r} and {value!r}")
        if not 0 < len(key) <= _LONGEST_KEY or len(value) > _LONGEST_VALUE:
            raise RuntimeError(f"{self.owner}: a configuration key of {len(key)} characters with a value of "
                               f"{len(value)}; keys have 1 to {_LONGEST_KEY}, values at most {_LONGEST_VALUE}")
        if self.values.get(key, value) != value:
            LOG.warning("%s: the configuration entry %s was %r and is now %r", self.owner, key, self.values[key], value)
        if key not in self.known:
            LOG.info("%s: the configuration entry %s is kept and changes nothing", self.owner, key)
        self.values[key] = value

    def get(self, key: str) -> str:
        if key not in self.values:
            raise RuntimeError(f"{self.owner} does not have configuration with key: {key}")
        return self.values[key]


class _Load:
    """Whether the loading of models shall stop; shared by all copies of options."""

    cancelled = False


class SessionOptions:
    """Options of a session, which copies them when it is made."""

    __slots__ = ("_denotations", "_entries", "_external", "_files", "_initializers", "_load", "_overrides",
                 "_providers", "_values")

    graph_optimization_level = _Option(_member(GraphOptimizationLevel), GraphOptimizationLevel.ORT_ENABLE_ALL,
                                       "ORT_DISABLE_ALL leaves out every pass that is not required.")
    intra_op_num_threads = _Option(_number, 0, "Threads of a run with the caller; below 1: ONNXC_THREADS, "
                                                      "else the processors that this process may use.")
    inter_op_num_threads = _Option(_number, 0, "Accepted: a program's steps run one after another.")
    execution_mode = _Option(_member(ExecutionMode), ExecutionMode.ORT_SEQUENTIAL, "Accepted: see ExecutionMode.")
    execution_order = _Option(_member(ExecutionOrder), ExecutionOrder.DEFAULT, "Accepted: see ExecutionOrder.")
    enable_cpu_mem_arena = _Option(_flag, True, "False gives memory back after every run instead of keeping it.")
    enable_mem_pattern = _Option(_flag, True, "Accepted: memory is planned by the compiler.")
    enable_mem_reuse = _Option(_flag, True, "Accepted: memory is planned by the compiler.")
    log_severity_level = _Option(_number, -1, "0 to 4: what this session says on the logger 'onnxc' "
                                                     "(verbose, info, warning, error, fatal); -1: all it lets by.")
    log_verbosity_level = _Option(_number, 0, "Accepted.")
    logid = _Option(_text, "", "Stands before this session's log lines.")
    enable_profiling = _Option(_flag, False, "Records a profile, which `end_profiling` or the session's end "
                                            "writes.")
    profile_file_prefix = _Option(_text, "onnxruntime_profile_", "Path and start of the profile's name; the time and "
                                                                 "'.json' follow.")
    use_deterministic_compute = _Option(_flag, False, "Accepted: results do not depend on the run.")
    optimized_model_filepath = _Option(_text, "", "Where the session writes its model: see `onnxc.optimized`.")
    use_per_session_threads = _Option(_flag, True, "Accepted: each session has its own threads.")

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._entries = _Entries("SessionOptions", SESSION_ENTRIES)
        self._overrides: dict[str, int] = {}
        self._denotations: dict[str, int] = {}
        self._initializers: dict[str, Array] = {}
        self._external: dict[str, Array] = {}
        self._files: dict[str, Array] = {}
        self._providers: list[tuple[str, dict[str, str]]] = []
        self._load = _Load()

    def add_session_config_entry(self, key: str, value: str) -> None:
        """Sets a configuration entry: what each does stands in `onnxc.runtime.entries.SESSION_ENTRIES`. Others are kept
        and change nothing."""
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
        taken by `onnxc.register_op`. Fail where there is no such library."""
        if not os.path.isfile(path):
            raise Fail(f"Failed to load library {path} with error: there is no such file")
        raise errors.NotImplemented(
            f"The custom operators of {path} are kernels for ONNX Runtime's C API, which compiled programs cannot "
            "call. Give each operator to onnxc.register_op(domain, name, fn), as a function of arrays, or as one "
            "that builds it out of tensor ops.")

    def add_free_dimension_override_by_denotation(self, denotation: str, size: int) -> None:
        """Fixes the dimensions of inputs whose denotation this is, as `add_free_dimension_override_by_name` does."""
        if not isinstance(denotation, str):
            raise TypeError(f"a dimension's denotation is a text, not {denotation!r}")
        self._denotations[denotation] = operator.index(size)

    def add_initializer(self, name: str, value: Any) -> None:
        """Replaces the initializer called `name` by an OrtValue, whose elements are read when a session is made.

        A name that the model does not have is ignored. RuntimeError for a name given before, and for other values.
        """
        if not isinstance(name, str):
            raise TypeError(f"an initializer's name is a text, not {name!r}")
        if name in self._initializers:
            raise RuntimeError(f"An OrtValue for this name has already been added: {name}")
        self._initializers[name] = _elements(value, RuntimeError)

    def add_external_initializers(self, names: Sequence[str], values: Sequence[Any]) -> None:
        """Supplies the data of initializers that the model has outside of itself, as OrtValues of the declared type,
        which are not copied and have to stay as they are while sessions are open."""
        if len(names) != len(values):
            raise RuntimeError(f"{len(names)} names of initializers and {len(values)} values; expected one for each")
        arrays = [_elements(value, AttributeError) for value in values]
        self._external.update(zip(names, arrays, strict=True))

    def add_external_initializers_from_files_in_memory(self, names: Sequence[str], buffers: Sequence[Any],
                                                       lengths: Sequence[int]) -> None:
        """Supplies whole files of external data: the name that the model has for each, its bytes, and how many of them
        count. The buffers are not copied, and have to stay as they are while sessions are open."""
        if not len(names) == len(buffers) == len(lengths):
            raise RuntimeError(f"{len(names)} names of files, {len(buffers)} buffers and {len(lengths)} lengths; "
                               "expected one of each")
        for name, buffer, length in zip(names, buffers, lengths, strict=True):
            data, count = np.frombuffer(memoryview(buffer).cast("B"), np.uint8), operator.index(length)
            if not 0 <= count <= data.size:
                raise RuntimeError(f"the file {name!r} is said to have {count} bytes, and its buffer has {data.size}")
            self._files[name] = data[:count]

    def add_provider(self, name: str, options: Mapping[str, str]) -> None:
        """Adds a provider for sessions that are made without a list of them. RuntimeError for an unknown name."""
        self._providers.append((check_provider(name), {str(k): str(v) for k, v in options.items()}))

    def add_provider_for_devices(self, ep_devices: Sequence[OrtEpDevice], provider_options: Mapping[str, str]) -> None:
        """Adds the provider of devices that `get_ep_devices` lists."""
        if not len(ep_devices):
            raise errors.InvalidArgument("Must provide one or more OrtEpDevice instances.")
        from onnxc.runtime.ep_devices import OrtEpDevice  # which few sessions are opened with
        if not all(isinstance(device, OrtEpDevice) for device in ep_devices):
            raise TypeError(f"add_provider_for_devices takes devices that get_ep_devices lists, not {ep_devices!r}")
        self.add_provider(ep_devices[0].ep_name, provider_options)

    def set_provider_selection_policy(self, policy: OrtExecutionProviderDevicePolicy) -> None:
        """Accepted: of the one device that there is, every policy takes that."""
        if not isinstance(policy, OrtExecutionProviderDevicePolicy):
            raise TypeError(f"a policy is an OrtExecutionProviderDevicePolicy, not {policy!r}")

    def has_providers(self) -> bool:
        """Whether providers were added."""
        return bool(self._providers)

    def set_load_cancellation_flag(self, value: bool) -> None:
        """True ends the making of sessions with these options, also one under way, with ModelLoadCanceled."""
        self._load.cancelled = _flag(value)

    def copy(self) -> SessionOptions:
        """Options that change independently."""
        other = SessionOptions()
        other._values.update(self._values)
        other._entries.values.update(self._entries.values)
        for mine, theirs in ((self._overrides, other._overrides), (self._denotations, other._denotations),
                             (self._initializers, other._initializers), (self._external, other._external),
                             (self._files, other._files)):
            theirs.update(mine)     # type: ignore[arg-type]
        other._providers += self._providers
        other._load = self._load
        return other

    def entry(self, key: str, default: str = "") -> str:
        """The entry's value, or `default`."""
        return self._entries.values.get(key, default)

    def entries(self) -> dict[str, str]:
        """All configuration entries."""
        return self._entries.values

    @property
    def providers(self) -> list[tuple[str, dict[str, str]]]:
        """What `add_provider` added, in order."""
        return self._providers

    def check_load(self) -> None:
        """Raises ModelLoadCanceled when `set_load_cancellation_flag` says so."""
        if self._load.cancelled:
            raise ModelLoadCanceled("Loading was stopped: the cancellation flag of the session's options is set.")

    def model_changes(self) -> dict[str, Any]:
        """What changes the model, as the arguments of `frontend.changes.Changes`."""
        return {"dims": self._overrides, "denotations": self._denotations, "initializers": self._initializers,
                "external": self._external, "files": self._files}

    def disabled_passes(self) -> tuple[str, ...]:
        """Names of passes that shall not run, and perhaps of others."""
        names = [n.strip() for n in self.entry("optimization.disable_specified_optimizers").split(",")]
        if self.entry("session.disable_prepacking") == "1":
            names.append("pack")
        return tuple(dict.fromkeys(n for n in names if n))

    @property
    def dimension_overrides(self) -> dict[str, int]:
        """Sizes by dimension name, as `add_free_dimension_override_by_name` set them."""
        return self._overrides

    def log(self, level: int, text: str, *values: object) -> None:
        """Says something on behalf of a session with these options."""
        say(self.log_severity_level, self.logid, level, text, *values)

    def spin_ns(self) -> int:
        """How long idle threads spin; -1 for the default. Raises ValueError for a duration that is no number."""
        if self.entry("session.intra_op.allow_spinning", "1") == "0":
            return 0
        duration = self.entry("session.intra_op.spin_duration_us")
        if duration and not (duration.isascii() and duration.isdigit() and len(duration) < 16):
            raise ValueError(f"session.intra_op.spin_duration_us is {duration!r}; expected microseconds")
        return int(duration) * 1000 if duration else -1


    def processors(self) -> tuple[frozenset[int], ...]:
        """Those of each thread but the caller's; none where threads may run on all. Raises RuntimeError for a text that
        names no groups of processors, or another number of groups."""
        key = "session.intra_op_thread_affinities"
        threads = max(self.intra_op_num_threads, 0) or config().threads or default_threads()
        if threads == 1 or key not in self.entries():
            return ()
        return affinities(self.entry(key), threads - 1)


def documented(of: type[SessionOptions] | type[RunOptions]) -> dict[str, str]:
    """What each attribute of the options does here."""
    return {name: str(option.__doc__) for name, option in vars(of).items() if isinstance(option, (_Option, property))
            and option.__doc__ and name not in _NOT_OPTIONS}


class RunOptions:
    """Options of runs; one object may serve many, also at the same time."""

    __slots__ = ("_adapters", "_entries", "_stop", "_values")

    log_severity_level = _Option(_number, -1, "0 to 4: what runs say on the logger 'onnxc' begins at this severity; "
                                              "-1: at the session's.")
    log_verbosity_level = _Option(_number, 0, "Accepted.")
    logid = _Option(_text, "", "Stands before the log lines of runs, behind the session's.")
    only_execute_path_to_fetches = _Option(_flag, False, "True runs a program that computes no more than the outputs "
                                                         "asked for; each set of them is compiled once.")

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._entries = _Entries("RunOptions", RUN_ENTRIES)
        self._stop = ctypes.c_int32(0)
        self._adapters: list[LoraAdapter] = []

    @property
    def terminate(self) -> bool:
        """True stops the runs that use this object, also those under way, with `Cancelled`; set it back to reuse it."""
        return bool(self._stop.value)

    @terminate.setter
    def terminate(self, value: bool) -> None:
        try:
            self._stop.value = int(_flag(value))
        except TypeError:
            raise TypeError(f"RunOptions.terminate = {value!r}; expected True or False") from None

    def add_run_config_entry(self, key: str, value: str) -> None:
        """Sets a configuration entry: what each does stands in `onnxc.runtime.entries.RUN_ENTRIES`. Others are kept and
        change nothing."""
        self._entries.add(key, value)

    def get_run_config_entry(self, key: str) -> str:
        """The entry's value; RuntimeError when there is none."""
        return self._entries.get(key)

    def logging(self) -> AbstractContextManager[None]:
        """What runs with these options say is said as they have it. RuntimeError for a severity that is none."""
        check_severity(self.log_severity_level, -1)
        return during_run(self.log_severity_level, self.logid)

    def add_active_adapter(self, adapter: LoraAdapter) -> None:
        """Runs take the adapter's parameters for the model's initializers of these names, which have to be overridable;
        of several adapters the last one counts. A run on a binding refuses them: bind the parameters."""
        if not isinstance(adapter, LoraAdapter):
            raise TypeError(f"add_active_adapter takes an onnxc.LoraAdapter, not {adapter!r}")
        self._adapters.append(adapter)

    def fed(self, feed: Mapping[str, Any]) -> Mapping[str, Any]:
        """What a run is fed: the parameters of adapters stand before what else there is under their names."""
        if not self._adapters:
            return feed
        return {**feed, **{name: v for adapter in self._adapters for name, v in adapter.parameters().items()}}

    @property
    def shrinks(self) -> bool:
        """Whether a run shall give back the memory for intermediate tensors."""
        return "cpu" in self._entries.values.get("memory.enable_memory_arena_shrinkage", "")

    def check_binding(self) -> None:
        """Raises ValueError where the entry gpu_graph_id is no number, and RuntimeError for adapters, which runs on
        bindings do not take."""
        if any(adapter.parameters() for adapter in self._adapters):
            raise RuntimeError("The parameters of active adapters are not applied to a binding: bind them like inputs, "
                               "or call run or run_with_ort_values.")
        text = self._entries.values.get("gpu_graph_id", "")
        if text and not re.fullmatch(r"\s*[+-]?\d+\s*", text):
            raise ValueError(f"Run option 'gpu_graph_id' must be an integer, got {text!r}.")

    def stop_address(self) -> int:
        """The address of the i32 word behind `terminate`, valid as long as this object."""
        return ctypes.addressof(self._stop)

