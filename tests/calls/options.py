"""Steps that make and change options of sessions and runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.calls.feeds import elements
from tests.calls.world import Pair, Side, World

__all__ = ["ATTRIBUTES", "STEPS"]

ATTRIBUTES = ("graph_optimization_level", "intra_op_num_threads", "inter_op_num_threads", "execution_mode",
              "enable_cpu_mem_arena", "enable_mem_pattern", "enable_mem_reuse", "log_severity_level",
              "log_verbosity_level", "logid", "enable_profiling", "profile_file_prefix", "use_deterministic_compute",
              "optimized_model_filepath", "use_per_session_threads", "execution_order")

#: Values that are right somewhere and wrong elsewhere.
VALUES: tuple[tuple[str, Callable[[Side], Any]], ...] = tuple((repr(v), lambda side, v=v: v) for v in (  # type: ignore
    0, 1, 2, 3, 4, 7, -1, True, False, None, 1.0, "x", "", b"x", 1 << 40, [], np.int32(2), np.float32(1), "1",
    np.bool_(True), 99)) + (
    ("GraphOptimizationLevel(0)", lambda side: side.api.GraphOptimizationLevel(0)),
    ("ORT_ENABLE_BASIC", lambda side: side.api.GraphOptimizationLevel.ORT_ENABLE_BASIC),
    ("ORT_ENABLE_EXTENDED", lambda side: side.api.GraphOptimizationLevel.ORT_ENABLE_EXTENDED),
    ("ORT_PARALLEL", lambda side: side.api.ExecutionMode.ORT_PARALLEL),
    ("PRIORITY_BASED", lambda side: side.api.ExecutionOrder.PRIORITY_BASED),
    ("numpy text", lambda side: np.str_("n")), ("object", lambda side: object()),
)
#: Attributes of which a random value would make sessions do something else than run: write files, start many threads.
_KEPT = ("enable_profiling", "optimized_model_filepath", "profile_file_prefix", "use_per_session_threads",
         "intra_op_num_threads", "inter_op_num_threads", "log_severity_level")


def new_options(w: World) -> None:
    w.keep("options", w.both("SessionOptions()", lambda s: s.api.SessionOptions(), None))
    _number(w, "options")


def _number(w: World, kind: str) -> None:
    """Gives the newest of a kind its name in the log."""
    pairs = w.things.get(kind, [])
    if pairs:
        pairs[-1] = pairs[-1]._replace(text=f"{kind} {len(pairs)}")


def set_option(w: World) -> None:
    """Sets an attribute of a new object, or one of those that no random value harms of one that sessions use."""
    fresh = w.choices.chance(50)
    options = None if fresh else w.some("options")
    name = w.choices.pick(ATTRIBUTES if options is None else [a for a in ATTRIBUTES if a not in _KEPT])
    text, value = w.choices.pick(VALUES)

    def call(s: Side) -> Any:
        target = s.api.SessionOptions() if options is None else s[options]
        setattr(target, name, value(s))
        found = getattr(target, name)
        return int(found) if hasattr(found, "value") else found
    w.both(f"set({'' if options is None else options.text} {name}, {text})", call)


def set_threads(w: World) -> None:
    if (options := w.some("options")) is None:
        return
    count = w.choices.pick((1, 2, 0, -1))
    w.both(f"threads({options.text}, {count})", lambda s: setattr(s[options], "intra_op_num_threads", count))


_ENTRIES = ("session.intra_op.allow_spinning", "session.disable_prepacking", "session.set_denormal_as_zero",
            "session.use_env_allocators", "optimization.disable_specified_optimizers", "my.key", "", "k" * 1025,
            "session.record_ep_graph_assignment_info", "session.load_model_format", "session.dynamic_block_base")
_TEXTS = ("1", "0", "", "ONNX", "x", "v" * 8193, 1)     # None ends the process under ONNX Runtime


def entries(w: World) -> None:
    kind = w.choices.pick(("options", "run options"))
    if (options := w.some(kind)) is None:
        return
    key, value = w.choices.pick(_ENTRIES), w.choices.pick(_TEXTS)
    word = "session" if kind == "options" else "run"
    if w.choices.chance(35):
        w.both(f"get_{word}_config_entry({options.text}, {key!r:.60})",
               lambda s: getattr(s[options], f"get_{word}_config_entry")(key))
    else:
        w.both(f"add_{word}_config_entry({options.text}, {key!r:.60}, {value!r:.20})",
               lambda s: getattr(s[options], f"add_{word}_config_entry")(key, value))


def dimensions(w: World) -> None:
    if (options := w.some("options")) is None:
        return
    name, size = w.choices.pick(("N", "K", "P", "nope", "", 1)), w.choices.pick((2, 1, 3, 0, -1, "2", 1.5))
    by = w.choices.pick(("name", "name", "denotation"))
    w.both(f"add_free_dimension_override_by_{by}({options.text}, {name!r}, {size!r})",
           lambda s: getattr(s[options], f"add_free_dimension_override_by_{by}")(name, size))


def initializers(w: World) -> None:
    if (options := w.some("options")) is None:
        return
    name = w.choices.pick(("w", "k", "one", "axes", "nope", 1))
    array = {"one": np.array(5), "axes": np.array([1])}.get(str(name))
    if array is None:
        array = elements(w.choices, "float", {"k": [3], "w": [3]}.get(str(name), [2]))
    kind = w.choices.pick(("OrtValue", "OrtValue", "array", "None"))

    def call(s: Side) -> Any:
        value = {"OrtValue": s.api.OrtValue.ortvalue_from_numpy(array), "array": array, "None": None}[kind]
        _ALIVE.append(value)        # as ONNX Runtime does not keep it
        return s[options].add_initializer(name, value)
    w.both(f"add_initializer({options.text}, {name!r}, {kind} {array.tolist()})", call)


_ALIVE: list[Any] = []


def add_provider(w: World) -> None:
    text, name = w.choices.pick((("CPU", "CPUExecutionProvider"), ("unknown", "Nope")))

    def call(s: Side) -> Any:
        options = s.api.SessionOptions()
        return options.has_providers(), options.add_provider(name, {}), options.has_providers()
    w.both(f"add_provider({text})", call)


def refuse(w: World) -> None:
    """Calls on options that cannot be."""
    text, call = w.choices.pick((
        ("SessionOptions(1)", lambda s: s.api.SessionOptions(1)), ("RunOptions(1)", lambda s: s.api.RunOptions(1)),
        ("options.arena_extend_strategy = 1", lambda s: setattr(s.api.SessionOptions(), "arena_extend_strategy", 1)),
        ("run_options.run_tag", lambda s: s.api.RunOptions().run_tag),
        ("register_custom_ops_library(missing)",
         lambda s: s.api.SessionOptions().register_custom_ops_library("/no/lib.so")),
        ("set_load_cancellation_flag([])", lambda s: s.api.SessionOptions().set_load_cancellation_flag([])),
        ("add_external_initializers(uneven)", lambda s: s.api.SessionOptions().add_external_initializers(["a"], [])),
        ("add_external_initializers(arrays)", lambda s: s.api.SessionOptions().add_external_initializers(
            ["a"], [np.ones(1)])),
        ("get_session_config_entry(absent)", lambda s: s.api.SessionOptions().get_session_config_entry("k")),
        ("keys are texts", lambda s: s.api.SessionOptions().add_session_config_entry(1, "x")),
        ("add_initializer(1)", lambda s: s.api.SessionOptions().add_initializer("w", 1)),
    ))
    w.both(text, call)


# ---- options of runs -------------------------------------------------------------------------------------------------

def new_run_options(w: World) -> None:
    w.keep("run options", w.both("RunOptions()", lambda s: s.api.RunOptions()))
    _number(w, "run options")


def set_run_option(w: World) -> None:
    options = w.some("run options") if w.choices.chance(60) else None
    name = w.choices.pick(("terminate", "only_execute_path_to_fetches", "logid", "log_verbosity_level",
                           "log_severity_level"))
    text, value = w.choices.pick(VALUES)
    if name == "log_severity_level" and options is not None:
        return

    def call(s: Side) -> Any:
        target = s.api.RunOptions() if options is None else s[options]
        setattr(target, name, value(s))
        return getattr(target, name)
    w.both(f"set({'' if options is None else options.text} {name}, {text})", call)


def severities(w: World) -> None:
    level = w.choices.pick((4, 3, 5, -1, -2, 99))
    where = w.choices.pick(("session", "run", "module"))
    pair = w.some("session")

    def call(s: Side) -> Any:
        if where == "module":
            try:
                return s.api.set_default_logger_severity(level)
            finally:
                s.api.set_default_logger_severity(4)
        options = s.api.SessionOptions() if where == "session" else s.api.RunOptions()
        options.log_severity_level = level
        return options.log_severity_level
    w.both(f"severity({where}, {level})", call)
    _ = pair


def cancelled(w: World) -> None:
    if (options := w.some("options")) is None:
        return
    from tests.calls.catalogue import catalogue
    w.both(f"set_load_cancellation_flag({options.text}, True)",
           lambda s: s[options].set_load_cancellation_flag(True))
    data = catalogue()[0].data
    w.both("open(cancelled)", lambda s: s.api.InferenceSession(data, s[options], providers=["CPUExecutionProvider"]))
    w.both("set_load_cancellation_flag(False)", lambda s: s[options].set_load_cancellation_flag(False))


STEPS: Sequence[tuple[Callable[[World], None], int]] = (
    (new_options, 4), (set_option, 6), (set_threads, 2), (entries, 4), (dimensions, 3), (initializers, 3),
    (add_provider, 1), (refuse, 2), (new_run_options, 4), (set_run_option, 5), (severities, 1), (cancelled, 1),
)
_ = Pair
