"""Custom operators: `register_op` brings an operator of a domain that ONNX does not define, as a function of arrays or
as a lowering."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from onnxc.errors import InvalidArgument
from onnxc.frontend.result_types import RULES
from onnxc.frontend.schemas import CUSTOM
from onnxc.ir.types import Tensor
from onnxc.lowerings.table import LOWERINGS, lowering_of
from onnxc.python_ops import element_types
from onnxc.runtime.custom import CUSTOM_OPS, PYTHON_OPS, PythonOp

__all__ = ["register_op", "unregister_op"]


def register_op(domain: str, name: str, fn: Callable[..., Any] | None = None, *,
                lowering: Callable[..., Any] | None = None,
                outputs: Sequence[Any] | Callable[..., Any] | None = None) -> None:
    """Makes nodes `domain:name` known in every model that is opened from now on: as the function `fn` of arrays, which
    runs in Python, or as a `lowering`, which is compiled.

    **In Python.** `fn(*inputs, **attributes)` takes arrays, which it must not write (None for inputs that a node leaves
    out, a list for a sequence, arrays of str objects for texts), and attributes under their ONNX names. It gives an
    array, or a tuple of them where the operator has several outputs. It is a host step between native segments, which
    `report()` and the program's text list. What it raises arrives as the cause of a RuntimeException that names the
    node.

        def median(x, *, axis=-1):
            return np.median(x, axis).astype(x.dtype)

        onnxc.register_op("com.example", "Median", median, outputs=lambda x, axis=-1: [(x.dtype, x.shape[1:])])

    `outputs` says what the results are, so that native code behind them is compiled before the first run: a list with a
    dtype, or a pair of dtype and shape, for each output; or a function that gives such a list, and is called as `fn`
    with what is known of the inputs: `dtype`, and `shape`, a tuple in which sizes that only a run tells are names, or
    None. Results that differ are an error. Without `outputs`, element types are those that the model declares, ranks
    and sizes are found in a run, and what is behind the operator is compiled then, once for each form.

    **As a lowering.** `lowering(b, *inputs, **attributes)` builds the operator out of tensor ops. `b` is an
    `onnxc.lowerings.Lowering`, which makes ops and constants and answers questions about shapes. Inputs are values;
    attributes are keyword-only parameters. It gives a value, or a tuple of them; what it cannot express it refuses with
    `b.refuse(reason)`. What it builds is fused and compiled like everything else:

        def ScaledRelu(b, x, *, scale=1.0):
            return b.map("mul", b.map("max", x, b.scalar(0, x)), b.scalar(scale, x))

        onnxc.register_op("com.example", "ScaledRelu", lowering=ScaledRelu)

    Raises InvalidArgument for names that cannot be, and for operators that have a meaning already. While operators are
    registered the compile cache is not used: it cannot tell one function from another. An artifact has lowerings
    compiled into it, and runs where nothing is registered; of operators in Python it has the names, and opens where
    operators of these names are registered.
    """
    key = _key(domain, name)
    if lowering_of(key) is not None or key in PYTHON_OPS:
        raise InvalidArgument(f"The operator {domain}:{name} has a meaning already, and models that use it rely on it. "
                              "Choose another name or domain; unregister_op takes back one of your own.")
    if (fn is None) == (lowering is None):
        raise TypeError(f"The operator {domain}:{name} takes a function of arrays or a lowering, one of the two.")
    for given in (fn, lowering):
        if given is not None and not callable(given):
            raise TypeError(f"The operator {domain}:{name} is given as {given!r}; expected a function.")
    if fn is not None:
        _register_python(key, PythonOp(domain, name, fn, outputs))
    elif lowering is not None:
        if outputs is not None:
            raise TypeError(f"The operator {domain}:{name} is given as a lowering, which says itself what its outputs "
                            "are.")
        LOWERINGS[key] = lowering
    CUSTOM.add((domain, name))
    CUSTOM_OPS.add(f"{domain}:{name}")


def _register_python(key: str, op: PythonOp) -> None:
    if op.outputs is not None and not callable(op.outputs):
        types = [Tensor(t.dtype, None) for t in element_types(op.outputs)]
        RULES[f"onnx.{key}"] = lambda operands, attrs, yields, count: list(types)
    PYTHON_OPS[key] = op


def unregister_op(domain: str, name: str) -> None:
    """Takes back what `register_op` did; sessions that are open keep their programs."""
    key = _key(domain, name)
    if (domain, name) not in CUSTOM:
        raise InvalidArgument(f"No operator {domain}:{name} was registered.")
    LOWERINGS.pop(key, None)
    PYTHON_OPS.pop(key, None)
    RULES.pop(f"onnx.{key}", None)
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
