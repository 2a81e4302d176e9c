"""From kernel IR to code: schedules, and the LLVM and Triton emitters, each with its compiler in its own folder."""
