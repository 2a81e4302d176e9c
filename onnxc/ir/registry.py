"""The op registry: one declarative row an op; printer, parser, verifier, builder, interpreter and docs derive from it.

Operand and result specs are text: `"x, y?, zs*"` is a required, an optional and a variadic operand.
`infer(types, attrs)` gives the result types from the operand types (None where an operand is absent).
`ref(attrs, *arrays)` is the meaning in numpy: it gives an array, or a tuple of them for several results.
`check(op)` names faults that operand types and attributes do not show: what the regions take and yield.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from onnxc.ir.core import Attr, Op
from onnxc.ir.types import Type

__all__ = ["REQUIRED", "Arity", "OpDef", "TypeInferenceError", "all_ops", "lookup", "register"]


class TypeInferenceError(ValueError):
    """Operand types or attributes do not fit the op; the text says which and why."""


REQUIRED = object()
Infer = Callable[[Sequence[Any], dict[str, Any]], Sequence[Type]]
Check = Callable[[Op], Iterable[str]]


@dataclasses.dataclass(frozen=True, slots=True)
class Arity:
    """How many operands (or results) a spec allows; `most` None is no limit."""

    names: tuple[str, ...]
    least: int
    most: int | None

    @staticmethod
    def parse(spec: str) -> Arity:
        parts = [p.strip() for p in spec.split(",") if p.strip()]
        least = sum(not p.endswith(("?", "*")) for p in parts)
        most = None if any(p.endswith("*") for p in parts) else len(parts)
        return Arity(tuple(p.rstrip("?*") for p in parts), least, most)

    def admits(self, n: int) -> bool:
        return self.least <= n and (self.most is None or n <= self.most)


@dataclasses.dataclass(frozen=True, slots=True)
class OpDef:
    """A row of the registry.

    `attrs` maps names to defaults (`REQUIRED` when there is none). Traits: "pure" (no effect; may be folded, merged,
    dropped), "elementwise", "commutative", "view" (only moves elements), "reduction", "terminator", "random",
    "isolated" (regions see nothing from outside), "host" (runs in Python).
    """

    name: str
    operands: Arity
    results: Arity
    attrs: dict[str, Any]
    traits: frozenset[str]
    infer: Infer | None
    ref: Callable[..., Any] | None
    regions: int
    doc: str
    check: Check | None = None

    def has(self, trait: str) -> bool:
        return trait in self.traits


_OPS: dict[str, OpDef] = {}


def register(name: str, operands: str = "", results: str = "result", *, attrs: dict[str, Attr | object] | None = None,
             traits: str = "pure", infer: Infer | None = None, ref: Callable[..., Any] | None = None,
             regions: int = 0, check: Check | None = None, doc: str) -> OpDef:
    """Add a row; a name is registered once. `regions` -1 allows any number."""
    if name in _OPS:
        raise ValueError(f"op {name} is registered twice")
    row = OpDef(name, Arity.parse(operands), Arity.parse(results), dict(attrs or {}), frozenset(traits.split()),
                infer, ref, regions, doc, check)
    _OPS[name] = row
    return row


def lookup(name: str) -> OpDef | None:
    """The row of an op; None when it is unknown (an opaque op)."""
    return _OPS.get(name)


def all_ops() -> dict[str, OpDef]:
    """Every row by name."""
    return dict(_OPS)
