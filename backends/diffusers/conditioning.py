"""CONDITIONING of the host's format as what a U-Net reads: text, and an image's latent beside the noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor


def text_of(conditioning: Any, frames: int, name: str = "conditioning") -> Tensor:
    """Text tokens for every frame of a clip.

    Args:
        conditioning: ``[[tensor [1 or frames, tokens, C], {...}]]``.
        frames: of the clip.
        name: of the input, for the message.

    Returns:
        [frames, tokens, C], without a copy where one text serves all frames.

    Raises:
        ValueError: several conditions, or a number of texts that fits no frame.
    """
    if len(conditioning) != 1:
        raise ValueError(f"{name}: expected one condition, but got {len(conditioning)}; this host combines none.")
    text = conditioning[0][0]
    if text.shape[0] not in (1, frames):
        raise ValueError(f"{name}: holds {text.shape[0]} texts, but the clip has {frames} frames; "
                         f"give one for all of them or {frames}.")
    return text.expand(frames, -1, -1)


def with_image(unet: Any, noisy: Tensor, conditioning: Any, name: str = "conditioning") -> Tensor:
    """x with the condition's ``concat_latent_image`` as further channels, for a U-Net that takes an image.

    Args:
        unet: with twice as many input channels as ``noisy`` if it takes an image.
        noisy: [frames, channels, h, w].
        conditioning: its image [1 or frames, channels, h, w] is used as it is; zeros where it has none.
        name: of the input, for the message.

    Raises:
        ValueError: an image of another size or for another number of frames.
    """
    if unet.config.in_channels == noisy.shape[1]:
        return noisy
    image = image_of(conditioning, len(noisy), name)
    if image is None:
        image = torch.zeros_like(noisy)
    if image.shape[1:] != noisy.shape[1:]:
        raise ValueError(f"{name}: its image has the latent shape {tuple(image.shape[1:])}, but the clip "
                         f"{tuple(noisy.shape[1:])}; make both from the same frames.")
    return torch.cat([noisy, image.to(noisy)], 1)


def image_of(conditioning: Any, frames: int, name: str = "conditioning") -> Tensor | None:
    """The ``concat_latent_image`` for every frame of a clip: raw latents, which the U-Net sees as they are.

    Returns:
        [frames, channels, h, w], without a copy where one image serves all frames; None where
        the condition has none.

    Raises:
        ValueError: a number of images that fits no frame.
    """
    image = conditioning[0][1].get("concat_latent_image")
    if image is None:
        return None
    if len(image) not in (1, frames):
        raise ValueError(f"{name}: holds {len(image)} images, but the clip has {frames} frames; "
                         f"give one for all of them or {frames}.")
    return image.expand(frames, -1, -1, -1)
