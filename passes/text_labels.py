"""Takes texts out of operators that only use them as labels: models with text labels or text categories compute with
numbers natively, and a table of texts is looked up beside them, which is the host's step."""

from __future__ import annotations

from onnxc.ir.core import Attr, Module, Op, Value
from onnxc.ir.types import I64, STR, Tensor

__all__ = ["separate_texts"]

_ENCODER = "onnx.ai.onnx.ml.LabelEncoder"
_CLASSIFIERS = {"onnx.ai.onnx.ml.LinearClassifier": "classlabels_ints",
                "onnx.ai.onnx.ml.SVMClassifier": "classlabels_ints",
                "onnx.ai.onnx.ml.TreeEnsembleClassifier": "classlabels_int64s"}
_ONE_HOT = "onnx.ai.onnx.ml.OneHotEncoder"


def separate_texts(module: Module) -> None:
    """Gives classifiers with text labels numbers in their place, and encoders of text categories numbers to encode."""
    for op in list(module.main.walk()):
        if op.name in _CLASSIFIERS and op.attrs.get("classlabels_strings"):
            _number_labels(op, _CLASSIFIERS[op.name])
        elif op.name == _ONE_HOT and op.attrs.get("cats_strings"):
            _number_categories(op)


def _texts(op: Op, attribute: str) -> tuple[Attr, ...]:
    texts = op.attrs.pop(attribute)
    assert isinstance(texts, tuple)
    return texts


def _number_labels(op: Op, numbers: str) -> None:
    texts = _texts(op, "classlabels_strings")
    op.attrs[numbers] = tuple(range(len(texts)))
    label = op.results[0]
    shape = label.type.shape if isinstance(label.type, Tensor) else None
    label.type = Tensor(I64, shape)
    table = Op(_ENCODER, [label], [Tensor(STR, shape)],
               {"keys_int64s": tuple(range(len(texts))), "values_strings": texts}, (), op.loc, [label.name])
    assert op.block is not None
    op.block.insert(table, op.next)
    _use_instead(label, table)


def _use_instead(value: Value, table: Op) -> None:
    """The table's result takes the place of what it looks up."""
    value.replace_by(table.result)
    table.set_operand(0, value)


def _number_categories(op: Op) -> None:
    texts = _texts(op, "cats_strings")
    places: dict[Attr, Attr] = {text: i for i, text in enumerate(texts)}    # of equal categories the last one counts
    op.attrs["cats_int64s"] = tuple(range(len(texts)))
    given = op.operand(0)
    shape = given.type.shape if isinstance(given.type, Tensor) else None
    table = Op(_ENCODER, [given], [Tensor(I64, shape)],
               {"keys_strings": tuple(places), "values_int64s": tuple(places.values())}, (), op.loc)
    assert op.block is not None
    op.block.insert(table, op)
    op.set_operand(0, table.result)
