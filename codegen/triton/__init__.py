"""The NVIDIA backend: kernel IR to Triton source, source to cubin, and running the source on numpy without a GPU.

Emitting imports no triton; `target` and the simulator's worker process do.
"""
