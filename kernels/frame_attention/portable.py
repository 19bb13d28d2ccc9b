"""Attention across frames by public operations only, one frame's keys at a time.

For devices on which the operators under SDPA do not exist. In training each frame is
computed again in backward, so that no more than one frame's keys are ever gathered.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from .log_sum_exp import join_heads, split_heads
from .reference import CLIPS, FRAMES, pool_tokens


def frame_attention_portable(
    q: Tensor, k: Tensor, v: Tensor, heads: int, frames: int, height: int, width: int, ratio: int
) -> Tensor:
    """Fine-coarse frame attention; see ``frame_attention``."""
    coarse = [rearrange(pool_tokens(x, height, width, ratio), CLIPS, frames=frames) for x in (k, v)]

    def keys(x: Tensor, i: int, which: int) -> Tensor:
        others = torch.cat([coarse[which][:, :i], coarse[which][:, i + 1 :]], dim=1)
        return torch.cat([x[:, i], rearrange(others, "branches frames tokens c -> branches (frames tokens) c")], dim=1)

    return _by_frame(q, k, v, heads, frames, keys)


def sparse_causal_attention_portable(q: Tensor, k: Tensor, v: Tensor, heads: int, frames: int) -> Tensor:
    """Sparse-causal attention; see ``sparse_causal_attention``."""

    def keys(x: Tensor, i: int, which: int) -> Tensor:
        # A set of keys named twice leaves the softmax as it is.
        return x[:, 0] if i < 2 else torch.cat([x[:, 0], x[:, i - 1]], dim=1)

    return _by_frame(q, k, v, heads, frames, keys)


def _by_frame(
    q: Tensor, k: Tensor, v: Tensor, heads: int, frames: int, keys: Callable[[Tensor, int, int], Tensor]
) -> Tensor:
    q_, k_, v_ = (rearrange(x, CLIPS, frames=frames) for x in (q, k, v))

    def frame(i: int) -> Tensor:
        sets = (q_[:, i], keys(k_, i, 0), keys(v_, i, 1))
        return join_heads(scaled_dot_product_attention(*(split_heads(x, heads) for x in sets)))

    training = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    rows = [checkpoint(frame, i, use_reentrant=False) if training else frame(i) for i in range(frames)]
    return rearrange(rows, FRAMES)
