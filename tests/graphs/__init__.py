"""Random graphs of tensor ops, and the proof that what the compiler makes of them computes the same.

`choices` is where randomness comes from (a seed, hypothesis, or a recorded list, which can be shrunk); `grow` makes a
graph from it, with a bound on the error that rounding may make; `check` runs the graph by the reference column, through
the passes on numpy, and natively. `python -m tests.graphs --seeds 1000` looks for faults and prints the smallest case.
"""
