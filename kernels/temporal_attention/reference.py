"""Attention over frames at every place of the feature map, written with explicit rearrangement."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor


def temporal_attention_reference(z: Tensor, wq: Tensor, wk: Tensor, wv: Tensor, heads: int, frames: int) -> Tensor:
    """softmax(Q K^T / sqrt d) V over the frames of each place, in float32.

    Shapes as in ``temporal_attention``.
    """
    wide = torch.float64 if z.dtype == torch.float64 else torch.float32
    sequence = rearrange(z.to(wide), "(branches frames) tokens c -> (branches tokens) frames c", frames=frames)

    def project(weight: Tensor) -> Tensor:
        projected = sequence @ weight.to(wide).T
        return rearrange(projected, "places frames (heads d) -> places heads frames d", heads=heads)

    q, k, v = project(wq), project(wk), project(wv)
    weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
    layout = "(branches tokens) heads frames d -> (branches frames) tokens (heads d)"
    return rearrange(weights @ v, layout, tokens=z.shape[1]).to(z.dtype)
