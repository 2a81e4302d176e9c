"""An operator of one's own: a model uses com.example:ScaledRelu, which a few lines teach the compiler.

    python examples/custom_op.py
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

import onnxc as ort


def scaled_relu(b, x, *, scale=1.0):
    """scale * max(x, 0), as the compiler's tensor ops; attributes are keyword-only, under their names in the model."""
    return b.map("mul", b.map("max", x, b.scalar(0, x)), b.scalar(scale, x))


def model() -> onnx.ModelProto:
    """y = ScaledRelu(x @ w), scale = 3."""
    weights = helper.make_tensor("w", TensorProto.FLOAT, [4, 4], np.eye(4, dtype=np.float32).ravel())
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]),
             helper.make_node("ScaledRelu", ["h"], ["y"], domain="com.example", scale=3.0)]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])], [weights])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def main() -> None:
    ort.register_op("com.example", "ScaledRelu", lowering=scaled_relu)
    session = ort.InferenceSession(model().SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.array([[-1, 0, 1, 2]], np.float32)
    (y,) = session.run(None, {"x": x})
    print(f"x:        {x[0]}\ny:        {y[0]}\nkernels:  {session.statistics()['kernels']}")


if __name__ == "__main__":
    main()
