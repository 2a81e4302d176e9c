"""Constants of a model as `t.const` ops: initializers, and the many forms of the Constant node."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxc.errors import InvalidGraph
from onnxc.frontend.attributes import attribute_value
from onnxc.frontend.graph import Node
from onnxc.frontend.tensors import TensorReader
from onnxc.ir.core import Attr, Module, Op, Ref, Value
from onnxc.ir.types import tensor_of

__all__ = ["INLINE_ELEMENTS", "add_constant", "constant_node", "make_constant"]

#: Tensors of up to this many elements stand in the text of their op.
INLINE_ELEMENTS = 16
_DTYPES = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64,
           "value_string": object, "value_strings": object}


def make_constant(module: Module, insert: Callable[[Op], Op], array: np.ndarray, name: str, loc: str = "") -> Value:
    """A `t.const` of `array`, which is not copied: small ones stand in the op, others in the module under `name`."""
    attrs: dict[str, Attr] = {"value": None, "ref": None}
    if array.size <= INLINE_ELEMENTS:
        attrs["value"] = array
    else:
        attrs["ref"] = Ref(add_constant(module, array, name or "constant"))
    return insert(Op("t.const", (), (tensor_of(array),), attrs, (), loc or name, (name,))).result


def add_constant(module: Module, array: np.ndarray, name: str) -> str:
    """Put an array among the module's constants; the name it got."""
    key = module.fresh_name(name)
    module.constants[key] = array
    return key


def constant_node(node: Node, reader: TensorReader) -> np.ndarray:
    """The value of a Constant node, which has exactly one attribute."""
    if len(node.attributes) != 1:
        raise InvalidGraph(f"This is an invalid model. In {node.text}: a Constant has to have exactly one attribute; "
                           f"it has {len(node.attributes)}.")
    (name, attribute), = node.attributes.items()
    value = attribute_value(attribute, reader, node.text)
    if isinstance(value, np.ndarray):
        return value
    if any(isinstance(v, bytes) for v in (value if isinstance(value, tuple) else (value,))):
        raise InvalidGraph(f"This is an invalid model. In {node.text}: the string is not UTF-8.")
    if isinstance(value, str):
        return np.array(value, object)
    return np.array(value, _DTYPES[name]) if value != () or name != "value_strings" else np.empty(0, object)
