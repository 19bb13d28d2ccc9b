"""Where to crop: one box size for the clip, moving smoothly with a mask, at whole pixels."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, gcd
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: From this value on a pixel of a mask counts.
MASKED = 0.5
#: Pixels around the mask that the box always holds where the plate has them: room for a seam.
MARGIN = 16
#: Ratios of width and height by the name that an artist picks.
ASPECTS: dict[str, Any] = {
    "of the mask": None, "of the clip": None, "16:9": (16, 9), "3:2": (3, 2), "4:3": (4, 3), "1:1": (1, 1),
    "3:4": (3, 4), "2:3": (2, 3), "9:16": (9, 16),
}  # fmt: skip
MOTIONS = ("moving", "whole clip")


@dataclass(frozen=True)
class Crop:
    """Where each frame's crop lies in the plate, and its size in pixels.

    left, top: of every frame's box, whole pixels. They lie outside of the plate only where the
        box is larger than it.
    width, height: of the box in the plate.
    out_width, out_height: of the cropped pictures.
    plate_width, plate_height: of the frames that were cropped.
    """

    left: tuple[int, ...]
    top: tuple[int, ...]
    width: int
    height: int
    out_width: int
    out_height: int
    plate_width: int
    plate_height: int

    def inside(self, frame: int) -> tuple[int, int, int, int]:
        """left, top, right, bottom of the part of a frame's box that lies on the plate."""
        left, top = self.left[frame], self.top[frame]
        return (max(left, 0), max(top, 0), min(left + self.width, self.plate_width),
                min(top + self.height, self.plate_height))  # fmt: skip


def extents(mask: Tensor) -> np.ndarray:
    """left, top, right, bottom of each mask's pixels, right and bottom beside the last one; -1 where it is empty.

    Args:
        mask: [frames, height, width] in 0 .. 1.

    Returns:
        int [frames, 4].
    """
    found = np.full((len(mask), 4), -1)
    for i, frame in enumerate(mask):
        on = frame >= MASKED
        rows, columns = on.any(1).nonzero().flatten(), on.any(0).nonzero().flatten()
        if len(rows):
            found[i] = columns[0].item(), rows[0].item(), columns[-1].item() + 1, rows[-1].item() + 1
    return found


def crop_of(mask: Tensor, frames: int, width: int = 0, height: int = 0, aspect: str = "of the mask",
            padding: float = 0.25, multiple: int = 16, motion: str = "moving", smooth: float = 8.0) -> Crop:
    """The smallest box of the asked shape that holds the mask of every frame with its padding.

    Args:
        mask: [frames or 1, height, width] in 0 .. 1; frames without a masked pixel are passed over.
        frames: of the clip.
        width, height: of the cropped pictures. One that is 0 follows from the other by the aspect;
            both 0 leave the box's own size, so that nothing is resampled.
        aspect: a key of ``ASPECTS``; without a say where width and height are both given.
        padding: added on each side, as a part of the mask's own width and height; at least ``MARGIN`` pixels.
        multiple: that the cropped pictures' sides are multiples of.
        motion: "moving", or "whole clip" for one box that stands still.
        smooth: frames over which the box's way is smoothed, see ``path``.

    Raises:
        ValueError: the mask is empty in every frame, or a size is no multiple of ``multiple``.
    """
    for name, side in (("width", width), ("height", height)):
        if side % multiple:
            raise ValueError(f"{name}: {side} is no multiple of {multiple}; use {side // multiple * multiple} or "
                             f"{side // multiple * multiple + multiple}.")
    plate_height, plate_width = mask.shape[1:]
    found = extents(mask)
    seen = found[:, 0] >= 0
    if not seen.any():
        raise ValueError("mask: is empty in every frame, so there is nothing to crop to; paint or detect the object, "
                         "1 inside.")
    if motion == MOTIONS[1] or len(found) == 1:
        low, high = found[seen, :2].min(0), found[seen, 2:].max(0)
        found, seen = np.tile(np.concatenate([low, high]), (frames, 1)), np.ones(frames, dtype=bool)
    widest = (found[seen, 2:] - found[seen, :2]).max(0)
    need = np.maximum(widest * (1 + 2 * padding), widest + 2 * MARGIN)
    ratio = {"of the mask": need, "of the clip": (plate_width, plate_height)}.get(aspect, ASPECTS[aspect])
    (box_width, box_height), out = sizes(need, ratio, width, height, multiple)
    ways = [path(found[:, axis], found[:, axis + 2], seen, side, limit, smooth)
            for axis, side, limit in ((0, box_width, plate_width), (1, box_height, plate_height))]  # fmt: skip
    left, top = (tuple(int(x) for x in way) for way in ways)
    return Crop(left, top, box_width, box_height, out[0], out[1], plate_width, plate_height)


def sizes(need: tuple[float, float], ratio: tuple[float, float], width: int, height: int,
          multiple: int) -> tuple[tuple[int, int], tuple[int, int]]:  # fmt: skip
    """Width and height of the box, and of the cropped pictures.

    Scaled crops have their box's exact proportions: it is k (w / g, h / g) for pictures of w x h with
    the greatest common divisor g, and the smallest such k that ``need`` allows.

    Args:
        need: least width and height.
        ratio: width and height in proportion, used where a size is free.
        width, height: of the pictures; 0 is free.
    """
    whole = lambda side: max(round(side / multiple), 1) * multiple  # noqa: E731
    if not width and not height:
        least = max(need[0], need[1] * ratio[0] / ratio[1])
        # Rounding errors of the ratio must not cost another multiple.
        box_width, box_height = (max(ceil(side / multiple - 1e-9), 1) * multiple
                                 for side in (least, least * ratio[1] / ratio[0]))  # fmt: skip
        return (box_width, box_height), (box_width, box_height)
    out = (width or whole(height * ratio[0] / ratio[1]), height or whole(width * ratio[1] / ratio[0]))
    unit = tuple(side // gcd(*out) for side in out)
    k = max(ceil(least / side - 1e-9) for least, side in zip(need, unit, strict=True))
    return (k * unit[0], k * unit[1]), out


def path(low: np.ndarray, high: np.ndarray, seen: np.ndarray, side: int, limit: int, smooth: float) -> np.ndarray:
    """A box's first pixel along one axis, frame by frame: near the mask's middle, smooth, and always around the mask.

    The x that minimise  sum_seen (x_t - c_t)^2 + s^2 sum (x_t+1 - x_t)^2 + s^4 sum (x_t+1 - 2 x_t + x_t-1)^2
    (Whittaker's smoother, 1923, of first and second differences) under  high_t + m - side <= x_t <= low_t - m  and
    0 <= x_t <= limit - side,  rounded to whole pixels; c_t centres the box on the mask, m is ``MARGIN``. Frames without
    a mask have neither a wish nor the first bound: the box glides through them. At the plate's edge the margin gives
    way; a box wider than the plate is centred on it.

    Args:
        low, high: the mask's first pixel and the one beside its last, [frames].
        seen: frames that have a mask.
        side: of the box.
        limit: of the plate.
        smooth: s, in frames; 0 follows the mask.
    """
    from scipy.sparse import diags

    count, room = len(low), limit - side
    if room <= 0:
        return np.full(count, room // 2)
    least = np.where(seen, np.clip(high + MARGIN - side, 0, room), 0)
    most = np.where(seen, np.clip(low - MARGIN, 0, room), room)
    wish = np.clip((low + high - side) / 2, 0, room)
    if not smooth:  # nothing holds frames together: one without a mask lies between its neighbours
        found = np.interp(np.arange(count), np.flatnonzero(seen), wish[seen])
    else:
        quadratic = diags(seen.astype(float))
        for order, weight, stencil in ((1, smooth**2, [-1.0, 1.0]), (2, smooth**4, [1.0, -2.0, 1.0])):
            if count > order:
                difference = diags(stencil, range(order + 1), shape=(count - order, count))
                quadratic = quadratic + weight * difference.T @ difference
        found = bounded(quadratic.tocsc(), np.where(seen, wish, 0), least, most)
    return np.clip(np.rint(found), least, most).astype(int)


def bounded(quadratic: Any, linear: np.ndarray, least: np.ndarray, most: np.ndarray) -> np.ndarray:
    """The x in least .. most that minimises x^T Q x / 2 - b^T x, by the primal-dual active set method.

    (Hintermueller, Ito, Kunisch, 2002.) Every step solves for the x that are free, holds those that left their bounds,
    and frees held ones that the gradient draws inside. After 30 steps none is freed any more, so that it ends.

    Args:
        quadratic: Q, sparse and positive definite.
        linear: b.
    """
    from scipy.sparse.linalg import spsolve

    x, below = np.clip(linear, least, most), least >= most
    above: np.ndarray = np.zeros(len(least), dtype=bool)
    for step in range(30 + 2 * len(least)):
        held = below | above
        x = np.where(below, least, np.where(above, most, x)).astype(float)
        free = np.flatnonzero(~held)
        if len(free):
            x[free] = spsolve(quadratic[free][:, free], linear[free] - quadratic[free][:, held] @ x[held])
        pull = quadratic @ x - linear
        stays = step >= 30
        now = (below & (stays | (pull > 0) | (least >= most)) | (x < least - 1e-9),
               above & (stays | (pull < 0)) | (x > most + 1e-9))  # fmt: skip
        if (now[0] == below).all() and (now[1] == above).all():
            break
        below, above = now
    return x


@torch.no_grad()
def cropped(images: Tensor, crop: Crop, progress=lambda done: None) -> Tensor:
    """Each frame's box, resampled where the crop has another size; beyond the plate its edge is repeated.

    Args:
        images: [frames, height, width, channels].
        progress: is called with the number of frames done.

    Returns:
        [frames, out_height, out_width, channels]; the plate's own pixels where the sizes are equal.
    """
    out = images.new_empty(len(images), crop.out_height, crop.out_width, images.shape[-1])
    for i, frame in enumerate(images):
        rows = torch.arange(crop.top[i], crop.top[i] + crop.height, device=images.device)
        columns = torch.arange(crop.left[i], crop.left[i] + crop.width, device=images.device)
        box = frame[rows.clamp(0, crop.plate_height - 1)][:, columns.clamp(0, crop.plate_width - 1)]
        out[i] = resized(box, crop.out_height, crop.out_width)
        progress(i + 1)
    return out


def resized(picture: Tensor, height: int, width: int) -> Tensor:
    """[height', width', channels] at another size, bicubic without aliasing, within the picture's own range."""
    if picture.shape[:2] == (height, width):
        return picture
    from torch.nn.functional import interpolate

    scaled = interpolate(picture.movedim(-1, 0)[None].float(), (height, width), mode="bicubic", antialias=True)
    # Bicubic overshoots beside edges.
    low, high = picture.amin((0, 1)).float(), picture.amax((0, 1)).float()
    return scaled[0].movedim(0, -1).clamp(low, high).to(picture.dtype)
