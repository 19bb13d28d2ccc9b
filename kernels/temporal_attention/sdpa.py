"""Attention over frames with the frames where they are: strided views instead of transposed copies."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

# CUDA's attention kernels count batch entries in a grid dimension of 65535 at most.
ROWS_AT_ONCE = 32768


def temporal_attention_sdpa(z: Tensor, wq: Tensor, wk: Tensor, wv: Tensor, heads: int, frames: int) -> Tensor:
    """softmax(Q K^T / sqrt d) V over the frames of each place; see ``temporal_attention``.

    Places and heads together take the role of the heads in [branches, places * heads,
    frames, d], which is a view of [branches * frames, places, heads * d].
    """

    def project(weight: Tensor) -> Tensor:
        per_clip = linear(z, weight.to(z.dtype)).unflatten(0, (-1, frames))
        return per_clip.unflatten(-1, (heads, -1)).flatten(2, 3).transpose(1, 2)

    parts = zip(*(project(w).split(ROWS_AT_ONCE, dim=1) for w in (wq, wk, wv)), strict=True)
    mixed = [scaled_dot_product_attention(q, k, v).transpose(1, 2) for q, k, v in parts]
    joined = mixed[0] if len(mixed) == 1 else torch.cat(mixed, dim=2)
    return joined.reshape(*z.shape[:2], -1)
