"""What the root frame's steps ask of their inputs, told in one sentence each."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..finite import check_finite
from ..prompts import check_every_level
from .editor_clip import NOT_READ, REFERENCES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ...backends.protocol import UNetHost


def check_editor(backend: UNetHost, model: Any) -> None:
    """Raise TypeError unless the MODEL predicts noise from an image beside it."""
    backend.schedule(model)
    if not backend.takes_image(model):
        raise TypeError("model: takes no image beside the noise; load an InstructPix2Pix checkpoint.")


def check_root(source: Tensor, edited: Tensor) -> None:
    """Raise ValueError unless both are one image of the same size, at least one latent cell large."""
    for name, image in (("root_source", source), ("root_edited", edited)):
        if len(image) != 1:
            raise ValueError(f"{name}: holds {len(image)} images, but a root is one frame; pick one (Pick Root).")
        if min(image.shape[1:3]) < 8:
            raise ValueError(f"{name}: is {size_of(image)}, smaller than one latent cell (8x8); use a larger image.")
        check_finite(name, image)
    if source.shape[1:3] != edited.shape[1:3]:
        raise ValueError(f"root_edited: is {size_of(edited)}, but root_source {size_of(source)}; "
                         "both must show the same frame.")


def size_of(images: Tensor) -> str:
    """Width x height of an IMAGE."""
    return f"{images.shape[2]}x{images.shape[1]}"


def check_instruction(name: str, conditioning: Any) -> tuple[Tensor, dict[str, Any]]:
    """Text [1, tokens, C] of a CONDITIONING with one prompt, and what else it holds but an image.

    Raises:
        ValueError: several conditions, several prompts, or one that is at work on a part of the noise levels alone.
    """
    if len(conditioning) != 1:
        raise ValueError(f"{name}: holds {len(conditioning)} conditions, but an adaptation learns one instruction; "
                         "connect one CLIPTextEncode.")
    check_every_level(name, conditioning)
    text, extra = conditioning[0]
    if extra.get(REFERENCES):
        raise ValueError(NOT_READ.format(name))
    if len(text) != 1:
        raise ValueError(f"{name}: holds {len(text)} prompts, but an adaptation learns one; give the root's.")
    return text, {key: value for key, value in extra.items() if key != "concat_latent_image"}


def same_length(texts: Sequence[Tensor]) -> list[Tensor]:
    """Texts [1, tokens, C] repeated to one number of tokens; attention over repeated tokens is the same.

    Raises:
        ValueError: they come from different text encoders.
    """
    widths = {text.shape[-1] for text in texts}
    if len(widths) > 1:
        raise ValueError(f"conditioning: prompts of {' and '.join(map(str, sorted(widths)))} channels do not fit "
                         "together; use the same CLIP for all.")
    tokens = math.lcm(*(text.shape[1] for text in texts))
    return [text.repeat(1, tokens // text.shape[1], 1) for text in texts]


def whole_cells(images: Tensor) -> Tensor:
    """What a VAE of 8 pixels a cell keeps of an IMAGE: the middle, as the host's VAE crops it.

    Raises:
        ValueError: nothing is left.
    """
    sides = [side // 8 * 8 for side in images.shape[1:3]]
    if not all(sides):
        raise ValueError(f"images: are {size_of(images)}, smaller than one latent cell (8x8); use larger ones.")
    top, left = ((side - kept) // 2 for side, kept in zip(images.shape[1:3], sides))
    return images[:, top : top + sides[0], left : left + sides[1]]


def check_candidates(candidates: Tensor, source: Tensor, index: int) -> None:
    """Raise ValueError unless the candidates are edits of the one source frame and ``index`` (from 1) is among them."""
    if len(source) != 1:
        raise ValueError(f"source_frame: holds {len(source)} images; connect the one from Root Candidates.")
    if candidates.shape[1:3] != source.shape[1:3]:
        raise ValueError(f"candidates: are {size_of(candidates)}, but source_frame is {size_of(source)}; "
                         "connect both from the same Root Candidates.")
    if index > len(candidates):
        raise ValueError(f"index: {index}, but there are {len(candidates)} candidates; use 1 to {len(candidates)}, "
                         "or 0 to choose automatically.")
