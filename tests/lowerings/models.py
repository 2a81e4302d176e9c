"""Small models written as ONNX text, lowered and run by the reference interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from onnxc.frontend import import_model, load_model
from onnxc.ir.core import Module
from onnxc.ir.dims import evaluate
from onnxc.ir.interp import bind_dims, run_func
from onnxc.ir.verify import verify
from onnxc.lowerings.lower import lower

__all__ = ["GuardFailed", "Lowered", "lowered"]


class GuardFailed(Exception):
    """The sizes of a run break a condition that the lowering made."""


class Lowered:
    """A model as tensor ops."""

    def __init__(self, module: Module) -> None:
        self.module = module

    @property
    def types(self) -> list[str]:
        """The types of the results, as text."""
        return [str(t) for t in self.module.main.result_types]

    @property
    def ops(self) -> list[str]:
        """The names of the ops, in order."""
        return [op.name for op in self.module.main.body.ops]

    @property
    def guards(self) -> list[tuple[str, str, str]]:
        """The conditions of a run, as text."""
        return [(kind, str(a), str(b)) for kind, a, b, _ in self.module.main.attrs["guards"]]  # type: ignore[misc, union-attr]

    def __call__(self, *inputs: Any) -> Any:
        """The only result, or all of them, for these inputs; GuardFailed when a guard does not hold."""
        main = self.module.main
        dims = bind_dims([a.type for a in main.args], inputs)
        for kind, left, right, message in main.attrs["guards"]:  # type: ignore[misc, union-attr]
            a, b = evaluate(left, dims), evaluate(right, dims)
            if a != b and not (kind == "broadcast" and a == 1):
                raise GuardFailed(f"{message} ({a}, {b})")
        out = run_func(self.module, main, list(inputs))
        return out[0] if len(out) == 1 else out


def lowered(graph: str, **constants: np.ndarray) -> Lowered:
    """`(float[N] x) => (float[M] y) { y = Relu(x) }` with further initializers by name, lowered and verified."""
    model = onnx.parser.parse_model(f'<ir_version: 13, opset_import: ["": 28]> g {graph}')
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in constants.items())
    module = import_model(load_model(model.SerializeToString()))
    lower(module)
    verify(module)
    return Lowered(module)
