"""piper: a voice that turns each phoneme into a few samples speaks, from a Path."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from piper import PiperVoice

TABLE = np.linspace(-1, 1, 10 * 256, dtype=np.float32).reshape(10, 256)

with tempfile.TemporaryDirectory() as name:
    path = Path(name) / "voice.onnx"
    shape = numpy_helper.from_array(np.array([1, 1, -1]), "shape")
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input"], ["h"]), helper.make_node("Reshape", ["h", "shape"], ["s"]),
         helper.make_node("Gather", ["scales", "zero"], ["noise"]),
         helper.make_node("Mul", ["s", "noise"], ["output"])],
        "g", [helper.make_tensor_value_info("input", TensorProto.INT64, ["batch", "phonemes"]),
              helper.make_tensor_value_info("input_lengths", TensorProto.INT64, ["batch"]),
              helper.make_tensor_value_info("scales", TensorProto.FLOAT, [3])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 1, "time"])],
        [numpy_helper.from_array(TABLE, "table"), shape, numpy_helper.from_array(np.int64(0), "zero")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    (path.parent / "voice.onnx.json").write_text(json.dumps({
        "num_symbols": 10, "num_speakers": 1, "audio": {"sample_rate": 16000}, "espeak": {"voice": "en-us"},
        "phoneme_type": "text", "phoneme_id_map": {"_": [0], "^": [1], "$": [2], "a": [3]},
        "inference": {"noise_scale": 0.5, "length_scale": 1.0, "noise_w": 0.8}}))
    voice = PiperVoice.load(path)
    audio = voice.phoneme_ids_to_audio([1, 0, 3, 0, 2])
    np.testing.assert_allclose(np.ravel(audio), TABLE[[1, 0, 3, 0, 2]].ravel() * 0.5, rtol=1e-6)
