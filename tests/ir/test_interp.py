"""The interpreter: dims bound from shapes, ops run by their `ref`, regions as functions, errors that name the op."""

import gc
import weakref

import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import onnxc.ops.program
import onnxc.ops.tensor  # noqa: F401  (registers the tensor ops that the texts use)
from onnxc.ir.core import Ref
from onnxc.ir.dims import dim_max, evaluate, floordiv, mod, sym
from onnxc.ir.interp import BindError, InterpreterError, bind_dims, evaluate_attr, run_func
from onnxc.ir.parser import parse_module
from onnxc.ir.registry import register
from onnxc.ir.types import BOOL, F32, I64, STR, Map, Mem, Opt, Scalar, Seq, Tensor
from tests.ir.strategies import DIMS

N, M = sym("N"), sym("M")


def _same(types, attrs):
    return [types[0]]


def _repeat(attrs, x):
    """Runs the region `times` over x."""
    for _ in range(attrs["times"]):
        (x,) = attrs["regions"][0](x)
    return x


def _choose(attrs, condition, *captured):
    return tuple(attrs["regions"][0 if condition else 1](*captured))


register("test.i_add", "x, y", infer=_same, ref=lambda attrs, x, y: x + y, doc="x + y, a numpy scalar at rank 0")
register("test.i_scale", "x", attrs={"by": 1}, infer=_same, ref=lambda attrs, x: x * attrs["by"], doc="times a dim")
register("test.i_repeat", "x", attrs={"times": 0}, traits="pure isolated", regions=1, ref=_repeat, doc="a loop")
register("test.i_open", "x", attrs={"times": 0}, regions=1, ref=_repeat, doc="a loop that sees the values around it")
register("test.i_if", "c, xs*", "results*", traits="isolated", regions=2, ref=_choose, doc="a branch")
register("test.i_nonzero", "x", ref=lambda attrs, x: np.stack(np.nonzero(x)), doc="a size that depends on data")
register("test.i_optional", "x, y?", ref=lambda attrs, x, y: x if y is None else y, doc="an optional operand")
register("test.i_bad", "x", ref=lambda attrs, x: x.astype(np.float64), doc="gives another type than it says")
register("test.i_raises", "x", ref=lambda attrs, x: x[7], doc="fails")
register("test.i_effect", "x", "", traits="write", ref=lambda attrs, x: None, doc="gives nothing")


def run(text, *inputs, dims=None):
    module = parse_module(text)
    return run_func(module, module.main, inputs, dims)


def floats(*shape):
    return np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)


# ---- binding dims ----------------------------------------------------------------------------------------------------
def test_symbols_are_bound_and_held_against_each_other():
    t = [Tensor(F32, (N, 2)), Tensor(F32, (M, N))]
    assert bind_dims(t, [floats(3, 2), floats(5, 3)]) == {"N": 3, "M": 5}
    for arrays, says in [
        ([floats(3, 4), floats(5, 3)], "axis 1 of value 0 is 4, but 2 is 2"),
        ([floats(3, 2), floats(5, 4)], "axis 1 of value 1 is 4, but N is 3 with N = 3"),
        ([floats(3, 2), floats(5)], "value 1 of type f32[M, N] is an array of float32[5]"),
        ([floats(3, 2), floats(5, 3).astype(int)], "value 1 of type f32[M, N] is an array of int64[5, 3]"),
        ([floats(3, 2), [1.0]], "value 1 of type f32[M, N] is a list, not an array"),
        ([floats(3, 2)], "1 values are given for 2 types"),
        ([floats(3, 2), np.zeros((5, 3), "M8[s]")], "is an array of datetime64[s][5, 3]"),
    ]:
        with pytest.raises(BindError) as e:
            bind_dims(t, arrays)
        assert says in str(e.value)


def test_a_linear_dim_is_solved_once_the_other_symbols_are_known():
    t = [Tensor(F32, (N * 2 + 1,)), Tensor(F32, (M * N,)), Tensor(F32, (M + 0 * N,))]
    assert bind_dims(t, [floats(7), floats(12), floats(4)]) == {"N": 3, "M": 4}
    assert bind_dims([Tensor(F32, (M * N,)), Tensor(F32, (N,))], [floats(12), floats(3)]) == {"N": 3, "M": 4}
    assert bind_dims([Tensor(F32, (M * N,))], [floats(12)]) == {}                   # two unknowns
    assert bind_dims([Tensor(F32, (floordiv(N, 2),))], [floats(12)]) == {}
    assert bind_dims([Tensor(F32, (10 - N,))], [floats(4)]) == {"N": 6}
    for dim, size, says in [
        (N * 2 + 1, 4, "no size makes N*2 + 1 that"), (N + 3, 2, "no size makes N + 3 that"),
        (10 - N, 11, "no size makes -N + 10 that"),
    ]:
        with pytest.raises(BindError) as e:
            bind_dims([Tensor(F32, (dim,))], [floats(size)])
        assert says in str(e.value)


def test_known_symbols_count():
    assert bind_dims([Tensor(F32, (N,))], [floats(3)], {"M": 1}) == {"N": 3, "M": 1}
    with pytest.raises(BindError, match="axis 0 of value 0 is 3, but N is 4"):
        bind_dims([Tensor(F32, (N,))], [floats(3)], {"N": np.int64(4)})
    with pytest.raises(BindError, match=r"divides by zero with M = 0"):
        bind_dims([Tensor(F32, (mod(N, M),))], [floats(3)], {"M": 0, "N": 3})


def test_containers_and_other_types_are_checked_by_kind():
    assert bind_dims([Seq(Tensor(F32, (N,))), Opt(Tensor(F32, (M,))), Opt(Tensor(F32, (M,)))],
                     [[floats(1), floats(2)], None, floats(4)]) == {"M": 4}
    assert bind_dims([Scalar(F32), Tensor(STR, (N,)), Mem(I64, (N,)), Tensor(F32, None)],
                     [np.float32(1), np.array(["a", "b"]), np.zeros(2, np.int64), floats(1, 2)]) == {"N": 2}
    assert bind_dims([Map(I64, Scalar(F32))], [{1: 2.0}]) == {}
    for t, value in [(Seq(Scalar(F32)), floats(1)), (Map(I64, Scalar(F32)), [1]), (Scalar(F32), floats(1))]:
        with pytest.raises(BindError):
            bind_dims([t], [value])


@given(st.lists(st.lists(DIMS, min_size=1, max_size=3), min_size=1, max_size=3), st.data())
def test_binding_finds_the_sizes_that_the_shapes_came_from(shapes, data):
    env = {s: data.draw(st.integers(0, 5), label=s) for s in ("N", "M", "seq_len", "u0", "$1")}
    try:
        sizes = [[evaluate(d, env) for d in shape] for shape in shapes]
    except ZeroDivisionError:
        assume(False)
    assume(all(0 <= s < 200 for shape in sizes for s in shape) and all(np.prod(s) < 1e5 for s in sizes))
    arrays = [np.zeros(s, np.bool_) for s in sizes]
    types = [Tensor(BOOL, tuple(shape)) for shape in shapes]
    bound = bind_dims(types, arrays)
    assert bound.items() <= env.items()
    assert {s for s in env if any(sym(s) in shape for shape in shapes)} <= bound.keys()


def test_attributes_are_evaluated_wherever_dims_stand():
    env = {"N": 3, "M": 0}
    assert evaluate_attr((N * 2, (1, dim_max(N, M)), "N", None), env) == (6, (1, 3), "N", None)
    assert evaluate_attr(Tensor(F32, (N, 2)), env) == Tensor(F32, (3, 2))
    assert evaluate_attr(Tensor(F32, None), env) == Tensor(F32, None)
    assert evaluate_attr(Ref("N"), env) == Ref("N")
    with pytest.raises(KeyError):
        evaluate_attr(sym("other"), env)


# ---- running ---------------------------------------------------------------------------------------------------------
def test_a_function_runs_with_symbolic_attributes():
    text = """
const @w = dense<f32[3]: 1.0, 2.0, 3.0>
func @main(%x: f32[N, 3]) -> (f32[3, N], f32[N, 3]) kind "graph" {
  %w = t.const() {value = none, ref = @w} : f32[3]
  %b = t.broadcast(%w) {shape = [<N>, 3]} : f32[N, 3]
  %s = test.i_add(%x, %b) : f32[N, 3]
  %m = test.i_scale(%s) {by = <N>} : f32[N, 3]
  %t = t.transpose(%m) {perm = [1, 0]} : f32[3, N]
  return(%t, %s)
}
"""
    for n in (0, 1, 4):
        x = floats(n, 3)
        transposed, plain = run(text, x)
        expected = x.astype(np.float64) + [1, 2, 3]
        np.testing.assert_array_equal(plain, expected.astype(np.float32))
        np.testing.assert_array_equal(transposed, (expected * n).T.astype(np.float32))


def test_rank_zero_and_narrow_types_stay_arrays_of_their_type():
    text = 'func @main(%x: bf16[], %y: bf16[]) -> (bf16[]) kind "graph" {\n' \
           "  %z = test.i_add(%x, %y) : bf16[]\n  return(%z)\n}"
    one = np.array(1.5, ml_dtypes.bfloat16)
    (out,) = run(text, one, one[()])
    assert isinstance(out, np.ndarray)
    assert (out.shape, out.dtype) == ((), one.dtype)
    assert float(out) == 3.0


def test_isolated_regions_run_as_functions_of_their_arguments():
    text = """
func @main(%x: f32[N]) -> (f32[N]) kind "graph" {
  %y = test.i_repeat(%x) {times = 3} : f32[N] (%p: f32[N]) {
    %q = test.i_scale(%p) {by = <N>} : f32[N]
    yield(%q)
  }
  return(%y)
}
"""
    np.testing.assert_array_equal(run(text, floats(2))[0], floats(2) * 8)


def test_open_regions_see_the_values_around_them_each_time():
    text = """
func @main(%x: f32[], %d: f32[]) -> (f32[], f32[]) kind "graph" {
  %e = test.i_add(%d, %d) : f32[]
  %y = test.i_open(%x) {times = 4} : f32[] (%p: f32[]) {
    %q = test.i_add(%p, %e) : f32[]
    yield(%q)
  }
  return(%y, %d)
}
"""
    y, d = run(text, np.float32(1), np.float32(2))
    assert (float(y), float(d)) == (17.0, 2.0)


def test_branches_take_what_they_capture():
    text = """
func @main(%c: bool[], %x: f32[2]) -> (f32[2], f32[2]) kind "graph" {
  %a, %b = test.i_if(%c, %x) : f32[2], f32[2] (%p: f32[2]) {
    yield(%p, %p)
  } (%p: f32[2]) {
    %q = test.i_scale(%p) {by = -1} : f32[2]
    yield(%p, %q)
  }
  return(%a, %b)
}
"""
    for condition, sign in ((True, 1), (False, -1)):
        a, b = run(text, np.array(condition), floats(2))
        np.testing.assert_array_equal(a, floats(2))
        np.testing.assert_array_equal(b, floats(2) * sign)


def test_sizes_that_come_from_data_are_learnt_from_results():
    text = """
func @main(%x: f32[N]) -> (i64[1, u0], i64[1, u0]) kind "graph" {
  %i = test.i_nonzero(%x) : i64[1, u0]
  %j = test.i_scale(%i) {by = <u0>} : i64[1, u0]
  return(%i, %j)
}
"""
    i, j = run(text, np.array([0, 1, 0, 2, 3], np.float32))
    np.testing.assert_array_equal(i, [[1, 3, 4]])
    np.testing.assert_array_equal(j, [[3, 9, 12]])


def test_absent_operands_are_none_and_ops_may_give_nothing():
    text = 'func @main(%x: f32[]) -> (f32[]) kind "graph" {\n  test.i_effect(%x)\n' \
           "  %y = test.i_optional(%x, _) : f32[]\n  return(%y)\n}"
    assert float(run(text, np.float32(2))[0]) == 2.0


def test_values_die_after_their_last_use():
    alive = []

    def watch(attrs, x):
        gc.collect()
        alive.append(sum(r() is not None for r in refs))
        out = np.zeros(1000, np.float32)
        refs.append(weakref.ref(out))
        return out

    refs = []
    register("test.i_watch", "x", infer=_same, ref=watch, doc="counts the arrays that still live")
    lines = [f"  %v{i + 1} = test.i_watch(%v{i}) : f32[1000]" for i in range(6)]
    head = 'func @main(%v0: f32[1000]) -> (f32[1000]) kind "graph" {'
    run("\n".join([head, *lines, "  return(%v6)", "}"]), floats(1000))
    assert alive == [0, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("%y = onnx.Unknown(%x) : f32[2]", "onnx.Unknown has no reference semantics: %y = onnx.Unknown(%x) : f32[2]"),
        ("%y = test.i_bad(%x) : f32[2]", "the result of %y = test.i_bad(%x) : f32[2] does not have its type"),
        ("%y = test.i_add(%x, %x) : f32[3]", "axis 0 of value 0 is 2, but 3 is 3"),
        ("%y, %z = test.i_add(%x, %x) : f32[2], f32[2]", "1 values are given for 2 types"),
        ("%y = test.i_raises(%x) : f32[2]", "%y = test.i_raises(%x) : f32[2]: IndexError: index 7"),
        ("%y = test.i_scale(%x) {by = <Q>} : f32[2]", "nothing says what the dim symbol 'Q' is"),
    ],
)
def test_errors_name_the_op(line, says):
    with pytest.raises(InterpreterError) as e:
        run(f'func @main(%x: f32[2]) -> (f32[2]) kind "graph" {{\n  {line}\n  return(%y)\n}}', floats(2))
    assert says in str(e.value)


def test_inputs_that_do_not_fit_name_the_function():
    text = 'func @main(%x: f32[N]) -> (f32[N]) kind "graph" {\n  return(%x)\n}'
    with pytest.raises(BindError, match="function @main: 0 values are given for 1 types"):
        run(text)
    with pytest.raises(BindError, match="function @main: axis 0 of value 0 is 2, but N is 3"):
        run(text, floats(2), dims={"N": 3})
