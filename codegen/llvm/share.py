"""Kernels that differ in nothing but numbers share one body: most of a net's layers differ in their extents only, and
LLVM takes far longer to compile a body than to write it down.

Bodies are compared as text in which names are numbered and the 64-bit integers that instructions take are holes. The
numbers in which the members of a group differ become a table of constants for each member; the shared body loads them
once, in its entry block, and a member is a call of it. Numbers that all members agree on stay in the code.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from llvmlite import ir
from llvmlite.ir import instructions

from onnxc.codegen.llvm.abi import I64

__all__ = ["Definition", "Sharing", "Writer"]

_OPEN, _CLOSE = "\x01", "\x02"
_HOLE = re.compile(f"{_OPEN}\\d+{_CLOSE}")
_NAME = re.compile(r'%"[^"]*"|^"?[^\s"{}]+"?(?=:$)', re.MULTILINE)       # of values, and labels of blocks
_PLAIN = (instructions.ICMPInstr, instructions.SelectInstr, instructions.StoreInstr)
_DIVISIONS = frozenset({"udiv", "sdiv", "urem", "srem"})
_ARITHMETIC = frozenset({"add", "sub", "mul", "and", "or", "xor", "shl", "lshr", "ashr"}) | _DIVISIONS


class Sharing(enum.Enum):
    """What a kernel may be given rather than have in its code."""

    NOTHING = enum.auto()
    FACTORS = enum.auto()       # all but divisors: a division by a constant is a multiplication, one by a number is not
    NUMBERS = enum.auto()


@dataclasses.dataclass(frozen=True)
class Definition:
    """The text that defines a function or a constant. A function that `moves` is called, never copied into its callers,
    so that it may be compiled apart from them."""

    name: str
    text: str
    moves: bool


class Writer:
    """Writes a module's functions and constants down as they are completed."""

    def __init__(self, module: ir.Module) -> None:
        self._module, self._written = module, set[str]()

    def more(self, kernels: Mapping[str, Sharing]) -> list[Definition]:
        """What has come since the last call. Of it, `kernels` share a body where they can; they move, and so do
        functions that are never inlined."""
        new = [v for v in self._module.global_values if v.name not in self._written and not _is_declared(v)]
        self._written.update(v.name for v in new)
        return list(_definitions(new, kernels))

    def declared(self) -> dict[str, str]:
        """The declarations of functions that have no body, by name."""
        return {v.name: str(v) for v in self._module.global_values if _is_declared(v)}

    def metadata(self) -> str:
        return "\n".join(self._module._get_metadata_lines())


def _definitions(values: Iterable[ir.GlobalValue], kernels: Mapping[str, Sharing]) -> Iterator[Definition]:
    groups: dict[str, list[tuple[str, _Body]]] = {}
    for value in values:
        if _is_constant(value):
            yield Definition(value.name, f"{value}\n", False)
            continue
        sharing = kernels.get(value.name, Sharing.NOTHING)
        if sharing is Sharing.NOTHING:
            moves = value.name in kernels or "noinline" in value.attributes
            yield Definition(value.name, str(value), moves)
            continue
        body = _Body.of(value, sharing is Sharing.NUMBERS)
        groups.setdefault(body.skeleton, []).append((value.name, body))
    for members in groups.values():
        yield from _shared(members) if len(members) > 1 else \
            (Definition(name, body.filled([h.constant() for h in body.holes]), True) for name, body in members)


def _is_declared(value: ir.GlobalValue) -> bool:
    return isinstance(value, ir.Function) and value.is_declaration


def _is_constant(value: ir.GlobalValue) -> bool:
    if isinstance(value, ir.GlobalVariable) and not value.global_constant:
        raise ValueError(f"@{value.name} can change, and would be several variables in several parts")
    return isinstance(value, ir.GlobalVariable)


@dataclasses.dataclass(frozen=True)
class _Body:
    """A function's text with holes, and what stood in them."""

    text: str
    holes: tuple[_Hole, ...]
    skeleton: str

    @staticmethod
    def of(function: ir.Function, divisors: bool) -> _Body:
        holes: list[_Hole] = []
        with_holes = _print_with_holes(function, holes, divisors)
        names: dict[str, str] = {}

        def numbered(match: re.Match[str]) -> str:
            return names.setdefault(match.group(0).strip('%"'), f"%{len(names)}")

        own = f'@"{function.name}"'
        skeleton = _NAME.sub(numbered, _HOLE.sub("?", with_holes.replace(own, "@", 1)))
        return _Body(with_holes, tuple(holes), skeleton)

    def filled(self, texts: Sequence[str]) -> str:
        """The text with these in the holes."""
        return _HOLE.sub(lambda m: texts[int(m.group(0)[1:-1])], self.text)


class _Hole:
    """What stands for a constant operand while a function is printed: a number, or a vector of `lanes` times it."""

    def __init__(self, position: int, number: int, lanes: int) -> None:
        self.number, self.lanes = number, lanes
        self.type = ir.VectorType(I64, lanes) if lanes else I64
        self.text = f"{_OPEN}{position}{_CLOSE}"

    def get_reference(self) -> str:
        return self.text

    def constant(self) -> str:
        return f"<{', '.join([f'i64 {self.number}'] * self.lanes)}>" if self.lanes else str(self.number)


def _shared(members: list[tuple[str, _Body]]) -> Iterator[Definition]:
    """One body, and for each member its numbers and a function that calls the body with them."""
    first, body = members[0]
    columns = list(zip(*([h.number for h in m.holes] for _, m in members), strict=True))
    varying = {c: i for i, c in enumerate(dict.fromkeys(c for c in columns if len(set(c)) > 1))}
    splats = {(varying[c], h.lanes): None for c, h in zip(columns, body.holes, strict=True) if c in varying and h.lanes}
    texts = [_parameter(varying[c], h.lanes) if c in varying else h.constant()
             for c, h in zip(columns, body.holes, strict=True)]
    shared = f"{first}.shared"
    loads = [line for i in range(len(varying)) for line in _load(i)]
    loads += [line for i, lanes in splats for line in _splat(i, lanes)]
    yield Definition(shared, _parametrised(body.filled(texts), first, shared, loads), True)
    for k, (name, _) in enumerate(members):
        table = ", ".join(f"i64 {column[k]}" for column in varying)
        # Not marked constant, which would invite LLVM to specialise the body for each table.
        yield Definition(name, f'@"{name}.numbers" = internal global [{len(varying)} x i64] [{table}]\n'
                               f'define internal void @"{name}"(ptr %f, i64 %b, i64 %e, i64 %t)\n{{\n'
                               f'  tail call void @"{shared}"(ptr %f, i64 %b, i64 %e, i64 %t, ptr @"{name}.numbers")\n'
                               f'  ret void\n}}\n', False)


def _parameter(i: int, lanes: int) -> str:
    return f'%"shared.number.{i}x{lanes}"' if lanes else f'%"shared.number.{i}"'


def _load(i: int) -> tuple[str, str]:
    return (f'%"shared.at.{i}" = getelementptr inbounds i64, ptr %"shared.numbers", i64 {i}',
            f'{_parameter(i, 0)} = load i64, ptr %"shared.at.{i}", align 8, !invariant.load !{{}}')


def _splat(i: int, lanes: int) -> tuple[str, str]:
    vector, first = f"<{lanes} x i64>", f'%"shared.first.{i}x{lanes}"'
    return (f"{first} = insertelement {vector} undef, i64 {_parameter(i, 0)}, i32 0",
            f"{_parameter(i, lanes)} = shufflevector {vector} {first}, {vector} undef, <{lanes} x i32> zeroinitializer")


def _parametrised(text: str, name: str, shared: str, loads: Sequence[str]) -> str:
    """The kernel as a function that takes a table of numbers as well."""
    head, brace, rest = text.partition("\n{\n")
    entry, colon, code = rest.partition(":\n")
    head = head.replace(f'@"{name}"', f'@"{shared}"', 1).rstrip()
    before, _, attributes = head.rpartition(")")
    head = f'{before}, ptr %"shared.numbers"){attributes.replace("noinline", "")} noinline'
    return head + brace + entry + colon + "".join(f"  {line}\n" for line in loads) + code


def _print_with_holes(function: ir.Function, holes: list[_Hole], divisors: bool) -> str:
    """The function's text with holes for the constants that it could as well be given; the function is left as it
    was."""
    undo: list[tuple[list[Any], int, Any]] = []
    changed: list[Any] = []
    for block in function.blocks:
        for instruction in block.instructions:
            before = len(undo)
            for operands, i in _replaceable(instruction, divisors):
                old = operands[i]
                value, rest = (old[0], old[1:]) if isinstance(old, tuple) else (old, ())
                hole = _hole_for(value, len(holes))
                if hole is not None and not (hole.lanes and instruction.opname in _DIVISIONS):
                    undo.append((operands, i, old))
                    operands[i] = (hole, *rest) if rest else hole
                    holes.append(hole)
            if len(undo) > before:
                changed.append(instruction)
                instruction._clear_string_cache()
    text = str(function)
    for operands, i, old in undo:
        operands[i] = old
    for instruction in changed:
        instruction._clear_string_cache()
    return text


def _hole_for(value: Any, position: int) -> _Hole | None:
    """The hole that a constant leaves; None for what is no integer of 64 bits, or a vector of different ones."""
    if not isinstance(value, ir.Constant):
        return None
    content = value.constant
    if value.type == I64:
        return _Hole(position, content, 0) if isinstance(content, int) else None
    if isinstance(value.type, ir.VectorType) and value.type.element == I64 and isinstance(content, (list, tuple)):
        numbers = {getattr(c, "constant", c) for c in content}
        number = numbers.pop()
        return _Hole(position, number, value.type.count) if not numbers and isinstance(number, int) else None
    return None


def _replaceable(instruction: Any, divisors: bool) -> Iterator[tuple[list[Any], int]]:
    """The places of an instruction's operands where a constant may become a value."""
    if isinstance(instruction, instructions.PhiInstr):
        yield from ((instruction.incomings, i) for i in range(len(instruction.incomings)))
    elif isinstance(instruction, instructions.GEPInstr):
        if not isinstance(instruction.source_etype, ir.BaseStructType):
            instruction.indices = list(instruction.indices)
            yield from ((instruction.indices, i) for i in range(len(instruction.indices)))
    elif isinstance(instruction, instructions.CallInstr):
        if not instruction.callee.name.startswith("llvm."):     # of those some take nothing but constants
            yield from ((instruction.operands, i) for i in range(1, len(instruction.operands)))
    elif isinstance(instruction, _PLAIN) or instruction.opname in _ARITHMETIC:
        instruction.operands = list(instruction.operands)
        count = len(instruction.operands) if divisors or instruction.opname not in _DIVISIONS else 1
        yield from ((instruction.operands, i) for i in range(count))
