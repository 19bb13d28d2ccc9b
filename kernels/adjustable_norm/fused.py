"""The adjustable norm over torch's own norm."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import group_norm, layer_norm


def adjustable_norm_fused(
    z: Tensor, weight: Tensor | None, bias: Tensor | None, gamma0: Tensor | None, groups: int, eps: float
) -> Tensor:
    """See ``adjustable_norm``."""
    wide = torch.float64 if z.dtype == torch.float64 else torch.float32
    x = z.to(wide)
    weight, bias = (None if t is None else t.to(wide) for t in (weight, bias))
    out = group_norm(x, groups, weight, bias, eps) if groups else layer_norm(x, x.shape[-1:], weight, bias, eps)
    if gamma0 is not None:
        shape = (1, -1, *[1] * (z.ndim - 2)) if groups else (-1,)
        out = out.addcmul(gamma0.to(wide).reshape(shape), x)
    return out.to(z.dtype)
