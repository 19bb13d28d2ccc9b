"""Attention across frames without a copy of keys per frame.

A softmax over a union of key sets is computed set by set and joined (``log_sum_exp.join``). Every
set is a view: the coarse tokens of all frames but one are a window of a ring that holds
them nearly twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

from .log_sum_exp import attend, attend_backward, folded, join, join_heads, split_heads, unfolded, wide_copy
from .reference import SHIFTS, pool_tokens

# The gradient of windows is made per frame before it is folded into the ring: so many frames at a time.
FRAMES_AT_ONCE = 8


def frame_attention_sdpa(
    q: Tensor, k: Tensor, v: Tensor, heads: int, frames: int, height: int, width: int, ratio: int
) -> Tensor:
    """Fine-coarse frame attention; see ``frame_attention``. Ratio 1 or one frame needs no joining."""
    if frames == 1 or ratio == 1:
        return full_attention_sdpa(q, k, v, heads, frames)
    coarse_k, coarse_v = (pool_tokens(x, height, width, ratio).contiguous() for x in (k, v))
    return _FineCoarse.apply(q.contiguous(), k.contiguous(), v.contiguous(), coarse_k, coarse_v, heads, frames)


def sparse_causal_attention_sdpa(q: Tensor, k: Tensor, v: Tensor, heads: int, frames: int) -> Tensor:
    """Sparse-causal attention; see ``sparse_causal_attention``."""
    return _SparseCausal.apply(q.contiguous(), k.contiguous(), v.contiguous(), heads, frames)


def latent_shift_attention_sdpa(
    q: Tensor, k: Tensor, v: Tensor, heads: int, frames: int, height: int, width: int, own: bool
) -> Tensor:
    """Latent-shift attention; see ``latent_shift_attention``. Keys and values of a frame are gathered at once."""
    # Numbers of tokens, reckoned where the host is: one copy to the device instead of ten small kernels.
    place, frame = torch.arange(height * width), torch.arange(frames)[:, None]
    shifts = torch.tensor(SHIFTS)[place // width % 4, place % width % 4]
    earlier = frame - shifts
    shifted = torch.where(earlier < 0, frame, earlier) * len(place) + place
    first = frame * len(place) + place if own else shifted[(frame[:, 0] - 1).clamp(min=0)]
    keys = torch.cat([first, shifted], dim=1).to(q.device)

    def gathered(x: Tensor) -> Tensor:
        clips = rearrange(x, "(branches frames) tokens c -> branches (frames tokens) c", frames=frames)
        return rearrange(clips[:, keys], "branches frames keys c -> (branches frames) keys c")

    sets = (split_heads(x, heads) for x in (q, gathered(k), gathered(v)))
    return join_heads(scaled_dot_product_attention(*sets))


def full_attention_sdpa(q: Tensor, k: Tensor, v: Tensor, heads: int, frames: int) -> Tensor:
    """Full spatio-temporal attention: the frames are folded into the length, no key is repeated."""
    clips = "(branches frames) tokens (heads d) -> branches heads (frames tokens) d"
    q_, k_, v_ = (rearrange(x, clips, frames=frames, heads=heads) for x in (q, k, v))
    out = scaled_dot_product_attention(q_, k_, v_)
    return rearrange(out, "branches heads (frames tokens) d -> (branches frames) tokens (heads d)", frames=frames)


class _Windows:
    """Frame i's view of the coarse tokens of all other frames.

    The ring repeats the coarse tokens, all but the last frame's; the frames after i and
    then those before it are one contiguous window: (i + 1) m .. (i + n) m.
    """

    def __init__(self, coarse: Tensor, heads: int, frames: int) -> None:
        """Args: coarse [branches * frames, m, channels]."""
        self.heads, self.frames = heads, frames
        self.tokens, self.channels = coarse.shape[1:]
        flat = coarse.reshape(-1, frames * self.tokens, self.channels)
        self.ring = torch.cat([flat, flat[:, : -self.tokens]], dim=1)

    def view(self, branch: int, start: int, stop: int) -> Tensor:
        """[frames start .. stop, heads, (n - 1) m, d], overlapping in memory, read only."""
        step, head = self.tokens * self.channels, self.channels // self.heads
        return self.ring.as_strided(
            (stop - start, self.heads, (self.frames - 1) * self.tokens, head),
            (step, head, self.channels, 1),
            self.ring.storage_offset() + branch * self.ring.stride(0) + (start + 1) * step,
        )

    def fold(self, gradient: Tensor, branch: int, start: int, into: Tensor) -> None:
        """Add the gradients of ``view``'s frames to ``into`` [branches, n m, channels]."""
        total = self.frames * self.tokens
        for i, rows in enumerate(join_heads(gradient), start=start):
            begin = (i + 1) * self.tokens
            into[branch, begin:] += rows[: total - begin]
            into[branch, : begin - self.tokens] += rows[total - begin :]


class _FineCoarse(torch.autograd.Function):
    """Own tokens joined with the other frames' coarse ones."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, coarse_k: Tensor, coarse_v: Tensor, heads: int, frames: int
    ) -> Tensor:
        queries, keys, values = (split_heads(x, heads) for x in (q, k, v))
        out, lse = attend(queries, keys, values)
        out, lse = wide_copy(out), lse.clone()
        ring_k, ring_v = _Windows(coarse_k, heads, frames), _Windows(coarse_v, heads, frames)
        for branch in range(q.shape[0] // frames):
            rows = slice(branch * frames, (branch + 1) * frames)
            others = ring_k.view(branch, 0, frames), ring_v.view(branch, 0, frames)
            join(out[rows], lse[rows], *attend(queries[rows], *others))
        result = join_heads(out.to(q.dtype))
        ctx.save_for_backward(q, k, v, coarse_k, coarse_v, result, lse)
        ctx.heads, ctx.frames = heads, frames
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, coarse_k, coarse_v, result, lse = ctx.saved_tensors
        heads, frames = ctx.heads, ctx.frames
        grad = grad.contiguous()  # a sum's gradient comes as one number with strides of zero
        queries, keys, values, out, slope = (split_heads(x, heads) for x in (q, k, v, result, grad))
        grad_q, grad_k, grad_v = attend_backward(slope, queries, keys, values, out, lse)
        grad_q = wide_copy(grad_q)
        ring_k, ring_v = _Windows(coarse_k, heads, frames), _Windows(coarse_v, heads, frames)
        shape = (q.shape[0] // frames, frames * coarse_k.shape[1], q.shape[2])
        coarse_grads = [torch.zeros(shape, device=q.device, dtype=grad_q.dtype) for _ in range(2)]
        for branch, start, stop in _chunks(shape[0], frames):
            rows = slice(branch * frames + start, branch * frames + stop)
            more_q, more_k, more_v = attend_backward(
                slope[rows],
                queries[rows],
                ring_k.view(branch, start, stop),
                ring_v.view(branch, start, stop),
                out[rows],
                lse[rows],
            )
            grad_q[rows] += more_q
            ring_k.fold(more_k, branch, start, coarse_grads[0])
            ring_v.fold(more_v, branch, start, coarse_grads[1])
        grads = [join_heads(x).to(q.dtype) for x in (grad_q, grad_k, grad_v)]
        return *grads, *(x.view_as(coarse_k).to(q.dtype) for x in coarse_grads), None, None


class _SparseCausal(torch.autograd.Function):
    """The first frame's tokens joined with those of the previous frame.

    A set of keys that is named twice leaves a softmax as it is, so that for frames 0 and 1,
    whose previous frame is the first, nothing is joined.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, frames: int) -> Tensor:
        queries, keys, values = (split_heads(x, heads) for x in (q, k, v))
        out = torch.empty_like(q, dtype=torch.promote_types(q.dtype, torch.float32))
        lse: Any = None
        for first, rows, _, _ in _branches(q.shape[0], frames):
            # The first frame's keys serve all queries of the branch: fold frames into the length.
            part, part_lse = attend(folded(q[rows], heads), keys[first], values[first])
            out[rows] = unfolded(part, frames)
            if lse is None:
                lse = part_lse.new_empty(q.shape[0], heads, q.shape[1])
            lse[rows] = rearrange(part_lse, "1 heads (frames tokens) -> frames heads tokens", frames=frames)
        wide = split_heads(out, heads)
        for _, _, later, previous in _branches(q.shape[0], frames):
            if frames > 2:
                join(wide[later], lse[later], *attend(queries[later], keys[previous], values[previous]))
        result = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, result, lse)
        ctx.heads, ctx.frames = heads, frames
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, result, lse = ctx.saved_tensors
        heads, frames = ctx.heads, ctx.frames
        grad = grad.contiguous()  # a sum's gradient comes as one number with strides of zero
        queries, keys, values, out, slope = (split_heads(x, heads) for x in (q, k, v, result, grad))
        wide = torch.promote_types(q.dtype, torch.float32)
        grads = [torch.zeros_like(q, dtype=wide) for _ in range(3)]
        grad_q, grad_k, grad_v = (split_heads(x, heads) for x in grads)
        for first, rows, later, previous in _branches(q.shape[0], frames):
            slope_all, q_all, out_all = (folded(x[rows], heads) for x in (grad, q, result))
            lse_all = rearrange(lse[rows], "frames heads tokens -> 1 heads (frames tokens)").contiguous()
            more = attend_backward(slope_all, q_all, keys[first], values[first], out_all, lse_all)
            grads[0][rows] += unfolded(more[0], frames)
            grad_k[first] += more[1]
            grad_v[first] += more[2]
            if frames > 2:
                more = attend_backward(
                    slope[later], queries[later], keys[previous], values[previous], out[later], lse[later]
                )
                grad_q[later] += more[0]
                grad_k[previous] += more[1]
                grad_v[previous] += more[2]
        return *(x.to(q.dtype) for x in grads), None, None


def _branches(batch: int, frames: int) -> Iterator[tuple[slice, slice, slice, slice]]:
    """Per branch the rows of its first frame, of all, of frames 2 .. n-1, and of their previous ones."""
    for start in range(0, batch, frames):
        stop = start + frames
        yield slice(start, start + 1), slice(start, stop), slice(start + 2, stop), slice(start + 1, stop - 1)


def _chunks(branches: int, frames: int) -> Iterator[tuple[int, int, int]]:
    """Branch, first and last frame (excluded) of each round of the backward pass."""
    for branch in range(branches):
        for start in range(0, frames, FRAMES_AT_ONCE):
            yield branch, start, min(start + FRAMES_AT_ONCE, frames)
