"""A roofline picture as SVG: operations a second over operations a byte, both in powers of ten, with the machine's
limits as roofs and every kernel as a disc whose area is its share of the time; the longest are numbered, with a key."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from onnxc.bench.kernels import KernelTime, Profile

__all__ = ["roofline_svg"]

_WIDTH, _HEIGHT = 1180, 600
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 268, 56, 64      # the key is right of the axes
_NAMED = 20                 # kernels in the key
_LONGEST = 30               # of a name in the key, in characters
_COLOURS = {"compute": "#2563a8", "memory": "#b4531a"}
_NAMES = {"f32": "f32 multiply-adds", "f64": "f64 multiply-adds", "i8": "products of bytes"}


def roofline_svg(profile: Profile, title: str) -> str:
    """The picture. Kernels without operations, and those whose work data decides, are counted below it instead."""
    drawn = [k for k in profile.kernels if k.work and k.work.operations and k.work.nbytes and k.seconds]
    frame = _Frame(profile, drawn)
    left_out = len(profile.kernels) - len(drawn)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
             'font-size="12">',
             f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
             _text(_LEFT, 28, title, "start", size=16),
             *_grid(frame), *_roofs(frame, profile),
             *[_disc(frame, profile, k) for k in drawn], *_numbers(frame, profile, drawn[:_NAMED]),
             *_key(profile, drawn[:_NAMED])]
    if left_out:
        parts.append(_text(_LEFT, _HEIGHT - 8, f"not drawn: {left_out} kernels that only move data, or whose work data "
                                               "decides", "start"))
    return "\n".join([*parts, "</svg>\n"])


class _Frame:
    """Powers of ten that the axes span, and where values lie on the page."""

    def __init__(self, profile: Profile, kernels: Sequence[KernelTime]) -> None:
        peaks = list(profile.limits.operations.values())
        ridge = [p / profile.limits.bandwidth for p in peaks]
        works = [(k.work.intensity, k.work.operations / k.seconds) for k in kernels if k.work]
        self.x0, self.x1 = _decades([*ridge, *(x for x, _ in works)])
        self.y0, self.y1 = _decades([*peaks, *(y for _, y in works)])

    def x(self, intensity: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (math.log10(intensity) - self.x0) / (self.x1 - self.x0)

    def y(self, rate: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (math.log10(rate) - self.y0) / (self.y1 - self.y0)


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """Whole powers of ten around the values, at least one apart."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values) * 1.05))
    return low, max(high, low + 1)


def _grid(frame: _Frame) -> Iterator[str]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    for power in range(frame.x0, frame.x1 + 1):
        at = frame.x(10.0**power)
        yield _line(at, _TOP, at, bottom, "#ddd")
        yield _text(at, bottom + 18, f"{10.0**power:g}", "middle")
    for power in range(frame.y0, frame.y1 + 1):
        at = frame.y(10.0**power)
        yield _line(_LEFT, at, right, at, "#ddd")
        yield _text(_LEFT - 8, at + 4, f"{10.0 ** (power - 9):g}", "end")
    yield _text((_LEFT + right) / 2, bottom + 38, "operations a byte", "middle")
    yield _text(_LEFT - 56, _TOP - 10, "GFLOP/s", "start")


def _roofs(frame: _Frame, profile: Profile) -> Iterator[str]:
    limits = profile.limits
    top = max(limits.operations.values())
    # The slope from where it enters the picture to the highest roof.
    start = max(10.0**frame.x0, 10.0**frame.y0 / limits.bandwidth)
    ridge = top / limits.bandwidth
    yield _line(frame.x(start), frame.y(start * limits.bandwidth), frame.x(ridge), frame.y(top), _COLOURS["memory"], 2)
    # Below the line, which rises over the text's own height before the text begins.
    rise = (frame.y(1.0) - frame.y(10.0)) / (frame.x(10.0) - frame.x(1.0))
    yield _text(frame.x(start) + 8 + 18 / rise, frame.y(start * limits.bandwidth) - 6,
                f"{limits.bandwidth / 1e9:.1f} GB/s over {limits.footprint / 2**20:.1f} MiB", "start",
                colour=_COLOURS["memory"])
    for dtype, peak in limits.operations.items():
        yield _line(frame.x(peak / limits.bandwidth), frame.y(peak), _WIDTH - _RIGHT, frame.y(peak),
                    _COLOURS["compute"], 2)
        yield _text(_WIDTH - _RIGHT, frame.y(peak) - 6, f"{_NAMES.get(dtype, dtype)} on {limits.threads} threads: "
                    f"{peak / 1e9:.0f} GFLOP/s", "end", colour=_COLOURS["compute"])


def _place(frame: _Frame, profile: Profile, kernel: KernelTime) -> tuple[float, float, float]:
    """Centre and radius of a disc."""
    assert kernel.work is not None
    return (frame.x(kernel.work.intensity), frame.y(kernel.work.operations / kernel.seconds),
            3 + 30 * math.sqrt(profile.share(kernel)))


def _disc(frame: _Frame, profile: Profile, kernel: KernelTime) -> str:
    assert kernel.work is not None
    share, limit = profile.share(kernel), kernel.limit(profile.limits)
    reached, what = limit or (0.0, "memory")
    x, y, radius = _place(frame, profile, kernel)
    told = (f"{kernel.name}\n{kernel.seconds * 1e6:.1f} us, {share:.1%} of the time\n"
            f"{kernel.work.operations / kernel.seconds / 1e9:.1f} GFLOP/s, "
            f"{kernel.work.nbytes / kernel.seconds / 1e9:.1f} GB/s\n{reached:.0%} of the limit ({what})\n"
            f"{', '.join(dict.fromkeys(kernel.nodes.split(', ')))}")
    return (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{_COLOURS[what]}" fill-opacity="0.45" '
            f'stroke="{_COLOURS[what]}"><title>{escape(told)}</title></circle>')


def _numbers(frame: _Frame, profile: Profile, kernels: Sequence[KernelTime]) -> Iterator[str]:
    """The kernels' numbers in their discs, or as far below as there is room."""
    taken: list[tuple[float, float]] = []
    for number, kernel in enumerate(kernels, 1):
        x, y, _ = _place(frame, profile, kernel)
        at = y
        while any(abs(at - other) < 10 and abs(x - near) < 12 for near, other in taken):
            at += 10
        taken.append((x, at))
        if at != y:
            yield _line(x, y, x, at - 5, "#999")
        # Readable on discs that lie on top of each other.
        yield (f'<text x="{x:.1f}" y="{at + 3:.1f}" text-anchor="middle" font-size="9" fill="#333" stroke="white" '
               f'stroke-width="2" paint-order="stroke">{number}</text>')


def _key(profile: Profile, kernels: Sequence[KernelTime]) -> Iterator[str]:
    left = _WIDTH - _RIGHT + 20
    if kernels:
        yield _text(left, _TOP + 4, "kernels by their share of the time", "start", size=11)
    for number, kernel in enumerate(kernels, 1):
        at = _TOP + 8 + 18 * number
        name = kernel.name if len(kernel.name) <= _LONGEST else kernel.name[:_LONGEST - 1] + "\u2026"
        yield _text(left + 14, at, str(number), "end", size=10)
        yield _text(left + 20, at, name, "start", size=10)
        yield _text(_WIDTH - 12, at, f"{profile.share(kernel):.1%}", "end", size=10)


def _line(x0: float, y0: float, x1: float, y1: float, colour: str, width: int = 1) -> str:
    return f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" stroke="{colour}" stroke-width="{width}"/>'


def _text(x: float, y: float, text: str, anchor: str, size: int = 12, colour: str = "#333") -> str:
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">'
            f"{escape(text)}</text>")
