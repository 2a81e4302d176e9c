"""k.iterate: values carried from one iteration to the next, on numpy and natively, with lanes of other axes."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from onnxc.codegen.interp import run_kernel
from onnxc.codegen.llvm.target import Target
from onnxc.codegen.triton.emit import emit_kernel
from onnxc.codegen.triton.heuristics import schedule_kernel
from onnxc.codegen.triton.source import TritonUnsupported
from onnxc.ir.core import Func
from onnxc.ir.parser import parse_func
from tests.codegen.native import NativeKernel

# A running y = x + y/2 along one axis, and how often it was large: what the loop has seen decides what it
# stores. The other axis, along which elements are neighbours, may lie across lanes.
DECAY = """
func @decay(%x: mem<f32[L, N]>, %o: mem<f32[L, N]>, %c: mem<i64[L, N]>) kind "kernel" {
  k.parallel() {axes = [<n>], extents = [<N>]} () {
    %zero = s.const() {value = 0.0, dtype = !f32} : f32
    %none = s.const() {value = 0, dtype = !i64} : i64
    k.iterate(%zero, %none) {axis = <l>, extent = <L>, conditional = false} (%y: f32, %count: i64) {
      %half = s.const() {value = 0.5, dtype = !f32} : f32
      %kept = s.mul(%y, %half) : f32
      %v = k.load(%x) {index = [<l>, <n>], where = [], other = 0.0} : f32
      %next = s.add(%kept, %v) : f32
      %large = s.gt(%next, %half) : bool
      %one = s.const() {value = 1, dtype = !i64} : i64
      %more = s.add(%count, %one) : i64
      %found = s.select(%large, %more, %count) : i64
      k.store(%o, %next) {index = [<l>, <n>], where = [], combine = none}
      k.store(%c, %found) {index = [<l>, <n>], where = [], combine = none}
      yield(%next, %found)
    }
  }
}
"""


def decay() -> Func:
    return parse_func(DECAY)


@functools.cache
def native(target: str) -> NativeKernel:
    return NativeKernel(decay(), Target.parse(target))


def expected(x: np.ndarray) -> list[np.ndarray]:
    out, count = np.empty(x.shape), np.empty(x.shape, np.int64)
    y, n = np.zeros(x.shape[1]), np.zeros(x.shape[1], np.int64)
    for step, row in enumerate(x.astype(np.float64)):
        y = y / 2 + row
        n = n + (y > 0.5)
        out[step], count[step] = y, n
    return [out, count]


@pytest.mark.parametrize("way", ["numpy", "host", "x86-64-v3"])
@pytest.mark.parametrize("shape", [(7, 40), (1, 1), (0, 5), (5, 0), (3, 17)])
def test_carried_values(way: str, shape: tuple[int, int]) -> None:
    """Eighths below 2, so that a value of the sum near 0.5 does not depend on rounding."""
    x = (np.random.default_rng(0).integers(-8, 16, shape) / 8).astype(np.float32)
    arrays = [x, np.full(shape, np.nan, np.float32), np.full(shape, -1, np.int64)]
    dims = {"L": shape[0], "N": shape[1]}
    error = run_kernel(decay(), arrays, dims) if way == "numpy" else native(way).run(arrays, dims)
    assert not error
    np.testing.assert_allclose(arrays[1], expected(x)[0], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(arrays[2], expected(x)[1])


# How often a number is halved before it is at most 1, up to L times: loops of neighbours end at different times.
HALVED = """
func @halved(%x: mem<f32[N]>, %o: mem<f32[N]>, %c: mem<i64[N]>) kind "kernel" {
  k.parallel() {axes = [<n>], extents = [<N>]} () {
    %v = k.load(%x) {index = [<n>], where = [], other = 0.0} : f32
    %one = s.const() {value = 1.0, dtype = !f32} : f32
    %none = s.const() {value = 0, dtype = !i64} : i64
    %large = s.gt(%v, %one) : bool
    %goes, %left, %count = k.iterate(%large, %v, %none) {axis = <l>, extent = <L>, conditional = true}
        : bool, f32, i64 (%on: bool, %y: f32, %n: i64) {
      %half = s.const() {value = 0.5, dtype = !f32} : f32
      %next = s.mul(%y, %half) : f32
      %step = s.const() {value = 1, dtype = !i64} : i64
      %more = s.add(%n, %step) : i64
      %end = s.const() {value = 1.0, dtype = !f32} : f32
      %still = s.gt(%next, %end) : bool
      yield(%still, %next, %more)
    }
    k.store(%o, %left) {index = [<n>], where = [], combine = none}
    k.store(%c, %count) {index = [<n>], where = [], combine = none}
  }
}
"""


@functools.cache
def halved(target: str) -> NativeKernel:
    return NativeKernel(parse_func(HALVED), Target.parse(target))


@pytest.mark.parametrize("way", ["numpy", "host", "x86-64-v3"])
@pytest.mark.parametrize("count", [0, 1, 7, 100])
def test_results_of_loops_that_end_apart(way: str, count: int) -> None:
    x = (2.0 ** np.random.default_rng(count).integers(-2, 12, count)).astype(np.float32)
    arrays, dims = [x, np.zeros(count, np.float32), np.zeros(count, np.int64)], {"N": count, "L": 9}
    error = run_kernel(parse_func(HALVED), arrays, dims) if way == "numpy" else halved(way).run(arrays, dims)
    assert not error
    steps = np.clip(np.log2(x), 0, 9).astype(np.int64)
    np.testing.assert_array_equal(arrays[2], steps)
    np.testing.assert_array_equal(arrays[1], x / 2.0 ** steps)


def test_triton_has_no_form_of_it() -> None:
    with pytest.raises(TritonUnsupported, match="k.iterate"):
        emit_kernel(decay(), schedule_kernel(decay()))
