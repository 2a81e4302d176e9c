"""The eight kernels that both backends are proven on: their IR text, inputs, float64 references, tolerances and sizes.

Every dim is symbolic, so that one emitted kernel serves all sizes; a size table takes three values for each dim, 0 and
1 among them. `Spike.inputs` makes the arrays of the kernel's arguments in order, the output last and filled with a
pattern that is no result, so that an element which nothing stores is seen.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from onnxc.ir.core import Func
from onnxc.ir.parser import parse_func

__all__ = ["SPIKES", "Sizes", "Spike", "cases"]

Sizes = Mapping[str, int]
Arrays = list[np.ndarray]


@dataclasses.dataclass(frozen=True)
class Spike:
    """A kernel of one output (its last argument).

    `reference(sizes, *inputs)` gives the output, computed in float64 from the same elements; `rtol` and `atol` are the
    bound on its distance, for sums as long as the sizes have; outputs of integers are exact.
    """

    name: str
    text: str
    sizes: Mapping[str, tuple[int, ...]]
    make: Callable[[Sizes, np.random.Generator], Arrays]
    output: Callable[[Sizes], tuple[tuple[int, ...], type]]
    reference: Callable[..., np.ndarray]
    rtol: float
    atol: float
    admits: Callable[[Sizes], bool] = lambda sizes: True

    def func(self) -> Func:
        """A fresh function of the kernel."""
        return parse_func(self.text)

    def inputs(self, sizes: Sizes, seed: int = 0) -> Arrays:
        """The kernel's arrays: reproducible inputs, and the output filled with a pattern."""
        rng = np.random.default_rng([seed, *sizes.values(), len(self.name)])
        shape, dtype = self.output(sizes)
        pattern = np.nan if np.dtype(dtype).kind == "f" else -77
        return [*self.make(sizes, rng), np.full(shape, pattern, dtype)]

    def expected(self, sizes: Sizes, arrays: Arrays) -> np.ndarray:
        """The output in float64 (or in its own integer type) for the arrays that `inputs` gave."""
        with np.errstate(all="ignore"):
            wide = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in arrays[:-1]]
            return self.reference(sizes, *wide)

    def check(self, sizes: Sizes, arrays: Arrays, output: np.ndarray) -> None:
        """AssertionError unless `output` is right for these arrays."""
        expected = self.expected(sizes, arrays)
        assert output.shape == expected.shape, f"{self.name} {dict(sizes)}"
        np.testing.assert_allclose(output, expected, self.rtol, self.atol, err_msg=f"{self.name} {dict(sizes)}")


def cases(spike: Spike) -> Iterator[dict[str, int]]:
    """Every combination of the spike's sizes that its kernel is defined for."""
    for values in itertools.product(*spike.sizes.values()):
        sizes = dict(zip(spike.sizes, values, strict=True))
        if spike.admits(sizes):
            yield sizes


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


# ---- softmax: a row is read three times; no size but the row's makes a sum ---------------------------------------
SOFTMAX = """
func @softmax(%x: mem<f32[N, C]>, %o: mem<f32[N, C]>) kind "kernel" {
  k.parallel() {axes = [<i>], extents = [<N>]} () {
    %m = k.reduce() {axes = [<j>], extents = [<C>], kinds = ["max"]} : f32 () {
      %v = k.load(%x) {index = [<i>, <j>], where = [], other = 0} : f32
      yield(%v)
    }
    %s = k.reduce() {axes = [<j1>], extents = [<C>], kinds = ["add"]} : f32 () {
      %v1 = k.load(%x) {index = [<i>, <j1>], where = [], other = 0} : f32
      %d1 = s.sub(%v1, %m) : f32
      %e1 = s.exp(%d1) : f32
      yield(%e1)
    }
    k.sweep() {axes = [<j2>], extents = [<C>]} () {
      %v2 = k.load(%x) {index = [<i>, <j2>], where = [], other = 0} : f32
      %d2 = s.sub(%v2, %m) : f32
      %e2 = s.exp(%d2) : f32
      %q = s.div(%e2, %s) : f32
      k.store(%o, %q) {index = [<i>, <j2>], where = [], combine = none}
    }
  }
}
"""


def _softmax(sizes: Sizes, x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=1, keepdims=True, initial=-np.inf))
    return e / e.sum(axis=1, keepdims=True)


# ---- layer norm: two-pass variance, an extent as a value --------------------------------------------------------
LAYER_NORM = """
func @layer_norm(%x: mem<f32[N, C]>, %scale: mem<f32[C]>, %bias: mem<f32[C]>, %o: mem<f32[N, C]>) kind "kernel" {
  k.parallel() {axes = [<i>], extents = [<N>]} () {
    %count = k.index() {expr = <C>} : i64
    %n = s.cast(%count) {to = !f32} : f32
    %sum = k.reduce() {axes = [<j>], extents = [<C>], kinds = ["add"]} : f32 () {
      %v = k.load(%x) {index = [<i>, <j>], where = [], other = 0} : f32
      yield(%v)
    }
    %mean = s.div(%sum, %n) : f32
    %squares = k.reduce() {axes = [<j1>], extents = [<C>], kinds = ["add"]} : f32 () {
      %v1 = k.load(%x) {index = [<i>, <j1>], where = [], other = 0} : f32
      %d1 = s.sub(%v1, %mean) : f32
      %sq = s.mul(%d1, %d1) : f32
      yield(%sq)
    }
    %variance = s.div(%squares, %n) : f32
    %eps = s.const() {value = 1e-05, dtype = !f32} : f32
    %shifted = s.add(%variance, %eps) : f32
    %deviation = s.sqrt(%shifted) : f32
    k.sweep() {axes = [<j2>], extents = [<C>]} () {
      %v2 = k.load(%x) {index = [<i>, <j2>], where = [], other = 0} : f32
      %d2 = s.sub(%v2, %mean) : f32
      %u = s.div(%d2, %deviation) : f32
      %g = k.load(%scale) {index = [<j2>], where = [], other = 0} : f32
      %b = k.load(%bias) {index = [<j2>], where = [], other = 0} : f32
      %ug = s.mul(%u, %g) : f32
      %y = s.add(%ug, %b) : f32
      k.store(%o, %y) {index = [<i>, <j2>], where = [], combine = none}
    }
  }
}
"""


def _layer_norm(sizes: Sizes, x: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    d = x - x.sum(axis=1, keepdims=True) / sizes["C"] if sizes["C"] else x
    variance = (d * d).sum(axis=1, keepdims=True) / max(sizes["C"], 1)
    return d / np.sqrt(variance + 1e-5) * scale + bias


# ---- transposed copy with pad: 2 on both sides of one dim, 1 before and 3 after the other ---------------------------
TRANSPOSE_PAD = """
func @transpose_pad(%x: mem<f32[N, C]>, %o: mem<f32[C + 4, N + 4]>) kind "kernel" {
  k.parallel() {axes = [<j>, <i>], extents = [<C + 4>, <N + 4>]} () {
    %v = k.load(%x) {index = [<i - 1>, <j - 2>], where = [[<i - 1>, 0, <N>], [<j - 2>, 0, <C>]], other = 0.5} : f32
    k.store(%o, %v) {index = [<j>, <i>], where = [], combine = none}
  }
}
"""


def _transpose_pad(sizes: Sizes, x: np.ndarray) -> np.ndarray:
    return np.pad(x.T, ((2, 2), (1, 3)), constant_values=0.5)


# ---- 3x3 max pool, stride 2, pad 1, channels last; NaN comes through ----------------------------------------------
MAX_POOL = """
func @max_pool(%x: mem<f32[N, H, W, C]>, %o: mem<f32[N, (H + 1) // 2, (W + 1) // 2, C]>) kind "kernel" {
  k.parallel() {axes = [<n>, <p>, <q>, <c>], extents = [<N>, <(H + 1) // 2>, <(W + 1) // 2>, <C>]} () {
    %m = k.reduce() {axes = [<r>, <s>], extents = [3, 3], kinds = ["max"]} : f32 () {
      %v = k.load(%x) {index = [<n>, <2*p + r - 1>, <2*q + s - 1>, <c>],
                       where = [[<2*p + r - 1>, 0, <H>], [<2*q + s - 1>, 0, <W>]], other = -inf} : f32
      yield(%v)
    }
    k.store(%o, %m) {index = [<n>, <p>, <q>, <c>], where = [], combine = none}
  }
}
"""


def _max_pool(sizes: Sizes, x: np.ndarray) -> np.ndarray:
    n, h, w, c = x.shape
    padded = np.pad(x, ((0, 0), (1, 2), (1, 2), (0, 0)), constant_values=-np.inf)
    p, q = (h + 1) // 2, (w + 1) // 2
    taps = [padded[:, r:r + 2 * p:2, s:s + 2 * q:2] for r in range(3) for s in range(3)]
    return np.maximum.reduce(taps).reshape(n, p, q, c)


def _with_nan(x: np.ndarray, rng: np.random.Generator, count: int) -> np.ndarray:
    flat = x.reshape(-1)
    flat[rng.permutation(flat.size)[:count]] = np.nan
    return x


# ---- gather-add: indices from data, negative ones counted from the end, out of range recorded and never read -----
GATHER_ADD = """
func @gather_add(%table: mem<f32[V, C]>, %idx: mem<i64[N]>, %x: mem<f32[N, C]>, %o: mem<f32[N, C]>) kind "kernel" {
  k.parallel() {axes = [<i>, <j>], extents = [<N>, <C>]} () {
    %raw = k.load(%idx) {index = [<i>], where = [], other = 0} : i64
    %size = k.index() {expr = <V>} : i64
    %zero = s.const() {value = 0, dtype = !i64} : i64
    %behind = s.lt(%raw, %zero) : bool
    %wrapped = s.add(%raw, %size) : i64
    %row = s.select(%behind, %wrapped, %raw) : i64
    %low = s.ge(%row, %zero) : bool
    %high = s.lt(%row, %size) : bool
    %fits = s.and(%low, %high) : bool
    k.require(%fits) {message = "an index is out of range"}
    %t = k.load(%table, %row) {index = [<$0>, <j>], where = [[<$0>, 0, <V>]], other = 0} : f32
    %v = k.load(%x) {index = [<i>, <j>], where = [], other = 0} : f32
    %y = s.add(%t, %v) : f32
    k.store(%o, %y) {index = [<i>, <j>], where = [], combine = none}
  }
}
"""


def _gather_add(sizes: Sizes, table: np.ndarray, idx: np.ndarray, x: np.ndarray) -> np.ndarray:
    return table[idx] + x


# ---- argmax over the last axis: first occurrence, a NaN wins, 0 of none ---------------------------------------------
ARGMAX = """
func @argmax(%x: mem<f32[N, C]>, %o: mem<i64[N]>) kind "kernel" {
  k.parallel() {axes = [<i>], extents = [<N>]} () {
    %key, %at = k.reduce() {axes = [<j>], extents = [<C>], kinds = ["argmax"]} : f32, i64 () {
      %v = k.load(%x) {index = [<i>, <j>], where = [], other = 0} : f32
      %p = k.index() {expr = <j>} : i64
      yield(%v, %p)
    }
    k.store(%o, %at) {index = [<i>], where = [], combine = none}
  }
}
"""


def _argmax_input(sizes: Sizes, rng: np.random.Generator) -> Arrays:
    x = rng.integers(-2, 3, (sizes["N"], sizes["C"])).astype(np.float32)      # many equal elements
    x[1::3] = _with_nan(x[1::3].copy(), rng, 3)
    x[2::5] = -np.inf
    return [x]


def _argmax(sizes: Sizes, x: np.ndarray) -> np.ndarray:
    return x.argmax(axis=1).astype(np.int64) if sizes["C"] else np.zeros(sizes["N"], np.int64)


# ---- cumsum along the middle axis -----------------------------------------------------------------------------
CUMSUM = """
func @cumsum(%x: mem<f32[A, L, B]>, %o: mem<f32[A, L, B]>) kind "kernel" {
  k.parallel() {axes = [<a>, <b>], extents = [<A>, <B>]} () {
    k.scan() {axis = <l>, extent = <L>, kind = "add", exclusive = false} () {
      %v = k.load(%x) {index = [<a>, <l>, <b>], where = [], other = 0} : f32
      yield(%v)
    } (%acc: f32) {
      k.store(%o, %acc) {index = [<a>, <l>, <b>], where = [], combine = none}
    }
  }
}
"""


def _cumsum(sizes: Sizes, x: np.ndarray) -> np.ndarray:
    return np.cumsum(x, axis=1)


# ---- matmul + bias + GELU: a contraction with an epilogue ---------------------------------------------------------
MATMUL_GELU = """
func @matmul_gelu(%a: mem<f32[M, K]>, %b: mem<f32[K, N]>, %bias: mem<f32[N]>, %o: mem<f32[M, N]>) kind "kernel" {
  k.contract() {batch = [], m = [[<i>, <M>]], n = [[<j>, <N>]], k = [[<p>, <K>]], accumulate = !f32} () {
    %x = k.load(%a) {index = [<i>, <p>], where = [], other = 0} : f32
    yield(%x)
  } () {
    %y = k.load(%b) {index = [<p>, <j>], where = [], other = 0} : f32
    yield(%y)
  } (%acc: f32) {
    %c = k.load(%bias) {index = [<j>], where = [], other = 0} : f32
    %t = s.add(%acc, %c) : f32
    %r = s.const() {value = 0.7071067811865476, dtype = !f32} : f32
    %u = s.mul(%t, %r) : f32
    %e = s.erf(%u) : f32
    %one = s.const() {value = 1.0, dtype = !f32} : f32
    %f = s.add(%e, %one) : f32
    %half = s.const() {value = 0.5, dtype = !f32} : f32
    %h = s.mul(%t, %half) : f32
    %g = s.mul(%h, %f) : f32
    k.store(%o, %g) {index = [<i>, <j>], where = [], combine = none}
  }
}
"""

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _matmul_gelu(sizes: Sizes, a: np.ndarray, b: np.ndarray, bias: np.ndarray) -> np.ndarray:
    t = a @ b + bias
    return 0.5 * t * (1 + _erf(t / math.sqrt(2)))


#: Tolerances are for float32: 4e-6 is 32 units in the last place of a value, which rows and sums of up to 300 terms
#: of size 1 keep to; `atol` is that of a sum of such terms that cancels.
SPIKES: dict[str, Spike] = {s.name: s for s in (
    Spike("softmax", SOFTMAX, {"N": (0, 1, 5), "C": (0, 1, 37, 300)},
          lambda d, rng: [_normal(rng, d["N"], d["C"]) * 4],
          lambda d: ((d["N"], d["C"]), np.float32), _softmax, 4e-6, 1e-7),
    Spike("layer_norm", LAYER_NORM, {"N": (0, 1, 5), "C": (0, 1, 37, 300)},
          lambda d, rng: [_normal(rng, d["N"], d["C"]) + 3, _normal(rng, d["C"]), _normal(rng, d["C"])],
          lambda d: ((d["N"], d["C"]), np.float32), _layer_norm, 2e-5, 2e-5),
    Spike("transpose_pad", TRANSPOSE_PAD, {"N": (0, 1, 7, 70), "C": (0, 1, 33)},
          lambda d, rng: [_normal(rng, d["N"], d["C"])],
          lambda d: ((d["C"] + 4, d["N"] + 4), np.float32), _transpose_pad, 0, 0),
    Spike("max_pool", MAX_POOL, {"N": (0, 1, 2), "H": (0, 1, 6), "W": (0, 1, 7), "C": (0, 1, 5)},
          lambda d, rng: [_with_nan(_normal(rng, d["N"], d["H"], d["W"], d["C"]), rng, 2)],
          lambda d: ((d["N"], (d["H"] + 1) // 2, (d["W"] + 1) // 2, d["C"]), np.float32), _max_pool, 0, 0),
    Spike("gather_add", GATHER_ADD, {"V": (0, 1, 9), "N": (0, 1, 6), "C": (0, 1, 40)},
          lambda d, rng: [_normal(rng, d["V"], d["C"]), rng.integers(-d["V"], d["V"], d["N"]) if d["V"]
                          else np.zeros(d["N"], np.int64), _normal(rng, d["N"], d["C"])],
          lambda d: ((d["N"], d["C"]), np.float32), _gather_add, 2e-7, 1e-7,
          lambda d: d["V"] > 0 or d["N"] == 0),
    Spike("argmax", ARGMAX, {"N": (0, 1, 11), "C": (0, 1, 40, 300)}, _argmax_input,
          lambda d: ((d["N"],), np.int64), _argmax, 0, 0),
    Spike("cumsum", CUMSUM, {"A": (0, 1, 3), "L": (0, 1, 70), "B": (0, 1, 5)},
          lambda d, rng: [_normal(rng, d["A"], d["L"], d["B"])],
          lambda d: ((d["A"], d["L"], d["B"]), np.float32), _cumsum, 4e-6, 4e-6),
    Spike("matmul_gelu", MATMUL_GELU, {"M": (0, 1, 37), "N": (0, 1, 2, 70), "K": (0, 1, 90)},
          lambda d, rng: [_normal(rng, d["M"], d["K"]), _normal(rng, d["K"], d["N"]), _normal(rng, d["N"])],
          lambda d: ((d["M"], d["N"]), np.float32), _matmul_gelu, 4e-6, 2e-5),
)}
