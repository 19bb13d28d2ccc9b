"""From a tracked mask to the region that is generated: the authors' boxes, or dilated silhouettes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

#: The authors' numbers: boxes of fewer pixels are dropped, every side of a box moves out by this share.
SMALLEST, GROWTH = 50, 0.05


def hard(mask: Tensor) -> Tensor:
    """1 where a mask of any shape is 0.5 or more, else 0; float32."""
    return (mask >= 0.5).float()


def boxes(mask: Tensor, growth: float = GROWTH, smallest: int = SMALLEST) -> Tensor:
    """Bounding boxes of a mask, one per external contour and frame, each grown.

    A contour is the outline of a connected region (diagonal neighbours count); a region inside
    another one's hole has none of its own. Columns x0 .. x1 of a box become x0 - g .. x1 + g with
    g = int(2 growth (x1 - x0)) // 2, as the authors halve what a box grows by in all, cut at the
    picture's border, and rows likewise.

    Args:
        mask: [frames, height, width], 1 where to edit, see ``hard``.
        growth: share of a box's side by which each of its ends moves out.
        smallest: boxes with fewer pixels, before they grow, are dropped.

    Returns:
        0 or 1, float32, of the same shape.
    """
    from scipy.ndimage import binary_fill_holes, find_objects, label

    out = torch.zeros(mask.shape)
    for frame, present in zip(out, hard(mask).bool().cpu().numpy(), strict=True):
        filled = binary_fill_holes(present)
        regions, _ = label(filled, structure=[[1] * 3] * 3)
        for extent in find_objects(regions):
            if regions[extent].size >= smallest:
                rows, columns = (_grown(side, growth, size) for side, size in zip(extent, frame.shape, strict=True))
                frame[rows, columns] = 1
    return out


def _grown(side: slice, growth: float, size: int) -> slice:
    """A box's side with both ends moved out."""
    more = int(2 * growth * (side.stop - side.start)) // 2
    return slice(max(side.start - more, 0), min(side.stop + more, size))


def silhouettes(mask: Tensor, pixels: int) -> Tensor:
    """The mask dilated by a square: 1 where a masked pixel lies within so many pixels in both directions.

    Args:
        mask: [frames, height, width], 1 where to edit, see ``hard``.
        pixels: 0 leaves the mask as it is.

    Returns:
        0 or 1, float32, of the same shape.
    """
    return max_pool2d(hard(mask)[:, None], 2 * pixels + 1, stride=1, padding=pixels)[:, 0] if pixels else hard(mask)
