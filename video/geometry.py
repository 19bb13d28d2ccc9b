"""From a decoded frame to the pixels that are shown: alpha, pixel aspect, rotation, size."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from torch import Tensor

from .colour import Colour, rgb

FITS = ("crop", "stretch", "pad")
Size = int | tuple[int, int] | None
#: Of widgets: like "crop", but the size is that of the shorter side.
KEEP_SHAPE = "keep shape"
COLOURS = {"black": (0.0, 0.0, 0.0), "white": (1.0, 1.0, 1.0), "gray": (0.5, 0.5, 0.5)}


def for_a_model(size: int, fit: str = "crop", background: str = "black") -> dict[str, Any]:
    """Settings of ``read.read_clip`` and ``read.iter_frames`` for frames that a VAE of f=8 takes.

    Args:
        size: side of a square, 0 keeps the picture's own size.
        fit: one of ``FITS``, or ``KEEP_SHAPE``.
        background: a name of ``COLOURS``.
    """
    keeps = fit == KEEP_SHAPE
    wanted = (size, size) if size and not keeps else (size or None)
    return {"size": wanted, "fit": "crop" if keeps else fit, "multiple": 8, "background": COLOURS[background]}


@dataclass(frozen=True)
class Plan:
    """How frames of one shape become frames of another; widths and heights as shown.

    The picture is scaled to ``scaled`` and laid on a canvas of ``canvas`` so that the
    centres meet: what sticks out is cropped, what is missing shows the background.
    """

    scaled: tuple[int, int]
    canvas: tuple[int, int]


def plan(width: int, height: int, size: Size = None, fit: str = "crop", multiple: int = 1) -> Plan:
    """Decide the size of the result.

    Args:
        width, height: the picture as shown (rotated, with square pixels).
        size: None keeps the size; an int is the length of the shorter side, the other
            follows; (width, height) is exactly that.
        fit: where proportions differ, ``crop`` covers the size and cuts from the centre,
            ``stretch`` distorts, ``pad`` shows all of the picture on the background.
        multiple: sides that follow from the picture are cropped down to a multiple of
            this (a VAE needs 8): at most ``multiple - 1`` pixels go, nothing is resampled.

    Raises:
        ValueError: unknown fit, a size below 1, or a picture smaller than one multiple.
    """
    if fit not in FITS:
        raise ValueError(f"fit: expected one of {', '.join(FITS)}, but got {fit!r}.")
    if min(width, height) < 1:
        raise ValueError(f"size: pictures of {width}x{height} pixels cannot be scaled; check what made them.")
    if size is None or isinstance(size, int):
        if size is not None and size < 1:
            raise ValueError(f"size: at least 1 pixel is needed, but got {size}.")
        ratio = Fraction(1) if size is None else Fraction(size, min(width, height))
        scaled = round(width * ratio), round(height * ratio)
        canvas = scaled[0] // multiple * multiple, scaled[1] // multiple * multiple
        if 0 in canvas:
            raise ValueError(f"size: {scaled[0]}x{scaled[1]} is smaller than the least side, {multiple} pixels.")
        return Plan(scaled, canvas)
    if min(size) < 1:
        raise ValueError(f"size: at least 1x1 pixel is needed, but got {size[0]}x{size[1]}.")
    if fit == "stretch":
        return Plan(size, size)
    ratios = Fraction(size[0], width), Fraction(size[1], height)
    ratio = max(ratios) if fit == "crop" else min(ratios)
    return Plan((max(1, round(width * ratio)), max(1, round(height * ratio))), size)


def orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """(transpose, flip rows, flip columns) by the file's display matrix.

    The matrix maps stored (x, y) to shown (a x + c y, b x + d y), 16.16 fixed point. Phones
    write quarter turns and mirrors; any other angle is shown as stored.
    """
    for item in frame.side_data:
        if item.type == av.sidedata.sidedata.Type.DISPLAYMATRIX:
            a, b, _, c, d = np.frombuffer(bytes(item), np.int32)[:5].tolist()
            if a == d == 0 and b and c:
                return True, b < 0, c < 0
            if b == c == 0 and a and d:
                return False, d < 0, a < 0
    return False, False, False


def shown_size(frame: av.VideoFrame, pixel_aspect: Fraction | None) -> tuple[int, int]:
    """Width and height on screen: square pixels, rotated."""
    width = round(frame.width * pixel_aspect) if pixel_aspect else frame.width
    return (frame.height, width) if orientation(frame)[0] else (width, frame.height)


def pixels(
    frame: av.VideoFrame, plan: Plan, colour: Colour, background: tuple[float, float, float] = (0.0, 0.0, 0.0), *,
    reformatter: VideoReformatter | None = None, out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The frame as shown, float32 [H, W, 3] in 0..1.

    Args:
        background: RGB in 0..1 behind transparent pixels and in the bars of ``pad``.
        reformatter: see ``colour.rgb``.
        out: float32 [H, W, 3] that the picture is written into, and that is returned.
    """
    transpose, flip_rows, flip_columns = orientation(frame)
    flips = [axis for axis, flipped in enumerate((flip_rows, flip_columns)) if flipped]
    width, height = reversed(plan.scaled) if transpose else plan.scaled
    if frame.format.name == "pal8" or any(component.is_alpha for component in frame.format.components):
        # Laid over the background at its own size: scaled first, edges would mix in hidden colours.
        image = rgb(frame, colour, frame.width, frame.height, reformatter=reformatter)
        alpha = torch.from_numpy(frame.reformat(format="rgba").to_ndarray()[..., 3:]) / 255
        image = resized((image * alpha + torch.tensor(background) * (1 - alpha))[None], height, width)[0]
    else:
        as_stored = not transpose and not flips and plan.scaled == plan.canvas
        image = rgb(frame, colour, width, height, reformatter=reformatter, out=out if as_stored else None)
    if transpose:
        image = image.transpose(0, 1)
    image = centred((image.flip(flips) if flips else image)[None], plan.canvas, background)[0]
    return image if out is None or image.data_ptr() == out.data_ptr() else out.copy_(image)


def resized(frames: Tensor, height: int, width: int) -> Tensor:
    """Frames [F, H, W, 3] at another size, bicubic with antialiasing."""
    if (height, width) == tuple(frames.shape[1:3]):
        return frames
    return torch.nn.functional.interpolate(
        frames.movedim(-1, 1), (height, width), mode="bicubic", antialias=True
    ).movedim(1, -1).clamp(0, 1)  # fmt: skip


def centred(frames: Tensor, canvas: tuple[int, int], background: tuple[float, float, float]) -> Tensor:
    """Frames [F, H, W, 3] cropped, or laid on the background, to (width, height)."""
    width, height = canvas
    top, left = max(0, frames.shape[1] - height) // 2, max(0, frames.shape[2] - width) // 2
    frames = frames[:, top : top + height, left : left + width]
    if tuple(frames.shape[1:3]) == (height, width):
        return frames.contiguous()
    whole = frames.new_tensor(background).expand(len(frames), height, width, 3).clone()
    top, left = (height - frames.shape[1]) // 2, (width - frames.shape[2]) // 2
    whole[:, top : top + frames.shape[1], left : left + frames.shape[2]] = frames
    return whole
