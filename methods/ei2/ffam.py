"""FFAM: the fine-coarse frame attention of EI2 (section 4.4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...kernels.frame_attention import frame_attention
from ..attachment import BLOCKS, Attachment, BlockSite, FrameLayout

QUERIES = ("attn1.to_q", "attn2.to_q")


@dataclass(frozen=True)
class FineCoarseMixing:
    """Self-attention in which frame i sees its own tokens and the others' r x r averages.

    A U-Net's deep maps may be smaller than ``ratio`` (2 x 2 at the bottom of a small
    picture): there the whole map is averaged. A ratio beyond the latent itself is a
    mistake, which ``check_ratio`` tells before a run.
    """

    ratio: int

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, heads: int, layout: FrameLayout) -> Tensor:
        ratio = min(self.ratio, max(layout.height, layout.width))
        return frame_attention(q, k, v, heads, layout.frames, layout.height, layout.width, ratio)


def build_ffam(sites: Iterable[BlockSite], *, ratio: int = 2, blocks: str = "all") -> Attachment:
    """Fine-coarse attention in place of self-attention, with the self-attention's weights.

    Args:
        sites: all blocks of the U-Net.
        ratio: r of equation 10; the paper uses 2 or 4. 1 is full spatio-temporal attention.
        blocks: "all", "down", "middle" or "up".

    Raises:
        ValueError: ``ratio`` below 1, or an unknown ``blocks``.
    """
    if ratio < 1:
        raise ValueError(f"ratio: expected 1 or more, but got {ratio}.")
    if blocks not in BLOCKS:
        raise ValueError(f"blocks: expected one of {', '.join(BLOCKS)}, but got {blocks!r}.")
    return Attachment(
        method="ffam",
        config={"ratio": ratio, "blocks": blocks},
        mixing=FineCoarseMixing(ratio),
        sites=frozenset(site.path for site in sites if site.stage in BLOCKS[blocks]),
        queries=QUERIES,
    )


def check_ratio(config: Mapping[str, Any], height: int, width: int) -> None:
    """Refuse a ratio that is larger than the U-Net's largest feature map, the latent itself.

    Raises:
        ValueError: it names the ratio, the map and the largest ratio allowed.
    """
    if config["ratio"] > max(height, width):
        raise ValueError(f"ratio: {config['ratio']} is larger than the largest feature map ({height} x {width}); "
                         f"use {max(height, width)} or less.")
