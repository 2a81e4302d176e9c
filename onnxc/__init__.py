"""onnxc compiles ONNX models to kernels that it generates: LLVM machine code on CPUs, Triton kernels on NVIDIA GPUs.

This module is the public surface and nothing else. Importing it loads neither `onnx`, `llvmlite`, `triton` nor `torch`.
"""

__version__ = "0.1.0"
