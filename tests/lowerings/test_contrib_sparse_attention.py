"""SparseAttention against ONNX Runtime, which wants the caches of a run to be the memory of those before it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import onnxc
from tests.lowerings.contrib import F32, Arrays, compare, fed, floats, model, ort

BLOCK, ROOM, HEADS, GROUPS, SIZE = 16, 64, 4, 2, 16
# Two layouts, by row the blocks that they hold.
LAYOUTS = [[[0], [0, 1], [1, 2], [1, 2, 3]], [[0], [0, 1], [0, 1, 2], [0, 2, 3]]]


def layouts() -> Arrays:
    columns = [[c for row in rows for c in row] for rows in LAYOUTS]
    longest = max(map(len, columns))
    return {"block_row_indices": np.array([np.cumsum([0, *map(len, rows)]) for rows in LAYOUTS], np.int32),
            "block_col_indices": np.array([c + [-1] * (longest - len(c)) for c in columns], np.int32)}


@pytest.mark.parametrize(("length", "total", "rotary", "packed", "attrs"), [
    (40, 40, 0, False, {}), (1, 41, 0, False, {"scale": 0.1}), (40, 40, 1, True, {}),
    (1, 41, 1, False, {"rotary_interleaved": 1})])
def test_blocks_of_keys(length: int, total: int, rotary: int, packed: bool, attrs: dict[str, Any]) -> None:
    """Sequences are of one length: of shorter ones ONNX Runtime's results depend on what lies behind them."""
    q, k, v = (floats(2, length, n * SIZE, seed=i) for i, n in enumerate((HEADS, GROUPS, GROUPS)))
    given = {"query": np.concatenate([q, k, v], -1), "key": None, "value": None} if packed else \
        {"query": q, "key": k, "value": v}
    past = (np.arange(ROOM) < total - length).reshape(ROOM, 1).astype(F32)
    angle = np.arange(ROOM)[:, None] / 10.0 ** np.arange(SIZE // 2)
    tables = {"cos_cache": np.cos(angle).astype(F32), "sin_cache": np.sin(angle).astype(F32)} if rotary else {}
    own = {"total_sequence_length": np.array(total, np.int32)}
    inputs = {**given, "past_key": floats(2, GROUPS, ROOM, SIZE, seed=3) * past,
              "past_value": floats(2, GROUPS, ROOM, SIZE, seed=4) * past, **layouts(), **own,
              "key_total_sequence_lengths": np.full(2, total, np.int32), **tables}
    text = model("SparseAttention", inputs, own, 3, True, num_heads=HEADS, kv_num_heads=GROUPS,
                 sparse_block_size=BLOCK, do_rotary=rotary, **attrs).SerializeToString()
    feeds = fed(inputs, own)
    found = onnxc.InferenceSession(text).run(None, feeds)
    session = ort.InferenceSession(text, providers=["CPUExecutionProvider"])
    values = {name: ort.OrtValue.ortvalue_from_numpy(array.copy()) for name, array in feeds.items()}
    binding = session.io_binding()
    for name, bound in values.items():
        binding.bind_ortvalue_input(name, bound)
    binding.bind_output("y0")
    binding.bind_ortvalue_output("y1", values["past_key"])
    binding.bind_ortvalue_output("y2", values["past_value"])
    session.run_with_iobinding(binding)
    compare(found, [o.numpy() for o in binding.get_outputs()], 1e-5)


@pytest.mark.parametrize(("length", "total", "lengths"), [(1, 41, [41, 20]), (40, 40, [40, 37])])
def test_sequences_of_several_lengths_are_what_each_is_alone(length: int, total: int, lengths: list[int]) -> None:
    given = [floats(2, length, n * SIZE, seed=i) for i, n in enumerate((HEADS, GROUPS, GROUPS))]
    pasts = [floats(2, GROUPS, ROOM, SIZE, seed=i) for i in (3, 4)]

    def run(tensors: list[np.ndarray], caches: list[np.ndarray], total: int, totals: list[int]) -> list[np.ndarray]:
        own = {"total_sequence_length": np.array(total, np.int32)}
        inputs = {**dict(zip(("query", "key", "value", "past_key", "past_value"), [*tensors, *caches], strict=True)),
                  **layouts(), **own, "key_total_sequence_lengths": np.array(totals, np.int32)}
        text = model("SparseAttention", inputs, own, 3, True, num_heads=HEADS, kv_num_heads=GROUPS,
                     sparse_block_size=BLOCK).SerializeToString()
        return onnxc.InferenceSession(text).run(None, fed(inputs, own))

    together = run(given, pasts, total, lengths)
    for i, own in enumerate(lengths):
        rows = min(length, own)
        alone = run([a[i:i + 1, :rows] for a in given], [a[i:i + 1] for a in pasts], own, [own])
        np.testing.assert_allclose(together[0][i:i + 1, :rows], alone[0], rtol=0, atol=1e-6)    # sums of 41 products
        np.testing.assert_array_equal(together[1][i:i + 1, :, :own], alone[1][:, :, :own])
