"""Images that a model decodes, where Pillow is installed."""

from __future__ import annotations

import io

import numpy as np
import pytest
from onnx import TensorProto

import onnxc
from onnxc.errors import InvalidArgument
from onnxc.errors import NotImplemented as Unsupported
from tests.session.models import model, node, value


def session(form):
    made = model([node("ImageDecoder", "x", "p", pixel_format=form), node("Cast", "p", "y", to=TensorProto.FLOAT)],
                 [value("x", ["N"], TensorProto.UINT8)], [value("y", [None, None, None])])
    made.opset_import[0].version = 20
    return onnxc.InferenceSession(made.SerializeToString())


def encoded(pixels):
    image = pytest.importorskip("PIL.Image")
    stream = io.BytesIO()
    image.fromarray(pixels).save(stream, "png")
    return np.frombuffer(stream.getvalue(), np.uint8)


@pytest.mark.parametrize("form", ["RGB", "BGR", "Grayscale"])
def test_an_image(form):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    want = {"RGB": pixels, "BGR": pixels[:, :, ::-1]}.get(form, np.repeat(pixels[:, :, :1], 3, 2))
    y, = session(form).run(None, {"x": encoded(want if form == "Grayscale" else pixels)})
    np.testing.assert_array_equal(y, want[:, :, :1] if form == "Grayscale" else want)


def test_bytes_that_are_no_image():
    pytest.importorskip("PIL.Image")
    with pytest.raises(InvalidArgument, match="ImageDecoder.*no image that can be read"):
        session("RGB").run(None, {"x": np.arange(50, dtype=np.uint8)})


def test_without_the_package(monkeypatch):
    import sys
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(Unsupported, match="needs the package pillow"):
        session("RGB").run(None, {"x": np.arange(50, dtype=np.uint8)})
