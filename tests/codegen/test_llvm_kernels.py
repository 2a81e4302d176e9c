"""Native kernels against the numpy interpreter: reductions, windows, scans, gathers, scatters, views, packed types."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pytest

from onnxc.codegen.interp import run_kernel
from onnxc.codegen.llvm.abi import KernelError
from onnxc.codegen.llvm.target import Target
from onnxc.ir.core import Func
from onnxc.ir.dims import evaluate
from onnxc.ir.parser import parse_func
from onnxc.ir.printer import print_func
from onnxc.ir.types import DType, Mem, dtype_named
from tests.codegen.native import NativeKernel, guarded
from tests.codegen.test_llvm_scalars import codes_of, packed, unpacked

TARGETS = ["x86-64-v3", "host"]
RTOL = {"f32": 1e-5, "f64": 1e-13, "f16": 1e-3, "bf16": 1e-2}       # sums of up to some hundred terms of size 1


def shape_of(mem: Mem, dims: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(evaluate(d, dims) for d in mem.shape)


def random_array(dtype: DType, shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    if dtype.is_float:
        return rng.normal(0, 1, shape).astype(dtype.numpy)
    if dtype.kind == "bool":
        return rng.integers(0, 2, shape).astype(np.bool_)
    low, high = (-8, 8) if dtype.kind == "int" else (0, 16)
    if dtype.bits < 4:
        low, high = low // 4, high // 4
    return rng.integers(low, high, shape).astype(np.int64 if dtype.bits > 8 else np.int8).astype(dtype.numpy)


def compare(got: np.ndarray, expected: np.ndarray, dtype: DType) -> None:
    if not dtype.is_float:
        np.testing.assert_array_equal(got, expected)
        return
    a, b = got.astype(np.float64), expected.astype(np.float64)
    np.testing.assert_allclose(a, b, RTOL[dtype.name], 30 * RTOL[dtype.name])


@functools.lru_cache(maxsize=8)
def native(text: str, target: str) -> NativeKernel:
    """The compiled kernel of a text; tests run one kernel on several inputs."""
    return NativeKernel(parse_func(text), Target.parse(target))


def check(func: Func, sizes: Sequence[Mapping[str, int]], target: str, fixed: Mapping[str, np.ndarray] | None = None,
          seed: int = 0, writes: int = 1, split: bool = True) -> None:
    """Runs `func` natively and interpreted on the same arrays, flush against guard pages; its last `writes` arguments
    are compared."""
    kernel = native(print_func(func), target)
    for n, dims in enumerate(sizes):
        rng = np.random.default_rng([seed, n])
        types = [a.type for a in func.args]
        arrays = [fixed[a.name] if fixed and a.name in fixed else random_array(t.dtype, shape_of(t, dims), rng)
                  for a, t in zip(func.args, types, strict=True)]
        expected = [a.copy() for a in arrays]
        messages = run_kernel(func, expected, dims)
        for at_end in (False, True):
            with contextlib.ExitStack() as stack:
                inside = [stack.enter_context(guarded(packed(a, t.dtype), at_end))
                          for a, t in zip(arrays, types, strict=True)]
                cuts = (lambda total: [total // 3, total // 3, total // 2]) if split else None
                error = kernel.run(inside, dims, cuts, threads=2)
                assert error == (messages[0] if messages else None)
                got = [a.copy() for a in inside[-writes:]]
                inside.clear()
            for a, e, t in zip(got, expected[-writes:], types[-writes:], strict=True):
                if t.dtype.bits < 8:
                    np.testing.assert_array_equal(unpacked(a, t.dtype, e.size), codes_of(e, t.dtype).reshape(-1))
                else:
                    compare(a, e, t.dtype)


def grid(**sizes: Sequence[int]) -> list[dict[str, int]]:
    return [dict(zip(sizes, values, strict=True)) for values in itertools.product(*sizes.values())]


# ---- elementwise, views and casts around arithmetic ------------------------------------------------------------------

@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32", "f64"])
def test_broadcast_add(dtype: str, target: str) -> None:
    """[N, C, H, W] + [C, 1, 1] + [W] + scalar, computed in f32 for the types that need it."""
    compute = dtype_named(dtype).compute

    def up(name: str, to: str) -> str:
        return f"%{to} = s.cast(%{name}) {{to = !{compute}, saturate = true}} : {compute}\n" if compute != dtype else \
            f"%{to} = s.mul(%{name}, %one) : {compute}\n"

    down = f"%r = s.cast(%t) {{to = !{dtype}, saturate = true}} : {dtype}" if compute != dtype else \
        f"%r = s.mul(%t, %one) : {dtype}"
    func = parse_func(f"""func @f(%a: mem<{dtype}[N, C, H, W]>, %b: mem<{dtype}[C, 1, 1]>, %c: mem<{dtype}[W]>,
                                  %d: mem<{dtype}[]>, %o: mem<{dtype}[N, C, H, W]>) kind "kernel" {{
      k.parallel() {{axes = [<n>, <c>, <h>, <w>], extents = [<N>, <C>, <H>, <W>]}} () {{
        %one = s.const() {{value = 1.0, dtype = !{compute}}} : {compute}
        %a0 = k.load(%a) {{index = [<n>, <c>, <h>, <w>], where = [], other = 0}} : {dtype}
        %b0 = k.load(%b) {{index = [<c>, 0, 0], where = [], other = 0}} : {dtype}
        %c0 = k.load(%c) {{index = [<w>], where = [], other = 0}} : {dtype}
        %d0 = k.load(%d) {{index = [], where = [], other = 0}} : {dtype}
        {up("a0", "a1")} {up("b0", "b1")} {up("c0", "c1")} {up("d0", "d1")}
        %x = s.add(%a1, %b1) : {compute}
        %y = s.add(%x, %c1) : {compute}
        %t = s.add(%y, %d1) : {compute}
        {down}
        k.store(%o, %r) {{index = [<n>, <c>, <h>, <w>], where = [], combine = none}} }} }}""")
    check(func, grid(N=[0, 2], C=[1, 3], H=[1, 5], W=[1, 7, 70]), target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["u8", "i16", "f32", "i64", "bool", "i4", "u2"])
def test_slice_reverse_pad(dtype: str, target: str) -> None:
    """Steps of 2 and -1, with constant pad on both sides of either axis."""
    other = "true" if dtype == "bool" else "1"
    func = parse_func(f"""func @f(%a: mem<{dtype}[2*H + 1, W]>, %o: mem<{dtype}[H + 3, W + 5]>) kind "kernel" {{
      k.parallel() {{axes = [<h>, <w>], extents = [<H + 3>, <W + 5>]}} () {{
        %v = k.load(%a) {{index = [<2*h - 2>, <W + 1 - w>],
                          where = [[<h - 1>, 0, <H>], [<W + 1 - w>, 0, <W>]], other = {other}}} : {dtype}
        k.store(%o, %v) {{index = [<h>, <w>], where = [], combine = none}} }} }}""")
    check(func, grid(H=[0, 1, 4], W=[0, 1, 33, 100]), target)


@pytest.mark.parametrize("target", TARGETS)
def test_divided_indices(target: str) -> None:
    """Depth to space, and a view through a flat index that comes back together."""
    blocks = parse_func("""func @f(%a: mem<f32[N, 4, 3, H, W]>, %o: mem<f32[N, 3, 2*H, 2*W]>) kind "kernel" {
      k.parallel() {axes = [<n>, <c>, <y>, <x>], extents = [<N>, 3, <2*H>, <2*W>]} () {
        %v = k.load(%a) {index = [<n>, <(y % 2)*2 + x % 2>, <c>, <y // 2>, <x // 2>], where = [], other = 0} : f32
        k.store(%o, %v) {index = [<n>, <c>, <y>, <x>], where = [], combine = none} } }""")
    check(blocks, grid(N=[0, 2], H=[1, 3], W=[1, 9]), target)
    view = parse_func("""func @f(%a: mem<f32[H, W]>, %o: mem<f32[H*W]>) kind "kernel" {
      k.parallel() {axes = [<i>], extents = [<H*W>]} () {
        %v = k.load(%a) {index = [<i // W>, <i % W>], where = [], other = 0} : f32
        k.store(%o, %v) {index = [<i>], where = [], combine = none} } }""")
    check(view, grid(H=[0, 1, 7], W=[1, 70]), target)


@pytest.mark.parametrize("target", TARGETS)
def test_rank_zero_and_index_values(target: str) -> None:
    func = parse_func("""func @f(%a: mem<i64[]>, %o: mem<i64[]>) kind "kernel" {
      k.parallel() {axes = [], extents = []} () {
        %v = k.load(%a) {index = [], where = [], other = 0} : i64
        %n = k.index(%v) {expr = <$0*2 + N>} : i64
        k.store(%o, %n) {index = [], where = [], combine = none} } }""")
    check(func, grid(N=[0, 3]), target)
    ramp = parse_func("""func @f(%o: mem<f32[H, W]>) kind "kernel" {
      k.parallel() {axes = [<h>, <w>], extents = [<H>, <W>]} () {
        %n = k.index() {expr = <h*3 + w*w - min(w, 5)>} : i64
        %x = s.cast(%n) {to = !f32, saturate = true} : f32
        k.store(%o, %x) {index = [<h>, <w>], where = [[<h + w>, 1, <W>]], combine = none} } }""")
    check(ramp, grid(H=[0, 4], W=[1, 40]), target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["u8", "f16", "f32", "f64", "bool"])
def test_permutation(dtype: str, target: str) -> None:
    """Tiles transposed in registers, their ends, and an elementwise op on what was transposed."""
    test = "s.const() {value = false, dtype = !bool}" if dtype == "f16" else "s.eq(%v, %w)"
    func = parse_func(f"""func @f(%x: mem<{dtype}[A, B, C]>, %y: mem<{dtype}[B]>, %o: mem<{dtype}[C, A, B]>)
      kind "kernel" {{
      k.parallel() {{axes = [<c>, <a>, <b>], extents = [<C>, <A>, <B>]}} () {{
        %v = k.load(%x) {{index = [<a>, <b>, <c>], where = [], other = 0}} : {dtype}
        %w = k.load(%y) {{index = [<b>], where = [], other = 0}} : {dtype}
        %e = {test} : bool
        %r = s.select(%e, %w, %v) : {dtype}
        k.store(%o, %r) {{index = [<c>, <a>, <b>], where = [], combine = none}} }} }}""")
    check(func, grid(A=[0, 2], B=[1, 8, 37], C=[1, 16, 35]), target)


# ---- reductions ------------------------------------------------------------------------------------------------------

KINDS = {"f32": ["add", "mul", "max", "min"], "f64": ["add", "max"], "i32": ["add", "mul", "max", "min", "and", "or"],
         "i8": ["add", "max", "min"], "u8": ["max", "min", "or"], "i64": ["add", "min"], "bool": ["and", "or"],
         "u64": ["max"]}
AXES = ["a", "b", "c", "bc", "ac", "abc"]


def names(axes: Iterable[str]) -> str:
    return ", ".join(f"<{a}>" for a in axes)


def reduce_kernel(dtype: str, kinds: Sequence[str], axes: str) -> Func:
    """Reduce [A, B, C] over some axes; an arg kind gives its position only."""
    outer = [a for a in "abc" if a not in axes]
    shape, place = ", ".join(a.upper() for a in outer), names(outer)
    args = [k.startswith("arg") for k in kinds]
    types = ", ".join(f"{dtype}, i64" if arg else dtype for arg in args)
    results = ", ".join(f"%r{i}, %p{i}" if arg else f"%r{i}" for i, arg in enumerate(args))
    yields = ", ".join("%v, %at" if arg else "%v" for arg in args)
    stores = "".join(f"k.store(%o{i}, %{'p' if arg else 'r'}{i}) {{index = [{place}], where = [], combine = none}}\n"
                     for i, arg in enumerate(args))
    outputs = "".join(f", %o{i}: mem<{'i64' if arg else dtype}[{shape}]>" for i, arg in enumerate(args))
    position = " + ".join("*".join([a] + [b.upper() for b in axes[i + 1:]]) for i, a in enumerate(axes))
    return parse_func(f"""func @f(%x: mem<{dtype}[A, B, C]>{outputs}) kind "kernel" {{
      k.parallel() {{axes = [{place}], extents = [{place.upper()}]}} () {{
        {results} = k.reduce() {{axes = [{names(axes)}], extents = [{names(axes).upper()}],
                                 kinds = [{', '.join(f'"{k}"' for k in kinds)}]}} : {types} () {{
          %v = k.load(%x) {{index = [<a>, <b>, <c>], where = [], other = 0}} : {dtype}
          %at = k.index() {{expr = <{position}>}} : i64
          yield({yields})
        }}
        {stores} }} }}""")


REDUCED = [*((dtype, "host") for dtype in KINDS), ("f32", "x86-64-v3"), ("i8", "x86-64-v3")]


@pytest.mark.parametrize(("dtype", "target"), REDUCED)
@pytest.mark.parametrize("axes", AXES)
def test_reduce(dtype: str, axes: str, target: str) -> None:
    kinds = KINDS[dtype]
    check(reduce_kernel(dtype, kinds, axes), grid(A=[1, 3], B=[0, 5], C=[1, 2, 70]), target, writes=len(kinds))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("dtype", "axes"), [("f32", "a"), ("f32", "c"), ("u8", "c"), ("i32", "bc"), ("f64", "abc")])
@pytest.mark.parametrize("kinds", [("argmax", "argmin_last"), ("argmin", "argmax_last")], ids="-".join)
def test_positions(dtype: str, axes: str, kinds: Sequence[str], target: str) -> None:
    """First and last among many equal elements, NaNs, and rows of nothing but the worst value."""
    func = reduce_kernel(dtype, kinds, axes)
    rng = np.random.default_rng(1)
    for shape in ((1, 1, 1), (3, 2, 70), (2, 3, 5), (17, 1, 4)):
        dims = dict(zip("ABC", shape, strict=True))
        x = rng.integers(0, 3, shape).astype(dtype_named(dtype).numpy)
        check(func, [dims], target, {"x": x}, writes=2)
        if dtype.startswith("f"):
            x = np.where(rng.random(shape) < 0.1, np.nan, x).astype(x.dtype)
            x[0] = -np.inf
            check(func, [dims], target, {"x": x}, writes=2)
            x[0] = np.inf
            check(func, [dims], target, {"x": x}, writes=2)


@pytest.mark.parametrize("target", TARGETS)
def test_extremes_of_nan(target: str) -> None:
    func = reduce_kernel("f32", ["max", "min"], "c")
    x = np.full((2, 2, 40), 1, np.float32)
    x[0, 1, 17] = np.nan
    x[1, 0] = np.nan
    x[1, 1] = -np.inf
    check(func, [{"A": 2, "B": 2, "C": 40}], target, {"x": x}, writes=2)


def test_extents_do_not_vary() -> None:
    func = parse_func("""func @tri(%x: mem<f32[N, N]>, %o: mem<f32[N]>) kind "kernel" {
      k.parallel() {axes = [<i>], extents = [<N>]} () {
        %s = k.reduce() {axes = [<j>], extents = [<i + 1>], kinds = ["add"]} : f32 () {
          %v = k.load(%x) {index = [<i>, <j>], where = [], other = 0} : f32
          yield(%v)
        }
        k.store(%o, %s) {index = [<i>], where = [], combine = none} } }""")
    with pytest.raises(KernelError, match="@tri: the extent i \\+ 1 of axis j"):
        NativeKernel(func, Target.host())


# ---- windows ---------------------------------------------------------------------------------------------------------

def pool_kernel(layout: str, kind: str, stride: int, dilation: int) -> Func:
    """A 3x2 window with pads 1 and 0; the output extents are what the formula of ONNX gives."""
    shape = {"nchw": "N, C, H, W", "nhwc": "N, H, W, C"}[layout]
    y, x = f"y*{stride} + r*{dilation} - 1", f"x*{stride} + s*{dilation}"
    at = {"nchw": f"<n>, <c>, <{y}>, <{x}>", "nhwc": f"<n>, <{y}>, <{x}>, <c>"}[layout]
    axes = {"nchw": "<n>, <c>, <y>, <x>", "nhwc": "<n>, <y>, <x>, <c>"}[layout]
    p, q = f"(H + 2 - {2 * dilation + 1}) // {stride} + 1", f"(W - {dilation + 1}) // {stride} + 1"
    out = {"nchw": f"N, C, {p}, {q}", "nhwc": f"N, {p}, {q}, C"}[layout]
    extents, other = ", ".join(f"<{e.strip()}>" for e in out.split(",")), "-inf" if kind == "max" else "0.0"
    return parse_func(f"""func @f(%x: mem<f32[{shape}]>, %o: mem<f32[{out}]>) kind "kernel" {{
      k.parallel() {{axes = [{axes}], extents = [{extents}]}} () {{
        %m = k.reduce() {{axes = [<r>, <s>], extents = [3, 2], kinds = ["{kind}"]}} : f32 () {{
          %v = k.load(%x) {{index = [{at}], where = [[<{y}>, 0, <H>], [<{x}>, 0, <W>]], other = {other}}} : f32
          yield(%v)
        }}
        k.store(%o, %m) {{index = [{axes}], where = [], combine = none}} }} }}""")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (3, 2)])
@pytest.mark.parametrize("kind", ["max", "add"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_pool(layout: str, kind: str, stride: int, dilation: int, target: str) -> None:
    check(pool_kernel(layout, kind, stride, dilation), grid(N=[0, 2], C=[1, 5], H=[5, 9], W=[4, 75]), target)


@pytest.mark.parametrize("target", TARGETS)
def test_static_extents(target: str) -> None:
    """Extents known when the kernel is emitted: whole vectors, less than one, and odd ones."""
    for h, w in itertools.product((1, 3), (1, 5, 16, 64, 67)):
        func = parse_func(f"""
          func @f(%x: mem<f32[{h}, {w}]>, %o: mem<f32[{h + 1}, {w + 2}]>, %s: mem<f32[{h}]>) kind "kernel" {{
          k.parallel() {{axes = [<i>], extents = [{h}]}} () {{
            %t = k.reduce() {{axes = [<j>], extents = [{w}], kinds = ["add"]}} : f32 () {{
              %v = k.load(%x) {{index = [<i>, <j>], where = [], other = 0}} : f32
              yield(%v)
            }}
            k.store(%s, %t) {{index = [<i>], where = [], combine = none}}
            k.sweep() {{axes = [<z>, <q>], extents = [1, {w + 2}]}} () {{
              %u = k.load(%x) {{index = [<i>, <q - 1>], where = [[<q - 1>, 0, {w}]], other = 9.0}} : f32
              %e = s.mul(%u, %t) : f32
              k.store(%o, %e) {{index = [<i + z>, <q>], where = [], combine = none}}
            }} }} }}""")
        check(func, [{}], target, {"o": np.zeros((h + 1, w + 2), np.float32)}, writes=2)


# ---- scans -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize(("dtype", "kind"), [("f32", "add"), ("i64", "add"), ("f32", "mul"), ("i32", "max")])
def test_scan(dtype: str, kind: str, exclusive: bool, target: str) -> None:
    """Backwards along the middle axis, and along the last one."""
    for order, back in (("<a>, <L - 1 - l>, <b>", "A, L, B"), ("<a>, <b>, <l>", "A, B, L")):
        func = parse_func(f"""func @f(%x: mem<{dtype}[{back}]>, %o: mem<{dtype}[{back}]>) kind "kernel" {{
          k.parallel() {{axes = [<a>, <b>], extents = [<A>, <B>]}} () {{
            k.scan() {{axis = <l>, extent = <L>, kind = "{kind}", exclusive = {str(exclusive).lower()}}} () {{
              %v = k.load(%x) {{index = [{order}], where = [], other = 0}} : {dtype}
              yield(%v)
            }} (%acc: {dtype}) {{
              k.store(%o, %acc) {{index = [{order}], where = [], combine = none}}
            }} }} }}""")
        check(func, grid(A=[1, 3], L=[0, 1, 9], B=[1, 40]), target)


@pytest.mark.parametrize("target", TARGETS)
def test_fold_inside_a_scan_whose_condition_is_the_same_in_all_lanes(target: str) -> None:
    """The windows' maximum does not depend on the lanes, though lanes past the end are masked where it is computed."""
    func = parse_func("""func @f(%x: mem<f32[2, 2]>, %o: mem<f32[2, N, 2]>) kind "kernel" {
      k.parallel() {axes = [<i>, <j>], extents = [2, <N>]} () {
        k.scan() {axis = <l>, extent = 2, kind = "add", exclusive = false} () {
          %m = k.reduce() {axes = [<r>], extents = [2], kinds = ["max"]} : f32 () {
            %v = k.load(%x) {index = [<i + r>, <l>], where = [[<i + r>, 0, 2]], other = 0.0} : f32
            yield(%v)
          }
          yield(%m)
        } (%acc: f32) {
          k.store(%o, %acc) {index = [<i>, <j>, <l>], where = [], combine = none}
        } } }""")
    check(func, grid(N=[1, 2, 37]), target)


# ---- data-dependent places -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["f32", "i8", "f64", "bool"])
def test_gather_elements(dtype: str, target: str) -> None:
    """An index for every element; one out of range is recorded and not read."""
    func = parse_func(f"""func @f(%t: mem<{dtype}[V, C]>, %i: mem<i32[N, C]>, %o: mem<{dtype}[N, C]>) kind "kernel" {{
      k.parallel() {{axes = [<n>, <c>], extents = [<N>, <C>]}} () {{
        %raw = k.load(%i) {{index = [<n>, <c>], where = [], other = 0}} : i32
        %at = s.cast(%raw) {{to = !i64, saturate = true}} : i64
        %zero = s.const() {{value = 0, dtype = !i64}} : i64
        %size = k.index() {{expr = <V>}} : i64
        %low = s.ge(%at, %zero) : bool
        %high = s.lt(%at, %size) : bool
        %ok = s.and(%low, %high) : bool
        k.require(%ok) {{message = "index out of range"}}
        %v = k.load(%t, %at) {{index = [<$0>, <c>], where = [[<$0>, 0, <V>]], other = 0}} : {dtype}
        k.store(%o, %v) {{index = [<n>, <c>], where = [], combine = none}} }} }}""")
    rng = np.random.default_rng(0)
    for n, c in ((1, 1), (3, 37), (2, 100)):
        good = rng.integers(0, 5, (n, c)).astype(np.int32)
        check(func, [{"V": 5, "N": n, "C": c}], target, {"i": good})
        for wrong in (-1, 5, 2**31 - 1):
            bad = good.copy()
            bad[-1, -1] = wrong
            check(func, [{"V": 5, "N": n, "C": c}], target, {"i": bad})


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("dtype", "combine"),
                         [("f32", "add"), ("f32", "max"), ("i64", "mul"), ("i8", "min"), ("f16", "none")])
def test_scatter(dtype: str, combine: str, target: str) -> None:
    """Many points fold into one element; without a combination every place has one writer."""
    kind = "none" if combine == "none" else f'"{combine}"'
    func = parse_func(f"""func @f(%i: mem<i64[N]>, %x: mem<{dtype}[N, C]>, %o: mem<{dtype}[V, C]>) kind "kernel" {{
      k.parallel() {{axes = [<n>, <c>], extents = [<N>, <C>]}} () {{
        %at = k.load(%i) {{index = [<n>], where = [], other = 0}} : i64
        %v = k.load(%x) {{index = [<n>, <c>], where = [], other = 0}} : {dtype}
        k.store(%o, %v, %at) {{index = [<$0>, <c>], where = [[<$0>, 0, <V>]], combine = {kind}}} }} }}""")
    rng = np.random.default_rng(0)
    for n, c in ((1, 1), (4, 37), (30, 3)):
        i = rng.permutation(40)[:n] if combine == "none" else rng.integers(0, 3, n)
        check(func, [{"V": 40, "N": n, "C": c}], target, {"i": i.astype(np.int64)}, split=combine == "none")


@pytest.mark.parametrize("target", TARGETS)
def test_scatter_along_lanes(target: str) -> None:
    """Lanes of one vector that meet in one element."""
    func = parse_func("""func @f(%i: mem<i64[N]>, %x: mem<f32[N]>, %o: mem<f32[V]>)
      kind "kernel" {schedule = "vector=n lanes=8 unroll=2"} {
      k.parallel() {axes = [<n>], extents = [<N>]} () {
        %at = k.load(%i) {index = [<n>], where = [], other = 0} : i64
        %v = k.load(%x) {index = [<n>], where = [], other = 0} : f32
        k.store(%o, %v, %at) {index = [<$0>], where = [], combine = "add"} } }""")
    for n in (1, 8, 37):
        check(func, [{"V": 3, "N": n}], target, {"i": np.random.default_rng(n).integers(0, 3, n)}, split=False)


# ---- loops in loops --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("schedule", ["", "vector=q lanes=8", "vector=i lanes=8 unroll=2", "vector=r lanes=4"])
def test_sweep_around_reduce(schedule: str, target: str) -> None:
    """o[i, q] = max over r of x[i, r] * y[r, q] + the row's sum, under every axis across lanes."""
    func = parse_func(f"""func @f(%x: mem<f32[N, K]>, %y: mem<f32[K, M]>, %o: mem<f32[N, M]>)
      kind "kernel" {{schedule = "{schedule}"}} {{
      k.parallel() {{axes = [<i>], extents = [<N>]}} () {{
        %s = k.reduce() {{axes = [<j>], extents = [<K>], kinds = ["add"]}} : f32 () {{
          %v = k.load(%x) {{index = [<i>, <j>], where = [], other = 0}} : f32
          yield(%v)
        }}
        k.sweep() {{axes = [<q>], extents = [<M>]}} () {{
          %m = k.reduce() {{axes = [<r>], extents = [<K>], kinds = ["max"]}} : f32 () {{
            %a = k.load(%x) {{index = [<i>, <r>], where = [], other = 0}} : f32
            %b = k.load(%y) {{index = [<r>, <q>], where = [], other = 0}} : f32
            %p = s.mul(%a, %b) : f32
            yield(%p)
          }}
          %t = s.add(%m, %s) : f32
          k.store(%o, %t) {{index = [<i>, <q>], where = [], combine = none}}
        }} }} }}""")
    check(func, grid(N=[0, 1, 20], K=[1, 9], M=[0, 1, 21]), target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["i4", "u4", "i2", "u2"])
def test_packed(dtype: str, target: str) -> None:
    """Sub-byte elements read along rows of odd length, and written back."""
    func = parse_func(f"""func @f(%x: mem<{dtype}[N, C]>, %s: mem<f32[N]>, %f: mem<f32[N, C]>, %o: mem<{dtype}[C, N]>)
      kind "kernel" {{
      k.parallel() {{axes = [<n>, <c>], extents = [<N>, <C>]}} () {{
        %v = k.load(%x) {{index = [<n>, <c>], where = [], other = 0}} : {dtype}
        %w = s.cast(%v) {{to = !f32, saturate = true}} : f32
        %k = k.load(%s) {{index = [<n>], where = [], other = 0}} : f32
        %q = s.mul(%w, %k) : f32
        k.store(%f, %q) {{index = [<n>, <c>], where = [], combine = none}}
        k.store(%o, %v) {{index = [<c>, <n>], where = [], combine = none}} }} }}""")
    check(func, grid(N=[0, 1, 3], C=[1, 5, 67]), target, writes=2, split=False)
