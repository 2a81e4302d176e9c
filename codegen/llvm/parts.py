"""A program as one LLVM module or as several that are compiled apart, as soon as each is written, and linked again.

Only functions that move are spread; all others stay with the program, and what they call besides is copied to wherever
it is called. A function that moved is visible to the other parts, and to nobody else once they are linked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from llvmlite import ir

from onnxc.codegen.llvm.share import Definition, Sharing, Writer

__all__ = ["Parts"]

_NAMED = re.compile(r'@"([^"]+)"')
_ENOUGH = 150_000       # characters of LLVM text that are worth a module of their own


class Parts:
    """The definitions of `module`, which are written as they are completed (`add`), and the texts of the modules that
    define them: `give` takes those that are complete, as long as more is to come, and `rest` is the last one, with all
    that does not move. Without `give` it is the only one."""

    def __init__(self, module: ir.Module, give: Callable[[str], None] | None = None) -> None:
        self.definitions: list[Definition] = []
        self._writer, self._give = Writer(module), give
        self._by_name: dict[str, Definition] = {}
        self._calls: dict[str, frozenset[str]] = {}
        self._staying: list[Definition] = []
        self._moving: list[Definition] = []
        self._is_split = False

    def add(self, kernels: Mapping[str, Sharing]) -> None:
        """Writes what came since the last call; `kernels` among it share bodies as they may."""
        found = self._writer.more(kernels)
        self.definitions += found
        for d in found:
            self._by_name[d.name], self._calls[d.name] = d, frozenset(_NAMED.findall(d.text)) - {d.name}
            (self._moving if d.moves else self._staying).append(d)
        while self._give is not None and (part := self._full_part()):
            self._is_split = True
            self._give(self._module(part, True))

    def _full_part(self) -> list[Definition]:
        """The first definitions that fill a part, which are taken away; none if they are too few."""
        size = 0
        for i, d in enumerate(self._moving, 1):
            size += len(d.text)
            if size >= _ENOUGH:
                part, self._moving = self._moving[:i], self._moving[i:]
                return part
        return []

    def rest(self) -> str:
        """The module with all that was not given away."""
        return self._module([*self._staying, *self._moving], self._is_split)

    def whole(self) -> str:
        """All of it as one module."""
        return self._module(self.definitions, False)

    def _module(self, held: Iterable[Definition], is_split: bool) -> str:
        """A module with what it calls: declarations of what is in other parts, copies of what does not move."""
        out = {d.name: _visible(d.text) if d.moves and is_split else d.text for d in held}
        outside: dict[str, str] = {}
        declared = self._writer.declared()
        stack = sorted({name for d in list(out) for name in self._calls[d]})
        while stack:
            name = stack.pop()
            if name in out or name in outside:
                continue
            definition = self._by_name.get(name)
            if definition is None:
                if name in declared:
                    outside[name] = declared[name]
            elif definition.moves:
                outside[name] = _visible(definition.text.partition("\n")[0]).replace("define", "declare", 1) + "\n"
            else:
                out[name] = definition.text
                stack.extend(self._calls[name])
        return "\n".join([*outside.values(), *out.values(), self._writer.metadata()])


def _visible(text: str) -> str:
    return text.replace("define internal", "define hidden", 1)
