"""What compiling costs: time that grows with the nodes, and a host program that LLVM does not dwell on."""

from __future__ import annotations

import pytest

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
    (run,) = (d.text for d in build_program(module, Target.host()).functions.definitions if d.name == "onnxc_run")
    assert ("optnone" not in run.partition("\n")[0]) == is_optimised


def test_a_chain_of_equal_layers_has_few_kernels():
    module = import_to_ir(chain(240).SerializeToString())
    lower_to_program(module, CompileOptions())
    code = build_program(module, Target.host())
    assert len(code.steps) >= 30
    assert len(code.kernels) <= 4
