"""CLIP and VAE values beside MODEL, with the few calls of the host's that nodes use."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Frames that go through the VAE at once: memory stays flat for any length of clip.
CHUNK = 16
#: Tokens of a text that are surely all of it, its two ends included.
MOST_TOKENS = 76


def length_of(ids: Tensor) -> int:
    """Tokens up to the first end of the text, with it; ids: [tokens], filled up with ends."""
    return int((ids == ids[-1]).int().argmax()) + 1


class TextEncoder:
    """CLIP of this backend: a transformers ``CLIPTextModel`` and its tokenizer.

    Args:
        encoder: gives ``last_hidden_state`` and ``pooler_output``.
        tokenize: texts -> ids [B, 77].
        projection: of the pooled text into the space of images, where the CLIP has one.
    """

    def __init__(self, encoder: nn.Module, tokenize: Callable[[list[str]], Tensor],
                 projection: nn.Module | None = None):
        self.encoder, self._tokenize, self._projection = encoder, tokenize, projection

    def tokenize(self, text: str) -> Tensor:
        """ids [1, 77].

        Raises:
            ValueError: the text fills all of them, so that what follows would be cut off in silence.
        """
        ids = self._tokenize([text])
        if length_of(ids[0]) > MOST_TOKENS:
            raise ValueError(f"text: is longer than the {MOST_TOKENS - 2} words or pieces of words that are read here, "
                             f"and its end would be cut off; shorten it: {text[:40]!r}...")
        return ids

    @torch.no_grad()
    def encode_from_tokens_scheduled(self, tokens: Tensor) -> list[list[Any]]:
        """CONDITIONING: ``[[tensor [1, 77, C], {"pooled_output": [1, C]}]]``."""
        out = self.encoder(tokens.to(self.encoder.device))
        return [[out.last_hidden_state, {"pooled_output": out.pooler_output}]]

    @torch.no_grad()
    def embed(self, text: str) -> Tensor:
        """``Backend.text_embedding``."""
        if self._projection is None:
            raise ValueError("clip: this text encoder has no projection into the space of images; load a whole CLIP.")
        pooled = self.encoder(self.tokenize(text).to(next(self.encoder.parameters()).device)).pooler_output
        return self._projection(pooled).float().cpu()


class ImageEncoder:
    """CLIP_VISION of this backend: a transformers ``CLIPModel`` on pixels in -1 .. 1."""

    def __init__(self, clip: nn.Module):
        self.clip = clip

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """``Backend.image_embeddings``; resized and rounded to 8 bits as in the host."""
        side = self.clip.config.vision_config.image_size
        pixels = images[..., :3].movedim(-1, 1)
        if pixels.shape[-2:] != (side, side):
            pixels = F.interpolate(pixels, size=(side, side), mode="bicubic", antialias=True)
        pixels = (255 * pixels).clamp(0, 255).round() / 127.5 - 1
        device = next(self.clip.parameters()).device
        pooled = self.clip.vision_model(pixel_values=pixels.to(device)).pooler_output
        return self.clip.visual_projection(pooled).float().cpu()


class Autoencoder:
    """VAE of this backend: a diffusers ``AutoencoderKL`` with 8x8 pixels a latent cell."""

    def __init__(self, vae: nn.Module):
        self.vae = vae

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """IMAGE [F, H, W, 3 or more] in 0..1 -> LATENT samples [F, 4, H/8, W/8], the mean.

        As in the host, what exceeds a multiple of 8 is cropped evenly from both sides.
        """
        top, left = (side % 8 // 2 for side in pixels.shape[1:3])
        height, width = (side // 8 * 8 for side in pixels.shape[1:3])
        if not height or not width:
            raise ValueError(f"pixels: {pixels.shape[2]}x{pixels.shape[1]} is smaller than one latent cell (8x8).")
        inner = pixels[:, top : top + height, left : left + width, :3]
        return torch.cat([self._encode(part) for part in inner.split(CHUNK)])

    def _encode(self, pixels: Tensor) -> Tensor:
        signed = pixels.movedim(-1, 1).to(self.vae.device, self.vae.dtype) * 2 - 1
        return self.vae.encode(signed).latent_dist.mode().float().cpu()

    @torch.no_grad()
    def decode(self, samples: Tensor) -> Tensor:
        """LATENT samples [F, 4, h, w] -> IMAGE [F, 8h, 8w, 3] in 0..1."""
        return torch.cat([self._decode(part) for part in samples.split(CHUNK)])

    def _decode(self, samples: Tensor) -> Tensor:
        signed = self.vae.decode(samples.to(self.vae.device, self.vae.dtype)).sample
        return (signed.float().cpu().movedim(1, -1) * 0.5 + 0.5).clamp(0, 1)
