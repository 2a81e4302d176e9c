"""Steps that open sessions and run them."""

from __future__ import annotations

import copy
import os
import pathlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.calls.catalogue import Model, catalogue
from tests.calls.feeds import NARROW, Capsule, Feed, Interface, feed_for
from tests.calls.world import Pair, Side, World

__all__ = ["STEPS", "open_plain"]

CPU = "CPUExecutionProvider"


# ---- opening ---------------------------------------------------------------------------------------------------------

class Place:
    """A PathLike."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __fspath__(self) -> str:
        return self._path


def _source(w: World, model: Model) -> tuple[str, Any]:
    """Where a model comes from, in words and as it is given."""
    path = os.path.join(w.folder, f"{model.name.replace(' ', '_')}.onnx")
    if not os.path.exists(path):
        with open(path, "wb") as file:
            file.write(model.data)
    return w.choices.pick((("bytes", model.data), ("path", path), ("Path", pathlib.Path(path)),
                           ("PathLike", Place(path)), ("relative path", os.path.relpath(path))))


def _no_source(w: World, model: Model) -> tuple[str, Any]:
    junk, folder = os.path.join(w.folder, "junk.onnx"), w.folder
    with open(junk, "wb") as file:
        file.write(b"\xff\x00junk" * 5)
    empty = os.path.join(w.folder, "empty.onnx")
    with open(empty, "wb"):
        pass
    cut = model.data[: len(model.data) * (1 + w.choices.below(8)) // 9]
    return w.choices.pick((
        ("None", None), ("int", 3), ("list", [model.data]), ("empty bytes", b""), ("junk", b"\xff\x00junk" * 5),
        ("missing file", os.path.join(folder, "missing.onnx")), ("missing ort file", os.path.join(folder, "m.ort")),
        ("folder", folder), ("junk file", junk), ("empty file", empty), ("cut bytes", cut), ("float", 1.5),
        ("ORTM bytes", b"\x08\0\0\0ORTM" + b"\0" * 40), ("text with a zero", "a\0b.onnx"), ("tuple", (model.data,)),
        ("bytes path", os.fsencode(junk)), ("set", {1}), ("missing Path", pathlib.Path(folder, "missing.onnx")),
        ("ModelProto", object())))


_PROVIDERS: tuple[tuple[str, Any], ...] = (
    ("[CPU]", [CPU]), ("None", None), ("[]", []), ("(CPU,)", (CPU,)), ("[(CPU, {})]", [(CPU, {})]),
    ("[(CPU, options)]", [(CPU, {"arena_extend_strategy": "kSameAsRequested", 1: 2})]),
    ("[CUDA, CPU]", ["CUDAExecutionProvider", CPU]), ("[CUDA]", ["CUDAExecutionProvider"]),
    ("[(CUDA, options)]", [("CUDAExecutionProvider", {"device_id": 0, "cudnn_conv_algo_search": "HEURISTIC"})]),
    ("[TensorRT, CUDA, CPU]", ["TensorrtExecutionProvider", "CUDAExecutionProvider", CPU]), ("[CPU, CPU]", [CPU, CPU]),
    ("[CoreML, (CPU, {})]", ["CoreMLExecutionProvider", (CPU, {})]),
)
_BAD_PROVIDERS: tuple[tuple[str, Any], ...] = (
    ("a text", CPU), ("a set", {CPU}), ("a dict", {CPU: {}}), ("[unknown]", ["NopeExecutionProvider"]), ("[1]", [1]),
    ("[lower case]", [CPU.lower()]), ("[list]", [[CPU, {}]]), ("[triple]", [(CPU, {}, 1)]),
    ("[(name, None)]", [(CPU, None)]), ("[None]", [None]), ("a number", 1), ("['']", [""]),
    ("both TensorRTs", ["TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider"]),
)


def _providers(w: World) -> tuple[str, dict[str, Any], bool]:
    """How providers are given: in words, as keywords, and whether they are wrong."""
    if w.choices.chance(8):
        text, bad = w.choices.pick(_BAD_PROVIDERS)
        return f"bad providers {text}", {"providers": bad}, True
    if w.choices.chance(10):
        text, names, options = w.choices.pick((
            ("[CPU] + [{}]", [CPU], [{}]),
            ("[CUDA, CPU] + [{}, {}]", ["CUDAExecutionProvider", CPU], [{"device_id": 1}, {}]),
            ("None + [{}]", None, [{}])))
        return f"providers {text}", {"providers": names, "provider_options": options}, False
    if w.choices.chance(4):
        text, names, options = w.choices.pick((
            ("[CPU] + []x2", [CPU], [{}, {}]), ("[(CPU, {})] + [{}]", [(CPU, {})], [{}]),
            ("[CPU] + {}", [CPU], {"a": 1}), ("[CPU] + [1]", [CPU], [1]), ("[CPU] + text", [CPU], "a")))
        return f"bad providers {text}", {"providers": names, "provider_options": options}, True
    text, names = w.choices.pick(_PROVIDERS if w.choices.chance(40) else _PROVIDERS[:1])
    return f"providers {text}", {"providers": names}, False


def open_plain(w: World, model: Model | None = None) -> Pair | None:
    """A session on one of the models, opened in the plainest way."""
    model = w.choices.pick(catalogue()) if model is None else model
    return w.keep("session", w.both(f"open({model.name})", lambda s: s.api.InferenceSession(
        model.data, providers=[CPU]), model, model.tolerance))


def open_somehow(w: World) -> None:
    model = w.choices.pick(catalogue())
    wrong = w.choices.chance(10)
    origin, source = _no_source(w, model) if wrong else _source(w, model)
    options = w.some("options") if w.choices.chance(60) else None
    how, providers, bad = _providers(w)
    what, falsy = w.choices.pick((("", None), ("", None), ("{}", {}), ("0", 0), ("1", 1), ("'x'", "x"), ("[1]", [1])))
    if options is None and what and w.choices.chance(50):
        w.both(f"open({model.name}, options {what})",
               lambda s: s.api.InferenceSession(model.data, falsy, providers=[CPU]), model)
        return
    text = f"open({model.name} as {origin}, {'no options' if options is None else options.text}, {how})"
    positional = w.choices.chance(30)

    def call(s: Side) -> Any:
        chosen = None if options is None else s[options]
        if positional:
            return s.api.InferenceSession(source, chosen, *providers.values())
        return s.api.InferenceSession(source, sess_options=chosen, **providers)
    pair = w.both(text, call, model, model.tolerance, several=wrong and bad)
    if pair is not None:
        w.keep("session", pair)


# ---- what sessions say -----------------------------------------------------------------------------------------------

_QUESTIONS: tuple[str, ...] = (
    "get_inputs", "get_outputs", "get_overridable_initializers", "get_modelmeta", "get_providers",
    "get_provider_options", "disable_fallback", "enable_fallback", "get_tuning_results",
    "get_input_memory_infos", "get_output_memory_infos", "io_binding", "get_session_options", "end_profiling",
    "get_profiling_start_time_ns",
)


def ask(w: World) -> None:
    if (pair := w.some("session")) is None:
        return
    question = w.choices.pick(_QUESTIONS)
    if question in ("end_profiling", "get_profiling_start_time_ns") and "profiling" in w.seen:
        return
    w.both(f"{question}()", lambda s: getattr(s[pair], question)())


_DESCRIBED = ("_model_path", "_providers", "_provider_options", "_enable_fallback")


def inspect(w: World) -> None:
    """Objects that a session gives, and what may be done with them."""
    if (pair := w.some("session")) is None:
        return
    what, look = w.choices.pick((
        ("same lists each time", lambda s: (s[pair].get_inputs() is s[pair].get_inputs(),
                                            s[pair].get_modelmeta() is s[pair].get_modelmeta(),
                                            s[pair].get_providers() is s[pair].get_providers(),
                                            s[pair].get_session_options() is s[pair].get_session_options())),
        ("attributes", lambda s: [type(getattr(s[pair], name)).__name__ for name in _DESCRIBED]),
        ("bases", lambda s: [c.__name__ for c in type(s[pair]).__mro__]),
        ("an input's name set", lambda s: setattr(s[pair].get_outputs()[0], "name", "q")),
        ("an output's shape changed", lambda s: (s[pair].get_outputs()[0].shape.append(1),
                                                 s[pair].get_outputs()[0].shape)),
        ("a text of the model set", lambda s: setattr(s[pair].get_modelmeta(), "description",
                                                      s[pair].get_modelmeta().description)),
        ("NodeArg()", lambda s: s.api.NodeArg()), ("ModelMetadata()", lambda s: s.api.ModelMetadata()),
        ("called", lambda s: s[pair]()), ("an attribute set", lambda s: setattr(s[pair], "mine", 1)),
        ("options of the session", lambda s: _options_of(s[pair].get_session_options())),
        ("unknown attribute", lambda s: s[pair].nope),
        ("weak reference", lambda s: __import__("weakref").ref(s[pair])() is s[pair]),
        ("hash and equality", lambda s: (s[pair] == s[pair], hash(s[pair]) == hash(s[pair]), bool(s[pair]))),
    ))
    w.both(f"{what}(session)", look)


def _options_of(options: Any) -> list[Any]:
    from tests.calls.options import ATTRIBUTES
    return [repr(getattr(options, name)) for name in ATTRIBUTES if name != "optimized_model_filepath"]


def set_providers(w: World) -> None:
    if (pair := w.some("session")) is None:
        return
    how, providers, bad = _providers(w)
    if w.both(f"set_providers({how})", lambda s: s[pair].set_providers(**providers)) is None and bad:
        w.drop(pair)        # which ONNX Runtime leaves dead
    for binding in [b for b in w.things.get("binding", []) if b.about is pair]:
        w.drop(binding)


def copied(w: World) -> None:
    """Another session object over the same model."""
    if (pair := w.some("session")) is None:
        return
    how = w.choices.pick(("copy.copy", "subclass"))
    if how == "copy.copy":
        w.keep("session", w.both("copy.copy(session)", lambda s: copy.copy(s[pair]), pair.about))
        return

    def call(s: Side) -> Any:
        class Mine(s.api.InferenceSession):  # type: ignore[name-defined]
            def __init__(self, data: bytes, **options: Any) -> None:
                super().__init__(data, **options)
                self.own = len(self.get_inputs())
        mine = Mine(pair.about.data, providers=[CPU])
        return mine.own
    w.both("subclass(session)", call)


# ---- running ---------------------------------------------------------------------------------------------------------

def _names(w: World, pair: Pair, wrong: bool) -> tuple[str, Callable[[], Any], bool]:
    """Names of outputs: in words, as given, and whether they are wrong."""
    outputs = [o.name for o in pair.ours.get_outputs()]
    if wrong:
        inner = w.choices.pick([*pair.about.inside, *(i.name for i in pair.ours.get_inputs()), "nope"])
        text, bad = w.choices.pick((
            ("unknown", ["nope"]), ("empty", [""]), ("inner", [inner] if inner not in outputs else ["nope"]),
            ("bare", outputs[0]), ("and unknown", [outputs[0], "nope"]), ("None inside", [None]), ("number", 5),
            ("number inside", [1]), ("nested", [outputs]),
            ("float", 1.5), ("letters", "nope"), ("tuple of unknown", ("nope",))))
        return f"{text} {bad!r}", lambda: bad, True
    if w.choices.chance(45):
        return "None", lambda: None, False
    chosen = [w.choices.pick(outputs) for _ in range(w.choices.below(3))]
    text, form = w.choices.pick((("", list), ("tuple ", tuple), ("generator ", lambda n: (i for i in n)),
                                 ("keys ", lambda n: dict.fromkeys(n).keys()),
                                 ("numpy texts ", lambda n: [*map(np.str_, n)]), ("array ", np.array),
                                 ("set ", lambda n: set(n[:1])), ("frozenset ", lambda n: frozenset(n[:1])),
                                 ("list ", list)))
    if text in ("generator ", "array ") and not chosen:
        chosen = outputs[:1]
    if text == "array ":
        chosen = chosen[:1]         # of several, the truth value is ambiguous
    return f"{text}{chosen}", lambda: form(chosen), False


def _run_options(w: World) -> tuple[str, Callable[[Side], Any], bool]:
    pair = w.some("run options") if w.choices.chance(20) else None
    if pair is not None:
        return pair.text, lambda s: s[pair], False
    if w.choices.chance(4):
        bad = w.choices.pick((0, "x", {}, [], object))
        return f"wrong {bad!r}", lambda s: bad, True
    return "", lambda s: None, False


def _call(w: World, pair: Pair) -> tuple[str, Feed, Callable[[], Any], Callable[[Side], Any], int]:
    """A run in words, its feed, names and options, and how many things are wrong with it."""
    feed = feed_for(w.choices, pair.ours.get_inputs(), pair.ours.get_overridable_initializers())
    named, names, bad_names = _names(w, pair, w.choices.chance(8))
    said, options, bad_options = _run_options(w)
    text = f"{pair.about.name}, {named}, {feed.text}" + (f", {said}" if said else "")
    return text, feed, names, options, feed.mistakes + bad_names + bad_options


def run(w: World) -> None:
    if (pair := w.some("session")) is None:
        return
    if pair.about.is_narrow:
        run_values(w, pair)
        return
    text, feed, names, options, mistakes = _call(w, pair)
    form = w.choices.below(3)

    def call(s: Side) -> Any:
        session, chosen = s[pair], options(s)
        if form == 0:
            return session.run(names(), feed.make(s)) if chosen is None else session.run(names(), feed.make(s), chosen)
        if form == 1:
            return session.run(output_names=names(), input_feed=feed.make(s), run_options=chosen)
        return session.run(names(), input_feed=feed.make(s), run_options=chosen)
    results = w.both(f"run({text})", call, None, pair.about.tolerance, mistakes > 1)
    if results is not None:
        w.hold(f"run({text})", results.ours)
        if all(hasattr(r, "flags") for r in results.ours):
            w.both("flags(results)", lambda s: [
                (r.flags.writeable, r.flags.c_contiguous, r.flags.aligned, r.dtype.isnative, type(r).__name__)
                for r in s[results]])


def run_values(w: World, pair: Pair | None = None) -> None:
    """A run on OrtValues."""
    if pair is None and (pair := w.some("session")) is None:
        return
    text, feed, names, options, mistakes = _call(w, pair)
    kinds = {i.name: i.type for i in (*pair.ours.get_inputs(), *pair.ours.get_overridable_initializers())}
    if any(not kind.startswith("tensor(") or "string" in kind for kind in kinds.values()):
        return

    def call(s: Side) -> Any:
        values = {name: _as_value(s, given, kinds.get(name, "")) for name, given in feed.make(s).items()}
        return s[pair].run_with_ort_values(names(), values, options(s))
    results = w.both(f"run_with_ort_values({text})", call, None, pair.about.tolerance, mistakes > 1)
    if results is not None:
        for i in range(len(results.ours)):
            w.keep("value", Pair(results.theirs[i], results.ours[i], f"result {i}"))


def _as_value(s: Side, given: Any, kind: str) -> Any:
    """An OrtValue of what is given, where it is an array that makes one."""
    if isinstance(given, (Interface, Capsule)):
        given = given.array
    if isinstance(given, np.ndarray) and given.dtype.kind in "biuf":
        return s.api.OrtValue.ortvalue_from_numpy(given)
    if isinstance(given, np.ndarray) and s.is_ours and kind[7:-1] in NARROW and given.dtype == NARROW[kind[7:-1]]:
        return s.api.OrtValue.ortvalue_from_numpy(given)
    return given


def run_async(w: World) -> None:
    if (pair := w.some("session")) is None or pair.about.is_narrow or pair.text == "one thread":
        return
    text, feed, names, options, mistakes = _call(w, pair)
    token = object()

    def call(s: Side) -> Any:
        done, said = threading.Event(), []

        def callback(results: Any, data: Any, error: str) -> None:
            said.append((list(results), data is token, bool(error), type(error).__name__))
            done.set()
        given = s[pair].run_async(names(), feed.make(s), callback, token, options(s))
        assert given is None
        assert done.wait(60), "no callback"
        return said[0]
    if mistakes < 2:        # of several, some are told of at once and others to the callback
        w.both(f"run_async({text})", call, None, pair.about.tolerance)


def in_threads(w: World) -> None:
    """Runs of one session side by side."""
    if (pair := w.some("session")) is None or pair.about.is_narrow:
        return
    inputs, more = pair.ours.get_inputs(), pair.ours.get_overridable_initializers()
    feeds = [feed_for(w.choices, inputs, more) for _ in range(3)]
    if any(f.mistakes for f in feeds):
        return

    def call(s: Side) -> Any:
        from concurrent.futures import ThreadPoolExecutor

        def one(feed: Feed) -> Any:
            try:
                return s[pair].run(None, feed.make(s))
            except Exception:
                return "raises"
        with ThreadPoolExecutor(3) as pool:
            return list(pool.map(one, feeds))
    w.both(f"in_threads({pair.about.name}, {[f.text for f in feeds]})", call, None, pair.about.tolerance)


def forget(w: World) -> None:
    """A session goes; what it gave stays."""
    if len(w.things.get("session", [])) > 1 and (pair := w.some("session")) is not None:
        w.drop(pair)
        w.log.append(f"forget a session of {pair.about.name}")


STEPS: Sequence[tuple[Callable[[World], None], int]] = (
    (run, 30), (run_values, 8), (run_async, 6), (in_threads, 2), (open_somehow, 10), (ask, 8), (inspect, 4),
    (set_providers, 2), (copied, 2), (forget, 2),
)
