"""Runs a model in three ways: as a program on numpy with planned, poisoned memory; natively; and by an oracle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxc.codegen.program_interp import run_program
from onnxc.driver import CompileOptions, emit, import_to_ir, lower_to_program
from onnxc.ir.core import Module
from onnxc.ir.interp import bind_dims
from onnxc.passes.plan_memory import check_plan
from onnxc.runtime.program import NativeProgram

Feeds = Mapping[str, np.ndarray]


def model(nodes: Sequence[onnx.NodeProto], inputs: Mapping[str, tuple[type, Sequence[int | str]]],
          outputs: Sequence[str],
          constants: Mapping[str, object] | None = None) -> onnx.ModelProto:
    """A model whose outputs have no declared shapes."""
    graph = helper.make_graph(list(nodes), "g", [_info(n, t, s) for n, (t, s) in inputs.items()],
                              [onnx.ValueInfoProto(name=o) for o in outputs],
                              [onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in (constants or {}).items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _info(name: str, element: type, shape: Sequence[int | str] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(element)), shape)


def body(nodes: Sequence[onnx.NodeProto], inputs: Sequence[str], outputs: Sequence[str],
         types: Mapping[str, type] | None = None) -> onnx.GraphProto:
    """A subgraph; inputs are floats of unknown shape unless `types` says otherwise."""
    known = {"i": np.int64, "go": np.bool_, **(types or {})}
    scalars = {"i", "i2", "go", "go2"}
    return helper.make_graph(list(nodes), "body",
                             [_info(n, known.get(n, np.float32), [] if n in scalars else None) for n in inputs],
                             [_info(n, known.get(n, np.float32), None) for n in outputs])


def node(op: str, inputs: str, outputs: str, **attributes: object) -> onnx.NodeProto:
    """Inputs that are left out stand as "_"."""
    return helper.make_node(op, [i if i != "_" else "" for i in inputs.split()],
                            [o if o != "_" else "" for o in outputs.split()], f"{op}_{outputs.split()[0]}",
                            **attributes)


def compile_to_program(m: onnx.ModelProto) -> Module:
    module = import_to_ir(m.SerializeToString(), CompileOptions())
    lower_to_program(module, CompileOptions(verify=2))
    return module


def check(m: onnx.ModelProto, feeds: Sequence[Feeds], expected: Sequence[Sequence[np.ndarray]] | None = None,
          tolerance: float = 0.0) -> list[list[np.ndarray]]:
    """All ways agree on all feeds, with one compilation; gives the native results. Without `expected`, ONNX Runtime
    says what is right. `tolerance` is relative to the largest element."""
    program = compile_to_program(m)
    native = NativeProgram(emit(program, CompileOptions()))
    expected = ort_results(m, feeds) if expected is None else expected
    found = []
    for k, feed in enumerate(feeds):
        want = expected[k]
        inputs = program.main.args[:int(program.main.attrs["inputs"])]  # type: ignore[arg-type]
        arrays = [np.asarray(feed[a.name]) for a in inputs]
        dims = bind_dims([a.type for a in inputs], arrays)
        check_plan(program, dims)
        results, errors = run_program(program, arrays, dims)
        assert not errors
        found.append(native.run([np.ascontiguousarray(a).reshape(a.shape) for a in arrays]))
        for way in (results, found[-1]):
            assert len(way) == len(want)
            for got, right in zip(way, want, strict=True):
                same(got, np.asarray(right), tolerance)
    return found


def same(got: np.ndarray, right: np.ndarray, tolerance: float) -> None:
    if right.shape == (0,) and got.shape[:1] == (0,):
        right = right.reshape(got.shape)         # ONNX Runtime does not know the shape of rows that no iteration made
    assert got.dtype == right.dtype and got.shape == right.shape
    if tolerance:
        largest = np.abs(right).max(initial=0)
        assert np.abs(got.astype(np.float64) - right).max(initial=0) <= tolerance * max(largest, 1e-30)
    else:
        np.testing.assert_array_equal(got, right)


def ort_results(m: onnx.ModelProto, feeds: Sequence[Feeds]) -> list[list[np.ndarray]]:
    """What ONNX Runtime gives."""
    api = pytest.importorskip("onnxruntime")
    session = api.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"])
    return [session.run(None, dict(f)) for f in feeds]

