"""Damaged and huge models: whatever the bytes, loading ends in a module or in a typed error, and soon."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import numpy as np
import onnx
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import TensorProto, helper, numpy_helper

from onnxc.frontend import import_model, load_model
from onnxc.ir.verify import verify
from onnxc.ops import load_all
from tests.frontend.damage import cut, flip, outcome
from tests.frontend.models import graph, model, node, untyped, value

load_all()


def rich_model() -> onnx.ModelProto:
    """A model with some of everything: weights in several fields, subgraphs, functions, sparse, sequences, old ops."""
    r = np.random.default_rng(3)
    weights = [numpy_helper.from_array(r.standard_normal((64, 80)).astype(np.float32), "w"),
               helper.make_tensor("b", TensorProto.FLOAT16, [64], r.standard_normal(64)),
               helper.make_tensor("q", TensorProto.INT4, [5], [1, 2, -3, 4, 5]),
               helper.make_tensor("s", TensorProto.STRING, [2], [b"a", b"b"])]
    sparse = helper.make_sparse_tensor(numpy_helper.from_array(np.ones(2, np.float32), "sp"),
                                       numpy_helper.from_array(np.array([1, 3])), [4])
    body = graph([node("Add", "acc w0", "next"), node("Identity", "go", "on")],
                 [value("i", (), TensorProto.INT64), value("go", (), TensorProto.BOOL), value("acc", None)],
                 [value("on", (), TensorProto.BOOL), value("next", None)],
                 [numpy_helper.from_array(np.float32(1), "w0")])
    branch = graph([node("Identity", "m", "z")], [], [untyped("z")])
    nodes = [node("MatMul", "w x", "m", "mm"), node("Softmax", "m", "p", axis=1), node("Loop", "n _ p", "l", body=body),
             node("If", "c", "f", then_branch=branch, else_branch=branch), node("F", "f", "g", domain="own", k=2.0),
             node("ReduceSum", "g", "y", axes=[1]), node("SequenceConstruct", "y y", "seq"),
             node("LabelEncoder", "s", "e", domain="ai.onnx.ml", keys_strings=["a"], values_int64s=[1])]
    f = helper.make_function("own", "F", ["a"], ["o"], [node("Elu", "a", "t"), node("Relu", "t", "o")],
                             [helper.make_opsetid("", 10)], ["k"])
    f.node[0].attribute.add(name="alpha", ref_attr_name="k", type=onnx.AttributeProto.FLOAT)
    g = graph(nodes, [value("x", (80, "N + 1")), value("n", (), TensorProto.INT64), value("c", (), TensorProto.BOOL)],
              [untyped(n) for n in ("l", "y", "seq", "e", "sp", "q", "b")], weights, sparse_initializer=[sparse],
              value_info=[value("m", (64, None))])
    m = model(g, 12, 10, [f], own=1, ai_onnx_ml=2)
    m.metadata_props.add(key="k", value="v")
    return m


DATA = rich_model().SerializeToString()


def test_the_model_itself_loads() -> None:
    verify(import_model(load_model(DATA)))


def _byte(r: random.Random, data: bytearray) -> None:
    data[r.randrange(len(data))] = r.choice((0, 1, 127, 128, 255, r.randrange(256)))


def _drop(r: random.Random, data: bytearray) -> None:
    at = r.randrange(len(data))
    del data[at:at + r.randrange(1, 40)]


def _repeat(r: random.Random, data: bytearray) -> None:
    at, n = r.randrange(len(data)), r.randrange(1, 200)
    data[at:at] = data[at:at + n]


def _splice(r: random.Random, data: bytearray) -> None:
    a, b, n = r.randrange(len(data)), r.randrange(len(data)), r.randrange(1, 60)
    data[a:a + n] = data[b:b + n]


BYTE_MUTATIONS = (flip, _byte, cut, _drop, _repeat, _splice)


@pytest.mark.parametrize("mutate", BYTE_MUTATIONS, ids=lambda f: f.__name__.strip("_"))
def test_mutated_bytes(mutate: Callable[[random.Random, bytearray], None]) -> None:
    r = random.Random(mutate.__name__)
    weights = numpy_helper.to_array(rich_model().graph.initializer[0]).tobytes()
    head, _, tail = DATA.partition(weights)
    for _ in range(150):
        # The weights are most of the bytes, and any value is right for them: aim at what is not.
        parts = [bytearray(head), weights, bytearray(tail)]
        for _ in range(r.choice((1, 1, 1, 2, 5))):
            part = parts[r.choice((0, 2))]
            if part:
                mutate(r, part)
        outcome(b"".join(parts))


def _messages(m: Message) -> Iterator[Message]:
    yield m
    for field, v in m.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for child in (v if field.is_repeated else [v]):
                yield from _messages(child)


STRANGE = {
    FieldDescriptor.TYPE_INT64: (0, -1, 1, 2**62, -2**63), FieldDescriptor.TYPE_INT32: (0, -1, 7, 99, 2**31 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1), FieldDescriptor.TYPE_ENUM: (0, 1),
    FieldDescriptor.TYPE_FLOAT: (0.0, float("nan"), float("inf"), 1e38),
    FieldDescriptor.TYPE_DOUBLE: (0.0, float("nan")), FieldDescriptor.TYPE_BYTES: (b"", b"\xff", b"LEFT"),
    FieldDescriptor.TYPE_STRING: ("", "x", "Relu", "a\0b", "../x", "m" * 5000),
}


def _mutate_field(r: random.Random, m: onnx.ModelProto) -> None:
    """Change one field of one message somewhere in the model: drop it, repeat it, or give it a strange value."""
    message = r.choice(list(_messages(m)))
    field = r.choice(message.DESCRIPTOR.fields)
    values = getattr(message, field.name)
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        if field.is_repeated and len(values):
            choice = r.randrange(3)
            if choice == 0:
                del values[r.randrange(len(values))]
            elif choice == 1:
                values.add().CopyFrom(r.choice(values))
            else:
                values.add()
        elif not field.is_repeated:
            message.ClearField(field.name)
            if r.random() < 0.5:
                values.SetInParent()
        return
    strange = r.choice(STRANGE[field.type])
    if not field.is_repeated:
        setattr(message, field.name, strange)
    elif len(values) and r.random() < 0.5:
        del values[r.randrange(len(values))]
    else:
        values.append(strange)


def test_mutated_fields() -> None:
    r = random.Random(11)
    seen: dict[str, int] = {}
    for _ in range(700):
        m = rich_model()
        for _ in range(r.choice((1, 1, 2, 4))):
            _mutate_field(r, m)
        result = outcome(m.SerializeToString())
        seen[result] = seen.get(result, 0) + 1
    assert {"loaded", "InvalidGraph", "Fail"} <= seen.keys(), seen


@pytest.mark.slow
def test_a_chain_of_100_000_nodes_the_last_first() -> None:
    count = 100_000
    nodes = [onnx.NodeProto(op_type="Relu", input=[f"v{i}"], output=[f"v{i + 1}"]) for i in reversed(range(count))]
    m = model(graph(nodes, [value("v0")], [untyped(f"v{count}")]))
    module = import_model(load_model(m.SerializeToString()))
    assert len(module.main.body) == count + 1
    assert module.main.body.terminator.operand(0).name == f"v{count}"


def test_a_value_with_very_many_users_that_are_upgraded() -> None:
    count = 20_000
    nodes = [onnx.NodeProto(op_type="Clip", input=["x"], output=[f"v{i}"]) for i in range(count)]
    module = import_model(load_model(model(graph(nodes, [value("x")], [untyped("v0")]), 6).SerializeToString()))
    assert len(module.main.args[0].uses) == count
