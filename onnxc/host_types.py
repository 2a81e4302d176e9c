"""What is known about the results of host steps before a run: ranks, so that native code behind them is compiled ahead.

`RULES` has a function for each operator: of attributes and the types of inputs, None where nothing is known and NOTHING
for one that is left out. It gives one result's type or the rank of it, a list of these for several, None for what it
cannot tell. An operator without a rule has the types that the model declares.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from onnxc.ir.dims import DimLike, Shape, sym
from onnxc.ir.types import I64, Opt, Seq, Tensor, Type, dtype_of_onnx

__all__ = ["NOTHING", "joined", "known_results", "open_shape"]

Types = Sequence["Type | None"]
Rule = Callable[[Mapping[str, Any], Types], Any]


@dataclasses.dataclass(frozen=True, slots=True)
class _Nothing(Type):
    """The type of the elements of a sequence that has none, and of an optional without a value."""

    def __str__(self) -> str:
        return "nothing"


NOTHING = _Nothing()
_OPEN: DimLike = sym("open")


def open_shape(rank: int) -> Shape:
    """A shape of which only the rank is known."""
    return (_OPEN,) * rank


def joined(a: Type | None, b: Type | None) -> Type | None:
    """A type that holds both; None where they have nothing in common that compiling could use."""
    if a == b or b == NOTHING:
        return a
    if a == NOTHING:
        return b
    if isinstance(a, Tensor) and isinstance(b, Tensor) and a.dtype == b.dtype and a.shape is not None \
            and b.shape is not None and len(a.shape) == len(b.shape):
        return Tensor(a.dtype, tuple(d if d == e else _OPEN for d, e in zip(a.shape, b.shape, strict=True)))
    if isinstance(a, (Seq, Opt)) and type(a) is type(b):
        element = joined(a.element, b.element)
        return None if element is None else type(a)(element)
    if isinstance(a, Opt) or isinstance(b, Opt):        # one branch gives an optional, the other its value
        element = joined(a.element if isinstance(a, Opt) else a, b.element if isinstance(b, Opt) else b)
        return None if element is None else Opt(element)
    return None


def known_results(op: str, attrs: Mapping[str, Any], types: Types, declared: Sequence[Type]) -> list[Type | None]:
    """The types of a host step's results, whose element types are those that the model says."""
    rule = RULES.get(op)
    found = rule(attrs, types) if rule is not None else None
    if rule is None:
        return list(declared)
    each = found if isinstance(found, list) else [found]
    return [_of_rank(each[i] if i < len(each) else None, t) for i, t in enumerate(declared)]


def _of_rank(found: Type | int | None, declared: Type) -> Type | None:
    if isinstance(found, int):
        return Tensor(declared.dtype, open_shape(found)) if isinstance(declared, Tensor) else None
    return found


def _rank(t: Type | None) -> int | None:
    return len(t.shape) if isinstance(t, Tensor) and t.shape is not None else None


def _same(attrs: Mapping[str, Any], types: Types) -> int | None:
    return _rank(types[0])


def _broadcast(attrs: Mapping[str, Any], types: Types) -> int | None:
    ranks = [_rank(t) for t in types]
    return None if None in ranks else max(r for r in ranks if r is not None)


def _split_text(attrs: Mapping[str, Any], types: Types) -> list[Any]:
    rank = _rank(types[0])
    return [None, None] if rank is None else [rank + 1, rank]


def _cast(attrs: Mapping[str, Any], types: Types) -> Type | None:
    t = types[0]
    return Tensor(dtype_of_onnx(attrs["to"]), t.shape) if isinstance(t, Tensor) else None


def _gather(attrs: Mapping[str, Any], types: Types) -> int | None:
    data, indices = _rank(types[0]), _rank(types[1])
    return None if data is None or indices is None else data + indices - 1


def _extracted(attrs: Mapping[str, Any], types: Types) -> int | None:
    rank = _rank(types[0])
    return None if rank is None else max(2, rank)


def _count(t: Type | None) -> int | None:
    """How many elements a vector has."""
    size = t.shape[0] if isinstance(t, Tensor) and t.shape is not None and len(t.shape) == 1 else None
    return size if isinstance(size, int) else None


def _reshape(attrs: Mapping[str, Any], types: Types) -> int | None:
    return _count(types[1])


def _shape(attrs: Mapping[str, Any], types: Types) -> Type | int:
    rank = _rank(types[0])
    return 1 if rank is None else Tensor(I64, (len(range(rank)[attrs.get("start", 0):attrs.get("end")]),))


def _axes(sign: int) -> Rule:
    def rule(attrs: Mapping[str, Any], types: Types) -> int | None:
        rank, axes = _rank(types[0]), _count(types[1]) if len(types) > 1 else None
        return None if rank is None or axes is None else rank + sign * axes
    return rule


# ---- sequences and optionals -----------------------------------------------------------------------------------------

def _element(t: Type | None) -> Type | None:
    return t.element if isinstance(t, (Seq, Opt)) else None


def _sequence(element: Type | None) -> Type | None:
    return None if element is None else Seq(element)


def _construct(attrs: Mapping[str, Any], types: Types) -> Type | None:
    element: Type | None = types[0]
    for t in types[1:]:
        element = joined(element, t)
    return _sequence(element)


def _insert(attrs: Mapping[str, Any], types: Types) -> Type | None:
    old = _element(types[0])
    return None if old is None else _sequence(joined(old, types[1]))


def _at(attrs: Mapping[str, Any], types: Types) -> Type | None:
    element = _element(types[0])
    return None if element == NOTHING else element


def _join(attrs: Mapping[str, Any], types: Types) -> int | None:
    rank = _rank(_element(types[0]))
    return None if rank is None else rank + bool(attrs.get("new_axis", 0))


def _split(attrs: Mapping[str, Any], types: Types) -> Type | None:
    given, rank = types[0], _rank(types[0])
    if not isinstance(given, Tensor) or rank is None:
        return None
    drop = (len(types) < 2 or types[1] == NOTHING) and not attrs.get("keepdims", 1)
    return Seq(Tensor(given.dtype, open_shape(rank - drop)))


def _optional(attrs: Mapping[str, Any], types: Types) -> Type | None:
    given = types[0] if types else NOTHING
    return None if given is None else Opt(given)


def _held(attrs: Mapping[str, Any], types: Types) -> Type | None:
    return _at(attrs, types) if isinstance(types[0], Opt) else types[0]


RULES: dict[str, Rule] = {
    "ImageDecoder": lambda attrs, types: 3, "TfIdfVectorizer": _same,
    "Unique": lambda attrs, types: [1 if attrs.get("axis") is None else _same(attrs, types), 1, 1, 1],
    "StringConcat": _broadcast, "StringSplit": _split_text, "RegexFullMatch": _same, "StringNormalizer": _same,
    "Equal": _broadcast, "Cast": _cast, "Concat": _same, "Gather": _gather, "Reshape": _reshape, "Unsqueeze": _axes(1),
    "Squeeze": _axes(-1), "Shape": _shape, "Where": _broadcast,
    "Identity": lambda attrs, types: types[0],
    "SequenceConstruct": _construct, "SequenceEmpty": lambda attrs, types: Seq(NOTHING), "SequenceInsert": _insert,
    "SequenceErase": lambda attrs, types: types[0], "SequenceAt": _at, "SequenceLength": lambda attrs, types: 0,
    "ConcatFromSequence": _join, "SplitToSequence": _split, "Optional": _optional,
    "OptionalHasElement": lambda attrs, types: 0, "OptionalGetElement": _held, "ai.onnx.ml.LabelEncoder": _same,
    "ai.onnx.ml.DictVectorizer": lambda attrs, types: 2, "ai.onnx.ml.CastMap": lambda attrs, types: 2,
    "ai.onnxc.SparseParts": lambda attrs, types: [1, 2, 3],
    "ai.onnx.ml.CategoryMapper": _same, "ai.onnx.ml.ArrayFeatureExtractor": _extracted,
}
