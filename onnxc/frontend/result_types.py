"""Element types of a node's results, from its schema's type variables and, where those do not decide, from a table.

Shapes are not inferred here: that is for the lowering, which knows what every op means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from onnx import TensorProto

from onnxc.frontend.schemas import Signature
from onnxc.ir.core import Attr
from onnxc.ir.types import (
    ALL_DTYPES,
    BOOL,
    F32,
    I64,
    STR,
    U8,
    Map,
    Opt,
    Seq,
    Sparse,
    Tensor,
    Type,
    dtype_of,
    dtype_of_onnx,
)

__all__ = ["RULES", "region_arg_types", "result_types", "shapeless", "type_from_text"]

Types = Sequence["Type | None"]
Attrs = Mapping[str, Attr]
_NUMBER_BY_NAME = dict(TensorProto.DataType.items())
_BY_TEXT = {d.onnx_text: d for d in ALL_DTYPES}


def shapeless(t: Type | None) -> Type | None:
    """The type without its dims."""
    if isinstance(t, Tensor):
        return Tensor(t.dtype, None)
    if isinstance(t, (Seq, Opt)):
        inner = shapeless(t.element)
        return None if inner is None else type(t)(inner)
    if isinstance(t, Sparse):
        return Sparse(Tensor(t.element.dtype, None))
    if isinstance(t, Map):
        value = shapeless(t.value)
        return None if value is None else Map(t.key, value)
    return t


def type_from_text(text: str) -> Type | None:
    """The type, without dims, that `tensor(float)`, `seq(...)`, `optional(...)` or `map(...)` spells; else None."""
    head, _, rest = text.partition("(")
    inner = rest[:-1]
    if head == "tensor":
        return Tensor(_BY_TEXT[inner], None) if inner in _BY_TEXT else None
    if head == "map":
        key, _, value_text = inner.partition(",")
        value = type_from_text(value_text)
        return Map(_BY_TEXT[key], value) if key in _BY_TEXT and value is not None else None
    element = type_from_text(inner) if head in ("seq", "optional") else None
    return None if element is None else Seq(element) if head == "seq" else Opt(element)


def result_types(name: str, s: Signature | None, bound: Mapping[str, Type], operands: Types, attrs: Attrs,
                 yields: Sequence[Types], count: int) -> list[Type | None]:
    """Types of the `count` results of an op called `name` ("onnx.Cast"); None for one that cannot be told.

    `s` is None for an operator without a schema. `operands` are without captures; `yields` holds the types that each
    region gives.
    """
    rule = RULES.get(name)
    if rule is not None:
        by_rule = rule(operands, attrs, yields, count)
        if by_rule is not None:
            out = [by_rule] * count if not isinstance(by_rule, list) else by_rule
            return [shapeless(out[i]) if i < len(out) and out[i] is not None else _by_schema(s, i, bound)
                    for i in range(count)]
    return [_by_schema(s, i, bound) for i in range(count)]


def _by_schema(s: Signature | None, i: int, bound: Mapping[str, Type]) -> Type | None:
    if s is None:
        return None
    text = s.output(i).type
    if text not in s.allowed:
        return type_from_text(text)
    if text in bound:
        return shapeless(bound[text])
    allowed = s.allowed[text]
    return type_from_text(next(iter(allowed))) if len(allowed) == 1 else None


Rule = Callable[[Types, Attrs, Sequence[Types], int], "Type | list[Type | None] | None"]


def _numbered(attrs: Attrs, key: str, default: int = 0) -> Type | None:
    """The tensor type that an attribute gives as a TensorProto.DataType number; None when it is 0 or unknown."""
    number = attrs.get(key, default)
    if isinstance(number, str) and number in _NUMBER_BY_NAME:      # Cast 1 names its type
        number = _NUMBER_BY_NAME[number]
    try:
        return Tensor(dtype_of_onnx(number), None) if isinstance(number, int) else None
    except KeyError:
        return None


def _from_attr(key: str, default: int = 0) -> Rule:
    return lambda operands, attrs, yields, count: _numbered(attrs, key, default)


def _from_attr_or_operand(key: str, operand: int = 0, default: Type | None = None) -> Rule:
    def rule(operands: Types, attrs: Attrs, yields: Sequence[Types], count: int) -> Type | None:
        given = operands[operand] if operand < len(operands) else default
        return _numbered(attrs, key) or given
    return rule


def _constant_of_shape(operands: Types, attrs: Attrs, yields: Sequence[Types], count: int) -> Type | None:
    value = attrs.get("value")
    return Tensor(dtype_of(value.dtype) if isinstance(value, np.ndarray) else F32, None)


def _element(operands: Types, attrs: Attrs, yields: Sequence[Types], count: int) -> Type | None:
    t = operands[0] if operands else None
    return t.element if isinstance(t, Seq) else None


def _optional_element(operands: Types, attrs: Attrs, yields: Sequence[Types], count: int) -> Type | None:
    t = operands[0] if operands else None
    return t.element if isinstance(t, Opt) else t


def _sequence(operands: Types, attrs: Attrs, yields: Sequence[Types], count: int) -> Type | None:
    t = operands[0] if operands else None
    return None if t is None else Seq(t)


def _sequence_empty(operands: Types, attrs: Attrs, yields: Sequence[Types], count: int) -> Type | None:
    element = _numbered(attrs, "dtype", TensorProto.FLOAT)
    return None if element is None else Seq(element)


def _optional(operands: Types, attrs: Attrs, yields: Sequence[Types], count: int) -> Type | None:
    given = operands[0] if operands else attrs.get("type")
    return Opt(given) if isinstance(given, Type) else None


def _stash(operands: Types, attrs: Attrs, yields: Sequence[Types], count: int) -> list[Type | None]:
    return [None, _numbered(attrs, "stash_type", TensorProto.FLOAT), _numbered(attrs, "stash_type", TensorProto.FLOAT)]


def _linear_attention(operands: Types, attrs: Attrs, yields: Sequence[Types], count: int) -> list[Type | None]:
    return [None, (operands[3] if len(operands) > 3 else None) or operands[0]]


def _if(operands: Types, attrs: Attrs, yields: Sequence[Types], count: int) -> list[Type | None]:
    out: list[Type | None] = []
    for i in range(count):
        known = [types[i] for types in yields if i < len(types) and types[i] is not None]
        out.append(known[0] if known else None)
    return out


def _loop(operands: Types, attrs: Attrs, yields: Sequence[Types], count: int) -> list[Type | None]:
    carried = list(operands[2:])
    given = list(yields[0][1:]) if yields else []
    return [t or (carried[i] if i < len(carried) else None) for i, t in enumerate(given)]


def _scan(operands: Types, attrs: Attrs, yields: Sequence[Types], count: int) -> list[Type | None]:
    return list(yields[0]) if yields else []


def _sequence_map(operands: Types, attrs: Attrs, yields: Sequence[Types], count: int) -> list[Type | None]:
    return [None if t is None else Seq(t) for t in (yields[0] if yields else ())]


def _label_encoder(operands: Types, attrs: Attrs, yields: Sequence[Types], count: int) -> Type | None:
    for key, value in attrs.items():
        if key == "values_tensor" and isinstance(value, np.ndarray):
            return Tensor(dtype_of(value.dtype), None)
        if key.startswith("values_"):
            return Tensor({"values_floats": F32, "values_int64s": I64, "values_strings": STR}[key], None)
    # Version 1 maps strings to their position and back.
    given = operands[0] if operands else None
    return Tensor(I64 if isinstance(given, Tensor) and given.dtype == STR else STR, None)


def _other_of_string_and_int(operands: Types, attrs: Attrs, yields: Sequence[Types], count: int) -> Type | None:
    given = operands[0] if operands else None
    return Tensor(I64 if isinstance(given, Tensor) and given.dtype == STR else STR, None)


def _classes(*string_keys: str) -> Rule:
    """Classifiers: labels are strings when the class labels are given as strings."""
    def rule(operands: Types, attrs: Attrs, yields: Sequence[Types], count: int) -> list[Type | None]:
        return [Tensor(STR if any(attrs.get(k) for k in string_keys) else I64, None)]
    return rule


def _zip_map(operands: Types, attrs: Attrs, yields: Sequence[Types], count: int) -> Type:
    return Seq(Map(STR if attrs.get("classlabels_strings") else I64, Tensor(F32, None)))


def _cast_map(operands: Types, attrs: Attrs, yields: Sequence[Types], count: int) -> Type:
    names = {"TO_FLOAT": F32, "TO_INT64": I64, "TO_STRING": STR}
    return Tensor(names.get(str(attrs.get("cast_to", "TO_FLOAT")), F32), None)


def _dict_vectorizer(operands: Types, attrs: Attrs, yields: Sequence[Types], count: int) -> Type | None:
    t = operands[0] if operands else None
    return t.value if isinstance(t, Map) else None


#: Operators whose result types their schemas' type variables do not decide.
RULES: dict[str, Rule] = {
    "onnx.BitCast": _from_attr("to"),
    "onnx.Bernoulli": _from_attr_or_operand("dtype"),
    "onnx.BlackmanWindow": _from_attr("output_datatype", TensorProto.FLOAT),
    "onnx.Cast": _from_attr("to"),
    "onnx.ConcatFromSequence": _element,
    "onnx.ConstantOfShape": _constant_of_shape,
    "onnx.DequantizeLinear": _from_attr_or_operand("output_dtype", 1),
    "onnx.EyeLike": _from_attr_or_operand("dtype"),
    "onnx.HammingWindow": _from_attr("output_datatype", TensorProto.FLOAT),
    "onnx.HannWindow": _from_attr("output_datatype", TensorProto.FLOAT),
    "onnx.If": _if,
    "onnx.LayerNormalization": _stash,
    "onnx.LinearAttention": _linear_attention,
    "onnx.Loop": _loop,
    "onnx.MelWeightMatrix": _from_attr("output_datatype", TensorProto.FLOAT),
    "onnx.Multinomial": _from_attr("dtype", TensorProto.INT32),
    "onnx.Optional": _optional,
    "onnx.OptionalGetElement": _optional_element,
    "onnx.QuantizeLinear": _from_attr_or_operand("output_dtype", 2, Tensor(U8, None)),
    "onnx.RandomNormal": _from_attr("dtype", TensorProto.FLOAT),
    "onnx.RandomNormalLike": _from_attr_or_operand("dtype"),
    "onnx.RandomUniform": _from_attr("dtype", TensorProto.FLOAT),
    "onnx.RandomUniformLike": _from_attr_or_operand("dtype"),
    "onnx.Scan": _scan,
    "onnx.SequenceAt": _element,
    "onnx.SequenceConstruct": _sequence,
    "onnx.SequenceEmpty": _sequence_empty,
    "onnx.SequenceMap": _sequence_map,
    "onnx.SplitToSequence": _sequence,
    "onnx.ai.onnx.ml.CastMap": _cast_map,
    "onnx.ai.onnx.ml.CategoryMapper": _other_of_string_and_int,
    "onnx.ai.onnx.ml.DictVectorizer": _dict_vectorizer,
    "onnx.ai.onnx.ml.LabelEncoder": _label_encoder,
    "onnx.ai.onnx.ml.LinearClassifier": _classes("classlabels_strings"),
    "onnx.ai.onnx.ml.SVMClassifier": _classes("classlabels_strings"),
    "onnx.ai.onnx.ml.TreeEnsembleClassifier": _classes("classlabels_strings"),
    "onnx.ai.onnx.ml.ZipMap": _zip_map,
    "onnx.com.microsoft.SparseToDenseMatMul": _from_attr_or_operand("", 1),
}


def region_arg_types(name: str, operands: Types, attrs: Attrs, count: int) -> list[Type | None]:
    """Types of the `count` formal inputs of an op's region, captures aside; None where the op does not say."""
    out: list[Type | None] = []
    if name == "onnx.Loop":
        out = [Tensor(I64, ()), Tensor(BOOL, ()), *map(shapeless, operands[2:])]
    elif name == "onnx.Scan":
        out = [shapeless(t) for t in operands[max(len(operands) - count, 0):]]     # version 8 has one more, in front
    elif name == "onnx.SequenceMap":
        out = [shapeless(t.element if isinstance(t, Seq) else t) for t in operands]
    return (out + [None] * count)[:count]
