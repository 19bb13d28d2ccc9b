"""Attention across frames, written as the papers do: every frame gets its own list of keys."""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn.functional import avg_pool2d

#: a batch as clips, and the frames' tokens of all clips as a batch
CLIPS = "(branches frames) tokens c -> branches frames tokens c"
FRAMES = "frames branches tokens c -> (branches frames) tokens c"


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """softmax(Q K^T / sqrt d) V with ``heads`` heads, in float32.

    Args:
        q: [batch, queries, heads * d].
        k, v: [batch, keys, heads * d].
    """

    def split(x: Tensor) -> Tensor:
        wide = x if x.dtype == torch.float64 else x.float()
        return rearrange(wide, "batch tokens (heads d) -> batch heads tokens d", heads=heads)

    queries, keys, values = split(q), split(k), split(v)
    scores = queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5
    out = scores.softmax(-1) @ values
    return rearrange(out, "batch heads queries d -> batch queries (heads d)").to(q.dtype)


def pool_tokens(x: Tensor, height: int, width: int, ratio: int) -> Tensor:
    """Average ratio x ratio windows of a token map.

    A map that the ratio does not divide keeps its rest: windows at the far edges average
    the tokens that they have.

    Args:
        x: [batch, height * width, channels].

    Returns:
        [batch, ceil(height / ratio) * ceil(width / ratio), channels].
    """
    feature_map = rearrange(x, "batch (height width) c -> batch c height width", height=height, width=width)
    pooled = avg_pool2d(feature_map, ratio, ceil_mode=True)
    return rearrange(pooled, "batch c height width -> batch (height width) c")


def frame_attention_reference(
    q: Tensor, k: Tensor, v: Tensor, heads: int, frames: int, height: int, width: int, ratio: int
) -> Tensor:
    """EI2 equation 10: frame i attends to its own tokens and to pooled ones of the others.

    FFAM(z_i) = Attention(z_i, concat[z_i, {downsample(z_j, r)} for j != i])

    The projections of keys and values have no bias, so pooling what they projected equals
    projecting pooled tokens. Shapes as in ``frame_attention``.
    """
    def fine_and_coarse(x: Tensor) -> Tensor:
        fine, coarse = (rearrange(y, CLIPS, frames=frames) for y in (x, pool_tokens(x, height, width, ratio)))
        rows = []
        for i in range(frames):
            others = [coarse[:, j] for j in range(frames) if j != i]
            rows.append(torch.cat([fine[:, i], *others], dim=1))
        return rearrange(rows, FRAMES)

    return attention(q, fine_and_coarse(k), fine_and_coarse(v), heads)


def sparse_causal_attention_reference(q: Tensor, k: Tensor, v: Tensor, heads: int, frames: int) -> Tensor:
    """Tune-A-Video: frame i attends to concat[z_0, z_max(i-1, 0)], not to itself."""
    def first_and_previous(x: Tensor) -> Tensor:
        per_frame = rearrange(x, CLIPS, frames=frames)
        rows = [torch.cat([per_frame[:, 0], per_frame[:, max(i - 1, 0)]], dim=1) for i in range(frames)]
        return rearrange(rows, FRAMES)

    return attention(q, first_and_previous(k), first_and_previous(v), heads)


#: Frames by which a token comes late, by its row and column in windows of 4 x 4 (the authors' code).
SHIFTS = ((4, 3, 2, 1), (3, 2, 1, 0), (2, 1, 0, 0), (1, 2, 3, 4))


def latent_shift_attention_reference(
    q: Tensor, k: Tensor, v: Tensor, heads: int, frames: int, height: int, width: int, own: bool
) -> Tensor:
    """SimDA: frame i attends to concat[z_i, shift(z)_i] (``own``) or to concat[shift(z)_max(i-1, 0), shift(z)_i].

    shift(z)_i has, at every place, the token of frame i - s, or of frame i where that is before the clip.
    """
    def shifted(per_frame: Tensor, i: int) -> Tensor:
        tokens = []
        for place in range(height * width):
            earlier = i - SHIFTS[place // width % 4][place % width % 4]
            tokens.append(per_frame[:, earlier if earlier >= 0 else i, place])
        return torch.stack(tokens, dim=1)

    def both(x: Tensor) -> Tensor:
        per_frame = rearrange(x, CLIPS, frames=frames)
        rows = [torch.cat([per_frame[:, i] if own else shifted(per_frame, max(i - 1, 0)), shifted(per_frame, i)], dim=1)
                for i in range(frames)]  # fmt: skip
        return rearrange(rows, FRAMES)

    return attention(q, both(k), both(v), heads)


def full_attention_reference(q: Tensor, k: Tensor, v: Tensor, heads: int, frames: int) -> Tensor:
    """Full spatio-temporal attention: every frame attends to all tokens of all frames."""
    def all_frames(x: Tensor) -> Tensor:
        joined = rearrange(x, "(branches frames) tokens c -> branches (frames tokens) c", frames=frames)
        return repeat(joined, "branches keys c -> (branches frames) keys c", frames=frames)

    return attention(q, all_frames(k), all_frames(v), heads)
