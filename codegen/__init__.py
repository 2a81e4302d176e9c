"""From kernel IR to code: schedules, and the LLVM and Triton emitters. llvmlite and triton stay in their own folders."""
