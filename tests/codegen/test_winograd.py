"""Winograd's contractions: exact matrices, kernels against float64 and direct sums, and when they are chosen."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from onnxc.codegen.llvm.contract import prepare_contraction
from onnxc.codegen.llvm.contract_form import contraction_of, normal_form
from onnxc.codegen.llvm.prepack import pack
from onnxc.codegen.llvm.schedule_contract import schedule_contraction
from onnxc.codegen.llvm.schedule_winograd import winograd_pairs
from onnxc.codegen.llvm.target import Target
from onnxc.codegen.schedule import Schedule
from onnxc.codegen.winograd import TAPS, TILES, transforms
from onnxc.ir.core import Func, Module, Op, Ref
from onnxc.ir.parser import parse_func, parse_module
from onnxc.ir.printer import print_func, print_module
from onnxc.ir.verify import verify
from tests.codegen.native import guarded
from tests.codegen.test_contract import floats, native, run, target_here


@dataclasses.dataclass(frozen=True)
class Conv:
    """Images [batch, height, width, channels] by weights [window..., channels, columns], padded by `low` in front and
    `high` behind; `computed` makes the left operand more than a load."""

    channels: int
    columns: int
    window: tuple[int, int] = (3, 3)
    low: tuple[int, int] = (1, 1)
    high: tuple[int, int] = (1, 1)
    computed: bool = False

    def kernel(self, size: tuple[int, int] | None = None) -> Func:
        """With extents H and W of the result, or with those given."""
        (h, w), (c, n), low = self.window, (self.channels, self.columns), self.low
        high = tuple(-a - b + e - 1 for a, b, e in zip(low, self.high, self.window, strict=True))
        given = f"%0 = k.load(%x) {{index = [<b>, <i + p - {low[0]}>, <j + q - {low[1]}>, <l>], " \
                f"where = [[<i + p - {low[0]}>, 0, <H + {high[0]}>], [<j + q - {low[1]}>, 0, <W + {high[1]}>]]}} : f32"
        left = f"{given} %l = s.abs(%0) : f32 yield(%l)" if self.computed else f"{given} yield(%0)"
        text = f"""func @k(%x: mem<f32[B, H + {high[0]}, W + {high[1]}, {c}]>, %w: mem<f32[{h}, {w}, {c}, {n}]>,
            %o: mem<f32[B, H, W, {n}]>) kind "kernel" {{
          k.contract() {{batch = [], m = [[<b>, <B>], [<i>, <H>], [<j>, <W>]], n = [[<f>, {n}]],
                         k = [[<p>, {h}], [<q>, {w}], [<l>, {c}]], accumulate = !f32}} () {{ {left} }} () {{
            %1 = k.load(%w) {{index = [<p>, <q>, <l>, <f>]}} : f32
            yield(%1)
          }} (%sum: f32) {{
            %2 = s.const() {{value = 0.5, dtype = !f32}} : f32
            %3 = s.add(%sum, %2) : f32
            k.store(%o, %3) {{index = [<b>, <i>, <j>, <f>]}}
          }} }}"""
        for name, value in zip("HW", size or (), strict=False):
            text = text.replace(f"<{name}>", str(value)).replace(f"{name} + ", f"{value} + ").replace(
                f" {name},", f" {value},")
        return parse_func(text)

    def images(self, batch: int, height: int, width: int) -> np.ndarray:
        given = zip((height, width), self.low, self.high, self.window, strict=True)
        space = [n - a - b + e - 1 for n, a, b, e in given]
        return floats(batch, *space, self.channels)

    def weights(self) -> np.ndarray:
        return floats(*self.window, self.channels, self.columns, seed=1)

    def direct(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        """The result by direct sums in the type of the operands."""
        x = np.abs(x) if self.computed else x
        x = np.pad(x, ((0, 0), *zip(self.low, self.high, strict=True), (0, 0)))
        height, width = (n - e + 1 for n, e in zip(x.shape[1:3], self.window, strict=True))
        out = np.zeros((x.shape[0], height, width, self.columns), x.dtype)
        for p, q, c in itertools.product(*map(range, w.shape[:3])):
            out += x[:, p : p + height, q : q + width, c, None] * w[p, q, c]
        return out + x.dtype.type(0.5)


def packed(kernel: Func, weights: np.ndarray, target: Target, size: int, chunk: int = 0) -> tuple[Func, np.ndarray]:
    """The kernel (images, result, panels) with Winograd's schedule, and its panels."""
    func = normal_form(kernel)
    how = dataclasses.replace(schedule_contraction(func, target), winograd=size)
    how = dataclasses.replace(how, chunk=chunk * how.rows or how.chunk)
    func.attrs = {**func.attrs, "schedule": str(how)}
    module = program(func, weights)
    pack(module, target)
    verify(module)
    text = print_module(module, inline=True)
    assert print_module(parse_module(text), inline=True) == text
    (panels,) = module.constants.values()
    return module.funcs["k"], panels


def program(kernel: Func, weights: np.ndarray) -> Module:
    module = Module()
    module.constants["w"] = weights
    x, w, out = (a.type for a in kernel.args)
    main = module.add(Func("main", [x, out], ["x", "y"], kind="program"))
    main.attrs.update(symbols=("B", "H", "W"), inputs=1, guards=(), arena=None)
    module.add(kernel)
    constant = main.body.append(Op("p.const", (), [w], {"ref": Ref("w")})).result
    main.body.append(Op("p.launch", [main.args[0], constant, main.args[1]], (), {"kernel": Ref("k"), "writes": (2,)}))
    main.body.append(Op("return"))
    return module


def check(conv: Conv, target: str, size: int, sizes: Sequence[tuple[int, int, int]], known: bool = False,
          chunk: int = 0) -> None:
    w = conv.weights()
    for batch, height, width in sizes:
        kernel = conv.kernel((height, width) if known else None)
        func, panels = packed(kernel, w, target_here(target), size, chunk)
        x = conv.images(batch, height, width)
        out = np.full((batch, height, width, conv.columns), np.nan, np.float32)
        dims = {"B": batch, "H": height, "W": width}
        arrays = [x.reshape(-1), out.reshape(-1), panels]
        # Few sums exceed 4 times their standard deviation; F(4) has some 4 times the error of the longest direct sum.
        atol = 16 * np.finfo(np.float32).eps * np.prod(w.shape[:3]) ** 0.5 * 4
        run(func, target, arrays, dims, atol=float(atol))
        assert native(print_func(func), target).run(arrays, dims) is None
        np.testing.assert_allclose(out, conv.direct(x.astype(np.float64), w.astype(np.float64)), atol=float(atol))


@pytest.mark.parametrize("size", TILES)
def test_transforms_are_exact(size: int) -> None:
    t = transforms(size)
    x, w = floats(size + TAPS - 1, dtype=np.float64), floats(TAPS, dtype=np.float64, seed=1)
    found = t.outputs @ ((t.weights @ w) * (t.inputs @ x))
    np.testing.assert_allclose(found, np.convolve(x, w[::-1], "valid"), rtol=0, atol=1e-13)


@pytest.mark.parametrize(("target", "size"), [("host", 2), ("host", 4), ("x86-64-v3", 4), ("x86-64-v2", 2)])
def test_windows_of_every_size_of_image(size: int, target: str) -> None:
    check(Conv(19, 70), target, size, [(1, 1, 1), (2, 5, 3), (1, 4, 8), (2, 13, 11)], chunk=1)


@pytest.mark.parametrize("size", TILES)
@pytest.mark.parametrize(
    "conv",
    [
        Conv(16, 16, low=(0, 0), high=(0, 0)),
        Conv(33, 40, low=(2, 0), high=(1, 3)),
        Conv(32, 64, window=(1, 3), low=(0, 1), high=(0, 1)),
        Conv(24, 48, computed=True),
    ],
    ids=str,
)
def test_pads_windows_and_computed_operands(conv: Conv, size: int) -> None:
    check(conv, "host", size, [(2, 7, 9)], known=True)


def test_nothing_is_touched_beyond_the_operands() -> None:
    for conv in (Conv(16, 32), Conv(20, 18, low=(0, 0), high=(0, 0))):
        func, panels = packed(conv.kernel(), conv.weights(), Target.host(), 4)
        x, dims = conv.images(1, 5, 6), {"B": 1, "H": 5, "W": 6}
        for at_end in (True, False):
            with contextlib.ExitStack() as stack:
                arrays = [x.reshape(-1), np.zeros(5 * 6 * conv.columns, np.float32), panels]
                inside = [stack.enter_context(guarded(a, at_end)) for a in arrays]
                assert native(print_func(func), "host").run(inside, dims) is None


@pytest.mark.parametrize("size", TILES)
def test_error_is_near_that_of_direct_sums(size: int) -> None:
    """In root mean square, on activations behind a ReLU: below direct f32 sums for F(2), below thrice it for F(4)."""
    conv = Conv(128, 64)
    w, x = conv.weights(), np.maximum(conv.images(1, 12, 12), 0)
    func, panels = packed(conv.kernel(), w, Target.host(), size)
    out = np.zeros((1, 12, 12, 64), np.float32)
    assert native(print_func(func), "host").run(
        [x.reshape(-1), out.reshape(-1), panels], {"B": 1, "H": 12, "W": 12}) is None
    exact = conv.direct(x.astype(np.float64), w.astype(np.float64))
    error, direct = (np.sqrt(np.mean((y - exact) ** 2)) for y in (out, conv.direct(x, w)))
    assert error < direct * {2: 1, 4: 3}[size]


def chosen(conv: Conv, size: tuple[int, int], constant: bool = True) -> int:
    func = prepare_contraction(conv.kernel(size), Target.parse("x86-64-v4"), frozenset({1} if constant else ()))
    return Schedule.parse(str(func.attrs["schedule"])).winograd


def test_it_is_chosen_where_it_pays() -> None:
    assert chosen(Conv(64, 64), (56, 56)) == 4
    assert chosen(Conv(512, 512), (7, 7)) == 2                      # F(4) would have more weights to read than sums
    assert chosen(Conv(512, 512), (7, 7), constant=False) == 0      # weights cannot be transformed when compiling
    assert chosen(Conv(8, 64), (56, 56)) == 0                       # few channels
    assert chosen(Conv(64, 64), (1, 1)) == 0                        # more products than direct sums have
    assert chosen(Conv(64, 64, window=(5, 5), low=(2, 2), high=(2, 2)), (56, 56)) == 0


@pytest.mark.parametrize("index", ["2*i + p", "i + 2*p"])
def test_strides_and_dilation_are_left_alone(index: str) -> None:
    text = print_func(Conv(16, 16, low=(0, 0), high=(0, 0)).kernel((8, 8)))
    assert winograd_pairs(contraction_of(parse_func(text)))
    assert not winograd_pairs(contraction_of(parse_func(text.replace("<i + p>", f"<{index}>"))))
