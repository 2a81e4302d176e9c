"""Functions of ONNX Runtime's module that speak of the process as a whole."""

from __future__ import annotations

import operator
import os
import platform
import sys
from pathlib import Path

from onnxc.runtime import randomness

__all__ = ["disable_telemetry_events", "enable_telemetry_events", "get_build_info", "get_version_string",
           "has_collective_ops", "preload_dlls", "print_debug_info", "set_global_thread_pool_sizes", "set_seed"]


def get_version_string() -> str:
    """The version of onnxc."""
    return str(sys.modules["onnxc"].__version__)


def get_build_info() -> str:
    """What this is, in one line that begins as ONNX Runtime's does."""
    return f"ORT Build Info: package=onnxc, version={get_version_string()}, python={platform.python_version()}"


def preload_dlls(cuda: bool = True, cudnn: bool = True, msvc: bool = True, directory: str | None = None) -> None:
    """Accepted: onnxc needs no libraries but the driver's, which it finds by itself."""


def print_debug_info() -> None:
    """Prints versions and places, for reports of faults."""
    package = Path(sys.modules["onnxc"].__path__[0])
    print(f"onnxc version: {get_version_string()}\nplatform: {platform.platform()}\n\nPython package, version and "
          f"location:\nonnxc=={get_version_string()} at {package}\n\nEnvironment variable:")
    for name in sorted(n for n in os.environ if n.startswith("ONNXC_")):
        print(f"{name}={os.environ[name]}")


def set_seed(seed: int) -> None:
    """Begins the random numbers of operators that have no seed of their own anew: the same follow after the same
    seed."""
    randomness.set_seed(operator.index(seed))


def has_collective_ops() -> bool:
    """False: there are no operators that work across machines."""
    return False


def set_global_thread_pool_sizes(intra_op_num_threads: int, inter_op_num_threads: int) -> None:
    """Accepted: sessions have threads of their own; see `SessionOptions.intra_op_num_threads`."""
    operator.index(intra_op_num_threads), operator.index(inter_op_num_threads)


def enable_telemetry_events() -> None:
    """Accepted: onnxc sends nothing."""


def disable_telemetry_events() -> None:
    """Accepted: onnxc sends nothing."""


