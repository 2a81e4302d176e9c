"""Reads an ELF64 x86-64 relocatable object: sections, symbols and relocations, every offset and size checked.

Owns the file format only. Nothing is mapped or executed here; `runtime/loader.py` does that.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import NamedTuple

from onnxc.errors import Fail

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")

_TYPE_RELOCATABLE, MACHINE_X86_64 = 1, 62
_NULL, _SYMBOL_TABLE, _STRINGS, _RELA, _NO_BITS, _REL = 0, 2, 3, 4, 8, 9
_INIT_ARRAYS = (14, 15, 16)
_UNWIND = 0x70000001
_UNDEFINED, _ABSOLUTE, _COMMON, _RESERVED = 0, 0xFFF1, 0xFFF2, 0xFF00
_LOCAL, _GLOBAL, _WEAK = 0, 1, 2
_SYMBOL_KINDS = {0: "untyped", 1: "object", 2: "function", 3: "section", 4: "file"}

MAX_ALIGNMENT = 4096
"""The smallest page, which is what a mapping is aligned to at least."""

MAX_IMAGE = 1 << 31
"""Bytes of memory that one object may ask for: what 32-bit displacements reach."""


class LoaderError(Fail):
    """An object that cannot be loaded: damaged, of a kind that is not supported, or wanting an unknown symbol."""


class Access(enum.Enum):
    """What a loaded section may be used for; no section is both written and executed."""

    EXECUTE = "r-x"
    READ = "r--"
    WRITE = "rw-"


@dataclass(frozen=True)
class Section:
    """One section that occupies memory. `data` is shorter than `size` only for zero-initialised sections (empty)."""

    index: int
    name: str
    access: Access
    alignment: int
    size: int
    data: memoryview


class Symbol(NamedTuple):
    """A name and where it is: `value` bytes into section number `section`, or outside the object (`section` None)."""

    name: str
    section: int | None
    value: int
    exported: bool


class Relocation(NamedTuple):
    """A place in a section that holds an address: at `offset` in `section`, of `kind`, of symbol number `symbol`."""

    section: int
    offset: int
    kind: int
    symbol: int
    addend: int


@dataclass(frozen=True)
class ElfObject:
    """The parts of an object that matter for loading. `sections` is keyed by the section's number."""

    sections: dict[int, Section]
    symbols: list[Symbol]
    relocations: list[Relocation]


@dataclass(frozen=True)
class _Header:
    """A row of the section header table, its range in the file checked."""

    name: int
    kind: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry_size: int

    @property
    def in_memory(self) -> bool:
        return bool(self.flags & 2)


def read_object(data: bytes) -> ElfObject:
    """Parses `data`. Raises LoaderError for anything but a well-formed x86-64 relocatable object without TLS."""
    file = memoryview(data).toreadonly()
    headers, names_index = _section_headers(file)
    names = _strings(file, headers, names_index, "section names")
    sections = {}
    for index, header in enumerate(headers):
        section = _memory_section(file, index, header, _string(names, header.name, f"name of section {index}"))
        if section is not None:
            sections[index] = section
    tables = [index for index, header in enumerate(headers) if header.kind == _SYMBOL_TABLE]
    if len(tables) > 1:
        raise LoaderError(f"object has {len(tables)} symbol tables, expected one")
    symbols = _symbols(file, headers, sections, headers[tables[0]]) if tables else []
    relocations = []
    for index, header in enumerate(headers):
        if header.kind in (_RELA, _REL) and header.info in sections:
            if header.kind == _REL or not tables or header.link != tables[0]:
                raise LoaderError(f"relocation section {index}: not RELA over the object's symbol table")
            relocations += _relocations(file, header, sections[header.info], len(symbols))
    return ElfObject(sections, symbols, relocations)


def _section_headers(file: memoryview) -> tuple[list[_Header], int]:
    if len(file) < _HEADER.size:
        raise LoaderError(f"object of {len(file)} bytes is shorter than an ELF header")
    ident, kind, machine, version, _, _, table, _, _, _, _, row, count, names = _HEADER.unpack_from(file)
    if ident[:7] != b"\x7fELF\x02\x01\x01":
        raise LoaderError(f"not a little-endian 64-bit ELF object: it begins with {ident[:7].hex(' ')}")
    if kind != _TYPE_RELOCATABLE or machine != MACHINE_X86_64 or version != 1:
        raise LoaderError(f"expected a relocatable object (type 1) for x86-64 (machine 62), version 1; "
                          f"found type {kind}, machine {machine}, version {version}")
    if row != _SECTION.size or not 0 < count < _RESERVED:
        raise LoaderError(f"section table of {count} rows of {row} bytes: expected 1 to {_RESERVED - 1} rows of "
                          f"{_SECTION.size}")
    _check_range(file, table, count * row, "section table")
    headers = []
    for index in range(count):
        name, kind, flags, _, *rest = _SECTION.unpack_from(file, table + index * row)
        header = _Header(name, kind, flags, *rest)
        if kind not in (_NULL, _NO_BITS):
            _check_range(file, header.offset, header.size, f"section {index}")
        headers.append(header)
    return headers, names


def _memory_section(file: memoryview, index: int, header: _Header, name: str) -> Section | None:
    """The section if it occupies memory at run time, else None. Unwind tables are left out: nothing here throws."""
    if not header.in_memory or header.kind in (_NULL, _UNWIND) or name == ".eh_frame":
        return None
    if header.kind in _INIT_ARRAYS or name.startswith((".ctors", ".dtors")):
        raise LoaderError(f"section {name}: objects with constructors or destructors are not supported")
    if header.flags & 0x400:
        raise LoaderError(f"section {name}: thread-local storage is not supported")
    writable, executable = header.flags & 1, header.flags & 4
    if writable and executable:
        raise LoaderError(f"section {name} is both writable and executable")
    alignment = header.alignment or 1
    if alignment & (alignment - 1) or alignment > MAX_ALIGNMENT:
        raise LoaderError(f"section {name}: alignment {alignment} is no power of two up to {MAX_ALIGNMENT}")
    if header.size > MAX_IMAGE:
        raise LoaderError(f"section {name}: {header.size} bytes are more than the {MAX_IMAGE} that can be addressed")
    # Read-only after relocation: the loader writes it before it hands out any access.
    constant = name == ".data.rel.ro" or name.startswith(".data.rel.ro.")
    access = Access.EXECUTE if executable else Access.WRITE if writable and not constant else Access.READ
    size = 0 if header.kind == _NO_BITS else header.size
    offset = 0 if header.kind == _NO_BITS else header.offset
    return Section(index, name, access, alignment, header.size, file[offset:offset + size])


def _symbols(file: memoryview, headers: list[_Header], sections: dict[int, Section], table: _Header) -> list[Symbol]:
    strings = _strings(file, headers, table.link, "symbol names")
    if table.entry_size != _SYMBOL.size or table.size % _SYMBOL.size:
        raise LoaderError(f"symbol table of {table.size} bytes in rows of {table.entry_size}: expected rows of "
                          f"{_SYMBOL.size}")
    symbols = []
    for index, row in enumerate(_SYMBOL.iter_unpack(file[table.offset:table.offset + table.size])):
        name_offset, info, _, section, value, _ = row
        name = _string(strings, name_offset, f"name of symbol {index}")
        symbols.append(_symbol(name or f"symbol {index}", info, section, value, headers, sections))
    return symbols


def _symbol(name: str, info: int, section: int, value: int, headers: list[_Header],
            sections: dict[int, Section]) -> Symbol:
    binding, kind = info >> 4, info & 15
    if kind not in _SYMBOL_KINDS or binding not in (_LOCAL, _GLOBAL, _WEAK):
        raise LoaderError(f"symbol {name}: kind {kind}, binding {binding} is not supported")
    if section == _UNDEFINED or section == _ABSOLUTE and _SYMBOL_KINDS[kind] == "file":
        return Symbol(name, None, 0, exported=False)
    if section >= _RESERVED:
        raise LoaderError(f"symbol {name}: section number {section:#x} (common, absolute or extended) is not supported")
    if section >= len(headers):
        raise LoaderError(f"symbol {name}: section {section} of {len(headers)}")
    if value > headers[section].size:
        raise LoaderError(f"symbol {name}: offset {value} in a section of {headers[section].size} bytes")
    return Symbol(name, section, value, exported=binding != _LOCAL and section in sections)


def _relocations(file: memoryview, header: _Header, section: Section, symbols: int) -> list[Relocation]:
    if header.entry_size != _RELOCATION.size or header.size % _RELOCATION.size:
        raise LoaderError(f"relocations of {section.name}: {header.size} bytes in rows of {header.entry_size}, "
                          f"expected rows of {_RELOCATION.size}")
    found = []
    for offset, info, addend in _RELOCATION.iter_unpack(file[header.offset:header.offset + header.size]):
        if info >> 32 >= symbols:
            raise LoaderError(f"relocation at {section.name}+{offset:#x}: symbol {info >> 32} of {symbols}")
        found.append(Relocation(section.index, offset, info & 0xFFFFFFFF, info >> 32, addend))
    return found


def _strings(file: memoryview, headers: list[_Header], index: int, what: str) -> memoryview:
    if index >= len(headers) or headers[index].kind != _STRINGS:
        raise LoaderError(f"{what}: section {index} is no string table")
    return file[headers[index].offset:headers[index].offset + headers[index].size]


def _string(strings: memoryview, offset: int, what: str) -> str:
    if offset >= len(strings) and (offset or len(strings)):
        raise LoaderError(f"{what}: offset {offset} in a string table of {len(strings)} bytes")
    text = bytes(strings[offset:offset + 4096])
    end = text.find(b"\0")
    if end < 0 and text:
        raise LoaderError(f"{what}: no end within 4096 bytes")
    return text[:max(end, 0)].decode("utf-8", "backslashreplace")


def _check_range(file: memoryview, offset: int, size: int, what: str) -> None:
    if offset > len(file) or size > len(file) - offset:
        raise LoaderError(f"{what}: bytes {offset} to {offset + size} of a file of {len(file)}")
