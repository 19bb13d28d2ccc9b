"""The toy world's image-to-video model as MODEL, CLIP and VAE of this backend."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ...toyworld import models
from ...toyworld.models import wan_vae
from .encoders import TextEncoder
from .video import DiffusersVideoModel

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan
    from torch import Tensor


class VideoAutoencoder:
    """VAE of this backend for clips: a diffusers ``AutoencoderKLWan``, 8x8 pixels and 4 frames a latent cell."""

    def __init__(self, vae: AutoencoderKLWan):
        self.vae = vae

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """IMAGE [F, H, W, 3 or more] in 0..1 -> LATENT samples [1, 16, (F - 1) // 4 + 1, H/8, W/8], the mean.

        As in the host, what exceeds a multiple of 8 is cropped evenly from both sides, and frames beyond 4 N + 1 are
        left out.
        """
        top, left = (side % 8 // 2 for side in pixels.shape[1:3])
        height, width = (side // 8 * 8 for side in pixels.shape[1:3])
        if not height or not width:
            raise ValueError(f"pixels: {pixels.shape[2]}x{pixels.shape[1]} is smaller than one latent cell (8x8).")
        inner = pixels[: (len(pixels) - 1) // 4 * 4 + 1, top : top + height, left : left + width, :3]
        signed = inner.movedim(-1, 0)[None].to(self.vae.device, self.vae.dtype) * 2 - 1
        return self.vae.encode(signed).latent_dist.mode().float().cpu()

    @torch.no_grad()
    def decode(self, samples: Tensor) -> Tensor:
        """LATENT samples [1, 16, T', h, w] -> IMAGE [4 T' - 3, 8h, 8w, 3] in 0..1."""
        signed = self.vae.decode(samples.to(self.vae.device, self.vae.dtype)).sample[0]
        return (signed.float().cpu().movedim(0, -1) * 0.5 + 0.5).clamp(0, 1)


def load_toy_video() -> tuple[DiffusersVideoModel, TextEncoder, VideoAutoencoder]:
    """MODEL, CLIP and VAE, float32, on the GPU where there is one.

    Raises:
        ValueError: a weights file is not the one that its sidecar describes.
        FileNotFoundError: a weights file is missing.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    transformer, encoder, vae = (
        load().to(device) for load in (models.load_wan, models.load_text_encoder, models.load_wan_vae))
    model = DiffusersVideoModel(transformer, wan_vae.MEAN, wan_vae.STD)
    return model, TextEncoder(encoder, models.tokenize), VideoAutoencoder(vae)
