"""Models whose inputs and outputs are texts, sequences, maps and optionals: native segments with host steps between
them. Rows with `engine` also hold for ONNX Runtime itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from onnxc.errors import NotImplemented as Unsupported
from tests.session import models
from tests.session.models import FLOAT, INT64, node, value

A, B = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((1, 3), np.float32)
STRING = TensorProto.STRING


def sequence(name, element=FLOAT, shape=("N", 3)):
    return helper.make_tensor_sequence_value_info(name, element, shape)


def optional(name, of_sequence=False):
    kind = helper.make_tensor_type_proto(FLOAT, ["N", 3])
    kind = helper.make_sequence_type_proto(kind) if of_sequence else kind
    return helper.make_value_info(name, helper.make_optional_type_proto(kind))


def model(nodes, inputs, outputs, constants=(), opset=18):
    made = models.model(nodes, inputs, outputs, constants)
    made.opset_import[0].version = opset
    made.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    return made


def same(got, want):
    assert type(got) is type(want)
    if isinstance(want, list):
        assert len(got) == len(want)
        for g, w in zip(got, want, strict=True):
            same(g, w)
    elif isinstance(want, np.ndarray):
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        np.testing.assert_array_equal(got, want)
    else:
        assert got == want


# ---- texts -----------------------------------------------------------------------------------------------------------

TEXTS = np.array([["a", "bc"], ["", "öß"]])


@pytest.fixture(scope="module")
def texts(engine):
    return engine.session(models.copies(STRING, ["N", 2]))


@pytest.mark.parametrize("given", [TEXTS, TEXTS.astype(object), TEXTS.tolist()], ids=["U", "object", "list"])
def test_texts_go_in_and_come_out(texts, given):
    assert (texts.get_inputs()[0].type, texts.get_inputs()[0].shape) == ("tensor(string)", ["N", 2])
    (y,) = texts.run(None, {"x": given})
    same(y, TEXTS.astype(object))
    assert all(type(text) is str for text in y.ravel())


def test_texts_are_not_numbers(engine, texts):
    with pytest.raises(engine.errors.InvalidArgument, match=r"Actual: \(tensor\(float\)\) , expected: \(tensor\(str"):
        texts.run(None, {"x": A})
    with pytest.raises(engine.errors.InvalidArgument, match="Invalid rank for input: x Got: 1 Expected: 2"):
        texts.run(None, {"x": TEXTS[0]})
    numbers = engine.session(models.copies(FLOAT, ["N", 2]))
    with pytest.raises(engine.errors.InvalidArgument, match=r"Actual: \(tensor\(string\)\) , expected: \(tensor\(flo"):
        numbers.run(None, {"x": TEXTS})


def test_bytes_are_texts_and_objects_are_not(ours):
    """ONNX Runtime reads stray memory for the former, and makes texts of the latter."""
    session = ours.session(models.copies(STRING))
    same(session.run(None, {"x": np.array([b"a", "ö".encode()])})[0], np.array(["a", "ö"], object))
    with pytest.raises(RuntimeError, match="takes texts; its array holds 1 of type int"):
        session.run(None, {"x": np.array(["a", 1], object)})


@pytest.mark.parametrize("bad", [("a", "b"), "ab", {"a"}], ids=["tuple", "text", "set"])
def test_what_makes_no_array_of_texts(texts, bad):
    with pytest.raises(RuntimeError, match="Input must be .* or a single numpy array for input 'x'"):
        texts.run(None, {"x": bad})


def test_texts_of_derived_classes_come_out_as_texts(engine):
    (y,) = engine.session(models.copies(STRING)).run(None, {"x": [np.str_("a"), "b"]})
    assert [type(text) for text in y] == [str, str]


@pytest.mark.parametrize("given", [np.array(["a\0b", "c"], object), ["a\0b", "c"]], ids=["array", "list"])
def test_a_zero_inside_of_a_text_stays(engine, given):
    assert engine.session(models.copies(STRING)).run(None, {"x": given})[0].tolist() == ["a\0b", "c"]


def test_a_zero_inside_of_a_text_of_fixed_length_stays(ours):
    assert ours.session(models.copies(STRING)).run(None, {"x": np.array(["a\0b"])})[0].tolist() == ["a\0b"]


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="NumPy before 2.0")
def test_texts_of_any_length(ours):
    x = np.array(["a", "long enough to lie elsewhere"], np.dtypes.StringDType())
    assert ours.session(models.copies(STRING)).run(None, {"x": x})[0].tolist() == x.tolist()


def test_what_comes_out_is_nobody_elses(ours):
    session = ours.session(models.copies(STRING))
    x = np.array(["a", "b"], object)
    (y,) = session.run(None, {"x": x})
    y[0] = "changed"
    assert x[0] == "a"


def test_texts_between_numbers(engine):
    """Which words are equal, as numbers that native code goes on with."""
    nodes = [node("Equal", "x y", "same"), node("Cast", "same", "one", to=FLOAT), node("Mul", "one a", "z")]
    session = engine.session(model(nodes, [value("x", ["N"], STRING), value("y", ["N"], STRING), value("a", ["N"])],
                                   [value("z", ["N"])], opset=19))
    z, = session.run(None, {"x": np.array(["a", "b", "c"]), "y": np.array(["a", "x", "c"]),
                            "a": np.array([1, 2, 3], np.float32)})
    same(z, np.array([1, 0, 3], np.float32))


@pytest.mark.parametrize(("op", "attributes", "inputs", "elements"), [
    ("StringConcat", {}, [np.array([["a"], ["b"]]), np.array(["x", "y"])], [STRING]),
    ("StringSplit", {"delimiter": "."}, [np.array(["a.b.c", "d", "."])], [STRING, INT64]),
    ("StringSplit", {}, [np.array([" a  b ", "c d e"])], [STRING, INT64]),
    ("StringSplit", {"delimiter": ".", "maxsplit": 1}, [np.array(["a.b.c", "d"])], [STRING, INT64]),
    ("RegexFullMatch", {"pattern": r"[a-z]+\d?"}, [np.array([["abc1", "ab12"], ["", "x"]])], [TensorProto.BOOL]),
    ("Cast", {"to": STRING}, [np.array([1, -2, 300])], [STRING]),
    ("Cast", {"to": FLOAT}, [np.array(["1.5", "-2", "1e3"])], [FLOAT]),
    ("Gather", {"axis": 0}, [np.array(["a", "b", "c"]), np.array([2, -3])], [STRING]),
    ("Concat", {"axis": 0}, [np.array(["a", "b"]), np.array(["c"])], [STRING]),
], ids=lambda v: v if isinstance(v, str) else "")
def test_operators_on_texts(engine, op, attributes, inputs, elements):
    from onnx.reference import ReferenceEvaluator
    names = [f"x{i}" for i in range(len(inputs))]
    outputs = [f"y{i}" for i in range(len(elements))]
    kinds = [STRING if a.dtype.kind == "U" else INT64 for a in inputs]
    made = model([node(op, " ".join(names), " ".join(outputs), **attributes)],
                 [value(n, [None] * a.ndim, k) for n, a, k in zip(names, inputs, kinds, strict=True)],
                 [value(o, None, e) for o, e in zip(outputs, elements, strict=True)], opset=20)
    feed = {n: a.astype(object) if a.dtype.kind == "U" else a for n, a in zip(names, inputs, strict=True)}
    for got, want in zip(engine.session(made).run(None, feed), ReferenceEvaluator(made).run(None, feed), strict=True):
        same(got, want.astype(object) if want.dtype.kind == "U" else want)


@pytest.mark.parametrize(("attributes", "given", "want"), [
    ({"case_change_action": "UPPER", "stopwords": ["the"], "is_case_sensitive": 0}, ["The", "cat", "THE"], ["CAT"]),
    ({"case_change_action": "LOWER", "stopwords": ["A"], "is_case_sensitive": 1}, [["A", "a", "Bc"]], [["a", "bc"]]),
    ({"stopwords": ["a"], "is_case_sensitive": 1}, ["a"], [""]),
    ({}, ["b", "A"], ["b", "A"]),
], ids=["upper", "lower", "nothing", "as it is"])
def test_normalised_texts(ours, attributes, given, want):
    """Alone: ONNX Runtime needs a locale that machines may lack."""
    x = np.array(given, object)
    session = ours.session(model([node("StringNormalizer", "x", "y", **attributes)],
                                 [value("x", list(x.shape), STRING)], [value("y", None, STRING)]))
    same(session.run(None, {"x": x})[0], np.array(want, object))


# ---- sequences -------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def joined(engine):
    """y = -(all of a sequence, one behind the other), and how many there are."""
    nodes = [node("ConcatFromSequence", "s", "j", axis=0), node("Neg", "j", "y"), node("SequenceLength", "s", "n")]
    return engine.session(model(nodes, [sequence("s")], [value("y", [None, 3]), value("n", [], INT64)]))


def test_a_list_is_a_sequence(joined):
    argument = joined.get_inputs()[0]
    assert (argument.type, argument.shape) == ("seq(tensor(float))", [])
    for parts in ([A], [A, B], [B, A, B]):
        y, n = joined.run(None, {"s": parts})
        same(y, -np.concatenate(parts))
        same(n, np.array(len(parts)))


@pytest.mark.parametrize("bad", [(A, B), [A.tolist()], [1.0, 2.0], [A.astype(np.float64)]],
                         ids=["tuple", "lists", "numbers", "type"])
def test_what_is_no_sequence(joined, bad):
    with pytest.raises(RuntimeError):
        joined.run(None, {"s": bad})


def test_an_array_is_no_sequence(engine, joined):
    with pytest.raises(engine.errors.InvalidArgument, match="input with name: '?s'? expected to be"):
        joined.run(None, {"s": A})


@pytest.mark.parametrize("element", [FLOAT, STRING], ids=["numbers", "texts"])
def test_a_sequence_comes_out(engine, element):
    session = engine.session(model([node("SequenceInsert", "s x", "t"), node("Identity", "t", "u")],
                                   [sequence("s", element, None), value("x", [None], element)],
                                   [sequence("u", element, None)]))
    x = np.array(["a", "b"], object) if element == STRING else np.array([1, 2], np.float32)
    for before in ([], [x], [x, x[:1]]):
        (u,) = session.run(None, {"s": before, "x": x})
        same(u, [*before, x])


def test_parts_that_native_code_made_come_out_as_a_sequence(engine):
    nodes = [node("Exp", "x", "e"), node("Neg", "e", "m"), node("SequenceConstruct", "e m", "s")]
    session = engine.session(model(nodes, [value("x", ["N"])], [sequence("s", FLOAT, ["N"])]))
    (s,) = session.run(None, {"x": np.zeros(4, np.float32)})
    same(s, [np.ones(4, np.float32), -np.ones(4, np.float32)])


def test_a_place_that_data_decides(engine):
    nodes = [node("Neg", "a", "m"), node("SequenceConstruct", "a m", "s"), node("SequenceAt", "s i", "p"),
             node("Add", "p a", "y")]
    session = engine.session(model(nodes, [value("a", ["N", 3]), value("i", [], INT64)], [value("y", ["N", 3])]))
    same(session.run(None, {"a": A, "i": np.array(0)})[0], A + A)
    same(session.run(None, {"a": A, "i": np.array(-1)})[0], A - A)
    with pytest.raises((engine.errors.InvalidArgument, engine.errors.Fail)):
        session.run(None, {"a": A, "i": np.array(2)})
    same(session.run(None, {"a": A, "i": np.array(1)})[0], A - A)


def test_a_split_of_an_open_dimension(engine):
    nodes = [node("SplitToSequence", "a", "s", axis=0, keepdims=0), node("SequenceAt", "s i", "p"),
             node("Neg", "p", "y")]
    session = engine.session(model(nodes, [value("a", ["N", 3]), value("i", [], INT64)], [value("y", [3])]))
    same(session.run(None, {"a": A, "i": np.array(1)})[0], -A[1])
    same(session.run(None, {"a": np.tile(A, (4, 1)), "i": np.array(-2)})[0], -A[0])


# ---- loops and branches ----------------------------------------------------------------------------------------------

def graph(nodes, inputs, outputs, constants=()):
    return helper.make_graph(nodes, "body", inputs, outputs, list(constants))


def loop_inputs(*carried):
    return [value("i", [], INT64), value("c", [], TensorProto.BOOL), *carried]


GOES_ON = value("c", [], TensorProto.BOOL)


def test_a_loop_that_fills_a_sequence(engine):
    """As exporters write a list that a loop appends to: from an empty sequence to one tensor."""
    body = graph([node("Cast", "i", "f", to=FLOAT), node("Mul", "x f", "row"), node("SequenceInsert", "s row", "t")],
                 loop_inputs(sequence("s", shape=None)), [GOES_ON, sequence("t", shape=None)])
    nodes = [node("SequenceEmpty", "", "none", dtype=FLOAT), node("Loop", "n  none", "all", "loop", body=body),
             node("ConcatFromSequence", "all", "y", axis=0, new_axis=1)]
    nodes[1].input[:] = ["n", "", "none"]
    nodes[0].input[:] = []
    session = engine.session(model(nodes, [value("x", ["N"]), value("n", [], INT64)], [value("y", [None, "N"])]))
    x = np.array([1, 2], np.float32)
    for n in (1, 3):
        same(session.run(None, {"x": x, "n": np.array(n)})[0], np.arange(n, dtype=np.float32)[:, None] * x)


def test_a_loop_over_a_sequence(engine):
    """The sum of what a sequence holds; the rows of partial sums are stacked, the sequence is taken from outside."""
    body = graph([node("SequenceAt", "s i", "e"), node("Add", "sum e", "next"), node("Neg", "next", "row"),
                  node("Identity", "c", "go")],
                 loop_inputs(value("sum", [3])), [value("go", [], TensorProto.BOOL), value("next", [3]),
                                                  value("row", [3])])
    nodes = [node("SequenceLength", "s", "n"), node("Loop", "n c0 zero", "total rows", "loop", body=body)]
    session = engine.session(model(nodes, [sequence("s", shape=[3]), value("c0", [], TensorProto.BOOL)],
                                   [value("total", [3]), value("rows", [None, 3])],
                                   [helper.make_tensor("zero", FLOAT, [3], [0.0] * 3)]))
    parts = list(np.arange(12, dtype=np.float32).reshape(4, 3))
    total, rows = session.run(None, {"s": parts, "c0": np.array(True)})
    same(total, np.sum(parts, 0))
    same(rows, -np.cumsum(parts, 0))
    total, rows = session.run(None, {"s": parts, "c0": np.array(False)})
    same(total, np.zeros(3, np.float32))
    same(rows, np.zeros((0, 3), np.float32))


def test_a_condition_ends_a_loop_on_texts(engine):
    """A text grows until it is long enough; how often is counted by native code."""
    body = graph([node("StringConcat", "t word", "u"), node("Add", "k one", "m"), node("Less", "m limit", "go")],
                 loop_inputs(value("t", [1], STRING), value("k", [], INT64)),
                 [value("go", [], TensorProto.BOOL), value("u", [1], STRING), value("m", [], INT64)])
    nodes = [node("Loop", "", "y k", "loop", body=body)]
    nodes[0].input[:] = ["", "", "x", "zero"]
    made = model(nodes, [value("x", [1], STRING), value("word", [1], STRING), value("limit", [], INT64)],
                 [value("y", [1], STRING), value("k", [], INT64)],
                 [helper.make_tensor("zero", INT64, [], [0]), helper.make_tensor("one", INT64, [], [1])], opset=20)
    y, k = engine.session(made).run(None, {"x": np.array(["a"]), "word": np.array(["bc"]), "limit": np.array(3)})
    same(y, np.array(["abcbcbc"], object))
    same(k, np.array(3))


def test_a_branch_gives_a_sequence(engine):
    there = graph([node("Neg", "a", "m"), node("SequenceConstruct", "a m", "s")], [], [sequence("s")])
    other = graph([node("Exp", "a", "e"), node("SequenceConstruct", "e", "t")], [], [sequence("t")])
    nodes = [node("If", "c", "u", "if", then_branch=there, else_branch=other), node("SequenceLength", "u", "n"),
             node("ConcatFromSequence", "u", "y", axis=0)]
    session = engine.session(model(nodes, [value("a", ["N", 3]), GOES_ON], [value("y", [None, 3]),
                                                                           value("n", [], INT64)]))
    y, n = session.run(None, {"a": A, "c": np.array(True)})
    same(y, np.concatenate([A, -A]))
    same(n, np.array(2))
    np.testing.assert_allclose(session.run(["y"], {"a": A, "c": np.array(False)})[0], np.exp(A), rtol=1e-6)


def test_a_branch_on_texts_inside_of_a_loop(engine):
    """Each word is marked or not; host steps two regions deep."""
    mark = graph([node("StringConcat", "w star", "marked")], [], [value("marked", [1], STRING)])
    keep = graph([node("Identity", "w", "kept")], [], [value("kept", [1], STRING)])
    body = graph([node("Gather", "flags i", "flag"),
                  node("Unsqueeze", "i axis", "place"), node("Gather", "words place", "w"),
                  node("If", "flag", "one", "if", then_branch=mark, else_branch=keep),
                  node("Concat", "so_far one", "longer", axis=0)],
                 loop_inputs(value("so_far", [None], STRING)), [GOES_ON, value("longer", [None], STRING)])
    made = model([node("Shape", "words", "shape"), node("Squeeze", "shape", "n"),
                  node("Loop", "n", "y", "loop", body=body)],
                 [value("words", ["N"], STRING), value("flags", ["N"], TensorProto.BOOL)], [value("y", [None], STRING)],
                 [helper.make_tensor("star", STRING, [1], [b"*"]), helper.make_tensor("axis", INT64, [1], [0]),
                  helper.make_tensor("start", STRING, [0], [])], opset=20)
    made.graph.node[2].input[:] = ["n", "", "start"]
    feed = {"words": np.array(["a", "b", "c"]), "flags": np.array([True, False, True])}
    same(engine.session(made).run(None, feed)[0], np.array(["a*", "b", "c*"], object))


def test_an_optional_is_carried_by_a_loop(engine):
    """Nothing at first, then a sequence; as in ONNX's own test of a loop."""
    kind = helper.make_optional_type_proto(helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, [3])))
    empty = graph([node("SequenceConstruct", "x", "fresh")], [], [sequence("fresh", shape=[3])])
    held = graph([node("OptionalGetElement", "o", "old"), node("SequenceInsert", "old x", "longer")], [],
                 [sequence("longer", shape=[3])])
    body = graph([node("OptionalHasElement", "o", "has"),
                  node("If", "has", "s", "if", then_branch=held, else_branch=empty), node("Optional", "s", "p")],
                 loop_inputs(helper.make_value_info("o", kind)), [GOES_ON, helper.make_value_info("p", kind)])
    made = model([node("Loop", "n", "q", "loop", body=body), node("OptionalGetElement", "q", "y")],
                 [value("n", [], INT64), value("x", [3]), helper.make_value_info("o0", kind)],
                 [sequence("y", shape=[3])])
    made.graph.node[0].input[:] = ["n", "", "o0"]
    session = engine.session(made)
    same(session.run(None, {"n": np.array(2), "x": A[0], "o0": [A[1]]})[0], [A[1], A[0], A[0]])
    if engine.name == "onnxc":      # ONNX Runtime has no value for an optional that is carried and left out
        same(session.run(None, {"n": np.array(2), "x": A[0]})[0], [A[0], A[0]])


def test_each_of_a_sequence(engine):
    body = graph([node("Add", "e f", "g"), node("Shape", "e", "h")], [value("e", [None, 3]), value("f", [1])],
                 [value("g", [None, 3]), value("h", [2], INT64)])
    made = model([node("SequenceMap", "s a", "y z", "each", body=body)], [sequence("s"), value("a", [1])],
                 [sequence("y"), sequence("z", INT64, [2])])
    y, z = engine.session(made).run(None, {"s": [A, B], "a": np.array([2], np.float32)})
    same(y, [A + 2, B + 2])
    same(z, [np.array([2, 3]), np.array([1, 3])])


def test_a_scan_that_holds_host_steps(engine):
    """Backwards over columns, stacked as columns; a sequence inside whose places data decides."""
    body = graph([node("SequenceConstruct", "state row", "s"), node("SequenceAt", "s place", "one"),
                  node("Add", "state row", "next")], [value("state", [2]), value("row", [2])],
                 [value("next", [2]), value("one", [2])])
    scan = node("Scan", "first x", "last picked", "scan", body=body, num_scan_inputs=1, scan_input_axes=[1],
                scan_input_directions=[1], scan_output_axes=[1])
    session = engine.session(model([scan], [value("first", [2]), value("x", [2, "N"]), value("place", [], INT64)],
                                   [value("last", [2]), value("picked", [2, "N"])]))
    feed = {"first": np.zeros(2, np.float32), "x": A}
    last, picked = session.run(None, {**feed, "place": np.array(1)})
    same(last, A.sum(1))
    same(picked, A[:, ::-1])
    picked, = session.run(["picked"], {**feed, "place": np.array(0)})
    same(picked, np.cumsum(A[:, ::-1], 1) - A[:, ::-1])


def test_a_loop_of_host_steps_is_listed_and_compiled_ahead(ours):
    body = graph([node("SequenceAt", "s i", "e", "pick"), node("Add", "sum e", "next")], loop_inputs(value("sum", [3])),
                 [GOES_ON, value("next", [3])])
    made = model([node("SequenceLength", "s", "n", "count"), node("Loop", "n", "y", "loop", body=body)],
                 [sequence("s", shape=[3]), value("zero", [3])], [value("y", [3])])
    made.graph.node[1].input[:] = ["n", "", "zero"]
    from onnxc.driver import compile_model
    compiled = compile_model(made.SerializeToString())
    assert compiled.report["host_ops"] == ["SequenceLength (count)", "Loop (loop)", "SequenceAt (pick)"]
    assert "body, values of its own" in compiled.text
    assert compiled.report["kernels"] == 1


# ---- maps ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("labels", [{"classlabels_int64s": [3, 5, 7]}, {"classlabels_strings": ["a", "b", "c"]}],
                         ids=["int64", "string"])
def test_scores_by_label(engine, labels):
    kind = next(iter(labels)).removeprefix("classlabels_").rstrip("s")
    key = INT64 if kind == "int64" else STRING
    nodes = [node("Softmax", "x", "p", axis=1), helper.make_node("ZipMap", ["p"], ["z"], domain="ai.onnx.ml", **labels)]
    maps = helper.make_sequence_type_proto(helper.make_map_type_proto(key, helper.make_tensor_type_proto(FLOAT, None)))
    session = engine.session(model(nodes, [value("x", ["N", 3])], [helper.make_value_info("z", maps)]))
    assert session.get_outputs()[0].type == f"seq(map({kind},tensor(float)))"
    (z,) = session.run(None, {"x": A})
    assert [list(row) for row in z] == [next(iter(labels.values()))] * 2
    want = np.exp(A.astype(np.float64))
    np.testing.assert_allclose([list(row.values()) for row in z], want / want.sum(1, keepdims=True), rtol=1e-6)


def test_a_dict_is_a_map(engine):
    kind = helper.make_map_type_proto(STRING, helper.make_tensor_type_proto(FLOAT, None))
    nodes = [helper.make_node("DictVectorizer", ["m"], ["v"], domain="ai.onnx.ml", string_vocabulary=["a", "b", "c"]),
             node("Neg", "v", "y")]
    session = engine.session(model(nodes, [helper.make_value_info("m", kind)], [value("y", [1, 3])]))
    assert session.get_inputs()[0].type == "map(string,tensor(float))"
    same(session.run(None, {"m": {"c": 3.0, "a": 1, "zz": 9.0}})[0], -np.array([[1, 0, 3]], np.float32))
    with pytest.raises(engine.errors.InvalidArgument):
        session.run(None, {"m": {1: 2.0}})


@pytest.mark.parametrize("given", [{"d": 2}, {"d": 2.0, "a": 0}])
def test_words_that_are_not_in_the_vocabulary(engine, given):
    kind = helper.make_map_type_proto(STRING, helper.make_tensor_type_proto(FLOAT, None))
    nodes = [helper.make_node("DictVectorizer", ["m"], ["y"], domain="ai.onnx.ml", string_vocabulary=["a", "b"])]
    session = engine.session(model(nodes, [helper.make_value_info("m", kind)], [value("y", [1, 2])]))
    same(session.run(None, {"m": given})[0], np.zeros((1, 2), np.float32))


@pytest.mark.parametrize(("bad", "refusal", "text"), [
    (np.ones(3, np.float32), "InvalidArgument", "input with name: 'm' expected to be "),
    (1.0, "", "Unable to handle object of type <class 'float'>"),
    ("a", "", "Input must be a list of dictionaries or a single numpy array for input 'm'")])
def test_what_is_no_map(engine, bad, refusal, text):
    with pytest.raises(getattr(engine.errors, refusal) if refusal else RuntimeError, match=text):
        engine.session(beside(map_of(STRING))).run(None, {"m": bad, "a": np.ones(1, np.float32)})


def beside(kind):
    """y = -a, and an input m of this type."""
    return model([node("Neg", "a", "y")], [helper.make_value_info("m", kind), value("a", [1])], [value("y", [1])])


def map_of(key, element=FLOAT):
    return helper.make_map_type_proto(key, helper.make_tensor_type_proto(element, None))


@pytest.mark.parametrize(("kind", "text", "good", "bad"), [
    (map_of(INT64), "map(int64,tensor(float))", {1: 2.0, 3: 4}, {"a": 1.0}),
    (map_of(STRING), "map(string,tensor(float))", {"a": 2.0, "b": 4}, {1: 1.0})], ids=["int64", "string"])
def test_a_dict_goes_in(engine, kind, text, good, bad):
    session = engine.session(beside(kind))
    assert (session.get_inputs()[0].type, session.get_inputs()[0].shape) == (text, [])
    a = np.ones(1, np.float32)
    same(session.run(None, {"m": good, "a": a})[0], -a)
    with pytest.raises(engine.errors.InvalidArgument):
        session.run(None, {"m": bad, "a": a})


@pytest.mark.parametrize(("key", "given"), [(INT64, [{1: 2.0}, {3: 4, 5: 6.0}]), (STRING, [{"a": 2.0}]), (INT64, [])],
                         ids=["int64", "string", "none"])
def test_a_list_of_dicts_goes_in_and_out(ours, key, given):
    """ONNX Runtime has the type, and no way to feed it in this release."""
    kind = helper.make_sequence_type_proto(map_of(key))
    made = beside(kind)
    made.graph.output.append(helper.make_value_info("m", kind))
    session = ours.session(made)
    assert (session.get_inputs()[0].type, session.get_inputs()[0].shape) == (
        f"seq(map({'int64' if key == INT64 else 'string'},tensor(float)))", [])
    assert session.run(["m"], {"m": given, "a": np.ones(1, np.float32)}) == [given]


def test_maps_to_anything_but_floats_do_not(ours):
    with pytest.raises(Unsupported, match=r"'m' is of type map\(int64,tensor\(string\)\), which cannot be fed"):
        ours.session(beside(map_of(INT64, STRING)))


@pytest.mark.parametrize(("keys", "values", "x", "want"), [
    ({"keys_strings": ["a", "b"]}, {"values_int64s": [1, 2], "default_int64": 9}, ["b", "?", "a"], [2, 9, 1]),
    ({"keys_int64s": [1, 2]}, {"values_strings": ["one", "two"]}, [2, 5, 1], ["two", "_Unused", "one"]),
    ({"keys_strings": ["a"]}, {"values_floats": [0.5], "default_float": 2.5}, ["a", "b"], [0.5, 2.5]),
], ids=["int64", "string", "float"])
def test_labels(engine, keys, values, x, want):
    made = [helper.make_node("LabelEncoder", ["x"], ["y"], domain="ai.onnx.ml", **keys, **values)]
    kinds = {int: INT64, str: STRING, float: FLOAT}
    session = engine.session(model(made, [value("x", ["N"], kinds[type(x[0])])],
                                   [value("y", ["N"], kinds[type(want[0])])]))
    kind = {int: np.int64, str: object, float: np.float32}[type(want[0])]
    same(session.run(None, {"x": np.array(x)})[0], np.array(want, kind))


@pytest.mark.parametrize(("attrs", "x", "want"), [
    ({}, [["a", "?"], ["c", "a"]], [[2, -1], [9, 2]]), ({}, [2, 5, 9], ["b", "_Unused", "c"]),
    ({"default_string": "none"}, [3], ["none"]),
], ids=["numbers", "texts", "default"])
def test_categories(engine, attrs, x, want):
    """Of equal categories the last one counts."""
    made = [helper.make_node("CategoryMapper", ["x"], ["y"], domain="ai.onnx.ml", cats_int64s=[1, 2, 9, 2],
                             cats_strings=["a", "a", "c", "b"], **attrs)]
    texts = np.array(x).dtype.kind == "U"
    kinds = [STRING, INT64] if texts else [INT64, STRING]
    session = engine.session(model(made, [value("x", None, kinds[0])], [value("y", None, kinds[1])]))
    same(session.run(None, {"x": np.array(x)})[0], np.array(want, np.int64 if texts else object))


@pytest.mark.parametrize(("attrs", "want"), [
    ({}, np.array([[2.25, 1.5]], np.float32)), ({"cast_to": "TO_INT64"}, np.array([[2, 1]])),
    ({"cast_to": "TO_STRING"}, np.array([["2.250000", "1.500000"]], object)),
    ({"map_form": "SPARSE", "max_map": 7}, np.array([[0, 0, 2.25, 0, 0, 1.5, 0]], np.float32)),
], ids=["floats", "integers", "texts", "sparse"])
def test_a_map_as_a_row(engine, attrs, want):
    kind = helper.make_map_type_proto(INT64, helper.make_tensor_type_proto(FLOAT, None))
    made = [helper.make_node("CastMap", ["m"], ["y"], domain="ai.onnx.ml", **attrs)]
    out = {"f": FLOAT, "i": INT64, "O": STRING}[want.dtype.kind]
    session = engine.session(model(made, [helper.make_value_info("m", kind)], [value("y", None, out)]))
    same(session.run(None, {"m": {5: 1.5, 2: 2.25}})[0], want)


LABELS = {"classlabels_strings": ["no", "yes", "maybe"]}
STUMP = {"nodes_treeids": [0] * 3, "nodes_nodeids": [0, 1, 2], "nodes_featureids": [0] * 3, "nodes_values": [0.5, 0, 0],
         "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"], "nodes_truenodeids": [1, 0, 0], "class_treeids": [0] * 6,
         "nodes_falsenodeids": [2, 0, 0], "class_nodeids": [1, 1, 1, 2, 2, 2], "class_ids": [0, 1, 2] * 2,
         "class_weights": [0.1, 0.7, 0.2, 0.2, 0.1, 0.7]}


@pytest.mark.parametrize(("op", "attrs"), [
    ("LinearClassifier", {"coefficients": [1.0, 0.0, -1.0], "intercepts": [0.0, 0.5, 0.5]}),
    ("TreeEnsembleClassifier", STUMP),
    ("SVMClassifier", {"coefficients": [1.0, -1.0, 0.5, 0.3, -0.2, 0.7], "vectors_per_class": [1, 1, 1],
                       "support_vectors": [0.0, 1.0, 2.0], "rho": [0.1, 0.2, 0.3], "kernel_type": "RBF",
                       "kernel_params": [1.0, 0.0, 0.0]}),
])
def test_text_labels(ours, op, attrs):
    """The model computes with numbers; the host only looks the texts up. ONNX Runtime gives the same."""
    made = [helper.make_node(op, ["x"], ["label", "score"], domain="ai.onnx.ml", **LABELS, **attrs)]
    m = model(made, [value("x", ["N", 1])], [value("label", ["N"], STRING), value("score", ["N", 3])])
    session, x = ours.session(m), np.array([[-1], [0.3], [0.8], [3]], np.float32)
    assert session.report()["host_ops"] == ["ai.onnx.ml.LabelEncoder (label)"]
    theirs = pytest.importorskip("onnxruntime").InferenceSession(m.SerializeToString()).run(None, {"x": x})
    label, score = session.run(None, {"x": x})
    same(label, theirs[0])
    np.testing.assert_allclose(score, theirs[1], 1e-5, 1e-6)


def test_text_categories(engine):
    made = [helper.make_node("OneHotEncoder", ["x"], ["y"], domain="ai.onnx.ml", cats_strings=["a", "b", "c"])]
    session = engine.session(model(made, [value("x", ["N"], STRING)], [value("y", ["N", 3])]))
    same(session.run(None, {"x": np.array(["b", "?", "a"])})[0],
         np.array([[0, 1, 0], [0, 0, 0], [1, 0, 0]], np.float32))


def test_columns_of_texts(engine):
    made = [helper.make_node("ArrayFeatureExtractor", ["x", "i"], ["y"], domain="ai.onnx.ml")]
    session = engine.session(model(made, [value("x", ["N", 2], STRING), value("i", [None], INT64)],
                                   [value("y", None, STRING)]))
    x = np.array([["a", "b"], ["c", "d"]], object)
    same(session.run(None, {"x": x, "i": np.array([1, 0, 1])})[0], x[:, [1, 0, 1]])


# ---- optionals -------------------------------------------------------------------------------------------------------

def test_an_optional_input_may_be_left_out(engine):
    session = engine.session(model([node("OptionalHasElement", "o", "y")], [optional("o")],
                                   [value("y", [], TensorProto.BOOL)]))
    assert session.get_inputs()[0].type == "optional(tensor(float))"
    for feed, there in [({"o": A}, True), ({"o": None}, False), ({}, False)]:
        same(session.run(None, feed)[0], np.array(there))


@pytest.mark.parametrize(("of_sequence", "given"), [(False, A), (True, [A, B]), (True, [])],
                         ids=["tensor", "sequence", "empty"])
def test_an_optional_that_is_an_output_is_what_was_fed_or_none(engine, of_sequence, given):
    session = engine.session(model([node("Neg", "a", "y")], [optional("o", of_sequence), value("a", [1])],
                                   [optional("o", of_sequence), value("y", [1])]))
    a = np.ones(1, np.float32)
    same(session.run(["o"], {"o": given, "a": a})[0], given)
    for feed in ({"o": None, "a": a}, {"a": a}):
        assert session.run(["o"], feed) == [None]


@pytest.mark.parametrize("given", [A.tolist(), list(A), A[::-1], np.asfortranarray(A)])
def test_an_optional_tensor_takes_the_forms_of_a_tensor(engine, given):
    session = engine.session(model([node("OptionalGetElement", "o", "e"), node("Neg", "e", "y")], [optional("o")],
                                   [value("y", ["N", 3])]))
    same(session.run(None, {"o": given})[0], -np.array(given, np.float32))
    with pytest.raises(RuntimeError, match="Input must be a list of dictionaries or a single numpy array"):
        session.run(None, {"o": (1.0, 2.0)})


def test_an_optional_goes_through(ours):
    session = ours.session(model([node("Identity", "o", "y")], [optional("o", True)], [optional("y", True)]))
    same(session.run(None, {"o": [A, B]})[0], [A, B])
    assert session.run(None, {"o": None}) == [None]
    (nothing,) = session.run_with_ort_values(None, {})
    assert not nothing.has_value()
    with pytest.raises(RuntimeError):
        nothing.numpy()


def test_what_an_optional_holds(engine):
    session = engine.session(model([node("OptionalGetElement", "o", "e"), node("Neg", "e", "y")], [optional("o")],
                                   [value("y", ["N", 3])]))
    same(session.run(None, {"o": A})[0], -A)


# ---- values, bindings, reports ---------------------------------------------------------------------------------------

def test_texts_and_sequences_as_values(ours):
    session = ours.session(model([node("SequenceConstruct", "x x", "s")], [value("x", ["N"], STRING)],
                                 [sequence("s", STRING, ["N"])]))
    x = ours.api.OrtValue.ortvalue_from_numpy(np.array(["a", "b"]))
    (s,) = session.run_with_ort_values(None, {"x": x})
    assert (s.data_type(), s.is_tensor_sequence(), s.is_tensor(), s.element_type()) == ("seq(tensor(string))", True,
                                                                                       False, 8)
    with pytest.raises(RuntimeError):
        s.shape()
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", x)
    binding.bind_output("s")
    session.run_with_iobinding(binding)
    assert [a.tolist() for a in binding.get_outputs()[0].content()] == [["a", "b"]] * 2


def test_a_binding_of_a_program_with_host_steps(ours):
    session = ours.session(model([node("ConcatFromSequence", "s", "j", axis=0), node("Neg", "j", "y")],
                                 [sequence("s")], [value("y", [None, 3])]))
    binding, y = session.io_binding(), np.zeros((3, 3), np.float32)
    binding.bind_ortvalue_input("s", ours.api.OrtValue.of([A, B], "seq(tensor(float))"))
    binding.bind_output("y", "cpu", 0, np.float32, (3, 3), y.ctypes.data)
    session.run_with_iobinding(binding)
    same(y, -np.concatenate([A, B]))
    binding.bind_output("y", "cpu", 0, np.float32, (2, 3), y.ctypes.data)
    with pytest.raises(RuntimeError, match="output 'y' is bound to"):
        session.run_with_iobinding(binding)


def test_host_steps_are_listed(ours):
    from onnxc.driver import compile_model
    made = model([node("SequenceAt", "s i", "p", "pick"), node("Neg", "p", "y")],
                 [sequence("s"), value("i", [], INT64)], [value("y", ["N", 3])])
    compiled = compile_model(made.SerializeToString())
    assert compiled.report["host_ops"] == ["SequenceAt (pick)"]
    assert "host SequenceAt(%0, %1) of 'pick'" in compiled.text
    session = ours.session(made)
    assert session.statistics()["host_ops"] == 1
    assert session.report()["host_ops"] == ["SequenceAt (pick)"]


# ---- artifacts, the cache, profiles ----------------------------------------------------------------------------------

def steps_of_all_kinds(declared=True):
    """A text, constants of texts and numbers, segments before and behind, a loop on a sequence, a branch."""
    grown = graph([node("Add", "e one", "f"), node("SequenceInsert", "s f", "t")],
                  loop_inputs(sequence("s", shape=[3])), [GOES_ON, sequence("t", shape=[3])])
    mark = graph([node("StringConcat", "w star", "marked")], [], [value("marked", [1], STRING)])
    keep = graph([node("Identity", "w", "kept")], [], [value("kept", [1], STRING)])
    nodes = [node("Exp", "x", "e"), node("SequenceAt", "parts zero", "p"), node("Mul", "p e", "q"),
             node("SequenceConstruct", "q", "s0"), node("Loop", "two", "s1", "loop", body=grown),
             node("ConcatFromSequence", "s1", "y", axis=0),
             node("If", "c", "z", "if", then_branch=mark, else_branch=keep)]
    nodes[4].input[:] = ["two", "", "s0"]
    parts = sequence("parts", shape=[3] if declared else None)
    return model(nodes, [value("x", [3]), parts, value("w", [1], STRING), GOES_ON],
                 [value("y", [None]), value("z", [1], STRING)],
                 [helper.make_tensor("zero", INT64, [], [0]), helper.make_tensor("two", INT64, [], [2]),
                  helper.make_tensor("one", FLOAT, [], [1.0]), helper.make_tensor("star", STRING, [1], [b"*"])],
                 opset=20)


def of_the_first():
    """y = -s[0]."""
    return model([node("SequenceAt", "s zero", "p"), node("Neg", "p", "y")], [sequence("s")], [value("y", None)],
                 [helper.make_tensor("zero", INT64, [], [0])])


STEPS_FEED = {"x": A[0], "parts": [A[1]], "w": np.array(["w"], object), "c": np.array(True)}


def check_steps(session):
    e = np.exp(A[0])
    y, z = session.run(None, STEPS_FEED)
    np.testing.assert_allclose(y, np.concatenate([A[1] * e, e + 1, e + 1]), rtol=1e-6)
    assert z.tolist() == ["w*"]
    assert session.run(["z"], {**STEPS_FEED, "c": np.array(False)})[0].tolist() == ["w"]


def test_all_kinds_of_steps(engine):
    check_steps(engine.session(steps_of_all_kinds()))
    check_steps(engine.session(steps_of_all_kinds(declared=False)))


def test_an_artifact_holds_host_steps(ours, tmp_path):
    path = tmp_path / "m.onnxc"
    ours.api.compile(steps_of_all_kinds().SerializeToString(), path)
    ours.api.compile(steps_of_all_kinds().SerializeToString(), tmp_path / "again.onnxc")
    assert path.read_bytes() == (tmp_path / "again.onnxc").read_bytes()
    session = ours.api.InferenceSession(path)
    check_steps(session)
    assert session.statistics()["compilations"] == 0
    assert len(session.report()["host_ops"]) == 8


def test_an_artifact_with_host_steps_needs_no_compiler(ours, tmp_path):
    """Run as a program where neither onnx nor llvmlite can be imported."""
    path = tmp_path / "m.onnxc"
    ours.api.compile(steps_of_all_kinds().SerializeToString(), path)
    code = ("import sys\nfor name in ('onnx', 'llvmlite', 'google.protobuf'): sys.modules[name] = None\n"
            "import numpy as np, onnxc\n"
            f"y, z = onnxc.InferenceSession({str(path)!r}).run(None, dict(x=np.zeros(3, 'f'), parts=[np.ones(3, 'f')], "
            "w=np.array(['w']), c=np.array(True)))\nprint(y.sum(), z)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "15.0 ['w*']\n"


def test_an_artifact_of_what_only_a_run_tells_is_refused(ours, tmp_path):
    with pytest.raises(Unsupported, match="the ranks of p, e, and an artifact"):
        ours.api.compile(steps_of_all_kinds(declared=False).SerializeToString(), tmp_path / "m.onnxc")


def test_an_artifact_that_meets_another_rank_than_declared(ours, tmp_path):
    path = tmp_path / "m.onnxc"
    ours.api.compile(of_the_first().SerializeToString(), path)
    session = ours.api.InferenceSession(path)
    same(session.run(None, {"s": [A]})[0], -A)
    with pytest.raises(ours.errors.ModelRequiresCompilation, match="f32 of rank 1"):
        session.run(None, {"s": [A[0]]})
    same(ours.session(of_the_first()).run(None, {"s": [A[0]]})[0], -A[0])


@pytest.mark.parametrize("change", [
    lambda host: host.update(values=2), lambda host: host["steps"][0].update(inputs=[-1]),
    lambda host: next(s for s in host["steps"] if "programs" in s).update(outputs=[]),
    lambda host: host.update(constants=[[0, {"texts": [1]}]]),
    lambda host: host["steps"][-1].update(attrs={"x": {"no": "kind"}}), lambda host: host.pop("steps")],
    ids=["values", "inputs", "outputs", "constants", "attributes", "no steps"])
def test_a_plan_that_makes_no_sense_is_refused(ours, tmp_path, change):
    from onnxc.runtime.artifact import ArtifactError
    from tests.session.test_artifact import sealed
    ours.api.compile(steps_of_all_kinds().SerializeToString(), tmp_path / "m.onnxc")
    with pytest.raises(ArtifactError):
        ours.api.InferenceSession(sealed((tmp_path / "m.onnxc").read_bytes(), lambda m: change(m["host"])))


def test_the_cache_holds_host_steps(ours, tmp_path, monkeypatch):
    from onnxc.runtime import cache
    folder = cache.open_folder(tmp_path / "cache", 1 << 30)
    monkeypatch.setattr(cache, "open_cache", lambda: folder)
    for state in ("miss", "hit"):
        session = ours.session(steps_of_all_kinds())
        assert session.statistics()["cache"] == state
        check_steps(session)
    # A rank that nobody declared is compiled for in the run, whether the rest came out of the cache or not.
    for state in ("miss", "hit"):
        session = ours.session(of_the_first())
        assert session.statistics()["cache"] == state
        same(session.run(None, {"s": [A[0]]})[0], -A[0])
    for _ in range(2):
        assert ours.session(steps_of_all_kinds(declared=False)).statistics()["cache"] == "miss"


def test_a_profile_has_host_steps_and_kernels(ours, tmp_path):
    options = ours.api.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "p")
    session = ours.session(steps_of_all_kinds(), options)
    session.run(None, STEPS_FEED)
    events = json.loads(Path(session.end_profiling()).read_text())
    steps = [e["args"]["op_name"] for e in events if e["args"].get("host")]
    assert sorted(steps) == sorted(["SequenceAt", "SequenceConstruct", "SequenceInsert", "SequenceInsert", "Loop",
                                    "ConcatFromSequence", "StringConcat", "If"])
    assert {"Exp", "Mul", "Add"} <= {e["args"].get("op_name") for e in events}


def test_host_steps_may_be_cancelled(ours):
    session = ours.session(models.copies(STRING))
    options = ours.api.RunOptions()
    options.terminate = True
    with pytest.raises(ours.errors.Fail, match="terminate"):
        session.run(None, {"x": np.array(["a"])}, options)


def test_counts_of_texts(engine):
    made = model([helper.make_node("TfIdfVectorizer", ["x"], ["y"], mode="TF", min_gram_length=1, max_gram_length=1,
                                   max_skip_count=0, ngram_counts=[0], ngram_indexes=[1, 0], pool_strings=["a", "b"])],
                 [value("x", ["N"], STRING)], [value("y", [2])])
    (y,) = engine.session(made).run(None, {"x": np.array(["a", "c", "b", "a"])})
    np.testing.assert_array_equal(y, [1, 2])
