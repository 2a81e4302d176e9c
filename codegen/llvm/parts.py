"""A program as one LLVM module or as several that are compiled apart and linked again.

Only functions that move are spread; all others stay with the program, and what they call besides is copied to wherever
it is called. A function that moved is visible to the other parts, and to nobody else once they are linked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from onnxc.codegen.llvm.share import Definition, Functions

__all__ = ["parts_of"]

_NAMED = re.compile(r'@"([^"]+)"')


def parts_of(functions: Functions, count: int) -> list[str]:
    """The texts of at most `count` modules of about equal size that together define every function. The first one holds
    all that does not move."""
    definitions = functions.definitions
    by_name = {d.name: d for d in definitions}
    calls = {d.name: frozenset(_NAMED.findall(d.text)) - {d.name} for d in definitions}
    bins: list[list[Definition]] = [[d for d in definitions if not d.moves or count < 2]]
    bins += [[] for _ in range(count - 1)]
    sizes = [sum(len(d.text) for d in held) for held in bins]
    for d in sorted(definitions, key=lambda d: len(d.text), reverse=True) if count > 1 else ():
        if d.moves:
            least = sizes.index(min(sizes))
            bins[least].append(d)
            sizes[least] += len(d.text)
    return [_module(held, by_name, calls, functions, count > 1) for held in bins if held]


def _module(held: Sequence[Definition], by_name: Mapping[str, Definition], calls: Mapping[str, frozenset[str]],
            functions: Functions, is_split: bool) -> str:
    """A module with what it calls: declarations of what is in other parts, copies of what does not move."""
    out = {d.name: _visible(d.text) if d.moves and is_split else d.text for d in held}
    outside: dict[str, str] = {}
    stack = sorted({name for d in held for name in calls[d.name]})
    while stack:
        name = stack.pop()
        if name in out or name in outside:
            continue
        definition = by_name.get(name)
        if definition is None:
            if name in functions.declared:
                outside[name] = functions.declared[name]
        elif definition.moves:
            outside[name] = _visible(definition.text.partition("\n")[0]).replace("define", "declare", 1) + "\n"
        else:
            out[name] = definition.text
            stack.extend(calls[name])
    return "\n".join([*outside.values(), *out.values(), functions.metadata])


def _visible(text: str) -> str:
    return text.replace("define internal", "define hidden", 1)
