"""optimum: a BERT classifier of random weights, exported and run, equal to torch's."""

from __future__ import annotations

import tempfile

import torch
from optimum.exporters.onnx import onnx_export_from_model
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import BertConfig, BertForSequenceClassification

torch.manual_seed(0)
config = BertConfig(vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
                    max_position_embeddings=64, num_labels=3)
reference = BertForSequenceClassification(config).eval()
with tempfile.TemporaryDirectory() as folder:
    onnx_export_from_model(reference, folder, task="text-classification", do_validation=False)
    model = ORTModelForSequenceClassification.from_pretrained(folder)
    assert model.providers[-1] == "CPUExecutionProvider"
    for shape in ((1, 7), (3, 12)):
        ids = torch.randint(0, 100, shape)
        mask = torch.ones_like(ids)
        mask[0, -2:] = 0
        kinds = torch.zeros_like(ids)
        with torch.no_grad():
            expected = reference(input_ids=ids, attention_mask=mask, token_type_ids=kinds).logits
        for binding in (False, True):
            model.use_io_binding = binding
            found = model(input_ids=ids, attention_mask=mask, token_type_ids=kinds).logits
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    model.to("cpu")
