"""Attention kernels through the backend against the interpreter, which computes each softmax at once in float64.

Sizes cross the blocks of rows and keys, so that rows are rescaled; layouts are read in place and packed. Errors are
bounded by those of sums of as many products, of f32 exponentials and of weights between 0 and 1.
"""

from __future__ import annotations

import functools
import random

import numpy as np
import pytest
from llvmlite import ir

from onnxc.codegen.interp import run_kernel
from onnxc.codegen.llvm.emit import emit_kernel
from onnxc.ir.core import Func
from onnxc.ir.parser import parse_func
from onnxc.ir.printer import print_func
from onnxc.ops import load_all
from tests.codegen.native import NativeKernel
from tests.codegen.test_contract import target_here

load_all()
TOLERANCE = 2e-5
"""Of outputs of about 1: sums over at most 128 channels are right to 1e-6 of a score of about 10, which an exponential
takes to its weight."""

# Where an operand lies -> its memory and the index of (head, position, channel).
LAYOUTS = {"heads": ("H, {n}, {c}", "<h>, {i}, {j}"), "hidden": ("{n}, H, {c}", "{i}, <h>, {j}"),
           "turned": ("H, {c}, {n}", "<h>, {j}, {i}")}


def attention(q: str = "heads", k: str = "heads", v: str = "heads", out: str = "heads", score: str = "%product",
              missing: bool = False, dtype: str = "f32", sizes: dict[str, int] | None = None) -> Func:
    """Of H heads, M queries, N keys of D channels and values of E; `score` are the lines of the region, %mask being a
    bias [M, N]."""

    def place(layout: str, n: str, c: str, i: str, j: str) -> tuple[str, str]:
        memory, index = LAYOUTS[layout]
        return memory.format(n=n, c=c), index.format(i=f"<{i}>", j=f"<{j}>")

    places = [place(q, "M", "D", "m", "d"), place(k, "N", "D", "n", "d"), place(v, "N", "E", "n", "e"),
              place(out, "M", "E", "m", "e")]
    memory = [f"%{name}: mem<{dtype}[{shape}]>" for name, (shape, _) in zip("qkvo", places, strict=True)]

    def element(name: str, index: str) -> str:
        load = f"%x{name} = k.load(%{name}) {{index = [{index}]}} : {dtype}\n"
        wide = f"%y{name} = s.cast(%x{name}) {{to = !f32}} : f32\nyield(%y{name})"
        return load + (f"yield(%x{name})" if dtype == "f32" else wide)

    *lines, given = score.strip().splitlines()
    stored = "%sum" if dtype == "f32" else "%narrow"
    narrowed = "" if dtype == "f32" else f"%narrow = s.cast(%sum) {{to = !{dtype}}} : {dtype}\n"
    text = f"""func @kernel({', '.join(memory)}, %mask: mem<f32[M, N]>) kind "kernel" {{
      k.attend() {{batch = [[<h>, <H>]], m = [[<m>, <M>]], n = [[<n>, <N>]], k = [[<d>, <D>]], columns = [[<e>, <E>]],
        accumulate = !f32, missing = {str(missing).lower()}}} () {{ {element('q', places[0][1])} }} ()
      {{ {element('k', places[1][1])} }} (%product: f32) {{ {chr(10).join([*lines, f'yield({given.strip()})'])} }} ()
      {{ {element('v', places[2][1])} }} (%sum: f32) {{ {narrowed}
        k.store(%o, {stored}) {{index = [{places[3][1]}]}} }} }}"""
    for name, size in (sizes or {}).items():
        text = text.replace(f"<{name}>", str(size))
        for before, after in (("[", ","), (" ", ","), (" ", "]"), ("[", "]")):
            text = text.replace(f"{before}{name}{after}", f"{before}{size}{after}")
    return parse_func(text)


MASKED = """%bias = k.load(%mask) {index = [<m>, <n>]} : f32
%scale = s.const() {value = 0.125, dtype = !f32} : f32
%scaled = s.mul(%product, %scale) : f32
%masked = s.add(%scaled, %bias) : f32
%masked"""


@functools.cache
def native(text: str, target: str) -> NativeKernel:
    return NativeKernel(parse_func(text), target_here(target))


def arrays_of(func: Func, dims: dict[str, int], seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    from onnxc.ir.dims import evaluate
    out = [rng.standard_normal([evaluate(d, dims) for d in a.type.shape]).astype(a.type.dtype.numpy)  # type: ignore
           for a in func.args]
    out[3][...] = np.nan
    return out


def check(func: Func, arrays: list[np.ndarray], dims: dict[str, int], target: str = "host",
          tolerance: float = TOLERANCE) -> np.ndarray:
    """Runs natively, in one piece and in pieces, on two threads' scratch full of garbage; gives the output."""
    expected = [a.copy() for a in arrays]
    assert run_kernel(func, expected, dims) == []
    kernel = native(print_func(func), target)
    chance = random.Random(3)
    for pieces in (0, 3):
        found = [a.copy() for a in arrays]
        error = kernel.run(found, dims, lambda total, n=pieces: sorted(chance.randint(0, total) for _ in range(n)),
                           threads=2)
        assert error is None
        np.testing.assert_allclose(found[3].astype(np.float64), expected[3].astype(np.float64), tolerance, tolerance)
    return expected[3]


SIZES = [(2, 7, 5, 8, 3), (3, 1, 1000, 64, 64), (2, 4, 9, 13, 20), (2, 3, 70, 40, 8), (3, 100, 130, 64, 64),
         (1, 1, 500, 16, 40), (2, 97, 1, 24, 16), (1, 13, 1000, 20, 70), (2, 4, 0, 8, 8), (2, 0, 6, 8, 8),
         (0, 3, 3, 8, 8)]


@pytest.mark.parametrize("target", ["host", "x86-64-v3"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_symbolic_sizes_across_all_blocks(size, target):
    func, dims = attention(score=MASKED), dict(zip("HMNDE", size, strict=True))
    check(func, arrays_of(func, dims), dims, target)


@pytest.mark.parametrize(("q", "k", "v", "out"), [("hidden", "hidden", "hidden", "hidden"),
                                                  ("turned", "turned", "turned", "turned"),
                                                  ("heads", "turned", "hidden", "turned")])
def test_layouts_that_are_read_in_place_and_that_are_packed(q, k, v, out):
    dims = dict(zip("HMNDE", (2, 33, 70, 32, 48), strict=True))
    for sizes in ({}, dims):
        func = attention(q, k, v, out, MASKED, sizes=sizes)
        check(func, arrays_of(func, dims), {} if sizes else dims)


def test_narrow_elements_are_widened_as_they_are_packed():
    func, dims = attention("hidden", "hidden", "hidden", "hidden", dtype="f16"), dict(zip("HMNDE", (2, 9, 40, 16, 24),
                                                                                          strict=True))
    check(func, arrays_of(func, dims), dims, tolerance=1e-3)                 # of the result's own rounding


@pytest.mark.parametrize("rows", [1, 4, 5])
@pytest.mark.parametrize("keys", ["heads", "hidden", "turned"])
def test_few_rows_read_keys_along_their_channels(rows, keys):
    dims = dict(zip("HMNDE", (2, rows, 130, 24, 48), strict=True))
    func = attention("hidden", keys, "hidden", "hidden", MASKED, sizes=dims)
    check(func, arrays_of(func, dims), {})


@pytest.mark.parametrize("missing", [False, True])
def test_rows_without_a_score_and_scores_that_are_no_numbers(missing):
    func = attention(score=MASKED, missing=missing)
    dims = dict(zip("HMNDE", (1, 12, 900, 8, 8), strict=True))
    arrays = arrays_of(func, dims)
    mask = arrays[4]
    mask[...] = 0
    mask[0], mask[1, :500], mask[2, 400:] = -np.inf, -np.inf, -np.inf        # none; the last block only; the first only
    mask[3, 7], mask[4, 899], mask[5, 450], mask[6] = np.nan, np.inf, np.nan, np.finfo(np.float32).min
    result = check(func, arrays, dims)
    bad = np.isnan(result[0]).all(-1)
    wanted = [] if missing else [0, 3, 4, 5]
    assert np.flatnonzero(bad).tolist() == wanted
    assert not missing or not result[0, [0, 3, 4, 5]].any()
    np.testing.assert_allclose(result[0, 6], arrays[2][0].mean(0), atol=1e-5)   # equal scores weigh the same


def test_weights_of_nothing_times_infinity_are_nan():
    """Where a row is masked whole and its weights are put to 0, infinite values still make it NaN, as 0 * inf does."""
    func, dims = attention(score=MASKED, missing=True), dict(zip("HMNDE", (1, 6, 500, 8, 8), strict=True))
    arrays = arrays_of(func, dims)
    arrays[4][...] = 0
    arrays[4][1] = -np.inf
    arrays[2][0, 3, 2] = np.inf
    result = check(func, arrays, dims)
    np.testing.assert_array_equal(np.isnan(result[0, 1]), np.arange(8) == 2)
    assert not np.nan_to_num(result[0, 1]).any()


def test_large_scores_do_not_overflow_in_any_order():
    func, dims = attention(), dict(zip("HMNDE", (1, 8, 1200, 4, 8), strict=True))
    arrays = arrays_of(func, dims)
    arrays[0][...], arrays[1][...] = 1, np.linspace(-300, 300, 1200)[:, None]      # grows from block to block
    check(func, arrays, dims)
    arrays[1][...] = np.linspace(300, -300, 1200)[:, None]
    check(func, arrays, dims)


def test_scores_whose_exponentials_are_denormal_or_nearly():
    func, dims = attention(), dict(zip("HMNDE", (1, 8, 1200, 4, 8), strict=True))
    arrays = arrays_of(func, dims)
    arrays[0][...], arrays[1][...] = 1, np.linspace(-26, 0, 1200)[:, None]      # scores from -104 on: 4 channels
    check(func, arrays, dims)


# ---- keys that a mask leaves out for whole blocks ------------------------------------------------------------------
SELECTED = """%at = k.index() {expr = <N - M + m>} : i64
%key = k.index() {expr = <n>} : i64
%later = s.gt(%key, %at) : bool
%fill = s.const() {value = FILL, dtype = !f32} : f32
%score = s.select(%later, %fill, %product) : f32
%score"""
CAPPED = """%cap = s.const() {value = 5.0, dtype = !f32} : f32
%part = s.div(%product, %cap) : f32
%flat = s.tanh(%part) : f32
%back = s.mul(%cap, %flat) : f32
%bias = k.load(%mask) {index = [<m>, <n>]} : f32
%masked = s.add(%bias, %back) : f32
%masked"""
LONG = dict(zip("HMNDE", (1, 150, 850, 16, 8), strict=True))


def windowed(rows: int, keys: int, window: int | None, fill: float) -> np.ndarray:
    """A bias for the last `rows` of `keys` positions, each of which sees itself and `window` positions before it."""
    behind = np.arange(keys)[None, :] - np.arange(keys - rows, keys)[:, None]
    seen = (behind <= 0) & (behind > -(window or keys))
    return np.where(seen, 0, np.float32(fill)).astype(np.float32)


@pytest.mark.parametrize("fill", [-np.inf, float(np.finfo(np.float32).min), -10000.0, -90.0])
@pytest.mark.parametrize("score", [MASKED, CAPPED], ids=["scaled", "capped"])
def test_masks_that_leave_out_whole_blocks(score, fill):
    """Causal, windowed, padded at either end: whatever a mask makes so small weighs what it weighs, often nothing."""
    func = attention(score=score)
    for rows, window in ((850, None), (850, 70), (150, None), (150, 100)):
        dims = {**LONG, "M": rows}
        arrays = arrays_of(func, dims)
        arrays[4][...] = windowed(rows, 850, window, fill)
        arrays[4][: rows // 2, :200] = fill                             # padding in front: some rows see no key
        arrays[4][:, 800:] = fill
        check(func, arrays, dims)


@pytest.mark.parametrize("fill", ["-inf", "-3.4028234663852886e+38"])
def test_conditions_on_places_leave_out_whole_blocks(fill):
    func = attention(score=SELECTED.replace("FILL", fill))
    for rows in (5, 150, 850):
        dims = {**LONG, "M": rows}
        check(func, arrays_of(func, dims), dims)


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
@pytest.mark.parametrize("operand", [0, 1, 2], ids=["query", "key", "value"])
def test_what_is_left_out_still_counts_where_it_is_no_number(operand, value):
    """0 * inf, and inf - inf among masked scores, are NaN in every row; a score that overflows is an infinity."""
    func, dims = attention(score=MASKED), {**LONG, "M": 850}
    arrays = arrays_of(func, dims)
    arrays[4][...] = windowed(850, 850, None, -np.inf)
    arrays[operand][0, 840, 3] = value
    with np.errstate(all="ignore"):
        check(func, arrays, dims)


def test_only_masks_that_depend_on_keys_are_looked_at():
    def looks(score: str, sizes: dict[str, int] | None = None) -> bool:
        module = ir.Module()
        emit_kernel(module, attention(score=score, sizes=sizes), target_here("host"), lambda message: 0)
        return "live.row" in str(module)

    one_row = MASKED.replace("[<m>, <n>]", "[<m>, 0]")
    assert looks(MASKED) and looks(CAPPED) and looks(SELECTED.replace("FILL", "-inf"))
    assert not looks("%product") and not looks(one_row)
    assert not looks(MASKED, {**LONG, "N": 20}) and not looks(MASKED, {**LONG, "M": 2})


def test_triton_says_that_it_has_no_form_yet():
    emit = pytest.importorskip("onnxc.codegen.triton.emit")
    from onnxc.codegen.triton.context import TritonUnsupported
    with pytest.raises(TritonUnsupported, match="k.attend"):
        emit.emit_kernel(attention())
