"""Several relocatable objects as one: what `ld -r` does, for the parts of one program that were compiled apart.

Sections stay apart; names that one part uses and another defines become one symbol. Only the symbols in `exported`
are visible in the result. x86-64 ELF, which is what `runtime/elf.py` reads.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from onnxc.runtime.elf import Access, ElfObject, LoaderError, Relocation, Section, Symbol, read_object

__all__ = ["link_objects"]

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")
_IDENT = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
_RELOCATABLE, _X86_64 = 1, 62
_BITS, _SYMBOLS, _STRINGS, _RELA, _NO_BITS = 1, 2, 3, 4, 8
_ALLOC = 2
_FLAGS = {Access.EXECUTE: _ALLOC | 4, Access.READ: _ALLOC, Access.WRITE: _ALLOC | 1}
_LOCAL, _GLOBAL = 0, 1 << 4
_ALIGN = 16


def link_objects(objects: Sequence[bytes], exported: Iterable[str]) -> bytes:
    """One object with the sections of all. Raises LoaderError when two of them define the same visible name."""
    if len(objects) == 1:
        return objects[0]
    return _Linked([read_object(data) for data in objects], frozenset(exported)).write()


class _Strings:
    """A string table under construction."""

    def __init__(self) -> None:
        self.data, self.places = bytearray(b"\0"), {"": 0}

    def place(self, text: str) -> int:
        if text not in self.places:
            self.places[text] = len(self.data)
            self.data += text.encode() + b"\0"
        return self.places[text]


class _Linked:
    """The parts of the result. Section numbers are those of its table, where the first row is empty."""

    def __init__(self, parts: Sequence[ElfObject], exported: frozenset[str]) -> None:
        self.parts = parts
        self.sections: list[Section] = [s for part in parts for s in part.sections.values()]
        self.numbers = {(i, s.index): n for n, (i, s) in enumerate(
            ((i, s) for i, part in enumerate(parts) for s in part.sections.values()), start=1)}
        self.defined: dict[str, tuple[int, Symbol]] = {}
        for i, part in enumerate(parts):
            for symbol in part.symbols:
                if symbol.exported:
                    if symbol.name in self.defined:
                        raise LoaderError(f"symbol {symbol.name} is defined in two parts of one program")
                    self.defined[symbol.name] = i, symbol
        self.rows: list[tuple[str, int, int, int]] = [("", 0, 0, 0)]        # name, binding, section, value
        self.places: dict[object, int] = {}                                 # a symbol's key -> its row
        wanted = [key for i, part in enumerate(parts) for r in part.relocations for key in [self.key(i, r)]]
        outside = [k for k in dict.fromkeys(wanted) if isinstance(k, str) and k not in self.defined]
        local = [k for k in dict.fromkeys([*wanted, *self.defined]) if k not in outside and k not in exported]
        for key in local:
            self.add(key, _LOCAL)
        self.first_global = len(self.rows)
        for key in [*outside, *(k for k in self.defined if k in exported)]:
            self.add(key, _GLOBAL)

    def key(self, part: int, relocation: Relocation) -> object:
        """What tells the symbol of a relocation apart: its name if other parts may define it, else where it is."""
        symbol = self.parts[part].symbols[relocation.symbol]
        return symbol.name if symbol.exported or symbol.section is None else (part, relocation.symbol)

    def add(self, key: object, binding: int) -> None:
        self.places[key] = len(self.rows)
        if isinstance(key, str) and key not in self.defined:
            self.rows.append((key, binding, 0, 0))
            return
        part, symbol = self.defined[key] if isinstance(key, str) else (key[0], self.parts[key[0]].symbols[key[1]])  # type: ignore[index]
        number = self.numbers.get((part, symbol.section or 0))
        if number is None:
            raise LoaderError(f"symbol {symbol.name} is in section {symbol.section}, which is not loaded")
        self.rows.append((symbol.name if isinstance(key, str) else "", binding, number, symbol.value))

    def write(self) -> bytes:
        names, strings = _Strings(), _Strings()
        table: list[tuple[int, ...]] = [(0,) * 10]
        out = bytearray(_HEADER.size)

        def section(name: str, kind: int, flags: int, data: bytes | memoryview, link: int = 0, info: int = 0,
                    alignment: int = 8, entry: int = 0, size: int | None = None) -> None:
            out.extend(bytes(-len(out) % max(alignment, _ALIGN)))
            table.append((names.place(name), kind, flags, 0, len(out), len(data) if size is None else size, link, info,
                          alignment, entry))
            out.extend(data)

        for s in self.sections:
            kind = _NO_BITS if s.size and not s.data else _BITS
            section(s.name, kind, _FLAGS[s.access], s.data, alignment=s.alignment, size=s.size)
        symbols = len(self.sections) + 1
        rows = b"".join(_SYMBOL.pack(strings.place(name), binding, 0, number, value, 0)
                        for name, binding, number, value in self.rows)
        section(".symtab", _SYMBOLS, 0, rows, symbols + 1, self.first_global, entry=_SYMBOL.size)
        section(".strtab", _STRINGS, 0, bytes(strings.data), alignment=1)
        for number, packed in self.relocations().items():
            section(".rela" + self.sections[number - 1].name, _RELA, 0, packed, symbols, number, entry=_RELOCATION.size)
        names.place(".shstrtab")
        section(".shstrtab", _STRINGS, 0, bytes(names.data), alignment=1)
        out.extend(bytes(-len(out) % 8))
        _HEADER.pack_into(out, 0, _IDENT, _RELOCATABLE, _X86_64, 1, 0, 0, len(out), 0, _HEADER.size, 0, 0,
                          _SECTION.size, len(table), len(table) - 1)
        return bytes(out) + b"".join(_SECTION.pack(*row) for row in table)

    def relocations(self) -> dict[int, bytes]:
        """The packed relocations of each section that has any."""
        found: dict[int, list[bytes]] = {}
        for i, part in enumerate(self.parts):
            for r in part.relocations:
                row = _RELOCATION.pack(r.offset, self.places[self.key(i, r)] << 32 | r.kind, r.addend)
                found.setdefault(self.numbers[i, r.section], []).append(row)
        return {number: b"".join(rows) for number, rows in found.items()}
