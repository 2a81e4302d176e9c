"""Trains the digits network and writes digits.onnx, heldout.npz and reference.npz beside this file.

    python examples/digits/train.py

Needs torch, onnx, onnxscript, onnxruntime and scikit-learn, which onnxc itself does not: the three files are committed,
and main.py reads only them. Takes half a minute on one core. The seed is fixed and torch runs on one thread, so the
same versions on the same machine give the same weights.

Data: the 1797 handwritten digits that come with scikit-learn (UCI "Optical Recognition of Handwritten Digits", 8x8
pixels of 0..16). 360 of them, stratified by class, are held out: no training and no choice here looks at their labels.

Files written:
    digits.onnx     input "image" f32[batch, 1, 8, 8] in 0..1, output "logits" f32[batch, 10]; `batch` is dynamic
    heldout.npz     images u8[360, 8, 8] of 0..16, labels u8[360]
    reference.npz   logits f64[360, 10]: the trained network evaluated by torch in float64. onnxruntime's float32 result
                    of digits.onnx has to agree with it before anything is written.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional

HERE = Path(__file__).resolve().parent
SEED = 20
HELD_OUT = 360
EPOCHS = 80
BATCH = 64
PIXEL_MAX = 16.0
OPSET = 18


class Residual(nn.Module):
    """x + conv(relu(conv(x))), batch norm after each convolution; keeps the shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(x + self.body(x))


def network() -> nn.Sequential:
    """An 8x8 residual network of about 30 thousand weights."""

    def stem(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(
        *stem(1, 16),
        Residual(16),
        nn.MaxPool2d(2),
        *stem(16, 32),
        Residual(32),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def jitter(images: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Turns each image by up to 12 degrees, scales it by up to 10 % and shifts it by up to 1 pixel, bilinearly."""
    count = len(images)
    uniform = torch.rand(4, count, generator=random) * 2 - 1
    angle, scale = uniform[0] * np.deg2rad(12), 1 + 0.1 * uniform[1]
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    shift = uniform[2:] * (2 / 8)  # the grid spans -1..1 over 8 pixels
    affine = torch.stack([torch.stack([cos, -sin, shift[0]], 1), torch.stack([sin, cos, shift[1]], 1)], 1)
    grid = functional.affine_grid(affine, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    """AdamW with a one-cycle learning rate; the weights of the last epoch are the result."""
    random = torch.Generator().manual_seed(SEED)
    steps = EPOCHS * -(-len(images) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps)
    model.train()
    for epoch in range(EPOCHS):
        total = 0.0
        for rows in torch.randperm(len(images), generator=random).split(BATCH):
            loss = functional.cross_entropy(model(jitter(images[rows], random)), labels[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(rows)
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1:3}: training loss {total / len(images):.4f}", flush=True)
    model.eval()


def export(model: nn.Module, path: Path) -> None:
    """Writes the model with its batch norms kept, and without the exporter's notes on source lines."""
    program = torch.onnx.export(
        model,
        (torch.zeros(2, 1, 8, 8),),
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        opset_version=OPSET,
        dynamo=True,
        optimize=False,
    )
    proto = program.model_proto
    proto.doc_string = ""
    del proto.metadata_props[:]
    graph = proto.graph
    graph.name = "digits"
    for part in (graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output):
        part.doc_string = ""
        del part.metadata_props[:]
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


def main() -> None:
    """Trains, exports, checks the export against float64, and writes the three files."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    pixels, targets = load_digits(return_X_y=True)
    kept, held, kept_labels, held_labels = train_test_split(
        pixels.reshape(-1, 8, 8), targets, test_size=HELD_OUT, stratify=targets, random_state=SEED
    )
    as_input = lambda images: torch.tensor(images[:, None] / PIXEL_MAX, dtype=torch.float32)  # noqa: E731

    model = network()
    train(model, as_input(kept), torch.tensor(kept_labels))
    path = HERE / "digits.onnx"
    export(model, path)

    with torch.no_grad():
        reference = model.double()(as_input(held).double()).numpy()
    (logits,) = onnxruntime.InferenceSession(path).run(["logits"], {"image": as_input(held).numpy()})
    difference = np.abs(logits - reference).max()
    correct = int((reference.argmax(1) == held_labels).sum())
    print(f"held out: {correct}/{HELD_OUT} correct; onnxruntime differs from float64 by at most {difference:.2g}")
    if difference > 1e-4 or correct < 0.985 * HELD_OUT:
        raise SystemExit("the trained network or its export is not good enough to ship")
    np.savez_compressed(HERE / "heldout.npz", images=held.astype(np.uint8), labels=held_labels.astype(np.uint8))
    np.savez_compressed(HERE / "reference.npz", logits=reference)


if __name__ == "__main__":
    main()
