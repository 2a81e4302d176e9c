"""ImageDecoder: compressed images, read by Pillow where it is installed."""

from __future__ import annotations

import importlib
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxc import errors
from onnxc.errors import InvalidArgument

__all__ = ["decode_image"]

_MOST_PIXELS = 1 << 28      # of an image: what is compressed may claim to be any size


def decode_image(attrs: Mapping[str, Any], encoded: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """[height, width, channel] of the bytes of an image, in the node's pixel format."""
    form = attrs.get("pixel_format", "RGB")
    if form not in ("RGB", "BGR", "Grayscale"):
        raise InvalidArgument(f"ImageDecoder: pixel_format '{form}' is none of RGB, BGR, Grayscale")
    try:
        Image: Any = importlib.import_module("PIL.Image")
    except ImportError:
        raise errors.NotImplemented("ImageDecoder needs the package pillow, which is not installed here.") from None
    try:
        with Image.open(io.BytesIO(encoded.tobytes())) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise InvalidArgument(f"ImageDecoder: an image of {image.width} x {image.height} pixels is too large")
            pixels = np.array(image.convert("L" if form == "Grayscale" else "RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InvalidArgument(f"ImageDecoder: the bytes are no image that can be read: {error}") from error
    if form == "Grayscale":
        return pixels[:, :, None]
    return np.ascontiguousarray(pixels[:, :, ::-1]) if form == "BGR" else pixels
