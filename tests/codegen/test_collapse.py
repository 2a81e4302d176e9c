"""Merged loop axes: which merge, what becomes of conditions, and that the kernel stays the same one."""

from __future__ import annotations

import numpy as np
import pytest

from onnxc.codegen.accesses import Accesses, loop_axes, recombine
from onnxc.codegen.collapse import collapse_axes, split_axes
from onnxc.codegen.interp import run_kernel
from onnxc.ir.core import Func
from onnxc.ir.dims import evaluate, parse_dim
from onnxc.ir.parser import parse_func


def copy_kernel(index: str, where: str = "", shape: str = "N, C, H, W", extents: str = "N, C, H, W") -> Func:
    bounds = ", ".join(f"<{e.strip()}>" for e in extents.split(","))
    return parse_func(f"""func @f(%x: mem<f32[{shape}]>, %o: mem<f32[{extents}]>) kind "kernel" {{
      k.parallel() {{axes = [<n>, <c>, <h>, <w>], extents = [{bounds}]}} () {{
        %v = k.load(%x) {{index = [{index}], where = [{where}], other = 9.0}} : f32
        k.store(%o, %v) {{index = [<n>, <c>, <h>, <w>], where = [], combine = none}} }} }}""")


def axes_after(func: Func) -> list[str]:
    merged = collapse_axes(func)
    (loop,) = [op for op in merged.body.ops if op.name == "k.parallel"]
    return [str(e) for _, e in loop_axes(loop)]


CASES = [
    (copy_kernel("<n>, <c>, <h>, <w>"), ["C*H*N*W"]),
    (copy_kernel("<c>, 0, 0", shape="C, 1, 1"), ["N", "C", "H*W"]),
    (copy_kernel("<n>, 0, <h>, <w>", shape="N, 1, H, W"), ["N", "C", "H*W"]),
    (copy_kernel("<w>", shape="W"), ["C*H*N", "W"]),
    (copy_kernel("<n>, <h>, <w>, <c>", shape="N, H, W, C"), ["N", "C", "H*W"]),
    (copy_kernel("<n>, <c>, <h - 1>, <w>", "[<h - 1>, 0, <H>]", extents="N, C, H + 2, W"), ["C*N", "W*2 + H*W"]),
    (copy_kernel("<n>, <c>, <h>, <w - 1>", "[<w - 1>, 0, <W>]", extents="N, C, H, W + 2"), ["C*H*N", "W + 2"]),
    (copy_kernel("<n>, <c>, <h>, <w // 2>", extents="N, C, H, 2*W"), ["C*H*N", "W*2"]),
    (copy_kernel("<n>, <c>, <2*h>, <w>", shape="N, C, 2*H, W"), ["C*H*N", "W"]),
    (copy_kernel("<n>, 0, <h>, 0", shape="N, 1, H, 1", extents="N, 1, H, 1"), ["H*N"]),
]


@pytest.mark.parametrize(("func", "expected"), CASES, ids=range(len(CASES)))
def test_axes(func: Func, expected: list[str]) -> None:
    assert sorted(axes_after(func)) == sorted(expected)


@pytest.mark.parametrize("func", [c[0] for c in CASES], ids=range(len(CASES)))
def test_meaning_stays(func: Func) -> None:
    dims = {"N": 2, "C": 3, "H": 4, "W": 5}
    shapes = [[evaluate(d, dims) for d in a.type.shape] for a in func.args]  # type: ignore[attr-defined]
    x = np.arange(np.prod(shapes[0]), dtype=np.float32).reshape(shapes[0])
    before, after = np.zeros(shapes[1], np.float32), np.zeros(np.prod(shapes[1]), np.float32)
    run_kernel(func, [x, before], dims)
    run_kernel(collapse_axes(func), [x.reshape(-1), after], dims)
    np.testing.assert_array_equal(before.reshape(-1), after)


DIVIDED = [         # index of x, its shape, the extents, the extents of the axes after
    ("<h % 4>, <n>, <h // 4>, <c>", "4, N, 3, C", "N, C, 12, 1", ["N", "C", "3", "4"]),
    ("<n>, <h // 6>, <h % 2 + c>, <(h // 2) % 3>", "N, 4, C + 2, 3", "N, C, 24, 1", ["N", "C", "4", "3", "2"]),
    ("<n>, <h // 6>, <(h // 2) % 3>, <h % 2 + c>", "N, 4, 3, C + 2", "N, C, 24, 1", ["N", "C", "12", "2"]),
    ("<n>, 0, <c*5 + w // 4>, <w % 4>", "N, 1, 15, 4", "N, 3, 1, 20", None),
    ("<n>, <c>, <h // 3>, <w>", "N, C, 3, W", "N, C, 8, W", None),
    ("<n>, <c>, <h // 2>, <w>", "N, C, (H + 1) // 2, W", "N, C, H, W", None),
]


@pytest.mark.parametrize(("index", "shape", "extents", "expected"), DIVIDED, ids=range(len(DIVIDED)))
def test_axes_that_accesses_divide_are_split(index: str, shape: str, extents: str, expected: list[str] | None) -> None:
    func = copy_kernel(index, shape=shape, extents=extents)
    found = split_axes(func)
    if expected is None:        # nothing divides, or what may not divide the extent
        assert found is func
        return
    (loop,) = [op for op in found.body.ops if op.name == "k.parallel"]
    assert sorted(str(e) for _, e in loop_axes(loop)) == sorted(expected)
    dims = {"N": 2, "C": 3, "H": 4, "W": 5}
    shapes = [[evaluate(d, dims) for d in a.type.shape] for a in func.args]  # type: ignore[attr-defined]
    x = np.arange(np.prod(shapes[0]), dtype=np.float32).reshape(shapes[0])
    before, after = np.zeros(shapes[1], np.float32), np.zeros(np.prod(shapes[1]), np.float32)
    run_kernel(func, [x, before], dims)
    run_kernel(found, [x.reshape(-1), after], dims)
    np.testing.assert_array_equal(before.reshape(-1), after)


def test_nothing_merges_is_the_same_function() -> None:
    func = parse_func("""func @f(%x: mem<f32[N]>, %o: mem<f32[N]>) kind "kernel" {
      k.parallel() {axes = [<n>], extents = [<N>]} () {
        %v = k.load(%x) {index = [<n>], where = [], other = 0} : f32
        k.store(%o, %v) {index = [<n>], where = [], combine = none} } }""")
    assert collapse_axes(func) is func


def test_reduce_axes_merge() -> None:
    func = parse_func("""func @f(%x: mem<f32[N, H, W]>, %o: mem<f32[N]>) kind "kernel" {
      k.parallel() {axes = [<n>], extents = [<N>]} () {
        %s = k.reduce() {axes = [<h>, <w>], extents = [<H>, <W>], kinds = ["add"]} : f32 () {
          %v = k.load(%x) {index = [<n>, <h>, <w>], where = [], other = 0} : f32
          yield(%v)
        }
        k.store(%o, %s) {index = [<n>], where = [], combine = none} } }""")
    assert [str(a.extent) for a in Accesses(collapse_axes(func)).axes.values()] == ["N", "H*W"]


def test_quotient_and_remainder_recombine() -> None:
    assert str(recombine(parse_dim("(i // W)*W + i % W + j"))) == "i + j"
    assert str(recombine(parse_dim("(i // W)*W*C + (i % W)*C + 3"))) in ("C*i + 3", "i*C + 3")
    assert recombine(parse_dim("(i // W)*H + i % W")) == parse_dim("(i // W)*H + i % W")
