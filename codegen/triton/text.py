"""Writing the body of a kernel: values by name, nested scopes, and one name for equal expressions within a scope."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

from onnxc.ir.types import DType

__all__ = ["Val", "Writer"]

Dims = frozenset[int]


@dataclasses.dataclass(frozen=True, slots=True)
class Val:
    """A value of the source: a name (or an integer literal), its type, and the tile's dims along which it varies.

    Without dims the text is a scalar. Otherwise it is a tensor of the tile's rank whose extent is the block's in these
    dims and 1 in the others, so that any two values broadcast.
    """

    text: str
    dtype: DType
    dims: Dims = frozenset()


class Writer:
    """Collects lines; `let` names an expression, once for equal texts as long as the name is in scope."""

    def __init__(self, indent: int = 1) -> None:
        self.lines: list[str] = []
        self._base = indent
        self._scopes: list[dict[str, str]] = [{}]
        self._count = 0

    @property
    def depth(self) -> int:
        """How many loops are open."""
        return len(self._scopes) - 1

    def fresh(self, stem: str = "v") -> str:
        """A name that nothing else has."""
        self._count += 1
        return f"{stem}{self._count}"

    def line(self, text: str) -> None:
        self.lines.append(self._indented(text, self.depth))

    def _indented(self, text: str, depth: int) -> str:
        return "    " * (self._base + depth) + text

    def let(self, expression: str, share: bool = True) -> str:
        """The name of the expression's value. `share` False evaluates it anew: it reads what may have changed."""
        if share:
            for scope in reversed(self._scopes):
                if expression in scope:
                    return scope[expression]
        name = self.fresh()
        self.line(f"{name} = {expression}")
        if share:
            self._scopes[-1][expression] = name
        return name

    def mark(self) -> int:
        """This place in the text; `insert` writes there later."""
        return len(self.lines)

    def insert(self, mark: int, text: str, depth: int) -> None:
        """Write a line at an earlier place, which lay at loop depth `depth`."""
        self.lines.insert(mark, self._indented(text, depth))

    @contextlib.contextmanager
    def loop(self, header: str) -> Iterator[None]:
        """Write a loop; names made inside end with it."""
        self.line(header)
        self._scopes.append({})
        start = len(self.lines)
        yield
        if len(self.lines) == start:
            self.line("pass")
        self._scopes.pop()
