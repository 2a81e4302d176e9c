"""Contractions of bytes against numpy in int64: signs, extremes that would saturate 16 bits, depths that are no whole
number of groups, convolutions whose padding is a zero point, rows and panels that are packed as they are used."""

from __future__ import annotations

import functools
import itertools
import os

import numpy as np
import pytest
from llvmlite import ir

from onnxc.codegen.interp import run_kernel
from onnxc.codegen.llvm import target as target_module
from onnxc.codegen.llvm.contract import prepare_contraction
from onnxc.codegen.llvm.emit import emit_kernel
from onnxc.codegen.llvm.microkernel import Microkernel
from onnxc.codegen.llvm.microkernel_bytes import byte_microkernel
from onnxc.codegen.llvm.target import Target
from onnxc.codegen.schedule import Schedule
from onnxc.ir.core import Func
from onnxc.ir.parser import parse_func
from onnxc.ir.printer import print_func
from onnxc.ops import load_all
from onnxc.runtime import cpu
from tests.codegen.native import NativeKernel, guarded
from tests.codegen.test_contract import contraction, target_here

load_all()
VNNI = "x86_64-linux-gnu/x86-64-v4+avx512vnni"
TARGETS = ["host", VNNI, "x86-64-v3", "x86-64"]
SIGNS = ["".join(p) for p in itertools.product("us", "us")]
NAMES = {"u": "u8", "s": "i8"}
TYPES = {"u": np.uint8, "s": np.int8}
PLAIN = "where = [], other = 0"
STORE = "k.store(%o, %sum) {index = [<m>, <n>], where = [], combine = none}"


def wide_load(memory: str, kind: str, index: str, how: str = PLAIN) -> str:
    return f"""%0 = k.load(%{memory}) {{index = [{index}], {how}}} : {NAMES[kind]}
               %1 = s.cast(%0) {{to = !i32, saturate = true}} : i32
               %1"""


def product(signs: str, m: int, n: int, k: int, layout: str = "kn") -> Func:
    a, b = signs
    index = f"<k*{n} + n>" if layout == "kn" else f"<n*{k} + k>"
    arguments = f"%a: mem<{NAMES[a]}[{m}, {k}]>, %b: mem<{NAMES[b]}[{k * n}]>, %o: mem<i32[{m}, {n}]>"
    axes = f"batch = [], m = [[<m>, {m}]], n = [[<n>, {n}]], k = [[<k>, {k}]]"
    return contraction(arguments, axes, wide_load("a", a, "<m>, <k>"), wide_load("b", b, index), STORE, "i32")


@functools.cache
def native(text: str, target: str) -> NativeKernel:
    return NativeKernel(parse_func(text), target_here(target))


def run(func: Func, target: str, arrays: list[np.ndarray]) -> None:
    assert native(print_func(func), target).run(arrays, {}, lambda total: [total // 2], threads=2) is None


def extremes(kind: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Mostly the least and the greatest byte, whose pairs of products do not fit 16 bits."""
    limits = np.iinfo(TYPES[kind])
    choices = [limits.min, limits.max, limits.min, limits.max, 1, 3, limits.max - 1]
    return np.random.default_rng((seed, *shape)).choice(choices, shape).astype(TYPES[kind])


@pytest.mark.parametrize("layout", ["kn", "nk"])
@pytest.mark.parametrize("extents", [(7, 40, 37), (13, 130, 64), (5, 6, 5), (49, 70, 150), (48, 33, 192)], ids=str)
@pytest.mark.parametrize("signs", SIGNS)
@pytest.mark.parametrize("target", TARGETS)
def test_products_are_exact(target: str, signs: str, extents: tuple[int, int, int], layout: str) -> None:
    m, n, k = extents
    func = product(signs, m, n, k, layout)
    assert Schedule.parse(str(prepare_contraction(func, target_here(target)).attrs["schedule"])).dot
    a, b, out = extremes(signs[0], (m, k), 1), extremes(signs[1], (k, n), 2), np.zeros((m, n), np.int32)
    flat = np.ascontiguousarray(b if layout == "kn" else b.T).reshape(-1)
    run(func, target, [a, flat, out])
    np.testing.assert_array_equal(out, a.astype(np.int64) @ b.astype(np.int64))


@pytest.mark.parametrize("signs", SIGNS)
@pytest.mark.parametrize("rest", [1, 2, 3])
def test_nothing_past_the_end_of_a_row_is_read(signs: str, rest: int) -> None:
    """The last row ends with its memory, which the harness guards; the panel's zeros must not meet what lies there."""
    k = 60 + rest
    func = product(signs, 4, 32, k)
    a, b, out = extremes(signs[0], (4, k), 3), extremes(signs[1], (k, 32), 4), np.zeros((4, 32), np.int32)
    run(func, "host", [a, b.reshape(-1).copy(), out])
    np.testing.assert_array_equal(out, a.astype(np.int64) @ b.astype(np.int64))


@pytest.mark.parametrize("channels", [3, 16, 18])
@pytest.mark.parametrize("signs", ["us", "ss", "uu"])
@pytest.mark.parametrize("target", ["host", VNNI, "x86-64-v3"])
def test_windows_padded_with_a_zero_point(target: str, signs: str, channels: int) -> None:
    size, outs, fill = 7, 24, {"u": 131, "s": -5}[signs[0]]
    line = size * channels
    place = f"<y*{line} + h*{line} + x*{channels} + w*{channels} + c - {line + channels}>"
    how = f"where = [[<y + h - 1>, 0, {size}], [<x + w - 1>, 0, {size}]], other = {fill}"
    func = contraction(
        f"%a: mem<{NAMES[signs[0]]}[{size * line}]>, %b: mem<{NAMES[signs[1]]}[3, 3, {channels}, {outs}]>, "
        f"%o: mem<i32[{size}, {size}, {outs}]>",
        f"batch = [], m = [[<y>, {size}], [<x>, {size}]], n = [[<n>, {outs}]], "
        f"k = [[<h>, 3], [<w>, 3], [<c>, {channels}]]",
        wide_load("a", signs[0], place, how),
        wide_load("b", signs[1], "<h>, <w>, <c>, <n>"),
        "k.store(%o, %sum) {index = [<y>, <x>, <n>], where = [], combine = none}",
        "i32",
    )
    a = extremes(signs[0], (size, size, channels), 5)
    b = extremes(signs[1], (3, 3, channels, outs), 6)
    out = np.zeros((size, size, outs), np.int32)
    run(func, target, [a.reshape(-1).copy(), b, out])
    padded = np.pad(a.astype(np.int64), ((1, 1), (1, 1), (0, 0)), constant_values=fill)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (0, 1))
    np.testing.assert_array_equal(out, np.einsum("yxchw,hwco->yxo", windows, b.astype(np.int64)))


def test_the_interpreter_agrees() -> None:
    func = product("us", 3, 5, 9)
    a, b, out = extremes("u", (3, 9), 1), extremes("s", (9, 5), 2), np.zeros((3, 5), np.int32)
    assert run_kernel(func, [a, b.reshape(-1).copy(), out], {}) == []
    np.testing.assert_array_equal(out, a.astype(np.int64) @ b.astype(np.int64))


def test_targets_without_products_of_bytes_widen_them() -> None:
    prepared = prepare_contraction(product("us", 16, 32, 64), Target.parse("aarch64-neon"))
    assert Schedule.parse(str(prepared.attrs["schedule"])).dot == ""


@pytest.mark.parametrize("signs", SIGNS)
def test_one_instruction_makes_four_products(signs: str) -> None:
    """On a target that has it, and without spilling: 24 sums by 4 products a step, and corrections for equal signs."""
    rows = 5 if signs[0] == signs[1] else 6
    module = ir.Module()
    byte_microkernel(module, Microkernel("i32", rows, 4, 16, rows, "vnni", signs)).linkage = "external"
    text = Target.parse("x86_64-linux-gnu/x86-64-v4+avx512vnni").assembly(module)
    assert text.count("vpdpbusd") >= rows * 4 and "zmmword ptr [rsp" not in text and "%rsp), %zmm" not in text


AMX = VNNI + "+amx-int8"


@pytest.mark.parametrize("signs", SIGNS)
def test_a_matrix_unit_takes_what_fills_it(signs: str) -> None:
    """Rows, columns and depth of a register's size each; the unit is configured and released around it."""
    target = Target.parse(AMX)
    for extents, unit in (((64, 64, 128), True), ((4, 64, 128), False), ((64, 8, 128), False), ((64, 64, 16), False)):
        prepared = prepare_contraction(product(signs, *extents), target)
        assert (Schedule.parse(str(prepared.attrs["schedule"])).dot == "amx") == unit
    module = ir.Module()
    emit_kernel(module, product(signs, 64, 64, 128), target, lambda message: 0, []).function.linkage = "external"
    text = target.assembly(module)
    assert text.count(f"tdpb{signs}d") >= 4 and "ldtilecfg" in text and "tilerelease" in text


@pytest.mark.parametrize("rows", [1, 16, 31, 100])
@pytest.mark.parametrize("depth", [3 * 64, 100, 33])
def test_rows_of_a_matrix_unit_that_a_run_counts(rows: int, depth: int) -> None:
    """Rows in blocks of 16 and depth in steps of 64: nothing past either's end counts, or is read of the operands."""
    axes = "batch = [], m = [[<m>, <M>]], n = [[<n>, 48]], k = [[<k>, <K>]]"
    func = contraction("%a: mem<u8[M, K]>, %b: mem<i8[K, 48]>, %o: mem<i32[M, 48]>", axes,
                       wide_load("a", "u", "<m>, <k>"), wide_load("b", "s", "<k>, <n>"), STORE, "i32")
    a, b, out = extremes("u", (rows, depth), 1), extremes("s", (depth, 48), 2), np.zeros((rows, 48), np.int32)
    kernel = native(print_func(func), target_here(AMX) and AMX)
    with guarded(a, True) as left, guarded(b, True) as right, guarded(out, True) as sums:
        assert kernel.run([left, right, sums], {"M": rows, "K": depth}, lambda total: [total // 2], threads=2) is None
        np.testing.assert_array_equal(sums, a.astype(np.int64) @ b.astype(np.int64))


def test_a_matrix_unit_takes_every_image_of_a_batch() -> None:
    axes = "batch = [[<b>, 3]], m = [[<m>, 40]], n = [[<n>, 33]], k = [[<k>, 70]]"
    func = contraction("%a: mem<u8[3, 40, 70]>, %b: mem<i8[3, 70, 33]>, %o: mem<i32[3, 40, 33]>", axes,
                       wide_load("a", "u", "<b>, <m>, <k>"), wide_load("b", "s", "<b>, <k>, <n>"),
                       "k.store(%o, %sum) {index = [<b>, <m>, <n>], where = [], combine = none}", "i32")
    a, b, out = extremes("u", (3, 40, 70), 1), extremes("s", (3, 70, 33), 2), np.zeros((3, 40, 33), np.int32)
    run(func, target_here(AMX) and AMX, [a, b, out])
    np.testing.assert_array_equal(out, a.astype(np.int64) @ b.astype(np.int64))


def test_a_forked_child_may_use_the_matrix_unit() -> None:
    kernel = native(print_func(product("us", 64, 64, 128)), target_here(AMX) and AMX)
    a, b, out = extremes("u", (64, 128), 1), extremes("s", (128, 64), 2), np.zeros((64, 64), np.int32)
    child = os.fork()
    if child == 0:
        kernel.run([a, b.reshape(-1).copy(), out], {})
        os._exit(not np.array_equal(out, a.astype(np.int64) @ b.astype(np.int64)))
    assert os.waitpid(child, 0)[1] == 0


def test_a_matrix_unit_that_the_system_refuses_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "may_use_tiles", lambda: False)
    assert not any(name.startswith("amx") for name in target_module._host.__wrapped__().features)
    assert not any(name.startswith("amx") for name in cpu.host_extensions.__wrapped__())
