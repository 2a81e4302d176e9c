"""What the compiler makes of a graph against the reference column: through the passes on numpy, and natively."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxc.codegen.program_interp import run_program
from onnxc.driver import CompileOptions, emit, pass_context
from onnxc.ir.core import Module
from onnxc.ir.interp import run_func
from onnxc.ir.parser import parse_module
from onnxc.ir.printer import print_module
from onnxc.ir.rewrite import Fuel
from onnxc.ir.verify import verify
from onnxc.passes import pipeline
from onnxc.passes.plan_memory import check_plan
from tests.graphs.grow import Graph

__all__ = ["OPTIONAL", "check_graph", "check_native", "compile_graph", "compare", "expected"]

OPTIONAL = tuple(p.name for p in pipeline.PIPELINE if not p.required)
_AS_LOWERED = {"schedule": lambda module: None, "pack": lambda module: None}      # kernels as they were lowered


def copy(module: Module) -> Module:
    """The module again, by way of its text."""
    again = parse_module(print_module(module), module.constants)
    again.meta.update(module.meta)
    return again


def compile_graph(graph: Graph, context: pipeline.Context, left_out: Sequence[str] = ()) -> Module:
    """The program of a graph; the IR is verified after every pass."""
    module = copy(graph.module)
    pipeline.run(module, context, pipeline.PIPELINE[1:], left_out, [lambda name, m: verify(m)])
    return module


def expected(graph: Graph) -> list[list[np.ndarray]]:
    """The outputs of the graph by the reference column, for each binding."""
    return [run_func(graph.module, graph.module.main, graph.feeds(b), b) for b in graph.bindings]


def check_graph(graph: Graph, wanted: list[list[np.ndarray]], left_out: Sequence[str] = (),
                fuel: int | None = None) -> int:
    """AssertionError unless the compiled graph gives what is wanted, and its memory plan holds; how many rewrites it
    took."""
    context = pipeline.Context(Fuel(fuel), supplied=_AS_LOWERED)
    module = compile_graph(graph, context, left_out)
    for sizes, outputs in zip(graph.bindings, wanted, strict=True):
        known = {s: sizes[s] for s in module.main.attrs["symbols"]}  # type: ignore[union-attr, misc, index]
        check_plan(module, known)
        found, errors = run_program(module, graph.feeds(sizes), known)
        assert not errors, errors
        compare(found, outputs, graph.tolerances, sizes)
    return context.fuel.used


def check_native(graph: Graph, wanted: list[list[np.ndarray]], threads: int = 2, target: str = "host") -> None:
    """AssertionError unless the native program gives what is wanted."""
    from onnxc.runtime.program import NativeProgram

    options = CompileOptions(target=target)
    program = NativeProgram(emit(compile_graph(graph, pass_context(options)), options), threads=threads)
    for sizes, outputs in zip(graph.bindings, wanted, strict=True):
        found = program.run([np.asarray(a, order="C") for a in graph.feeds(sizes)])
        compare(found, outputs, graph.tolerances, sizes)


def compare(found: Sequence[Any], wanted: Sequence[np.ndarray], tolerances: Sequence[float],
            sizes: dict[str, int]) -> None:
    """Equal shapes and types; elements equal, NaN included, or within the tolerance of their output."""
    for i, (a, b, tolerance) in enumerate(zip(found, wanted, tolerances, strict=True)):
        assert a.shape == b.shape and a.dtype == b.dtype, f"output {i}: {a.dtype}{a.shape}, not {b.dtype}{b.shape}"
        if a.dtype.kind in "biu":
            good = a == b
        else:
            with np.errstate(all="ignore"):
                x, y = a.astype(np.float64), b.astype(np.float64)
                good = (x == y) | (np.isnan(x) & np.isnan(y)) | (np.abs(x - y) <= tolerance)
        assert np.all(good), f"output {i} with {sizes}, within {tolerance:.1e}:\n{a}\nis not\n{b}"
