"""What the root frame's steps ask of their inputs, told in one sentence each."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from ...backends.protocol import Backend


def check_editor(backend: Backend, model: Any) -> None:
    """Raise TypeError unless the MODEL predicts noise from an image beside it."""
    backend.schedule(model)
    if not backend.takes_image(model):
        raise TypeError("model: takes no image beside the noise; load an InstructPix2Pix checkpoint (8 input channels).")


def check_root(source: Tensor, edited: Tensor) -> None:
    """Raise ValueError unless both are one image of the same size, at least one latent cell large."""
    for name, image in (("root_source", source), ("root_edited", edited)):
        if len(image) != 1:
            raise ValueError(f"{name}: holds {len(image)} images, but a root is one frame; pick one (Pick Root).")
        if min(image.shape[1:3]) < 8:
            raise ValueError(f"{name}: is {size_of(image)}, smaller than one latent cell (8x8); use a larger image.")
        if not torch.isfinite(image).all():
            raise ValueError(f"{name}: holds NaN or infinite values; check the step that made it.")
    if source.shape[1:3] != edited.shape[1:3]:
        raise ValueError(f"root_edited: is {size_of(edited)}, but root_source {size_of(source)}; "
                         "both must show the same frame.")


def size_of(images: Tensor) -> str:
    """Width x height of an IMAGE."""
    return f"{images.shape[2]}x{images.shape[1]}"


def check_instruction(name: str, conditioning: Any) -> tuple[Tensor, dict[str, Any]]:
    """Text [1, tokens, C] of a CONDITIONING with one prompt, and what else it holds but an image.

    Raises:
        ValueError: several conditions, or several prompts.
    """
    if len(conditioning) != 1:
        raise ValueError(f"{name}: holds {len(conditioning)} conditions, but an adaptation learns one instruction; "
                         "connect one CLIPTextEncode.")
    text, extra = conditioning[0]
    if len(text) != 1:
        raise ValueError(f"{name}: holds {len(text)} prompts, but an adaptation learns one; give that of the root frame.")
    return text, {key: value for key, value in extra.items() if key != "concat_latent_image"}


def same_length(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two texts [1, tokens, C] repeated to one number of tokens; attention over repeated tokens is the same.

    Raises:
        ValueError: they come from different text encoders.
    """
    if first.shape[-1] != second.shape[-1]:
        raise ValueError(f"negative: has {second.shape[-1]} channels, but positive {first.shape[-1]}; "
                         "use the same CLIP for both.")
    tokens = math.lcm(first.shape[1], second.shape[1])
    return first.repeat(1, tokens // first.shape[1], 1), second.repeat(1, tokens // second.shape[1], 1)
