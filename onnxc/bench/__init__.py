"""Measuring models: random feeds, engines in turns, cold starts, and kernels against the machine's limits.

    feeds     random inputs                   machine   what the machine can do at best
    engines   onnxc and its peers, opened     work      operations and bytes of kernels, from their IR
    timing    rounds in turns, ratios         kernels   the time of every kernel against both
    cold      first starts, in new processes  roofline  the same as a picture
    compare   all of that for one model       exported  torch as a peer: an exported program
"""

from __future__ import annotations

from onnxc.bench.feeds import random_feed

__all__ = ["random_feed"]
