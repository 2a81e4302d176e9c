"""Making ops: a builder appends at an insertion point, checks operands against the registry and infers result types."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from onnxc.ir.core import Attr, Block, Func, Module, Op, Ref, Value
from onnxc.ir.registry import REQUIRED, OpDef, TypeInferenceError, lookup
from onnxc.ir.types import Tensor, Type, tensor_of

__all__ = ["Builder", "constant_of", "infer_types", "shape_of"]

_INLINE_ELEMENTS = 16      # constants up to this many elements stand in the op, larger ones in the module's table


def _complete_attrs(row: OpDef, attrs: dict[str, Attr]) -> dict[str, Attr]:
    unknown = attrs.keys() - row.attrs.keys()
    if unknown:
        raise TypeInferenceError(f"{row.name} has no attribute {sorted(unknown)}; it has {sorted(row.attrs)}")
    out: dict[str, Attr] = {}
    for key, default in row.attrs.items():
        if key in attrs:
            value = attrs[key]
            out[key] = tuple(value) if isinstance(value, list) else value
        elif default is REQUIRED:
            raise TypeInferenceError(f"{row.name} needs attribute '{key}'")
        else:
            out[key] = default
    return out


def infer_types(name: str, types: Sequence[Type | None], attrs: dict[str, Any]) -> list[Type]:
    """Result types of a registered op; TypeInferenceError when operands do not fit."""
    row = lookup(name)
    if row is None or row.infer is None:
        raise TypeInferenceError(f"{name} has no type inference")
    if not row.operands.admits(len(types)):
        raise TypeInferenceError(f"{name} takes {row.operands.names} but got {len(types)} operands")
    return list(row.infer(types, attrs))


class Builder:
    """Appends ops to `block`, before `before` when given. `loc` is stamped on every op made."""

    def __init__(self, module: Module, block: Block, before: Op | None = None, loc: str = "") -> None:
        self.module, self.block, self.before, self.loc = module, block, before, loc

    @staticmethod
    def at(module: Module, op: Op) -> Builder:
        """A builder that inserts in front of `op` with its location."""
        if op.block is None:
            raise ValueError(f"{op.name} is in no block")
        return Builder(module, op.block, op, op.loc)

    def insert(self, op: Op) -> Op:
        return self.block.insert(op, self.before)

    def op(self, name: str, operands: Iterable[Value | None] = (), attrs: dict[str, Any] | None = None,
           types: Sequence[Type] | None = None, regions: Iterable[Block] = (), names: Sequence[str] = ()) -> Op:
        """Make an op; types are inferred unless given. TypeInferenceError when it is not well formed."""
        ins = list(operands)
        row = lookup(name)
        full = dict(attrs or {}) if row is None else _complete_attrs(row, dict(attrs or {}))
        if types is None:
            types = infer_types(name, [None if v is None else v.type for v in ins], full)
        return self.insert(Op(name, ins, types, full, regions, self.loc, names))

    def value(self, name: str, *operands: Value | None, **attrs: Any) -> Value:
        """Make an op with one result and give that."""
        return self.op(name, operands, attrs).result

    def const(self, array: np.ndarray | float | int | bool, dtype: np.dtype | None = None, name: str = "c") -> Value:
        """A constant tensor: inline when small, in the module's table (shared by content name) otherwise."""
        a = np.asarray(array, dtype)
        attrs: dict[str, Any] = {"value": None, "ref": None}
        if a.size <= _INLINE_ELEMENTS:
            attrs["value"] = a
        else:
            attrs["ref"] = Ref(self.add_constant(a, name))
        return self.insert(Op("t.const", (), (tensor_of(a),), attrs, (), self.loc)).result

    def add_constant(self, array: np.ndarray, name: str) -> str:
        """Put `array` into the module's constants; the name it got."""
        for key, have in self.module.constants.items():
            if have is array:
                return key
        key = self.module.fresh_name(name)
        self.module.constants[key] = array
        return key

    def func(self, name: str, args: Sequence[tuple[str, Type]], results: Sequence[Type], kind: str) -> Func:
        """Add a function to the module."""
        return self.module.add(Func(name, [t for _, t in args], [n for n, _ in args], results, kind))


def constant_of(module: Module, value: Value | None) -> np.ndarray | None:
    """The array behind a value made by t.const; None for any other value."""
    op = value.op if value is not None else None
    if op is None or op.name != "t.const":
        return None
    ref = op.attrs.get("ref")
    return module.constants[ref.name] if isinstance(ref, Ref) else op.attrs["value"]  # type: ignore[return-value]


def shape_of(value: Value) -> tuple:
    """The dims of a tensor value."""
    if not isinstance(value.type, Tensor):
        raise TypeInferenceError(f"{value!r} is not a tensor")
    return value.type.dims
