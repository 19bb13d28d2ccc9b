"""SimDA's three parts as one attachment."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...kernels.frame_attention import latent_shift_attention
from ..attachment import Attachment, BlockSite, FrameLayout
from .adapters import SpatialAdapter, TemporalAdapter

#: What a frame attends to: its previous frame and itself, both shifted (the authors' code), or itself and itself
#: shifted (equations 7 and 8).
KEYS = ("official", "equation")


@dataclass(frozen=True)
class LatentShift:
    """``FrameMixing`` by latent-shift attention.

    Args:
        own: as equations 7 and 8 have it, see ``latent_shift_attention``.
    """

    own: bool

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, heads: int, layout: FrameLayout) -> Tensor:
        return latent_shift_attention(q, k, v, heads, layout.frames, layout.height, layout.width, self.own)


def build_simda(sites: Iterable[BlockSite], *, keys: str = "official", seed: int = 0) -> Attachment:
    """Latent-shift attention and spatial adapters in every block, a temporal adapter before every transformer.

    The adapters start as the identity, the attention cannot: it has no weights, and its keys come from other frames.

    Args:
        keys: see ``KEYS``.
        seed: of the initial weights.

    Raises:
        ValueError: other keys.
    """
    if keys not in KEYS:
        raise ValueError(f"keys: expected one of {', '.join(KEYS)}, but got {keys!r}.")
    sites, generator = list(sites), torch.Generator().manual_seed(seed)
    outputs, inputs = nn.ModuleDict(), nn.ModuleDict()
    for site in sites:
        if site.transformer_key not in inputs:
            inputs[site.transformer_key] = TemporalAdapter(site.channels, generator)
        for part in ("attn1", "ff"):
            outputs[f"{site.key}/{part}"] = SpatialAdapter(site.channels, part == "ff", generator)
    return Attachment(
        method="simda",
        config={"keys": keys, "seed": seed},
        mixing=LatentShift(own=keys == "equation"),
        outputs=outputs,
        inputs=inputs,
        sites=frozenset(site.path for site in sites),
    )
