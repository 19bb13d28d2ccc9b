"""Cross-frame attention by public operations only, one frame's keys at a time.

For devices on which the operators under SDPA do not exist. In training each frame is
computed again in backward, so that no more than one frame's keys are ever gathered.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .sdpa import swap_attention_sdpa


def cross_frame_attention_portable(
    q: Tensor, k_own: Tensor, v_own: Tensor, k: Tensor, v: Tensor, heads: int, branches: int
) -> Tensor:
    """Own keys and the group's in one softmax; see ``cross_frame_attention``."""
    group = "(branches group) keys c -> branches (group keys) c"
    k_, v_ = (rearrange(x, group, branches=branches) for x in (k, v))
    frames = q.shape[0] // branches

    def frame(i: int) -> Tensor:
        keys = torch.cat([k_own[i], k_[i // frames]])[None]
        values = torch.cat([v_own[i], v_[i // frames]])[None]
        return swap_attention_sdpa(q[i : i + 1], keys, values, heads, 1)

    training = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k_own, v_own, k, v))
    return torch.cat([checkpoint(frame, i, use_reentrant=False) if training else frame(i) for i in range(len(q))])
