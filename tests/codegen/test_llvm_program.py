"""The native host program: buffers, guards, sizes, errors, cancelling, profiles, and kernels emitted once."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from onnxc.codegen.llvm import abi
from onnxc.codegen.llvm.abi import KernelError
from onnxc.codegen.llvm.program import Program, build_program, emit_program, structure_of
from onnxc.codegen.llvm.target import Target
from onnxc.ir.core import Module
from onnxc.ir.parser import parse_module
from onnxc.runtime.loader import NativeModule

I64, PTR = ctypes.c_int64, ctypes.c_void_p
BINARY = """
func @{name}(%a{n}: mem<f32[N, 4]>, %b{n}: mem<f32[{shape}]>, %o{n}: mem<f32[N, 4]>) kind "kernel" {{
  k.parallel() {{axes = [<i{n}>, <j{n}>], extents = [<N>, 4]}} () {{
    %v{n} = k.load(%a{n}) {{index = [<i{n}>, <j{n}>], where = [], other = 0}} : f32
    %w{n} = k.load(%b{n}) {{index = [{index}], where = [], other = 0}} : f32
    %r{n} = s.{op}(%v{n}, %w{n}) : f32
    k.store(%o{n}, %r{n}) {{index = [<i{n}>, <j{n}>], where = [], combine = none}}
  }}
}}
"""
CHAIN = """
const @c0 = dense<f32[4]: 1.0, 2.0, 3.0, 4.0>
func @main(%x: mem<f32[N, 4]>, %y: mem<f32[M, 4]>, %o: mem<f32[N, 4]>) kind "program"
  {symbols = ["M", "N"], inputs = 2, guards = [["eq", <N>, <M>, "N must be M"]], arena = <((N*16 + 63) // 64)*64>} {
  %c = p.const() {ref = @c0} : mem<f32[4]>
  %t = p.alloc() {offset = 0} : mem<f32[N, 4]>
  p.launch(%x, %c, %t) {kernel = @addc, writes = [2]}
  p.launch(%t, %y, %o) {kernel = @mul, writes = [2]}
  p.copy(%o, %t)
  %flat = p.view(%t) : mem<f32[4*N]>
  p.launch(%flat, %y, %o) {kernel = @again, writes = [2]}
  return()
}
""" + BINARY.format(name="addc", n="", shape="4", index="<j>", op="add") \
    + BINARY.format(name="mul", n="", shape="N, 4", index="<i>, <j>", op="mul") \
    + BINARY.format(name="again", n="7", shape="N, 4", index="<i7>, <j7>", op="mul")
REQUIRE = """
func @main(%i: mem<i64[N]>, %o: mem<i64[N]>) kind "program" {symbols = ["N"], inputs = 1, guards = [], arena = 0} {
  p.launch(%i, %o) {kernel = @check, writes = [1]}
  return()
}
func @check(%i: mem<i64[N]>, %o: mem<i64[N]>) kind "kernel" {
  k.parallel() {axes = [<n>], extents = [<N>]} () {
    %v = k.load(%i) {index = [<n>], where = [], other = 0} : i64
    %zero = s.const() {value = 0, dtype = !i64} : i64
    %ten = s.const() {value = 10, dtype = !i64} : i64
    %low = s.ge(%v, %zero) : bool
    k.require(%low) {message = "negative"}
    %high = s.lt(%v, %ten) : bool
    k.require(%high) {message = "too large"}
    k.store(%o, %v) {index = [<n>], where = [], combine = none}
  }
}
"""
SOFTMAX = """
func @main(%x: mem<f32[N, C]>, %o: mem<f32[N, C]>) kind "program"
  {symbols = ["C", "N"], inputs = 1, guards = [], arena = 0} {
  p.launch(%x, %o) {kernel = @rows, writes = [1]}
  return()
}
func @rows(%x: mem<f32[N, C]>, %o: mem<f32[N, C]>) kind "kernel" {
  k.parallel() {axes = [<i>], extents = [<N>]} () {
    %s = k.reduce() {axes = [<j>], extents = [<C>], kinds = ["add"]} : f32 () {
      %v = k.load(%x) {index = [<i>, <j>], where = [], other = 0} : f32
      %e = s.exp(%v) : f32
      yield(%e)
    }
    k.sweep() {axes = [<k>], extents = [<C>]} () {
      %w = k.load(%x) {index = [<i>, <k>], where = [], other = 0} : f32
      %f = s.exp(%w) : f32
      %q = s.div(%f, %s) : f32
      k.store(%o, %q) {index = [<i>, <k>], where = [], combine = none}
    }
  }
}
"""


class Runner:
    """A program with a pool of `threads` threads."""

    def __init__(self, module: Module, threads: int) -> None:
        self.module, self.threads = module, threads
        self.program: Program = emit_program(module, Target.host())
        self.native = NativeModule(self.program.object_bytes)
        self.plan_function = self.native.function("onnxc_plan", I64, PTR, PTR, I64)
        self.run_function = self.native.function("onnxc_run", I64, *[PTR] * 6, I64)
        self.pool = self.native.function("onnxc_pool_new", PTR, I64, I64)(threads, 0)

    def close(self) -> None:
        self.native.function("onnxc_pool_free", None, PTR)(self.pool)

    def plan(self, symbols: Sequence[int]) -> tuple[int, list[int]]:
        sizes = (I64 * len(self.module.main.args))()
        return self.plan_function((I64 * len(symbols))(*symbols), sizes, self.threads), list(sizes)

    def run(self, symbols: Sequence[int], inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], cancel: int = 0,
            profile: np.ndarray | None = None) -> int:
        need, _ = self.plan(symbols)
        assert need >= 0
        arena = np.full(need + 64, 0x5A, np.uint8)
        word = ctypes.c_int32(cancel)
        context = (I64 * abi.CONTEXT_SLOTS)()
        context[abi.CONTEXT_POOL], context[abi.CONTEXT_CANCEL] = self.pool, ctypes.addressof(word)
        context[abi.CONTEXT_PROFILE] = 0 if profile is None else profile.ctypes.data
        constants = [self.module.constants[n] for n in self.program.constants]
        tables = [(I64 * max(len(a), 1))(*(x.ctypes.data for x in a)) for a in (inputs, outputs, constants)]
        result = self.run_function(context, (I64 * len(symbols))(*symbols), tables[0], tables[1],
                                   -(-arena.ctypes.data // 64) * 64, tables[2], self.threads)
        end = need + -arena.ctypes.data % 64
        assert (arena[end:] == 0x5A).all(), "the program wrote behind its arena"
        return result


@pytest.fixture(scope="module")
def chain() -> Iterator[Runner]:
    runner = Runner(parse_module(CHAIN), 2)
    yield runner
    runner.close()


@pytest.mark.parametrize("n", [0, 1, 5, 20000])
def test_chain(chain: Runner, n: int) -> None:
    rng = np.random.default_rng(n)
    x, y = (rng.random((n, 4), np.float32) for _ in range(2))
    out = np.zeros((n, 4), np.float32)
    assert chain.run([n, n], [x, y], [out]) == 0
    np.testing.assert_allclose(out, (x + [1, 2, 3, 4]) * y * y, 1e-6)


def test_plan_gives_sizes(chain: Runner) -> None:
    assert chain.plan([5, 5]) == (128, [80, 80, 80])


def test_guard_stops_plan_and_run(chain: Runner) -> None:
    code, _ = chain.plan([4, 3])
    assert chain.program.errors[-2 - code] == "N must be M"


@pytest.mark.parametrize("n", [1 << 61, (1 << 63) - 1, 1 << 59])
def test_sizes_that_do_not_fit(chain: Runner, n: int) -> None:
    """16 bytes a row: 2**59 rows are 2**63 bytes."""
    assert chain.plan([n, n])[0] == -1


def test_negative_size() -> None:
    module = parse_module(CHAIN.replace("%t = p.alloc() {offset = 0} : mem<f32[N, 4]>",
                                        "%u = p.alloc() {offset = 0} : mem<f32[N - 3]>\n"
                                        "%t = p.alloc() {offset = 0} : mem<f32[N, 4]>"))
    runner = Runner(module, 1)
    assert runner.plan([2, 2])[0] == -1
    assert runner.plan([3, 3])[0] >= 0
    runner.close()


def test_cancelled_run(chain: Runner) -> None:
    out = np.full((3, 4), 7, np.float32)
    assert chain.run([3, 3], [out.copy(), out.copy()], [out], cancel=1) == -1
    assert (out == 7).all()


def test_profile(chain: Runner) -> None:
    times = np.zeros(2 * len(chain.program.steps), np.int64)
    x = np.ones((1000, 4), np.float32)
    assert chain.run([1000, 1000], [x, x], [x.copy()], profile=times) == 0
    assert chain.program.steps == ("addc", "mul", "copy", "again")
    assert (np.diff(times) >= 0).all()
    assert times[0] > 0


def test_equal_kernels_are_emitted_once(chain: Runner) -> None:
    assert chain.program.kernels == ("addc", "mul")
    funcs = chain.module.funcs
    assert structure_of(funcs["mul"]) == structure_of(funcs["again"]) != structure_of(funcs["addc"])


def test_smallest_error_code_is_reported() -> None:
    runner = Runner(parse_module(REQUIRE), 2)
    values = np.arange(10000, dtype=np.int64) % 10
    out = np.zeros_like(values)
    assert runner.run([10000], [values], [out]) == 0
    values[9000] = 12
    assert runner.program.errors[runner.run([10000], [values], [out]) - 1] == "too large"
    values[9999] = -1
    assert runner.program.errors[runner.run([10000], [values], [out]) - 1] == "negative"
    runner.close()


@pytest.mark.parametrize("threads", [1, 3])
def test_scratch_of_each_thread(threads: int) -> None:
    """A row's exponentials are kept in scratch: rows of different threads must not share it."""
    runner = Runner(parse_module(SOFTMAX), threads)
    assert runner.plan([100, 50])[0] == threads * 448          # 400 bytes, in whole cache lines
    x = np.random.default_rng(0).normal(0, 1, (500, 100)).astype(np.float32)
    out = np.zeros_like(x)
    assert runner.run([100, 500], [x], [out]) == 0
    e = np.exp(x.astype(np.float64))
    np.testing.assert_allclose(out, e / e.sum(1, keepdims=True), 1e-5)
    runner.close()


@pytest.mark.parametrize(("text", "message"), [
    (CHAIN.replace("{offset = 0}", "{offset = none}"), "has no place in the arena"),
    (CHAIN.replace("kernel = @mul", "kernel = @nothing"), "no such kernel"),
    (CHAIN.replace('"eq"', '"le"'), "guard of kind 'le'"),
    (CHAIN.replace('symbols = ["M", "N"]', 'symbols = ["M"]').replace("<N>, <M>", "<M>, <M>"), "no symbols for: N"),
    (CHAIN.replace("@main", "@start"), "no @main"),
])
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(KernelError, match=message):
        build_program(parse_module(text), Target.host())
