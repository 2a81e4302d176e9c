"""Sizes, counts and names at the end of what there is: a right answer or a typed error, never a read outside a tensor.

Such models run in this process: a size that is wrong by a multiple of 2^64 ends the tests.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import onnxc
from onnxc.cli import main
from onnxc.errors import Fail, InvalidArgument, OnnxcError, UnsupportedModel
from tests.session.models import INT64, constant, model, node, value

LOW, HIGH = -(1 << 63), (1 << 63) - 1
COUNTS = np.array([1 << 40])


def run(proto: onnx.ModelProto, **feed: object) -> list[np.ndarray]:
    return onnxc.InferenceSession(proto.SerializeToString()).run(None, feed)


def viewed(target: list[int]) -> onnx.ModelProto:
    """The corner of x: f32[n] seen as a matrix of the shape `target`."""
    return model([node("Reshape", "x t", "r", "reshape"), node("Slice", "r low high", "y")],
                 [value("x", ["n"])], [value("y", None)],
                 [constant("t", target), constant("low", [0, 0]), constant("high", [3, 3])])


@pytest.mark.parametrize(("target", "count"), [([1 << 32, 1 << 32], 0), ([(1 << 62) + 1, 4], 4)])
def test_constant_sizes_that_are_equal_only_after_wrapping_around(target, count):
    with pytest.raises(OnnxcError, match="reshape"):
        run(viewed(target), x=np.ones(count, np.float32))


def test_sizes_of_inputs_that_are_equal_only_after_wrapping_around():
    proto = model([node("Shape", "a", "m"), node("Shape", "b", "k"), node("Concat", "m k", "s", axis=0),
                   node("Mul", "s s", "t"), node("Reshape", "x t", "r", "reshape"), node("Slice", "r low high", "y")],
                  [value("x", ["n"]), value("a", ["m"]), value("b", ["k"])], [value("y", None)],
                  [constant("low", [0, 0]), constant("high", [3, 3])])
    large = np.zeros(1 << 16, np.float32)       # (2^16)^2 squared is 2^64, which is 0 in an i64
    with pytest.raises(InvalidArgument, match="reshape"):
        run(proto, x=np.ones(0, np.float32), a=large, b=large)
    (y,) = run(proto, x=np.arange(16, dtype=np.float32), a=large[:2], b=large[:2])
    np.testing.assert_array_equal(y, np.arange(16).reshape(4, 4)[:3, :3])


@pytest.mark.parametrize("shape", [["n"], [1]])
@pytest.mark.parametrize("repeats", [1 << 40, 1 << 60, 1 << 61, 1 << 62, HIGH])
def test_memory_for_what_no_machine_holds(shape, repeats):
    proto = model([node("Tile", "x r", "e"), node("CumSum", "e zero", "q"), node("Slice", "q low high", "y")],
                  [value("x", shape)], [value("y", None)],
                  [constant("zero", 0), constant("r", [repeats]), constant("low", [0]), constant("high", [3])])
    with pytest.raises((MemoryError, OnnxcError), match="memory|addresses"):
        run(proto, x=np.ones(1, np.float32))


def expanded(op: str) -> onnx.ModelProto:
    inputs = "s" if op == "ConstantOfShape" else "x s"
    return model([node(op, inputs, "y")], [value("x", [1]), value("s", [1], INT64)], [value("y", None)])


@pytest.mark.parametrize("op", ["Expand", "Tile", "ConstantOfShape"])
def test_sizes_out_of_data_that_no_machine_holds_are_memory_errors_and_the_session_goes_on(op):
    session = onnxc.InferenceSession(expanded(op).SerializeToString())
    feed = {"x": np.ones(1, np.float32), "s": COUNTS}
    with pytest.raises(MemoryError, match="memory for a tensor"):
        session.run(None, feed)
    for size in (-1, 1 << 62, HIGH, LOW):
        with pytest.raises((MemoryError, InvalidArgument)):
            session.run(None, {**feed, "s": np.array([size])})
    assert session.run(None, {**feed, "s": np.array([5])})[0].shape == (5,)


def test_no_elements_but_dims_that_no_array_has():
    proto = model([node("ConstantOfShape", "s", "y")], [value("s", [3], INT64)], [value("y", None)])
    with pytest.raises(MemoryError, match="shape"):
        run(proto, s=np.array([0, 1 << 40, 1 << 40]))


@pytest.mark.parametrize(("nodes", "says"), [
    ([node("ConstantOfShape", "huge", "y", "n")], "addresses"),
    ([node("Unsqueeze", "x axes", "y", "n")], "81 axes"),
    ([node("Resize", "image _ scales", "y", "n")], "addresses"),
    ([node("Conv", "image w", "y", "n", pads=[1 << 62] * 4)], "addresses"),
    ([node("Einsum", "x", "y", "n", equation="a" * 1_000_000)], "equation"),
], ids=["nothing of huge dims", "axes", "scales", "pads", "equation"])
def test_a_node_whose_result_cannot_be_is_named_in_few_words(nodes, says):
    for n in nodes:
        n.input[:] = ["" if name == "_" else name for name in n.input]
    constants = [constant("huge", [0, 1 << 40, 1 << 40]), constant("axes", np.arange(80)),
                 constant("scales", np.array([1, 1, 1e30, 1e30], np.float32)),
                 constant("w", np.ones((1, 1, 3, 3), np.float32))]
    proto = model(nodes, [value("x", [3]), value("image", [1, 1, 4, 4])], [value("y", None)], constants)
    with pytest.raises(UnsupportedModel, match=f"node 'n'.*{says}") as caught:
        run(proto)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("parts", [0, 2, 1 << 40])
def test_a_split_into_other_parts_than_its_outputs(parts):
    proto = model([node("Split", "x", "y", "n", num_outputs=parts)], [value("x", [4])], [value("y", None)])
    proto.opset_import[0].version = 18
    with pytest.raises(UnsupportedModel, match="num_outputs"):
        run(proto)


@pytest.mark.parametrize(("start", "limit", "delta", "expected"), [
    (LOW, HIGH, 1 << 62, [LOW, -(1 << 62), 0, 1 << 62]), (HIGH, LOW, LOW, [HIGH, -1]),
    (LOW, HIGH, HIGH, [LOW, -1, HIGH - 1]),
    (HIGH, LOW, 1, []), (5, 5, LOW, []), (1, 8, 3, [1, 4, 7]), (8, 1, -3, [8, 5, 2]), (0, 1, HIGH, [0])])
def test_ranges_over_all_integers(start, limit, delta, expected):
    proto = ranged()
    (y,) = run(proto, a=np.array(start), b=np.array(limit), d=np.array(delta))
    assert y.tolist() == expected


@pytest.mark.parametrize(("start", "limit", "delta"), [(LOW, HIGH, 1), (HIGH, LOW, -1), (0, HIGH, 1), (0, 4, 0)])
def test_ranges_that_cannot_be(start, limit, delta):
    with pytest.raises((MemoryError, InvalidArgument)):
        run(ranged(), a=np.array(start), b=np.array(limit), d=np.array(delta))


def ranged() -> onnx.ModelProto:
    return model([node("Range", "a b d", "y")], [value(name, [], INT64) for name in "abd"], [value("y", None, INT64)])


@pytest.mark.parametrize(("dims", "sizes"), [
    (["a + b", "m"], (3, 5)), (["a*a", "m"], (4, 5)), (["a*b", "a"], (7, 3)), (["n + 1", "n"], (4, 3)),
    (["a + b", "c + a"], (3, 2))])
def test_names_of_dims_that_read_as_expressions_of_nothing_known_are_names(dims, sizes):
    names = "xz"
    proto = model([node("Concat", "x z", "y", axis=0)], [value(n, [d]) for n, d in zip(names, dims, strict=True)],
                  [value("y", None)])
    (y,) = run(proto, **{n: np.ones(size, np.float32) for n, size in zip(names, sizes, strict=True)})
    assert y.shape == (sum(sizes),)


def test_the_name_of_a_dim_has_a_limit():
    with pytest.raises(Fail, match="name of a dimension.*65536"):
        run(model([node("Relu", "x", "y")], [value("x", ["d" * 100_000])], [value("y", None)]))


def test_outputs_that_are_inputs_constants_or_the_same():
    x = np.arange(3, dtype=np.float32)
    outputs = [value(name, [3]) for name in ("y", "x", "y", "w", "x")]
    found = run(model([node("Neg", "x", "y")], [value("x", [3])], outputs, [constant("w", x + 1)]), x=x)
    for array, expected in zip(found, (-x, x, -x, x + 1, x), strict=True):
        np.testing.assert_array_equal(array, expected)
    assert not any(np.shares_memory(array, x) for array in found)
    assert run(model([], [value("x", [3])], []), x=x) == []
    assert run(model([], [], [])) == []


def test_control_characters_of_names_do_not_reach_the_terminal(tmp_path):
    bad = "\x1b[31m\n\u202e"
    proto = model([node("Relu", "x", "y", "n")], [value("x", ["d" + bad])], [value("y", [7, 7, 7])])
    proto.graph.node[0].output[0] = proto.graph.output[0].name = "y" + bad
    proto.graph.node[0].input[0] = proto.graph.input[0].name = "x" + bad
    proto.graph.node[0].name = "n" + bad
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    for arguments in (["inspect", str(path)], ["run", str(path), "--random"], ["run", str(path)],
                      ["inspect", str(path), "--stage", "import"], ["inspect", str(path), "--list"]):
        found = CliRunner().invoke(main, arguments)
        assert "\x1b" not in found.output and "\u202e" not in found.output, arguments
        assert "\\x1b[31m" in found.output or "u001b[31m" in found.output or "--list" in arguments
