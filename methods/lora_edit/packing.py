"""A mask of pixels as the channels that an image-to-video transformer reads beside its condition.

Two polarities meet here. The paper's and the network's M is 1 where the condition is KEPT. ComfyUI's
``concat_mask`` and every mask in this folder is its inverse G = 1 - M, 1 where the model GENERATES;
the host inverts it just before the network.
"""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

#: Pixels to a latent cell where a family's VAE does not say more, and frames to a latent frame after the first.
CELL, STRIDE = 8, 4


def latent_frames(frames: int) -> int:
    """T' = (T - 1) / 4 + 1: the causal VAE encodes the first frame alone, then four at a time."""
    return (frames - 1) // STRIDE + 1


def check_frames(name: str, frames: int) -> None:
    """Raise ValueError unless there are 4N + 1 frames."""
    if frames < 1 or (frames - 1) % STRIDE:
        below = max((frames - 1) // STRIDE, 0) * STRIDE + 1
        near = f"{below} or {below + STRIDE}" if frames > 1 else "1"
        raise ValueError(f"{name}: {frames} frames, but the video VAE needs 4N + 1; use {near}.")


def pooled(generate: Tensor, pooling: str = "any", cell: int = CELL) -> Tensor:
    """G by latent cells, [frames, height / cell, width / cell].

    ``any``: the largest value of the cell, so that one pixel keeps its cell. ``official``: its upper left pixel,
    which is what nearest down-sampling takes.

    Args:
        generate: [frames, height, width], both sides multiples of ``cell``.
    """
    if pooling == "any":
        return max_pool2d(generate[:, None], cell)[:, 0]
    return interpolate(generate[:, None], scale_factor=1 / cell, mode="nearest")[:, 0]


def packed(cells: Tensor) -> Tensor:
    """G as Wan reads it, [1, 4, T', h, w]: four frames of pixels are the four channels of a latent frame.

    Frame 0 stands in all four channels of latent frame 0; frame 1 + 4 (k - 1) + c is channel c of
    latent frame k. Nothing is pooled over time.

    Args:
        cells: [4 (T' - 1) + 1, h, w].
    """
    check_frames("mask", len(cells))
    first = repeat(cells[0], "h w -> frames h w", frames=STRIDE - 1)
    layout = "(latent channels) h w -> 1 channels latent h w"
    return rearrange(torch.cat([first, cells]), layout, channels=STRIDE).contiguous()


def packed_single(cells: Tensor) -> Tensor:
    """G as HunyuanVideo reads it, [1, 1, T', h, w]: a latent frame generates where any of its four frames does.

    The host rounds this mask for HunyuanVideo v1, so that it must be hard.
    """
    return packed(cells).amax(1, keepdim=True)

