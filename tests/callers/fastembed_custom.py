"""fastembed: a text model of one table of embeddings gives normalised means of the rows of a text's words."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import onnx
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = ["[PAD]", "[UNK]", "a", "b", "c"]
TABLE = np.random.default_rng(0).standard_normal((len(WORDS), 8)).astype(np.float32)

with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "length"])
              for n in ("input_ids", "attention_mask")]
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["h"]),
         helper.make_node("Unsqueeze", ["attention_mask", "last"], ["m"]),
         helper.make_node("CastLike", ["m", "h"], ["f"]), helper.make_node("Mul", ["h", "f"], ["last_hidden_state"])],
        "g", inputs, [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "length", 8])],
        [numpy_helper.from_array(TABLE, "table"), numpy_helper.from_array(np.array([2]), "last")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"pad_token_id": 0}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 16, "pad_token": "[PAD]"}))
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": "[PAD]", "unk_token": "[UNK]"}))
    TextEmbedding.add_custom_model("test/words", pooling=PoolingType.MEAN, normalization=True,
                                   sources=ModelSource(hf="test/words"), dim=8, model_file="model.onnx")
    model = TextEmbedding("test/words", specific_model_path=name, threads=1)
    found = list(model.embed(["a b c", "b"]))
    for vector, rows in zip(found, ([2, 3, 4], [3]), strict=True):
        mean = TABLE[rows].mean(0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), rtol=1e-5, atol=1e-6)
