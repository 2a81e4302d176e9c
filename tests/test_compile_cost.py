"""What compiling costs: time that grows with the nodes, and a host program that LLVM does not dwell on."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from benchmarks.compile_scaling import chain, measure
from onnxc.codegen.llvm.program import build_program
from onnxc.codegen.llvm.target import Target
from onnxc.driver import CompileOptions, import_to_ir, lower_to_program


@pytest.mark.slow
def test_twice_the_nodes_take_about_twice_the_time():
    """The aim is 2.3; processor time on a busy machine varies by some tenths, and a quadratic part would make it 4."""
    (_, once, _), (_, twice, _) = measure([1000, 2000])
    assert twice <= 2.7 * once


@pytest.mark.parametrize(("nodes", "is_optimised"), [(16, True), (1200, False)])
def test_only_short_programs_are_optimised(nodes: int, is_optimised: bool):
    module = import_to_ir(chain(nodes).SerializeToString())
    lower_to_program(module, CompileOptions())
    (run,) = (d.text for d in build_program(module, Target.host()).parts.definitions if d.name == "onnxc_run")
    assert ("optnone" not in run.partition("\n")[0]) == is_optimised


def test_a_chain_of_equal_layers_has_few_kernels():
    module = import_to_ir(chain(240).SerializeToString())
    lower_to_program(module, CompileOptions())
    code = build_program(module, Target.host())
    assert len(code.steps) >= 30
    assert len(code.kernels) <= 4


def pyramid(levels: int) -> onnx.ModelProto:
    """An image halved so many times, and all sizes of it averaged, one behind the other."""
    nodes, outputs = [], []
    for i in range(levels):
        nodes += [helper.make_node("MaxPool", [f"x{i}"], [f"x{i + 1}"], kernel_shape=[3, 3], strides=[2, 2],
                                   pads=[1, 1, 1, 1]),
                  helper.make_node("Softmax", [f"x{i + 1}"], [f"s{i}"], axis=2),
                  helper.make_node("Softmax", [f"s{i}"], [f"y{i}"], axis=3)]
        outputs.append(helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, None))
    image = helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["N", 8, "H", "W"])
    return helper.make_model(helper.make_graph(nodes, "g", [image], outputs),
                             opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_sizes_are_computed_once():
    """The offset of every buffer is made of sizes that are chains of divisions."""
    counts = []
    for levels in (4, 8):
        module = import_to_ir(pyramid(levels).SerializeToString())
        lower_to_program(module, CompileOptions())
        definitions = {d.name: d.text for d in build_program(module, Target.host()).parts.definitions}
        counts.append(sum(definitions[name].count("div ") for name in ("onnxc_plan", "onnxc_run")))
    # Two sizes a level, and a few roundings of bytes for each buffer; chains written out anew would make it 4 times.
    assert counts[1] <= 2.3 * counts[0]
