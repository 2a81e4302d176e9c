"""What is folded and what is not: budgets of bytes, and groups as functions that can be run and are verified."""

from __future__ import annotations

import numpy as np
import pytest

from onnxc.ir.builder import Builder
from onnxc.ir.core import Func, Module, Op
from onnxc.ir.dims import sym
from onnxc.ir.interp import run_func
from onnxc.ir.types import F32, Tensor
from onnxc.ir.verify import VerifyError, verify
from onnxc.ops import load_all
from onnxc.passes import fold as folding
from onnxc.passes.fuse import fuse

load_all()


def padded(rows: int) -> Module:
    """Constants of 4 KB, each padded to 8."""
    module = Module()
    func = module.add(Func("main"))
    b = Builder(module, func.body)
    results = [b.value("t.pad", b.const(np.full(1024, i, np.float32)), low=(0,), high=(1024,)) for i in range(rows)]
    b.op("return", results, types=())
    func.result_types = [v.type for v in results]
    return module


def names(module: Module) -> list[str]:
    return [op.name for op in module.walk()]


def test_all_is_folded_within_the_budget() -> None:
    module = padded(5)
    folding.fold(module)
    assert "t.pad" not in names(module)


def test_folding_stops_when_the_constants_have_grown_by_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "_TOGETHER", 10 << 10)
    module = padded(5)
    folding.fold(module)
    assert names(module).count("t.pad") == 3


def test_a_large_result_stays_in_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "_EACH", 4096)
    module = Module()
    func = module.add(Func("main"))
    b = Builder(module, func.body)
    c = b.const(np.zeros(1024, np.float32))
    grown = b.value("t.pad", c, low=(0,), high=(1,))
    turned = b.value("t.slice", c, starts=(1023,), sizes=(1024,), steps=(-1,))
    b.op("return", [grown, turned], types=())
    func.result_types = [grown.type, turned.type]
    folding.fold(module)
    assert names(module).count("t.pad") == 1
    assert "t.slice" not in names(module), "what grows no constant is always folded"


def fused() -> Module:
    module = Module()
    func = module.add(Func("main", [Tensor(F32, (sym("N"), 3))], ["x"]))
    b = Builder(module, func.body)
    total = b.value("t.reduce", b.value("t.exp", func.args[0]), kind="add", axes=(1,))
    product = b.value("t.contract", func.args[0], b.const(np.eye(3, 20, dtype=np.float32)), spec="mk,kn->mn")
    b.op("return", [total, product], types=())
    func.result_types = [total.type, product.type]
    fuse(module)
    return module


def test_a_fused_function_runs() -> None:
    module = fused()
    assert {op.name for op in module.main.body.ops} == {"t.fused", "t.const", "return"}
    x = np.array([[1, 2, 3], [0, -1, 1]], np.float32)
    total, product = run_func(module, module.main, [x])
    np.testing.assert_allclose(total, np.exp(x).sum(1), rtol=1e-6)
    np.testing.assert_array_equal(product, x @ np.eye(3, 20, dtype=np.float32))


def group(module: Module) -> Op:
    return next(op for op in module.main.body.ops if op.name == "t.fused")


def test_what_a_group_takes_and_yields_is_verified() -> None:
    module = fused()
    verify(module, 2)
    group(module).regions[0].args[0].type = Tensor(F32, (sym("N"), 4))
    with pytest.raises(VerifyError, match=r"the region of t.fused takes \(f32\[N, 4\]\), not \(f32\[N, 3\]\)"):
        verify(module)
    module = fused()
    region = group(module).regions[0]
    region.terminator.set_operands([region.args[0]])
    with pytest.raises(VerifyError, match=r"the region of t.fused yields \(f32\[N, 3\]\), not \(f32\[N\]\)"):
        verify(module)
