"""Regions and windows at positions that data gives, against ONNX Runtime."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from onnx import helper

import onnxc
from onnxc.errors import InvalidArgument, OnnxcError
from tests.session.models import INT64, model, node, value

RNG = np.random.default_rng(5)


def both(nodes, inputs, outputs, feed, constants=(), opset=22):
    made = model(nodes, inputs, outputs, constants)
    made.opset_import[0].version = opset
    data = made.SerializeToString()
    ort = pytest.importorskip("onnxruntime")
    return onnxc.InferenceSession(data).run(None, feed), \
        ort.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, feed)


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


# ---- RoiAlign, MaxRoiPool --------------------------------------------------------------------------------------------

BOXES = np.array([[1, 2, 9.3, 7.1], [0, 0, 15, 11], [-4, -3, 3, 2], [13, 9, 30, 25], [5, 5, 5, 5], [6, 7, 2, 3]],
                 np.float32)
BATCH = np.array([0, 1, 0, 1, 0, 1])


@pytest.mark.parametrize(("mode", "coordinates", "ratio"),
                         list(itertools.product(["avg", "max"], ["half_pixel", "output_half_pixel"], [0, 2])))
def test_regions_that_are_sampled(mode, coordinates, ratio):
    """A region of no size, and of negative size, among them; with a ratio of 0 data decides how many samples."""
    if mode == "max" and ratio == 0 and coordinates == "half_pixel":
        boxes, batch = BOXES[:4], BATCH[:4]     # ONNX Runtime leaves what has no samples as memory was
    else:
        boxes, batch = BOXES, BATCH
    made = node("RoiAlign", "x r b", "y", mode=mode, coordinate_transformation_mode=coordinates, output_height=3,
                output_width=4, sampling_ratio=ratio, spatial_scale=0.7)
    (ours,), (theirs,) = both([made], [value("x", ["N", 5, "H", "W"]), value("r", ["R", 4]), value("b", ["R"], INT64)],
                              [value("y", None)], {"x": floats(2, 5, 12, 16), "r": boxes, "b": batch}, opset=16)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_no_regions():
    made = node("RoiAlign", "x r b", "y", output_height=3, output_width=4)
    (ours,), _ = both([made], [value("x", ["N", 5, "H", "W"]), value("r", ["R", 4]), value("b", ["R"], INT64)],
                      [value("y", None)], {"x": floats(2, 5, 12, 16), "r": BOXES[:0], "b": BATCH[:0]}, opset=16)
    assert ours.shape == (0, 5, 3, 4)


def test_a_batch_that_is_not_there():
    made = model([node("RoiAlign", "x r b", "y", output_height=1, output_width=1)],
                 [value("x", [1, 1, 4, 4]), value("r", ["R", 4]), value("b", ["R"], INT64)], [value("y", None)])
    session = onnxc.InferenceSession(made.SerializeToString())
    with pytest.raises(OnnxcError):
        session.run(None, {"x": floats(1, 1, 4, 4), "r": BOXES[:1], "b": np.array([7])})


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_the_largest_of_a_region(scale):
    boxes = np.concatenate([BATCH[:, None].astype(np.float32), BOXES], 1)
    made = node("MaxRoiPool", "x r", "y", pooled_shape=[3, 2], spatial_scale=scale)
    (ours,), (theirs,) = both([made], [value("x", ["N", 5, "H", "W"]), value("r", ["R", 5])], [value("y", None)],
                              {"x": floats(2, 5, 12, 16), "r": boxes}, opset=16)
    np.testing.assert_array_equal(ours, theirs)


# ---- DeformConv ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("group", "offsets", "masked"), [(1, 1, False), (2, 1, True), (1, 2, True), (2, 2, False)])
def test_windows_that_are_moved(group, offsets, masked):
    attributes = {"group": group, "offset_group": offsets, "kernel_shape": [3, 2], "pads": [1, 0, 2, 1],
                  "strides": [2, 1], "dilations": [1, 2]}
    n, c, h, w, o, oh, ow = 2, 4, 9, 8, 6, 5, 7
    feed = {"x": floats(n, c, h, w), "w": floats(o, c // group, 3, 2), "offset": 2 * floats(n, offsets * 12, oh, ow),
            "b": floats(o)}
    inputs = [value("x", ["N", c, "H", "W"]), value("w", [o, c // group, 3, 2]),
              value("offset", ["N", offsets * 12, None, None]), value("b", [o])]
    if masked:
        feed["m"] = RNG.random((n, offsets * 6, oh, ow)).astype(np.float32)
        inputs.append(value("m", ["N", offsets * 6, None, None]))
    made = node("DeformConv", " ".join(feed), "y", **attributes)
    (ours,), (theirs,) = both([made], inputs, [value("y", None)], feed)
    # Sums of 12 or 24 products of normal numbers, in another order.
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


# ---- Col2Im, MaxUnpool -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("image", "block", "attributes", "places"), [
    ([7, 9], [2, 3], {}, 6 * 7), ([7, 9], [3, 2], {"strides": [2, 3], "pads": [1, 0, 0, 2]}, 3 * 4),
    ([8, 8], [2, 2], {"dilations": [3, 1], "strides": [1, 2]}, 5 * 4), ([9], [3], {"strides": [2]}, 4),
    ([4, 5, 6], [2, 2, 2], {"strides": [2, 1, 2]}, 2 * 4 * 3)], ids=["plain", "strides", "dilations", "line", "space"])
def test_columns_that_become_an_image(image, block, attributes, places):
    made = node("Col2Im", "x image block", "y", **attributes)
    columns = floats(2, 3 * int(np.prod(block)), places)
    constants = [helper.make_tensor(name, INT64, [len(v)], v) for name, v in (("image", image), ("block", block))]
    (ours,), (theirs,) = both([made], [value("x", ["N", columns.shape[1], "L"])], [value("y", None)], {"x": columns},
                              constants)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("given", [False, True])
def test_maxima_that_go_back(given):
    nodes = [node("MaxPool", "x", "p i", kernel_shape=[2, 3], strides=[2, 3]),
             node("MaxUnpool", "p i shape" if given else "p i", "y", kernel_shape=[2, 3], strides=[2, 3])]
    x = floats(2, 3, 6, 9)
    made = model(nodes, [value("x", ["N", 3, 6, 9]), *([value("shape", [4], INT64)] if given else [])],
                 [value("y", None)])
    session = onnxc.InferenceSession(made.SerializeToString())
    feed = {"x": x, **({"shape": np.array([2, 3, 6, 9])} if given else {})}
    largest = x.reshape(2, 3, 3, 2, 3, 3).max((3, 5), keepdims=True)
    np.testing.assert_array_equal(session.run(None, feed)[0], np.where(x.reshape(2, 3, 3, 2, 3, 3) == largest,
                                                                       x.reshape(2, 3, 3, 2, 3, 3), 0).reshape(x.shape))
    if given:       # a larger one holds it at its start
        y, = session.run(None, {**feed, "shape": np.array([2, 3, 7, 11])})
        assert (y[:, :, 6:] == 0).all()
        assert np.count_nonzero(y) == 2 * 3 * 9
        with pytest.raises(InvalidArgument):
            session.run(None, {**feed, "shape": np.array([2, 3, 5, 11])})
