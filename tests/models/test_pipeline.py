"""Whole networks through every pass: verified and read back from text after each, and right on numpy.

With `--zoo DIR` the same holds for exported models found there (`DIR/NAME/model.onnx`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from onnxc.codegen.program_interp import run_program
from onnxc.driver import CompileOptions, import_to_ir, pass_context
from onnxc.frontend import loaded_proto
from onnxc.ir.core import Module
from onnxc.ir.interp import bind_dims
from onnxc.ir.types import Mem, Tensor
from onnxc.ir.verify import verify
from onnxc.passes import pipeline
from onnxc.passes.plan_memory import check_plan
from tests.models.nets import NETS

# Of the largest output: f32 sums of up to a few hundred terms, in another order than the reference's.
TOLERANCE = 2e-5


def lower_checked(module: Module, options: CompileOptions) -> list[str]:
    """Run the pipeline; after every pass verify and demand that the printed text reads back as the same module."""
    names: list[str] = []

    def check(name: str, m: Module) -> None:
        verify(m, 2)
        names.append(name)

    pipeline.run(module, pass_context(options), pipeline.PIPELINE, options.left_out(), [check])
    return names


def dims_of(module: Module, feeds: list[np.ndarray]) -> dict[str, int]:
    types = [Tensor(a.type.dtype, a.type.shape) for a in module.main.args[:len(feeds)] if isinstance(a.type, Mem)]
    return bind_dims(types, feeds)


@pytest.mark.parametrize("level", [0, 3])
@pytest.mark.parametrize("name", NETS)
def test_network(name: str, level: int) -> None:
    model, samples = NETS[name]()
    module = import_to_ir(loaded_proto(model), CompileOptions())
    ran = lower_checked(module, CompileOptions(target="x86-64-v3", level=level))
    assert ("fuse" in ran) and ("cse" in ran) == (level > 0)
    reference = ReferenceEvaluator(model)
    for feeds in samples:
        arrays = [feeds[a.name] for a in module.main.args[:len(feeds)]]
        dims = dims_of(module, arrays)
        check_plan(module, dims)
        outputs, errors = run_program(module, arrays, dims)
        assert not errors
        for found, expected in zip(outputs, reference.run(None, feeds), strict=True):
            assert found.shape == expected.shape
            assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_batch_norms_join_their_convolutions() -> None:
    module = import_to_ir(loaded_proto(NETS["residual_cnn"]()[0]), CompileOptions())
    lower_checked(module, CompileOptions(target="x86-64-v3"))
    scaled = [f.name for f in module.funcs.values() if f.kind == "kernel" and "contract" in f.name and "mul" in f.name]
    assert len(scaled) == 1, f"only the gate multiplies a product: {scaled}"


def test_between_convolutions_nothing_is_transposed() -> None:
    seen: list[int] = []
    module = import_to_ir(loaded_proto(NETS["residual_cnn"]()[0]), CompileOptions())

    def count(name: str, m: Module) -> None:
        if name == "dce-2":
            seen.append(sum(op.name == "t.transpose" for op in m.main.walk()))

    pipeline.run(module, pass_context(CompileOptions(target="x86-64-v3")), hooks=[count])
    assert seen == [1], "one transpose brings the image channels last, and no other is left"


def test_exported_models(zoo: Path | None) -> None:
    if zoo is None:
        pytest.skip("no exported models: give their folder with --zoo DIR")
    models = sorted(zoo.glob("*/model.onnx"))
    assert models
    for path in models:
        lower_checked(import_to_ir(str(path)), CompileOptions(target="x86-64-v3"))


def test_models_load_as_bytes_and_files_alike(tmp_path: Path) -> None:
    model, _ = NETS["tabular"]()
    onnx.save(model, tmp_path / "m.onnx")
    a, b = import_to_ir(str(tmp_path / "m.onnx")), import_to_ir(model.SerializeToString())
    assert [op.name for op in a.walk()] == [op.name for op in b.walk()]
