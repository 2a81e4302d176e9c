"""The expansions keep the bounds that the table states, in numpy and as native code, and what else they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onnxc.ir.types import F32, F64, DType
from onnxc.ops.numpy_expander import expanded
from onnxc.ops.scalar import SCALARS
from tests.ops import accuracy
from tests.ops.accuracy import APPROXIMATE, every_f32, has_oracle, native, oracle, slack, ulps, worst

FUNCTIONS = pytest.mark.parametrize("name", APPROXIMATE)
FLOATS = pytest.mark.parametrize("dtype", [F32, F64], ids=str)


def bound(name: str, dtype: DType) -> float:
    return SCALARS[name].ulps[dtype == F64] + slack(name, dtype)


def require_oracle(dtype: DType) -> None:
    if not has_oracle(dtype):
        pytest.skip("this platform's long double is no wider than f64")


@FLOATS
@FUNCTIONS
def test_expansions_step_by_step(name: str, dtype: DType) -> None:
    """In numpy, with exact fma: what both backends compute if they follow the formula."""
    require_oracle(dtype)
    xs = accuracy.operands(SCALARS[name], dtype, 1 << 13)
    for backend in ("llvm", "triton"):
        error, where = worst(name, lambda *a, backend=backend: expanded(name, *a, backend=backend), *xs)
        assert error <= bound(name, dtype), f"{name} {dtype} by the {backend} columns: {error} ULP at {where}"


@FLOATS
@FUNCTIONS
def test_native_code(name: str, dtype: DType) -> None:
    require_oracle(dtype)
    error, where = worst(name, native(name, dtype), *accuracy.operands(SCALARS[name], dtype, 1 << 18, seed=1))
    assert error <= bound(name, dtype), f"{name} {dtype}: {error} ULP at {where}"


@pytest.mark.parametrize(("name", "first", "last"), [("erf", 0.85, 4.5), ("tanh", 0.55, 10.0)])
def test_saturating_functions_are_monotone(name: str, first: float, last: float) -> None:
    """Every f32 where the function flattens towards 1: neighbours never go down, and nothing exceeds 1."""
    function, before = native(name, F32), -math.inf
    for x in every_f32(first, last):
        y = function(x)
        assert before <= y[0]
        assert (y[1:] >= y[:-1]).all()
        before = float(y[-1])
    assert before == 1.0


@pytest.mark.parametrize("name", ["sin", "cos", "tan"])
@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_angles_of_every_size(name: str, dtype: DType) -> None:
    """All binades, and numbers as near to a multiple of pi/2 as the format has them, where digits of 2/pi cancel."""
    require_oracle(dtype)
    rng = np.random.default_rng(2)
    limits = np.finfo(dtype.numpy)
    sizes = 2.0 ** rng.uniform(limits.minexp, limits.maxexp, 1 << 16)
    # The nearest of each format; the f64 one leaves r = 4.7e-19.
    nearest = [16367173.0 * 2.0**72, 3.0455780e12] if dtype == F32 else [6381956970095103.0 * 2.0**797]
    x = np.concatenate([sizes, nearest]).astype(dtype.numpy)
    error, where = worst(name, native(name, dtype), x)
    assert error <= bound(name, dtype), f"{name} {dtype}: {error} ULP at {where}"


@pytest.mark.parametrize("name", ["erf", "tanh", "sin", "sinh", "asinh", "atan", "expm1", "log1p"])
@FLOATS
def test_slope_one_at_zero(name: str, dtype: DType) -> None:
    """Denormals are their own result (erf: 2 / sqrt(pi) of it), and zeros keep their sign."""
    limits = np.finfo(dtype.numpy)
    x = limits.smallest_subnormal * np.array([0, 1, 2, 3, 5, 1000, 12345], dtype.numpy)
    x = np.concatenate([x, -x])
    want = x * dtype.numpy.type(2 / math.sqrt(math.pi)) if name == "erf" else x
    got = expanded(name, x)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(np.signbit(got), np.signbit(x))


def test_overflow_and_underflow_of_exp_happen_where_they_should() -> None:
    largest, smallest = np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal
    x = np.float32([math.log(float(largest)) - 1e-5, 88.722840, 88.8, -103.27, -103.98, -200.0, 3e38, -3e38])
    got = expanded("exp", x)
    assert np.isfinite(got[0]) and np.isinf(got[2]) and np.isinf(got[6])
    assert got[3] == smallest and got[4] == 0 and got[5] == 0 and got[7] == 0


def test_the_measure_itself() -> None:
    one = np.float32([1.0])
    above = np.nextafter(one, np.float32(2))
    assert ulps(above, np.float64([1.0]))[0] == 1.0
    assert ulps(one, np.float64([1.0 + 2.0**-24]))[0] == 0.5
    assert ulps(one, np.float64([np.nan]))[0] == math.inf
    assert ulps(np.float32([np.inf]), np.float64([3.0e38]))[0] == math.inf
    assert ulps(np.float32([0.0]), np.float64([-0.0]))[0] == math.inf
    assert ulps(np.float32([np.finfo(np.float32).max]), np.float64([3.5e38]))[0] == 1.0
    assert oracle("pow", np.float32([2.0]), np.float32([0.5]))[0] == math.sqrt(2)


def test_the_command_reports_a_kept_bound(capsys: pytest.CaptureFixture[str]) -> None:
    assert accuracy.main(["cosh"]) == 0
    assert "cosh       f32" in capsys.readouterr().out
