"""Text of the IR: one generic syntax for all levels. `ir.parser` reads it back; printing is deterministic.

    const @w0 : f32[64, 3, 7, 7] sha256 "5f0c..."
    func @main(%x: f32[N, 3]) -> (f32[N, 4]) kind "graph" {
      %0 = t.const() {ref = @w0} : f32[3, 4]
      %y = t.contract(%x, %0) {spec = "mk,kn->mn"} : f32[N, 4] loc "fc"
      return(%y)
    }

Absent operands print as `_`; regions follow the types as `(%arg: type) { ... }`. In attributes dims stand in `<>`, types and
element types after `!`, names after `@`, small arrays as `dense<f32[2]: 1.0, 2.0>`. Constants of the module print by
name with the hash of their content; `inline=True` writes their elements out.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping

import numpy as np

from onnxc.ir.core import Attr, Block, Func, Module, Op, Ref, Value
from onnxc.ir.dims import Dim
from onnxc.ir.types import DType, Type, tensor_of

__all__ = ["attr_text", "constant_hash", "print_func", "print_module", "print_op", "quote_name"]

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_$./:\-]+")


def quote_name(name: str) -> str:
    """A value, function or constant name as it stands after `%` or `@`."""
    return name if _PLAIN_NAME.fullmatch(name) else json.dumps(name)


def constant_hash(array: np.ndarray) -> str:
    """Content hash of a constant: sha256 over type and little-endian bytes, 32 hex digits."""
    h = hashlib.sha256(str(tensor_of(array)).encode())
    if array.dtype.kind == "O":
        h.update(json.dumps([str(v) for v in array.ravel()]).encode())
    else:
        h.update(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return h.hexdigest()[:32]


def _element_text(v: object) -> str:
    if isinstance(v, (bool, np.bool_)):
        return "true" if v else "false"
    if isinstance(v, str):
        return json.dumps(v)
    if isinstance(v, (complex, np.complexfloating)):
        return f"{float(v.real)!r}+{float(v.imag)!r}j"
    if isinstance(v, (int, np.integer)):
        return str(int(v))
    return repr(float(v))  # type: ignore[arg-type]


def dense_text(array: np.ndarray) -> str:
    """A small array, exact: floats in the shortest text that reads back as the same element."""
    t = tensor_of(array)
    wide = array if array.dtype.kind in "biufcO" else array.astype(np.float64 if t.dtype.is_float else np.int64)
    body = ", ".join(_element_text(v) for v in wide.ravel())
    return f"dense<{t}{': ' if body else ''}{body}>"


def attr_text(a: Attr) -> str:
    """An attribute's value."""
    if a is None:
        return "none"
    if isinstance(a, bool):
        return "true" if a else "false"
    if isinstance(a, (int, np.integer)):
        return str(int(a))
    if isinstance(a, float):
        return repr(a)
    if isinstance(a, str):
        return json.dumps(a)
    if isinstance(a, bytes):
        return f'bytes "{a.hex()}"'
    if isinstance(a, Dim):
        return f"<{a}>"
    if isinstance(a, (DType, Type)):
        return f"!{a}"
    if isinstance(a, Ref):
        return "@" + quote_name(a.name)
    if isinstance(a, np.ndarray):
        return dense_text(a)
    if isinstance(a, (tuple, list)):
        return f"[{', '.join(map(attr_text, a))}]"
    raise TypeError(f"{type(a).__name__} is not an attribute")


class _Names:
    """Gives every value one text, unique within its function; unnamed values are numbered in order."""

    def __init__(self) -> None:
        self.text: dict[Value, str] = {}
        self.used: set[str] = set()
        self.counter = 0

    def of(self, v: Value | None) -> str:
        if v is None:
            return "_"
        if v not in self.text:
            self.text[v] = self._fresh(v.name)
        return "%" + self.text[v]

    def _fresh(self, name: str) -> str:
        if not name:
            while str(self.counter) in self.used:
                self.counter += 1
            name = str(self.counter)
        stem, n = name, 0
        while quote_name(name) in self.used:
            n += 1
            name = f"{stem}_{n}"
        self.used.add(quote_name(name))
        return quote_name(name)


def _attrs(attrs: Mapping[str, Attr]) -> str:
    return " {" + ", ".join(f"{k} = {attr_text(v)}" for k, v in attrs.items()) + "}" if attrs else ""


def _op_lines(op: Op, names: _Names, indent: str, out: list[str]) -> None:
    operands = ", ".join(names.of(v) for v in op.operands)
    head = ", ".join(names.of(r) for r in op.results)
    line = f"{indent}{head}{' = ' if head else ''}{op.name}({operands}){_attrs(op.attrs)}"
    if op.results:
        line += " : " + ", ".join(str(r.type) for r in op.results)
    if op.loc:
        line += f" loc {json.dumps(op.loc)}"
    for region in op.regions:
        args = ", ".join(f"{names.of(a)}: {a.type}" for a in region.args)
        out.append(f"{line} ({args}) {{")
        for inner in region.ops:
            _op_lines(inner, names, indent + "  ", out)
        line = indent + "}"
    out.append(line)


def print_op(op: Op) -> str:
    """One op (with its regions) on its own, for messages; values keep their names as far as they have any."""
    out: list[str] = []
    _op_lines(op, _Names(), "", out)
    return "\n".join(out)


def print_func(func: Func) -> str:
    """A function."""
    names = _Names()
    for a in func.args:
        names.of(a)
    args = ", ".join(f"{names.of(a)}: {a.type}" for a in func.args)
    results = f" -> ({', '.join(map(str, func.result_types))})" if func.result_types else ""
    out = [f"func @{quote_name(func.name)}({args}){results} kind {json.dumps(func.kind)}{_attrs(func.attrs)} {{"]
    _block_lines(func.body, names, out)
    return "\n".join([*out, "}"])


def _block_lines(block: Block, names: _Names, out: list[str]) -> None:
    for op in block.ops:
        _op_lines(op, names, "  ", out)


def print_module(module: Module, inline: bool = False) -> str:
    """The whole module: constants, then functions, in their order."""
    parts = []
    for name, array in module.constants.items():
        content = dense_text(array) if inline else f"{tensor_of(array)} sha256 {json.dumps(constant_hash(array))}"
        parts.append(f"const @{quote_name(name)} {'=' if inline else ':'} {content}")
    text = "\n".join(parts) + ("\n\n" if parts else "")
    return text + "\n\n".join(print_func(f) for f in module.funcs.values()) + "\n"
