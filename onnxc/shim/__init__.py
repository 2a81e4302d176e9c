"""onnxc under ONNX Runtime's name, for programs that cannot be changed.

    import onnxc
    onnxc.install_as_onnxruntime()          # before anything imports onnxruntime

or, without touching the program, `python -m onnxc.shim program.py arguments...` (`-m module` works as well).

From then on `import onnxruntime` gives onnxc's session, options and exceptions, under every path that ONNX Runtime has
them, each module once: `except onnxruntime.capi.onnxruntime_pybind11_state.Fail` catches what onnxc raises. Programs
that look for the distribution find one. What ONNX Runtime has of pure Python (`quantization`, `transformers`, `tools`)
comes from the real package, where that is installed, and runs on onnxc; `onnxc.shim.real` has what these need of its
compiled module.
"""

from __future__ import annotations

from onnxc.shim.finder import install_as_onnxruntime

__all__ = ["install_as_onnxruntime"]
