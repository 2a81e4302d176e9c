"""Limits on what an untrusted model may ask for. Exceeding one is an error that names it."""

from __future__ import annotations

import dataclasses

from onnxc.errors import Fail

__all__ = ["Limits"]


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that loading and importing a model keep; raise one by passing another `Limits` to `load_model`."""

    model_bytes: int = (1 << 31) - 1        # what a protobuf message can hold
    nesting: int = 64                       # of subgraphs, function calls and types, all of which recurse
    nodes: int = 2_000_000                  # after functions are inlined
    rank: int = 32
    elements: int = 1 << 47                 # of one tensor
    dense_bytes: int = 1 << 30              # that one sparse tensor may expand to
    string_bytes: int = 1 << 20             # of one string element or attribute
    name_bytes: int = 64 << 10              # of one value, node or operator name

    def require(self, limit: str, found: int, what: str) -> None:
        """Raise Fail unless `found` stays within the named limit; `what` says what was counted, and where."""
        most = getattr(self, limit)
        if found > most:
            raise Fail(f"{what} is {found}, above the limit of {most}. If the model is trusted, load it with "
                       f"Limits({limit}={found}).")
