"""`InferenceSession`: a model ready to run, under ONNX Runtime's contract.

Feeds are checked in `runtime/feeds.py`; programs are made in `runtime/programs.py` and run in `runtime/program.py`.
"""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import numpy.typing as npt

from onnxc.errors import Fail, InvalidArgument, NoModel
from onnxc.runtime.bind import Contradiction
from onnxc.runtime.devices import OrtMemoryInfo, cpu_memory
from onnxc.runtime.feeds import Feeds, listed, wanted_outputs
from onnxc.runtime.iobinding import IOBinding, run_with_ort_values
from onnxc.runtime.log import check_severity
from onnxc.runtime.metadata import ModelMetadata, NodeArg, describe, describe_model
from onnxc.runtime.options import RunOptions, SessionOptions
from onnxc.runtime.ortvalue import OrtValue, OrtValueVector
from onnxc.runtime.profiling import Profile, start_profile
from onnxc.runtime.programs import PLAIN, Programs, Variant
from onnxc.runtime.providers import chosen_providers
from onnxc.runtime.source import Source
from onnxc.runtime.worker import Callback, Worker

if TYPE_CHECKING:
    from onnxc.runtime.ep_devices import OrtEpDevice
    from onnxc.runtime.report import OrtEpAssignedSubgraph

__all__ = ["InferenceSession", "Session"]

S = TypeVar("S", bound="Session")

_CPU = "CPUExecutionProvider"
_MOST_CHOICES = 64          # lists of output names that are remembered


class Session:
    """What sessions do and say, however they were opened. May be used in many threads at once, and in forked children.
    Made by `InferenceSession`."""

    _sess_options: SessionOptions
    _model_path: str | None
    _model_bytes: bytes | None
    _enable_fallback: bool
    _providers: list[str]
    _provider_options: dict[str, dict[str, str]]
    _owner: object                  # of bindings: another one when the providers were set again
    _worker: Worker
    _profile: Profile | None
    _programs: Programs
    _sess: Programs
    _plain: Any
    _feeds: Feeds
    _positions: dict[str, int]
    _choices: dict[tuple[str, ...], list[int] | None]
    _inputs_meta: list[NodeArg]
    _outputs_meta: list[NodeArg]
    _overridable_meta: list[NodeArg]
    _model_meta: ModelMetadata
    _input_memory: list[OrtMemoryInfo]
    _output_memory: list[OrtMemoryInfo]

    def __enter__(self: S) -> S:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits for calls of `run_async`, then lets go of code, constants and memory; runs under way end normally.

        What describes the model stays; later runs raise NoModel. Closing again does nothing.
        """
        self._worker.close()
        self.end_profiling()
        self._programs = self._sess = self._plain = self._feeds = _CLOSED

    # ---- running -----------------------------------------------------------------------------------------------------

    def run(self, output_names: Any, input_feed: Mapping[str, Any],
            run_options: RunOptions | None = None, *, taps: Sequence[str] = ()) -> list[npt.NDArray[Any]]:
        """The outputs called `output_names` (None: all, in the model's order) for the inputs in `input_feed`.

        Each output is a new array. Behind them stand the values called `taps`, any of the model's main graph: the model
        is compiled once more for each list of them. Raises ValueError for missing inputs, RuntimeError for values that
        make no tensor, InvalidArgument for whatever else is wrong with feeds or names, Cancelled when `run_options`
        says so.
        """
        if run_options is not None:
            _stop_address(run_options)
            input_feed = run_options.fed(input_feed)
        arrays, overridden, shapes = self._feeds.prepare(input_feed)
        wanted = None if output_names is None else self._wanted(output_names)
        if overridden or taps or run_options is not None or self._profile is not None:
            if isinstance(taps, str):
                raise TypeError(f"taps is the text {taps!r}; expected a list of names of values, as [{taps!r}]")
            return self._run_variant(arrays, overridden, shapes, wanted, run_options, tuple(taps))
        try:
            outputs = self._plain.run(arrays, 0, None, shapes)
        except Contradiction as error:
            outputs = self._programs.apart(PLAIN, error, shapes).run(arrays, 0, None, shapes)
        return outputs if wanted is None else [outputs[i] for i in wanted]

    def _wanted(self, names: Any) -> list[int] | None:
        """`wanted_outputs`, remembered for lists of names."""
        if type(names) is not list:
            return wanted_outputs(names, self._positions)
        try:
            return self._choices[tuple(names)]
        except (KeyError, TypeError):
            found = wanted_outputs(names, self._positions)
        if len(self._choices) < _MOST_CHOICES:
            self._choices[tuple(names)] = found
        return found

    def _run_variant(self, arrays: list[npt.NDArray[Any]], overridden: tuple[str, ...], shapes: Any,
                     wanted: list[int] | None, options: RunOptions | None, taps: tuple[str, ...]) -> list[Any]:
        """A run on the program that fits what is special about it."""
        begin = time.monotonic_ns()
        names = tuple(o.name for o in self._outputs_meta)
        order = list(range(len(names))) if wanted is None else wanted
        less = options is not None and options.only_execute_path_to_fetches and not self._programs.is_artifact
        given = tuple(sorted(set(order))) if less else tuple(range(len(names)))
        asked = (*(names[i] for i in given), *taps)
        variant, stop = Variant(overridden, None if asked == names else asked), _stop_address(options)
        with _logging(options):
            try:
                outputs = self._programs.get(variant).run(arrays, stop, None, shapes)
            except Contradiction as error:
                outputs = self._programs.apart(variant, error, shapes).run(arrays, stop, None, shapes)
        if options is not None and options.shrinks:
            self._programs.release_memory()
        if self._profile is not None:
            self._profile.phase("model_run", begin)
        return [*(outputs[given.index(i)] for i in order), *outputs[len(given):]]

    def run_async(self, output_names: Any, input_feed: Mapping[str, Any], callback: Callback, user_data: Any,
                  run_options: RunOptions | None = None) -> None:
        """Runs on the session's own thread, after earlier calls of this method, and returns at once.

        Calls `callback(results, user_data, error)` there: `error` is "", or the text of what `run` would have raised
        and `results` is then empty. What is fed is looked at here: missing inputs are a ValueError, values that make
        no tensor a RuntimeError, and names in a wrong form a TypeError. The arrays have to stay as they are until
        then.
        """
        if not callable(callback):
            raise TypeError(f"callback is {callback!r}; expected a function of results, user_data and an error's text")
        _stop_address(run_options)
        names = listed(output_names)
        feed = dict(input_feed)
        with contextlib.suppress(InvalidArgument):      # which the run raises again
            self._feeds.prepare(feed)
        self._worker.submit(lambda: self.run(names, feed, run_options), callback, user_data)

    def run_with_ort_values(self, output_names: Any, input_dict_ort_values: Mapping[str, OrtValue],
                            run_options: RunOptions | None = None) -> list[OrtValue]:
        """`run` with OrtValues in and out: inputs are read where they lie."""
        stop = _stop_address(run_options)
        feed = input_dict_ort_values if run_options is None else run_options.fed(input_dict_ort_values)
        with _logging(run_options):
            return run_with_ort_values(self, output_names, feed, stop)

    def run_with_ortvaluevector(self, run_options: RunOptions, feed_names: Sequence[str], feeds: OrtValueVector,
                                fetch_names: Sequence[str], fetches: OrtValueVector, fetch_devices: Any) -> None:
        """`run_with_ort_values` with lists: of names and inputs, and of names and outputs, which are appended."""
        feed = dict(zip(feed_names, feeds, strict=True))
        for value in run_with_ort_values(self, fetch_names, feed, _stop_address(run_options)):
            fetches.push_back(value)

    def io_binding(self) -> IOBinding:
        """A new IOBinding of this session."""
        return IOBinding(self)

    def run_with_iobinding(self, iobinding: IOBinding, run_options: RunOptions | None = None) -> None:
        """Runs on what `iobinding` binds. Raises ValueError for a binding of another session, or from before its
        providers were set, and BindingError, an InvalidArgument and RuntimeError, for one that does not fit the
        model."""
        if iobinding._owner is not self._owner:
            raise ValueError("IOBinding must be used with the session that created it.")
        if self._plain is _CLOSED:
            _raise_closed()
        profile = self._profile
        begin = 0 if profile is None else time.monotonic_ns()
        if run_options is None:
            iobinding.run()
        else:
            stop = _stop_address(run_options)
            run_options.check_binding()
            with run_options.logging():
                iobinding.run(stop)
        if profile is not None:
            profile.phase("model_run", begin)

    def create_ortvalue_from_shape_and_type(self, shape: Sequence[int], element_type: Any, device_type: str = "cpu",
                                            device_id: int = 0, vendor_id: int = -1) -> OrtValue:
        """`OrtValue.ortvalue_from_shape_and_type`: sessions have no memory of their own kind."""
        return OrtValue.ortvalue_from_shape_and_type(shape, element_type, device_type, device_id, vendor_id)

    def end_profiling(self) -> str:
        """Writes the profile and gives its path; "" where no profile is being recorded."""
        return "" if self._profile is None else self._profile.end()

    def get_profiling_start_time_ns(self) -> int:
        """When recording began, on the clock of `time.monotonic_ns`; 0 without a profile."""
        return 0 if self._profile is None else self._profile.start_ns

    # ---- what the session is -----------------------------------------------------------------------------------------

    def get_inputs(self) -> list[NodeArg]:
        """The inputs that have to be fed, in the model's order."""
        return self._inputs_meta

    def get_outputs(self) -> list[NodeArg]:
        """The outputs in the model's order."""
        return self._outputs_meta

    def get_overridable_initializers(self) -> list[NodeArg]:
        """The constants that may be fed like inputs."""
        return self._overridable_meta

    def get_input_memory_infos(self) -> list[OrtMemoryInfo]:
        """The memory that each input is read from."""
        return self._input_memory

    def get_output_memory_infos(self) -> list[OrtMemoryInfo]:
        """The memory that each output is written to."""
        return self._output_memory

    def get_input_epdevices(self) -> list[OrtEpDevice]:
        """The device that reads each input."""
        from onnxc.runtime.ep_devices import get_ep_devices  # which few sessions are asked for
        return get_ep_devices() * len(self._inputs_meta)

    def get_modelmeta(self) -> ModelMetadata:
        """The model's own texts."""
        return self._model_meta

    def get_providers(self) -> list[str]:
        """The devices in use, in order of preference."""
        return self._providers

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        """The options of each device."""
        return self._provider_options

    def set_providers(self, providers: Any = None, provider_options: Any = None) -> None:
        """Chooses devices anew; bindings from before are of no use then. A list that is refused leaves the session as
        it was."""
        chosen = chosen_providers(providers, provider_options)
        self._providers, self._provider_options = list(chosen), chosen
        self._owner = object()

    def get_session_options(self) -> SessionOptions:
        """The session's own copy of its options; changing it changes nothing."""
        return self._sess_options

    def disable_fallback(self) -> None:
        """Accepted: runs never fall back to another device."""
        self._enable_fallback = False

    def enable_fallback(self) -> None:
        """Accepted: runs never fall back to another device."""
        self._enable_fallback = True

    def get_provider_graph_assignment_info(self) -> list[OrtEpAssignedSubgraph]:
        """Which device runs which nodes. Fail unless the session was made with the configuration entry
        session.record_ep_graph_assignment_info = "1"."""
        if self._sess_options.entry("session.record_ep_graph_assignment_info") != "1":
            raise Fail("Session configuration entry 'session.record_ep_graph_assignment_info' must be set to \"1\" to "
                       "retrieve EP graph assignment information.")
        from onnxc.runtime.report import assignment_of  # with the IR's parser, which opening does without
        return assignment_of(self._plain.compiled)

    def get_tuning_results(self) -> list[dict[str, Any]]:
        """[]: schedules follow from the target, nothing is tuned at run time."""
        return []

    def set_tuning_results(self, results: Sequence[Mapping[str, Any]], *, error_on_invalid: bool = False) -> None:
        """Accepts an empty list; RuntimeError for results, when `error_on_invalid`, as no device here has any."""
        if results and error_on_invalid:
            raise RuntimeError(f"No device here takes tuning results; {len(results)} were given.")

    def set_ep_dynamic_options(self, options: Mapping[str, str]) -> None:
        """Accepted: no device here has options that change while it works."""

    def release_captured_graph(self, graph_annotation_id: int = 0) -> None:
        """Accepted: runs on the CPU are not captured."""

    # ---- what it costs -----------------------------------------------------------------------------------------------

    def statistics(self) -> dict[str, Any]:
        """Counts so far: `compilations` and `compile_seconds`, `runs`, and `kernels` and `host_ops` of the programs;
        whether the compile `cache` had the model the last time that it was asked: "hit", "miss" or "off"."""
        return self._programs.statistics()

    def memory(self) -> dict[str, int]:
        """Bytes: `constants` (weights, as kernels read them) and `code`; of memory for intermediate tensors, what is
        `planned` for the shapes that came last, what is `held` now, and the `peak` so far."""
        return self._programs.memory()

    def report(self) -> dict[str, Any]:
        """What became of the model: `kernels`, each with the `nodes` that it was made of; `copies`; `host_ops`, the
        steps outside of native code; `placement` of nodes by provider; `passes` and `rewrites` of the compilation (none
        where it was done before) and its seconds; the `target`."""
        from onnxc.runtime.report import report_of
        return report_of(self._plain.compiled)

    def release_memory(self) -> int:
        """Gives up the memory for intermediate tensors that no run uses now; how many bytes that were."""
        return self._programs.release_memory()


class InferenceSession(Session):
    """A model that is ready to run. May run in many threads at once; a forked child may go on using it."""

    def __init__(self, path_or_bytes: str | bytes | os.PathLike[str], sess_options: SessionOptions | None = None,
                 providers: Sequence[str | tuple[str, Mapping[Any, Any]]] | None = None,
                 provider_options: Sequence[Mapping[Any, Any]] | None = None, **kwargs: Any) -> None:
        """Opens an ONNX model, one in ONNX Runtime's format (`m.ort`), or an artifact, from a path or as bytes.

        `providers` names devices in order of preference. Of ONNX Runtime's keywords, `disabled_optimizers` names passes
        that shall not run (names of others are ignored), `enable_fallback` and `read_config_from_model` are accepted;
        unknown keywords are a TypeError. Raises the classes of `onnxc.errors`.
        """
        _check_keywords(kwargs)
        if sess_options and not isinstance(sess_options, SessionOptions):
            raise TypeError(f"sess_options is of type {type(sess_options)}; expected onnxc.SessionOptions")
        self._sess_options = sess_options.copy() if sess_options else SessionOptions()
        check_severity(self._sess_options.log_severity_level, -1)
        source = Source.of(path_or_bytes)
        self._model_path, self._model_bytes = source.path, source.data
        self._enable_fallback = bool(kwargs.get("enable_fallback", True))
        self._disabled = tuple(map(str, kwargs.get("disabled_optimizers") or ()))
        named = self._named_providers(providers)
        self.set_providers(named, provider_options)
        _check_device(self._sess_options, named)
        self._sess_options.check_load()
        self._worker = Worker()
        self._profile = start_profile(self, self._sess_options)
        self._open(source)
        self._programs.write_optimized()
        if self._profile is not None:
            self._profile.opened("uri" if source.data is None else "array")

    def _named_providers(self, given: Any) -> Any:
        """The list of providers that counts: the constructor's, else that of the options."""
        added = self._sess_options.providers
        if given and added:
            warnings.warn("Specified 'providers'/'provider_options' when creating InferenceSession but SessionOptions "
                          "has already been configured with providers. InferenceSession will only use the providers "
                          "passed to InferenceSession().", stacklevel=3)
        return given or added or given

    def _open(self, source: Source) -> None:
        self._programs = self._sess = Programs(source, self._sess_options, self._disabled, self._profile)
        self._plain = self._programs.plain
        signature, overrides = self._programs.signature, self._sess_options.dimension_overrides
        self._feeds = Feeds(signature.inputs, signature.overridable, overrides)
        self._positions = {info.name: i for i, info in reversed(list(enumerate(signature.outputs)))}
        self._choices: dict[tuple[str, ...], list[int] | None] = {}
        self._inputs_meta = [describe(i, overrides) for i in signature.inputs]
        self._outputs_meta = [describe(o, overrides) for o in signature.outputs]
        self._overridable_meta = [describe(i, overrides) for i in signature.overridable]
        self._model_meta = describe_model(signature.model)
        self._input_memory = [cpu_memory() for _ in self._inputs_meta]
        self._output_memory = [cpu_memory() for _ in self._outputs_meta]

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self._model_bytes if self._model_path is None else self._model_path,
                "options": self._sess_options, "providers": list(self._provider_options.items()),
                "disabled": self._disabled}

    def __setstate__(self, state: dict[str, Any]) -> None:
        InferenceSession.__init__(self, state["model"], state["options"], state["providers"],
                                  disabled_optimizers=state["disabled"])

    def __copy__(self) -> InferenceSession:
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other


class _Closed:
    """Stands where a closed session had its program."""

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        _raise_closed()


def _raise_closed() -> NoReturn:
    raise NoModel("The session was closed. Open the model again.")


_CLOSED: Any = _Closed()


def _check_device(options: SessionOptions, named: Any) -> None:
    """Raises where the options leave the CPU out, which is the only device."""
    if options.entry("session.disable_cpu_ep_fallback") != "1":
        return
    if any(_CPU in (item, item[0]) for item in named or ()):
        raise InvalidArgument(f"Conflicting session configuration: session.disable_cpu_ep_fallback is 1 and {_CPU} "
                              "is named. Leave one of them out.")
    raise Fail("session.disable_cpu_ep_fallback is 1, and this model's nodes are assigned to the default CPU EP: "
               "there is no other device.")


def _stop_address(options: Any) -> int:
    if options is None:
        return 0
    if not isinstance(options, RunOptions):
        raise TypeError(f"run_options is of type {type(options)}; expected onnxc.RunOptions")
    return options.stop_address()


def _logging(options: RunOptions | None) -> AbstractContextManager[None]:
    return contextlib.nullcontext() if options is None else options.logging()


def _check_keywords(given: Mapping[str, Any]) -> None:
    unknown = sorted(set(given) - {"enable_fallback", "disabled_optimizers", "read_config_from_model"})
    if unknown:
        raise TypeError(f"InferenceSession() got unexpected keyword arguments: {', '.join(unknown)}")
