"""The IR: modules of functions of blocks of operations on SSA values, one set of classes for every level.

Names of ops carry their level: `onnx.*` as imported, `t.*` tensor ops, `s.*` scalar ops, `k.*` kernels, `p.*` programs.
A region is one block; control flow is ops with regions. Values know their uses. Types, dims and attributes are
immutable data. What an op means is its row in `ir.registry`, not a subclass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from onnxc.ir.dims import Dim
from onnxc.ir.types import DType, Mem, Shape, Tensor, Type

__all__ = ["Attr", "Block", "Func", "Module", "Op", "Ref", "Use", "Value"]


@dataclasses.dataclass(frozen=True, slots=True)
class Ref:
    """An attribute that names a function or a constant of the module: `@name`."""

    name: str

    def __str__(self) -> str:
        return f"@{self.name}"


Attr = None | bool | int | float | str | bytes | Dim | DType | Type | Ref | np.ndarray | tuple["Attr", ...]
Use = tuple["Op", int]


class Value:
    """One SSA value: the `index`-th result of an op, or argument of a block."""

    __slots__ = ("index", "name", "owner", "type", "uses")

    def __init__(self, type: Type, name: str, owner: Op | Block, index: int) -> None:
        self.type, self.name, self.owner, self.index = type, name, owner, index
        self.uses: list[Use] = []

    def __repr__(self) -> str:
        return f"%{self.name or '?'}: {self.type}"

    @property
    def op(self) -> Op | None:
        """The op that makes this value; None for a block argument."""
        return self.owner if isinstance(self.owner, Op) else None

    @property
    def tensor(self) -> Tensor:
        """The type, which must be a tensor's."""
        if not isinstance(self.type, Tensor):
            raise TypeError(f"{self!r} is not a tensor")
        return self.type

    @property
    def mem(self) -> Mem:
        """The type, which must be that of memory."""
        if not isinstance(self.type, Mem):
            raise TypeError(f"{self!r} is not memory")
        return self.type

    @property
    def dims(self) -> Shape:
        """The shape of a tensor of known rank."""
        return self.tensor.dims

    @property
    def users(self) -> list[Op]:
        """The ops that use this value, each once, in order of use."""
        return list(dict.fromkeys(op for op, _ in self.uses))

    def drop_use(self, use: Use) -> None:
        """Forget one use. The newest is looked at first: values with very many users are changed as they are built."""
        if self.uses[-1] == use:
            self.uses.pop()
        else:
            self.uses.remove(use)

    def replace_by(self, other: Value) -> None:
        """Make every user of this value use `other`."""
        if other is self:
            return
        for op, i in list(self.uses):
            op.set_operand(i, other)


class Op:
    """An operation in a block: operands, results, attributes, regions. `loc` names the ONNX nodes it came from."""

    __slots__ = ("_next", "_operands", "_prev", "attrs", "block", "loc", "name", "regions", "results")

    def __init__(self, name: str, operands: Iterable[Value | None] = (), types: Iterable[Type] = (),
                 attrs: Mapping[str, Attr] | None = None, regions: Iterable[Block] = (), loc: str = "",
                 names: Sequence[str] = ()) -> None:
        self.name, self.loc = name, loc
        self.attrs: dict[str, Attr] = dict(attrs or {})
        self.block: Block | None = None
        self._prev: Op | None = None
        self._next: Op | None = None
        self._operands: list[Value | None] = []
        for v in operands:
            self._operands.append(v)
            if v is not None:
                v.uses.append((self, len(self._operands) - 1))
        self.results = [Value(t, names[i] if i < len(names) else "", self, i) for i, t in enumerate(types)]
        self.regions: list[Block] = []
        for r in regions:
            self.add_region(r)

    def __repr__(self) -> str:
        return f"<{self.name} {self.loc or ', '.join('%' + r.name for r in self.results)}>"

    @property
    def operands(self) -> tuple[Value | None, ...]:
        """The operands in order; None stands for an optional operand that is absent."""
        return tuple(self._operands)

    @property
    def inputs(self) -> tuple[Value, ...]:
        """The operands that are present."""
        return tuple(v for v in self._operands if v is not None)

    @property
    def result(self) -> Value:
        """The only result."""
        if len(self.results) != 1:
            raise ValueError(f"{self.name} has {len(self.results)} results, not one")
        return self.results[0]

    def attr(self, name: str) -> Any:
        """An attribute that the op's row has, in the type that the row gives it."""
        return self.attrs[name]

    def operand(self, i: int) -> Value:
        """The i-th operand, which must be present."""
        v = self._operands[i]
        if v is None:
            raise ValueError(f"operand {i} of {self.name} is absent")
        return v

    def set_operand(self, i: int, value: Value | None) -> None:
        old = self._operands[i]
        if old is not None:
            old.drop_use((self, i))
        self._operands[i] = value
        if value is not None:
            value.uses.append((self, i))

    def set_operands(self, values: Iterable[Value | None]) -> None:
        """Replace the whole operand list."""
        self.drop_operands()
        for v in values:
            self._operands.append(v)
            if v is not None:
                v.uses.append((self, len(self._operands) - 1))

    def drop_operands(self) -> None:
        for i in reversed(range(len(self._operands))):
            v = self._operands[i]
            if v is not None:
                v.drop_use((self, i))
        self._operands = []

    def add_region(self, block: Block) -> Block:
        block.parent = self
        self.regions.append(block)
        return block

    def erase(self) -> None:
        """Take the op out of its block; none of its results may be used any more."""
        for r in self.results:
            if r.uses:
                raise ValueError(f"cannot erase {self.name}: %{r.name} is used by {r.uses[0][0].name}")
        for region in self.regions:
            region.clear()
        self.drop_operands()
        if self.block is not None:
            self.block.unlink(self)

    @property
    def next(self) -> Op | None:
        return self._next

    @property
    def prev(self) -> Op | None:
        return self._prev

    def walk(self) -> Iterator[Op]:
        """This op, then the ops of its regions, depth first."""
        yield self
        for region in self.regions:
            for op in region.ops:
                yield from op.walk()


class Block:
    """A list of ops with arguments; the last is the terminator (`yield` or `return`) where the region gives values."""

    __slots__ = ("_count", "_first", "_last", "args", "parent")

    def __init__(self, arg_types: Iterable[Type] = (), arg_names: Sequence[str] = ()) -> None:
        self.args = [Value(t, arg_names[i] if i < len(arg_names) else "", self, i) for i, t in enumerate(arg_types)]
        self.parent: Op | Func | None = None
        self._first: Op | None = None
        self._last: Op | None = None
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def ops(self) -> Iterator[Op]:
        """The ops in order; the op just yielded may be erased or replaced while iterating."""
        op = self._first
        while op is not None:
            following = op._next
            yield op
            op = op._next if op.block is self else following

    def reversed_ops(self) -> Iterator[Op]:
        op = self._last
        while op is not None:
            before = op._prev
            yield op
            op = op._prev if op.block is self else before

    @property
    def first(self) -> Op | None:
        return self._first

    @property
    def last(self) -> Op | None:
        return self._last

    @property
    def terminator(self) -> Op:
        """The last op, which must be `yield` or `return`."""
        if self._last is None or self._last.name not in ("yield", "return"):
            raise ValueError("the block has no terminator")
        return self._last

    def add_arg(self, type: Type, name: str = "", at: int | None = None) -> Value:
        """A new argument: the last one, or that at position `at`."""
        at = len(self.args) if at is None else at
        self.args.insert(at, Value(type, name, self, at))
        for j in range(at, len(self.args)):
            self.args[j].index = j
        return self.args[at]

    def remove_arg(self, i: int) -> None:
        """Drop the i-th argument, which must be unused."""
        if self.args[i].uses:
            raise ValueError(f"argument %{self.args[i].name} is used")
        del self.args[i]
        for j in range(i, len(self.args)):
            self.args[j].index = j

    def append(self, op: Op) -> Op:
        return self.insert(op, None)

    def insert(self, op: Op, before: Op | None) -> Op:
        """Put `op` in front of `before` (at the end when None)."""
        if op.block is not None:
            raise ValueError(f"{op.name} already is in a block")
        after = before._prev if before is not None else self._last
        op.block, op._prev, op._next = self, after, before
        if after is not None:
            after._next = op
        else:
            self._first = op
        if before is not None:
            before._prev = op
        else:
            self._last = op
        self._count += 1
        return op

    def unlink(self, op: Op) -> None:
        """Take `op` out without touching its operands and uses."""
        if op.block is not self:
            raise ValueError(f"{op.name} is not in this block")
        if op._prev is not None:
            op._prev._next = op._next
        else:
            self._first = op._next
        if op._next is not None:
            op._next._prev = op._prev
        else:
            self._last = op._prev
        op.block = None
        self._count -= 1

    def clear(self) -> None:
        """Erase all ops, last first."""
        for op in list(self.reversed_ops()):
            for r in op.results:
                for user, i in list(r.uses):
                    user.set_operand(i, None)
            op.erase()


class Func:
    """A named function. `kind`: "graph" (tensor level), "kernel" or "program". `attrs` holds what its level needs."""

    __slots__ = ("attrs", "body", "kind", "name", "result_types")

    def __init__(self, name: str, arg_types: Iterable[Type] = (), arg_names: Sequence[str] = (),
                 result_types: Iterable[Type] = (), kind: str = "graph",
                 attrs: Mapping[str, Attr] | None = None) -> None:
        self.name, self.kind = name, kind
        self.body = Block(arg_types, arg_names)
        self.body.parent = self
        self.result_types = list(result_types)
        self.attrs: dict[str, Attr] = dict(attrs or {})

    @property
    def args(self) -> list[Value]:
        return self.body.args

    def walk(self) -> Iterator[Op]:
        for op in self.body.ops:
            yield from op.walk()

    def __repr__(self) -> str:
        return f"<{self.kind} @{self.name}>"


class Module:
    """Functions by name, constants by name, and facts about the model (`meta`). `@main` is the entry."""

    __slots__ = ("constants", "funcs", "meta")

    def __init__(self) -> None:
        self.funcs: dict[str, Func] = {}
        self.constants: dict[str, np.ndarray] = {}
        self.meta: dict[str, Any] = {}

    @property
    def main(self) -> Func:
        return self.funcs["main"]

    def add(self, func: Func) -> Func:
        if func.name in self.funcs:
            raise ValueError(f"a function @{func.name} exists already")
        self.funcs[func.name] = func
        return func

    def fresh_name(self, stem: str, table: Mapping[str, object] | None = None) -> str:
        """`stem`, or stem_1, stem_2 ..., that `table` (constants by default) does not hold."""
        taken = self.constants if table is None else table
        if stem not in taken:
            return stem
        n = 1
        while f"{stem}_{n}" in taken:
            n += 1
        return f"{stem}_{n}"

    def walk(self) -> Iterator[Op]:
        for f in self.funcs.values():
            yield from f.walk()
