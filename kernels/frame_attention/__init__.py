"""Self-attention across the frames of a clip: fine-coarse (EI2), sparse-causal (Tune-A-Video), latent-shift (SimDA),
full.

All take projected queries, keys and values [branches * frames, tokens, heads * d] of any
float type, frames in order within each branch, tokens row by row, and return the same
shape, before the output projection. The softmax runs in float32.
"""

from __future__ import annotations

from torch import Tensor

from .log_sum_exp import available
from .portable import frame_attention_portable, sparse_causal_attention_portable
from .reference import (
    frame_attention_reference,
    full_attention_reference,
    latent_shift_attention_reference,
    sparse_causal_attention_reference,
)
from .sdpa import (
    frame_attention_sdpa,
    full_attention_sdpa,
    latent_shift_attention_sdpa,
    sparse_causal_attention_sdpa,
)

__all__ = [
    "frame_attention",
    "frame_attention_sdpa",
    "frame_attention_portable",
    "frame_attention_reference",
    "full_attention",
    "full_attention_sdpa",
    "full_attention_reference",
    "latent_shift_attention",
    "latent_shift_attention_sdpa",
    "latent_shift_attention_reference",
    "sparse_causal_attention",
    "sparse_causal_attention_sdpa",
    "sparse_causal_attention_portable",
    "sparse_causal_attention_reference",
]


def frame_attention(
    q: Tensor, k: Tensor, v: Tensor, heads: int, frames: int, height: int, width: int, ratio: int
) -> Tensor:
    """Fine-coarse frame attention (EI2, equation 10).

    Frame i attends to its own height * width tokens and to the ratio x ratio average-pooled
    tokens of the other frames. Ratio 1 is full spatio-temporal attention, one frame is
    plain self-attention.

    Args:
        q, k, v: [branches * frames, height * width, heads * d].
        ratio: side of the pooling windows, 1 to the larger side of the map.

    Raises:
        ValueError: shapes do not fit, or ``ratio`` is larger than the map.
    """
    _check(q, k, v, heads, frames)
    _check_map(q, height, width)
    if not 1 <= ratio <= max(height, width):
        raise ValueError(
            f"ratio: {ratio} is larger than the feature map ({height} x {width}); "
            f"the largest allowed there is {max(height, width)}."
        )
    if frames == 1 or ratio == 1 or _log_sum_exp_available(q, heads):
        return frame_attention_sdpa(q, k, v, heads, frames, height, width, ratio)
    return frame_attention_portable(q, k, v, heads, frames, height, width, ratio)


def sparse_causal_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, frames: int) -> Tensor:
    """Sparse-causal attention (Tune-A-Video): keys and values of frame 0 and of frame max(i-1, 0).

        out_i = softmax(Q_i [K_0, K_max(i-1, 0)]^T / sqrt d) [V_0, V_max(i-1, 0)]

    Args:
        q, k, v: [branches * frames, tokens, heads * d] of any float type; the result has q's shape and type.

    Raises:
        ValueError: shapes do not fit.
    """
    _check(q, k, v, heads, frames)
    if _log_sum_exp_available(q, heads):
        return sparse_causal_attention_sdpa(q, k, v, heads, frames)
    return sparse_causal_attention_portable(q, k, v, heads, frames)


def latent_shift_attention(
    q: Tensor, k: Tensor, v: Tensor, heads: int, frames: int, height: int, width: int, own: bool = False
) -> Tensor:
    """Latent-shift attention (SimDA, equations 6 to 8): two frames' worth of keys, put together from several frames.

    shift(z)_i has, at the place (y, x), the token of frame i - SHIFTS[y mod 4][x mod 4], or of frame i where that is
    before the clip. Frame i attends to shift(z)_max(i-1, 0) and shift(z)_i. One frame is plain self-attention.

    The projections know no place, so that shifting what they projected equals projecting shifted tokens.

    Args:
        q, k, v: [branches * frames, height * width, heads * d].
        own: frame i attends to z_i and shift(z)_i instead.

    Raises:
        ValueError: shapes do not fit.
    """
    _check(q, k, v, heads, frames)
    _check_map(q, height, width)
    return latent_shift_attention_sdpa(q, k, v, heads, frames, height, width, own)


def full_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, frames: int) -> Tensor:
    """Full spatio-temporal attention: all tokens of all frames are keys.

        out_i = softmax(Q_i [K_0, .., K_n-1]^T / sqrt d) [V_0, .., V_n-1]

    Args:
        q, k, v: [branches * frames, tokens, heads * d] of any float type; the result has q's shape and type.

    Raises:
        ValueError: shapes do not fit.
    """
    _check(q, k, v, heads, frames)
    return full_attention_sdpa(q, k, v, heads, frames)


def _log_sum_exp_available(q: Tensor, heads: int) -> bool:
    return available(q.device.type, q.dtype, q.shape[2] // heads)


def _check_map(q: Tensor, height: int, width: int) -> None:
    if q.shape[1] != height * width:
        raise ValueError(f"frame attention: {q.shape[1]} tokens are not a map of {height} x {width}.")


def _check(q: Tensor, k: Tensor, v: Tensor, heads: int, frames: int) -> None:
    if not q.shape == k.shape == v.shape or q.ndim != 3:
        raise ValueError(
            f"frame attention: queries {tuple(q.shape)}, keys {tuple(k.shape)} and values {tuple(v.shape)} "
            "must share one shape [branches * frames, tokens, channels]."
        )
    if frames < 1 or q.shape[0] % frames:
        raise ValueError(f"frame attention: a batch of {q.shape[0]} does not hold whole clips of {frames} frames.")
    if heads < 1 or q.shape[2] % heads:
        raise ValueError(f"frame attention: {q.shape[2]} channels do not split into {heads} heads.")
