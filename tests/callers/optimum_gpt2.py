"""optimum: GPT-2 of random weights with a KV cache through IOBinding generates what torch generates."""

from __future__ import annotations

import tempfile

import torch
from optimum.exporters.onnx import onnx_export_from_model
from optimum.onnxruntime import ORTModelForCausalLM
from transformers import GPT2Config, GPT2LMHeadModel

torch.manual_seed(0)
config = GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=0, eos_token_id=99)
reference = GPT2LMHeadModel(config).eval()
with tempfile.TemporaryDirectory() as folder:
    onnx_export_from_model(reference, folder, task="text-generation-with-past", do_validation=False)
    ids = torch.randint(1, 90, (2, 5))
    settings = {"max_new_tokens": 20, "do_sample": False, "pad_token_id": 99, "attention_mask": torch.ones_like(ids)}
    expected = reference.generate(ids, **settings)
    for binding in (False, True):
        model = ORTModelForCausalLM.from_pretrained(folder, use_io_binding=binding, use_cache=True)
        assert model.use_io_binding is binding
        assert torch.equal(model.generate(ids, **settings), expected)
