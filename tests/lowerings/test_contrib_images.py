"""Images of the domain com.microsoft: channels last, norms of groups, pools and crops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.lowerings.contrib import F32, bytes_of, check, check_numbers, floats, model, ort


def first(v: np.ndarray) -> np.ndarray:
    return np.moveaxis(v, -1, 1)


def last(v: np.ndarray) -> np.ndarray:
    return np.moveaxis(v, 1, -1)


@pytest.mark.parametrize("kind", [np.uint8, np.int8])
@pytest.mark.parametrize("attrs", [{"strides": [2, 1], "pads": [1, 0, 1, 1]}, {"ceil_mode": 1, "strides": [2, 2],
                                   "dilations": [2, 1]}, {"auto_pad": "SAME_UPPER"}])
def test_pools_channels_last(kind: type, attrs: dict[str, Any]) -> None:
    check("NhwcMaxPool", {"x": bytes_of(2, 7, 6, 3, dtype=kind)}, kernel_shape=[3, 2], **attrs)


def test_convolutions_channels_last() -> None:
    x, w, b, z = floats(2, 6, 5, 4), floats(6, 2, 3, 3, seed=1), floats(6, seed=2), floats(2, 6, 5, 6, seed=3)
    attrs = {"pads": [1, 1, 1, 1], "group": 2}
    plain = {"X": first(x).copy(), "W": w, "B": b}
    by_ort, = ort.InferenceSession(model("Conv", plain, {}, domain="", **attrs).SerializeToString()).run(None, plain)
    check_numbers("NhwcConv", {"X": x, "W": last(w).copy(), "B": b}, {"W": last(w).copy(), "B": b}, [last(by_ort)],
                  **attrs)
    check_numbers("NhwcFusedConv", {"X": x, "W": w, "B": b, "Z": z}, {"W": w, "B": b},
                  [np.maximum(last(by_ort) + z, 0)], activation="Relu", **attrs)


@pytest.mark.parametrize("activation", [0, 1])
@pytest.mark.parametrize("channels_last", [0, 1])
def test_norms_of_groups_of_channels(activation: int, channels_last: int) -> None:
    gamma, beta, bias = floats(8, seed=1), floats(8, seed=2), floats(8, seed=3)
    x, skip = floats(2, 8, 3, 5), floats(2, 8, seed=4)

    def normal(v: np.ndarray) -> np.ndarray:
        groups = v.astype(np.float64).reshape(2, 4, -1)
        groups = (groups - groups.mean(-1, keepdims=True)) / np.sqrt(groups.var(-1, keepdims=True) + 1e-5)
        out = groups.reshape(v.shape) * gamma.reshape(-1, 1, 1) + beta.reshape(-1, 1, 1)
        return (out / (1 + np.exp(-out)) if activation else out).astype(F32)

    def laid(v: np.ndarray) -> np.ndarray:
        return last(v).copy() if channels_last else v

    attrs = {"groups": 4, "activation": activation, "channels_last": channels_last}
    own = {"gamma": gamma, "beta": beta}
    check_numbers("GroupNorm", {"X": laid(x), **own}, own, [laid(normal(x))], **attrs)
    wide = skip.reshape(2, 8, 1, 1)
    total = x + wide + bias.reshape(-1, 1, 1)
    for given in (skip, laid(wide), laid(np.broadcast_to(wide, x.shape)).copy()):
        inputs = {"X": laid(x), **own, "skip": given, "bias": bias}
        check_numbers("SkipGroupNorm", inputs, {"gamma": gamma, "beta": beta}, [laid(normal(total)), laid(total)],
                      static=True, **attrs)


@pytest.mark.parametrize(("shape", "attrs"), [
    ((1, 2, 6, 5), {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ((2, 2, 5), {"kernel_shape": [3], "pads": [1, 1]}), ((2, 2, 4, 5, 6), {"kernel_shape": [2, 2, 3]})])
def test_pools_up_to_a_mask(shape: tuple[int, ...], attrs: dict[str, Any]) -> None:
    """One mask for all channels: of others ONNX Runtime reads the first."""
    mask = (floats(1, 1, *shape[2:], seed=2) > -0.5).astype(np.int32)
    check("MaxpoolWithMask", {"X": floats(*shape), "M": mask}, **attrs)
