"""Attention to the keys of a few group frames: VIA's gather and swap, and Fairy's cross-frame form.

Queries, keys and values are projected, [branches * frames, tokens, heads * d] of any float
type, frames in order within each branch; keys may have another number of tokens than queries
(cross-attention). The result has the shape of the queries, before the output projection. The
softmax runs in float32. No form but the reference ever repeats a key: where all frames share
keys, the frames are folded into the length of the queries.
"""

from __future__ import annotations

from torch import Tensor

from ..frame_attention.log_sum_exp import available
from .portable import cross_frame_attention_portable
from .reference import cross_frame_attention_reference, gather_attention_reference, swap_attention_reference
from .sdpa import cross_frame_attention_sdpa, gather_attention_sdpa, swap_attention_sdpa

__all__ = [
    "cross_frame_attention",
    "cross_frame_attention_sdpa",
    "cross_frame_attention_portable",
    "cross_frame_attention_reference",
    "gather_attention",
    "gather_attention_sdpa",
    "gather_attention_reference",
    "swap_attention",
    "swap_attention_sdpa",
    "swap_attention_reference",
]


def gather_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, branches: int) -> Tensor:
    """VIA's gather (equation 7): frame i attends to the keys of frame max(i - 1, 0) only.

    Args:
        q: [branches * group, tokens, heads * d].
        k, v: [branches * group, keys, heads * d].

    Raises:
        ValueError: shapes do not fit.
    """
    _check(q, k, v, heads, branches)
    _check_own(q, k)
    return gather_attention_sdpa(q, k, v, heads, branches)


def swap_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, branches: int) -> Tensor:
    """VIA's swap (equation 9): every frame attends to the keys of all group frames, and to no others.

    Args:
        q: [branches * frames, tokens, heads * d].
        k, v: [branches * group, keys, heads * d].

    Raises:
        ValueError: shapes do not fit.
    """
    _check(q, k, v, heads, branches)
    return swap_attention_sdpa(q, k, v, heads, branches)


def cross_frame_attention(
    q: Tensor, k_own: Tensor, v_own: Tensor, k: Tensor, v: Tensor, heads: int, branches: int
) -> Tensor:
    """Cross-frame attention (VIA's equation 4, Fairy): every frame attends to its own keys and the group's.

    Args:
        q: [branches * frames, tokens, heads * d].
        k_own, v_own: [branches * frames, own keys, heads * d].
        k, v: [branches * group, keys, heads * d].

    Raises:
        ValueError: shapes do not fit.
    """
    _check(q, k_own, v_own, heads, branches)
    _check_own(q, k_own)
    _check(q, k, v, heads, branches)
    if available(q.device.type, q.dtype, q.shape[2] // heads):
        return cross_frame_attention_sdpa(q, k_own, v_own, k, v, heads, branches)
    return cross_frame_attention_portable(q, k_own, v_own, k, v, heads, branches)


def _check(q: Tensor, k: Tensor, v: Tensor, heads: int, branches: int) -> None:
    if k.shape != v.shape or k.ndim != 3 or q.ndim != 3 or q.shape[2] != k.shape[2]:
        raise ValueError(
            f"group attention: queries {tuple(q.shape)}, keys {tuple(k.shape)} and values {tuple(v.shape)} must be "
            "[branches * frames, tokens, channels], keys and values alike, all of the same channels."
        )
    if branches < 1 or q.shape[0] % branches or k.shape[0] % branches or not k.shape[0]:
        raise ValueError(
            f"group attention: batches of {q.shape[0]} queries and {k.shape[0]} keys do not hold {branches} branches."
        )
    if heads < 1 or q.shape[2] % heads:
        raise ValueError(f"group attention: {q.shape[2]} channels do not split into {heads} heads.")


def _check_own(q: Tensor, k: Tensor) -> None:
    if q.shape[0] != k.shape[0]:
        raise ValueError(f"group attention: {q.shape[0]} frames need keys of their own, but there are {k.shape[0]}.")
