"""rembg: a model of one channel's brightness cuts a bright square out of a dark picture."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from PIL import Image
from rembg import new_session, remove

with tempfile.TemporaryDirectory() as name:
    path = Path(name) / "mask.onnx"
    os.environ["U2NET_HOME"] = name
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["x"], ["m"], axes=[1]), helper.make_node("Sigmoid", ["m"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 320, 320])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1, 320, 320])])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    session = new_session("u2net_custom", model_path=str(path), providers=["CPUExecutionProvider"])
    picture = np.zeros((100, 100, 3), np.uint8)
    picture[30:70, 30:70] = 255
    cut = np.asarray(remove(Image.fromarray(picture), session=session))
    assert cut.shape == (100, 100, 4)
    assert cut[50, 50, 3] > 250
    assert cut[5, 5, 3] < 5
