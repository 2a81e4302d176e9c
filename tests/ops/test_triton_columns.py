"""The Triton column and the expansions as Triton text: every row simulated, and the choice of instructions on a GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from onnxc.codegen.triton.emit import emit_kernel
from onnxc.codegen.triton.simulate import Simulator
from onnxc.codegen.triton.target import GpuTarget, compile_kernel
from onnxc.ir.core import Func
from onnxc.ir.parser import parse_func
from onnxc.ir.types import BOOL, F32, F64, I8, I32, I64, U8, U32, U64, DType
from onnxc.ops import kernel  # noqa: F401  (its rows)
from onnxc.ops.scalar import SCALARS, ScalarOp
from tests.ops.accuracy import has_oracle, operands, oracle, slack, ulps
from tests.ops.test_scalar import grid

pytestmark = pytest.mark.triton

DTYPES = [F32, F64, I8, U8, I32, U32, I64, U64, BOOL]


def kernel_of(rows: Sequence[ScalarOp], dtype: DType) -> Func:
    """Rows applied elementwise, each to arguments of its own."""
    args, body = [], []
    for row in rows:
        types = [BOOL, dtype, dtype] if row.rule == "select" else [dtype] * row.arity
        out = BOOL if row.rule in ("compare", "logical") else dtype
        names = [f"{row.name}{i}" for i in range(row.arity)]
        args += [f"%{n}: mem<{t}[N]>" for n, t in zip(names, types, strict=True)] + [f"%{row.name}_o: mem<{out}[N]>"]
        body += [f"%{n}_v = k.load(%{n}) {{index = [<i>], where = [], other = 0}} : {t}"
                 for n, t in zip(names, types, strict=True)]
        body += [f"%{row.name}_r = s.{row.name}({', '.join(f'%{n}_v' for n in names)}) : {out}",
                 f"k.store(%{row.name}_o, %{row.name}_r) {{index = [<i>], where = [], combine = none}}"]
    text = "\n".join(body)
    return parse_func(f"""func @rows({", ".join(args)}) kind "kernel" {{
      k.parallel() {{axes = [<i>], extents = [<N>]}} () {{ {text} }} }}""")


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with Simulator() as s:
        yield s


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_simulated(simulator: Simulator, dtype: DType) -> None:
    """What the text computes is what the numpy column says: exactly, or within the row's bound."""
    if not has_oracle(dtype) and dtype.is_float:
        pytest.skip("this platform's long double is no wider than f64")
    for row in SCALARS.values():
        if dtype.kind not in row.kinds or row.unchecked:
            continue
        bounded = any(row.ulps) and dtype.is_float
        xs = operands(row, dtype, 300) if bounded else grid(row, dtype)
        want = np.asarray(row.numpy(*xs))
        got = np.zeros_like(want)
        assert simulator.launch(emit_kernel(kernel_of([row], dtype)), [*xs, got], {"N": want.size}) == []
        if bounded:
            error = ulps(got, oracle(row.name, *xs))
            assert error.max() <= row.ulps[dtype == F64] + slack(row.name, dtype), f"{row.name} {dtype}: {error.max()}"
        else:
            np.testing.assert_array_equal(got, want, err_msg=f"{row.name} {dtype}")


def test_instructions_on_a_gpu() -> None:
    """Division and root are correctly rounded, NaN goes through maxima, and nothing takes denormals for 0."""
    names = ("add", "mul", "fma", "div", "sqrt", "rsqrt", "max", "floor", "ceil", "round", "neg", "abs", "exp")
    func = kernel_of([SCALARS[n] for n in names], F32)
    ptx = compile_kernel(emit_kernel(func), GpuTarget.parse("sm_90")).ptx
    for wanted in ("div.rn.f32", "sqrt.rn.f32", "max.NaN.f32", "fma.rn.f32"):
        assert wanted in ptx
    for unwanted in (".ftz", ".approx", "div.full"):
        assert unwanted not in ptx
