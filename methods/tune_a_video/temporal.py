"""The temporal attention of Tune-A-Video."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear

from ...kernels.temporal_attention import temporal_attention
from ..attachment import Attachment, BlockSite, FrameLayout


class TemporalAttention(nn.Module):
    """z + Attention(LN(z), LN(z)) W_O + b over the frames of each place.

    As published: only the weight of the output projection starts at zero. Its bias starts
    like any linear layer's, so that the block begins as a small constant shift and not as
    the exact identity. The norm is frozen at its initial weight 1 and bias 0, and therefore
    needs no parameters.

    Args:
        channels: width of the tokens.
        heads: attention heads (the paper: 8).
        generator: source of the initial weights; the global one if None.
    """

    def __init__(self, channels: int, heads: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        bound = channels**-0.5

        def uniform(*shape: int) -> nn.Parameter:
            return nn.Parameter((torch.rand(*shape, generator=generator) * 2 - 1) * bound)

        self.heads = heads
        self.query, self.key, self.value = (uniform(channels, channels) for _ in range(3))
        self.out = nn.Parameter(torch.zeros(channels, channels))
        self.bias = uniform(channels)

    def forward(self, z: Tensor, layout: FrameLayout) -> Tensor:
        """Args: z [branches * frames, tokens, channels] of any float type. Returns the same."""
        normed = layer_norm(z, z.shape[-1:])
        query, key, value = (w.to(z.dtype) for w in (self.query, self.key, self.value))
        mixed = temporal_attention(normed, query, key, value, self.heads, layout.frames)
        return z + linear(mixed, self.out.to(z.dtype), self.bias.to(z.dtype))


def build_temporal_attention(sites: Iterable[BlockSite], *, seed: int = 0) -> Attachment:
    """Temporal attention after the feed-forward of every site, with initial weights from ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    sites = list(sites)
    modules = nn.ModuleDict({s.key: TemporalAttention(s.channels, s.heads, generator) for s in sites})
    return Attachment(
        method="temporal-attention",
        config={"seed": seed},
        modules=modules,
        sites=frozenset(site.path for site in sites),
        queries=("attn2.to_q",),
    )
