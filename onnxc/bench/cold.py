"""First starts: compiling, opening, the first run and the peak of memory, each measured in a process of its own.

    python -m onnxc.bench.cold < REQUEST > REPLY      (what `measure_cold` starts; both are JSON)
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onnxc.errors import Fail

__all__ = ["Cold", "compile_cold", "measure_cold"]

_RUNS = 5       # of a session whose peak of memory is read: more do not add to it


@dataclasses.dataclass(frozen=True)
class Cold:
    """Seconds of a step with its engine imported but not used before, and the bytes of memory that its process had at
    most, interpreter and engine included. `seconds` is compiling, or opening; `first_run` is None for the former."""

    seconds: float
    first_run: float | None
    peak_bytes: int


def compile_cold(model: str, output: str) -> Cold:
    """Compiles `model` to the artifact `output` in a new process, without the compile cache."""
    return _child({"do": "compile", "model": os.path.abspath(model), "output": os.path.abspath(output)})


def measure_cold(engine: str, model: str, feed: Mapping[str, Any], threads: int) -> Cold:
    """Opens `model` with `engine` in a new process, and runs it."""
    with tempfile.TemporaryDirectory() as folder:
        arrays = _write_feed(Path(folder), feed)
        return _child({"do": "run", "engine": engine, "model": os.path.abspath(model), "threads": threads,
                       "feed": arrays})


def _write_feed(folder: Path, feed: Mapping[str, Any]) -> list[list[str]]:
    """Files with the arrays' bytes, [name, file, element type, shape as JSON]: types that .npy does not know stay."""
    out = []
    for i, (name, value) in enumerate(feed.items()):
        array = np.asarray(value)
        if array.dtype.hasobject:
            raise Fail(f"input '{name}' holds objects, which another process cannot be given")
        (folder / str(i)).write_bytes(array.tobytes())
        out.append([name, str(folder / str(i)), array.dtype.name, json.dumps(array.shape)])
    return out


def _child(request: Mapping[str, Any]) -> Cold:
    """Raises Fail with the child's message, or how it ended."""
    environment = {**os.environ, "ONNXC_CACHE": "off", "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
                   "PYTHONPATH": os.pathsep.join(os.path.abspath(p) for p in sys.path)}
    done = subprocess.run([sys.executable, "-m", "onnxc.bench.cold"], input=json.dumps(request), text=True,
                          capture_output=True, env=environment, check=False)
    reply = json.loads(done.stdout.rpartition("\n")[2] or "{}") if done.returncode == 0 else {}
    if "seconds" in reply:
        return Cold(**reply)
    what = reply.get("error") or f"ended with {done.returncode}: {done.stderr.strip()[-500:]}"
    raise Fail(f"a new process that was to {request['do']} {request['model']} {what}")


# ---- in the new process ----------------------------------------------------------------------------------------------

def _answer(request: Mapping[str, Any]) -> Cold:
    if request["do"] == "compile":
        import onnxc.driver
        start = time.perf_counter()
        onnxc.compile(request["model"], request["output"])
        return Cold(time.perf_counter() - start, None, peak_bytes())
    from onnxc.bench.engines import load_module, open_engine
    if request["engine"] != "onnxc":
        load_module(request["engine"])
    feed = {name: np.fromfile(path, np.uint8).view(_dtype(dtype)).reshape(json.loads(shape))
            for name, path, dtype, shape in request["feed"]}
    start = time.perf_counter()
    run = open_engine(request["engine"], request["model"], request["threads"])
    opened = time.perf_counter()
    run(feed)
    ran = time.perf_counter()
    for _ in range(_RUNS):
        run(feed)
    return Cold(opened - start, ran - opened, peak_bytes())


def _dtype(name: str) -> np.dtype:
    import ml_dtypes
    return np.dtype(getattr(ml_dtypes, name, None) or name)


def peak_bytes() -> int:
    """The most memory that this process has had resident. On Linux from /proc: getrusage also counts what the process
    was before it became this program, which is a copy of its parent."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))
    except (OSError, StopIteration, ValueError, IndexError):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


def main() -> None:
    try:
        reply = dataclasses.asdict(_answer(json.load(sys.stdin)))
    except Exception as error:      # the parent raises it with the model's name
        reply = {"error": f"failed: {getattr(error, 'message', None) or f'{type(error).__name__}: {error}'}"}
    print("\n" + json.dumps(reply), end="")


if __name__ == "__main__":
    main()
