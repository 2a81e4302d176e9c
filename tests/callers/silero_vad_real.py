"""silero-vad: its own weights give the probabilities of speech that its TorchScript model gives."""

from __future__ import annotations

import torch
from silero_vad import load_silero_vad

compiled, reference = load_silero_vad(onnx=True), load_silero_vad()
torch.manual_seed(0)
time = torch.arange(16000) / 16000
loudness = 0.3 * (1 + torch.sin(2 * torch.pi * 4 * time))
audio = loudness * torch.sin(2 * torch.pi * 150 * time) + 0.01 * torch.randn(16000)
for rate, window in ((16000, 512), (8000, 256)):
    compiled.reset_states()
    reference.reset_states()
    for chunk in audio.split(window)[:20]:
        torch.testing.assert_close(compiled(chunk, rate), reference(chunk, rate), rtol=1e-3, atol=1e-4)
