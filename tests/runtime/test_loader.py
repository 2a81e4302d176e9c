"""Objects in memory: what runs, what is refused, how pages are protected, and how long they stay."""

from __future__ import annotations

import ctypes
import gc
import platform
import random
import re
import struct
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from onnxc.codegen.llvm.target import Pipeline, Target
from onnxc.runtime import loader
from onnxc.runtime.loader import OUTSIDE_SYMBOLS, LoaderError, NativeModule

pytestmark = pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64",
                                reason="the ELF x86-64 loader runs on x86-64 Linux")

I32, I64, PTR, F64 = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p, ctypes.c_double

# One of everything that generated programs have: code that calls code, constants, a jump table, tables of addresses,
# variables with and without an initial value, calls into the C library and the address of one of its functions.
PROGRAM = """
@scale = internal constant [4 x double] [double 1.5, double -2.25, double 1.0e300, double 0x7FF0000000000000]
@counter = internal global i64 40
@buffer = internal global [100000 x i64] zeroinitializer, align 64
@table = internal constant [2 x ptr] [ptr @twice, ptr @negated]
@releaser = global ptr @free
@shared = global i64 7

declare ptr @malloc(i64)
declare void @free(ptr)
declare ptr @memset(ptr, i32, i64)

define i64 @twice(i64 %x) noinline {
  %r = mul i64 %x, 2
  ret i64 %r
}

define i64 @negated(i64 %x) noinline {
  %r = sub i64 0, %x
  ret i64 %r
}

define i64 @through_table(i64 %which, i64 %x) {
  %at = getelementptr [2 x ptr], ptr @table, i64 0, i64 %which
  %f = load ptr, ptr %at
  %r = call i64 %f(i64 %x)
  ret i64 %r
}

define double @constant(i64 %i) {
  %at = getelementptr [4 x double], ptr @scale, i64 0, i64 %i
  %v = load double, ptr %at
  %w = fmul double %v, 4.0
  ret double %w
}

define i64 @count() {
  %old = load i64, ptr @counter
  %new = add i64 %old, 1
  store i64 %new, ptr @counter
  ret i64 %new
}

define i64 @remember(i64 %i, i64 %v) {
  %at = getelementptr [100000 x i64], ptr @buffer, i64 0, i64 %i
  %old = load i64, ptr %at
  store i64 %v, ptr %at
  ret i64 %old
}

define i64 @heap(i64 %n) {
  %p = call ptr @malloc(i64 %n)
  %q = call ptr @memset(ptr %p, i32 3, i64 %n)
  %last.at = getelementptr i8, ptr %q, i64 5
  %byte = load volatile i8, ptr %last.at
  %release = load volatile ptr, ptr @releaser
  call void %release(ptr %p)
  %r = zext i8 %byte to i64
  ret i64 %r
}

define ptr @address_of_free() {
  ret ptr @free
}

define i64 @switched(i64 %x) {
  switch i64 %x, label %other [ i64 0, label %a
                                i64 1, label %b
                                i64 2, label %c
                                i64 3, label %d
                                i64 4, label %e ]
a: %ra = call i64 @twice(i64 11)
  ret i64 %ra
b: %rb = call i64 @negated(i64 5)
  ret i64 %rb
c: %rc = call i64 @count()
  ret i64 %rc
d: %rd = call i64 @heap(i64 9)
  ret i64 %rd
e: %re = call i64 @twice(i64 100)
  ret i64 %re
other:
  ret i64 -1
}
"""


@pytest.fixture(scope="module")
def program() -> bytes:
    return Target.parse("x86-64").compile(PROGRAM)


def compiled(text: str, level: int = 0) -> bytes:
    return Target.parse("x86-64").compile(text, pipeline=Pipeline(level=level))


@pytest.mark.parametrize("level", [0, 2])
def test_every_kind_of_section_and_symbol_works(level):
    module = NativeModule(compiled(PROGRAM, level))
    through = module.function("through_table", I64, I64, I64)
    assert [through(0, 21), through(1, 21)] == [42, -21]
    constant = module.function("constant", F64, I64)
    assert [constant(i) for i in range(4)] == [6.0, -9.0, 4.0e300, float("inf")]
    count = module.function("count", I64)
    assert [count(), count()] == [41, 42]
    remember = module.function("remember", I64, I64, I64)
    assert [remember(99999, 5), remember(99999, 6), remember(0, 1)] == [0, 5, 0]
    assert module.function("heap", I64, I64)(16) == 3
    switched = module.function("switched", I64, I64)
    assert [switched(i) for i in (0, 1, 2, 3, 4, 5, -1)] == [22, -5, 43, 3, 200, -1, -1]
    libc_free = ctypes.cast(ctypes.CDLL(None).free, PTR).value
    assert module.function("address_of_free", PTR)() == libc_free
    assert I64.from_address(module.address("shared")).value == 7


def test_two_loads_share_no_variables(program):
    first, second = NativeModule(program), NativeModule(program)
    assert first.function("count", I64)() == second.function("count", I64)() == 41


def test_exports_and_nothing_else_are_found(program):
    module = NativeModule(program)
    assert {"twice", "releaser", "shared", "switched"} <= set(module.symbols)
    for name in ("scale", "counter", "malloc", "free", "", "nonesuch"):
        with pytest.raises(LoaderError, match="exports no symbol"):
            module.address(name)


def pages(address: int) -> str:
    """The permissions that the system states for the page at an address, "" when there is none."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end, permissions = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+)", line).groups()
        if int(start, 16) <= address < int(end, 16):
            return permissions[:3]
    return ""


def test_no_page_is_written_and_executed(program):
    module = NativeModule(program)
    assert pages(module.address("twice")) == "r-x"
    assert pages(module.address("shared")) == "rw-"
    constants = NativeModule(Target.parse("x86-64").compile(
        "@plain = constant i64 3\n@address = constant ptr @f\ndefine void @f() {\n  ret void\n}"))
    assert pages(constants.address("plain")) == pages(constants.address("address")) == "r--"
    assert PTR.from_address(constants.address("address")).value == constants.address("f")


def test_function_objects_keep_the_code_and_the_last_one_frees_it(program):
    module = NativeModule(program)
    twice, address = module.function("twice", I64, I64), module.address("twice")
    image = weakref.ref(module._image)
    module.close()
    module.close()
    for use in (lambda: module.address("twice"), lambda: module.symbols, lambda: module.function("twice", I64)):
        with pytest.raises(LoaderError, match="closed"):
            use()
    gc.collect()
    assert twice(4) == 8
    assert pages(address) == "r-x"
    del twice
    gc.collect()
    assert image() is None
    assert pages(address) == ""


@pytest.mark.parametrize("name", ["system", "expf", "__truncdfhf2", "onnxc_elsewhere", "_ZSt4cout"])
def test_symbols_off_the_list_are_refused_by_name(name):
    with pytest.raises(LoaderError, match=f"{name}'"):
        NativeModule(compiled(f"declare void @{name}()\ndefine void @f() {{\n  call void @{name}()\n  ret void\n}}"))


def test_every_allowed_symbol_is_in_this_c_library():
    calls = "".join(f"declare void @{n}()\n@{n}.at = global ptr @{n}\n" for n in sorted(OUTSIDE_SYMBOLS))
    module = NativeModule(compiled(calls))
    assert all(PTR.from_address(module.address(f"{n}.at")).value for n in OUTSIDE_SYMBOLS)


def test_far_data_still_reaches_and_too_much_is_refused():
    big = "@far = internal global [{n} x i8] zeroinitializer\n@near = internal global i8 9\n" \
          "define i8 @f(i64 %i) {{\n  %p = getelementptr [{n} x i8], ptr @far, i64 0, i64 %i\n" \
          "  store volatile i8 4, ptr %p\n  %v = load volatile i8, ptr %p\n  %w = load volatile i8, ptr @near\n" \
          "  %s = add i8 %v, %w\n  ret i8 %s\n}}"
    assert NativeModule(compiled(big.format(n=1 << 30))).function("f", ctypes.c_int8, I64)((1 << 30) - 1) == 13
    with pytest.raises(LoaderError, match="bytes"):
        NativeModule(compiled(big.format(n=(1 << 31) - 64)))


def test_constructors_and_thread_locals_are_refused():
    constructor = "@llvm.global_ctors = appending global [1 x { i32, ptr, ptr }] [{ i32, ptr, ptr } " \
                  "{ i32 1, ptr @f, ptr null }]\ndefine void @f() {\n  ret void\n}"
    with pytest.raises(LoaderError, match="constructors"):
        NativeModule(compiled(constructor))
    with pytest.raises(LoaderError, match="thread-local"):
        NativeModule(compiled("@t = thread_local global i64 0\ndefine ptr @f() {\n  ret ptr @t\n}"))


def test_other_machines_and_file_kinds_are_refused(program):
    with pytest.raises(LoaderError, match=r"machine 62.*machine 183"):
        NativeModule(Target.parse("aarch64-neon").compile("define void @f() {\n  ret void\n}"))
    with pytest.raises(LoaderError, match="type 3"):
        NativeModule(patched(program, 16, b"\x03"))
    for data in (b"", b"\x7fELF", b"MZ" + bytes(100), bytes(64), b"\xcf\xfa\xed\xfe" + bytes(60)):
        with pytest.raises(LoaderError, match="ELF"):
            NativeModule(data)


# Field offsets of the ELF64 file header, section header, symbol and relocation rows, as the format's specification
# gives them; each with a value that must be refused.
HEADER_FAULTS = [(4, b"\x01"), (5, b"\x02"), (16, b"\x02"), (40, b"\xff" * 8), (58, b"\x3f"), (60, b"\0\0"),
                 (60, b"\xff\xff"), (62, b"\xff\xff")]
SECTION_FAULTS = [("name", 0, b"\xff" * 4), ("flags", 8, b"\x07"), ("flags", 8, b"\x06\x04"),
                  ("offset", 24, b"\xff" * 8), ("offset", 24, b"\0" * 7 + b"\x7f"), ("size", 32, b"\xff" * 8),
                  ("alignment", 48, b"\x03"), ("alignment", 48, b"\0\x20"), ("alignment", 48, b"\0" * 7 + b"\x80")]


def section_rows(data: bytes) -> Iterator[tuple[int, int]]:
    """(offset of the row, section type) of each section header."""
    table, = struct.unpack_from("<Q", data, 40)
    count, = struct.unpack_from("<H", data, 60)
    for index in range(count):
        row = table + 64 * index
        yield row, struct.unpack_from("<I", data, row + 4)[0]


def patched(data: bytes, offset: int, value: bytes) -> bytes:
    return data[:offset] + value + data[offset + len(value):]


@pytest.mark.parametrize(("offset", "value"), HEADER_FAULTS)
def test_damaged_file_headers_are_refused(program, offset, value):
    with pytest.raises(LoaderError):
        NativeModule(patched(program, offset, value))


@pytest.mark.parametrize(("field", "offset", "value"), SECTION_FAULTS)
def test_damaged_section_headers_are_refused(program, field, offset, value):
    code = next(row for row, kind in section_rows(program)
                if kind == 1 and struct.unpack_from("<Q", program, row + 8)[0] & 4)
    with pytest.raises(LoaderError):
        NativeModule(patched(program, code + offset, value))


@pytest.mark.parametrize(("offset", "value"), [(0, b"\xff" * 8), (0, b"\0" * 7 + b"\x80"), (8, b"\x63"),
                                               (12, b"\xff" * 4), (16, b"\0" * 7 + b"\x40")])
def test_damaged_relocations_are_refused(program, offset, value):
    rows = next(row for row, kind in section_rows(program) if kind == 4)
    first, = struct.unpack_from("<Q", program, rows + 24)
    with pytest.raises(LoaderError):
        NativeModule(patched(program, first + offset, value))


@pytest.mark.parametrize(("offset", "value"), [(0, b"\xff" * 4), (4, b"\x16"), (4, b"\x1a"), (4, b"\x72"),
                                               (6, b"\xfe\xff"), (6, b"\xf2\xff"), (8, b"\0" * 7 + b"\x80")])
def test_damaged_symbols_are_refused(program, offset, value):
    table = next(row for row, kind in section_rows(program) if kind == 2)
    start, size = struct.unpack_from("<QQ", program, table + 24)
    last = start + size - 24
    with pytest.raises(LoaderError):
        NativeModule(patched(program, last + offset, value))


def test_random_damage_never_ends_the_process(program):
    """Loading (not running) damaged objects either works or is a LoaderError, whatever byte is hit."""
    numbers = random.Random(5)
    metadata = len(program) - sum(1 for _ in section_rows(program)) * 64
    outcomes = set()
    for _ in range(1500):
        data = bytearray(program)
        for _ in range(numbers.choice((1, 1, 2, 8))):
            start = numbers.choice((0, metadata))
            data[numbers.randrange(start, len(data))] = numbers.choice((0, 1, 0x7F, 0x80, 0xFF, numbers.randrange(256)))
        if numbers.random() < 0.1:
            del data[numbers.randrange(len(data)):]
        try:
            NativeModule(bytes(data)).close()
            outcomes.add("loaded")
        except LoaderError:
            outcomes.add("refused")
    assert outcomes == {"loaded", "refused"}


def test_llvms_loader_serves_hosts_without_layout_rules(program, monkeypatch):
    monkeypatch.setattr(loader.platform, "machine", lambda: "riscv64")
    module = NativeModule(Target.host().compile(PROGRAM))
    assert module.function("through_table", I64, I64, I64)(1, 3) == -3
    with pytest.raises(LoaderError, match="exports no symbol"):
        module.address("nonesuch")
    with pytest.raises(LoaderError, match="does not list"):
        _ = module.symbols
