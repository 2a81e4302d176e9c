"""Sequences and optionals whose parts are known when a model is compiled: `t.bundle` is all of the tensors in one.

It stands between what makes a container and what takes it apart, while a model is lowered; after that no program has
one."""

from __future__ import annotations

from typing import Any

from onnxc.ir.core import Op
from onnxc.ir.registry import register
from onnxc.ir.types import Opt, Seq

__all__: list[str] = []


def _check(op: Op) -> list[str]:
    t, count = op.result.type, len(op.operands)
    if isinstance(t, Seq) or (isinstance(t, Opt) and count <= 1):
        return []
    return [f"{op.name} of {count} values is of type {t}; expected a sequence, or an optional of at most one"]


def _ref(attrs: dict[str, Any], *values: Any) -> Any:
    return list(values)


register("t.bundle", "values*", traits="pure", ref=_ref, check=_check, doc="a sequence or optional of known parts")
