"""Attention over the frames of a clip, at each place of the feature map."""

from __future__ import annotations

from torch import Tensor

from .reference import temporal_attention_reference
from .sdpa import temporal_attention_sdpa

__all__ = ["temporal_attention", "temporal_attention_sdpa", "temporal_attention_reference"]


def temporal_attention(z: Tensor, wq: Tensor, wk: Tensor, wv: Tensor, heads: int, frames: int) -> Tensor:
    """Project, then softmax(Q K^T / sqrt d) V over frames, for each place apart.

    Args:
        z: [branches * frames, tokens, channels], frames in order within each branch.
        wq, wk, wv: [heads * d, channels], applied as x W^T, no bias.
        heads: heads of the attention.
        frames: frames per branch.

    Returns:
        [branches * frames, tokens, heads * d] in the type of ``z``; the softmax is float32.

    Raises:
        ValueError: shapes do not fit.
    """
    if z.ndim != 3 or frames < 1 or z.shape[0] % frames:
        raise ValueError(
            f"temporal attention: {tuple(z.shape)} is not [branches * frames, tokens, channels] with {frames} frames."
        )
    if heads < 1 or wq.shape[0] % heads:
        raise ValueError(f"temporal attention: {wq.shape[0]} channels do not split into {heads} heads.")
    return temporal_attention_sdpa(z, wq, wk, wv, heads, frames)
