"""The edges that the toy ControlNet follows, and how well pictures keep to them.

Edges are Canny's by kornia, which is also what ComfyUI's own Canny node computes: that node with the thresholds below
gives the very hints that the ControlNet was trained on. Its default thresholds (0.4, 0.8) find half of the objects'
outlines in these softly drawn pictures, the ones here find 94 %.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

#: thresholds of Canny's hysteresis, on the gradient of luminance in 0..1
LOW, HIGH = 0.1, 0.2


def edges(images: torch.Tensor, low: float = LOW, high: float = HIGH) -> torch.Tensor:
    """Canny edges of images [B,H,W,3] in 0..1: [B,H,W,3] of zeros and ones, the three channels equal.

    Raises:
        ValueError: the thresholds are not 0 < low <= high (kornia).
    """
    from kornia.filters import canny

    # One by one: hysteresis iterates until the slowest picture of a batch is done.
    found = [canny(image[None].movedim(-1, 1).float(), low, high)[1] for image in images]
    return torch.cat(found).repeat(1, 3, 1, 1).movedim(1, -1)


def controlled(unet, controlnet, hints: torch.Tensor) -> Callable:
    """The U-Net under the ControlNet, called as the U-Net is; hints [B,3,H,W] in 0..1, a row for each of the batch."""

    def network(x, t, context):
        down, middle = controlnet(x, t, context, hints, return_dict=False)
        return unet(x, t, context, down_block_additional_residuals=down, mid_block_additional_residual=middle)

    return network


def edge_agreement(found: torch.Tensor, hint: torch.Tensor, reach: int = 1) -> torch.Tensor:
    """F1 [B] of edges [B,H,W,3] against a hint's: an edge counts as met where the other has one within `reach` pixels.

    precision = |found near hint| / |found|, recall = |hint near found| / |hint|, F1 = 2 P R / (P + R); where neither
    has an edge they agree wholly.
    """
    a, b = found[..., 0], hint[..., 0]

    def near(maps: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(maps[:, None], 2 * reach + 1, 1, reach)[:, 0]

    def share(part: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
        return (part * of).sum((1, 2)) / of.sum((1, 2)).clamp(min=1)

    precision, recall = share(near(b), a), share(near(a), b)
    f1 = 2 * precision * recall / (precision + recall).clamp(min=1e-9)
    return torch.where((a.sum((1, 2)) == 0) & (b.sum((1, 2)) == 0), torch.ones_like(f1), f1)
