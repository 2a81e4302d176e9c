"""The kernel interpreter: the spike against float64, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from onnxc.codegen.interp import KernelError, run_kernel
from onnxc.ir.parser import parse_func
from onnxc.ops import kernel, scalar  # noqa: F401  (their rows)
from tests.codegen.kernels import KERNELS
from tests.codegen.spike import SPIKES, cases


@pytest.mark.parametrize("spike", SPIKES.values(), ids=SPIKES)
def test_spike_is_its_reference(spike):
    func = spike.func()
    for sizes in cases(spike):
        arrays = spike.inputs(sizes)
        assert run_kernel(func, arrays, sizes) == []
        spike.check(sizes, arrays, arrays[-1])


def test_dims_come_from_shapes():
    spike = SPIKES["softmax"]
    sizes = {"N": 5, "C": 37}
    arrays = spike.inputs(sizes)
    run_kernel(spike.func(), arrays, {})
    spike.check(sizes, arrays, arrays[-1])


def _run(name, **sizes):
    arrays = KERNELS[name].arrays(sizes)
    errors = run_kernel(KERNELS[name].func(), arrays, sizes)
    return arrays, errors


def test_half_rows():
    (x, y, o, h), _ = _run("half", N=3, C=37)
    total = x.astype(np.float64).sum(1)
    np.testing.assert_allclose(h.astype(np.float64), total, rtol=2**-10, atol=2**-10)      # one rounding to 10 bits
    product = y.astype(np.float64) * total[:, None]
    np.testing.assert_allclose(o.astype(np.float64), product, rtol=2**-7, atol=1e-5)       # one rounding to 7 bits


def test_total_of_all():
    (x, o), _ = _run("total", N=3, C=37)
    assert o.shape == ()
    np.testing.assert_allclose(o, x.sum(), rtol=1e-13)


def test_folds_by_numpy():
    (x, z, b, p, q, m, s, u, every, some, least, last), _ = _run("folds", N=3, C=37)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(p, x.prod(1))
    np.testing.assert_array_equal(q, x.min(1))
    np.testing.assert_array_equal(m, z.max(1))
    np.testing.assert_array_equal(s, z.sum(1, dtype=np.int8))
    np.testing.assert_array_equal(u, np.bitwise_and.reduce(z, 1))
    np.testing.assert_array_equal(every, b.all(1))
    np.testing.assert_array_equal(some, b.any(1))
    np.testing.assert_array_equal(least, x.argmin(1))
    np.testing.assert_array_equal(last, 36 - z[:, ::-1].argmax(1))


def test_folds_of_nothing():
    (_, _, _, p, q, m, s, u, every, some, least, last), _ = _run("folds", N=2, C=0)
    for got, identity in ((p, 1), (q, np.inf), (m, -128), (s, 0), (u, -1), (every, True), (some, False), (least, 0),
                          (last, 0)):
        np.testing.assert_array_equal(got, identity)


def test_exclusive_and_reversed_scans():
    (x, o, w), _ = _run("scan", N=3, L=37)
    behind = np.cumsum(x[:, ::-1], 1, dtype=np.int32)[:, ::-1]
    np.testing.assert_array_equal(o, behind - x)
    np.testing.assert_array_equal(w, np.maximum.accumulate(x, 1) - x)


def test_scatter_combines_points_that_meet():
    arrays = [np.array([2, 0, 2]), np.ones((3, 2), np.float32), np.zeros((3, 2), np.float32)]
    run_kernel(KERNELS["scatter_add"].func(), arrays, {})
    np.testing.assert_array_equal(arrays[2], [[1, 1], [0, 0], [2, 2]])
    arrays = [np.array([1, 1], np.int32), np.array([2, 3], np.float32), np.array([1, 5], np.float32)]
    run_kernel(KERNELS["scatter_mul"].func(), arrays, {})
    np.testing.assert_array_equal(arrays[2], [1, 30])


def test_require_records_and_goes_on():
    arrays = [np.array([0, -1, 7]), np.ones((3, 2), np.float32), np.zeros((3, 2), np.float32)]
    errors = run_kernel(KERNELS["scatter_add"].func(), arrays, {})
    assert errors == ["an index is negative", "an index is too large"]
    np.testing.assert_array_equal(arrays[2], [[1, 1], [0, 0], [0, 0]])


def test_convolution_by_taps():
    (x, w, o), _ = _run("conv", N=1, H=5, W=6, C=20, O=18)
    padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = sum(np.einsum("nhwc,oc->nhwo", padded[:, r:r + 5:2, s:s + 6:2], w[:, r, s].astype(np.float64))
                   for r in range(3) for s in range(3))
    np.testing.assert_allclose(o, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("index", "where", "problem"), [
    ("<i + 1>", "[]", "index 4 in dim 0"), ("<i - 1>", "[]", "index -1 in dim 0"),
    ("<i + 1>", "[[<i>, 0, <N - 1>]]", ""), ("<i + q>", "[]", "symbol q"),
])
def test_out_of_bounds_is_refused(index, where, problem):
    func = parse_func(f"""func @f(%x: mem<f32[N]>, %o: mem<f32[N]>) kind "kernel" {{
      k.parallel() {{axes = [<i>], extents = [<N>]}} () {{
        %v = k.load(%x) {{index = [{index}], where = {where}}} : f32
        k.store(%o, %v) {{index = [<i>]}}
      }}
    }}""")
    arrays = [np.ones(4, np.float32), np.zeros(4, np.float32)]
    if problem:
        with pytest.raises(KernelError, match=problem):
            run_kernel(func, arrays, {})
    else:
        run_kernel(func, arrays, {})
        np.testing.assert_array_equal(arrays[1], [1, 1, 1, 0])


@pytest.mark.parametrize(("arrays", "problem"), [
    ([np.zeros((2, 3), np.float32)], "takes 2 buffers"),
    ([np.zeros((2, 3)), np.zeros((2, 3), np.float32)], "got an array float64"),
    ([np.zeros((2, 3), np.float32), np.zeros((2, 4), np.float32)], r"so \[2, 3\]; got \[2, 4\]"),
    ([np.zeros(2, np.float32), np.zeros((2, 3), np.float32)], r"float32\[2\]"),
])
def test_arguments_that_do_not_fit(arrays, problem):
    with pytest.raises(KernelError, match=problem):
        run_kernel(SPIKES["softmax"].func(), arrays, {})


def test_extents_over_axes_are_refused():
    func = parse_func("""func @f(%x: mem<f32[N]>) kind "kernel" {
      k.parallel() {axes = [<i>], extents = [<N>]} () {
        k.sweep() {axes = [<j>], extents = [<i>]} () { }
      }
    }""")
    with pytest.raises(KernelError, match="varies"):
        run_kernel(func, [np.zeros(4, np.float32)], {})
