"""The passes `dce` and `cse`: drop what nobody uses, merge what is computed twice."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxc.ir.core import Block, Module, Op, Ref
from onnxc.ir.printer import constant_hash
from onnxc.ir.registry import lookup

__all__ = ["attr_key", "cse", "dce", "drop_constants"]

_SAMPLED = 61           # elements: a prime, so that rows of a power of two are not all sampled in one column


def _is_pure(op: Op) -> bool:
    row = lookup(op.name)
    return row is not None and row.has("pure")


def dce(module: Module) -> None:
    """Erase pure ops without users, in every function, and constants that no op names."""
    for func in module.funcs.values():
        _sweep(func.body)
    drop_constants(module)


def _sweep(block: Block) -> None:
    for op in block.reversed_ops():
        if _is_pure(op) and not any(r.uses for r in op.results):
            op.erase()
        else:
            for region in op.regions:
                _sweep(region)


def drop_constants(module: Module) -> None:
    """Forget constants of the module that no attribute refers to."""
    used = {a.name for op in module.walk() for a in op.attrs.values() if isinstance(a, Ref)}
    for name in [n for n in module.constants if n not in used]:
        del module.constants[name]


def attr_key(a: Any) -> Any:
    """A hashable stand-in for an attribute: equal exactly when the attributes are."""
    if isinstance(a, np.ndarray):
        return ("dense", constant_hash(a))
    if isinstance(a, (tuple, list)):
        return tuple(map(attr_key, a))
    if isinstance(a, float):
        return ("float", a.hex())
    return (type(a).__name__, a)


def cse(module: Module) -> None:
    """Merge pure ops without regions that have equal names, operands, attributes and types; constants by content."""
    merge_constants(module)
    for func in module.funcs.values():
        _merge(func.body)


def merge_constants(module: Module) -> None:
    """Keep one of each set of module constants with equal content.

    Weights may be gigabytes: all of an array is read only where another one has its type and its sample of elements.
    """
    alike: dict[Any, list[str]] = {}
    for name, array in module.constants.items():
        alike.setdefault((array.shape, array.dtype, _sample(array)), []).append(name)
    rename: dict[str, str] = {}
    for names in alike.values():
        first: dict[str, str] = {}
        for name in names if len(names) > 1 else ():
            rename[name] = first.setdefault(constant_hash(module.constants[name]), name)
    for op in module.walk():
        for key_, a in op.attrs.items():
            if isinstance(a, Ref) and rename.get(a.name, a.name) != a.name:
                op.attrs[key_] = Ref(rename[a.name])


def _sample(array: np.ndarray) -> bytes:
    """Up to some dozens of elements from all over an array."""
    flat = array.reshape(-1)
    return flat[::max(1, flat.size // _SAMPLED)].tobytes() if array.dtype != object else b""


def _merge(block: Block) -> None:
    seen: dict[Any, Op] = {}
    for op in block.ops:
        for region in op.regions:
            _merge(region)
        row = lookup(op.name)
        if op.regions or row is None or not row.has("pure"):
            continue
        key = (op.name, op.operands, tuple((k, attr_key(v)) for k, v in sorted(op.attrs.items())),
               tuple(r.type for r in op.results))
        have = seen.setdefault(key, op)
        if have is not op:
            for old, new in zip(op.results, have.results, strict=True):
                old.replace_by(new)
            op.erase()
