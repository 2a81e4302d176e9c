"""What only a run can find wrong: compiled all the same, reported with the node's name, and never read."""

from __future__ import annotations

import numpy as np
import pytest

from onnxc.codegen.program_interp import run_program
from onnxc.ir.parser import parse_module
from onnxc.ops import load_all
from onnxc.passes import pipeline

load_all()
OPTIONAL = tuple(p.name for p in pipeline.PIPELINE if not p.required)


def run(text: str, *inputs: np.ndarray, left_out: tuple[str, ...] = (),
        **dims: int) -> tuple[list[np.ndarray], list[str]]:
    module = parse_module(text)
    context = pipeline.Context(supplied={"schedule": lambda m: None, "pack": lambda m: None})
    pipeline.run(module, context, pipeline.PIPELINE[1:], left_out)
    return run_program(module, list(inputs), dims)


@pytest.mark.parametrize("left_out", [(), OPTIONAL], ids=["all", "required"])
@pytest.mark.parametrize("index", [3, -4, 2**31])
def test_a_constant_index_out_of_range(index: int, left_out: tuple[str, ...]) -> None:
    outputs, errors = run(f"""
func @main(%x: f32[3, 2]) -> (f32[2]) kind "graph" {{
  %i = t.const() {{value = dense<i64[]: {index}>, ref = none}} : i64[]
  %0 = t.gather(%x, %i) {{axis = 0}} : f32[2] loc "lookup"
  return(%0)
}}""", np.ones((3, 2), np.float32), left_out=left_out)
    assert errors == ["lookup: an index is out of range for an axis of 3"] and outputs[0].shape == (2,)


@pytest.mark.parametrize("rows", [0, 2])
def test_a_gather_from_an_empty_axis(rows: int) -> None:
    """An error where an element is asked for, and only there."""
    _, errors = run("""
func @main(%x: f32[V, 4], %i: i32[N]) -> (f32[N, 4]) kind "graph" {
  %0 = t.gather(%x, %i) {axis = 0} : f32[N, 4] loc "lookup"
  return(%0)
}""", np.zeros((0, 4), np.float32), np.zeros(rows, np.int32), V=0, N=rows)
    assert errors == ["lookup: an index is out of range for an axis of V"] * (rows > 0)


def test_a_gather_from_an_axis_that_always_is_empty() -> None:
    _, errors = run("""
func @main(%x: f32[0, 4], %i: i64[2]) -> (f32[2, 4]) kind "graph" {
  %0 = t.gather(%x, %i) {axis = 0} : f32[2, 4] loc "lookup"
  return(%0)
}""", np.zeros((0, 4), np.float32), np.zeros(2, np.int64))
    assert errors == ["lookup: an index is out of range for an axis of 0"]


def test_indices_under_a_pad_are_checked_where_they_are_read() -> None:
    text = """
func @main(%x: f32[3], %i: i64[N]) -> (f32[N + 2]) kind "graph" {
  %0 = t.gather(%x, %i) {axis = 0} : f32[N] loc "lookup"
  %1 = t.pad(%0) {low = [1], high = [1], mode = "constant"} : f32[N + 2]
  return(%1)
}"""
    x = np.array([5, 6, 7], np.float32)
    (found,), errors = run(text, x, np.array([2, -3]), N=2)
    assert not errors
    np.testing.assert_array_equal(found, [0, 7, 5, 0])
    assert run(text, x, np.array([2, 3]), N=2)[1] == ["lookup: an index is out of range for an axis of 3"]
    (found,), errors = run(text, x, np.zeros(0, np.int64), N=0)
    assert not errors and found.tolist() == [0, 0]


@pytest.mark.parametrize("op", ["div", "mod", "fmod"])
def test_division_of_integers_by_zero(op: str) -> None:
    text = f"""
func @main(%x: i32[N], %y: i32[N]) -> (i32[N]) kind "graph" {{
  %0 = t.{op}(%x, %y) : i32[N] loc "share"
  return(%0)
}}"""
    seven = np.array([7, 7], np.int32)
    assert run(text, seven, np.array([2, 0], np.int32), N=2)[1] == ["share: division of an integer by zero"]
    assert not run(text, seven, np.array([2, 3], np.int32), N=2)[1]


def test_a_division_that_is_padded_around_divides_inside_only() -> None:
    (found,), errors = run("""
func @main(%x: i32[N], %y: i32[N]) -> (i32[N + 1]) kind "graph" {
  %0 = t.div(%x, %y) : i32[N]
  %1 = t.pad(%0) {low = [1], high = [0], mode = "constant"} : i32[N + 1]
  return(%1)
}""", np.array([9], np.int32), np.array([2], np.int32), N=1)
    assert not errors and found.tolist() == [0, 4]


def test_a_reshape_of_nothing_under_a_pad_divides_by_no_dim() -> None:
    with np.errstate(all="raise"):
        (found,), errors = run("""
func @main(%x: f32[A, B]) -> (f32[B + 1, A + 1]) kind "graph" {
  %0 = t.neg(%x) : f32[A, B]
  %1 = t.reshape(%0) {shape = [<B>, <A>]} : f32[B, A]
  %2 = t.pad(%1) {low = [1, 1], high = [0, 0], mode = "constant"} : f32[B + 1, A + 1]
  return(%2)
}""", np.zeros((0, 3), np.float32), A=0, B=3)
    assert not errors and found.tolist() == [[0]] * 4


def test_a_zero_point_that_is_looked_up_out_of_range() -> None:
    """Rules that ask what a zero point is leave its error to the run."""
    _, errors = run("""
func @main(%a: u8[2, 4], %w: i8[4, 3]) -> (i32[2, 3]) kind "graph" {
  %t = t.const() {value = dense<i32[2]: 1, 2>, ref = none} : i32[2]
  %i = t.const() {value = dense<i64[]: 7>, ref = none} : i64[]
  %z = t.gather(%t, %i) {axis = 0} : i32[] loc "lookup"
  %0 = t.cast(%a) {to = !i32, saturate = true} : i32[2, 4]
  %1 = t.sub(%0, %z) : i32[2, 4]
  %2 = t.cast(%w) {to = !i32, saturate = true} : i32[4, 3]
  %3 = t.contract(%1, %2) {spec = "mk,kn->mn", to = !i32} : i32[2, 3]
  return(%3)
}""", np.ones((2, 4), np.uint8), np.ones((4, 3), np.int8))
    assert errors == ["lookup: an index is out of range for an axis of 2"]
