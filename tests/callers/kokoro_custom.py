"""kokoro-onnx: a voice whose samples are its tokens, its style and its speed speaks, from a session and from a path."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
from kokoro_onnx import Kokoro
from onnx import TensorProto, helper
from onnxruntime import InferenceSession

with tempfile.TemporaryDirectory() as name:
    path, voices = Path(name) / "voice.onnx", Path(name) / "voices.npz"
    graph = helper.make_graph(
        [helper.make_node("Cast", ["tokens"], ["t"], to=TensorProto.FLOAT),
         helper.make_node("Mul", ["t", "speed"], ["s"]),
         helper.make_node("ReduceMean", ["style"], ["m"], axes=[0, 1], keepdims=0),
         helper.make_node("Add", ["s", "m"], ["audio"])], "g",
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, [1, "length"]),
         helper.make_tensor_value_info("style", TensorProto.FLOAT, [1, 256]),
         helper.make_tensor_value_info("speed", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("audio", TensorProto.FLOAT, [1, "length"])])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    styles = np.random.default_rng(0).standard_normal((510, 1, 256)).astype(np.float32)
    np.savez(voices, mine=styles)
    vocabulary = {"vocab": {"a": 5, "b": 6, "c": 7}}
    session = InferenceSession(str(path))
    for kokoro in (Kokoro.from_session(session, str(voices), vocab_config=vocabulary),
                   Kokoro(str(path), str(voices), vocab_config=vocabulary)):
        audio, rate = kokoro._create_audio("abc", kokoro.get_voice_style("mine"), 2.0)
        expected = np.array([0, 5, 6, 7, 0], np.float32) * 2 + styles[2].mean()
        np.testing.assert_allclose(audio, expected, rtol=1e-5, atol=1e-5)
        assert rate == 24000
