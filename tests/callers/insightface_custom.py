"""insightface: its model zoo opens a recognition model, moves it to the CPU, pickles its session and compares faces."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path

import numpy as np
import onnx
from insightface.model_zoo import get_model
from onnx import TensorProto, helper, numpy_helper

with tempfile.TemporaryDirectory() as name:
    path = Path(name) / "face.onnx"
    weights = np.random.default_rng(0).standard_normal((3 * 14 * 14, 512)).astype(np.float32) / 30
    graph = helper.make_graph(
        [helper.make_node("AveragePool", ["x"], ["p"], kernel_shape=[8, 8], strides=[8, 8]),
         helper.make_node("Flatten", ["p"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 112, 112])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 512])], [numpy_helper.from_array(weights, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    model = get_model(str(path), providers=["CUDAExecutionProvider", "CPUExecutionProvider"])
    model.prepare(ctx_id=-1)
    assert model.session.get_providers() == ["CPUExecutionProvider"]
    faces = [np.random.default_rng(i).integers(0, 256, (112, 112, 3), np.uint8) for i in range(2)]
    found = model.get_feat(faces)
    pixels = np.stack(faces)[..., ::-1].astype(np.float32).transpose(0, 3, 1, 2)
    pooled = ((pixels - 127.5) / 127.5).reshape(2, 3, 14, 8, 14, 8).mean((3, 5))
    np.testing.assert_allclose(found, pooled.reshape(2, -1) @ weights, rtol=1e-3, atol=1e-4)
    assert model.compute_sim(found[0], found[0]) > 0.999
    copy = pickle.loads(pickle.dumps(model.session))
    assert type(copy) is type(model.session)
    blob = pixels[:1]
    np.testing.assert_array_equal(copy.run(None, {"x": blob})[0], model.session.run(None, {"x": blob})[0])
