"""The CPU backend: LLVM IR for kernels and host programs, and the machine code that comes of it."""
