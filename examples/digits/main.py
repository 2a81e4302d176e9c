"""Classifies the 360 held-out digits with the compiled network, and says how right and how fast that was.

    python examples/digits/main.py [--engine onnxc|onnxruntime] [--model FILE]

Exits with 1 when the accuracy or the agreement with the reference is not what train.py measured. The network, the
images and the float64 reference are the files that train.py wrote beside this one. Where onnxruntime is installed, it
runs the same batches for comparison, each with its own default of threads; it is not needed.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
BATCHES = (64, 50)  # 360 is a multiple of neither: both also run a shorter last batch
SPEED_BATCHES = (1, 64)
CORRECT = 355  # of 360: 98.5 %
# Logits reach 10 and each is a sum of a few hundred float32 products; onnxruntime is within 2e-6 of float64.
TOLERANCE = 1e-4
SECONDS_PER_TIMING = 0.3


def held_out() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images f32[360, 1, 8, 8] in 0..1, labels u8[360], and the reference logits f64[360, 10]."""
    with np.load(HERE / "heldout.npz") as held, np.load(HERE / "reference.npz") as reference:
        images = held["images"][:, None].astype(np.float32) / np.float32(16)
        return images, held["labels"], reference["logits"]


def classify(session: Any, images: np.ndarray, batch: int) -> np.ndarray:
    """The logits of all images, `batch` at a time."""
    parts = [images[start : start + batch] for start in range(0, len(images), batch)]
    return np.concatenate([session.run(["logits"], {"image": part})[0] for part in parts])


def images_per_second(sessions: list[Any], images: np.ndarray, batch: int) -> list[float]:
    """Median speed of each session at one batch size; they take turns, so that a busy machine slows them alike."""
    feed = {"image": np.ascontiguousarray(images[:batch])}
    times: list[list[float]] = [[] for _ in sessions]
    for session in sessions:
        session.run(None, feed)
    end = time.perf_counter() + SECONDS_PER_TIMING * len(sessions)
    while time.perf_counter() < end:
        for session, taken in zip(sessions, times, strict=True):
            for _ in range(20):
                start = time.perf_counter()
                session.run(None, feed)
                taken.append(time.perf_counter() - start)
    return [batch / statistics.median(taken) for taken in times]


def check(session: Any, images: np.ndarray, labels: np.ndarray, reference: np.ndarray) -> bool:
    """Prints accuracy and agreement at each batch size; whether both are good enough."""
    good = True
    for batch in BATCHES:
        logits = classify(session, images, batch)
        correct = int((logits.argmax(1) == labels).sum())
        agree = int((logits.argmax(1) == reference.argmax(1)).sum())
        difference = float(np.abs(logits - reference).max())  # NaN compares false below
        passed = correct >= CORRECT and agree == len(labels) and difference <= TOLERANCE
        good = good and passed
        print(
            f"batch {batch:2}:   {correct}/{len(labels)} correct, {agree}/{len(labels)} as the float64 reference, "
            f"largest difference {difference:.1e}  {'ok' if passed else 'WRONG'}"
        )
    return good


def report_speed(session: Any, peer: Any | None, images: np.ndarray) -> None:
    """Prints images per second, and the ratio to the peer where there is one."""
    for batch in SPEED_BATCHES:
        speeds = images_per_second([session] if peer is None else [session, peer], images, batch)
        ratio = f", {speeds[0] / speeds[1]:.2f} x onnxruntime's {speeds[1]:,.0f}" if peer is not None else ""
        print(f"speed:      {speeds[0]:,.0f} images/s at batch {batch}{ratio}")


def report_compiler(counts: dict[str, Any], at_start: int) -> None:
    """Prints what the session's statistics say, and how many compilations the changes of batch size caused."""
    print(
        f"compiler:   {counts['compile_seconds']:.2f} s, {counts['kernels']} kernels, {counts['host_ops']} host ops; "
        f"{counts['compilations'] - at_start} recompilations in {counts['runs']} runs"
    )


def peer_session(path: Path) -> Any | None:
    """An onnxruntime session of the model; None where onnxruntime is not installed."""
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def main() -> int:
    """Runs the job; the exit status."""
    parser = argparse.ArgumentParser(description="Classify the held-out digits.")
    parser.add_argument("--engine", default="onnxc", choices=["onnxc", "onnxruntime"], help="what runs the model")
    parser.add_argument("--model", type=Path, default=HERE / "digits.onnx")
    options = parser.parse_args()
    if options.engine == "onnxc":
        import onnxc as ort
    else:
        import onnxruntime as ort
    images, labels, reference = held_out()

    start = time.perf_counter()
    session = ort.InferenceSession(options.model, providers=["CPUExecutionProvider"])
    print(f"model:      {options.model.name}, ready in {time.perf_counter() - start:.2f} s with {options.engine}")
    compilations = session.statistics()["compilations"] if options.engine == "onnxc" else 0
    good = check(session, images, labels, reference)
    if options.engine == "onnxc":
        report_speed(session, peer_session(options.model), images)
        report_compiler(session.statistics(), compilations)
    else:
        report_speed(session, None, images)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
