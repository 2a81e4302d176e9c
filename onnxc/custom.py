"""Custom operators: `register_op` teaches the compiler an operator of a domain that ONNX does not define."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onnxc.errors import InvalidArgument
from onnxc.frontend.schemas import CUSTOM
from onnxc.lowerings.table import LOWERINGS, lowering_of
from onnxc.runtime.custom import CUSTOM_OPS

__all__ = ["register_op", "unregister_op"]


def register_op(domain: str, name: str, fn: Callable[..., Any]) -> None:
    """Compiles nodes `domain:name` by the lowering `fn`, in every model that is opened from now on.

    `fn(b, *inputs, **attributes)` builds the operator out of tensor ops. `b` is an `onnxc.lowerings.Lowering`, which
    makes ops and constants and answers questions about shapes. Inputs are values, None where the node leaves them out;
    attributes are keyword-only parameters under their ONNX names. `fn` gives a value, or a tuple of them where the
    operator has several outputs; what it cannot express it refuses with `b.refuse(reason)`. What it builds is fused and
    compiled like everything else:

        def ScaledRelu(b, x, *, scale=1.0):
            return b.map("mul", b.map("max", x, b.scalar(0, x)), b.scalar(scale, x))

        onnxc.register_op("com.example", "ScaledRelu", ScaledRelu)

    Raises InvalidArgument for names that cannot be, and for operators that have a meaning already. While operators are
    registered the compile cache is not used: it cannot tell one function from another. An artifact has them compiled
    into it, and runs where nothing is registered.
    """
    key = _key(domain, name)
    if lowering_of(key) is not None:
        raise InvalidArgument(f"The operator {domain}:{name} has a meaning already, and models that use it rely on it. "
                              "Choose another name or domain; unregister_op takes back one of your own.")
    if not callable(fn):
        raise TypeError(f"The lowering of {domain}:{name} is {fn!r}; expected a function.")
    LOWERINGS[key] = fn
    CUSTOM.add((domain, name))
    CUSTOM_OPS.add(f"{domain}:{name}")


def unregister_op(domain: str, name: str) -> None:
    """Takes back what `register_op` did; sessions that are open keep their programs."""
    key = _key(domain, name)
    if (domain, name) not in CUSTOM:
        raise InvalidArgument(f"No operator {domain}:{name} was registered.")
    del LOWERINGS[key]
    CUSTOM.discard((domain, name))
    CUSTOM_OPS.discard(f"{domain}:{name}")


def _key(domain: str, name: str) -> str:
    """What the table of lowerings calls the operator."""
    for what, text in (("domain", domain), ("name", name)):
        if not isinstance(text, str):
            raise TypeError(f"The {what} of an operator is a text, not {text!r}.")
    if not name.isidentifier():
        raise InvalidArgument(f"{name!r} cannot name an operator: letters, digits and underscores can.")
    if domain in ("", "ai.onnx") or not all(part.isidentifier() for part in domain.split(".")):
        raise InvalidArgument(f"{domain!r} cannot be a domain of your own: 'com.example' can.")
    return f"{domain}.{name}"
