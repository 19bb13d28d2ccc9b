"""Curves on a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ...files.writing import whole

#: Colours of the curves, in turn; told apart by those who see no red or green, too.
COLOURS = ((0, 90, 180), (220, 120, 0), (0, 140, 100), (180, 60, 140), (110, 110, 110), (90, 180, 230), (200, 170, 0))
LEFT, TOP, RIGHT, BOTTOM = 64, 40, 16, 44
INK, FAINT = (25, 25, 25), (205, 205, 205)


@dataclass(frozen=True)
class Panel:
    """One set of axes.

    Args:
        title: above it.
        across: what runs to the right.
        curves: points (x, y) by name; y from 0.
        even: the axis to the right is even; else it is logarithmic.
    """

    title: str
    across: str
    curves: Mapping[str, Sequence[tuple[float, float]]]
    even: bool = False


def draw_panels(panels: Sequence[Panel], path: Path, width: int = 460, height: int = 300) -> None:
    """Write a PNG with the panels side by side, the names of the curves below them.

    Raises:
        ValueError: a panel without a point.
    """
    names = list(dict.fromkeys(name for panel in panels for name in panel.curves))
    colours = dict(zip(names, COLOURS * len(names), strict=False))
    font, places = ImageFont.load_default(14), {}
    x, line = LEFT, 0
    for name in names:
        wide = 54 + round(font.getlength(name))
        if x + wide > width * len(panels) and x > LEFT:
            x, line = LEFT, line + 1
        places[name], x = (x, height + 26 * line), x + wide
    page = Image.new("RGB", (width * len(panels), height + 30 + 26 * line), "white")
    draw = ImageDraw.Draw(page)
    for number, panel in enumerate(panels):
        _draw(draw, panel, colours, number * width, width, height)
    for name, (x, y) in places.items():
        draw.line([(x, y + 13), (x + 24, y + 13)], fill=colours[name], width=3)
        draw.text((x + 30, y + 4), name, fill=INK, font=font)
    with whole(path) as temporary:
        page.save(temporary, "PNG", optimize=True)


def _draw(
    draw: ImageDraw.ImageDraw, panel: Panel, colours: Mapping[str, tuple[int, int, int]], x0: int, width: int,
    height: int,
) -> None:  # fmt: skip
    points = [point for curve in panel.curves.values() for point in curve]
    if not points:
        raise ValueError(f"plot: {panel.title!r} holds no point.")
    places = sorted({x for x, _ in points})
    scale = float if panel.even else math.log
    low, high = scale(places[0]), scale(places[-1])
    top = _round_up(max(y for _, y in points))
    small = ImageFont.load_default(12)

    def at(x: float, y: float) -> tuple[float, float]:
        share = (scale(x) - low) / (high - low) if high > low else 0.5
        return (x0 + LEFT + share * (width - LEFT - RIGHT), TOP + (1 - y / top) * (height - TOP - BOTTOM))

    draw.text((x0 + LEFT, 12), panel.title, fill=INK, font=ImageFont.load_default(14))
    for part in range(5):
        y = top * part / 4
        draw.line([at(places[0], y), at(places[-1], y)], fill=FAINT)
        label = f"{y:.3g}"
        draw.text((x0 + LEFT - 8 - small.getlength(label), at(places[0], y)[1] - 7), label, fill=INK, font=small)
    for x in places:
        draw.text((at(x, 0)[0] - 8, height - BOTTOM + 6), f"{x:g}", fill=INK, font=small)
    draw.text((x0 + LEFT, height - 20), panel.across, fill=INK, font=small)
    for name, curve in panel.curves.items():
        colour = colours[name]
        line = [at(*point) for point in sorted(curve)]
        draw.line(line, fill=colour, width=3)
        for x, y in line:
            draw.ellipse([x - 4, y - 4, x + 4, y + 4], fill=colour)


def _round_up(value: float) -> float:
    """The next of 1, 2, 4, 8 times a power of ten."""
    power = 10 ** math.floor(math.log10(max(value, 1e-9)))
    return next(step * power for step in (1, 2, 4, 8, 10) if step * power >= value)
