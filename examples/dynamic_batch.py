"""One compilation for every batch size: run with `python examples/dynamic_batch.py`.

The batch dimension of the digits model is a run-time parameter of its machine code. Sizes that were never seen before
cost neither a compilation nor a plan in Python, and each row of the result is what it is alone.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

import onnxc

MODEL = Path(__file__).resolve().parent / "digits" / "digits.onnx"


def main() -> None:
    """Runs batches of many sizes and prints what they cost."""
    session = onnxc.InferenceSession(MODEL)
    compiled = session.statistics()["compilations"]
    images = np.random.default_rng(0).random((512, 1, 8, 8), np.float32)
    alone = np.concatenate([session.run(None, {"image": image[None]})[0] for image in images])
    for batch in (1, 2, 3, 17, 64, 100, 511, 512, 0):
        start = time.perf_counter()
        (logits,) = session.run(None, {"image": images[:batch]})
        taken = time.perf_counter() - start
        difference = float(np.abs(logits - alone[:batch]).max(initial=0))
        print(f"batch {batch:3}: {taken * 1e3:7.3f} ms at its first use, {difference:.1e} from one image at a time")
    print(f"{session.statistics()['compilations'] - compiled} compilations after the first run")


if __name__ == "__main__":
    main()
