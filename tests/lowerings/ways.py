"""Small models run in each way there is: by the reference column, as a program on numpy, and natively."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from onnxc.codegen.program_interp import run_program
from onnxc.driver import CompileOptions, emit, import_to_ir, lower_to_program
from onnxc.errors import OnnxcError
from onnxc.frontend import loaded_proto
from onnxc.frontend.inline import expand
from onnxc.ir.core import Module
from onnxc.ir.interp import InterpreterError, bind_dims, run_func
from onnxc.ir.parser import parse_module
from onnxc.ir.printer import print_module
from onnxc.ir.types import Mem, Tensor
from onnxc.ir.verify import verify
from onnxc.lowerings.lower import lower
from onnxc.passes.plan_memory import check_plan
from onnxc.runtime.program import NativeProgram

__all__ = ["Ways", "model_of"]

Arrays = Sequence[np.ndarray]


def model_of(graph: str, constants: dict[str, np.ndarray], opset: int = 28) -> onnx.ModelProto:
    """`(float[N] x) => (float[M] y) { y = Relu(x) }` with further initializers by name; contrib ops are known too."""
    model = onnx.parser.parse_model(
        f'<ir_version: 13, opset_import: ["": {opset}, "com.microsoft": 1]> g {graph}')
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in constants.items())
    return model


class Ways:
    """A model lowered and compiled once, to be run on many inputs (in the order of the model's)."""

    def __init__(self, graph: str, **constants: np.ndarray) -> None:
        model = model_of(graph, constants)
        options = CompileOptions()
        self.tensors = import_to_ir(loaded_proto(model), options)
        lower(self.tensors, expand)
        self.program = import_to_ir(loaded_proto(model), options)
        lower_to_program(self.program, options)
        verify(parse_module(print_module(self.program), self.program.constants), 2)
        self.native = NativeProgram(emit(self.program, options), threads=2)

    def by_reference(self, *inputs: Any) -> list[np.ndarray]:
        return list(run_func(self.tensors, self.tensors.main, list(inputs)))

    def on_numpy(self, *inputs: Any) -> tuple[list[np.ndarray], list[str]]:
        """Outputs and errors of the program on numpy, with the memory plan that native code has."""
        dims = _dims(self.program, inputs)
        check_plan(self.program, dims)
        return run_program(self.program, list(inputs), dims)

    def natively(self, *inputs: Any) -> list[np.ndarray]:
        return list(self.native.run([np.ascontiguousarray(a) for a in inputs]))

    def check(self, inputs: Arrays, wanted: Arrays, rtol: float = 0.0, atol: float = 0.0) -> None:
        """All three give what is wanted, types and shapes included; NaN equals NaN."""
        found, errors = self.on_numpy(*inputs)
        assert not errors, errors
        ways = {"reference": self.by_reference(*inputs), "numpy": found, "native": self.natively(*inputs)}
        for way, outputs in ways.items():
            for i, (have, want) in enumerate(zip(outputs, wanted, strict=True)):
                assert have.dtype == want.dtype and have.shape == want.shape, \
                    f"{way}: output {i} is {have.dtype}{have.shape}, not {want.dtype}{want.shape}"
                if have.size:
                    wide = np.float64 if have.dtype.kind not in "biu" else have.dtype
                    np.testing.assert_allclose(have.astype(wide), want.astype(wide), rtol, atol,
                                               err_msg=f"{way}, output {i}")

    def check_fails(self, inputs: Arrays, text: str) -> None:
        """All three report an error with `text` in it."""
        try:
            self.by_reference(*inputs)
        except InterpreterError as e:
            assert text in str(e)
        else:
            raise AssertionError("the reference column reports no error")
        assert any(text in e for e in self.on_numpy(*inputs)[1])
        try:
            self.natively(*inputs)
        except OnnxcError as e:
            assert text in str(e)
        else:
            raise AssertionError("the native program reports no error")


def _dims(module: Module, inputs: Arrays) -> dict[str, int]:
    types = [Tensor(a.type.dtype, a.type.shape) for a in module.main.args[:len(inputs)] if isinstance(a.type, Mem)]
    return bind_dims(types, inputs)
