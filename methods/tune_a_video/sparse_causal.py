"""Sparse-causal attention, and the full spatio-temporal attention that it approximates."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from ...kernels.frame_attention import full_attention, sparse_causal_attention
from ..attachment import Attachment, BlockSite, FrameLayout

QUERIES = ("attn1.to_q", "attn2.to_q")


def sparse_causal_mixing(q: Tensor, k: Tensor, v: Tensor, heads: int, layout: FrameLayout) -> Tensor:
    """Keys and values of frame 0 and of frame max(i-1, 0); see ``sparse_causal_attention``."""
    return sparse_causal_attention(q, k, v, heads, layout.frames)


def full_mixing(q: Tensor, k: Tensor, v: Tensor, heads: int, layout: FrameLayout) -> Tensor:
    """Keys and values of all frames; see ``full_attention``."""
    return full_attention(q, k, v, heads, layout.frames)


def build_sparse_causal(sites: Iterable[BlockSite]) -> Attachment:
    """Tune-A-Video's self-attention in every block, with the pretrained weights."""
    return Attachment(
        method="sparse-causal",
        mixing=sparse_causal_mixing,
        sites=frozenset(site.path for site in sites),
        queries=QUERIES,
    )


def build_full_attention(sites: Iterable[BlockSite]) -> Attachment:
    """Full spatio-temporal attention in every block: the costly ideal, for comparison."""
    return Attachment(
        method="full-attention",
        mixing=full_mixing,
        sites=frozenset(site.path for site in sites),
        queries=QUERIES,
    )
