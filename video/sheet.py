"""Clips under each other on one picture, to be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from ..files.writing import whole

if TYPE_CHECKING:
    from torch import Tensor

GAP, LEFT, TOP = 6, 250, 56
INK, FAINT = (25, 25, 25), (110, 110, 110)


def picture_of(frame: Tensor, side: int) -> Image.Image:
    """A frame [H, W, 3] in 0..1 with its shorter side scaled to ``side``."""
    picture = Image.fromarray((frame.clamp(0, 1) * 255).round().byte().cpu().numpy())
    scale = side / min(picture.size)
    return picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)


def contact_sheet(path: Path, title: str, rows: Sequence[tuple[str, str, Tensor]], side: int = 224) -> None:
    """Write a PNG with one clip a row.

    Args:
        path: of the picture; missing folders are made.
        title: above the rows.
        rows: name, a line of numbers, and frames [F, H, W, 3] in 0..1.
        side: of a frame on the sheet, in pixels.
    """
    big, small = ImageFont.load_default(24), ImageFont.load_default(16)
    strips = [[picture_of(frame, side) for frame in frames] for _, _, frames in rows]
    width = LEFT + max(sum(p.width + GAP for p in strip) for strip in strips)
    height = TOP + sum(max(p.height for p in strip) + GAP for strip in strips)
    page = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(page)
    draw.text((GAP, 14), title, fill=INK, font=big)
    y = TOP
    for (name, numbers, _), strip in zip(rows, strips, strict=True):
        # A long name is written smaller, not over the first picture.
        fits = ImageFont.load_default(24 * min(1.0, (LEFT - 2 * GAP) / max(big.getlength(name), 1)))
        draw.text((GAP, y + 8), name, fill=INK, font=fits)
        draw.multiline_text((GAP, y + 44), numbers, fill=FAINT, font=small, spacing=6)
        x = LEFT
        for picture in strip:
            page.paste(picture, (x, y))
            x += picture.width + GAP
        y += max(p.height for p in strip) + GAP
    with whole(path) as temporary:
        page.save(temporary, "PNG")
