"""Lays an object's sections out in memory, links them and protects the pages.

Code is executable and never writable, constants are read-only, variables are writable: no page is both written and
executed. Outside symbols are found in the process, from one short list. `runtime/elf.py` reads the object.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import struct
import weakref
from collections.abc import Mapping

from onnxc.runtime.elf import MAX_IMAGE, Access, ElfObject, LoaderError, Relocation

_EXACT_MATH = ("fma", "fmod", "floor", "ceil", "trunc", "rint", "nearbyint", "round", "roundeven")

OUTSIDE_SYMBOLS = frozenset({
    "malloc", "free", "calloc", "realloc", "aligned_alloc", "posix_memalign",
    "memcpy", "memmove", "memset", "memcmp", "bcmp",
    "syscall", "sched_yield", "getpid", "clock_gettime", "nanosleep", "abort",
    "sigfillset", "sigdelset",
    "pthread_create", "pthread_join", "pthread_sigmask",
    "pthread_attr_init", "pthread_attr_destroy", "pthread_attr_getstacksize", "pthread_attr_setstacksize",
    "pthread_mutex_init", "pthread_mutex_destroy", "pthread_mutex_lock", "pthread_mutex_unlock",
    "pthread_cond_init", "pthread_cond_destroy", "pthread_cond_wait", "pthread_cond_signal", "pthread_cond_broadcast",
    *_EXACT_MATH, *(f"{name}f" for name in _EXACT_MATH),
})
"""Every symbol that compiled code may take from the process: the C library's, and of its mathematics only functions
whose result IEEE 754 defines to the last bit, so that results do not depend on the library."""

_STUB = struct.Struct("<2si2s")
_STUB_JUMP = 6
_GOT_ENTRY = 8

_R_NONE, _R_64, _R_PC32, _R_PLT32, _R_GOTPCREL, _R_32, _R_32S, _R_PC64 = 0, 1, 2, 4, 9, 10, 11, 24
_R_GOTPCRELX, _R_REX_GOTPCRELX, _R_CODE_4_GOTPCRELX = 41, 42, 43
_THROUGH_GOT = frozenset({_R_GOTPCREL, _R_GOTPCRELX, _R_REX_GOTPCRELX, _R_CODE_4_GOTPCRELX})
_RELATIVE = frozenset({_R_PC32, _R_PLT32, _R_PC64}) | _THROUGH_GOT
_FIELDS = {_R_64: "<Q", _R_PC64: "<q", _R_32: "<I", _R_32S: "<i", _R_PC32: "<i", _R_PLT32: "<i",
           **dict.fromkeys(_THROUGH_GOT, "<i")}

_PROTECTIONS = {Access.EXECUTE: mmap.PROT_READ | mmap.PROT_EXEC, Access.READ: mmap.PROT_READ,
                Access.WRITE: mmap.PROT_READ | mmap.PROT_WRITE}


class MappedImage:
    """An object in one anonymous mapping of its own, given back when the last reference goes."""

    def __init__(self, elf: ElfObject) -> None:
        """Loads `elf`. Raises LoaderError for what cannot be linked, MemoryError when there is no room."""
        layout = _Layout(elf)
        base = _map(layout.size)
        # Not at interpreter exit: a worker thread may still be inside, and the process gives everything back anyway.
        weakref.finalize(self, _unmap, base, layout.size).atexit = False
        layout.write(base)
        for access, (start, end) in layout.spans.items():
            _protect(base + start, end - start, _PROTECTIONS[access])
        self.symbols: Mapping[str, int] = layout.exports(base)

    def find(self, name: str) -> int | None:
        """The address of an exported symbol, None when there is none."""
        return self.symbols.get(name)


class _Layout:
    """Where everything goes: code and call stubs, then constants and the table of addresses (GOT), then variables.

    `spans` are the page ranges of each kind of access, `size` is the sum; offsets are from the mapping's start.
    """

    def __init__(self, elf: ElfObject) -> None:
        self._elf = elf
        self._places: dict[int, int] = {}
        self._got: dict[int, int] = {}
        self._stubs: dict[int, int] = {}
        self.spans, self.size = self._lay_out()

    def write(self, base: int) -> None:
        """Fills the writable memory at `base` with the sections' content, stubs and addresses."""
        view = memoryview((ctypes.c_ubyte * self.size).from_address(base)).cast("B")
        for section in self._elf.sections.values():
            start = self._places[section.index]
            view[start:start + len(section.data)] = section.data
        for symbol, place in self._got.items():
            struct.pack_into("<Q", view, place, self._final_address(symbol, base))
        for symbol, place in self._stubs.items():
            # jmp *[rip + displacement], padded with a two-byte nop.
            _STUB.pack_into(view, place, b"\xff\x25", self._got[symbol] - place - _STUB_JUMP, b"\x66\x90")
        for relocation in self._elf.relocations:
            if relocation.kind != _R_NONE:
                self._relocate(relocation, view, base)

    def exports(self, base: int) -> dict[str, int]:
        """The addresses of the symbols that other code may ask for."""
        exports: dict[str, int] = {}
        for index, symbol in enumerate(self._elf.symbols):
            if symbol.exported:
                if symbol.name in exports:
                    raise LoaderError(f"symbol {symbol.name} is defined twice")
                exports[symbol.name] = self._final_address(index, base)
        return exports

    def _lay_out(self) -> tuple[dict[Access, tuple[int, int]], int]:
        """Gives every section, stub and GOT entry its offset; returns the page span of each kind of access."""
        outside = sorted({r.symbol for r in self._elf.relocations if self._elf.symbols[r.symbol].section is None
                          and r.kind != _R_NONE})
        in_got = sorted({r.symbol for r in self._elf.relocations if r.kind in _THROUGH_GOT} | set(outside))
        spans = {}
        end = 0
        for access in Access:
            start = end
            for section in self._elf.sections.values():
                if section.access is access:
                    self._places[section.index] = end = _aligned(end, section.alignment)
                    end += section.size
            if access is Access.EXECUTE:
                end = _number(self._stubs, outside, _aligned(end, 16), _STUB.size)
            if access is Access.READ:
                end = _number(self._got, in_got, _aligned(end, 16), _GOT_ENTRY)
            end = _aligned(end, mmap.PAGESIZE)
            if end > start:
                spans[access] = start, end
        if end > MAX_IMAGE:
            raise LoaderError(f"the object's sections take {end} bytes; {MAX_IMAGE} can be addressed")
        return spans, max(end, mmap.PAGESIZE)

    def _relocate(self, relocation: Relocation, view: memoryview, base: int) -> None:
        """Writes one place; the formulas are those of the System V ABI for AMD64, section 4.4."""
        section = self._elf.sections[relocation.section]
        where = f"relocation at {section.name}+{relocation.offset:#x}"
        form = _FIELDS.get(relocation.kind)
        if form is None:
            raise LoaderError(f"{where}: kind {relocation.kind} is not supported; expected one of {sorted(_FIELDS)}")
        if relocation.offset + struct.calcsize(form) > len(section.data):
            raise LoaderError(f"{where}: outside the section's {len(section.data)} bytes")
        place = self._places[section.index] + relocation.offset
        value = self._target(relocation, base) + relocation.addend
        if relocation.kind in _RELATIVE:
            value -= base + place
        try:
            struct.pack_into(form, view, place, value)
        except struct.error as error:
            name = self._elf.symbols[relocation.symbol].name
            raise LoaderError(f"{where}: the distance or address {value:#x} of {name} does not fit {form[1:]} "
                              f"(kind {relocation.kind})") from error

    def _target(self, relocation: Relocation, base: int) -> int:
        """The address that the relocation speaks of: of the symbol, of its GOT entry, or of its stub."""
        if relocation.kind in _THROUGH_GOT:
            return base + self._got[relocation.symbol]
        if relocation.kind != _R_64 and relocation.symbol in self._stubs:
            return base + self._stubs[relocation.symbol]
        return self._final_address(relocation.symbol, base)

    def _final_address(self, index: int, base: int) -> int:
        symbol = self._elf.symbols[index]
        if symbol.section is None:
            return _outside_address(symbol.name)
        if symbol.section not in self._places:
            raise LoaderError(f"symbol {symbol.name} is in section {symbol.section}, which is not loaded")
        return base + self._places[symbol.section] + symbol.value


def _aligned(value: int, alignment: int) -> int:
    return -(-value // alignment) * alignment


def _number(places: dict[int, int], symbols: list[int], start: int, size: int) -> int:
    """Gives each symbol an entry of `size` bytes from `start` on; returns the end."""
    for symbol in symbols:
        places[symbol] = start
        start += size
    return start


@functools.cache
def _c_library() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return libc


@functools.cache
def _outside_address(name: str) -> int:
    """The address of an allowed C library function in this process."""
    if name not in OUTSIDE_SYMBOLS:
        raise LoaderError(f"the object wants the outside symbol {name!r}, which compiled code may not use; it was "
                          f"generated for a target that needs a run-time library, or by another compiler")
    for library in (None, "libm.so.6", "libpthread.so.0"):
        try:
            function = getattr(ctypes.CDLL(library), name)
        except (OSError, AttributeError):
            continue
        return ctypes.cast(function, ctypes.c_void_p).value or 0
    raise LoaderError(f"this system's C library has no {name!r}, which the object needs")


def _map(size: int) -> int:
    address = _c_library().mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE,
                                mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    if address is None or address == ctypes.c_void_p(-1).value:
        raise MemoryError(f"no {size} bytes for compiled code: {os.strerror(ctypes.get_errno())}")
    return int(address)


def _unmap(address: int, size: int) -> None:
    _c_library().munmap(address, size)


def _protect(address: int, size: int, protection: int) -> None:
    if _c_library().mprotect(address, size, protection):
        raise LoaderError(f"the system refuses to protect {size} bytes of compiled code ({protection=}): "
                          f"{os.strerror(ctypes.get_errno())}; a security policy may forbid making memory executable")
