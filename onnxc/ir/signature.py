"""What a model looks like from outside: its inputs and outputs with the texts that the model's author wrote.

Plain data for the session, the artifact and the command line. Shapes here are the declared ones, for display and for
checks of what a caller feeds; types with inferred dims are in `ir.types`.
"""

from __future__ import annotations

import dataclasses

from onnxc.ir.types import ALL_DTYPES, Map, Opt, Seq, Sparse, Tensor, Type

__all__ = ["ValueInfo", "type_text"]

_TENSOR_TEXT = {d.name: f"tensor({d.onnx_text})" for d in ALL_DTYPES}


@dataclasses.dataclass(frozen=True, slots=True)
class ValueInfo:
    """One input or output.

    `type_text` is in ONNX Runtime's form, `tensor(float)`, and empty when the model does not say (outputs may omit it).
    `shape` holds an int, the verbatim text of a symbolic dimension, or None where the model leaves it open; the whole
    shape is None when the rank is not declared.
    """

    name: str
    type_text: str
    shape: tuple[int | str | None, ...] | None


def type_text(t: Type) -> str:
    """The ONNX text of a type: `tensor(float)`, `seq(tensor(int64))`, `optional(...)`, `map(string,tensor(float))`,
    `sparse_tensor(float)`."""
    if isinstance(t, Tensor):
        return _TENSOR_TEXT[t.dtype.name]
    if isinstance(t, Sparse):
        return f"sparse_{type_text(t.element)}"
    wrappers = []
    while isinstance(t, (Seq, Opt, Map)):
        if isinstance(t, Map):
            wrappers.append(f"map({t.key.onnx_text},")
            t = t.value
        else:
            wrappers.append("seq(" if isinstance(t, Seq) else "optional(")
            t = t.element
    if not isinstance(t, Tensor):
        raise TypeError(f"a value of type {t} has no ONNX type")
    return "".join(wrappers) + _TENSOR_TEXT[t.dtype.name] + ")" * len(wrappers)
