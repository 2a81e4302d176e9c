"""Text of the IR: one generic syntax for all levels. `ir.parser` reads it back; printing is deterministic.

    const @w0 : f32[64, 3, 7, 7] sha256 "5f0c..."
    func @main(%x: f32[N, 3]) -> (f32[N, 4]) kind "graph" {
      %0 = t.const() {ref = @w0} : f32[3, 4]
      %y = t.contract(%x, %0) {spec = "mk,kn->mn"} : f32[N, 4] loc "fc"
      return(%y)
    }

Absent operands print as `_`; regions follow the types: `(%arg: type) {...}`. In attributes dims stand in `<>`, types
and element types after `!` (`!scalar<f32>` is the type of a scalar), names after `@`, small arrays as
`dense<f32[2]: 1.0, 2.0>`. Names that are not plain stand in quotes. Constants of the module print by name with the hash
of their content, or without it; `inline=True` writes their elements out.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping

import numpy as np

from onnxc.ir.core import Attr, Func, Module, Op, Ref, Value
from onnxc.ir.dims import Dim
from onnxc.ir.types import DType, Scalar, Type, tensor_of

__all__ = ["PLAIN_KEY", "PLAIN_NAME", "PLAIN_OP", "attr_text", "constant_hash", "dense_text", "op_line", "print_func",
           "print_module", "print_place", "quote_name"]

# What stands without quotes. A name does not end in ":", because in `%x: f32` that belongs to the type.
PLAIN_NAME = r"[A-Za-z0-9_$./:\-]*[A-Za-z0-9_$./\-]"
PLAIN_OP = r"[A-Za-z_][A-Za-z0-9_$./:\-]*"
PLAIN_KEY = r"[A-Za-z_][A-Za-z0-9_.]*"
_PLAIN = {form: re.compile(form) for form in (PLAIN_NAME, PLAIN_OP, PLAIN_KEY)}


def quote_name(name: str, plain: str = PLAIN_NAME) -> str:
    """A value, function or constant name as it stands after `%` or `@`; with `plain` the name of an op or attribute."""
    return name if _PLAIN[plain].fullmatch(name) else json.dumps(name)


_STRING_KINDS = "OUT"         # numpy's three carriers of strings: object, fixed width, variable width


def constant_hash(array: np.ndarray) -> str:
    """Content hash of a constant: sha256 over type and little-endian bytes, 32 hex digits."""
    h = hashlib.sha256(str(tensor_of(array)).encode())
    if array.dtype.kind in _STRING_KINDS:
        h.update(json.dumps([str(v) for v in array.ravel()]).encode())
    else:
        h.update(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).reshape(-1)
                 .view(np.uint8).data)
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
    """An array, exact: every element but a NaN's payload reads back as it is."""
    t = tensor_of(array)
    native = array.dtype.kind in "biufc" + _STRING_KINDS
    wide = array if native else array.astype(np.float64 if t.dtype.is_float else np.int64)
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
        return repr(float(a))
    if isinstance(a, str):
        return json.dumps(a)
    if isinstance(a, bytes):
        return f'bytes "{a.hex()}"'
    if isinstance(a, Dim):
        return f"<{a}>"
    if isinstance(a, Scalar):
        return f"!scalar<{a}>"          # in an attribute the bare name is the element type
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
        self.suffix: dict[str, int] = {}
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
        stem, text = name, quote_name(name)
        while text in self.used:
            self.suffix[stem] = self.suffix.get(stem, 0) + 1
            text = quote_name(f"{stem}_{self.suffix[stem]}")
        self.used.add(text)
        return text


def _attrs(attrs: Mapping[str, Attr]) -> str:
    entries = ", ".join(f"{quote_name(k, PLAIN_KEY)} = {attr_text(v)}" for k, v in attrs.items())
    return f" {{{entries}}}" if attrs else ""


def _op_line(op: Op, names: _Names) -> str:
    operands = ", ".join(names.of(v) for v in op.operands)
    head = ", ".join(names.of(r) for r in op.results)
    line = f"{head}{' = ' if head else ''}{quote_name(op.name, PLAIN_OP)}({operands}){_attrs(op.attrs)}"
    if op.results:
        line += " : " + ", ".join(str(r.type) for r in op.results)
    return f"{line} loc {json.dumps(op.loc)}" if op.loc else line


def _op_lines(op: Op, names: _Names, indent: str, out: list[str], places: dict[Op, int]) -> None:
    places[op] = len(out)
    line = indent + _op_line(op, names)
    for region in op.regions:
        args = ", ".join(f"{names.of(a)}: {a.type}" for a in region.args)
        out.append(f"{line} ({args}) {{")
        for inner in region.ops:
            _op_lines(inner, names, indent + "  ", out, places)
        line = indent + "}"
    out.append(line)


def op_line(op: Op) -> str:
    """The first line of one op on its own, without its regions, for messages and logs."""
    return _op_line(op, _Names())


def _func_lines(func: Func) -> tuple[list[str], dict[Op, int]]:
    """The lines of a function, and at which of them each op begins."""
    names = _Names()
    args = ", ".join(f"{names.of(a)}: {a.type}" for a in func.args)
    results = f" -> ({', '.join(map(str, func.result_types))})" if func.result_types else ""
    out = [f"func @{quote_name(func.name)}({args}){results} kind {json.dumps(func.kind)}{_attrs(func.attrs)} {{"]
    places: dict[Op, int] = {}
    for op in func.body.ops:
        _op_lines(op, names, "  ", out, places)
    return [*out, "}"], places


def print_func(func: Func) -> str:
    """A function."""
    return "\n".join(_func_lines(func)[0])


def print_place(func: Func, op: Op | None, around: int = 3) -> str:
    """The line of `op` in `func`, marked by `>`, with `around` lines on either side; without an op the first lines."""
    lines, places = _func_lines(func)
    at = places.get(op, 0) if op is not None else 0
    shown = range(max(at - around, 0), min(at + around + 1, len(lines)))
    return "\n".join(f"{'>' if i == at else ' '} {lines[i]}" for i in shown)


def print_module(module: Module, inline: bool = False, hashes: bool = True) -> str:
    """The whole module: constants, then functions, in their order. Hashes read every byte of every constant."""
    parts = []
    for name, array in module.constants.items():
        digest = f" sha256 {json.dumps(constant_hash(array))}" if hashes and not inline else ""
        content = dense_text(array) if inline else f"{tensor_of(array)}{digest}"
        parts.append(f"const @{quote_name(name)} {'=' if inline else ':'} {content}")
    text = "\n".join(parts) + ("\n\n" if parts else "")
    return text + "\n\n".join(print_func(f) for f in module.funcs.values()) + "\n"
