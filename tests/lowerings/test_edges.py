"""Edges that models reach and operator cases do not: ranks, empty tensors, NaN, narrow types, mixed types."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tests.lowerings.models import lowered

NAN, INF = float("nan"), float("inf")


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


# ---- rank 0 and no elements ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("op", ["Relu", "Softplus", "Gelu", "Selu", "HardSwish", "Celu", "Shrink", "Mish", "Abs",
                                "Sign", "Reciprocal", "Exp", "Sqrt", "Floor", "Identity", "Swish"])
def test_functions_of_one_element_and_of_none(op: str) -> None:
    for text, shape in (("float", ()), ("float[0]", (0,)), ("float[3, 0, 2]", (3, 0, 2))):
        out = lowered(f"({text} x) => ({text} y) {{ y = {op}(x) }}")(np.ones(shape, np.float32))
        assert out.shape == shape and out.dtype == np.float32


@pytest.mark.parametrize(("op", "empty"), [
    ("ReduceSum", 0.0), ("ReduceProd", 1.0), ("ReduceMax", -INF), ("ReduceMin", INF), ("ReduceMean", NAN),
    ("ReduceL1", 0.0), ("ReduceL2", 0.0), ("ReduceLogSum", -INF), ("ReduceLogSumExp", -INF), ("ReduceSumSquare", 0.0)])
def test_reductions_of_nothing_and_of_a_scalar(op: str, empty: float) -> None:
    model = lowered(f"(float[N, 0] x) => (float[N] y) {{ y = {op}<keepdims = 0>(x, a) }}", a=np.array([-1]))
    np.testing.assert_array_equal(model(np.zeros((2, 0), np.float32)), f32(empty, empty))
    assert lowered(f"(float x) => (float y) {{ y = {op}(x) }}")(np.float32(1)).shape == ()


@pytest.mark.parametrize("axis", [0, -1])
def test_softmax_of_an_empty_axis(axis: int) -> None:
    model = lowered(f"(float[A, B] x) => (float[A, B] y) {{ y = Softmax<axis = {axis}>(x) }}")
    for shape in ((0, 3), (3, 0), (0, 0)):
        assert model(np.zeros(shape, np.float32)).shape == shape


def test_products_of_empty_matrices_are_zero() -> None:
    model = lowered("(float[M, K] x, float[K, N] y) => (float[M, N] z) { z = MatMul(x, y) }")
    np.testing.assert_array_equal(model(np.ones((2, 0), np.float32), np.ones((0, 3), np.float32)), np.zeros((2, 3)))
    assert model(np.ones((0, 4), np.float32), np.ones((4, 3), np.float32)).shape == (0, 3)


def test_a_convolution_of_an_empty_batch() -> None:
    model = lowered("(float[N, 2, 5, 5] x) => (float[N, 3, 5, 5] y) { y = Conv<pads = [1, 1, 1, 1]>(x, w, c) }",
                    w=np.ones((3, 2, 3, 3), np.float32), c=f32(1, 2, 3))
    assert model(np.zeros((0, 2, 5, 5), np.float32)).shape == (0, 3, 5, 5)


# ---- NaN and infinities --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("op", ["Relu", "Clip", "LeakyRelu", "Elu", "Selu", "Celu", "HardSigmoid", "HardSwish",
                                "Softplus", "Softsign", "Gelu", "Mish", "Swish", "Sign", "Abs", "ReduceMax",
                                "ReduceMin"])
def test_nan_stays_nan(op: str) -> None:
    bounds = ", lo, hi" if op == "Clip" else ""
    model = lowered(f"(float[1] x) => (float[1] y) {{ y = {op}(x{bounds}) }}",
                    **({"lo": np.float32(0), "hi": np.float32(1)} if bounds else {}))
    assert np.isnan(model(f32(NAN))).all()


def test_thresholds_let_no_nan_through() -> None:
    """These two give 0 for what lies above no threshold, NaN among them, as ONNX's definitions do."""
    assert lowered("(float[1] x) => (float[1] y) { y = ThresholdedRelu(x) }")(f32(NAN)) == 0
    assert lowered("(float[1] x) => (float[1] y) { y = Shrink(x) }")(f32(NAN)) == 0


def test_clip_takes_the_upper_bound_when_bounds_cross() -> None:
    model = lowered("(float[3] x, float lo, float hi) => (float[3] y) { y = Clip(x, lo, hi) }")
    np.testing.assert_array_equal(model(f32(-9, 0, 9), np.float32(5), np.float32(1)), f32(1, 1, 1))


def test_log_sum_exp_of_infinities() -> None:
    model = lowered("(float[3, 2] x) => (float[3] y) { y = ReduceLogSumExp<keepdims = 0>(x, a) }", a=np.array([1]))
    x = np.array([[-INF, -INF], [INF, 0], [-INF, 0]], np.float32)
    np.testing.assert_array_equal(model(x), f32(-INF, INF, 0))


def test_max_pooling_ignores_pads_below_everything() -> None:
    model = lowered("(float[1, 1, 2] x) => (float[1, 1, 2] y) { y = MaxPool<kernel_shape = [3], pads = [1, 1]>(x) }")
    np.testing.assert_array_equal(model(f32(-5, -7).reshape(1, 1, 2)), f32(-5, -5).reshape(1, 1, 2))


# ---- element types -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("text", "dtype"), [("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16)])
def test_narrow_sums_are_kept_wide(text: str, dtype: type) -> None:
    """4096 ones and tails sum to 4096 + tails: a running sum in f16 stops at 2048, one in bf16 at 256."""
    x = np.ones((1, 4096), dtype)
    model = lowered(f"({text}[1, N] x, {text}[N, 1] w) => ({text}[1] a, {text}[1, 1] m, {text}[1] e, {text}[1, N] c) "
                    "{ a = ReduceSum<keepdims = 0>(x, one)  m = MatMul(x, w)  e = ReduceMean<keepdims = 0>(x, one)"
                    "  c = CumSum(x, last) }", one=np.array([1]), last=np.int64(1))
    total, product, mean, running = model(x, x.T)
    assert total == 4096 and product == 4096 and mean == 1 and running[0, -1] == 4096


def test_narrow_products_are_rounded_once() -> None:
    """1 + 2**-11 rounds to 1 in f16, so a bias added after rounding would lose it."""
    model = lowered("(float16[1, 1] x) => (float16[1, 1] y) { y = Gemm(x, w, c) }",
                    w=np.array([[2.0 ** -11]], np.float16), c=np.array([1 + 2.0 ** -10], np.float16))
    assert model(np.ones((1, 1), np.float16)) == np.float16(1 + 2.0 ** -10 + 2.0 ** -11)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_integers_divide_towards_zero_and_wrap(dtype: type) -> None:
    text = np.dtype(dtype).name
    model = lowered(f"({text}[5] x, {text}[5] y) => ({text}[5] d, {text}[5] m, {text}[5] f) "
                    "{ d = Div(x, y)  m = Mod(x, y)  f = Mod<fmod = 1>(x, y) }")
    low = np.iinfo(dtype).min
    x, y = np.array([7, -7, 7, -7, low], dtype), np.array([2, 2, -2, -2, -1], dtype)
    quotient, floor, rest = model(x, y)
    np.testing.assert_array_equal(quotient, np.array([3, -3, -3, 3, low], dtype))
    np.testing.assert_array_equal(floor, np.array([1, 1, -1, -1, 0], dtype))
    np.testing.assert_array_equal(rest, np.array([1, -1, 1, -1, 0], dtype))


def test_a_power_keeps_the_parity_of_large_exponents() -> None:
    model = lowered("(float[2] x, int64[2] y) => (float[2] z) { z = Pow(x, y) }")
    np.testing.assert_array_equal(model(f32(-1, -1), np.array([2 ** 24 + 1, 2 ** 24 + 2])), f32(-1, 1))


@pytest.mark.parametrize(("base", "exponent"), [("int32", "float"), ("int64", "int32"), ("float", "double"),
                                                ("double", "float"), ("float16", "float"), ("float", "uint8")])
def test_powers_of_mixed_types_have_the_type_of_the_base(base: str, exponent: str) -> None:
    model = lowered(f"({base}[3] x, {exponent}[3] y) => ({base}[3] z) {{ z = Pow(x, y) }}")
    to = {"float": np.float32, "double": np.float64}
    x, y = np.array([2, 3, 4]).astype(to.get(base, base)), np.array([3, 2, 1]).astype(to.get(exponent, exponent))
    out = model(x, y)
    assert out.dtype == x.dtype
    np.testing.assert_array_equal(out, np.array([8, 9, 4]))


def test_unsigned_elements_have_no_sign() -> None:
    model = lowered("(uint8[3] x) => (uint8[3] a, uint8[3] s) { a = Abs(x)  s = Sign(x) }")
    size, sign = model(np.array([0, 7, 255], np.uint8))
    np.testing.assert_array_equal(size, [0, 7, 255])
    np.testing.assert_array_equal(sign, [0, 1, 1])


def test_bools_reduce_select_and_compare() -> None:
    model = lowered("(bool[2, 2] x) => (bool[2] a, bool[2] b, bool[2, 2] c) "
                    "{ a = ReduceMax<keepdims = 0>(x, one)  b = ReduceMin<keepdims = 0>(x, one)  c = Where(x, x, x) }",
                    one=np.array([1]))
    x = np.array([[True, False], [True, True]])
    any_, all_, same = model(x)
    np.testing.assert_array_equal(any_, [True, True])
    np.testing.assert_array_equal(all_, [False, True])
    np.testing.assert_array_equal(same, x)


@pytest.mark.parametrize("text", ["uint8", "int8", "int32", "float", "double", "bool"])
def test_gathers_and_views_take_every_type(text: str) -> None:
    dtype = {"float": np.float32, "double": np.float64}.get(text, text)
    x = np.arange(6).reshape(2, 3).astype(dtype)
    model = lowered(f"({text}[N, 3] x, int32[K] i) => ({text}[K, 3] g, {text}[3, N] t, {text}[N, 6] c) "
                    "{ g = Gather(x, i)  t = Transpose(x)  c = Concat<axis = -1>(x, x) }")
    gathered, turned, joined = model(x, np.array([-1, 0, 1], np.int32))
    np.testing.assert_array_equal(gathered, x[[-1, 0, 1]])
    np.testing.assert_array_equal(turned, x.T)
    np.testing.assert_array_equal(joined, np.concatenate([x, x], 1))


# ---- accuracy against float64 --------------------------------------------------------------------------------------
def test_a_norm_of_large_values_keeps_its_digits() -> None:
    """Variance by the mean of squared differences: by E[x^2] - E[x]^2 all of it would cancel in f32."""
    x = (1e4 + np.random.default_rng(1).standard_normal((4, 256))).astype(np.float32)
    model = lowered("(float[N, 256] x) => (float[N, 256] y) { y = LayerNormalization(x, s, c) }",
                    s=np.ones(256, np.float32), c=np.zeros(256, np.float32))
    wide = x.astype(np.float64)
    want = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(model(x), want, rtol=0, atol=2e-3)      # the inputs' own spacing is 1e-3


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize(("stride", "dilation", "pads"), [(1, 1, 0), (2, 1, 1), (3, 2, 2), (1, 3, 1)])
def test_convolution_and_its_transpose_are_adjoint(group: int, stride: int, dilation: int, pads: int) -> None:
    """<conv(x), y> == <x, conv_transpose(y)>: the convolution, which ONNX's cases check, checks its transpose."""
    rng = np.random.default_rng(2)
    w = rng.standard_normal((8, 4 // group, 3, 2)).astype(np.float32)
    how = f"strides = [{stride}, 1], dilations = [{dilation}, 1], pads = [{pads}, 0, {pads}, 1], group = {group}"
    x = rng.standard_normal((2, 4, 14, 6)).astype(np.float32)
    y_shape = lowered(f"(float[2, 4, 14, 6] x) => (float[] y) {{ y = Conv<{how}>(x, w) }}", w=w)(x).shape
    y = rng.standard_normal(y_shape).astype(np.float32)
    reach = (y_shape[2] - 1) * stride + 2 * dilation + 1 - 2 * pads
    back = lowered(f"(float[N, {y_shape[1]}, H, W] y) => (float[] x) {{ x = ConvTranspose<{how}, "
                   f"output_padding = [{14 - reach}, 0]>(y, w) }}", w=w)(y)
    out = lowered(f"(float[2, 4, 14, 6] x) => (float[] y) {{ y = Conv<{how}>(x, w) }}", w=w)(x)
    assert back.shape == x.shape
    np.testing.assert_allclose(np.vdot(out, y), np.vdot(x, back), rtol=1e-3)
