"""Attention to group frames, written as the paper does: every frame gets its own list of keys."""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from torch import Tensor

from ..frame_attention.reference import attention


def gather_attention_reference(q: Tensor, k: Tensor, v: Tensor, heads: int, branches: int) -> Tensor:
    """VIA, equation 7: phi_i = softmax(Q_i K_prev^T / sqrt d) V_prev, the first frame with its own K, V."""

    def previous(x: Tensor) -> Tensor:
        group = rearrange(x, "(branches group) keys c -> group branches keys c", branches=branches)
        rows = [group[max(i - 1, 0)] for i in range(len(group))]
        return rearrange(rows, "group branches keys c -> (branches group) keys c")

    return attention(q, previous(k), previous(v), heads)


def swap_attention_reference(q: Tensor, k: Tensor, v: Tensor, heads: int, branches: int) -> Tensor:
    """VIA, equations 8 and 9: phi_i = softmax(Q_i K_group^T / sqrt d) V_group, K_group = [K_1, .., K_g]."""
    frames = q.shape[0] // branches
    return attention(q, _per_frame(k, branches, frames), _per_frame(v, branches, frames), heads)


def cross_frame_attention_reference(
    q: Tensor, k_own: Tensor, v_own: Tensor, k: Tensor, v: Tensor, heads: int, branches: int
) -> Tensor:
    """VIA, equation 4 (Fairy): softmax(Q_i [K_i, K_group]^T / sqrt d) [V_i, V_group]."""
    frames = q.shape[0] // branches
    keys = torch.cat([k_own, _per_frame(k, branches, frames)], dim=1)
    values = torch.cat([v_own, _per_frame(v, branches, frames)], dim=1)
    return attention(q, keys, values, heads)


def _per_frame(x: Tensor, branches: int, frames: int) -> Tensor:
    """The group's tokens in a row, once for every frame: [branches * frames, group * keys, channels]."""
    group = rearrange(x, "(branches group) keys c -> branches (group keys) c", branches=branches)
    return repeat(group, "branches keys c -> (branches frames) keys c", frames=frames)
