"""LoRA-Edit's condition written down once more, entry by entry, to compare the pack's with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

CELL, FRAMES = 8, 4


def generated(video: Tensor, mask: Tensor | None, keep: str) -> Tensor:
    """1 where the model makes the clip anew, [frames, height, width]."""
    if keep.startswith("outside"):
        if mask is None:
            raise ValueError("mask: is missing.")
        made = (mask >= 0.5).float().expand(len(video), -1, -1).clone()
    else:
        made = torch.full(video.shape[:3], 0.0 if keep == "everything" else 1.0)
    if keep.endswith("first frame"):
        made[0] = 0
    return made


def cells(made: Tensor, pooling: str) -> Tensor:
    """The mask by cells of 8x8 pixels: any pixel marks its cell, or its upper left one does (official)."""
    count, height, width = made.shape
    if pooling == "official":
        return made[:, ::CELL, ::CELL]
    return made.reshape(count, height // CELL, CELL, width // CELL, CELL).amax((2, 4))


def independent_condition(encode: Callable[[Tensor], Tensor], video: Tensor, mask: Tensor | None,
                          first: Tensor | None, keep: str, family: str, pooling: str,
                          gray: str = "mid-gray") -> dict[str, Tensor]:
    """``concat_latent_image`` and ``concat_mask`` as Wan (four channels) and HunyuanVideo (one) read them.

    A latent frame k > 0 stands for the frames 4k-3 ... 4k, the first one for frame 0 alone.

    Args:
        encode: IMAGE [frames, height, width, 3] -> latents of the video VAE.
        video, first: the clip, and the edited first frame or None.
        mask: [frames or 1, height, width], 1 where to edit.
        keep, family, pooling, gray: as the node's widgets say it.
    """
    video, made = video[..., :3].clone(), generated(video, mask, keep)
    if first is not None:
        video[0] = first[0, ..., :3]
    shade = 128 / 255 if gray == "official" else 0.5
    shown = torch.where(made[..., None] > 0, torch.full_like(video, shade), video)
    small = cells(made, pooling)
    latents = (len(video) - 1) // FRAMES + 1
    wan = family.startswith("Wan")
    packed = torch.zeros(1, FRAMES if wan else 1, latents, *small.shape[1:])
    for latent in range(latents):
        for place in range(FRAMES):
            frame = 0 if latent == 0 else FRAMES * (latent - 1) + 1 + place
            channel = place if wan else 0
            packed[0, channel, latent] = torch.maximum(packed[0, channel, latent], small[frame])
    if not wan and len(video) > 1 and bool(made[1:].all()) and not made[0].any():
        shown = shown[:1]  # HunyuanVideo was trained with zeros behind the first frame.
    return {"concat_latent_image": encode(shown), "concat_mask": packed}
