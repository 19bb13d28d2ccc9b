"""Attention to group frames without a copy of any key.

Keys that serve many frames are read once: softmax rows do not know of each other, so that
frames are folded into the length of the queries. Own and group keys of the cross-frame form
are two sets, attended apart and joined by their log-sum-exp (``frame_attention.log_sum_exp``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

from ..frame_attention.log_sum_exp import (
    attend,
    attend_backward,
    folded,
    join,
    join_heads,
    split_heads,
    unfolded,
    wide_copy,
)


def swap_attention_sdpa(q: Tensor, k: Tensor, v: Tensor, heads: int, branches: int) -> Tensor:
    """All group keys for every frame; see ``swap_attention``."""
    clips = "(branches frames) tokens c -> branches (frames tokens) c"
    q_, k_, v_ = (rearrange(x, clips, branches=branches) for x in (q, k, v))
    return _attend(q_, k_, v_, heads).reshape(q.shape)


def gather_attention_sdpa(q: Tensor, k: Tensor, v: Tensor, heads: int, branches: int) -> Tensor:
    """The preceding frame's keys; see ``gather_attention``. Frames 0 and 1 share those of frame 0."""
    rows = []
    for q_, k_, v_ in zip(*(x.chunk(branches) for x in (q, k, v)), strict=True):
        rows.append(swap_attention_sdpa(q_[:2], k_[:1], v_[:1], heads, 1))
        if len(q_) > 2:
            rows.append(_attend(q_[2:], k_[1:-1], v_[1:-1], heads))
    return torch.cat(rows)


def cross_frame_attention_sdpa(
    q: Tensor, k_own: Tensor, v_own: Tensor, k: Tensor, v: Tensor, heads: int, branches: int
) -> Tensor:
    """Own keys joined with the group's; see ``cross_frame_attention``."""
    return _OwnAndGroup.apply(*(x.contiguous() for x in (q, k_own, v_own, k, v)), heads, branches)


def _attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Plain attention, [batch, tokens, heads * d]."""
    return join_heads(scaled_dot_product_attention(*(split_heads(x, heads) for x in (q, k, v))))


class _OwnAndGroup(torch.autograd.Function):
    """Each frame's own tokens joined with those of the group."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k_own: Tensor, v_own: Tensor, k: Tensor, v: Tensor, heads: int, branches: int
    ) -> Tensor:
        out, lse = attend(*(split_heads(x, heads) for x in (q, k_own, v_own)))
        out, lse = wide_copy(out), lse.clone()
        for rows, group in _rows(q, k, branches):
            more, lse_more = attend(folded(q[rows], heads), folded(k[group], heads), folded(v[group], heads))
            join(out[rows], lse[rows], _per_frame(more, len(q[rows])), _per_frame(lse_more, len(q[rows])))
        result = join_heads(out.to(q.dtype))
        ctx.save_for_backward(q, k_own, v_own, k, v, result, lse)
        ctx.heads, ctx.branches = heads, branches
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k_own, v_own, k, v, result, lse = ctx.saved_tensors
        heads = ctx.heads
        grad = grad.contiguous()  # a sum's gradient comes as one number with strides of zero
        slope, queries, keys, values, out = (split_heads(x, heads) for x in (grad, q, k_own, v_own, result))
        grad_q, grad_own_k, grad_own_v = attend_backward(slope, queries, keys, values, out, lse)
        grad_q = wide_copy(grad_q)
        grad_k, grad_v = torch.empty_like(k), torch.empty_like(v)
        for rows, group in _rows(q, k, ctx.branches):
            slope, queries, out = (folded(x[rows], heads) for x in (grad, q, result))
            keys, values = folded(k[group], heads), folded(v[group], heads)
            denominator = rearrange(lse[rows], "frames heads tokens -> 1 heads (frames tokens)").contiguous()
            more_q, more_k, more_v = attend_backward(slope, queries, keys, values, out, denominator)
            grad_q[rows] += _per_frame(more_q, len(q[rows]))
            grad_k[group] = unfolded(more_k, len(k[group]))
            grad_v[group] = unfolded(more_v, len(v[group]))
        grads = (join_heads(x).to(q.dtype) for x in (grad_q, grad_own_k, grad_own_v))
        return *grads, grad_k, grad_v, None, None


def _per_frame(x: Tensor, frames: int) -> Tensor:
    """[1, heads, frames * tokens, ...] -> [frames, heads, tokens, ...], a view."""
    return rearrange(x, "1 heads (frames tokens) ... -> frames heads tokens ...", frames=frames)


def _rows(q: Tensor, k: Tensor, branches: int) -> Iterator[tuple[slice, slice]]:
    """Per branch the rows of its frames and those of its group."""
    frames, group = q.shape[0] // branches, k.shape[0] // branches
    for i in range(branches):
        yield slice(i * frames, (i + 1) * frames), slice(i * group, (i + 1) * group)
