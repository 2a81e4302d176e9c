"""Kernels beyond the spike: each shows the backends one thing that the eight do not. The oracle is `codegen.interp`.

`make(sizes, rng)` gives the arrays of all arguments; `sizes` are those to run at. Backends compare every array with
what the interpreter leaves in it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import ml_dtypes
import numpy as np

from onnxc.ir.core import Func
from onnxc.ir.parser import parse_func

__all__ = ["KERNELS", "Case", "same"]

Arrays = list[np.ndarray]


@dataclasses.dataclass(frozen=True)
class Case:
    """A kernel with sizes to run it at; `rtol` and `atol` allow for another order of sums."""

    name: str
    text: str
    sizes: tuple[Mapping[str, int], ...]
    make: Callable[[Mapping[str, int], np.random.Generator], Arrays]
    rtol: float = 0.0
    atol: float = 0.0

    def func(self) -> Func:
        return parse_func(self.text)

    def arrays(self, sizes: Mapping[str, int]) -> Arrays:
        return self.make(sizes, np.random.default_rng([len(self.name), *sizes.values()]))


def same(case: Case, sizes: Mapping[str, int], found: Arrays, expected: Arrays) -> None:
    """AssertionError unless all arrays agree within the case's tolerance."""
    for k, (a, b) in enumerate(zip(found, expected, strict=True)):
        a, b = (x.astype(np.float64) if x.dtype.kind in "fV" or x.dtype.itemsize < 8 else x for x in (a, b))
        np.testing.assert_allclose(a, b, case.rtol, case.atol, err_msg=f"{case.name} {dict(sizes)} argument {k}")


def _f32(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def _out(dtype: object, *shape: int) -> np.ndarray:
    return np.full(shape, 77, dtype)


# A row kernel over half-precision memory: arithmetic in f32, one rounding at the store.
HALF = """
func @half(%x: mem<f16[N, C]>, %y: mem<bf16[N, C]>, %o: mem<bf16[N, C]>, %h: mem<f16[N]>) kind "kernel" {
  k.parallel() {axes = [<i>], extents = [<N>]} () {
    %s = k.reduce() {axes = [<j>], extents = [<C>], kinds = ["add"]} : f32 () {
      %a = k.load(%x) {index = [<i>, <j>]} : f16
      %b = s.cast(%a) {to = !f32} : f32
      yield(%b)
    }
    %r = s.cast(%s) {to = !f16} : f16
    k.store(%h, %r) {index = [<i>]}
    k.sweep() {axes = [<j1>], extents = [<C>]} () {
      %c = k.load(%y) {index = [<i>, <j1>]} : bf16
      %d = s.cast(%c) {to = !f32} : f32
      %e = s.mul(%d, %s) : f32
      %f = s.cast(%e) {to = !bf16} : bf16
      k.store(%o, %f) {index = [<i>, <j1>]}
    }
  }
}
"""

# No points at all around a sum over two axes: a rank-0 result. The inner axis is reversed.
TOTAL = """
func @total(%x: mem<f64[N, C]>, %o: mem<f64[]>) kind "kernel" {
  k.parallel() {axes = [], extents = []} () {
    %s = k.reduce() {axes = [<i>, <j>], extents = [<N>, <C>], kinds = ["add"]} : f64 () {
      %a = k.load(%x) {index = [<i>, <C - j - 1>]} : f64
      yield(%a)
    }
    k.store(%o, %s) {index = []}
  }
}
"""

# Every kind of fold, of several types, in one nest.
FOLDS = """
func @folds(%x: mem<f32[N, C]>, %z: mem<i8[N, C]>, %b: mem<bool[N, C]>, %p: mem<f32[N]>, %q: mem<f32[N]>,
            %m: mem<i8[N]>, %s: mem<i8[N]>, %u: mem<i8[N]>, %all: mem<bool[N]>, %any: mem<bool[N]>,
            %least: mem<i64[N]>, %last: mem<i64[N]>) kind "kernel" {
  k.parallel() {axes = [<i>], extents = [<N>]} () {
    %r0, %r1, %r2, %r3, %r4, %r5, %r6, %k0, %p0, %k1, %p1 = k.reduce() {axes = [<j>], extents = [<C>],
        kinds = ["mul", "min", "max", "add", "and", "and", "or", "argmin", "argmax_last"]}
        : f32, f32, i8, i8, i8, bool, bool, f32, i64, i8, i64 () {
      %a = k.load(%x) {index = [<i>, <j>]} : f32
      %c = k.load(%z) {index = [<i>, <j>]} : i8
      %d = k.load(%b) {index = [<i>, <j>]} : bool
      %at = k.index() {expr = <j>} : i64
      yield(%a, %a, %c, %c, %c, %d, %d, %a, %at, %c, %at)
    }
    k.store(%p, %r0) {index = [<i>]}
    k.store(%q, %r1) {index = [<i>]}
    k.store(%m, %r2) {index = [<i>]}
    k.store(%s, %r3) {index = [<i>]}
    k.store(%u, %r4) {index = [<i>]}
    k.store(%all, %r5) {index = [<i>]}
    k.store(%any, %r6) {index = [<i>]}
    k.store(%least, %p0) {index = [<i>]}
    k.store(%last, %p1) {index = [<i>]}
  }
}
"""


def _folds(d: Mapping[str, int], rng: np.random.Generator) -> Arrays:
    n, c = d["N"], d["C"]
    x = np.exp2(rng.integers(-2, 3, (n, c))).astype(np.float32)         # products are exact
    if n and c > 3:
        x[0, 2] = np.nan
    z = rng.integers(-128, 128, (n, c), np.int8)
    return [x, z, rng.random((n, c)) < 0.9, _out(np.float32, n), _out(np.float32, n), _out(np.int8, n),
            _out(np.int8, n), _out(np.int8, n), np.zeros(n, bool), np.zeros(n, bool), _out(np.int64, n),
            _out(np.int64, n)]


# A scan that is exclusive and runs backwards, of integers that wrap, with the elements themselves in the second region.
SCAN = """
func @scan(%x: mem<i32[N, L]>, %o: mem<i32[N, L]>, %w: mem<i32[N, L]>) kind "kernel" {
  k.parallel() {axes = [<i>], extents = [<N>]} () {
    k.scan() {axis = <l>, extent = <L>, kind = "add", exclusive = true} () {
      %v = k.load(%x) {index = [<i>, <L - l - 1>]} : i32
      yield(%v)
    } (%acc: i32) {
      k.store(%o, %acc) {index = [<i>, <L - l - 1>]}
    }
    k.scan() {axis = <l1>, extent = <L>, kind = "max", exclusive = false} () {
      %v1 = k.load(%x) {index = [<i>, <l1>]} : i32
      yield(%v1)
    } (%acc1: i32) {
      %v2 = k.load(%x) {index = [<i>, <l1>]} : i32
      %d = s.sub(%acc1, %v2) : i32
      k.store(%w, %d) {index = [<i>, <l1>]}
    }
  }
}
"""

# Scatter with addition: points that meet. Out of range positions are an error and write nothing.
SCATTER_ADD = """
func @scatter_add(%idx: mem<i64[N]>, %x: mem<f32[N, C]>, %o: mem<f32[V, C]>) kind "kernel" {
  k.parallel() {axes = [<i>, <j>], extents = [<N>, <C>]} () {
    %at = k.load(%idx) {index = [<i>]} : i64
    %n = k.index() {expr = <V>} : i64
    %zero = s.const() {value = 0, dtype = !i64} : i64
    %low = s.ge(%at, %zero) : bool
    %high = s.lt(%at, %n) : bool
    k.require(%low) {message = "an index is negative"}
    k.require(%high) {message = "an index is too large"}
    %v = k.load(%x) {index = [<i>, <j>]} : f32
    k.store(%o, %v, %at) {index = [<$0>, <j>], where = [[<$0>, 0, <V>]], combine = "add"}
  }
}
"""

# Scatter with a product, for which no machine has an atomic.
SCATTER_MUL = """
func @scatter_mul(%idx: mem<i32[N]>, %x: mem<f32[N]>, %o: mem<f32[V]>) kind "kernel" {
  k.parallel() {axes = [<i>], extents = [<N>]} () {
    %a = k.load(%idx) {index = [<i>]} : i32
    %at = s.cast(%a) {to = !i64} : i64
    %v = k.load(%x) {index = [<i>]} : f32
    k.store(%o, %v, %at) {index = [<$0>], combine = "mul"}
  }
}
"""

# Division and remainder in indices, of negative numbers too: a resize, and a rotation of a row.
RESIZE = """
func @resize(%x: mem<f32[N, W]>, %o: mem<f32[N, 3*W]>, %r: mem<f32[N, W]>) kind "kernel" {
  k.parallel() {axes = [<i>, <j>], extents = [<N>, <3*W>]} () {
    %v = k.load(%x) {index = [<i>, <(j + 1) // 3>], where = [[<(j + 1) // 3>, 0, <W>]], other = -1.5} : f32
    k.store(%o, %v) {index = [<i>, <j>]}
    %u = k.load(%x) {index = [<i>, <(j - 5) % W>]} : f32
    k.store(%r, %u) {index = [<i>, <j>], where = [[<j>, 0, <W>]]}
  }
}
"""

# A loop that is read by a loop inside it: row i of the output sums row i of x against every row of y.
NESTED = """
func @nested(%x: mem<f32[N, C]>, %y: mem<f32[V, C]>, %o: mem<f32[N, V]>) kind "kernel" {
  k.parallel() {axes = [<i>], extents = [<N>]} () {
    k.sweep() {axes = [<v>], extents = [<V>]} () {
      %s = k.reduce() {axes = [<j>], extents = [<C>], kinds = ["add"]} : f32 () {
        %a = k.load(%x) {index = [<i>, <j>]} : f32
        %b = k.load(%y) {index = [<v>, <j>]} : f32
        %c = s.mul(%a, %b) : f32
        yield(%c)
      }
      k.store(%o, %s) {index = [<i>, <v>]}
    }
  }
}
"""

# Casts: floats to integers out of range and NaN, integers that wrap, to bool, to half and back.
CASTS = """
func @casts(%x: mem<f32[N]>, %z: mem<i64[N]>, %a: mem<i32[N]>, %b: mem<u8[N]>, %c: mem<bool[N]>, %d: mem<f16[N]>,
            %e: mem<i8[N]>, %f: mem<u32[N]>, %g: mem<bf16[N]>, %h: mem<f64[N]>) kind "kernel" {
  k.parallel() {axes = [<i>], extents = [<N>]} () {
    %v = k.load(%x) {index = [<i>]} : f32
    %w = k.load(%z) {index = [<i>]} : i64
    %a1 = s.cast(%v) {to = !i32} : i32
    k.store(%a, %a1) {index = [<i>]}
    %b1 = s.cast(%v) {to = !u8} : u8
    k.store(%b, %b1) {index = [<i>]}
    %c1 = s.cast(%v) {to = !bool} : bool
    k.store(%c, %c1) {index = [<i>]}
    %d1 = s.cast(%v) {to = !f16} : f16
    k.store(%d, %d1) {index = [<i>]}
    %e1 = s.cast(%w) {to = !i8} : i8
    k.store(%e, %e1) {index = [<i>]}
    %f1 = s.cast(%v) {to = !u32} : u32
    k.store(%f, %f1) {index = [<i>]}
    %g1 = s.cast(%v) {to = !bf16} : bf16
    k.store(%g, %g1) {index = [<i>]}
    %h1 = s.cast(%d1) {to = !f64} : f64
    k.store(%h, %h1) {index = [<i>]}
  }
}
"""


def _casts(d: Mapping[str, int], rng: np.random.Generator) -> Arrays:
    n = d["N"]
    special = np.array([0, -0.0, math.nan, math.inf, -math.inf, 3e9, -3e9, 0.5, -1.5, 255.9, 256, 65520, 1e-8, 5e9,
                        2147483520, -1, 1.00390625, 300.7], np.float32)
    x = np.concatenate([special, _f32(rng, 200) * 100])[:n]
    z = rng.integers(-2**63, 2**63 - 1, n)
    types = (np.int32, np.uint8, bool, np.float16, np.int8, np.uint32, ml_dtypes.bfloat16, np.float64)
    return [x, z, *(np.zeros(n, t) for t in types)]


# A convolution as a contraction: 3x3, pad 1, stride 2, channels last, f16 operands, f32 sum.
CONV = """
func @conv(%x: mem<f16[N, H, W, C]>, %w: mem<f16[O, 3, 3, C]>, %o: mem<f32[N, (H + 1) // 2, (W + 1) // 2, O]>)
    kind "kernel" {
  k.contract() {batch = [], m = [[<n>, <N>], [<p>, <(H + 1) // 2>], [<q>, <(W + 1) // 2>]], n = [[<f>, <O>]],
                k = [[<r>, 3], [<s>, 3], [<c>, <C>]], accumulate = !f32} () {
    %a = k.load(%x) {index = [<n>, <2*p + r - 1>, <2*q + s - 1>, <c>],
                     where = [[<2*p + r - 1>, 0, <H>], [<2*q + s - 1>, 0, <W>]]} : f16
    %a1 = s.cast(%a) {to = !f32} : f32
    yield(%a1)
  } () {
    %b = k.load(%w) {index = [<f>, <r>, <s>, <c>]} : f16
    %b1 = s.cast(%b) {to = !f32} : f32
    yield(%b1)
  } (%acc: f32) {
    k.store(%o, %acc) {index = [<n>, <p>, <q>, <f>]}
  }
}
"""

# A batched product with a prologue whose value at the edge of k is not 0, in any element type of the sum.
BATCHED = """
func @batched(%x: mem<TYPE[B, M, K]>, %y: mem<TYPE[B, N, K]>, %o: mem<TYPE[B, M, N]>) kind "kernel" {
  k.contract() {batch = [[<b>, <B>]], m = [[<i>, <M>]], n = [[<j>, <N>]], k = [[<p>, <K>]], accumulate = !TYPE} () {
    %one = s.const() {value = 1, dtype = !TYPE} : TYPE
    %a = k.load(%x) {index = [<b>, <i>, <p>]} : TYPE
    %a1 = s.add(%a, %one) : TYPE
    yield(%a1)
  } () {
    %c = k.load(%y) {index = [<b>, <j>, <p>]} : TYPE
    yield(%c)
  } (%acc: TYPE) {
    k.store(%o, %acc) {index = [<b>, <i>, <j>]}
  }
}
"""

# Int8 operands and an i32 sum, written out as i32.
INT8 = """
func @int8(%x: mem<i8[M, K]>, %y: mem<i8[K, N]>, %o: mem<i32[M, N]>) kind "kernel" {
  k.contract() {batch = [], m = [[<i>, <M>]], n = [[<j>, <N>]], k = [[<p>, <K>]], accumulate = !i32} () {
    %a = k.load(%x) {index = [<i>, <p>]} : i8
    yield(%a)
  } () {
    %c = k.load(%y) {index = [<p>, <j>]} : i8
    yield(%c)
  } (%acc: i32) {
    k.store(%o, %acc) {index = [<i>, <j>]}
  }
}
"""

# A value that is stored and read back at another place in the same kernel.
STAGED = """
func @staged(%x: mem<f32[N, C]>, %t: mem<f32[N, C]>, %o: mem<f32[N, C]>) kind "kernel" {
  k.parallel() {axes = [<i>], extents = [<N>]} () {
    k.sweep() {axes = [<j>], extents = [<C>]} () {
      %v = k.load(%x) {index = [<i>, <j>]} : f32
      %w = s.add(%v, %v) : f32
      k.store(%t, %w) {index = [<i>, <j>]}
    }
    k.sweep() {axes = [<j1>], extents = [<C>]} () {
      %u = k.load(%t) {index = [<i>, <C - j1 - 1>]} : f32
      k.store(%o, %u) {index = [<i>, <j1>]}
    }
  }
}
"""


def _batched(dtype: type) -> Callable[[Mapping[str, int], np.random.Generator], Arrays]:
    def make(d: Mapping[str, int], rng: np.random.Generator) -> Arrays:
        x, y = (rng.integers(-9, 10, (d["B"], d[rows], d["K"])).astype(dtype) for rows in ("M", "N"))
        return [x, y, _out(dtype, d["B"], d["M"], d["N"])]
    return make


_ROWS = ({"N": 3, "C": 37}, {"N": 1, "C": 1}, {"N": 2, "C": 0}, {"N": 0, "C": 5}, {"N": 2, "C": 300})
_PRODUCTS = ({"B": 2, "M": 9, "N": 7, "K": 18}, {"B": 1, "M": 1, "N": 1, "K": 1}, {"B": 2, "M": 3, "N": 2, "K": 0},
             {"B": 0, "M": 3, "N": 2, "K": 4})

KERNELS: dict[str, Case] = {c.name: c for c in (
    Case("half", HALF, _ROWS, lambda d, rng: [
        _f32(rng, d["N"], d["C"]).astype(np.float16), _f32(rng, d["N"], d["C"]).astype(ml_dtypes.bfloat16),
        _out(ml_dtypes.bfloat16, d["N"], d["C"]), _out(np.float16, d["N"])], 1e-2, 1e-2),
    Case("total", TOTAL, _ROWS, lambda d, rng: [rng.standard_normal((d["N"], d["C"])), _out(np.float64)], 1e-12, 1e-12),
    Case("folds", FOLDS, _ROWS, _folds),
    Case("scan", SCAN, ({"N": 3, "L": 37}, {"N": 1, "L": 1}, {"N": 2, "L": 0}, {"N": 2, "L": 300}),
         lambda d, rng: [rng.integers(-2**31, 2**31 - 1, (d["N"], d["L"])).astype(np.int32),
                         _out(np.int32, d["N"], d["L"]), _out(np.int32, d["N"], d["L"])]),
    Case("scatter_add", SCATTER_ADD, ({"N": 9, "C": 5, "V": 3}, {"N": 0, "C": 5, "V": 3}, {"N": 3, "C": 0, "V": 2}),
         lambda d, rng: [rng.integers(0, d["V"], d["N"]), _f32(rng, d["N"], d["C"]), _f32(rng, d["V"], d["C"])],
         1e-6, 1e-6),
    Case("scatter_mul", SCATTER_MUL, ({"N": 9, "V": 3}, {"N": 0, "V": 3}),
         lambda d, rng: [rng.integers(0, d["V"], d["N"]).astype(np.int32), _f32(rng, d["N"]), _f32(rng, d["V"])], 1e-6),
    Case("resize", RESIZE, ({"N": 2, "W": 7}, {"N": 1, "W": 1}, {"N": 3, "W": 70}),
         lambda d, rng: [_f32(rng, d["N"], d["W"]), _out(np.float32, d["N"], 3 * d["W"]),
                         _out(np.float32, d["N"], d["W"])]),
    Case("nested", NESTED, ({"N": 3, "C": 37, "V": 5}, {"N": 1, "C": 1, "V": 1}, {"N": 2, "C": 0, "V": 3}),
         lambda d, rng: [_f32(rng, d["N"], d["C"]), _f32(rng, d["V"], d["C"]), _out(np.float32, d["N"], d["V"])],
         1e-5, 1e-5),
    Case("casts", CASTS, ({"N": 218}, {"N": 1}, {"N": 0}), _casts),
    Case("conv", CONV, ({"N": 1, "H": 5, "W": 6, "C": 20, "O": 18}, {"N": 2, "H": 1, "W": 1, "C": 1, "O": 1},
                        {"N": 1, "H": 4, "W": 3, "C": 0, "O": 2}),
         lambda d, rng: [_f32(rng, d["N"], d["H"], d["W"], d["C"]).astype(np.float16),
                         _f32(rng, d["O"], 3, 3, d["C"]).astype(np.float16),
                         _out(np.float32, d["N"], (d["H"] + 1) // 2, (d["W"] + 1) // 2, d["O"])], 1e-5, 1e-5),
    Case("int8", INT8, ({"M": 18, "N": 9, "K": 20}, {"M": 1, "N": 1, "K": 1}, {"M": 2, "N": 3, "K": 0}),
         lambda d, rng: [rng.integers(-128, 128, (d["M"], d["K"]), np.int8),
                         rng.integers(-128, 128, (d["K"], d["N"]), np.int8), _out(np.int32, d["M"], d["N"])]),
    Case("staged", STAGED, _ROWS, lambda d, rng: [_f32(rng, d["N"], d["C"]), _out(np.float32, d["N"], d["C"]),
                                                  _out(np.float32, d["N"], d["C"])]),
    *(Case(f"batched_{name}", BATCHED.replace("TYPE", name), _PRODUCTS, _batched(dtype))
      for name, dtype in (("f32", np.float32), ("f64", np.float64), ("i32", np.int32), ("u8", np.uint8))),
)}
