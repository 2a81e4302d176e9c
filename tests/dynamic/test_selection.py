"""Results that are as long as data says, on the program interpreter and natively."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import onnxc
from tests.dynamic.check import check, model, node, ort_results

F = np.float32


@pytest.mark.parametrize("element", [np.float32, np.int8, np.bool_, np.float16, np.int64])
def test_nonzero_of_any_rank(element: type) -> None:
    rng = np.random.default_rng(1)
    for names in ((), ("N",), ("N", "C"), ("N", 3, "C")):
        m = model([node("NonZero", "x", "y")], {"x": (element, names)}, ["y"])
        sizes = [()] if not names else [[{"N": n, "C": c}.get(d, d) for d in names] for n, c in ((4, 5), (1, 1), (0,
            2), (7, 33))]
        feeds = [{"x": rng.integers(0, 2, s).astype(element)} for s in sizes] + [{"x": np.zeros(sizes[0], element)}]
        check(m, feeds, [[np.array(np.nonzero(np.atleast_1d(f["x"])), np.int64)] for f in feeds])


def test_nan_is_not_zero() -> None:
    m = model([node("NonZero", "x", "y")], {"x": (F, ["N"])}, ["y"])
    check(m, [{"x": np.array([0.0, np.nan, -0.0, np.inf], F)}], [[np.array([[1, 3]])]])


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_compress_by_data(axis: int | None) -> None:
    attributes = {} if axis is None else {"axis": axis}
    m = model([node("Compress", "x keep", "y", **attributes)], {"x": (F, ["N", "C"]), "keep": (np.bool_, ["K"])}, ["y"])
    rng = np.random.default_rng(2)
    feeds = [{"x": rng.standard_normal(s, F), "keep": rng.integers(0, 2, k).astype(bool)} for s, k in (((5, 6), 4),
        ((3, 3), 3), ((4, 2), 0))]
    check(m, feeds, [[np.compress(f["keep"], f["x"], axis)] for f in feeds])


def test_what_follows_has_the_real_size() -> None:
    """A product, a softmax, a sum and a concat over the rows that stay."""
    m = model([node("Compress", "x keep", "rows", axis=0), node("MatMul", "rows w", "p"), node("Softmax", "p", "y",
        axis=0),
               node("ReduceSum", "rows axis", "s", keepdims=0), node("Concat", "rows x", "all", axis=0), node("Shape",
                   "rows", "n")],
              {"x": (F, ["N", 8]), "keep": (np.bool_, ["N"])}, ["y", "s", "all", "n"],
              {"w": np.arange(24, dtype=F).reshape(8, 3) / 24, "axis": np.array([0])})
    rng = np.random.default_rng(4)
    check(m, [{"x": rng.standard_normal((n, 8), F), "keep": rng.random(n) < 0.5} for n in (1, 6, 40)], tolerance=1e-5)


def boxes(rng: np.random.Generator, batch: int, count: int, classes: int, centred: bool) -> dict[str, np.ndarray]:
    corners = rng.random((batch, count, 2, 2)) * 10
    if centred:
        corners = np.stack([corners[..., 0, :], corners[..., 1, :] / 3], -2)
    # Few different scores: many are equal, and the lower position has to come first.
    return {"boxes": corners.reshape(batch, count, 4).astype(F), "scores": (rng.integers(0, 9, (batch, classes,
        count)) / 8).astype(F)}


@pytest.mark.parametrize("centred", [0, 1])
@pytest.mark.parametrize("limits", [(3, 0.5, 0.2), (1000, 0.1, None), (5, None, None), (0, 0.5, 0.0), (2, 0.0, 0.99)])
def test_non_max_suppression_as_onnx_runtime_does_it(centred: int, limits: tuple[int, float | None,
                                                                                 float | None]) -> None:
    most, overlap, least = limits
    constants = {"most": np.array([most]), **({"overlap": np.array([overlap], F)} if overlap is not None else {}),
                 **({"least": np.array([least], F)} if least is not None else {})}
    names = ["boxes", "scores", "most", "overlap" if overlap is not None else "_", "least" if least is not None
             else "_"]
    m = model([node("NonMaxSuppression", " ".join(names), "chosen", center_point_box=centred)],
              {"boxes": (F, ["B", "N", 4]), "scores": (F, ["B", "C", "N"])}, ["chosen"], constants)
    rng = np.random.default_rng(8)
    feeds = [boxes(rng, b, n, c, bool(centred)) for b, n, c in ((1, 30, 2), (2, 7, 3), (1, 1, 1), (3, 100, 1))]
    check(m, feeds, ort_results(m, feeds))


def test_non_max_suppression_with_limits_from_data() -> None:
    m = model([node("NonMaxSuppression", "boxes scores most overlap least", "chosen")],
              {"boxes": (F, ["B", "N", 4]), "scores": (F, ["B", "C", "N"]), "most": (np.int64, [1]), "overlap": (F,
                  [1]),
               "least": (F, [1])}, ["chosen"])
    rng = np.random.default_rng(9)
    feeds = [{**boxes(rng, 2, 25, 2, False), "most": np.array([k]), "overlap": np.array([o], F), "least": np.array([s],
        F)}
             for k, o, s in ((2, 0.3, 0.1), (100, 0.9, 0.9), (100, 0.4, 2.0))]
    check(m, feeds, ort_results(m, feeds))


def test_artifacts_keep_sizes_out_of_data(tmp_path: Path) -> None:
    m = model([node("NonZero", "x", "y")], {"x": (F, ["N", "C"])}, ["y"])
    (tmp_path / "m.onnx").write_bytes(m.SerializeToString())
    onnxc.compile(str(tmp_path / "m.onnx"), str(tmp_path / "m.onnxc"))
    session = onnxc.InferenceSession(str(tmp_path / "m.onnxc"))
    x = np.eye(4, dtype=F)
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], np.array(np.nonzero(x)))
