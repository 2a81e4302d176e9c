"""Declared types and shapes: TypeProto -> IR types, and the symbols that dimension names become."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from onnx import TensorProto, TensorShapeProto, TypeProto

from onnxc import errors
from onnxc.errors import InvalidGraph
from onnxc.frontend.limits import Limits
from onnxc.frontend.problems import printable
from onnxc.ir.dims import Dim, DimLike, Shape, parse_dim, sym, symbols_of
from onnxc.ir.solve import solvable
from onnxc.ir.types import DType, Map, Opt, Seq, Sparse, Tensor, Type, dtype_of_onnx

__all__ = ["DimNames", "declared_shape", "element_type", "type_of"]

_LONGEST_EXPRESSION = 80


class DimNames:
    """Gives every dimension text of a model one symbolic dim, and unnamed dimensions fresh symbols.

    A text that reads as an expression of the dims algebra (`past + 1`) becomes that expression; any other text
    becomes a symbol with a similar name, and one without a letter or digit (`?`) is no name. Two different texts never
    share a symbol that neither of them spells out.
    After `bind_to`, so does an expression of symbols that no run would know.
    """

    def __init__(self) -> None:
        self._dims: dict[str, Dim] = {}
        self._taken: set[str] = set()
        self._bound: set[str] | None = None
        self._fresh = 0

    def bind_to(self, shapes: Iterable[TensorShapeProto]) -> None:
        """Take expressions for what they say only where the sizes of `shapes`, those of the inputs, give all their
        symbols."""
        self._bound = solvable(e for shape in shapes for text in _names_in(shape)
                               if (e := _as_expression(text)) is not None)

    def named(self, text: str) -> Dim:
        """The dim of a `dim_param`."""
        if not re.search(r"\w", text):
            return self.fresh()
        if text not in self._dims:
            d = _as_expression(text)
            if d is None or (self._bound is not None and str(d) not in symbols_of(d)
                             and not symbols_of(d) <= self._bound):
                d = self._symbol(re.sub(r"\W", "_", text, flags=re.ASCII)[:40])
            self._dims[text] = d
            self._taken |= symbols_of(d)
        return self._dims[text]

    def fresh(self) -> Dim:
        """A symbol that no name of the model uses so far."""
        while f"u{self._fresh}" in self._taken:
            self._fresh += 1
        self._taken.add(f"u{self._fresh}")
        return sym(f"u{self._fresh}")

    def reserve(self, shape: TensorShapeProto) -> None:
        """Take note of the names in a shape, so that `fresh` avoids them and they keep their own spelling."""
        for text in _names_in(shape):
            expression = _as_expression(text)
            if expression is not None:
                self._taken |= symbols_of(expression)

    def _symbol(self, stem: str) -> Dim:
        stem = stem if re.match(r"[A-Za-z_]", stem) else f"d_{stem}"
        name, n = stem, 0
        while name in self._taken:
            n += 1
            name = f"{stem}_{n}"
        return sym(name)


def _names_in(shape: TensorShapeProto) -> Iterator[str]:
    for d in shape.dim:
        if d.WhichOneof("value") == "dim_param" and d.dim_param and isinstance(d.dim_param, str):
            yield d.dim_param


def _as_expression(text: str) -> Dim | None:
    """The text as a dim of at least one symbol; None when it is something else, or when binding it could go wrong."""
    if len(text) > _LONGEST_EXPRESSION or not re.fullmatch(r"[A-Za-z0-9_.+\-*/%(), ]+", text):
        return None
    if re.search(r"(//|%)\s*[^\d\s]", text):
        return None         # the divisor could be zero
    try:
        d = parse_dim(text)
    except ValueError:
        return None
    return d if isinstance(d, Dim) and not re.search(r"\d{16}", str(d)) else None


def declared_shape(shape: TensorShapeProto, names: DimNames, limits: Limits, what: str) -> Shape:
    """The dims of a declared shape; a dimension without a name (or with a negative value) gets a fresh symbol."""
    limits.require("rank", len(shape.dim), f"The rank of {what}")
    dims: list[DimLike] = []
    for d in shape.dim:
        kind = d.WhichOneof("value")
        if kind == "dim_value" and d.dim_value >= 0:
            dims.append(int(d.dim_value))
        elif kind == "dim_param" and d.dim_param and isinstance(d.dim_param, str):
            limits.require("name_bytes", len(d.dim_param), f"The length of the name of a dimension of {what}")
            dims.append(names.named(d.dim_param))
        else:
            dims.append(names.fresh())
    return tuple(dims)


def element_type(number: int, what: str) -> DType:
    """The element type of a TensorProto.DataType number."""
    try:
        return dtype_of_onnx(number)
    except KeyError:
        pass
    if number in TensorProto.DataType.values():
        raise errors.NotImplemented(f"{what} has element type {TensorProto.DataType.Name(number)}, which onnxc does "
                                    "not implement.")
    raise InvalidGraph(f"{what} has element type {number}, which is not an ONNX type.")


def type_of(proto: TypeProto, names: DimNames | None, limits: Limits, what: str, depth: int = 0) -> Type | None:
    """The IR type that a TypeProto declares; None when it leaves the element type open. `names` None drops shapes."""
    limits.require("nesting", depth, f"The nesting of the type of {what}")
    kind = proto.WhichOneof("value")
    if kind is None:
        return None
    if kind in ("tensor_type", "sparse_tensor_type"):
        declared = getattr(proto, kind)
        if declared.elem_type == TensorProto.UNDEFINED:
            return None
        dtype = element_type(declared.elem_type, what)
        shaped = names if declared.HasField("shape") else None
        t = Tensor(dtype, None if shaped is None else declared_shape(declared.shape, shaped, limits, what))
        return t if kind == "tensor_type" else Sparse(t)
    if kind in ("sequence_type", "optional_type"):
        inner = type_of(getattr(proto, kind).elem_type, names, limits, what, depth + 1)
        return None if inner is None else Seq(inner) if kind == "sequence_type" else Opt(inner)
    if kind == "map_type":
        value = type_of(proto.map_type.value_type, names, limits, what, depth + 1)
        return None if value is None else Map(element_type(proto.map_type.key_type, what), value)
    raise errors.NotImplemented(f"{what} is of kind {printable(kind)}, which onnxc does not implement.")
