"""Import: what ops, values, types, regions and facts a module has, and every error of a wrong graph, all at once."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxc import errors
from onnxc.frontend import Limits, import_model, load_model
from onnxc.ir.core import Module, Op
from onnxc.ir.parser import parse_module
from onnxc.ir.printer import print_module
from onnxc.ir.signature import ValueInfo
from onnxc.ir.verify import verify
from onnxc.ops import load_all
from tests.frontend.models import FLOAT, graph, imported, model, node, untyped, value
from tests.frontend.onnx_level import run_reference, to_model

load_all()
BOOL, I64 = TensorProto.BOOL, TensorProto.INT64


def ops(module: Module) -> list[Op]:
    return list(module.main.body.ops)


def names(module: Module) -> list[str]:
    return [op.name.removeprefix("onnx.") for op in ops(module)]


def array(name: str, a: object, dtype: type = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.asarray(a, dtype), name)


def refused(m: onnx.ModelProto, kind: type[errors.OnnxcError], *words: str, **options: object) -> str:
    """The message of the error that importing raises, in which all the words are."""
    with pytest.raises(kind) as caught:
        imported(m, **options)  # type: ignore[arg-type]
    for w in words:
        assert w in caught.value.message, caught.value.message
    return caught.value.message


# Structure

def test_nodes_become_ops_with_names_types_and_places() -> None:
    nodes = [node("Relu", "x", "h", "first"), node("Concat", "h x", "y", axis=1)]
    m = model(graph(nodes, [value("x")], [value("y", ("N", 6))]))
    module = imported(m)
    relu, concat, ret = ops(module)
    assert (relu.name, relu.loc, relu.results[0].name) == ("onnx.Relu", "first", "h")
    assert (concat.name, concat.loc, concat.attrs) == ("onnx.Concat", "y", {"axis": 1})
    assert concat.operands == (relu.result, module.main.args[0]) and ret.operands == (concat.result,)
    assert str(relu.result.type) == "f32[*]" and str(concat.result.type) == "f32[N, 6]"
    assert [str(t) for t in module.main.result_types] == ["f32[N, 6]"] and module.main.kind == "graph"


def test_what_is_imported_verifies_and_round_trips_as_text() -> None:
    body = graph([node("Add", "acc step", "next"), node("Identity", "cond_in", "cond_out"),
                  node("Mul", "next w", "scan")],
                 [value("i", (), I64), value("cond_in", (), BOOL), value("acc", (3,))],
                 [value("cond_out", (), BOOL), value("next", (3,)), value("scan", (3,))], name="body")
    inputs = [value("n", (), I64), value("x", (3,)), value("step", (3,))]
    m = model(graph([node("Loop", "n _ x", "last all", body=body)], inputs, [untyped("last"), untyped("all")],
                    [array("w", np.arange(3))]))
    module = imported(m)
    verify(module, 2)
    text = print_module(module, inline=True)
    assert print_module(parse_module(text), inline=True) == text


def test_absent_operands_and_results() -> None:
    nodes = [node("Clip", "x _ hi", "c"), node("Dropout", "c", "y _")]
    m = model(graph(nodes, [value("x"), value("hi", ())], [value("y")]))
    clip, dropout, _ = ops(imported(m))
    assert clip.operands[1] is None and clip.operands[2] is not None
    assert [r.name for r in dropout.results] == ["y", ""]


def test_initializers_stand_inline_or_in_the_table_and_unused_ones_nowhere() -> None:
    big = np.arange(100, dtype=np.float32)
    m = model(graph([node("Add", "x small", "h"), node("Add", "h big", "y")], [value("x", (100,))], [untyped("y")],
                    [array("small", [1.0]), array("big", big), array("unused", big)]))
    module = imported(m)
    assert list(module.constants) == ["big"]
    np.testing.assert_array_equal(module.constants["big"], big)
    assert {op.result.name for op in ops(module) if op.name == "t.const"} == {"small", "big"}


@pytest.mark.parametrize("attribute,expected", [
    ({"value": array("t", [[1, 2]])}, np.array([[1, 2]], np.float32)),
    ({"value_float": 1.5}, np.float32(1.5)), ({"value_floats": [1.0, 2.0]}, np.array([1, 2], np.float32)),
    ({"value_int": 3}, np.int64(3)), ({"value_ints": [4, 5]}, np.array([4, 5])),
    ({"value_string": "s"}, np.array("s", object)), ({"value_strings": ["a", "b"]}, np.array(["a", "b"], object)),
    ({"sparse_value": helper.make_sparse_tensor(array("v", [7]), array("i", [2], np.int64), [4])},
     np.array([0, 0, 7, 0], np.float32)),
])
def test_constant_nodes(attribute: dict, expected: np.ndarray) -> None:
    c = ops(imported(model(graph([helper.make_node("Constant", [], ["y"], **attribute)], [], [untyped("y")]))))[0]
    found = c.attrs["value"]
    assert c.name == "t.const" and found.dtype == np.asarray(expected).dtype
    np.testing.assert_array_equal(found, expected)


def test_empty_lists_of_a_constant_keep_their_type() -> None:
    for key, dtype, kind in (("value_ints", np.int64, 7), ("value_floats", np.float32, 6),
                             ("value_strings", object, 8)):
        n = helper.make_node("Constant", [], ["y"])
        n.attribute.add(name=key, type=kind)
        found = ops(imported(model(graph([n], [], [untyped("y")]))))[0].attrs["value"]
        assert found.shape == (0,) and found.dtype == dtype


def test_large_tensor_attributes_are_shared_not_printed() -> None:
    table = np.arange(50, dtype=np.int64)
    n = helper.make_node("LabelEncoder", ["x"], ["y"], domain="ai.onnx.ml", keys_tensor=array("k", table, np.int64),
                         values_tensor=array("v", table * 2, np.int64), default_tensor=array("d", [-1], np.int64))
    module = imported(model(graph([n], [value("x", ("N",), I64)], [untyped("y")]), ai_onnx_ml=4))
    assert str(module.main.result_types[0]) == "i64[*]"
    op = ops(module)[0]
    np.testing.assert_array_equal(module.constants[op.attrs["values_tensor"].name], table * 2)
    assert op.attrs["default_tensor"].tolist() == [-1]


def test_attributes() -> None:
    n = helper.make_node("Anything", ["x"], ["y"], domain="com.microsoft", i=3, f=0.1, s="text", b=b"\xff", ints=[1, 2],
                         floats=[0.5], strings=["a", b"\xfe"], t=array("t", [1, 2]),
                         ty=helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, None)))
    op = ops(imported(model(graph([n], [value("x")], [untyped("y")]), com_microsoft=1)))[0]
    assert op.name == "onnx.com.microsoft.Anything"
    tensor = op.attrs.pop("t")
    kind = op.attrs.pop("ty")
    assert op.attrs == {"i": 3, "f": float(np.float32(0.1)), "s": "text", "b": b"\xff", "ints": (1, 2),
                        "floats": (0.5,), "strings": ("a", b"\xfe")}
    assert tensor.tolist() == [1, 2] and str(kind) == "seq<f32[*]>"


@pytest.mark.parametrize("op,domain,attrs,inputs,expected", [
    ("Cast", "", {"to": TensorProto.FLOAT16}, [FLOAT], "f16"),
    ("ArgMax", "", {}, [FLOAT], "i64"),
    ("Equal", "", {}, [FLOAT, FLOAT], "bool"),
    ("Shape", "", {}, [FLOAT], "i64"),
    ("QuantizeLinear", "", {}, [FLOAT, FLOAT], "u8"),
    ("QuantizeLinear", "", {}, [FLOAT, FLOAT, TensorProto.INT8], "i8"),
    ("QuantizeLinear", "", {"output_dtype": TensorProto.INT4}, [FLOAT, FLOAT], "i4"),
    ("DequantizeLinear", "", {}, [TensorProto.INT8, TensorProto.FLOAT16], "f16"),
    ("ConstantOfShape", "", {}, [I64], "f32"),
    ("RandomNormal", "", {"shape": [2], "dtype": TensorProto.DOUBLE}, [], "f64"),
    ("EyeLike", "", {}, [TensorProto.INT32], "i32"),
    ("Multinomial", "", {}, [FLOAT], "i32"),
    ("LinearClassifier", "ai.onnx.ml", {"coefficients": [1.0], "classlabels_strings": ["a"]}, [FLOAT], "str"),
    ("LabelEncoder", "ai.onnx.ml", {"keys_strings": ["a"], "values_floats": [1.0]}, [TensorProto.STRING], "f32"),
])
def test_element_types_of_results(op: str, domain: str, attrs: dict, inputs: list[int], expected: str) -> None:
    outputs = ["y", "scores"] if op == "LinearClassifier" else ["y"]
    n = helper.make_node(op, [f"x{i}" for i in range(len(inputs))], outputs, domain=domain, **attrs)
    m = model(graph([n], [value(f"x{i}", None, t) for i, t in enumerate(inputs)], [untyped("y")]), ai_onnx_ml=3)
    assert str(imported(m).main.result_types[0]) == f"{expected}[*]"


def test_sequences_optionals_and_maps() -> None:
    tensor = helper.make_tensor_type_proto(FLOAT, ["N"])
    seq = helper.make_sequence_type_proto(tensor)
    inputs = [helper.make_value_info("s", seq), helper.make_value_info("o", helper.make_optional_type_proto(seq)),
              value("i", (), I64)]
    nodes = [node("SequenceAt", "s i", "a"), node("SequenceConstruct", "a a", "b"),
             node("OptionalGetElement", "o", "c"),
             node("SequenceInsert", "c a", "d"), node("Optional", "a", "e"),
             node("ConcatFromSequence", "b", "f", axis=0)]
    module = imported(model(graph(nodes, inputs, [untyped(n) for n in "abcdef"])))
    assert [str(t) for t in module.main.result_types] == ["f32[*]", "seq<f32[*]>", "seq<f32[*]>", "seq<f32[*]>",
                                                          "opt<f32[*]>", "f32[*]"]
    assert module.meta["inputs"][1].type_text == "optional(seq(tensor(float)))"
    zip_map = helper.make_node("ZipMap", ["x"], ["z"], domain="ai.onnx.ml", classlabels_strings=["a", "b"])
    module = imported(model(graph([zip_map], [value("x")], [untyped("z")]), ai_onnx_ml=1))
    assert module.meta["outputs"][0].type_text == "seq(map(string,tensor(float)))"


# Inputs, outputs, facts

def test_declared_shapes_are_kept_word_by_word() -> None:
    x = value("x", ("batch size", "past + 1", 3, None))
    x.type.tensor_type.shape.dim.add().dim_value = -1
    x.type.tensor_type.shape.dim.add().dim_param = ""
    x.type.tensor_type.shape.dim.add().dim_value = 0
    m = model(graph([node("Identity", "x", "y"), node("Shape", "x", "s")], [x, value("z", None), value("scalar", ())],
                    [value("y", ("any name!",)), untyped("s")]))
    module = imported(m)
    assert module.meta["inputs"] == [
        ValueInfo("x", "tensor(float)", ("batch size", "past + 1", 3, None, None, None, 0)),
        ValueInfo("z", "tensor(float)", None), ValueInfo("scalar", "tensor(float)", ())]
    assert module.meta["outputs"] == [ValueInfo("y", "tensor(float)", ("any name!",)),
                                      ValueInfo("s", "tensor(int64)", None)]
    assert str(module.main.args[0].type) == "f32[batch_size, past + 1, 3, u0, u1, u2, 0]"


@pytest.mark.parametrize("texts,expected", [
    (("a b", "a_b", "a b"), "a_b_1, a_b, a_b_1"),
    (("u0", None, "u0"), "u0, u1, u0"),
    (("seq*2", "seq", "seq//2"), "seq*2, seq, (seq // 2)"),
    (("N/2", "N//M", "N%0"), "N_2, N__M, N_0"),
    (("3", "-1", "2*3"), "d_3, _1, d_2_3"),
    (("$0", "\u00e9", "{}"), "_0, _, u0"),
    (("?", "?", "u0", "?"), "u1, u2, u0, u3"),
    (("N", "min(N, 4)", "min(M, 4)"), "N, min(N, 4), min_M__4_"),
    (("(" * 500, "99999999999999999*N"), "u0, d_99999999999999999_N"),
])
def test_names_of_dimensions(texts: tuple[str | None, ...], expected: str) -> None:
    module = imported(model(graph([node("Identity", "x", "y")], [value("x", texts)], [untyped("y")])))
    shape = str(module.main.args[0].type).removeprefix("f32[").removesuffix("]")
    assert shape == expected
    verify(module, 2)


def test_model_facts() -> None:
    m = model(graph([node("Relu", "x", "y")], [value("x")], [value("y")], name="the graph"), com_microsoft=1)
    m.producer_name, m.domain, m.doc_string, m.model_version, m.graph.doc_string = "p", "d", "about", 7, "g doc"
    helper.set_model_props(m, {"k": "v"})
    meta = imported(m).meta
    assert meta["model"] == {"producer_name": "p", "producer_version": "", "version": 7, "description": "about",
                             "domain": "d", "graph_name": "the graph", "graph_description": "g doc",
                             "custom_metadata_map": {"k": "v"}}
    assert meta["opset"] == {"": 21, "com.microsoft": 1} and meta["ir_version"] == 10
    m.ClearField("model_version")
    assert imported(m).meta["model"]["version"] == 2**63 - 1


def test_initializers_that_are_inputs() -> None:
    g = graph([node("Add", "x w", "y")], [value("x"), value("w", (3,))], [value("y")], [array("w", [1, 2, 3])])
    for ir_version, overridable in ((3, []), (4, [ValueInfo("w", "tensor(float)", (3,))])):
        module = imported(model(g, ir_version=ir_version))
        assert [a.name for a in module.main.args] == ["x"]
        assert module.meta["overridable"] == overridable
        assert [i.name for i in module.meta["inputs"]] == ["x"]
    module = imported(model(g), overridden=["w"])
    assert [a.name for a in module.main.args] == ["x", "w"] and names(module) == ["Add", "return"]
    for bad, ir_version in ((["x"], 10), (["ghost"], 10), (["w"], 3)):
        refused(model(g, ir_version=ir_version), errors.InvalidArgument, bad[0], overridden=bad)


def test_outputs_that_are_inputs_constants_or_listed_twice() -> None:
    m = model(graph([node("Relu", "x", "y")], [value("x")], [value("y"), value("y"), value("x"), untyped("c")],
                    [array("c", [1.0])]))
    module = imported(m)
    assert [v.name for v in module.main.body.terminator.inputs] == ["y", "y", "x", "c"]
    assert module.meta["outputs"][3] == ValueInfo("c", "tensor(float)", (1,))
    assert len(imported(model(graph([node("Relu", "x", "y")], [value("x")], []))).main.result_types) == 0


# Order

def test_nodes_out_of_order_are_sorted_and_otherwise_kept() -> None:
    nodes = [node("Add", "b a", "y"), node("Relu", "x", "a"), node("Neg", "a", "b"), node("Abs", "x", "unused")]
    assert names(imported(model(graph(nodes, [value("x")], [value("y")])))) == ["Relu", "Neg", "Add", "Abs", "return"]


def test_a_node_whose_subgraph_uses_a_later_value_is_moved_behind_it() -> None:
    branch = graph([node("Identity", "late", "z")], [], [untyped("z")])
    nodes = [node("If", "c", "y", then_branch=branch, else_branch=branch), node("Relu", "x", "late")]
    module = imported(model(graph(nodes, [value("c", (), BOOL), value("x")], [untyped("y")])))
    assert names(module) == ["Relu", "If", "return"]
    verify(module)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_cycles_are_named(length: int) -> None:
    nodes = [node("Relu", f"v{(i - 1) % length}", f"v{i}", f"n{i}") for i in range(length)]
    nodes += [node("Abs", "v0", "y", "after"), node("Relu", "x", "fine", "before")]
    text = refused(model(graph(nodes, [value("x")], [value("y")])), errors.Fail, "the graph is not acyclic",
                   *[f"(n{i})" for i in range(length)])
    assert "before" not in text and "after" not in text


# Subgraphs

def if_model(**main: object) -> onnx.ModelProto:
    """Branches that use an outer value, an outer constant, and each one value more."""
    then = graph([node("Add", "h w", "t"), node("Mul", "t x", "z")], [], [untyped("z")], name="then")
    other = graph([node("Sub", "h w", "z")], [], [untyped("z")], name="else")
    nodes = [node("Relu", "x", "h"), node("If", "c", "y", then_branch=then, else_branch=other)]
    return model(graph(nodes, [value("c", (), BOOL), value("x", (3,))], [untyped("y")], [array("w", np.arange(3))],
                       **main))


def test_regions_are_isolated_and_constants_repeated_inside() -> None:
    module = imported(if_model())
    op = next(o for o in ops(module) if o.name == "onnx.If")
    assert {k: op.attrs[k] for k in ("then_branch", "else_branch", "captured")} == \
        {"then_branch": 0, "else_branch": 1, "captured": 2}
    assert [v.name for v in op.inputs] == ["c", "h", "x"]
    for region in op.regions:
        assert [a.name for a in region.args] == ["h", "x"]
        assert region.first.name == "t.const"
    assert str(op.result.type) == "f32[*]"
    verify(module)


@pytest.mark.parametrize("c", [True, False])
def test_captures_compute_what_they_did(c: bool) -> None:
    x = np.array([-1, 2, 3], np.float32)
    m = if_model()
    expected = run_reference(m, [np.array(c), x])
    np.testing.assert_array_equal(run_reference(to_model(imported(m)), [np.array(c), x])[0], expected[0])


def test_a_value_is_captured_through_two_levels_and_shadowed_names_stay_apart() -> None:
    inner = graph([node("Identity", "x", "z")], [], [untyped("z")], name="inner")
    middle = graph([node("If", "c", "h", then_branch=inner, else_branch=inner), node("Neg", "h", "z")], [],
                   [untyped("z")],
                   name="middle")
    nodes = [node("If", "c", "y", then_branch=middle, else_branch=inner)]
    module = imported(model(graph(nodes, [value("c", (), BOOL), value("x", (3,))], [untyped("y")])))
    outer = ops(module)[0]
    assert [v.name for v in outer.inputs] == ["c", "x", "c"] and outer.attrs["captured"] == 2
    assert outer.regions[0].first.attrs["captured"] == 1
    verify(module)


def test_loop_types_come_from_the_operands() -> None:
    body = graph([node("Add", "acc acc", "next"), node("Shape", "next", "shape"), node("Identity", "go", "on")],
                 [untyped("i"), untyped("go"), untyped("acc")], [untyped("on"), untyped("next"), untyped("shape")])
    m = model(graph([node("Loop", "n _ x", "last shapes", body=body)],
                    [value("n", (), I64), value("x", (3,), TensorProto.DOUBLE)], [untyped("last"), untyped("shapes")]))
    loop = ops(imported(m))[0]
    assert [str(a.type) for a in loop.regions[0].args] == ["i64[]", "bool[]", "f64[*]"]
    assert [str(r.type) for r in loop.results] == ["f64[*]", "i64[*]"]


def test_regions_of_the_wrong_form_are_refused() -> None:
    two = graph([node("Identity", "x", "a"), node("Identity", "x", "b")], [], [untyped("a"), untyped("b")])
    one = graph([node("Identity", "x", "z")], [], [untyped("z")])
    refused(model(graph([node("If", "c", "y", "choose", then_branch=two, else_branch=one)],
                        [value("c", (), BOOL), value("x")], [untyped("y")])), errors.InvalidGraph,
            "(choose)", "0 inputs and 2 outputs", "0 and 1")
    refused(model(graph([node("Loop", "n _ x", "y", body=one)], [value("n", (), I64), value("x")], [untyped("y")])),
            errors.InvalidGraph, "0 inputs and 1 outputs", "3 and 2")
    ghost = graph([node("Identity", "ghost", "z")], [], [untyped("z")])
    refused(model(graph([node("If", "c", "y", then_branch=ghost, else_branch=one)], [value("c", (), BOOL), value("x")],
                        [untyped("y")])), errors.InvalidArgument, "Node input 'ghost' is not a graph input")
    typed = graph([node("Identity", "s", "z")], [value("i", (), FLOAT), value("go", (), BOOL), value("s", (3,))],
                  [value("go", (), BOOL), value("z", (3,))])
    refused(model(graph([node("Loop", "n _ x", "y", body=typed)], [value("n", (), I64), value("x", (3,))],
                        [untyped("y")])),
            errors.Fail, "Type Error: Type (tensor(float)) of input (i)",
            "does not match expected type (tensor(int64))")


# Functions

def function(name: str, inputs: str, outputs: str, nodes: list, attributes: tuple = (), opset: int = 21,
             **more: object) -> onnx.FunctionProto:
    return helper.make_function("own", name, inputs.split(), outputs.split(), nodes,
                                [helper.make_opsetid("", opset), helper.make_opsetid("own", 1)], attributes, **more)


def call(name: str, inputs: str, outputs: str, label: str = "", **attrs: object) -> onnx.NodeProto:
    return node(name, inputs, outputs, label, domain="own", **attrs)


def test_functions_are_inlined_with_their_own_names_opset_and_attributes() -> None:
    nodes = [node("Softmax", "a", "s"), node("LeakyRelu", "s", "out")]
    nodes[1].attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    f = function("F", "a", "out", nodes, ("slope",), opset=11)
    m = model(graph([call("F", "x", "h", "one", slope=0.5), call("F", "h", "y", "two")], [value("x", (2, 3))],
                    [untyped("y")]),
              functions=[f], own=1)
    module = imported(m)
    relus = [op for op in ops(module) if op.name == "onnx.LeakyRelu"]
    assert [(op.loc, op.attrs, op.result.name) for op in relus] == \
        [("one/out", {"alpha": 0.5}, "h"), ("two/out", {}, "y")]
    assert "Softmax" not in names(module), "opset 11 sees a matrix: it is said otherwise at the current opset"
    verify(module)


def test_a_function_in_a_function_with_defaults_absent_inputs_and_captures() -> None:
    branch = graph([node("Add", "a k", "z")], [], [untyped("z")])
    inner = [helper.make_node("Constant", [], ["k"]), node("If", "c", "i", then_branch=branch, else_branch=branch),
             node("Clip", "i lo", "out")]
    inner[0].attribute.add(name="value_float", ref_attr_name="k", type=onnx.AttributeProto.FLOAT)
    g = function("G", "c a lo", "out", inner, attribute_protos=[helper.make_attribute("k", 2.0)])
    f = function("F", "c a", "out", [call("G", "c a", "out")])
    m = model(graph([call("F", "c x", "y", "f")], [value("c", (), BOOL), value("x", (3,))], [untyped("y")]),
              functions=[f, g], own=1)
    module = imported(m)
    clip = next(op for op in ops(module) if op.name == "onnx.Clip")
    assert clip.operands[1] is None and clip.loc == "f/out/out"
    verify(module)
    found, = run_reference(to_model(module), [np.array(True), np.array([1, 2, 3], np.float32)])
    np.testing.assert_array_equal(found, [3, 4, 5])


def test_a_function_may_hand_on_its_input_and_replace_an_operator() -> None:
    f = function("F", "a", "a", [])
    relu = helper.make_function("", "Relu", ["a"], ["out"], [node("Abs", "a", "out")], [helper.make_opsetid("", 21)])
    m = model(graph([call("F", "x", "h"), node("Relu", "h", "y")], [value("x")], [untyped("y")]), functions=[f, relu],
              own=1)
    assert names(imported(m)) == ["Abs", "return"]


@pytest.mark.parametrize("length", range(1, 6))
def test_functions_in_a_cycle(length: int) -> None:
    functions = [function(f"F{i}", "a", "out", [call(f"F{(i + 1) % length}", "a", "out")]) for i in range(length)]
    m = model(graph([call("F0", "x", "y")], [value("x")], [untyped("y")]), functions=functions, own=1)
    refused(m, errors.Fail, "functions call each other in a cycle", *[f"own:F{i}" for i in range(length)])


def test_a_function_that_calls_itself_in_a_subgraph() -> None:
    branch = graph([call("F", "a", "z")], [], [untyped("z")])
    f = function("F", "a", "out", [node("If", "a", "out", then_branch=branch, else_branch=branch)])
    m = model(graph([call("F", "x", "y")], [value("x", (), BOOL)], [untyped("y")]), functions=[f], own=1)
    refused(m, errors.Fail, "cycle")


def test_function_bombs_and_deep_calls_meet_a_limit() -> None:
    doubling = [function(f"F{i}", "a", "out", [call(f"F{i + 1}", "a", "h"), call(f"F{i + 1}", "h", "out")])
                for i in range(40)] + [function("F40", "a", "out", [node("Relu", "a", "out")])]
    m = model(graph([call("F0", "x", "y")], [value("x")], [untyped("y")]), functions=doubling, own=1)
    refused(m, errors.Fail, "nodes after inlining", "above the limit of 2000000", "Limits(nodes=")
    chain = [function(f"F{i}", "a", "out", [call(f"F{i + 1}", "a", "out")]) for i in range(5000)]
    chain.append(function("F5000", "a", "out", [node("Relu", "a", "out")]))
    m = model(graph([call("F0", "x", "y")], [value("x")], [untyped("y")]), functions=chain, own=1)
    refused(m, errors.Fail, "nesting", "Limits(nesting=65)")


def test_wrong_functions_and_calls() -> None:
    f = function("F", "a b", "out", [node("Add", "a b", "out")])
    ghostly, empty = function("G", "a", "o", [node("Relu", "ghost", "o")]), function("G", "a", "o", [])
    x = [value("x")]
    for m, kind, words in (
        (model(graph([call("F", "x x x", "y")], x, [untyped("y")]), functions=[f], own=1), errors.InvalidGraph,
         "2 inputs"),
        (model(graph([call("F", "x x", "y", oops=1)], x, [untyped("y")]), functions=[f], own=1), errors.InvalidGraph,
         "'oops'"),
        (model(graph([call("F", "x x", "y")], x, [untyped("y")]), functions=[f, f], own=1), errors.Fail,
         "defined twice"),
        (model(graph([call("F", "x", "y")], x, [untyped("y")]), functions=[f], own=1), errors.InvalidGraph,
         "required input 1"),
        (model(graph([call("G", "x", "y")], x, [untyped("y")]), functions=[ghostly], own=1), errors.Fail,
         "neither its inputs nor made in it: ghost"),
        (model(graph([call("G", "x", "y")], x, [untyped("y")]), functions=[empty], own=1), errors.Fail,
         "nothing in it makes"),
    ):
        refused(m, kind, words)
    reference = node("LeakyRelu", "x", "y")
    reference.attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    refused(model(graph([reference], x, [untyped("y")])), errors.InvalidGraph, "refers to attributes of a function")


# What is wrong with a graph

X = value("x")
SPARSE = helper.make_value_info("y", helper.make_sparse_tensor_type_proto(FLOAT, [2]))
WRONG: list[tuple[str, onnx.GraphProto, type[errors.OnnxcError], list[str]]] = [
    ("unknown operator", graph([node("Foo", "x", "y", "n")], [X], [untyped("y")]), errors.InvalidGraph,
     ["This is an invalid model. In node (n)", "Error No Op registered for Foo with domain_version of 21"]),
    ("operator of a later opset", graph([node("Swish", "x", "y")], [X], [untyped("y")]), errors.InvalidGraph,
     ["No Op registered for Swish with domain_version of 21"]),
    ("operator of an unknown domain", graph([node("Foo", "x", "y", domain="my.dom")], [X], [untyped("y")]), errors.Fail,
     ["Fatal error: my.dom:Foo(-1) is not a registered function/op"]),
    ("domain not imported", graph([node("Foo", "x", "y", domain="other.dom")], [X], [untyped("y")]),
     errors.InvalidGraph,
     ["Error No opset import for domain 'other.dom'"]),
    ("operand type", graph([node("Sin", "i", "y", "n")], [value("i", ("N",), TensorProto.INT32)], [untyped("y")]),
     errors.InvalidGraph, ["Type Error: Type 'tensor(int32)' of input parameter (i) of operator (Sin) in node (n)",
                           "is invalid", "tensor(double), tensor(float)"]),
    ("operand types differ", graph([node("Add", "x i", "y")], [X, value("i", (), I64)], [untyped("y")]),
     errors.InvalidGraph,
     ["Type parameter (T) of Optype (Add) bound to different types (tensor(float) and tensor(int64)"]),
    ("too few inputs", graph([node("Add", "x", "y", "n")], [X], [untyped("y")]), errors.InvalidGraph,
     ["Node (n) has input size 1 not in range [min=2, max=2]"]),
    ("too many outputs", graph([node("Add", "x x", "y z", "n")], [X], [untyped("y")]), errors.InvalidGraph,
     ["output size 2 not in range [min=1, max=1]"]),
    ("required input left out", graph([node("Add", "x _", "y")], [X], [untyped("y")]), errors.InvalidGraph,
     ["required input 1 (B) is left out"]),
    ("required output left out", graph([node("MaxPool", "x", "_ y", kernel_shape=[1])], [X], [untyped("y")]),
     errors.InvalidGraph, ["required output 0 (Y) is left out"]),
    ("unknown attribute", graph([node("Relu", "x", "y", oops=1)], [X], [untyped("y")]), errors.InvalidGraph,
     ["Unrecognized attribute: oops for operator Relu"]),
    ("missing attribute", graph([node("Cast", "x", "y")], [X], [untyped("y")]), errors.InvalidGraph,
     ["required attribute 'to' is missing"]),
    ("attribute type", graph([node("Concat", "x x", "y", axis=1.0)], [X], [untyped("y")]), errors.InvalidGraph,
     ["Mismatched attribute type of 'axis': it is FLOAT and has to be INT"]),
    ("input produced by nothing", graph([node("Add", "x ghost", "y", "n")], [X], [untyped("y")]),
     errors.InvalidArgument,
     ["Invalid model. Node input 'ghost' is not a graph input, initializer, or output of a previous node.", "(n)"]),
    ("value defined twice", graph([node("Relu", "x", "y", "a"), node("Abs", "x", "y", "b")], [X], [untyped("y")]),
     errors.Fail,
     ["Duplicate definition of name (y)", "(a)", "(b)"]),
    ("value defined twice by a node", graph([node("Split", "x", "y y", num_outputs=2)], [X], [untyped("y")]),
     errors.Fail,
     ["Duplicate definition of name (y)"]),
    ("output named as an input", graph([node("Relu", "x", "x")], [X], [untyped("x")]), errors.Fail,
     ["Duplicate definition of name (x)"]),
    ("output named as an initializer", graph([node("Relu", "x", "w")], [X], [untyped("w")], [array("w", [1.0])]),
     errors.Fail,
     ["Duplicate definition of name (w)"]),
    ("node name twice", graph([node("Relu", "x", "a", "n"), node("Abs", "a", "y", "n")], [X], [untyped("y")]),
     errors.Fail,
     ["two nodes with same node name (n)"]),
    ("input listed twice", graph([node("Relu", "x", "y")], [X, X], [untyped("y")]), errors.Fail,
     ["Duplicate definition-site for (x)"]),
    ("output never produced", graph([node("Relu", "x", "y")], [X], [untyped("y"), untyped("q")]), errors.Fail,
     ["Graph output (q) does not exist in the graph"]),
    ("input without type", graph([node("Relu", "x", "y")], [untyped("x")], [untyped("y")]), errors.Fail,
     ["Model input (x) does not have type information"]),
    ("declared output type", graph([node("Relu", "x", "y", "n")], [X], [value("y", ("N",), I64)]), errors.Fail,
     ["Type Error: Type (tensor(int64)) of output arg (y) of node (n)",
      "does not match expected type (tensor(float))"]),
    ("constant without value", graph([helper.make_node("Constant", [], ["y"], name="n")], [], [untyped("y")]),
     errors.InvalidGraph, ["(n)", "exactly one attribute; it has 0"]),
    ("sparse output", graph([node("Relu", "x", "y")], [X], [SPARSE]), errors.Fail,
     ["Type (sparse_tensor(float)) of output arg (y)", "does not match expected type (tensor(float))"]),
    ("element type that is none", graph([node("Relu", "x", "y")], [value("x", (1,), 77)], [untyped("y")]),
     errors.InvalidGraph,
     ["graph input 'x' has element type 77"]),
    ("rank", graph([node("Relu", "x", "y")], [value("x", (1,) * 40)], [untyped("y")]), errors.Fail,
     ["rank", "Limits(rank=40)"]),
    ("name length", graph([node("Relu", "x", "y" * 70_000)], [X], [untyped("y")]), errors.Fail,
     ["Limits(name_bytes=70000)"]),
]


@pytest.mark.parametrize("g,kind,words", [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_wrong_graphs(g: onnx.GraphProto, kind: type[errors.OnnxcError], words: list[str]) -> None:
    refused(model(g, my_dom=1), kind, *words)


def test_one_error_lists_all_that_is_wrong() -> None:
    nodes = [node("Foo", "x", "a", "n0"), node("Relu", "a", "b", "n1", oops=1), node("Bar", "b", "c", "n2"),
             node("Sin", "i", "d", "n3")]
    text = refused(model(graph(nodes, [X, value("i", (), I64)], [untyped("c"), untyped("d")])), errors.InvalidGraph,
                   "The model has 4 errors:", "(n0)", "oops", "(n2)", "tensor(int64)")
    assert len(text.splitlines()) == 5
    many = [node("Foo", "x", f"y{i}") for i in range(50)]
    assert "and 30 more" in refused(model(graph(many, [X], [untyped("y0")])), errors.InvalidGraph)
    ghosts = [node("Relu", f"ghost{i}", f"y{i}") for i in range(3)]
    refused(model(graph(ghosts, [], [untyped("y0")])), errors.InvalidArgument, "'ghost0'", "'ghost1'", "'ghost2'")


def test_names_are_escaped_in_messages() -> None:
    text = refused(model(graph([node("Foo", "x", "y", "\x1b[31mred\n")], [X], [untyped("y")])), errors.InvalidGraph)
    assert "\x1b" not in text and "\n" not in text and "\\x1b[31mred\\n" in text


def test_what_other_runtimes_let_pass_passes() -> None:
    m = model(graph([node("Upsample", "x s", "y")], [value("x", (1, 1, 2, 2)), value("s", (4,))], [untyped("y")]),
              opset=10)
    assert names(imported(m)) == ["Resize", "return"]
    wrong_rank = model(graph([node("Relu", "x", "y")], [X], [value("y", (1, 2, 3, 4))]))
    assert str(imported(wrong_rank).main.result_types[0]) == "f32[1, 2, 3, 4]", "a hint, for the lowering to correct"
    later = model(graph([node("Relu", "x", "y")], [X], [untyped("y")], [array("w", [1]), array("w", [2])]))
    imported(later)


def test_nesting_limit_of_subgraphs_and_types() -> None:
    g = graph([node("Identity", "x", "z")], [], [untyped("z")])
    for _ in range(20):
        g = graph([node("If", "c", "z", then_branch=g, else_branch=g)], [], [untyped("z")])
        g.node[0].attribute[1].g.CopyFrom(graph([node("Identity", "x", "z")], [], [untyped("z")]))
    m = model(graph([node("If", "c", "y", then_branch=g, else_branch=g)], [value("c", (), BOOL), X], [untyped("y")]))
    verify(imported(m))
    refused(m, errors.Fail, "The nesting of subgraphs", "Limits(nesting=11)", limits=Limits(nesting=10))
    t = helper.make_tensor_type_proto(FLOAT, None)
    for _ in range(12):
        t = helper.make_sequence_type_proto(t)
    m = model(graph([node("Identity", "x", "y")], [helper.make_value_info("x", t)], [untyped("y")]))
    refused(m, errors.Fail, "The nesting of the type of", limits=Limits(nesting=10))


def test_deep_nesting_is_refused_by_the_parser_not_by_the_stack() -> None:
    inner = onnx.GraphProto(name="g").SerializeToString()
    while len(inner) < 200_000:
        inner = _nested(inner)
    with pytest.raises(errors.InvalidProtobuf):
        load_model(b"\x08\x07\x3a" + _varint(len(inner)) + inner)


def _varint(n: int) -> bytes:
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes([*out, n])


def _nested(g: bytes) -> bytes:
    """A serialized graph with one node with one attribute that holds the graph `g`."""
    for tag in (b"\x32", b"\x2a", b"\x0a"):     # AttributeProto.g, NodeProto.attribute, GraphProto.node
        g = tag + _varint(len(g)) + g
    return g


def test_import_model_of_bytes() -> None:
    module = import_model(load_model(if_model().SerializeToString()))
    assert names(module)[-1] == "return"
