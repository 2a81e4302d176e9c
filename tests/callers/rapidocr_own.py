"""rapidocr: its own three models find and read two lines of large print."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rapidocr import RapidOCR

LINES = ["COMPILED", "12345678"]

picture = Image.new("RGB", (480, 200), "white")
draw = ImageDraw.Draw(picture)
for i, line in enumerate(LINES):
    draw.text((40, 25 + 85 * i), line, "black", ImageFont.load_default(60))
found = RapidOCR(params={"Global.use_cls": True})(np.asarray(picture))
assert list(found.txts) == LINES, found.txts
assert min(found.scores) > 0.8
for box, top in zip(found.boxes, (25, 110), strict=True):
    assert abs(np.mean(box[:, 1]) - (top + 35)) < 20
