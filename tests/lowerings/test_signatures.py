"""Every lowering has the inputs and attributes, in order and with the defaults, that ONNX's schema gives its op."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import onnx
import pytest

from onnxc.lowerings import LOWERINGS, lowering_of

lowering_of("onnx.Add")                        # loads the families
OPSET = 28
ML = "ai.onnx.ml."
STANDARD = sorted(name for name in LOWERINGS if name.startswith(ML) or "." not in name and onnx.defs.has(name))


def schema_of(name: str) -> onnx.defs.OpSchema:
    if not name.startswith(ML):
        return onnx.defs.get_schema(name, OPSET)
    schema = onnx.defs.get_schema(name.removeprefix(ML), 5, "ai.onnx.ml")
    if schema.deprecated:                       # it stays in the form that was current last
        return onnx.defs.get_schema(schema.name, schema.since_version - 1, schema.domain)
    return schema


def parameters(name: str) -> list[inspect.Parameter]:
    return list(inspect.signature(LOWERINGS[name]).parameters.values())[1:]


def default_of(attribute: Any) -> Any:
    if not attribute.default_value.name:
        return None
    value = onnx.helper.get_attribute_value(attribute.default_value)
    if isinstance(value, list):
        return tuple(v.decode() if isinstance(v, bytes) else v for v in value)
    return value.decode() if isinstance(value, bytes) else value


def same_default(ours: Any, schemas: Any) -> bool:
    if isinstance(schemas, float):
        return np.float32(ours) == np.float32(schemas)
    return type(ours) is type(schemas) and ours == schemas


@pytest.mark.parametrize("name", STANDARD)
def test_inputs_are_those_of_the_schema(name: str) -> None:
    variadic = onnx.defs.OpSchema.FormalParameterOption.Variadic
    optional = onnx.defs.OpSchema.FormalParameterOption.Optional
    ours = [p for p in parameters(name) if p.kind is not p.KEYWORD_ONLY]
    theirs = list(schema_of(name).inputs)
    assert [p.name for p in ours] == [i.name for i in theirs]
    for p, i in zip(ours, theirs, strict=True):
        assert (p.kind is p.VAR_POSITIONAL) == (i.option == variadic), p.name
        assert (p.default is None) == (i.option == optional), p.name


@pytest.mark.parametrize("name", STANDARD)
def test_attributes_are_those_of_the_schema(name: str) -> None:
    ours = {p.name: p for p in parameters(name) if p.kind is p.KEYWORD_ONLY}
    theirs = schema_of(name).attributes
    assert ours.keys() == theirs.keys()
    for key, attribute in theirs.items():
        if attribute.required:
            assert ours[key].default is inspect.Parameter.empty, key
        else:
            assert same_default(ours[key].default, default_of(attribute)), (key, ours[key].default)
