"""What AnyV2V takes over from the source, and for how long (section 4.3).

In its U-Net these are the features of one convolution and the queries and keys of spatial and of temporal
self-attention, of the decoder but its first third. A video transformer has none of these apart:

    convolution          the branch of the feed-forward
    spatial attention    logits of joint self-attention between tokens of one frame
    temporal attention   logits between tokens of different frames
    the decoder          the second half of the blocks
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


@dataclass(frozen=True)
class Injection:
    """Shares of the steps in which each is taken over; the defaults are the authors'.

    Args:
        features: of the convolution's, f.
        spatial, temporal: of the queries and keys.
        skipped: steps at the beginning that are left out: sampling starts from the source's x at that level.

    Raises:
        ValueError: a share outside of 0 to 1, or fewer than no steps.
    """

    features: float = 0.2
    spatial: float = 0.2
    temporal: float = 0.5
    skipped: int = 1

    def __post_init__(self) -> None:
        for name in ("features", "spatial", "temporal"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a share of the steps from 0 to 1, but got {getattr(self, name)}.")
        if self.skipped < 0:
            raise ValueError(f"skipped: expected 0 steps or more, but got {self.skipped}.")

    def at(self, step: int, steps: int) -> dict[str, bool]:
        """Which of the three are taken over in step ``step`` (0 the first) of ``steps``."""
        return {name: step < int(getattr(self, name) * steps) for name in ("features", "spatial", "temporal")}


@dataclass
class Features:
    """What is kept of the source's call, by block: queries and keys [1, tokens, heads, head_dim], branches of the
    feed-forward [1, tokens, channels]."""

    queries: dict[int, Tensor] = field(default_factory=dict)
    keys: dict[int, Tensor] = field(default_factory=dict)
    branches: dict[int, Tensor] = field(default_factory=dict)


def injected_blocks(count: int) -> tuple[int, range]:
    """Of a network of ``count`` blocks, the one whose branch is taken over and those whose queries and keys are.

    The authors' decoder has 12 attentions; features are those before the fifth, attention is injected from there on.
    """
    first = count // 2 + (count - count // 2) // 3
    return first, range(first, count)


def injected_attention(q: Tensor, k: Tensor, v: Tensor, source_q: Tensor, source_k: Tensor, frames: int,
                       spatial: bool, temporal: bool) -> Tensor:
    """softmax(L / sqrt(d)) v, L_ij = q_i k_j or the source's, by whether i and j are tokens of one frame.

    Args:
        q, k, v, source_q, source_k: [1, frames * tokens of a frame, heads, head_dim].
        spatial: the source's logits within a frame.
        temporal: the source's logits between frames.

    Returns:
        like ``v``.
    """
    own, theirs, values = ([x.transpose(1, 2) for x in group] for group in ((q, k), (source_q, source_k), (v,)))
    if spatial == temporal:
        queries, keys = theirs if spatial else own
        return scaled_dot_product_attention(queries, keys, values[0]).transpose(1, 2)
    frame = torch.arange(frames, device=q.device).repeat_interleave(q.shape[1] // frames)
    from_source = (frame[:, None] == frame) == spatial
    logits = torch.where(from_source, theirs[0] @ theirs[1].mT, own[0] @ own[1].mT) * q.shape[-1] ** -0.5
    return (logits.softmax(-1) @ values[0]).transpose(1, 2)
