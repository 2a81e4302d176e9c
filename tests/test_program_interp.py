"""The interpreter of host programs: the steps, memory as it is planned, and what it must not let pass."""

from __future__ import annotations

import numpy as np
import pytest

from onnxc.codegen.program_interp import run_program
from onnxc.ir.core import Module
from onnxc.ir.parser import parse_module
from onnxc.ops import load_all

load_all()

KERNELS = """
func @double(%x: mem<f32[N, 2]>, %y: mem<f32[N, 2]>) kind "kernel" {
  k.parallel() {axes = [<i0>, <i1>], extents = [<N>, 2]} () {
    %0 = k.load(%x) {index = [<i0>, <i1>], where = [], other = 0.0} : f32
    %1 = s.add(%0, %0) : f32
    k.store(%y, %1) {index = [<i0>, <i1>], where = [], combine = none}
  }
}

func @first(%x: mem<f32[N, 2]>, %y: mem<f32[N, 2]>) kind "kernel" {
  k.parallel() {axes = [<i0>], extents = [<N>]} () {
    %0 = k.load(%x) {index = [<i0>, 0], where = [], other = 0.0} : f32
    k.store(%y, %0) {index = [<i0>, 0], where = [], combine = none}
  }
}

func @flat(%x: mem<f32[N*2]>, %y: mem<f32[N*2]>) kind "kernel" {
  k.parallel() {axes = [<i0>], extents = [<N*2>]} () {
    %0 = k.load(%x) {index = [<i0>], where = [], other = 0.0} : f32
    k.store(%y, %0) {index = [<i0>], where = [], combine = none}
  }
}

func @positive(%x: mem<f32[N, 2]>, %y: mem<f32[N, 2]>) kind "kernel" {
  k.parallel() {axes = [<i0>, <i1>], extents = [<N>, 2]} () {
    %0 = k.load(%x) {index = [<i0>, <i1>], where = [], other = 0.0} : f32
    %1 = s.const() {value = 0.0, dtype = !f32} : f32
    %2 = s.gt(%0, %1) : bool
    k.require(%2) {message = "not positive"}
    k.store(%y, %0) {index = [<i0>, <i1>], where = [], combine = none}
  }
}
"""
X = np.array([[1, -2], [3, 4], [5, 6]], np.float32)


def program(steps: str, arena: str = "none",
            outputs: str = "%y: mem<f32[N, 2]>") -> Module:
    return parse_module(f"""
const @c = dense<f32[2]: 7.0, 8.0>
func @main(%x: mem<f32[N, 2]>, {outputs}) kind "program" {{
  symbols = ["N"], inputs = 1, guards = [], arena = {arena}}} {{
{steps}
  return()
}}
{KERNELS}""")


def run(steps: str, **options: str) -> tuple[list[np.ndarray], list[str]]:
    return run_program(program(steps, **options), [X], {"N": 3})


def launch(kernel: str, x: str, y: str) -> str:
    return f"  p.launch(%{x}, %{y}) {{kernel = @{kernel}, writes = [1]}}\n"


def test_launches_follow_each_other() -> None:
    (y,), errors = run("  %t = p.alloc() {offset = none} : mem<f32[N, 2]>\n" + launch("double", "x", "t")
                       + launch("double", "t", "y"))
    np.testing.assert_array_equal(y, 4 * X)
    assert not errors


def test_kernels_may_take_a_buffer_under_another_shape() -> None:
    (y,), _ = run(launch("flat", "x", "y"))
    np.testing.assert_array_equal(y, X)


def test_what_nothing_writes_is_poison() -> None:
    (y,), _ = run(launch("first", "x", "y"))
    np.testing.assert_array_equal(y[:, 0], X[:, 0])
    assert (y[:, 1] == np.full(4, 0xA5, np.uint8).view(np.float32)).all()


def test_views_and_copies() -> None:
    (y,), _ = run("  %v = p.view(%x) : mem<f32[2, N]>\n  %t = p.alloc() {offset = none} : mem<f32[2, N]>\n"
                  "  p.copy(%v, %t)\n  p.copy(%t, %y)\n", outputs="%y: mem<f32[2, N]>")
    np.testing.assert_array_equal(y, X.reshape(2, 3))


def test_constants_are_read() -> None:
    (y,), _ = run("  %k = p.const() {ref = @c} : mem<f32[2]>\n  p.copy(%k, %y)\n", outputs="%y: mem<f32[2]>")
    np.testing.assert_array_equal(y, [7, 8])


@pytest.mark.parametrize(("offset", "right"), [(64, True), (0, False)])
def test_buffers_lie_where_they_are_planned(offset: int, right: bool) -> None:
    """Two live buffers in one place spoil each other, as they would natively."""
    (y, z), _ = run(f"  %a = p.alloc() {{offset = 0}} : mem<f32[N, 2]>\n"
                    f"  %b = p.alloc() {{offset = {offset}}} : mem<f32[N, 2]>\n"
                    + launch("double", "x", "a") + launch("flat", "x", "b") + launch("flat", "a", "y")
                    + launch("flat", "b", "z"), arena="128", outputs="%y: mem<f32[N, 2]>, %z: mem<f32[N, 2]>")
    np.testing.assert_array_equal(z, X)
    assert np.array_equal(y, 2 * X) == right


def test_errors_of_kernels_are_given_and_the_run_goes_on() -> None:
    (y,), errors = run(launch("positive", "x", "y"))
    assert errors == ["not positive"]
    np.testing.assert_array_equal(y, X)


def test_inputs_are_not_written() -> None:
    x = X.T.copy().T                             # not contiguous: the interpreter has to see its elements in order
    (y,), _ = run_program(program(launch("double", "x", "y")), [x], {"N": 3})
    np.testing.assert_array_equal(y, 2 * X)
    np.testing.assert_array_equal(x, X)


def test_a_dim_may_be_zero() -> None:
    (y,), errors = run_program(program(launch("double", "x", "y")), [np.zeros((0, 2), np.float32)], {"N": 0})
    assert y.shape == (0, 2) and not errors
