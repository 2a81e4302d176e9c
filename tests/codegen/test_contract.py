"""Contraction kernels through the backend against float64: operand layouts, convolutions, epilogues, types, odd sizes.

Floats are held to the bound of any order of summation; integers wrap and are exact. Each kernel runs with its jobs in
one range and cut at random places, on two threads' scratch, which is full of garbage.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
import re

import ml_dtypes
import numpy as np
import pytest

from onnxc.codegen.interp import run_kernel
from onnxc.codegen.llvm.abi import KernelError
from onnxc.codegen.llvm.contract import prepare_contraction
from onnxc.codegen.llvm.schedule_contract import blocking_of
from onnxc.codegen.llvm.target import Target
from onnxc.codegen.schedule import Schedule
from onnxc.ir.core import Func
from onnxc.ir.parser import parse_func
from onnxc.ir.printer import print_func
from onnxc.ops import load_all
from tests.codegen.native import NativeKernel, guarded

load_all()
TARGETS = ["host", "x86-64-v3"]


@functools.cache
def target_here(name: str) -> Target:
    """The target, or a skip where this machine cannot run its code."""
    target, host = Target.parse(name), Target.host()
    if target.arch != host.arch or not target.features <= host.features:
        pytest.skip(f"this machine does not run {name}")
    return target


def contraction(arguments: str, axes: str, lhs: str, rhs: str, epilogue: str, accumulate: str = "f32") -> Func:
    """A k.contract kernel; regions without their yields' parentheses: the last line names what is yielded."""

    def region(text: str) -> str:
        *ops, value = text.strip().splitlines()
        return "\n".join([*ops, f"yield({value.strip()})"])

    return parse_func(f"""func @kernel({arguments}) kind "kernel" {{
      k.contract() {{{axes}, accumulate = !{accumulate}}} () {{ {region(lhs)} }} () {{ {region(rhs)} }}
      (%sum: {accumulate}) {{ {epilogue} }} }}""")


@functools.cache
def native(text: str, target: str) -> NativeKernel:
    return NativeKernel(parse_func(text), target_here(target))


def run(
    func: Func, target: str, arrays: list[np.ndarray], dims: dict[str, int], rtol: float = 0.0, atol: float = 0.0
) -> None:
    """Runs natively, in one piece and in pieces, and compares every argument with the interpreter's."""
    kernel = native(print_func(func), target)
    expected = [a.copy() for a in arrays]
    assert run_kernel(func, expected, dims) == []
    chance = random.Random(7)
    for pieces in (0, 4):
        found = [a.copy() for a in arrays]
        error = kernel.run(
            found, dims, lambda total, n=pieces: sorted(chance.randint(0, total) for _ in range(n)), threads=2
        )
        assert error is None
        for a, b in zip(found, expected, strict=True):
            wide = (np.float64,) if a.dtype.kind in "fV" else ()
            np.testing.assert_allclose(a.astype(*wide) if wide else a, b.astype(*wide) if wide else b, rtol, atol)


def floats(*shape: int, dtype: object = np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(dtype)


def bound(k: int, dtype: object = np.float32) -> float:
    """Twice the error of any order of k additions of products of normal numbers, of which few exceed 4."""
    return float(2 * (k + 2) * np.finfo(dtype).eps * 4) + 1e-30


# ---- matrix products -------------------------------------------------------------------------------------------------

LAYOUTS = {"a": ("M, K", "<i>, <l>"), "t": ("K, M", "<l>, <i>")}
RIGHT = {"b": ("K, N", "<l>, <j>"), "t": ("N, K", "<j>, <l>")}
OUT = {"o": ("M, N", "<i>, <j>"), "t": ("N, M", "<j>, <i>")}
SIZES = [
    (1, 1, 1),
    (7, 65, 3),
    (5, 64, 33),
    (97, 17, 16),
    (2, 200, 9),
    (13, 1, 40),
    (1, 130, 12),
    (0, 5, 3),
    (4, 0, 3),
    (6, 66, 0),
    (130, 20, 47),
]


def product(left: str, right: str, out: str, sizes: tuple[int, int, int] | None = None) -> Func:
    a, b, o = LAYOUTS[left], RIGHT[right], OUT[out]
    text = [
        f"%a: mem<f32[{a[0]}]>, %b: mem<f32[{b[0]}]>, %o: mem<f32[{o[0]}]>",
        "batch = [], m = [[<i>, <M>]], n = [[<j>, <N>]], k = [[<l>, <K>]]",
    ]
    if sizes is not None:
        for name, size in zip("MNK", sizes, strict=True):
            text = [t.replace(f"<{name}>", str(size)) for t in text]
            text[0] = text[0].replace(f"{name}]", f"{size}]").replace(f"[{name},", f"[{size},")
    return contraction(
        *text,
        f"%0 = k.load(%a) {{index = [{a[1]}]}} : f32\n%0",
        f"%1 = k.load(%b) {{index = [{b[1]}]}} : f32\n%1",
        f"k.store(%o, %sum) {{index = [{o[1]}]}}",
    )


def product_arrays(left: str, right: str, out: str, m: int, n: int, k: int) -> list[np.ndarray]:
    a, b, o = floats(m, k), floats(k, n, seed=1), np.full((m, n), np.nan, np.float32)
    return [
        np.ascontiguousarray(x.T if how == "t" else x) for x, how in zip((a, b, o), (left, right, out), strict=True)
    ]


@pytest.mark.parametrize(
    ("form", "target"),
    [
        *(("".join(f), "host") for f in itertools.product("at", "bt", "ot")),
        *((f, "x86-64-v3") for f in ("abo", "ato", "tbt", "tbo")),
    ],
)
def test_products_of_every_layout_with_symbolic_extents(form: str, target: str) -> None:
    func = product(*form)
    for m, n, k in SIZES:
        run(func, target, product_arrays(*form, m, n, k), {"M": m, "N": n, "K": k}, atol=bound(k))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "sizes",
    [(1, 1, 1), (7, 65, 3), (97, 32, 16), (13, 1, 40), (1, 64, 12), (0, 5, 3), (4, 0, 3), (6, 66, 0), (70, 20, 47)],
)
@pytest.mark.parametrize("form", ["abo", "ato", "tbo"])
def test_products_with_known_extents(form: str, sizes: tuple[int, int, int], target: str) -> None:
    m, n, k = sizes
    run(product(*form, sizes), target, product_arrays(*form, m, n, k), {}, atol=bound(k))


@pytest.mark.parametrize("target", TARGETS)
def test_depth_beyond_one_block_and_rows_beyond_one_chunk(target: str) -> None:
    for m, n, k in [(3, 20, 6000), (400, 70, 24)]:
        for form in ("abo", "ato", "tbo"):
            run(product(*form), target, product_arrays(*form, m, n, k), {"M": m, "N": n, "K": k}, atol=bound(k))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("form", ["abo", "ato", "tbt", "tbo"])
def test_nothing_is_touched_beyond_the_operands(form: str, target: str) -> None:
    """Every operand lies against a page that may not be touched, behind its end and then in front of its start."""
    for sizes in [(7, 64, 9), (3, 21, 5), (1, 16, 33), (13, 1, 4), (35, 20, 21)]:
        for func, dims in [(product(*form), dict(zip("MNK", sizes, strict=True))), (product(*form, sizes), {})]:
            arrays = product_arrays(*form, *sizes)
            expected = [a.copy() for a in arrays]
            run_kernel(func, expected, dims)
            for at_end in (True, False):
                with contextlib.ExitStack() as stack:
                    inside = [stack.enter_context(guarded(a, at_end)) for a in arrays]
                    assert native(print_func(func), target).run(inside, dims) is None
                    np.testing.assert_allclose(inside[2], expected[2], atol=bound(sizes[2]))


@pytest.mark.parametrize("target", TARGETS)
def test_batches_whose_operands_share_them_and_do_not(target: str) -> None:
    """Attention's two products: heads between rows and columns; the second reads [batch, row, head, column] in
    place."""
    scores = contraction(
        "%q: mem<f32[B, S, H, D]>, %k: mem<f32[B, T, H, D]>, %mask: mem<f32[B, 1, S, T]>, %o: mem<f32[B, H, S, T]>",
        "batch = [[<b>, <B>], [<h>, <H>]], m = [[<i>, <S>]], n = [[<j>, <T>]], k = [[<l>, <D>]]",
        "%0 = k.load(%q) {index = [<b>, <i>, <h>, <l>]} : f32\n%s = s.const() {value = 0.5, dtype = !f32} : f32\n"
        "%1 = s.mul(%0, %s) : f32\n%1",
        "%2 = k.load(%k) {index = [<b>, <j>, <h>, <l>]} : f32\n%2",
        "%3 = k.load(%mask) {index = [<b>, 0, <i>, <j>]} : f32\n%4 = s.add(%sum, %3) : f32\n"
        "k.store(%o, %4) {index = [<b>, <h>, <i>, <j>]}",
    )
    mix = contraction(
        "%p: mem<f32[B, H, S, T]>, %v: mem<f32[B, T, H, 64]>, %o: mem<f32[B, S, H, 64]>",
        "batch = [[<b>, <B>], [<h>, <H>]], m = [[<i>, <S>]], n = [[<j>, 64]], k = [[<l>, <T>]]",
        "%0 = k.load(%p) {index = [<b>, <h>, <i>, <l>]} : f32\n%0",
        "%1 = k.load(%v) {index = [<b>, <l>, <h>, <j>]} : f32\n%1",
        "k.store(%o, %sum) {index = [<b>, <i>, <h>, <j>]}",
    )
    for b, h, s, t, d in [
        (2, 3, 5, 17, 8),
        (1, 2, 1, 40, 33),
        (3, 1, 8, 1, 16),
        (1, 1, 4, 3, 1),
        (0, 2, 3, 3, 3),
        (1, 2, 0, 3, 3),
    ]:
        dims = {"B": b, "H": h, "S": s, "T": t}
        o = np.full((b, h, s, t), np.nan, np.float32)
        run(
            scores,
            target,
            [floats(b, s, h, d), floats(b, t, h, d, seed=1), floats(b, 1, s, t), o],
            {**dims, "D": d},
            atol=bound(d),
        )
        o = np.full((b, s, h, 64), np.nan, np.float32)
        run(mix, target, [floats(b, h, s, t), floats(b, t, h, 64, seed=1), o], dims, atol=bound(t))


@pytest.mark.parametrize("target", TARGETS)
def test_a_batch_axis_of_one_operand_only(target: str) -> None:
    func = contraction(
        "%a: mem<f32[B, M, K]>, %b: mem<f32[K, N]>, %o: mem<f32[B, M, N]>",
        "batch = [[<z>, <B>]], m = [[<i>, <M>]], n = [[<j>, <N>]], k = [[<l>, <K>]]",
        "%0 = k.load(%a) {index = [<z>, <i>, <l>]} : f32\n%0",
        "%1 = k.load(%b) {index = [<l>, <j>]} : f32\n%1",
        "k.store(%o, %sum) {index = [<z>, <i>, <j>]}",
    )
    arrays = [floats(3, 4, 5), floats(5, 6), np.full((3, 4, 6), np.nan, np.float32)]
    run(func, target, arrays, {"B": 3, "M": 4, "N": 6, "K": 5}, atol=bound(5))


@pytest.mark.parametrize("target", TARGETS)
def test_several_axes_of_each_kind(target: str) -> None:
    """n has two axes that the result separates, k two that the operands order differently, m two that do not merge."""
    func = contraction(
        "%a: mem<f32[P, Q, K, L]>, %b: mem<f32[L, K, R, S]>, %bias: mem<f32[R, S]>, %o: mem<f32[R, Q, P, S]>",
        "batch = [], m = [[<p>, <P>], [<q>, <Q>]], n = [[<r>, <R>], [<s>, <S>]], k = [[<k>, <K>], [<l>, <L>]]",
        "%0 = k.load(%a) {index = [<p>, <q>, <k>, <l>]} : f32\n%0",
        "%1 = k.load(%b) {index = [<l>, <k>, <r>, <s>]} : f32\n%1",
        "%2 = k.load(%bias) {index = [<r>, <s>]} : f32\n%3 = s.add(%sum, %2) : f32\n"
        "k.store(%o, %3) {index = [<r>, <q>, <p>, <s>]}",
    )
    for p, q, r, s, k, el in [(2, 3, 4, 5, 6, 7), (1, 9, 3, 16, 2, 1), (3, 1, 1, 33, 1, 4)]:
        arrays = [
            floats(p, q, k, el),
            floats(el, k, r, s, seed=1),
            floats(r, s),
            np.full((r, q, p, s), np.nan, np.float32),
        ]
        run(func, target, arrays, {"P": p, "Q": q, "R": r, "S": s, "K": k, "L": el}, atol=bound(k * el) + 1e-6)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["f32", "f64", "f16"])
def test_rows_whose_elements_are_neighbours_along_the_last_of_their_axes(dtype: str, target: str) -> None:
    """A pointwise convolution of [batch, channel, pixel] to [batch, pixel, channel]: chunks of rows go from one batch
    to the next, and k has an axis outside of the one whose squares are transposed."""
    wide = "f64" if dtype == "f64" else "f32"
    func = contraction(
        f"%x: mem<{dtype}[B, G, K, P]>, %w: mem<{wide}[G, K, N]>, %o: mem<{wide}[B, P, N]>",
        "batch = [], m = [[<b>, <B>], [<p>, <P>]], n = [[<j>, <N>]], k = [[<g>, <G>], [<l>, <K>]]",
        f"%0 = k.load(%x) {{index = [<b>, <g>, <l>, <p>]}} : {dtype}\n"
        f"%1 = s.cast(%0) {{to = !{wide}}} : {wide}\n%z = s.abs(%1) : {wide}\n%z",
        f"%2 = k.load(%w) {{index = [<g>, <l>, <j>]}} : {wide}\n%2",
        "k.store(%o, %sum) {index = [<b>, <p>, <j>]}",
        wide,
    )
    numbers = np.float64 if dtype == "f64" else np.float32
    sizes = [(3, 50, 2, 19, 20), (2, 3, 1, 40, 17), (1, 200, 3, 16, 8), (5, 16, 1, 1, 33), (2, 0, 1, 3, 4)]
    for b, p, g, k, n in sizes:
        x = floats(b, g, k, p, dtype=np.float16 if dtype == "f16" else numbers)
        arrays = [x, floats(g, k, n, dtype=numbers, seed=1), np.full((b, p, n), np.nan, numbers)]
        run(func, target, arrays, {"B": b, "P": p, "G": g, "K": k, "N": n}, atol=bound(g * k, numbers))


# ---- convolutions ----------------------------------------------------------------------------------------------------


def convolution(
    rank: int, last: bool, out_last: bool, groups: bool, stride: int, dilation: int, pad: int, window: int
) -> Func:
    """Windows over `rank` spatial axes; channels last or first in the image and in the result; n channels a group."""
    space = range(rank)
    sizes, outs = [f"S{d}" for d in space], [f"O{d}" for d in space]
    position = [f"o{d}*{stride} + w{d}*{dilation} - {pad}" for d in space]
    where = ", ".join(f"[<{p}>, 0, <{s}>]" for p, s in zip(position, sizes, strict=True))
    at = [f"<{p}>" for p in position]

    def shape(spatial: list[str], channels: list[str], channels_last: bool) -> str:
        return ", ".join(["B", *(spatial + channels if channels_last else channels + spatial)])

    group_size, group_axis = (["G"], ["<g>"]) if groups else ([], [])
    image = f"mem<f32[{shape(sizes, [*group_size, 'C'], last)}]>"
    result = f"mem<f32[{shape(outs, [*group_size, 'F'], out_last)}]>"
    weights = f"mem<f32[{', '.join([*group_size, 'F', 'C', *[str(window)] * rank])}]>"
    read = ", ".join(["<b>", *(at + [*group_axis, "<c>"] if last else [*group_axis, "<c>"] + at)])
    filters = ", ".join([*group_axis, "<f>", "<c>", *(f"<w{d}>" for d in space)])
    points = [f"<o{d}>" for d in space]
    write = ", ".join(["<b>", *(points + [*group_axis, "<f>"] if out_last else [*group_axis, "<f>"] + points)])
    batch = "[<g>, <G>]" if groups else ""
    m = ", ".join(["[<b>, <B>]", *(f"[<o{d}>, <O{d}>]" for d in space)])
    k = ", ".join([*(f"[<w{d}>, {window}]" for d in space), "[<c>, <C>]"])
    return contraction(
        f"%x: {image}, %w: {weights}, %o: {result}",
        f"batch = [{batch}], m = [{m}], n = [[<f>, <F>]], k = [{k}]",
        f"%0 = k.load(%x) {{index = [{read}], where = [{where}]}} : f32\n%0",
        f"%1 = k.load(%w) {{index = [{filters}]}} : f32\n%1",
        f"k.store(%o, %sum) {{index = [{write}]}}",
    )


CONVOLUTIONS = [  # rank, channels last, result's last, groups, stride, dilation, pad, window
    (1, True, True, False, 1, 1, 1, 3),
    (2, True, True, False, 1, 1, 1, 3),
    (2, True, True, False, 2, 1, 3, 7),
    (2, False, True, False, 2, 1, 3, 7),
    (2, False, False, False, 1, 2, 2, 3),
    (2, True, False, False, 1, 1, 0, 1),
    (2, True, True, True, 1, 1, 1, 3),
    (2, False, False, True, 2, 1, 1, 3),
    (3, True, True, False, 1, 1, 1, 2),
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("form", CONVOLUTIONS, ids=str)
def test_convolutions(form: tuple, target: str) -> None:
    rank, last, out_last, groups, stride, dilation, pad, window = form
    func = convolution(*form)
    for b, side, c, f, g in [(2, 9, 8, 20, 2), (1, 7, 3, 5, 3), (3, 8, 1, 1, 4)]:
        sides = [side + d for d in range(rank)]
        outs = [(s + 2 * pad - dilation * (window - 1) - 1) // stride + 1 for s in sides]
        group = [g] if groups else []
        dims = {"B": b, "C": c, "F": f, **({"G": g} if groups else {})}
        dims |= {f"S{d}": s for d, s in enumerate(sides)} | {f"O{d}": o for d, o in enumerate(outs)}
        image = floats(b, *sides, *group, c) if last else floats(b, *group, c, *sides)
        result = (b, *outs, *group, f) if out_last else (b, *group, f, *outs)
        weights = floats(*group, f, c, *[window] * rank, seed=2)
        run(func, target, [image, weights, np.full(result, np.nan, np.float32)], dims, atol=bound(c * window**rank))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("channels", "columns", "groups", "stride"), [(16, 16, 4, 1), (8, 8, 5, 2), (32, 64, 3, 2)])
def test_groups_share_a_table_of_row_pointers(channels: int, columns: int, groups: int, stride: int,
                                              target: str) -> None:
    """Jobs begin and end at any group; padding is zero at every group's distance."""
    text = print_func(convolution(2, True, True, True, stride, 1, 1, 3))
    for name, size in (("C", channels), ("F", columns), ("G", groups)):
        text = re.sub(rf"\b{name}\b", str(size), text).replace(f"<{size}>", str(size))
    sides = [13, 17]
    outs = [(s - 1) // stride + 1 for s in sides]
    dims = {"B": 2} | {f"S{d}": s for d, s in enumerate(sides)} | {f"O{d}": o for d, o in enumerate(outs)}
    image, weights = floats(2, *sides, groups, channels), floats(groups, columns, channels, 3, 3, seed=2)
    result = np.full((2, *outs, groups, columns), np.nan, np.float32)
    run(parse_func(text), target, [image, weights, result], dims, atol=bound(9 * channels))


@pytest.mark.parametrize("target", TARGETS)
def test_depthwise_convolution_is_vectorised_over_channels(target: str) -> None:
    """One channel in and one out a group: plain loops, whose lanes are channels."""
    func = contraction(
        "%x: mem<f32[B, 9, 9, 40]>, %w: mem<f32[3, 3, 40]>, %o: mem<f32[B, 9, 9, 40]>",
        "batch = [[<g>, 40]], m = [[<b>, <B>], [<y>, 9], [<x>, 9]], n = [], k = [[<u>, 3], [<v>, 3]]",
        "%0 = k.load(%x) {index = [<b>, <y + u - 1>, <x + v - 1>, <g>], "
        "where = [[<y + u - 1>, 0, 9], [<x + v - 1>, 0, 9]]} : f32\n%0",
        "%1 = k.load(%w) {index = [<u>, <v>, <g>]} : f32\n%1",
        "k.store(%o, %sum) {index = [<b>, <y>, <x>, <g>]}",
    )
    schedule = str(prepare_contraction(func, target_here(target)).attrs["schedule"])
    assert "vector=g" in schedule and "jam=3 blocks=x:3" in schedule
    for b in (1, 2):
        run(
            func,
            target,
            [floats(b, 9, 9, 40), floats(3, 3, 40, seed=1), np.full((b, 9, 9, 40), np.nan, np.float32)],
            {"B": b},
            atol=bound(9),
        )


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("stride", "dilation", "dtype"), [(1, 1, "f32"), (2, 1, "f32"), (1, 2, "f32"), (1, 1, "f64")])
def test_depthwise_convolutions_whose_columns_run_as_one(stride: int, dilation: int, dtype: str, target: str) -> None:
    """Columns that share their weights: whole runs inside and at the border, runs that are cut off, and channels that
    fill no vector; with an epilogue that loads for each column."""
    func = contraction(
        f"%x: mem<{dtype}[B, H, W, C]>, %w: mem<{dtype}[3, 5, C]>, %r: mem<{dtype}[B, P, Q, C]>, "
        f"%o: mem<{dtype}[B, P, Q, C]>",
        "batch = [[<g>, <C>]], m = [[<b>, <B>], [<y>, <P>], [<x>, <Q>]], n = [], k = [[<u>, 3], [<v>, 5]]",
        f"%0 = k.load(%x) {{index = [<b>, <y*{stride} + u - 1>, <x*{stride} + v*{dilation} - 2>, <g>], "
        f"where = [[<y*{stride} + u - 1>, 0, <H>], [<x*{stride} + v*{dilation} - 2>, 0, <W>]]}} : {dtype}\n%0",
        f"%1 = k.load(%w) {{index = [<u>, <v>, <g>]}} : {dtype}\n%1",
        f"%2 = k.load(%r) {{index = [<b>, <y>, <x>, <g>]}} : {dtype}\n%3 = s.add(%sum, %2) : {dtype}\n"
        "k.store(%o, %3) {index = [<b>, <y>, <x>, <g>]}",
        dtype,
    )
    assert "jam=4 blocks=x:4" in str(prepare_contraction(func, target_here(target)).attrs["schedule"])
    numbers = np.float64 if dtype == "f64" else np.float32
    for b, h, w, c in [(1, 6, 21, 40), (2, 3, 8, 17), (1, 1, 3, 5), (1, 4, 12, 70), (1, 2, 0, 8)]:
        p, q = -(-h // stride), -(-w // stride)
        arrays = [floats(b, h, w, c, dtype=numbers), floats(3, 5, c, dtype=numbers, seed=1),
                  floats(b, p, q, c, dtype=numbers, seed=2), np.full((b, p, q, c), np.nan, numbers)]
        run(func, target, arrays, {"B": b, "H": h, "W": w, "C": c, "P": p, "Q": q}, atol=bound(15, numbers))


# ---- regions ---------------------------------------------------------------------------------------------------------

GELU = """%v = k.load(%bias) {index = [<j>]} : f32
%1 = s.add(%sum, %v) : f32
%2 = s.const() {value = 0.7071067811865475, dtype = !f32} : f32
%3 = s.mul(%1, %2) : f32
%4 = s.erf(%3) : f32
%5 = s.const() {value = 1.0, dtype = !f32} : f32
%6 = s.add(%4, %5) : f32
%7 = s.mul(%1, %6) : f32
%8 = s.const() {value = 0.5, dtype = !f32} : f32
%9 = s.mul(%7, %8) : f32
%r = k.load(%res) {index = [<i>, <j>]} : f32
%10 = s.add(%9, %r) : f32
%ok = s.eq(%10, %10) : bool
k.require(%ok) {message = "not a number"}
k.store(%o, %10) {index = [<i>, <j>]}"""


@pytest.mark.parametrize("target", TARGETS)
def test_epilogue_with_bias_gelu_residual_and_require(target: str) -> None:
    func = contraction(
        "%a: mem<f32[M, K]>, %b: mem<f32[K, N]>, %bias: mem<f32[N]>, %res: mem<f32[M, N]>, %o: mem<f32[M, N]>",
        "batch = [], m = [[<i>, <M>]], n = [[<j>, <N>]], k = [[<l>, <K>]]",
        "%0 = k.load(%a) {index = [<i>, <l>]} : f32\n%0",
        "%1 = k.load(%b) {index = [<l>, <j>]} : f32\n%1",
        GELU,
    )
    for m, n, k in [(5, 70, 9), (8, 128, 4), (1, 3, 2)]:
        arrays = [
            floats(m, k),
            floats(k, n, seed=1),
            floats(n),
            floats(m, n, seed=2),
            np.full((m, n), np.nan, np.float32),
        ]
        run(func, target, arrays, {"M": m, "N": n, "K": k}, rtol=1e-5, atol=4 * bound(k) + 1e-5)
    arrays[3][0, 2] = np.nan
    assert native_error(func, target, arrays, {"M": m, "N": n, "K": k}) == "not a number"


def native_error(func: Func, target: str, arrays: list[np.ndarray], dims: dict[str, int]) -> str | None:
    return native(print_func(func), target).run(arrays, dims)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("narrow", ["f16", "bf16", "i8", "u8"])
def test_operands_are_widened(narrow: str, target: str) -> None:
    wide = "f32" if narrow.endswith("16") else "i32"
    func = contraction(
        f"%a: mem<{narrow}[M, K]>, %b: mem<{narrow}[N, K]>, %o: mem<{wide}[M, N]>",
        "batch = [], m = [[<i>, <M>]], n = [[<j>, <N>]], k = [[<l>, <K>]]",
        f"%0 = k.load(%a) {{index = [<i>, <l>]}} : {narrow}\n%c = s.cast(%0) {{to = !{wide}}} : {wide}\n%c",
        f"%1 = k.load(%b) {{index = [<j>, <l>]}} : {narrow}\n%d = s.cast(%1) {{to = !{wide}}} : {wide}\n%d",
        "k.store(%o, %sum) {index = [<i>, <j>]}",
        wide,
    )
    dtype = {"f16": np.float16, "bf16": ml_dtypes.bfloat16, "i8": np.int8, "u8": np.uint8}[narrow]
    for m, n, k in [(5, 37, 19), (1, 8, 64), (20, 70, 1)]:
        a, b = (floats(*s, seed=i) * (1 if wide == "f32" else 50) for i, s in enumerate([(m, k), (n, k)]))
        if narrow == "u8":
            a, b = np.abs(a), np.abs(b)
        out = np.zeros((m, n), np.float32 if wide == "f32" else np.int32)
        run(
            func,
            target,
            [a.astype(dtype), b.astype(dtype), out],
            {"M": m, "N": n, "K": k},
            atol=bound(k) if wide == "f32" else 0,
        )


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["f64", "i32", "u32", "i64", "u64", "i8", "u16"])
def test_accumulators(dtype: str, target: str) -> None:
    """Tiles hold the wide ones; the narrow ones, which no tile holds, are plain loops. Integers wrap."""
    func = contraction(
        f"%a: mem<{dtype}[M, K]>, %b: mem<{dtype}[K, N]>, %o: mem<{dtype}[M, N]>",
        "batch = [], m = [[<i>, <M>]], n = [[<j>, <N>]], k = [[<l>, <K>]]",
        f"%0 = k.load(%a) {{index = [<i>, <l>]}} : {dtype}\n%0",
        f"%1 = k.load(%b) {{index = [<l>, <j>]}} : {dtype}\n%1",
        "k.store(%o, %sum) {index = [<i>, <j>]}",
        dtype,
    )
    numpy = np.dtype({"f64": "f8", "i": "i", "u": "u"}.get(dtype, "") or f"{dtype[0]}{int(dtype[1:]) // 8}")
    for m, n, k in [(9, 35, 21), (1, 64, 3), (3, 1, 2), (2, 5, 0)]:
        if dtype == "f64":
            a, b = floats(m, k, dtype=numpy), floats(k, n, dtype=numpy, seed=1)
        else:
            limits, rng = np.iinfo(numpy), np.random.default_rng(k)
            a, b = (rng.integers(limits.min, limits.max, s, numpy, endpoint=True) for s in ((m, k), (k, n)))
        run(
            func,
            target,
            [a, b, np.ones((m, n), numpy)],
            {"M": m, "N": n, "K": k},
            atol=bound(k, np.float64) if dtype == "f64" else 0,
        )


@pytest.mark.parametrize("target", TARGETS)
def test_left_operand_that_is_computed(target: str) -> None:
    """A mean over pixels, made while its row is packed; a row that the data chooses; a pad that is not zero."""
    pooled = contraction(
        "%x: mem<f32[B, 5, C]>, %w: mem<f32[N, C]>, %o: mem<f32[B, N]>",
        "batch = [], m = [[<i>, <B>]], n = [[<j>, <N>]], k = [[<l>, <C>]]",
        '%0 = k.reduce() {axes = [<r>], extents = [5], kinds = ["add"]} : f32 () {\n'
        "%1 = k.load(%x) {index = [<i>, <r>, <l>]} : f32\nyield(%1)\n}\n%0",
        "%2 = k.load(%w) {index = [<j>, <l>]} : f32\n%2",
        "k.store(%o, %sum) {index = [<i>, <j>]}",
    )
    chosen = contraction(
        "%t: mem<f32[9, C]>, %id: mem<i64[B]>, %w: mem<f32[C, N]>, %o: mem<f32[B, N]>",
        "batch = [], m = [[<i>, <B>]], n = [[<j>, <N>]], k = [[<l>, <C>]]",
        "%0 = k.load(%id) {index = [<i>]} : i64\n"
        "%1 = k.load(%t, %0) {index = [<$0>, <l>], where = [[<$0>, 0, 9]]} : f32\n%1",
        "%2 = k.load(%w) {index = [<l>, <j>]} : f32\n%2",
        "k.store(%o, %sum) {index = [<i>, <j>]}",
    )
    padded = contraction(
        "%x: mem<f32[B, C]>, %w: mem<f32[N, C + 2]>, %o: mem<f32[B, N]>",
        "batch = [], m = [[<i>, <B>]], n = [[<j>, <N>]], k = [[<l>, <C + 2>]]",
        "%0 = k.load(%x) {index = [<i>, <l - 1>], where = [[<l - 1>, 0, <C>]], other = 1.5} : f32\n%0",
        "%2 = k.load(%w) {index = [<j>, <l>]} : f32\n%2",
        "k.store(%o, %sum) {index = [<i>, <j>]}",
    )
    for b, c, n in [(3, 20, 66), (1, 7, 5), (8, 16, 64)]:
        dims, out = {"B": b, "C": c, "N": n}, np.full((b, n), np.nan, np.float32)
        run(pooled, target, [floats(b, 5, c), floats(n, c), out], dims, atol=5 * bound(c))
        run(chosen, target, [floats(9, c), np.arange(b) % 11 - 1, floats(c, n), out], dims, atol=bound(c))
        run(padded, target, [floats(b, c), floats(n, c + 2), out], dims, atol=bound(c + 2))


@pytest.mark.parametrize("target", TARGETS)
def test_nan_and_infinity_of_one_row_stay_in_it(target: str) -> None:
    func = product("a", "b", "o")
    a, b, o = product_arrays("a", "b", "o", 9, 40, 7)
    a[3, 2], a[5, 0] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        run(func, target, [a, b, o], {"M": 9, "N": 40, "K": 7}, atol=bound(7))


# ---- schedules -------------------------------------------------------------------------------------------------------


def tiles_met(height: int, chunk: int, rows: int) -> set[int]:
    """The heights of tile that a run meets: chunks as the kernel cuts them, tiles as the engine cuts a chunk."""
    count = -(-height // chunk)
    share = -(-height // max(1, count))
    step = -(-share // rows) * rows
    met = set()
    for index in range(count):
        size = min(height - index * step, step)
        assert size > 0, f"chunk {index} of {count} is empty"
        tiles = -(-size // rows)
        met |= {size // tiles + (tile < size % tiles) for tile in range(tiles)}
    return met


@pytest.mark.parametrize("target", ["host", "x86-64-v3", "x86-64", "aarch64-neon"])
def test_known_extents_have_every_size_of_tile_that_they_meet(target: str) -> None:
    """Calling a size that was not emitted would be undefined behaviour."""
    for height in (*range(3, 120), 191, 193, 383, 577, 960, 1153, 1921, 12544):
        for columns in (3, 7, 40, 64, 200):
            func = product("a", "b", "o", (height, columns, 40))
            prepared = prepare_contraction(func, Target.parse(target))
            schedule = Schedule.parse(str(prepared.attrs["schedule"]))
            blocking = blocking_of(prepared, schedule)
            assert tiles_met(height, schedule.chunk, schedule.rows) <= (blocking.row_counts or set())
            width = schedule.vectors * schedule.lanes
            met = {-(-min(width, columns - n0) // schedule.lanes) for n0 in range(0, columns, width)}
            assert blocking.vector_counts is None or met <= blocking.vector_counts


def test_symbolic_extents_have_every_size_of_tile() -> None:
    prepared = prepare_contraction(product("a", "b", "o"), Target.host())
    blocking = blocking_of(prepared, Schedule.parse(str(prepared.attrs["schedule"])))
    assert blocking.row_counts is None and blocking.vector_counts is None


def test_a_schedule_that_lacks_something_is_refused() -> None:
    func = product("a", "b", "o")
    func.attrs["schedule"] = "rows=4 vectors=2 lanes=4 chunk=6 depth=8"
    with pytest.raises(KernelError, match="chunk"):
        NativeKernel(func, Target.host())
    func.attrs["schedule"] = "rows=3 vectors=2 lanes=4 chunk=6 depth=8"
    run(func, "host", product_arrays("a", "b", "o", 20, 19, 30), {"M": 20, "N": 19, "K": 30}, atol=bound(30))
