"""Structural comparison: equal whatever the values are called, and any other difference is told in words."""

import copy

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from onnxc.ir.compare import difference, same_array, same_attr, same_type
from onnxc.ir.dims import dim_max, dim_min, floordiv, sym
from onnxc.ir.parser import parse_module
from onnxc.ir.types import F32, I32, Map, Mem, Opt, Scalar, Seq, Tensor
from tests.ir.strategies import modules

BASE = """
const @w = dense<f32[2]: 1.0, nan>
func @main(%x: f32[N], %y: f32[N]) -> (f32[N]) kind "graph" {level = 1} {
  %a = test.a(%x, %y) {axis = 1, pads = [0, <N>]} : f32[N] loc "n"
  %b = test.b(%a, _) () {
    %c = test.c(%x) : f32[]
    yield(%c)
  }
  return(%a)
}
""".replace("%b = ", "")

CHANGES = [
    # replace, by, what is said
    ("nan>", "2.0>", "constant @w differs: dense<f32[2]: 1.0, nan> and dense<f32[2]: 1.0, 2.0>"),
    ("const @w", "const @v", "only the first has constant 'w'"),
    ("func @main", "func @other", "only the first has function 'main'"),
    ('kind "graph"', 'kind "kernel"', "its kind is 'graph' and 'kernel'"),
    ("level = 1", "level = 2", "attribute 'level' is 1 and 2"),
    ("-> (f32[N])", "-> (f32[M])", "result 0 is f32[N] and f32[M]"),
    ("%y: f32[N]", "%y: f32[M]", "argument 1 is f32[N] and f32[M]"),
    (", %y: f32[N])", ", %y: f32[N], %z: f32[])", "2 arguments and 3"),
    ("test.a(%x, %y)", "test.z(%x, %y)", "op 0 (test.a): the other is test.z"),
    ("test.a(%x, %y)", "test.a(%y, %x)", "operand 0 is %x: f32[N] and %y: f32[N], which are not made in the same"),
    ("test.a(%x, %y)", "test.a(%x)", "2 operands and 1"),
    ("(%a, _)", "(%a, %x)", "operand 1 is None and %x"),
    ("axis = 1", "axis = 1.0", "attribute 'axis' is 1 and 1.0"),
    ("axis = 1", "axis = true", "attribute 'axis' is 1 and true"),
    ("axis = 1", "axes = 1", "only the first has attribute 'axis'"),
    ("<N>]", "<M>]", "attribute 'pads' is [0, <N>] and [0, <M>]"),
    ('loc "n"', 'loc "m"', "its location is 'n' and 'm'"),
    ("yield(%c)", "yield(%x)", "op 1 (test.b): region 0: op 1 (yield): operand 0"),
    ("    yield(%c)\n", "", "region 0: 2 ops and 1; the first that has no partner is yield"),
    ("  return(%a)\n", "  return(%a)\n  return(%a)\n", "3 ops and 4; the first that has no partner is return"),
    ("  }\n  return", "  } () {\n  }\n  return", "1 regions and 2"),
]


@pytest.mark.parametrize(("old", "new", "says"), CHANGES, ids=[c[2] for c in CHANGES])
def test_each_difference_is_told(old, new, says):
    assert BASE.count(old) == 1
    a, b = parse_module(BASE), parse_module(BASE.replace(old, new))
    assert says in difference(a, b)
    assert difference(b, a) is not None


def test_names_of_values_do_not_count():
    renamed = BASE.replace("%a", "%other").replace("%x", "%first")
    assert difference(parse_module(BASE), parse_module(renamed)) is None


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(modules())
def test_a_copy_is_the_same(module):
    assert difference(module, copy.deepcopy(module)) is None


@pytest.mark.parametrize("dtype", ["f4", "f2", "f8", ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn], ids=str)
def test_float_arrays_compare_by_element(dtype):
    a = np.array([0.0, 1.5, np.nan], dtype)
    assert same_array(a, a.copy())
    negative_nan = a.copy()
    negative_nan[2] = -negative_nan[2]
    assert same_array(a, negative_nan)
    assert not same_array(a, np.array([-0.0, 1.5, np.nan], dtype))
    assert not same_array(a, np.array([0.0, 1.5, 1.0], dtype))
    assert not same_array(a, a[:2])
    assert same_array(np.stack([a, a])[:, 1], np.array([1.5, 1.5], dtype))      # strides do not count


def test_arrays_of_other_types_compare_by_element():
    assert same_array(np.array([1, 2], ">i4"), np.array([1, 2], "<i4"))
    assert not same_array(np.array([1], np.int32), np.array([1], np.int64))
    assert same_array(np.array([1 + 1j, complex(np.nan, 0)]), np.array([1 + 1j, complex(np.nan, 0)]))
    assert not same_array(np.array([1 + 1j]), np.array([1 - 1j]))
    assert same_array(np.array(["a", "b"]), np.array(["a", "b"], object))
    assert not same_array(np.array(["a"], object), np.array(["b"], object))
    assert same_array(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32))
    assert not same_array(np.zeros((0, 3), np.float32), np.zeros((3, 0), np.float32))
    assert same_array(np.array(1, ml_dtypes.int4), np.array(1, ml_dtypes.int4))


def test_attributes_differ_by_kind():
    different = [None, True, 1, 1.0, "1", b"1", (1,), (1.0,), np.array(1), np.array([1]), sym("N"), F32, Scalar(F32),
                 -0.0, 0.0]
    for i, a in enumerate(different):
        assert [same_attr(a, b) for b in different] == [i == j for j in range(len(different))]
    assert same_attr(np.int64(1), 1)
    assert same_attr([1, 2], (1, 2))
    assert same_attr(float("nan"), float("nan"))


def test_dims_that_are_the_same_number_make_the_same_type():
    n, m = sym("N"), sym("M")
    one, other = dim_max(n, dim_min(m, 0)), n       # min(M, 0) is 0, whatever M is
    assert same_type(Tensor(F32, (one,)), Tensor(F32, (other,)))
    zero = floordiv(n % 2, 2)
    assert zero != 0
    assert same_type(Seq(Tensor(F32, (zero,))), Seq(Tensor(F32, (0,))))
    for a, b in [
        (Tensor(F32, (n,)), Tensor(F32, (m,))),
        (Tensor(F32, (n,)), Tensor(I32, (n,))),
        (Tensor(F32, None), Tensor(F32, ())),
        (Tensor(F32, (n,)), Mem(F32, (n,))),
        (Seq(Scalar(F32)), Opt(Scalar(F32))),
        (Tensor(F32, (n,)), Tensor(F32, (n, n))),
        (Map(I32, Scalar(F32)), Map(F32, Scalar(F32))), (Seq(Scalar(F32)), Seq(Scalar(I32))),
    ]:
        assert same_type(a, a)
        assert not same_type(a, b)
        assert not same_type(b, a)
