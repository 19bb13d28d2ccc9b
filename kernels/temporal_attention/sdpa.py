"""Attention over frames with the frames where they are: strided views instead of transposed copies."""

from __future__ import annotations

import torch
from einops import rearrange
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
        projected = linear(z, weight.to(z.dtype))
        layout = "(branches frames) places (heads d) -> branches (places heads) frames d"
        return rearrange(projected, layout, frames=frames, heads=heads)

    parts = zip(*(project(w).split(ROWS_AT_ONCE, dim=1) for w in (wq, wk, wv)), strict=True)
    mixed = [scaled_dot_product_attention(q, k, v) for q, k, v in parts]
    joined = mixed[0] if len(mixed) == 1 else torch.cat(mixed, dim=1)
    return rearrange(joined, "branches (places heads) frames d -> (branches frames) places (heads d)", heads=heads)
