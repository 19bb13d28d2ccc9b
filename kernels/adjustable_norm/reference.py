"""DAPE's equation 2, term by term: a norm, and a pass of its own for each further term."""

from __future__ import annotations

import torch
from torch import Tensor


def adjustable_norm_reference(
    z: Tensor, weight: Tensor | None, bias: Tensor | None, gamma0: Tensor | None, groups: int, eps: float
) -> Tensor:
    """gamma Norm(z) + beta + gamma0 z in float32 (float64 for float64); see ``adjustable_norm``."""
    wide = torch.float64 if z.dtype == torch.float64 else torch.float32
    x = z.to(wide)
    if groups:
        grouped = x.reshape(x.shape[0], groups, -1)
        of_channels = (1, -1, *[1] * (x.ndim - 2))
    else:
        grouped, of_channels = x, (-1,)
    mean = grouped.mean(-1, keepdim=True)
    variance = (grouped - mean).square().mean(-1, keepdim=True)
    out = ((grouped - mean) / (variance + eps).sqrt()).reshape(x.shape)
    if weight is not None:
        out = weight.to(wide).reshape(of_channels) * out
    if bias is not None:
        out = out + bias.to(wide).reshape(of_channels)
    if gamma0 is not None:
        out = out + gamma0.to(wide).reshape(of_channels) * x
    return out.to(z.dtype)
