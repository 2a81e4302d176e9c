"""Reading the IR's text: exactly what `ir.printer` prints, plus comments from `;` to the end of the line.

Any text gives a module or an `IRSyntaxError` that points at the place. Ops need no row in the registry; where there is
one, attributes left out get their defaults, and regions of "isolated" ops see no value from outside. Whether the ops
make sense is the verifier's business.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from onnxc.ir.core import Attr, Block, Func, Module, Op, Value
from onnxc.ir.literals import MAX_NESTING, SPACE, STRING, SYMBOL, IRSyntaxError, LiteralParser, token
from onnxc.ir.printer import PLAIN_KEY, PLAIN_NAME, PLAIN_OP, constant_hash, quote_name
from onnxc.ir.registry import REQUIRED, lookup
from onnxc.ir.types import Type, tensor_of

__all__ = ["MAX_NESTING", "IRSyntaxError", "parse_attr", "parse_func", "parse_module", "parse_type"]

_OP_NAME = token(f"(?:({PLAIN_OP})|({STRING}))")
_VALUE = token(f"%(?:({PLAIN_NAME})|({STRING}))")
_ABSENT = token(r"_(?![\w$./:%-])")
_PLAIN_OPERAND = f"(?:_|%{PLAIN_NAME})"
_PLAIN_OPERANDS = re.compile(rf"\(((?:{_PLAIN_OPERAND}(?:, {_PLAIN_OPERAND})*)?)\)")
_ATTRS_AHEAD = token(rf"\{{{SPACE}(?:{PLAIN_KEY}|{STRING}){SPACE}=")
_LOC = token(rf"loc{SPACE}({STRING})")

class _Scope:
    """The values that may be named at a place: those of this block, then those of the enclosing ones."""

    def __init__(self, outer: _Scope | None = None) -> None:
        self.outer = outer
        self.values: dict[str, Value] = {}

    def find(self, name: str) -> Value | None:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            scope = scope.outer
        return None


class _Parser(LiteralParser):
    def __init__(self, text: str, constants: Mapping[str, np.ndarray] | None = None) -> None:
        super().__init__(text)
        self.given = constants or {}

    # ---- operations ------------------------------------------------------------------------------------------------
    def operands(self, scope: _Scope) -> list[Value | None]:
        m = _PLAIN_OPERANDS.match(self.text, self.pos)
        if m is None:
            self.expect("(", " and the operands")
            return self.comma_list(lambda: self.operand(scope), ")")
        out: list[Value | None] = []
        for word in m[1].split(", ") if m[1] else ():
            value = None if word == "_" else scope.find(word[1:])
            if value is None and word != "_":
                self.expect("(")
                return self.comma_list(lambda: self.operand(scope), ")")      # which reports the place
            out.append(value)
        self.pos = m.end()
        return out

    def operand(self, scope: _Scope) -> Value | None:
        if self.match(_ABSENT):
            return None
        start = self.after_space()
        name = self.name(_VALUE, "an operand: '%name', or '_' for none")
        value = scope.find(name)
        if value is None:
            raise self.fail(f"%{quote_name(name)} is not defined here", start)
        return value

    def results(self) -> list[tuple[str, int]]:
        """`%a, %b =`, with the places; nothing when the op has no results."""
        if not self.text.startswith("%", self.after_space()):
            return []
        names: list[tuple[str, int]] = []
        while not names or self.take(","):
            start = self.after_space()
            names.append((self.name(_VALUE, "a result"), start))
        self.expect("=", " after the results")
        return names

    def op(self, scope: _Scope) -> Op:
        names = self.results()
        name = self.name(_OP_NAME, "a result" if names else "an operation or '}'")
        operands = self.operands(scope)
        given = self.attrs() if self.take("{") else {}
        types = [self.type()] if self.take(":") else []
        while types and self.take(","):
            types.append(self.type())
        if len(types) != len(names):
            raise self.fail(f"{name} has {len(names)} results but {len(types)} types", names[0][1] if names else None)
        m = self.match(_LOC)
        loc = self.decode(m[1], m.start(1)) if m is not None else ""
        row = lookup(name)
        inner = None if row is not None and row.has("isolated") else scope
        regions = []
        while self.take("("):
            regions.append(self.nested(lambda: self.region(_Scope(inner))))
        op = Op(name, operands, types, _with_defaults(name, given), regions, loc, [n for n, _ in names])
        for result, (_, pos) in zip(op.results, names, strict=True):
            self.define(scope, result, pos)
        return op

    def define(self, scope: _Scope, value: Value, pos: int) -> None:
        if scope.find(value.name) is not None:
            raise self.fail(f"%{quote_name(value.name)} is defined twice", pos)
        scope.values[value.name] = value

    def args(self) -> list[tuple[str, Type, int]]:
        """`%name: type, ...)`, after the opening parenthesis."""
        def arg() -> tuple[str, Type, int]:
            start = self.after_space()
            name = self.name(_VALUE, "an argument '%name: type'")
            self.expect(":", f" and the type of %{quote_name(name)}")
            return name, self.type(), start

        return self.comma_list(arg, ")")

    def define_args(self, block: Block, args: list[tuple[str, Type, int]], scope: _Scope) -> None:
        for value, (_, _, pos) in zip(block.args, args, strict=True):
            self.define(scope, value, pos)

    def region(self, scope: _Scope) -> Block:
        args = self.args()
        block = Block([t for _, t, _ in args], [n for n, _, _ in args])
        self.define_args(block, args, scope)
        self.expect("{", " and the ops of the region")
        self.ops(block, scope)
        return block

    def ops(self, block: Block, scope: _Scope) -> None:
        while not self.take("}"):
            block.append(self.op(scope))

    # ---- modules ---------------------------------------------------------------------------------------------------
    def func(self) -> Func:
        name = self.name(SYMBOL, "the name of the function")
        self.expect("(", " and the arguments")
        args = self.args()
        results: list[Type] = []
        if self.take("->"):
            self.expect("(", " and the types of the results")
            results = self.comma_list(self.type, ")")
        self.expect("kind")
        kind = self.string("the kind of the function as a string")
        attrs: dict[str, Attr] = {}
        if _ATTRS_AHEAD.match(self.text, self.pos):
            self.expect("{")
            attrs = self.attrs()
        func = Func(name, [t for _, t, _ in args], [n for n, _, _ in args], results, kind, attrs)
        scope = _Scope()
        self.define_args(func.body, args, scope)
        self.expect("{", " and the body of the function")
        self.ops(func.body, scope)
        return func

    def constant(self) -> tuple[str, np.ndarray]:
        start = self.after_space()
        name = self.name(SYMBOL, "the name of the constant")
        if self.take("="):
            self.expect("dense")
            self.expect("<")
            return name, self.dense()
        self.expect(":", " and a type, or '=' and the elements")
        declared = self.type()
        digest = self.string("the hash as a string") if self.take("sha256") else None
        have = self.given.get(name)
        if have is None:
            raise self.fail(f"constant @{quote_name(name)} stands here by name; its content was not given", start)
        if tensor_of(have) != declared or (digest is not None and constant_hash(have) != digest):
            raise self.fail(f"the content given for constant @{quote_name(name)}, {tensor_of(have)} of hash "
                            f"{constant_hash(have)}, is not what this text was printed with", start)
        return name, have

    def module(self) -> Module:
        module = Module()
        while self.after_space() < len(self.text):
            start = self.after_space()
            if self.take("const"):
                name, array = self.constant()
                if name in module.constants:
                    raise self.fail(f"a constant @{quote_name(name)} exists already", start)
                module.constants[name] = array
            elif self.take("func"):
                func = self.func()
                if func.name in module.funcs:
                    raise self.fail(f"a function @{quote_name(func.name)} exists already", start)
                module.add(func)
            else:
                raise self.expected("'func' or 'const'")
        return module


def _with_defaults(name: str, given: dict[str, Attr]) -> dict[str, Attr]:
    """The attributes in the order of the op's row, completed by its defaults; as given when there is nothing to add."""
    row = lookup(name)
    if row is None or given.keys() >= row.attrs.keys():
        return given
    known = {k: given.get(k, default) for k, default in row.attrs.items() if k in given or default is not REQUIRED}
    return {**known, **given}


def parse_module(text: str, constants: Mapping[str, np.ndarray] | None = None) -> Module:
    """The module that `text` describes. Constants printed by hash come from `constants`. IRSyntaxError otherwise."""
    return _Parser(text, constants).module()


def parse_func(text: str) -> Func:
    """One function."""
    p = _Parser(text)
    p.expect("func")
    return p.finish(p.func())


def parse_type(text: str) -> Type:
    """A type; a bare element type such as `f32` is the type of scalars."""
    p = _Parser(text)
    return p.finish(p.type())


def parse_attr(text: str) -> Attr:
    """An attribute's value."""
    p = _Parser(text)
    return p.finish(p.attr())
