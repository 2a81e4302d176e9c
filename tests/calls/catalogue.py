"""The models that sequences of calls are made on: small, and each with something of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.session import models
from tests.session.models import FLOAT, INT64, constant, node, value

__all__ = ["Model", "catalogue"]

BOOL, STRING = TensorProto.BOOL, TensorProto.STRING
#: Element types beside those that NumPy has, which ONNX Runtime takes and gives in OrtValues only.
NARROW = ("BFLOAT16", "FLOAT8E4M3FN", "FLOAT8E5M2", "INT4", "UINT4")
PLAIN = ("FLOAT", "DOUBLE", "FLOAT16", "BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")


@dataclass(frozen=True)
class Model:
    """A model's bytes, what it is called, and the values inside of it."""

    name: str
    data: bytes
    inside: tuple[str, ...]
    tolerance: float = 0.0

    @property
    def is_narrow(self) -> bool:
        return self.name.removeprefix("copies ") in NARROW


def at(opset: int, made: onnx.ModelProto) -> onnx.ModelProto:
    made.opset_import[0].version = opset
    return made


def sequence(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_sequence_value_info(name, FLOAT, ["N", 3])


def of_ml(made: onnx.ModelProto) -> onnx.ModelProto:
    made.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    return at(18, made)


def optional() -> onnx.ModelProto:
    """y: what the optional holds, negated, or -a where it holds nothing; o itself."""
    kind = helper.make_optional_type_proto(helper.make_tensor_type_proto(FLOAT, ["N", 3]))
    yes = helper.make_graph([node("OptionalGetElement", "o", "e"), node("Neg", "e", "t")], "yes", [],
                            [value("t", [None, 3])])
    no = helper.make_graph([node("Neg", "a", "f")], "no", [], [value("f", [None, 3])])
    nodes = [node("OptionalHasElement", "o", "h"), node("If", "h", "y", then_branch=yes, else_branch=no)]
    return at(18, models.model(nodes, [helper.make_value_info("o", kind), value("a", ["M", 3])],
                               [value("y", [None, 3]), value("h", [], BOOL)]))


def sequences() -> onnx.ModelProto:
    """t: s with x at the end; j: all of s and x under each other; n: how many those are."""
    nodes = [node("SequenceInsert", "s x", "t"), node("ConcatFromSequence", "t", "j", axis=0),
             node("SequenceLength", "t", "n")]
    return at(18, models.model(nodes, [sequence("s"), value("x", ["N", 3])],
                               [sequence("t"), value("j", [None, 3]), value("n", [], INT64)]))


def labels() -> onnx.ModelProto:
    """z: x by label."""
    nodes = [helper.make_node("ZipMap", ["x"], ["z"], domain="ai.onnx.ml", classlabels_strings=["a", "b", "c"]),
             node("Neg", "x", "y")]
    row = helper.make_map_type_proto(STRING, helper.make_tensor_type_proto(FLOAT, None))
    kind = helper.make_sequence_type_proto(row)
    return of_ml(models.model(nodes, [value("x", ["N", 3])], [helper.make_value_info("z", kind), value("y", ["N", 3])]))


def mapped() -> onnx.ModelProto:
    kind = helper.make_map_type_proto(STRING, helper.make_tensor_type_proto(FLOAT, None))
    nodes = [helper.make_node("DictVectorizer", ["m"], ["v"], domain="ai.onnx.ml", string_vocabulary=["a", "b", "c"]),
             node("Neg", "v", "y")]
    return of_ml(models.model(nodes, [helper.make_value_info("m", kind)], [value("y", [1, 3])]))


def texts() -> onnx.ModelProto:
    """y = x; z: x without "a"."""
    nodes = [node("Identity", "x", "y"), node("StringNormalizer", "x", "z", stopwords=["a"], locale="C")]
    return models.model(nodes, [value("x", ["N"], STRING)], [value("y", ["N"], STRING), value("z", [None], STRING)])


def mixed() -> onnx.ModelProto:
    """Inputs of several types, some fixed; a branch."""
    yes = helper.make_graph([node("Add", "x k", "t")], "yes", [], [value("t", [2, "N"])])
    no = helper.make_graph([node("Sub", "x k", "f")], "no", [], [value("f", [2, "N"])])
    nodes = [node("Cast", "i", "k", to=FLOAT), node("If", "c", "y", then_branch=yes, else_branch=no),
             node("Add", "i i", "j")]
    return models.model(nodes, [value("x", [2, "N"]), value("c", [], BOOL), value("i", [1], INT64)],
                        [value("y", [2, "N"]), value("j", [1], INT64)],
                        producer_name="tests", doc_string="mixed", domain="example")


def appended() -> onnx.ModelProto:
    """present: past with x at its end; y: the sums of present."""
    nodes = [node("Concat", "past x", "present", axis=1), node("ReduceSum", "present axes", "y")]
    return models.model(nodes, [value("past", ["B", "P", 4]), value("x", ["B", "K", 4])],
                        [value("present", ["B", "P + K", 4]), value("y", ["B", 1, 4])], [constant("axes", [1])])


def outlets() -> onnx.ModelProto:
    """Outputs that are an input, a constant, and one value twice."""
    return models.model([node("Neg", "x", "y")], [value("x", ["N", 2])],
                        [value("x", ["N", 2]), value("k", [3]), value("y", ["N", 2])],
                        [constant("k", np.array([1, 2, 3], np.float32))])


def found() -> onnx.ModelProto:
    """Where x is not zero, and how often."""
    nodes = [node("NonZero", "x", "i"), node("Shape", "i", "s")]
    return models.model(nodes, [value("x", ["N", "M"])], [value("i", [2, None], INT64), value("s", [2], INT64)])


def constants() -> onnx.ModelProto:
    """No inputs, but two constants that may be fed, one of which is an output too."""
    return models.model([node("Add", "v w", "y")], [value("v", [2]), value("w", [2])],
                        [value("y", [2]), value("w", [2])],
                        [constant("v", np.array([1, 2], np.float32)), constant("w", np.array([3, 4], np.float32))])


def product() -> onnx.ModelProto:
    return models.model([node("MatMul", "x w", "h"), node("Add", "h y", "z")],
                        [value("x", ["N", "K"]), value("w", ["K", 2]), value("y", ["M", 2])], [value("z", [None, 2])])


def scalar() -> onnx.ModelProto:
    return models.model([node("Add", "x one", "y")], [value("x", [], INT64)], [value("y", [], INT64)],
                        [constant("one", np.array(1))])


def anything() -> onnx.ModelProto:
    return models.model([node("Neg", "x", "y")], [value("x", None)], [value("y", None)])


def fixed() -> onnx.ModelProto:
    return models.model([node("Abs", "x", "h"), node("Neg", "h", "y")], [value("x", [2, "N", 3])],
                        [value("y", [2, "N", 3])])


def split() -> onnx.ModelProto:
    return models.model([node("Split", "x", "a b c", axis=1)], [value("x", ["N", 3], TensorProto.DOUBLE)],
                        [value(n, ["N", 1], TensorProto.DOUBLE) for n in "abc"])


def loop() -> onnx.ModelProto:
    """x doubled n times."""
    body = helper.make_graph([node("Add", "v v", "w"), node("Identity", "c", "d")], "body",
                             [value("k", [], INT64), value("c", [], BOOL), value("v", ["N"])],
                             [value("d", [], BOOL), value("w", ["N"])])
    return models.model([node("Loop", "n go x", "y", body=body)], [value("n", [], INT64), value("x", ["N"])],
                        [value("y", ["N"])], [constant("go", np.array(True))])


def packed(element: int) -> onnx.ModelProto:
    """y = x of a type of which ONNX Runtime copies no tensors; and d = 2x."""
    return models.model([node("DequantizeLinear", "x two", "d")], [value("x", ["N", "M"], element)],
                        [value("d", ["N", "M"]), value("x", ["N", "M"], element)],
                        [constant("two", np.array(2, np.float32))])


def _copies(name: str) -> onnx.ModelProto:
    element = getattr(TensorProto, name)
    made = at(21, packed(element) if "INT4" in name else models.copies(element, ["N", "M"]))
    made.ir_version = 10
    return made


_MADE: dict[str, Callable[[], onnx.ModelProto]] = {
    "sums": models.sums, "overridable": models.overridable, "old": lambda: models.overridable(3), "mixed": mixed,
    "fixed": fixed, "scalar": scalar, "anything": anything, "unused": models.unused, "several": models.several,
    "picks": models.picks, "product": product, "outlets": outlets, "constants": constants, "found": found,
    "appended": appended, "split": split, "loop": loop, "texts": texts, "sequences": sequences, "optional": optional,
    "labels": labels, "mapped": mapped, "softmaxes": models.softmaxes,
    **{f"copies {name}": partial(_copies, name) for name in (*PLAIN, "STRING", *NARROW)},
}


@cache
def catalogue() -> tuple[Model, ...]:
    """All of them, those that most is said about first."""
    out = []
    for name, make in _MADE.items():
        made = make()
        ends = {v.name for v in (*made.graph.input, *made.graph.output)}
        inside = tuple(dict.fromkeys(n for each in made.graph.node for n in each.output if n not in ends))
        out.append(Model(name, made.SerializeToString(), inside, 1e-6 if name == "softmaxes" else 0.0))
    return tuple(out)
