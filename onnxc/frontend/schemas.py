"""What the ONNX schemas say about a node: which inputs, outputs and attributes it may have, and of which types.

`signature_of` turns a schema into plain Python once. `check_node` and `bind_types` hold a node against it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import onnx
from onnx import AttributeProto

from onnxc.errors import Fail, InvalidGraph, OnnxcError
from onnxc.frontend.graph import Node
from onnxc.frontend.load import OPSETS
from onnxc.frontend.problems import printable
from onnxc.ir.signature import type_text
from onnxc.ir.types import Type

__all__ = ["CUSTOM", "Formal", "Signature", "bind_types", "check_node", "signature_of"]

Report = Callable[[type[OnnxcError], str], None]

CUSTOM: set[tuple[str, str]] = {("", "SimplifiedLayerNormalization")}
"""Operators by domain and name that have no schema and are known all the same: ONNX Runtime's own in ONNX's domain, and
those that a program registers."""


@dataclasses.dataclass(frozen=True, slots=True)
class Formal:
    """A formal input or output; `type` is a type text or the name of a type variable."""

    name: str
    type: str
    optional: bool
    variadic: bool
    homogeneous: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Signature:
    """One version of one operator. `attributes` maps names to (AttributeProto type, required)."""

    since: int
    inputs: tuple[Formal, ...]
    outputs: tuple[Formal, ...]
    least_inputs: int
    most_inputs: int
    least_outputs: int
    most_outputs: int
    attributes: Mapping[str, tuple[int, bool]]
    allowed: Mapping[str, frozenset[str]]

    def input(self, i: int) -> Formal:
        return self.inputs[min(i, len(self.inputs) - 1)]

    def output(self, i: int) -> Formal:
        return self.outputs[min(i, len(self.outputs) - 1)]


_NUMBERS = dict(AttributeProto.AttributeType.items())


@functools.cache
def signature_of(op_type: str, domain: str, version: int) -> Signature | None:
    """The newest version of an operator that is not newer than `version`; None when there is none."""
    if domain not in OPSETS:
        return None         # its version may be any number
    try:
        schema = onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return None
    if schema.deprecated:       # models that still use it mean the form that was current last
        with contextlib.suppress(onnx.defs.SchemaError):
            schema = onnx.defs.get_schema(op_type, schema.since_version - 1, domain)
    return Signature(
        schema.since_version, tuple(map(_formal, schema.inputs)), tuple(map(_formal, schema.outputs)),
        schema.min_input, schema.max_input, schema.min_output, schema.max_output,
        # The type stub lacks what the enum has.
        {n: (_NUMBERS[a.type.name], a.required)  # type: ignore[attr-defined]
         for n, a in schema.attributes.items()},
        {c.type_param_str: frozenset(_plain(t) for t in c.allowed_type_strs) for c in schema.type_constraints})


def _formal(p: onnx.defs.OpSchema.FormalParameter) -> Formal:
    options = onnx.defs.OpSchema.FormalParameterOption
    return Formal(p.name, _plain(p.type_str), p.option == options.Optional, p.option == options.Variadic,
                  p.is_homogeneous)


def _plain(text: str) -> str:
    """A type text of a schema as `type_text` writes it: maps of element types are maps of tensors."""
    return re.sub(r"map\((\w+),(\w+)\)", r"map(\1,tensor(\2))", text.replace(" ", ""))


def check_node(node: Node, opsets: Mapping[str, int], report: Report) -> Signature | None:
    """Hold a node's form against its schema; problems are reported. None: no schema, or a node that does not fit it."""
    if node.domain not in opsets:
        report(InvalidGraph, f"This is an invalid model. In {node.text}, Error No opset import for domain "
                             f"'{printable(node.domain)}'.")
        return None
    signature = signature_of(node.op_type, node.domain, opsets[node.domain])
    if signature is None:
        if (node.domain, node.op_type) not in CUSTOM:
            _report_unknown(node, opsets[node.domain], report)
        return None
    bad = [*_arity(node, signature), *_attributes(node, signature)]
    for text in bad:
        report(InvalidGraph, f"This is an invalid model. In {node.text}: {text}")
    return None if bad else signature


def _report_unknown(node: Node, version: int, report: Report) -> None:
    if node.domain in ("", "ai.onnx.ml"):
        report(InvalidGraph, f"This is an invalid model. In {node.text}, Error No Op registered for "
                             f"{printable(node.op_type)} with domain_version of {version}.")
    elif node.domain not in OPSETS:
        report(Fail, f"Fatal error: {printable(node.domain)}:{printable(node.op_type)}(-1) is not a registered "
                     f"function/op. It is used by {node.text}.")
    elif not node.op_type.isidentifier():
        report(InvalidGraph, f"This is an invalid model. In {node.text}: this is not the name of an operator.")


def _arity(node: Node, s: Signature) -> list[str]:
    bad = []
    if not s.least_inputs <= len(node.inputs) <= s.most_inputs:
        bad.append(f"Node ({printable(node.label)}) has input size {len(node.inputs)} not in range "
                   f"[min={s.least_inputs}, max={s.most_inputs}].")
    if not s.least_outputs <= len(node.outputs) <= s.most_outputs:
        bad.append(f"Node ({printable(node.label)}) has output size {len(node.outputs)} not in range "
                   f"[min={s.least_outputs}, max={s.most_outputs}].")
    if not bad:
        bad += [f"the required input {i} ({s.input(i).name}) is left out." for i, name in enumerate(node.inputs)
                if not name and not s.input(i).optional and not s.input(i).variadic]
        bad += [f"the required output {i} ({s.output(i).name}) is left out." for i, name in enumerate(node.outputs)
                if not name and not s.output(i).optional and not s.output(i).variadic]
    return bad


def _attributes(node: Node, s: Signature) -> list[str]:
    bad = []
    given = {**{n: (a.type, bool(a.ref_attr_name)) for n, a in node.attributes.items()},
             **{n: (int(AttributeProto.GRAPH), False) for n in node.subgraphs}}
    for name, (kind, is_reference) in given.items():
        if name not in s.attributes:
            bad.append(f"Unrecognized attribute: {printable(name)} for operator {node.op_type}; it has "
                       f"{', '.join(sorted(s.attributes)) or 'none'}.")
        elif kind != s.attributes[name][0] and not (is_reference and kind == 0):
            bad.append(f"Mismatched attribute type of '{name}': it is {_kind(kind)} and has to be "
                       f"{_kind(s.attributes[name][0])}.")
    bad += [f"the required attribute '{n}' is missing." for n, (_, required) in s.attributes.items()
            if required and n not in given]
    return bad


def _kind(number: int) -> str:
    return AttributeProto.AttributeType.Name(number) if number in AttributeProto.AttributeType.values() else str(number)


def _listed(types: Iterable[str]) -> str:
    shown = sorted(types)
    return ", ".join(shown[:12]) + (", ..." if len(shown) > 12 else "")


def bind_types(node: Node, s: Signature, types: Sequence[Type | None], report: Report) -> dict[str, Type]:
    """The types that the type variables of a signature stand for; operands that do not fit are reported.

    `types` holds None for operands that are absent or whose type is not known.
    """
    bound: dict[str, Type] = {}
    texts: dict[str, str] = {}
    for i, t in enumerate(types):
        if t is None:
            continue
        formal, text = s.input(i), type_text(t)
        allowed = s.allowed.get(formal.type)
        if text not in allowed if allowed is not None else text != formal.type:
            report(InvalidGraph, f"This is an invalid model. Type Error: Type '{text}' of input parameter "
                                 f"({printable(node.inputs[i])}) of operator ({node.op_type}) in {node.text} is "
                                 f"invalid; allowed are {_listed(allowed or {formal.type})}.")
        elif allowed is not None and (formal.homogeneous or not formal.variadic):
            if texts.setdefault(formal.type, text) != text:
                report(InvalidGraph, f"This is an invalid model. Type Error: Type parameter ({formal.type}) of Optype "
                                     f"({node.op_type}) bound to different types ({texts[formal.type]} and {text}) in "
                                     f"{node.text}.")
            bound.setdefault(formal.type, t)
    return bound
