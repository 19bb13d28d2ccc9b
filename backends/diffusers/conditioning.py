"""CONDITIONING of the host's format as the text that a U-Net's cross-attention reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
