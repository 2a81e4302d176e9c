"""Kernels that differ in numbers only share a body, and give what they would give alone."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from llvmlite import ir
from onnx import TensorProto, helper, numpy_helper

import onnxc
from onnxc.codegen.llvm import parts, share
from onnxc.codegen.llvm.parts import Parts
from onnxc.codegen.llvm.pool import pool_ir
from onnxc.codegen.llvm.program import build_program
from onnxc.codegen.llvm.target import Target
from onnxc.driver import CompileOptions, import_to_ir, lower_to_program
from onnxc.link import link_objects
from onnxc.runtime.loader import NativeModule


def layers(widths: list[int]) -> bytes:
    """Products with bias and ReLU, one behind the other; each has its own extents."""
    rng = np.random.default_rng(0)
    nodes, weights, x = [], [], "x"
    for i, (rows, columns) in enumerate(itertools.pairwise(widths)):
        weights.append(numpy_helper.from_array(rng.standard_normal((rows, columns), np.float32) / rows**0.5, f"w{i}"))
        weights.append(numpy_helper.from_array(rng.standard_normal(columns, np.float32), f"b{i}"))
        nodes += [helper.make_node("Gemm", [x, f"w{i}", f"b{i}"], [f"g{i}"]),
                  helper.make_node("Relu", [f"g{i}"], [f"r{i}"])]
        x = f"r{i}"
    graph = helper.make_graph(nodes, "layers",
                              [helper.make_tensor_value_info("x", TensorProto.FLOAT, [33, widths[0]])],
                              [helper.make_tensor_value_info(x, TensorProto.FLOAT, [33, widths[-1]])], weights)
    return onnx.ModelProto(graph=graph, ir_version=8, opset_import=[helper.make_opsetid("", 17)]).SerializeToString()


WIDTHS = [192, 256, 320, 384, 448]


def parts_of(model: bytes, give: Callable[[str], None] | None = None) -> Parts:
    module = import_to_ir(model)
    lower_to_program(module, CompileOptions())
    return build_program(module, Target.host(), give=give).parts


def test_layers_of_other_widths_share_one_body():
    names = [d.name for d in parts_of(layers(WIDTHS)).definitions]
    assert len([n for n in names if n.endswith(".shared")]) < len(WIDTHS) - 1
    assert len([n for n in names if re.fullmatch(r"k\d+_contract\w*", n)]) == len(WIDTHS) - 1


def test_what_shares_a_body_computes_its_own():
    model = layers(WIDTHS)
    x = np.random.default_rng(1).standard_normal((33, WIDTHS[0])).astype(np.float32)
    want = x.astype(np.float64)
    tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load_from_string(model).graph.initializer}
    for i in range(len(WIDTHS) - 1):
        want = np.maximum(want @ tensors[f"w{i}"] + tensors[f"b{i}"], 0)
    (got,) = onnxc.InferenceSession(model).run(None, {"x": x})
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5)        # float32 sums of up to 400 products near 1


@pytest.mark.parametrize("enough", [1, 20_000])
def test_parts_link_to_one_object_that_shows_what_it_is_asked_to(enough: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parts, "_ENOUGH", enough)
    target, texts = Target.host(), list[str]()
    texts.append(parts_of(layers(WIDTHS), texts.append).rest())
    assert len(texts) > 2
    objects = [target.compile(t, linked=[pool_ir(target)] if t is texts[-1] else []) for t in texts]
    with NativeModule(link_objects(objects, ["onnxc_plan", "onnxc_run"])) as native:
        assert set(native.symbols) == {"onnxc_plan", "onnxc_run"}


def test_tables_go_where_they_are_used(monkeypatch: pytest.MonkeyPatch):
    module = ir.Module("m")
    table = ir.GlobalVariable(module, ir.ArrayType(ir.IntType(8), 64), "table")
    table.global_constant, table.linkage = True, "internal"
    table.initializer = ir.Constant(table.value_type, bytearray(64))
    for name in ("k0", "k1"):
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [ir.PointerType()]), name)
        b = ir.IRBuilder(function.append_basic_block("entry"))
        b.store(b.bitcast(table, ir.PointerType()), function.args[0])
        b.ret_void()
    monkeypatch.setattr(parts, "_ENOUGH", 1)
    texts: list[str] = []
    written = Parts(module, texts.append)
    written.add(dict.fromkeys(("k0", "k1"), share.Sharing.NOTHING))
    texts.append(written.rest())
    assert [t.count('@"table" = ') for t in texts] == [1, 1, 1]
    objects = [Target.host().compile(t) for t in texts]
    with NativeModule(link_objects(objects, ["k0", "k1"])) as native:
        assert set(native.symbols) == {"k0", "k1"}
