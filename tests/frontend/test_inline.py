"""Schema functions put in place of their ops: the module computes the same, and no op that has a function is left."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxc.frontend import import_model, loaded_proto
from onnxc.frontend.inline import expand, function_body
from onnxc.ir.core import Module
from tests.frontend.onnx_level import run_onnx_runtime, run_reference, to_model

#: A function that draws random numbers, one with a region, and one whose Loop the reference evaluator gets wrong (it
#: stacks scalars to a matrix); ONNX Runtime checks that one below.
NOT_COMPARED = {"Bernoulli", "SequenceMap", "Range"}


def cases() -> Iterator[object]:
    """The one-node models of ONNX's own backend suite whose operator has a function."""
    from onnx.backend.test.case.node import collect_testcases
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        everything = collect_testcases(None)
    for case in everything:
        nodes = case.model.graph.node if case.model is not None else ()
        if len(nodes) == 1 and nodes[0].op_type not in NOT_COMPARED and "expanded" not in case.name:
            schema = onnx.defs.get_schema(nodes[0].op_type, 28, nodes[0].domain) \
                if onnx.defs.has(nodes[0].op_type, 28, nodes[0].domain) else None
            if schema is not None and (schema.has_function or schema.has_context_dependent_function):
                yield case


def plain(value: object) -> np.ndarray:
    """An element of a data set, which holds the types that numpy lacks as TensorProto."""
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def one_op(kind: str, inputs: list[np.ndarray], outputs: int = 1, **attrs: object) -> Module:
    names = [f"x{i}" for i in range(len(inputs))]
    node = helper.make_node(kind, names, [f"y{i}" for i in range(outputs)], name="n", **attrs)
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
                      for n, x in zip(names, inputs, strict=True)],
        [helper.make_empty_tensor_value_info(f"y{i}") for i in range(outputs)])
    return import_model(loaded_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 28)])))


def expand_only_node(module: Module) -> bool:
    """Expand the last op of a one-node model; False when it has no function for its attributes and types."""
    op = module.main.body.terminator.prev
    if function_body(module, op) is None:
        return False
    first = expand(module, op)
    assert first is not None and first.block is module.main.body and op.block is None
    return True


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")     # of the evaluator: NaN and log(0) are cases of the suite
def test_backend_suite() -> None:
    done: dict[str, int] = {}
    for case in cases():
        module = import_model(loaded_proto(case.model))
        if not expand_only_node(module):
            continue
        model = to_model(module, 28)
        kind = case.model.graph.node[0].op_type
        for inputs, outputs in case.data_sets:
            found = run_reference(model, [plain(x) for x in inputs])
            for e, f in zip(outputs, found, strict=True):
                # The functions are allowed to round in other places: what the suite itself grants its expanded cases.
                np.testing.assert_allclose(np.asarray(f, np.float64), plain(e).astype(np.float64),
                                           rtol=max(case.rtol, 1e-3), atol=max(case.atol, 1e-4), err_msg=case.name)
        done[kind] = done.get(kind, 0) + 1
    assert len(done) >= 35 and sum(done.values()) >= 200, done


@pytest.mark.parametrize("start,limit,delta", [(1, 8, 3), (5, -2, -2), (0, 0, 1)])
def test_range(start: int, limit: int, delta: int) -> None:
    inputs = [np.array(v, np.int64) for v in (start, limit, delta)]
    module = one_op("Range", inputs)
    assert expand_only_node(module)
    found, = run_onnx_runtime(to_model(module), inputs)
    np.testing.assert_array_equal(found, np.arange(start, limit, delta))


def test_names_and_location_are_kept() -> None:
    module = one_op("HardSwish", [np.zeros(3, np.float32)])
    expand(module, module.main.body.first)
    result = module.main.body.terminator.operand(0)
    assert result.name == "y0"
    assert all(op.loc.startswith("n/") for op in module.main.body.ops if op.name.startswith("onnx."))


def test_default_of_the_schema_reaches_the_function() -> None:
    x = np.array([-2, 0.5, 3], np.float32)
    module = one_op("LeakyRelu", [x])
    assert expand_only_node(module)
    found, = run_reference(to_model(module, 28), [x])
    np.testing.assert_allclose(found, np.where(x < 0, x * np.float32(0.01), x), rtol=1e-6)


@pytest.mark.parametrize("kind", ["Add", "Abs"])
def test_an_operator_without_a_function_is_left_alone(kind: str) -> None:
    module = one_op(kind, [np.zeros(3, np.float32)] * (2 if kind == "Add" else 1))
    op = module.main.body.first
    assert expand(module, op) is None and module.main.body.first is op
