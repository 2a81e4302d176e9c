"""The passes `schedule` and `pack` on programs: panels hold what the kernel computed, the program stays true as text
and run."""

from __future__ import annotations

import numpy as np
import pytest

from onnxc.codegen.llvm.prepack import pack
from onnxc.codegen.llvm.schedule import schedule
from onnxc.codegen.llvm.target import Target
from onnxc.codegen.program_interp import run_program
from onnxc.codegen.schedule import Schedule
from onnxc.ir.core import Func, Module, Op, Ref
from onnxc.ir.parser import parse_func, parse_module
from onnxc.ir.printer import print_module
from onnxc.ir.verify import verify
from onnxc.ops import load_all

load_all()

MATMUL = """func @NAME(%a: mem<f32[M, 12]>, %w: mem<TYPE[SHAPE]>, %bias: mem<f32[21]>, %o: mem<f32[M, 21]>)
kind "kernel" {
  k.contract() {batch = [], m = [[<i>, <M>]], n = [[<j>, 21]], k = [[<l>, 12]], accumulate = !f32} () {
    %0 = k.load(%a) {index = [<i>, <l>]} : f32
    yield(%0)
  } () {
    RHS
  } (%sum: f32) {
    %b = k.load(%bias) {index = [<j>]} : f32
    %1 = s.add(%sum, %b) : f32
    k.store(%o, %1) {index = [<i>, <j>]}
  }
}"""
PLAIN = "%w0 = k.load(%w) {index = [<l>, <j>]} : f32 yield(%w0)"
TRANSPOSED = "%w0 = k.load(%w) {index = [<j>, <l>]} : f32 yield(%w0)"
WIDENED = """%w0 = k.load(%w) {index = [<j>, <l>]} : i8
    %w1 = s.cast(%w0) {to = !f32} : f32
    %w2 = s.abs(%w1) : f32
    yield(%w2)"""
SHIFTED = "%w0 = k.load(%w) {index = [<l - 1>, <j>], where = [[<l - 1>, 0, 11]], other = 2.0} : f32 yield(%w0)"


def matmul(name: str, rhs: str, dtype: str, *shape: int) -> Func:
    text = MATMUL.replace("NAME", name).replace("TYPE", dtype).replace("SHAPE", ", ".join(map(str, shape)))
    return parse_func(text.replace("RHS", rhs))


def program(kernels: list[Func], weights: list[str], constants: dict[str, np.ndarray]) -> Module:
    """A program of one launch a kernel, each with its own output and the named weights."""
    module = Module()
    module.constants.update(constants)
    x, out = kernels[0].args[0].type, kernels[0].args[-1].type
    main = module.add(
        Func("main", [x, *[out] * len(kernels)], ["x", *(f"y{i}" for i in range(len(kernels)))], kind="program")
    )
    main.attrs.update(symbols=("M",), inputs=1, guards=(), arena=None)
    for i, (kernel, name) in enumerate(zip(kernels, weights, strict=True)):
        module.add(kernel)
        refs = [
            main.body.append(Op("p.const", (), [a.type], {"ref": Ref(n)})).result
            for n, a in zip((name, "bias"), kernel.args[1:3], strict=True)
        ]
        main.body.append(
            Op("p.launch", [main.args[0], *refs, main.args[1 + i]], (), {"kernel": Ref(kernel.name), "writes": (3,)})
        )
    main.body.append(Op("return"))
    return module


def weights_of(dtype: object, *shape: int) -> np.ndarray:
    return (np.random.default_rng(shape).standard_normal(shape) * (1 if np.dtype(dtype).kind == "f" else 40)).astype(
        dtype
    )


BIAS = np.arange(21, dtype=np.float32)
CASES = {
    "plain": (PLAIN, "f32", np.float32, (12, 21)),
    "transposed": (TRANSPOSED, "f32", np.float32, (21, 12)),
    "computed": (WIDENED, "i8", np.int8, (21, 12)),
    "masked": (SHIFTED, "f32", np.float32, (11, 21)),
}


@pytest.mark.parametrize("case", CASES)
def test_packed_program_computes_the_same_and_reads_back(case: str) -> None:
    rhs, name, dtype, shape = CASES[case]
    module = program([matmul("k", rhs, name, *shape)], ["w"], {"w": weights_of(dtype, *shape), "bias": BIAS})
    x = np.random.default_rng(1).standard_normal((5, 12)).astype(np.float32)
    before, _ = run_program(module, [x], {"M": 5})
    target = Target.parse("x86-64-v3")
    schedule(module, target)
    pack(module, target)
    verify(module)
    (panels,) = [a for n, a in module.constants.items() if n != "bias"]
    how = Schedule.parse(str(module.funcs["k"].attrs["schedule"]))
    columns = how.vectors * how.lanes
    assert panels.shape == (-(-21 // columns), 12, columns) and panels.ctypes.data % 64 == 0
    assert not panels[-1, :, 21 % columns :].any()
    after, _ = run_program(module, [x], {"M": 5})
    np.testing.assert_allclose(after[0], before[0], rtol=1e-6, atol=1e-6)
    text = print_module(module, inline=True)
    again = parse_module(text)
    assert print_module(again, inline=True) == text
    np.testing.assert_array_equal(run_program(again, [x], {"M": 5})[0][0], after[0])


def test_equal_operands_share_their_panels_and_others_do_not() -> None:
    kernels = [
        matmul("k0", TRANSPOSED, "f32", 21, 12),
        matmul("k1", TRANSPOSED, "f32", 21, 12),
        matmul("k2", PLAIN, "f32", 12, 21),
    ]
    constants = {"w": weights_of(np.float32, 21, 12), "v": weights_of(np.float32, 12, 21), "bias": BIAS}
    module = program(kernels, ["w", "w", "v"], constants)
    target = Target.host()
    schedule(module, target)
    pack(module, target)
    assert len(module.constants) == 3 and not {"w", "v"} & module.constants.keys()
    launches = [op for op in module.main.body.ops if op.name == "p.launch"]
    assert launches[0].inputs[-1] is launches[1].inputs[-1] is not launches[2].inputs[-1]


def test_a_constant_that_something_else_reads_stays() -> None:
    module = program([matmul("k", PLAIN, "f32", 12, 21)], ["w"], {"w": weights_of(np.float32, 12, 21), "bias": BIAS})
    main = module.main
    other = main.body.add_arg(main.body.args[0].type.__class__(main.args[0].type.dtype, (12, 21)), "copy")  # type: ignore
    weights = next(op.result for op in main.body.ops if op.name == "p.const")
    main.body.insert(Op("p.copy", [weights, other]), main.body.last)
    schedule(module, Target.host())
    pack(module, Target.host())
    assert {"w", "w.panels"} <= module.constants.keys()


def test_packing_twice_changes_nothing() -> None:
    module = program([matmul("k", PLAIN, "f32", 12, 21)], ["w"], {"w": weights_of(np.float32, 12, 21), "bias": BIAS})
    for _ in range(2):
        schedule(module, Target.host())
        pack(module, Target.host())
        text = print_module(module)
    assert text == print_module(module) and list(module.constants) == ["bias", "w.panels"]


def test_operands_of_symbolic_extent_or_content_wait_for_the_run() -> None:
    """A slice whose start is a dim, and an operand that is an input."""
    sliced = "%w0 = k.load(%w) {index = [<l + M>, <j>]} : f32 yield(%w0)"
    module = program([matmul("k", sliced, "f32", 40, 21)], ["w"], {"w": weights_of(np.float32, 40, 21), "bias": BIAS})
    schedule(module, Target.host())
    pack(module, Target.host())
    assert set(module.constants) == {"w", "bias"}
