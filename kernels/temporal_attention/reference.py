"""Attention over frames at every place of the feature map, written with explicit rearrangement."""

from __future__ import annotations

import torch
from torch import Tensor


def temporal_attention_reference(z: Tensor, wq: Tensor, wk: Tensor, wv: Tensor, heads: int, frames: int) -> Tensor:
    """softmax(Q K^T / sqrt d) V over the frames of each place, in float32.

    Shapes as in ``temporal_attention``.
    """
    wide = torch.float64 if z.dtype == torch.float64 else torch.float32
    branches = z.shape[0] // frames
    # [b f, l, c] -> [b l, f, c]: a sequence of frames per place.
    sequence = z.to(wide).unflatten(0, (branches, frames)).transpose(1, 2).flatten(0, 1)

    def project(weight: Tensor) -> Tensor:
        return (sequence @ weight.to(wide).T).unflatten(-1, (heads, -1)).transpose(1, 2)

    q, k, v = project(wq), project(wk), project(wv)
    weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
    mixed = (weights @ v).transpose(1, 2).flatten(2)
    return mixed.unflatten(0, (branches, -1)).transpose(1, 2).flatten(0, 1).to(z.dtype)
