"""`python -m onnxc.shim program.py arguments...`: runs a program with onnxc under ONNX Runtime's name."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence

from onnxc.shim import install_as_onnxruntime

_USAGE = "usage: python -m onnxc.shim (program.py | -m module) [arguments...]"


def main(arguments: Sequence[str]) -> None:
    """Runs the program as Python would."""
    if not arguments or arguments[0] in ("-h", "--help") or (arguments[0] == "-m" and len(arguments) < 2):
        raise SystemExit(_USAGE)
    install_as_onnxruntime()
    if arguments[0] == "-m":
        sys.argv = list(arguments[1:])
        sys.path[0] = os.getcwd()
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(arguments)
        sys.path[0] = os.path.dirname(os.path.abspath(arguments[0]))
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
