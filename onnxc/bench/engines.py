"""onnxc and its peers behind one form: a model opened by path, and runs of it.

A peer that is not there, or that cannot read the file it needs, is refused with what to do about it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

import onnxc
from onnxc.bench.exported import Exported
from onnxc.errors import Fail, InvalidArgument, OnnxcError
from onnxc.runtime.artifact import MAGIC, is_artifact
from onnxc.runtime.threads import default_threads

__all__ = ["PEERS", "Engine", "check_installed", "check_peers", "first_outputs", "holds_artifact", "largest_difference",
           "load_module", "model_of", "open_engine", "runner", "with_threads"]

Feed = Mapping[str, Any]

# By name, the package that each is in.
PEERS = {"onnxruntime": "onnxruntime", "openvino": "openvino", "torch": "torch", "torch-compiled": "torch"}


class Engine(Protocol):
    """A model that is ready to run: all its outputs in order, for a feed by input name."""

    def __call__(self, feed: Feed) -> list[np.ndarray]: ...


def check_peers(names: Sequence[str], model: str, torch_program: str | None = None) -> None:
    """Raises InvalidArgument for a peer that cannot be measured on `model`: unknown, not installed, faced with a
    compiled model, or without the program that torch runs."""
    check_installed(names)
    for name in names:
        if PEERS[name] == "torch":
            program = model_of(name, model, torch_program)
            if not os.path.isfile(program):
                raise InvalidArgument(f"There is no {program}: torch reads no ONNX and runs the program that the model "
                                      "was exported from. Write it with torch.export.save(program, file); name it with "
                                      "--torch-program where it is not beside the model.")
        elif holds_artifact(model):
            raise InvalidArgument(f"{model} is a compiled model, which {name} cannot read: give the ONNX model.")


def check_installed(names: Sequence[str]) -> None:
    """Raises InvalidArgument for a peer that is unknown, or that lacks a package or a compiler."""
    for name in names:
        if name not in PEERS:
            raise InvalidArgument(f"There is no engine '{name}' to compare with; there are {', '.join(PEERS)}.")
        if find_spec(PEERS[name]) is None:
            raise InvalidArgument(f"{PEERS[name]} is not installed in this Python: pip install {PEERS[name]}")
        if name == "torch-compiled" and not _has_compiler():
            raise InvalidArgument("torch.compile needs a C++ compiler, and there is none: install g++, or name one "
                                  "with CXX, or measure 'torch', which runs eagerly.")


def _has_compiler() -> bool:
    return any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++", "cl")))


def model_of(name: str, model: str, torch_program: str | None = None) -> str:
    """The file that a peer opens: torch an exported program, by default the one beside the model."""
    if PEERS[name] != "torch":
        return model
    return torch_program or str(Path(model).with_suffix(".pt2"))


def with_threads(threads: int | None) -> int:
    """The number of threads that every engine gets: as asked, or all processors that this process may use."""
    return threads or default_threads()


def load_module(name: str) -> Any:
    """The peer's package, imported."""
    # Read when the package is loaded.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return import_module(PEERS[name])


def open_engine(name: str, path: str, threads: int) -> Engine:
    """The model ready to run in `name`. What a peer raises about the model becomes Fail."""
    if name == "onnxc":
        return _session(onnxc, path, threads)
    with _named(name):
        if name == "onnxruntime":
            return _session(load_module(name), path, threads)
        if name == "openvino":
            return _openvino(path, threads)
        return Exported(load_module(name), path, threads, name == "torch-compiled")


def _session(module: Any, path: str, threads: int) -> Engine:
    options = module.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3      # errors only: warnings would stand between the results
    session = module.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(feed: Feed) -> list[np.ndarray]:
        outputs: list[np.ndarray] = session.run(None, feed)
        return outputs

    return run


def _openvino(path: str, threads: int) -> Engine:
    """Its defaults for short latency, but for precision: f32 stays f32, as in the other engines."""
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = load_module("openvino").Core().compile_model(path, "CPU", settings)
    request = compiled.create_infer_request()

    def run(feed: Feed) -> list[np.ndarray]:
        # Outputs are new arrays, as in the other engines.
        results = request.infer(feed, share_inputs=True, share_outputs=False)
        return [results[port] for port in compiled.outputs]

    return run


@contextmanager
def _named(engine: str) -> Iterator[None]:
    """Errors in the engine's own words, with its name; those of onnxc as they are."""
    try:
        yield
    except (OnnxcError, MemoryError):
        raise
    except Exception as error:
        raise Fail(f"{engine} failed on this model: {str(error).strip() or type(error).__name__}") from error


def holds_artifact(path: str) -> bool:
    """Whether the file is a compiled model."""
    try:
        with open(path, "rb") as file:
            return is_artifact(file.read(len(MAGIC)))
    except OSError:
        return False        # who opens the model says what is wrong


def first_outputs(name: str, engine: Engine, feed: Feed) -> list[np.ndarray]:
    """What a first run gives. What a peer raises about the feed becomes Fail; the runs after it go unguarded."""
    if name == "onnxc":
        return engine(feed)
    with _named(name):
        return engine(feed)


def runner(engine: Engine, feed: Feed) -> Callable[[], Any]:
    """A run with nothing left to say."""
    return lambda: engine(feed)


def largest_difference(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> tuple[float, float]:
    """The largest difference of outputs, and of any output relative to its greatest magnitude. NaN when shapes differ;
    equal infinities and NaN in the same place do not count. Raises Fail when there are more outputs on one side."""
    if len(ours) != len(theirs):
        raise Fail(f"{len(ours)} outputs here and {len(theirs)} there: these are not results of one model.")
    pairs = [_difference(np.asarray(a), np.asarray(b)) for a, b in zip(ours, theirs, strict=True)]
    worst = np.max(np.array(pairs).reshape(-1, 2), axis=0, initial=0.0)
    return float(worst[0]), float(worst[1])


def _difference(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    if a.shape != b.shape:
        return float("nan"), float("nan")
    if a.dtype.kind in "OUS":
        return (0.0, 0.0) if np.array_equal(a, b) else (float("nan"), float("nan"))
    x, y = a.astype(np.complex128), b.astype(np.complex128)
    with np.errstate(invalid="ignore"):
        distance = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0, np.abs(x - y))
        finite = np.abs(y)[np.isfinite(y)]
    largest, scale = float(distance.max(initial=0)), float(finite.max(initial=0))
    return largest, largest / scale if scale else float(largest > 0)
