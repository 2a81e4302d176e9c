"""How far the generated functions are from the true ones: operands, oracles and distances in units in the last place.

`python -m tests.ops.accuracy [--full] [name ...]` prints the greatest error of each function against its stated bound,
as native code of this machine; `--full` takes every one of the 2**32 f32 operands.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator

import numpy as np

from onnxc.ir.types import F32, F64, DType
from onnxc.ops.scalar import SCALARS, ScalarOp

#: Functions whose expansions are approximations, in the table's order.
APPROXIMATE = [name for name, row in SCALARS.items() if any(row.ulps)]

#: Where a function is neither constant nor overflown, for operands of f64 (a superset of f32's).
_RANGES = {
    "exp": (-750.0, 712.0), "exp2": (-1080.0, 1026.0), "expm1": (-40.0, 712.0), "sinh": (-712.0, 712.0),
    "cosh": (-712.0, 712.0), "tanh": (-22.0, 22.0), "sigmoid": (-750.0, 40.0), "erf": (-6.5, 6.5),
    "softplus": (-750.0, 800.0), "asin": (-1.0, 1.0), "acos": (-1.0, 1.0), "atanh": (-1.0, 1.0), "acosh": (1.0, 50.0),
}

#: The functions in whatever precision their operands have.
_ORACLES: dict[str, Callable[..., np.ndarray]] = {
    "rsqrt": lambda x: 1 / np.sqrt(x), "erf": np.vectorize(math.erf, otypes=[np.float64]), "pow": np.power,
    "sigmoid": lambda x: np.where(x < 0, np.exp(-abs(x)), 1) / (1 + np.exp(-abs(x))),
    "softplus": lambda x: np.maximum(x, 0) + np.log1p(np.exp(-abs(x))), "asin": np.arcsin, "acos": np.arccos,
    "atan": np.arctan, "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh,
}


def oracle(name: str, *operands: np.ndarray) -> np.ndarray:
    """The true values: f32 in float64; f64 in the 80 or 128 bits of a long double, erf in float64 (see `slack`)."""
    function = _ORACLES.get(name) or getattr(np, name)
    wide = np.float64 if operands[0].dtype == np.float32 else np.longdouble
    with np.errstate(all="ignore"):
        return np.asarray(function(*(x.astype(wide) for x in operands))).astype(wide)


def slack(name: str, dtype: DType) -> float:
    """What the oracle itself may be off, in ULP: for erf of f64 it is the C library's, which is no wider."""
    return 1.0 if name == "erf" and dtype == F64 else 0.0


def has_oracle(dtype: DType) -> bool:
    """Whether this platform has a wider float than `dtype`."""
    return dtype == F32 or np.finfo(np.longdouble).nmant > 60


def ulps(got: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Distance of each element of `got` from `true` in units in the last place of the rounded true value; infinite
    where one is NaN or infinite and the other is not, or where a zero has the wrong sign."""
    with np.errstate(all="ignore"):
        rounded = true.astype(got.dtype)
        unit = np.spacing(np.where(np.isfinite(rounded), abs(rounded), 1)).astype(true.dtype)
        distance = np.asarray(abs(got.astype(true.dtype) - true) / unit)
        same = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
        largest = np.isinf(rounded) & (abs(got) == np.finfo(got.dtype).max) & (np.signbit(got) == np.signbit(rounded))
    distance = np.where(np.isfinite(rounded) & np.isfinite(got), distance,
                        np.where(same, 0, np.where(largest, 1, np.inf)))
    return np.where((true == 0) & same & (np.signbit(got) != np.signbit(true)), np.inf, distance)


def specials(dtype: DType) -> np.ndarray:
    """Zeros, infinities, NaN, ones, denormals and extremes, with both signs."""
    limits = np.finfo(dtype.numpy)
    least = limits.smallest_subnormal
    positive = [0.0, 1.0, 0.5, 2.0, 3.0, 1.5, math.pi, math.inf, least, 3 * least, limits.tiny, limits.max, limits.eps,
                1 + limits.eps, 1 - limits.epsneg, 2.0**24, 2.0**53, 1e30]
    one_sided = np.array(positive, dtype.numpy)
    return np.concatenate([one_sided, -one_sided, np.array([np.nan], dtype.numpy)])


def _spread(name: str, dtype: DType, count: int, rng: np.random.Generator) -> np.ndarray:
    """Operands of all sizes, most of them where the function varies."""
    low, high = _RANGES.get(name, (-100.0, 100.0))
    quarter = -(-count // 4)
    bits = rng.integers(0, 2**dtype.bits, quarter, dtype=np.uint64).astype(f"u{dtype.bits // 8}").view(dtype.numpy)
    near = rng.standard_normal(quarter) * 2.0 ** rng.uniform(-30, 4, quarter)
    around_one = 1 + rng.standard_normal(quarter) * 2.0 ** rng.uniform(-20, 1, quarter)
    with np.errstate(over="ignore"):
        parts = [x.astype(dtype.numpy) for x in (rng.uniform(low, high, quarter), near, around_one)]
    return np.concatenate([bits, *parts])


def operands(row: ScalarOp, dtype: DType, count: int, seed: int = 0) -> list[np.ndarray]:
    """About `count` reproducible operands of a row, after every combination of special ones."""
    rng = np.random.default_rng([seed, dtype.bits])
    edges = specials(dtype)
    if row.arity == 1:
        return [np.concatenate([edges, _spread(row.name, dtype, count, rng)])]
    x, y = (a.ravel() for a in np.meshgrid(edges, edges))
    base, exponent = _powers(dtype, count, rng)
    return [np.concatenate([x, base]), np.concatenate([y, exponent])]


def _powers(dtype: DType, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Operands of pow whose results cover the whole range, and some with whole exponents and negative bases."""
    most = float(np.finfo(dtype.numpy).maxexp)
    size = np.where(rng.random(count) < 0.5, rng.uniform(-3, 3, count), rng.uniform(-most, most, count))
    base = (2.0**size).astype(dtype.numpy)
    with np.errstate(divide="ignore"):
        exponent = (rng.uniform(-1.2, 1.2, count) * most / np.log2(base.astype(np.float64))).astype(dtype.numpy)
    whole = rng.random(count) < 0.2
    exponent[whole] = rng.integers(-30, 30, count)[whole]
    base[whole & (rng.random(count) < 0.5)] *= -1
    return base, exponent


# ---- the command -----------------------------------------------------------------------------------------------------

Function = Callable[..., np.ndarray]


def native(name: str, dtype: DType) -> Function:
    """The row as native code for this machine."""
    from onnxc.codegen.llvm.target import Target
    from onnxc.ir.parser import parse_func
    from tests.codegen.native import NativeKernel

    row = SCALARS[name]
    args = ", ".join(f"%x{i}: mem<{dtype}[N]>" for i in range(row.arity))
    loads = "".join(f"%v{i} = k.load(%x{i}) {{index = [<i>], where = [], other = 0}} : {dtype}\n"
                    for i in range(row.arity))
    kernel = NativeKernel(parse_func(f"""func @row({args}, %o: mem<{dtype}[N]>) kind "kernel" {{
      k.parallel() {{axes = [<i>], extents = [<N>]}} () {{
        {loads} %r = s.{name}({", ".join(f"%v{i}" for i in range(row.arity))}) : {dtype}
        k.store(%o, %r) {{index = [<i>], where = [], combine = none}} }} }}"""), Target.host())

    def run(*xs: np.ndarray) -> np.ndarray:
        out = np.empty_like(xs[0])
        if error := kernel.run([*map(np.ascontiguousarray, xs), out], {"N": out.size}):
            raise RuntimeError(error)
        return out

    return run


def every_f32(first: float = 0.0, last: float = math.nan, chunk: int = 1 << 22) -> Iterator[np.ndarray]:
    """The f32 numbers from `first` to `last` in the order of their bits, in chunks; by default all 2**32."""
    start = int(np.float32(first).view(np.uint32))
    stop = (1 << 32) if math.isnan(last) else int(np.float32(last).view(np.uint32)) + 1
    for at in range(start, stop, chunk):
        yield np.arange(at, min(at + chunk, stop), dtype=np.uint64).astype(np.uint32).view(np.float32)


def worst(name: str, function: Function, *xs: np.ndarray) -> tuple[float, tuple[float, ...]]:
    """The greatest error over these operands, and where."""
    error = ulps(function(*xs), oracle(name, *xs))
    at = int(error.argmax())
    return float(error[at]), tuple(float(x[at]) for x in xs)


def measure(name: str, dtype: DType, full: bool) -> tuple[float, tuple[float, ...]]:
    """The greatest error of the native function."""
    function, row = native(name, dtype), SCALARS[name]
    if full and dtype == F32 and row.arity == 1:
        return max(worst(name, function, x) for x in every_f32())
    return max(worst(name, function, *operands(row, dtype, 1 << 20, seed)) for seed in range(8 if full else 1))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.ops.accuracy", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help="functions to measure (default: all approximations)")
    parser.add_argument("--full", action="store_true", help="all f32 operands (minutes a function)")
    options = parser.parse_args(arguments)
    status = 0
    for name in options.names or APPROXIMATE:
        for dtype, bound in zip((F32, F64), SCALARS[name].ulps, strict=True):
            if not has_oracle(dtype):
                continue
            error, where = measure(name, dtype, options.full)
            kept = error <= bound + slack(name, dtype)
            status |= not kept
            print(f"{name:10} {dtype}  {error:6.3f} ULP of {bound:3.1f} at {', '.join(map(repr, where))}"
                  f"{'' if kept else '   ABOVE THE BOUND'}", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
